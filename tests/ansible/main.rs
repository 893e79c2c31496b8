//! The Ansible role on hosts that run systemd: what its first run makes, that its second changes nothing, what a changed
//! file and a broken one do.
//!
//! A host is a set of namespaces on this machine with the machine's own disk under a layer in memory (`boot`); Ansible,
//! of the versions in `requirements.txt`, reaches it by a connection plugin of its own (`connection/namespace.py`). Needs
//! root. Where it cannot run, the test says why and passes, unless `WEFT_NETNS=require`.

mod controller;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use controller::Controller;
use host::{Hosts, Init};

/// The agent under test.
const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// Agents in debug builds on two busy cores join within a second or two; this is for a machine that does much else.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

const HELLO: &str = "[[service]]\nname = \"hello\"\nport = 8080\n";
const CACHE: &str = "{\"service\": {\"name\": \"cache\", \"port\": 6379, \"tags\": [\"primary\"]}}\n";
const BROKEN: &str = "[[service]]\nname = \"hello\"\nprot = 8080\n";

#[test]
fn hosts_are_installed_enrolled_reloaded_and_kept_from_broken_files() {
    let Some(mut hosts) = Hosts::raise(&[("web-01", Init::Systemd), ("web-02", Init::Systemd), ("box-03", Init::None)])
    else {
        return;
    };
    let controller = match Controller::prepare(hosts.folder()) {
        Ok(controller) => controller,
        Err(reason) => return host::cannot_run(&reason),
    };
    let mut inventory = Inventory::of(&hosts);
    inventory.set("web-02", "weft_service_files", json!({ "hello.toml": HELLO }));
    let (url, checksum) = hosts.offer_binary("box-03", Path::new(WEFT));
    inventory.set("box-03", "weft_binary_src", json!(""));
    inventory.set("box-03", "weft_binary_url", json!(url));
    inventory.set("box-03", "weft_binary_checksum", json!(checksum));
    let play = |inventory: &Inventory, arguments: &[&str]| {
        let start = Instant::now();
        let played = controller.play(&inventory.text(), arguments);
        eprintln!("ansible-playbook {arguments:?} took {:.1} s: {:?}", start.elapsed().as_secs_f32(), played.recap);
        played
    };

    // Nothing is there; looking changes nothing.
    let checked = play(&inventory, &["--check", "--limit", "web-01", "-e", "weft_found_ca=true"]);
    checked.expect_ok();
    assert!(checked.changed("web-01") > 0, "{}", checked.printed);
    let there = "ls -Ad /usr/bin/weft /usr/bin/.weft* /etc/weft /var/lib/weft /usr/lib/weft; getent passwd weft";
    assert_eq!(hosts.run("web-01", there).stdout, "", "{}", checked.printed);

    let first = play(&inventory, &["-e", "weft_found_ca=true"]);
    first.expect_ok();
    hosts.start_agent_by_hand("box-03");
    assert_members(&hosts);
    assert_files_and_units(&hosts);
    wait(&hosts, "web-01", "weft services", &["hello", "web-02", "passing"]);

    let second = play(&inventory, &[]);
    second.expect_ok();
    for name in hosts.names() {
        assert_eq!(second.changed(name), 0, "{name}: {}", second.printed);
    }

    // Files that a reload takes over; a key that needs a restart.
    let before = Pids::of(&hosts);
    inventory.set("web-01", "weft_service_files", json!({ "cache.json": CACHE }));
    inventory.set("web-01", "weft_zone", json!("a"));
    inventory.set("web-02", "weft_config", json!({ "log": { "format": "json" } }));
    inventory.set("web-02", "weft_service_files", json!({ "hello.toml": null }));
    inventory.set("box-03", "weft_service_files", json!({ "hello.toml": HELLO }));
    inventory.set("box-03", "weft_reload_command", json!("pkill -HUP -x weft"));
    let third = play(&inventory, &[]);
    third.expect_ok();
    assert_eq!(
        hosts.main_pid("web-01"),
        before.0["web-01"],
        "services and the zone need no restart: {}",
        third.printed
    );
    assert_ne!(hosts.main_pid("web-02"), before.0["web-02"], "log.format needs a restart: {}", third.printed);
    wait(&hosts, "web-02", "weft services", &["cache", "web-01", "primary"]);
    wait(&hosts, "web-02", "weft services hello", &["box-03"]);
    wait(&hosts, "web-02", "weft members --json", &["\"zone\": \"a\""]);
    let hello = hosts.run("web-02", "weft services hello").expect("weft services");
    assert!(!hello.contains("web-02"), "{hello}");

    // A file that must not get in, and with it one that might.
    let (before, files_before) = (Pids::of(&hosts), files(&hosts, "web-01"));
    inventory.set("web-01", "weft_service_files", json!({ "cache.json": null, "hello.toml": BROKEN }));
    inventory.set("web-01", "weft_zone", json!("b"));
    let fourth = play(&inventory, &["--limit", "web-01"]);
    assert_eq!(fourth.failed("web-01"), 1, "{}", fourth.printed);
    let refusal = fourth.printed.lines().find(|line| line.starts_with("fatal: [web-01]")).unwrap_or_default();
    for part in ["weft validate refuses the files", "/etc/weft/services.d/hello.toml:3: unknown key `service.prot`"] {
        assert!(refusal.contains(part), "{part:?} is not in {refusal:?}\n{}", fourth.printed);
    }
    assert_eq!(files(&hosts, "web-01"), files_before, "{}", fourth.printed);
    assert_eq!(hosts.main_pid("web-01"), before.0["web-01"], "{}", fourth.printed);
    for name in hosts.names() {
        let left = "ls -dA /usr/bin/.weft-* /etc/weft/services.d/.[!.]* /tmp/.ansible* 2>/dev/null";
        assert_eq!(hosts.run(name, left).stdout, "", "{name} is left with rubbish");
    }
}

/// The agents that systemd runs.
struct Pids(BTreeMap<String, String>);

impl Pids {
    fn of(hosts: &Hosts) -> Pids {
        Pids(["web-01", "web-02"].map(|name| (name.to_owned(), hosts.main_pid(name))).into())
    }
}

/// Every file of the configuration: its mode, owner, time of change and contents.
fn files(hosts: &Hosts, name: &str) -> String {
    let listing = "cd /etc/weft && find . -type f -exec stat -c '%n %a %U:%G %y' {} + | sort && sha256sum weft.toml services.d/* | sort";
    hosts.run(name, listing).stdout
}

#[track_caller]
fn assert_members(hosts: &Hosts) {
    for name in hosts.names() {
        let start = Instant::now();
        loop {
            let done = hosts.run(name, "weft members --state alive --json");
            let list: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
            let alive = list["members"].as_array().map_or(0, Vec::len);
            if alive == hosts.names().count() {
                break;
            }
            assert!(start.elapsed() < JOIN_DEADLINE, "{name} sees {alive} alive: {}{}", done.stdout, done.stderr);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Waits until what a command prints has all these parts.
#[track_caller]
fn wait(hosts: &Hosts, name: &str, command: &str, parts: &[&str]) {
    let start = Instant::now();
    loop {
        let done = hosts.run(name, command);
        if parts.iter().all(|part| done.stdout.contains(part)) {
            return;
        }
        assert!(start.elapsed() < JOIN_DEADLINE, "{name}: {command}: {}{}", done.stdout, done.stderr);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Owners, modes, the redirect's rule, and what systemd thinks of the units.
fn assert_files_and_units(hosts: &Hosts) {
    for name in ["web-01", "web-02"] {
        let modes = "stat -c '%a %U:%G %n' /usr/bin/weft /etc/weft/weft.toml /var/lib/weft /var/lib/weft/identity/. \
                     /etc/weft/services.d";
        let expected = "755 root:root /usr/bin/weft\n640 root:weft /etc/weft/weft.toml\n700 weft:weft /var/lib/weft\n\
                        700 weft:weft /var/lib/weft/identity/.\n750 root:weft /etc/weft/services.d\n";
        assert_eq!(hosts.run(name, modes).expect("stat"), expected, "{name}");
        let states = hosts.run(name, "systemctl is-active weft weft-redirect; systemctl is-enabled weft weft-redirect");
        assert_eq!(states.stdout, "active\nactive\nenabled\nenabled\n", "{name}: {}", states.stderr);
        let user = hosts.run(name, &format!("ps -o user= -p {}", hosts.main_pid(name))).stdout;
        assert_eq!(user.trim(), "weft", "{name}");
        let rule = hosts.run(name, "nft list table ip weft").expect("nft");
        assert!(rule.contains("127.64.0.0/10"), "{name}: {rule}");
    }
    let verify = "systemd-analyze verify --man=no /usr/lib/systemd/system/weft.service /usr/lib/systemd/system/weft-redirect.service";
    let verified = hosts.run("web-01", verify);
    let ours: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("weft")).collect();
    assert!(verified.ok && ours.is_empty(), "{verify}: {}{}", verified.stdout, verified.stderr);
    assert_eq!(hosts.run("web-01", "test -s /var/lib/weft/ca/root.key && echo there").stdout, "there\n");
    assert!(!hosts.run("web-02", "ls /var/lib/weft").expect("ls").contains("ca\n"));
}

/// What a person would write into hosts.yml, group_vars and host_vars.
struct Inventory {
    hosts: BTreeMap<String, Value>,
}

impl Inventory {
    fn of(hosts: &Hosts) -> Inventory {
        let host = |name: &str| {
            let host = json!({
                "namespace_init": hosts.init(name),
                "weft_advertise": hosts.address(name),
                "weft_manage_service": hosts.runs_systemd(name),
                "weft_redirect": hosts.runs_systemd(name),
            });
            (name.to_owned(), host)
        };
        Inventory { hosts: hosts.names().map(host).collect() }
    }

    fn set(&mut self, name: &str, key: &str, value: Value) {
        self.hosts.get_mut(name).expect("a host of the inventory")[key] = value;
    }

    fn text(&self) -> String {
        json!({ "weft": { "hosts": self.hosts, "vars": {
            "ansible_connection": "namespace",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": false,
            "weft_cluster": "proving",
            "weft_issuer": "web-01",
            "weft_binary_src": WEFT,
            "weft_manage_packages": false,
        } } })
        .to_string()
    }
}
