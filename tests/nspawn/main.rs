//! Two services of one host that boots as hosts do: systemd starts the agent from the units in `systemd/`, installed by the
//! lines of README.md, and the two services are units that differ in nothing but their names.
//!
//! A host is a Debian (`base`) in a container of systemd-nspawn (`host`, `boot`), with its own network, control groups and
//! users. Needs root, and the Debian archive the first time. Where it cannot run, the test says why and passes, unless
//! `WEFT_NETNS=require`.

mod base;
mod host;
// What `tests/netns` has more of it is not needed here.
#[allow(dead_code)]
#[path = "../netns/process.rs"]
mod process;

use std::path::Path;
use std::time::Duration;

use host::Hosts;
use process::{clock_us, wait_for};

/// The agent under test.
const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const CHECKOUT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../../README.md");
const SECURITY: &str = include_str!("../../docs/security.md");

/// From the end of the verb to its effect on every host.
const EFFECT_US_MAX: u64 = 1_000_000;
/// Agents in debug builds on two busy cores join within a second or two; this is for a machine that does much else.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);

/// Where the hosts find what README.md calls the checkout.
const THERE: &str = "/usr/src/weft";

const NGINX: &str = "server { listen 127.0.0.1:8081; location / { return 200 $http_x_weft_client; } }\n";
const SERVICES_OF_A: &str = "[[service]]\nname = \"shop\"\nport = 8081\nprotocol = \"http\"\n\
                             [[service.check]]\nsystemd = \"nginx.service\"\ninterval = \"5s\"\n\
                             [[service]]\nname = \"till\"\nport = 7000\n";
const TILL_SOCKET: &str = "[Socket]\nListenStream=127.0.0.1:7000\nAccept=yes\n";
const TILL: &str = "[Service]\nExecStart=-/bin/cat\nStandardInput=socket\nStandardOutput=socket\n";

/// Their files name no `unit`: it is the one of the service's name.
const SERVICES_OF_C: &str =
    "[[service]]\nname = \"billing\"\nport = 9001\n[[service]]\nname = \"reports\"\nport = 9002\n";
/// Both run the same file as the same user.
const CALLER: &str =
    "[Service]\nExecStart=/usr/local/bin/caller\nUser=www-data\nStandardOutput=append:/var/log/%N.calls\n";

/// A service whose unit has another name.
const LEDGER: &str = "[[service]]\nname = \"ledger\"\nport = 9003\nunit = \"other.service\"\n";
const REPORTS_OF_A_USER: &str = "[Service]\nType=oneshot\nStandardOutput=file:%t/told\n\
                                 ExecStart=/bin/sh -c 'cat /proc/self/cgroup; ask'\n";
/// Prints the status that the shop answers.
const ASK: &str = "#!/bin/sh\nexec curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' http://shop.mesh.internal/\n";

#[test]
fn of_two_units_of_a_booted_host_one_is_let_through_and_the_other_is_not() {
    let binary = format!("{THERE}/target/release/weft");
    let units = Path::new(CHECKOUT).join("systemd");
    let shown = [(Path::new(WEFT), binary.as_str()), (&units, &format!("{THERE}/systemd"))];
    let Some(mut hosts) = Hosts::boot(&["a", "c"], &shown) else { return };
    raise_mesh(&hosts);
    units_are_as_they_say(&hosts);
    start_services(&hosts);

    let (billing, reports) = (Caller::of(&hosts, "billing"), Caller::of(&hosts, "reports"));
    for caller in [&billing, &reports] {
        caller.is_let_through(clock_us());
    }

    // One is denied; the other does not notice.
    let began = clock_us();
    let mut from = decide(&hosts, "a", &["deny reports shop", "deny reports till"]);
    reports.is_refused(from, "intention reports -> shop: deny");
    reports.print_effect(began, from);
    billing.is_let_through(began);

    // The other way round, said on the host of the callers: the default denies, one is allowed.
    let words = ["delete reports shop", "delete reports till", "allow reports *", "default deny"];
    let began = clock_us();
    from = decide(&hosts, "c", &words);
    reports.is_let_through(from);
    billing.is_refused(from, "the default policy is deny");
    billing.print_effect(began, from);

    // What is neither unit is neither service: root's shell outside all units, units of other names, a slice of that name.
    assert_eq!(hosts.must("c", "ask"), "403");
    for unit in ["--unit=other", "--unit=reports-of-others", "--unit=reports@1", "--slice=reports"] {
        assert_eq!(ask_as(&hosts, unit), "403", "{unit}");
    }
    // Anybody may name units of their own manager so.
    let own = ask_as_unit_of_a_user(&hosts);
    assert!(own.contains("/user@33.service/") && own.contains("/reports.service"), "{own}");
    assert!(own.ends_with("\n403"), "{own}");
    // A service that names its unit; the file is read on a reload.
    hosts.write("c", "/etc/weft/services.d/ledger.toml", LEDGER);
    hosts.must("c", "systemctl reload weft.service");
    decide(&hosts, "c", &["allow ledger shop"]);
    wait_for("the unit of ledger is let through", JOIN_DEADLINE, || match ask_as(&hosts, "--unit=other") {
        status if status == "200" => Ok(()),
        status => Err(status),
    });
    assert_eq!(ask_as(&hosts, "--unit=ledger"), "403");

    // The agents start anew, by systemd: in order, and because one died.
    let before = main_pid(&hosts, "c");
    hosts.must("c", "systemctl restart weft.service");
    assert_ne!(main_pid(&hosts, "c"), before);
    reports.is_let_through(reports.returns());
    hosts.must("a", "systemctl kill --kill-whom=main --signal=KILL weft.service");
    wait_for("systemd starts the agent of a again", JOIN_DEADLINE, || {
        let shown = hosts.run("a", "systemctl show --property=NRestarts,ActiveState weft.service").stdout;
        if shown.contains("NRestarts=1") && shown.contains("=active") { Ok(()) } else { Err(shown) }
    });
    let back = reports.returns();
    reports.is_let_through(back);
    billing.is_refused(back, "the default policy is deny");
    billing.was_never_let_through(from);
    from = decide(&hosts, "a", &["default allow", "deny reports *"]);
    billing.is_let_through(from);
    reports.is_refused(from, "intention reports -> *: deny");

    by_credential(&mut hosts);

    for name in ["a", "c", "d"] {
        let ours = ["weft", "billing", "reports", "nginx", "till", "systemd-resolved"];
        let failed = hosts.failed_units(name).into_iter().find(|unit| ours.iter().any(|ours| unit.starts_with(ours)));
        assert_eq!(failed, None, "{name}");
        let journal = hosts.must(name, "journalctl --no-pager --output=cat --unit=weft.service");
        assert!(!journal.contains("panicked"), "{journal}");
    }
    // A host that is switched off says goodbye: its systemd stops the agent in order.
    hosts.power_off("c");
    wait_for("a knows that c has left", JOIN_DEADLINE, || {
        let members = hosts.run("a", "weft members").stdout;
        if members.lines().any(|line| line.starts_with("c ") && line.contains("left")) { Ok(()) } else { Err(members) }
    });
}

/// The shell lines that stand first under a heading of README.md.
fn lines_of_readme(heading: &str) -> &'static str {
    let (_, section) = README.split_once(heading).unwrap_or_else(|| panic!("README.md has no {heading}"));
    let (_, rest) = section.split_once("```sh\n").expect("shell lines");
    rest.split_once("```").expect("their end").0
}

/// Installs the agent as README.md says.
fn install(hosts: &Hosts, name: &str) {
    hosts.must(name, &format!("cd {THERE}\n{}", lines_of_readme("### Install the host")));
    let (address, seed) = (hosts.address(name), hosts.address("a"));
    let config = format!("[node]\nadvertise = \"{address}\"\n[cluster]\nname = \"units\"\nseeds = [\"{seed}:7946\"]\n");
    hosts.write(name, "/etc/weft/weft.toml", &config);
}

/// A host that its maker hands the token needs nobody to type it; the token is spent, and the next starts need none.
fn by_credential(hosts: &mut Hosts) {
    let token = hosts.must("a", &format!("weft token create --node d --issuer {}:7947", hosts.address("a")));
    hosts.boot_with_credential("d", "weft.join-token", &token);
    install(hosts, "d");
    hosts.must("d", "systemctl start weft.service && systemctl restart weft.service");
    let journal = hosts.must("d", "journalctl --no-pager --output=cat --unit=weft.service");
    assert_eq!(journal.matches("enrolled with the join token that systemd handed over").count(), 1, "{journal}");
    assert!(!journal.contains(&token), "the token is in the log");
    sees_passing(hosts, "d", "shop");
}

/// Installs the agents, makes the CA on a, and enrols c with it.
fn raise_mesh(hosts: &Hosts) {
    ["a", "c"].iter().for_each(|name| install(hosts, name));
    // The two ways to ask the agent for names.
    let names = lines_of_readme("### Names in /etc/resolv.conf");
    hosts.must("c", &format!("cd {THERE}\n{names}"));
    hosts.must("a", "systemctl disable --now systemd-resolved.service && rm /etc/resolv.conf");
    hosts.write("a", "/etc/resolv.conf", "nameserver 127.0.0.1\n");
    hosts.must("a", "printf '[dns]\nlisten = [\"127.0.0.1:8600\", \"127.0.0.1:53\"]\n' >>/etc/weft/weft.toml");
    hosts.write("a", "/etc/weft/services.d/services.toml", SERVICES_OF_A);
    hosts.write("c", "/etc/weft/services.d/services.toml", SERVICES_OF_C);

    hosts.must("a", "weft ca init --cluster units --node a");
    hosts.must("a", "systemctl start weft");
    let token = hosts.must("a", &format!("weft token create --issuer {}:7947", hosts.address("a")));
    hosts.must("c", &format!("weft enroll --token {token}"));
    hosts.must("c", "systemctl start weft");
}

/// The agent runs as it is meant to, and behind what it is meant to.
fn units_are_as_they_say(hosts: &Hosts) {
    for name in ["a", "c"] {
        let shown = hosts.must(name, "systemctl show --property=Type,ActiveState,SubState,NRestarts,User weft.service");
        for property in ["Type=notify", "ActiveState=active", "SubState=running", "NRestarts=0", "User=weft"] {
            assert!(shown.lines().any(|line| line == property), "{name}: {property} is not among\n{shown}");
        }
        let status = hosts.read(name, &format!("/proc/{}/status", main_pid(hosts, name)));
        let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        let uid = hosts.must(name, "id -u weft");
        assert_eq!(line("Uid:"), format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"), "{name}");
        // CAP_NET_BIND_SERVICE, the tenth, and no other.
        assert!(line("CapEff:").ends_with("\t0000000000000400"), "{name}: {}", line("CapEff:"));
        assert!(hosts.must(name, "systemctl is-active weft-redirect.service").contains("active"));
        assert!(hosts.must(name, "nft list table ip weft").contains("127.64.0.0/10"));
        let verified = hosts.must(name, "systemd-analyze verify weft.service weft-redirect.service 2>&1");
        assert!(!verified.contains("weft"), "{name}: {verified}");
        let journal = hosts.must(name, "journalctl --no-pager --output=cat --unit=weft.service");
        assert!(!journal.contains("told apart by their users"), "{name} does not see its units: {journal}");
    }
    for unit in ["weft.service", "weft-redirect.service"] {
        let rated = hosts.must("c", &format!("systemd-analyze security --no-pager {unit}"));
        let overall = rated.lines().find(|line| line.contains("Overall exposure level")).expect("a rating");
        println!("{}", overall.trim());
        let level = overall.split_once(": ").and_then(|(_, rest)| rest.split(' ').next()).expect("a level");
        assert!(SECURITY.contains(level), "docs/security.md does not say that {unit} is rated {level}");
    }
}

fn start_services(hosts: &Hosts) {
    hosts.write("a", "/etc/nginx/conf.d/shop.conf", NGINX);
    hosts.write("a", "/etc/systemd/system/till.socket", TILL_SOCKET);
    hosts.write("a", "/etc/systemd/system/till@.service", TILL);
    hosts.must("a", "systemctl daemon-reload && systemctl reload nginx && systemctl start till.socket");
    hosts.write("c", "/usr/local/bin/caller", include_str!("caller"));
    hosts.write("c", "/usr/local/bin/ask", ASK);
    hosts.write("c", "/etc/systemd/system/billing.service", CALLER);
    hosts.write("c", "/etc/systemd/system/reports.service", CALLER);
    for service in ["shop", "till"] {
        sees_passing(hosts, "c", service);
    }
    hosts.must("c", "chmod 755 /usr/local/bin/* && systemctl daemon-reload && systemctl start billing reports");
    hosts.must("a", "weft ca operator anna --out /root/anna.pem");
    let key = hosts.read("a", "/root/anna.pem");
    hosts.must("c", "install -m 600 /dev/null /root/anna.pem");
    hosts.write("c", "/root/anna.pem", &key);
}

/// The status that the shop answers to a unit of its own.
#[track_caller]
fn ask_as(hosts: &Hosts, unit: &str) -> String {
    hosts.must("c", &format!("systemd-run --quiet --wait --pipe --collect {unit} ask"))
}

/// The control group of the unit `reports.service` of www-data's own manager, and the status that the shop answers to it.
#[track_caller]
fn ask_as_unit_of_a_user(hosts: &Hosts) -> String {
    let runtime = "/run/user/33";
    hosts.must("c", &format!("systemctl start user@33.service && mkdir -p {runtime}/systemd/user"));
    hosts.write("c", &format!("{runtime}/systemd/user/reports.service"), REPORTS_OF_A_USER);
    let as_user = format!("setpriv --reuid=33 --regid=33 --clear-groups env XDG_RUNTIME_DIR={runtime}");
    hosts.must("c", &format!("{as_user} systemctl --user start reports.service"));
    hosts.read("c", &format!("{runtime}/told"))
}

#[track_caller]
fn sees_passing(hosts: &Hosts, name: &str, service: &str) {
    wait_for(&format!("{name} sees {service} passing"), JOIN_DEADLINE, || {
        let shown = hosts.run(name, &format!("weft services {service}"));
        if shown.stdout.contains("passing") { Ok(()) } else { Err(shown.stdout + &shown.stderr) }
    });
}

fn main_pid(hosts: &Hosts, name: &str) -> String {
    hosts.must(name, "systemctl show --property=MainPID --value weft.service")
}

/// Says these intentions; the moment from which they must hold.
#[track_caller]
fn decide(hosts: &Hosts, name: &str, words: &[&str]) -> u64 {
    let lines: Vec<String> = words
        .iter()
        .map(|words| format!("weft intention {} --operator /root/anna.pem", words.replace('*', "'*'")))
        .collect();
    hosts.must(name, &lines.join("\n"));
    clock_us() + EFFECT_US_MAX
}

/// One of the two services, by what it wrote down.
struct Caller<'a> {
    hosts: &'a Hosts,
    service: &'static str,
}

/// A call that a service made.
struct Call {
    began_us: u64,
    /// `shop` or `till`.
    to: String,
    answer: String,
}

impl Call {
    fn passed(&self) -> bool {
        self.answer.ends_with(" 200") || self.answer == "coin"
    }
}

impl Caller<'_> {
    fn of<'a>(hosts: &'a Hosts, service: &'static str) -> Caller<'a> {
        Caller { hosts, service }
    }

    /// The calls that it has begun since a moment. A line that is not whole yet is left out.
    fn calls(&self, since_us: u64) -> Vec<Call> {
        let log = self.hosts.read("c", &format!("/var/log/{}.calls", self.service));
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let began_us = words.next()?.parse().ok()?;
            Some(Call { began_us, to: words.next()?.to_owned(), answer: words.next()?.trim().to_owned() })
        };
        whole.lines().filter_map(call).filter(|call| call.began_us >= since_us).collect()
    }

    /// Waits for some calls to each since that moment; all of them must be as `expected`.
    #[track_caller]
    fn all(&self, since_us: u64, expected: impl Fn(&Call) -> bool) {
        for to in ["shop", "till"] {
            let what = format!("{} has called {to}", self.service);
            let calls = wait_for(&what, Duration::from_secs(30), || {
                let calls: Vec<Call> = self.calls(since_us).into_iter().filter(|call| call.to == to).collect();
                if calls.len() >= 3 { Ok(calls) } else { Err(format!("{} calls", calls.len())) }
            });
            if let Some(other) = calls.iter().find(|call| !expected(call)) {
                let late_ms = other.began_us.saturating_sub(since_us) / 1000;
                panic!("{}, {late_ms} ms after it must hold: {to} said {:?}", self.service, other.answer);
            }
        }
    }

    /// Shop answers and knows who it is, till sends every coin back.
    #[track_caller]
    fn is_let_through(&self, since_us: u64) {
        let told = format!("spiffe://units/service/{} 200", self.service);
        self.all(since_us, |call| call.answer == if call.to == "shop" { &told } else { "coin" });
    }

    /// Shop answers 403 with this reason, no session with till comes about, and the one there was is no more.
    #[track_caller]
    fn is_refused(&self, since_us: u64, reason: &str) {
        self.all(since_us, |call| match call.to.as_str() {
            "shop" => call.answer.contains(reason) && call.answer.ends_with(" 403"),
            _ => call.answer == "refused",
        });
        let log = self.hosts.read("c", &format!("/var/log/{}.calls", self.service));
        assert!(log.contains("reset by peer"), "the session of {} was not reset", self.service);
    }

    /// Waits, after a restart of an agent, until it is let through again; the moment.
    #[track_caller]
    fn returns(&self) -> u64 {
        let from = clock_us();
        for to in ["shop", "till"] {
            wait_for(&format!("{} is let through to {to} again", self.service), JOIN_DEADLINE, || {
                let last = self.calls(from).into_iter().rfind(|call| call.to == to);
                let passed = last.as_ref().is_some_and(Call::passed);
                if passed { Ok(()) } else { Err(last.map(|call| call.answer).unwrap_or_default()) }
            });
        }
        clock_us()
    }

    /// When the last call that was let through began, of those since `began_us`, when the first verb was typed.
    fn print_effect(&self, began_us: u64, from_us: u64) {
        println!("the verbs took {} ms", (from_us - EFFECT_US_MAX - began_us) / 1000);
        for to in ["shop", "till"] {
            let passed = self.calls(began_us).into_iter().filter(|call| call.to == to && call.passed());
            let last = passed.map(|call| call.began_us - began_us).max().unwrap_or_default();
            println!(
                "the last call of {} to {to} that was let through began {} ms after they did",
                self.service,
                last / 1000
            );
        }
    }

    #[track_caller]
    fn was_never_let_through(&self, since_us: u64) {
        let calls = self.calls(since_us);
        let passed: Vec<String> = calls.iter().filter(|call| call.passed()).map(|call| call.answer.clone()).collect();
        assert!(passed.is_empty(), "{} was let through: {passed:?}", self.service);
    }
}
