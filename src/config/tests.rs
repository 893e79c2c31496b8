//! The configuration as its readers see it: files in, a `Config` or all mistakes out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::{Health, Protocol};

fn read(text: &str) -> Result<Config, ConfigErrors> {
    Config::from_text(text, Path::new("weft.toml"))
}

fn mistakes(text: &str) -> Vec<String> {
    read(text).unwrap_err().to_string().lines().map(str::to_owned).collect()
}

/// The one mistake of a text that has one.
fn mistake(text: &str) -> String {
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes[0].clone()
}

const NAMED: &str = "[node]\nname = \"web-01\"\n";

#[test]
fn an_empty_file_is_a_first_host_with_the_documented_defaults() {
    let config = read(NAMED).unwrap();
    assert_eq!(config.dns.listen, ["127.0.0.1:8600".parse().unwrap()]);
    assert_eq!((config.dns.domain.as_str(), &config.dns.upstreams), ("mesh.internal", &Upstreams::System));
    assert_eq!(config.gossip, GossipConfig { listen: "[::]:7946".parse().unwrap(), advertise: None });
    assert_eq!(config.mesh, MeshConfig { listen: "[::]:7947".parse().unwrap(), advertise: None });
    assert_eq!(config.proxy.vip_range, "127.64.0.0/10".parse().unwrap());
    assert_eq!(
        (config.proxy.capture, config.proxy.capture_listen),
        (Capture::Auto, "127.0.0.1:15001".parse().unwrap())
    );
    assert_eq!(config.api.listen, "127.0.0.1:8500".parse().unwrap());
    assert_eq!(config.api.socket.as_deref(), Some(Path::new("/run/weft/weft.sock")));
    assert_eq!(config.data_dir, Path::new("/var/lib/weft"));
    assert_eq!((config.cluster.seeds.len(), config.services.len(), config.node.advertise), (0, 0, None));
}

#[test]
fn every_documented_key_is_read() {
    let config = read(
        r#"
data_dir = "/srv/weft"
[node]
name = "web-01"
advertise = "10.0.0.11"
zone = "eu-1a"
meta = { rack = "r12" }
[cluster]
name = "prod"
seeds = ["10.0.0.10:7946", "seed.example.com"]
[dns]
listen = ["127.0.0.1:8600", "127.0.0.1:53"]
domain = "corp.internal"
upstreams = []
consul_alias = true
[gossip]
listen = "0.0.0.0:17946"
advertise = "203.0.113.7:17946"
[mesh]
listen = "[::]:17947"
advertise = "203.0.113.7:17947"
[proxy]
vip_range = "127.65.0.0/16"
capture = "bind"
capture_listen = "127.0.0.2:15001"
workers = 2
idle_timeout = "10m"
connect_timeout = "250ms"
request_timeout = "5m"
access_log = "json"
[api]
listen = "127.0.0.2:8500"
socket = ""
writes = "open"
tls_cert = "/etc/weft/api.pem"
tls_key = "/etc/weft/api.key"
[log]
format = "json"
level = "info,weft::swim=debug"
"#,
    )
    .unwrap();
    assert_eq!(config.node.meta, BTreeMap::from([("rack".into(), "r12".into())]));
    assert_eq!((config.node.zone.as_str(), config.cluster.name.as_str()), ("eu-1a", "prod"));
    assert_eq!(config.cluster.seeds, ["10.0.0.10:7946", "seed.example.com:7946"]);
    let tls = ApiTls { cert: "/etc/weft/api.pem".into(), key: "/etc/weft/api.key".into() };
    assert_eq!((config.api.writes_open, config.api.tls.clone()), (true, Some(tls)));
    assert_eq!((&config.dns.upstreams, config.dns.consul_alias), (&Upstreams::List(vec![]), true));
    assert_eq!(config.gossip.advertise, Some("203.0.113.7:17946".parse().unwrap()));
    assert_eq!((config.proxy.workers, config.proxy.idle_timeout), (2, Duration::from_secs(600)));
    assert_eq!((config.api.socket, config.log.format), (None, LogFormat::Json));
    assert_eq!((config.proxy.request_timeout, config.proxy.access_log), (Duration::from_secs(300), AccessLog::Json));
    assert_eq!(config.data_dir, Path::new("/srv/weft"));
}

#[test]
fn a_service_is_read_with_its_checks() {
    let config = read(
        r#"node = { name = "a" }
[[service]]
name = "billing"
port = 8080
protocol = "http"
tags = ["v2", "traefik.enable=true"]
meta = { team = "pay" }
[[service.check]]
http = "http://127.0.0.1:8080/health"
interval = "5s"
[[service.check]]
tcp = "localhost:8080"
interval = "2s"
timeout = "500ms"
failures_before_critical = 3
initial = "passing"
[[service]]
name = "billing"
id = "billing-2"
port = 8081
address = "10.0.0.11"
vip_port = 8080
"#,
    )
    .unwrap();
    let [first, second] = config.services.as_slice() else { panic!("{:?}", config.services) };
    assert_eq!((first.instance.id.as_str(), first.instance.protocol), ("billing", Protocol::Http));
    assert_eq!(first.instance.delivery(), "127.0.0.1:8080".parse().unwrap());
    assert_eq!((first.source.as_str(), second.source.as_str()), ("weft.toml:2", "weft.toml:17"));
    let [http, tcp] = first.checks.as_slice() else { panic!() };
    assert_eq!((http.id.as_str(), tcp.id.as_str()), ("service:billing:1", "service:billing:2"));
    assert_eq!((http.interval, http.timeout), (Duration::from_secs(5), Duration::from_secs(5)));
    assert_eq!((tcp.failures_before_warning, tcp.failures_before_critical, tcp.initial), (3, 3, Health::Passing));
    assert!(matches!(&http.kind, CheckKind::Http { path, .. } if path == "/health"));
    assert_eq!((second.instance.vip_port(), second.instance.delivery()), (8080, "10.0.0.11:8081".parse().unwrap()));
}

#[test]
fn five_mistakes_are_five_lines_each_with_its_line_and_advice() {
    let text = r#"[node]
name = "Web 01"
[dns]
lisen = ["127.0.0.1:8600"]
[proxy]
capture = "redirct"
[[service]]
name = "billing"
port = 808080
[[service.check]]
http = "http://127.0.0.1:8080/health"
interval = "5 parsecs"
"#;
    let expected = [
        "weft.toml:2: node.name: the node name \"Web 01\" has the character 'W'; use lower-case letters, digits, '-' and '_', \
         a letter or digit first and last",
        "weft.toml:4: unknown key `dns.lisen`; did you mean `listen`?",
        "weft.toml:6: proxy.capture: \"redirct\" is no capture; did you mean \"redirect\"? there are \"auto\", \
         \"redirect\", \"bind\"",
        "weft.toml:9: service.port = 808080 is out of range; choose one from 1 to 65535",
        "weft.toml:12: service.check.interval: \"5 parsecs\" is not a length of time; write a number with its unit, like \
         \"500ms\", \"5s\" or \"1m30s\"",
    ];
    assert_eq!(mistakes(text), expected);
}

#[test]
fn a_syntax_error_does_not_hide_other_mistakes_nor_make_new_ones() {
    let text = "[node]\nname = web-01\n[dns]\ndomain = \"mesh.internal\nlisten = 5\n[cluster]\nseed = []\n";
    let lines: Vec<_> = read(text).unwrap_err().0.iter().map(|error| error.line).collect();
    assert_eq!(lines, [Some(2), Some(4), Some(5), Some(7)], "{:#?}", mistakes(text));
}

#[test]
fn an_unknown_section_and_a_section_of_the_wrong_kind_are_told() {
    assert_eq!(mistake("[node]\nname = \"a\"\n[gosip]\n"), "weft.toml:3: unknown key `gosip`; did you mean `gossip`?");
    let text = "dns = 5\n[node]\nname = \"a\"\n";
    assert_eq!(mistake(text), "weft.toml:1: dns must be a table, not a number; write [dns]");
}

#[test]
fn a_bad_address_says_what_to_write() {
    let with = |line: &str| mistake(&format!("{NAMED}{line}"));
    for (line, part) in [
        ("[gossip]\nlisten = \"7946\"", "\"7946\" is not an address with a port; write it like"),
        ("[gossip]\nlisten = \"0.0.0.0\"", "add the port: \"0.0.0.0:7946\""),
        ("advertise = \"0.0.0.0\"", "nobody's address"),
        ("[mesh]\nadvertise = \"10.0.0.1:0\"", "has port 0"),
        ("[cluster]\nseeds = [\"a:b\"]", "is not a host with a port"),
        ("[dns]\nupstreams = [\"sistem\"]", "write \"system\", or addresses"),
        ("[dns]\nupstreams = [\"system\", \"10.0.0.1\"]", "use \"system\" alone"),
        ("[proxy]\nvip_range = \"10.0.0.0/8\"", "use \"127.64.0.0/10\""),
        ("[api]\nsocket = \"run/weft.sock\"", "begin it with /"),
        (
            "[api]\nlisten = \"0.0.0.0:8500\"",
            "there is no TLS; set tls_cert and tls_key under [api], or listen on 127.0.0.1",
        ),
        (
            "[api]\nlisten = \"[::]:8500\"\nwrites = \"open\"\ntls_cert = \"/c\"\ntls_key = \"/k\"",
            "while api.listen is not on loopback",
        ),
        ("[api]\ntls_key = \"/etc/weft/api.key\"", "belong together; set both, or neither"),
        ("[api]\nwrites = \"opne\"", "did you mean \"open\"?"),
        ("[log]\nlevel = \"inf\"", "did you mean \"info\"?"),
        ("[proxy]\nidle_timeout = \"0s\"", "out of range"),
    ] {
        assert!(with(line).contains(part), "{line}: {}", with(line));
    }
}

#[test]
fn listeners_that_exclude_each_other_are_told() {
    let text = format!("{NAMED}[mesh]\nlisten = \"10.0.0.1:7946\"\n");
    let expected = "weft.toml:4: mesh.listen = \"10.0.0.1:7946\" is taken by gossip.listen = \"[::]:7946\"; give one of \
                    them another port";
    assert_eq!(mistake(&text), expected);
    assert!(mistake(&format!("{NAMED}[dns]\nlisten = [\"127.64.0.1:53\"]\n")).contains("VIP range"));
    assert!(read(&format!("{NAMED}[api]\nlisten = \"127.0.0.1:0\"\n[gossip]\nlisten = \"127.0.0.1:0\"\n")).is_ok());
    assert!(mistake(&format!("{NAMED}[mesh]\nlisten = \"127.0.0.1:0\"\n")).contains("has port 0"));
}

#[test]
fn a_service_that_would_loop_back_into_weft_is_refused() {
    let with =
        |service: &str| mistake(&format!("{NAMED}advertise = \"10.0.0.11\"\n[[service]]\nname = \"x\"\n{service}"));
    assert!(with("port = 8500").starts_with("weft.toml:6: x at 127.0.0.1:8500 is Weft's own api.listen;"));
    assert!(
        with("port = 7947\naddress = \"10.0.0.11\"")
            .contains("weft.toml:7: x at 10.0.0.11:7947 is Weft's own mesh.listen")
    );
    assert!(with("port = 80\naddress = \"127.64.0.9\"").contains("lies in the VIP range"));
    assert!(with("port = 80\naddress = \"::ffff:127.64.0.9\"").contains("lies in the VIP range"));
    assert!(with("port = 80\naddress = \"0.0.0.0\"").contains("leave `address` out"));
    let elsewhere = "[[service]]\nname = \"x\"\nport = 7947\naddress = \"10.0.0.99\"\n";
    assert!(read(&format!("{NAMED}{elsewhere}")).is_ok(), "another host's port 7947 is its own");
}

#[test]
fn duplicate_ids_name_the_first() {
    let service = "[[service]]\nname = \"x\"\nport = 80\n";
    let expected = "weft.toml:7: the service id \"x\" is taken by weft.toml:4; give this one id = \"x-2\"";
    assert_eq!(mistake(&format!("{NAMED}{service}{service}")), expected);
    let check = "[[service.check]]\nid = \"c\"\ntcp = \"localhost:80\"\n";
    let text = format!("{NAMED}{service}{check}{check}");
    assert!(
        mistake(&text).starts_with("weft.toml:9: the check id \"c\" is taken by weft.toml:6;"),
        "{}",
        mistake(&text)
    );
}

#[test]
fn service_mistakes_are_told_on_their_line() {
    let with = |rest: &str| mistake(&format!("{NAMED}[[service]]\n{rest}"));
    for (rest, line, part) in [
        ("name = \"x\"", 3, "a service without `port`; add port = 8080"),
        ("port = 80", 3, "a service without `name`"),
        ("name = \"node\"\nport = 80", 4, "has a meaning of its own in DNS names; choose another"),
        ("name = \"x\"\nport = 80\nprotocol = \"http3\"", 6, "there are \"tcp\", \"http\""),
        ("name = \"x\"\nport = 80\ntags = [\"a\", \"a\"]", 6, "there twice"),
        ("name = \"x\"\nport = 80\nmeta = { a = 1 }", 6, "service.meta.a must be text, not a number"),
        ("name = \"x\"\nport = 80\nchek = []", 6, "did you mean `check`?"),
        ("name = \"x\"\nport = 80\n[[service.check]]\ninterval = \"5s\"", 6, "a check that does nothing"),
        ("name = \"x\"\nport = 80\n[[service.check]]\nhttp = \"ftp://x/\"", 7, "not an http:// or https:// URL"),
        ("name = \"x\"\nport = 80\n[[service.check]]\ntcp = \"a:1\"\nmethod = \"GET\"", 8, "it belongs to http"),
        (
            "name = \"x\"\nport = 80\n[[service.check]]\ntcp = \"a:1\"\ntls_skip_verify = true",
            8,
            "belongs to http, tcp",
        ),
        ("name = \"x\"\nport = 80\n[[service.check]]\nttl = \"5s\"\ntimeout = \"1s\"", 8, "nothing is tried for such"),
        ("name = \"x\"\nport = 80\n[[service.check]]\nargs = [\"/bin/true\"]", 6, "`scripts = true` under [checks]"),
        ("name = \"x\"\nport = 80\n[[service.check]]\nargs = [\"true\"]", 7, "is not a whole path; begin it with /"),
        ("name = \"x\"\nport = 80\n[[service.check]]\nsystemd = \"nginx\"", 7, "write it like \"nginx.service\""),
        ("name = \"x\"\nport = 80\n[[service.check]]\nalias_service = \"x\"", 6, "as healthy as itself"),
        (
            "name = \"x\"\nport = 80\n[[service.check]]\nttl = \"5s\"\nderegister_critical_service_after = \"5m\"",
            8,
            "stays until its file goes",
        ),
        ("name = \"x\"\nport = 80\ntimeout = \"5s\"", 6, "for a service of the protocol tcp; add protocol = \"http\""),
        ("name = \"x\"\nport = 80\nprotocol = \"http\"\ntimeout = \"0s\"", 7, "out of range"),
        (
            "name = \"x\"\nport = 80\n[[service.check]]\ntcp = \"a:1\"\ntimeout = \"20s\"",
            8,
            "at most the interval, 10s",
        ),
        ("name = \"x\"\nport = 80\n[[service.check]]\ntcp = \"a:1\"\nfailures_before_warning = 2", 8, "at most"),
    ] {
        let mistake = with(rest);
        assert!(mistake.starts_with(&format!("weft.toml:{line}: ")) && mistake.contains(part), "{rest}: {mistake}");
    }
}

#[test]
fn services_d_is_read_beside_the_file_in_both_forms_with_all_mistakes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weft.toml");
    fs::write(&path, NAMED).unwrap();
    assert_eq!(Config::load(&path).unwrap().services, [], "without services.d");

    let services = directory.path().join("services.d");
    fs::create_dir(&services).unwrap();
    fs::write(services.join("b.toml"), "[[service]]\nname = \"b\"\nport = 80\n").unwrap();
    let consul = r#"{"service": {"Name": "redis", "ID": "redis-1", "port": 6379, "address": "", "tags": ["primary"],
        "meta": {"Version": "7"}, "enable_tag_override": false,
        "checks": [{"CheckID": "x", "tcp": "localhost:6379", "interval": "10s", "Timeout": "1s", "status": "passing"}]}}"#;
    fs::write(services.join("a.json"), consul).unwrap();
    fs::write(services.join(".hidden.toml"), "nonsense").unwrap();
    fs::write(services.join("b.toml~"), "nonsense").unwrap();
    let config = Config::load(&path).unwrap();
    let ids: Vec<_> = config.services.iter().map(|service| service.instance.id.as_str()).collect();
    assert_eq!(ids, ["redis-1", "b"]);
    assert_eq!(config.services[0].instance.meta, BTreeMap::from([("Version".into(), "7".into())]));
    assert_eq!(config.services[0].checks[0].id, "x");
    assert_eq!(config.services[0].checks[0].initial, Health::Passing);

    fs::write(&path, format!("{NAMED}zome = \"a\"\n")).unwrap();
    fs::write(
        services.join("a.json"),
        "{\"services\": [\n{\"name\": \"r\",\n\"port\": \"80\",\n\"connect\": {\"sidecar_service\": {}}}]}",
    )
    .unwrap();
    fs::write(services.join("c.toml"), "[[servise]]\nname = \"c\"\n").unwrap();
    let errors = Config::load(&path).unwrap_err();
    let told: Vec<_> = errors.0.iter().map(|e| (e.file.file_name().unwrap().to_str().unwrap(), e.line)).collect();
    let expected = [("weft.toml", Some(3)), ("a.json", Some(3)), ("a.json", Some(4)), ("c.toml", Some(1))];
    assert_eq!(told, expected, "{errors}");
}

#[test]
fn every_kind_of_check_is_read() {
    let config = read(
        r#"checks = { scripts = true }
[node]
name = "web-01"
[[service]]
name = "billing"
port = 8080
protocol = "http"
timeout = "30s"
weights = { passing = 10, warning = 0 }
[[service.check]]
http = "https://127.0.0.1:8443/health?deep=1"
method = "post"
header = { Authorization = "Bearer x", X-Part = ["a", "b"] }
body = "{}"
tls_server_name = "billing.example.com"
tls_roots = "/etc/ssl/internal.pem"
[[service.check]]
tcp = "127.0.0.1:8443"
tcp_use_tls = true
tls_skip_verify = true
[[service.check]]
udp = "127.0.0.1:53"
[[service.check]]
grpc = "127.0.0.1:9000/billing.v1.Billing"
[[service.check]]
ttl = "1m30s"
initial = "passing"
notes = "the worker reports"
[[service.check]]
args = ["/usr/bin/test", "-e", "/run/billing.ok"]
interval = "1m"
timeout = "10s"
success_before_passing = 2
failures_before_warning = 2
failures_before_critical = 4
[[service.check]]
alias_service = "db"
alias_node = "db-01"
[[service.check]]
systemd = "billing@1.service"
[[check]]
name = "disk"
args = ["/usr/lib/nagios/plugins/check_disk"]
[[check]]
id = "ntp"
systemd = "chrony.service"
"#,
    )
    .unwrap();
    let service = &config.services[0];
    assert_eq!(service.instance.request_timeout, Some(Duration::from_secs(30)));
    assert_eq!((service.instance.weights.passing, service.instance.weights.warning), (10, 0));
    let kinds: Vec<_> = service.checks.iter().map(|check| check.kind.as_str()).collect();
    assert_eq!(kinds, ["http", "tcp", "udp", "grpc", "ttl", "script", "alias", "systemd"]);
    let CheckKind::Http { target, path, method, headers, body, tls: Some(tls), .. } = &service.checks[0].kind else {
        panic!("{service:?}")
    };
    assert_eq!((target.to_string().as_str(), path.as_str()), ("127.0.0.1:8443", "/health?deep=1"));
    assert_eq!((method.as_str(), body.as_str(), headers.len()), ("POST", "{}", 3));
    assert_eq!(tls.server_name.as_deref(), Some("billing.example.com"));
    assert_eq!((tls.skip_verify, tls.roots.as_deref()), (false, Some(Path::new("/etc/ssl/internal.pem"))));
    assert!(matches!(&service.checks[1].kind, CheckKind::Tcp { tls: Some(tls), .. } if tls.skip_verify));
    assert!(
        matches!(&service.checks[3].kind, CheckKind::Grpc { service, tls: None, .. } if service == "billing.v1.Billing")
    );
    assert_eq!(service.checks[4].kind, CheckKind::Ttl { ttl: Duration::from_secs(90) });
    assert_eq!((service.checks[4].initial, service.checks[4].notes.as_str()), (Health::Passing, "the worker reports"));
    let script = &service.checks[5];
    let thresholds = [script.success_before_passing, script.failures_before_warning, script.failures_before_critical];
    assert_eq!((thresholds, script.timeout), ([2, 2, 4], Duration::from_secs(10)));
    let of_host: Vec<_> = config.checks.iter().map(|check| (check.id.as_str(), check.name.as_str())).collect();
    assert_eq!((of_host, config.scripts_allowed), (vec![("disk", "disk"), ("ntp", "ntp")], true));
}

#[test]
fn checks_of_consul_s_files_go_to_their_service_or_to_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weft.toml");
    let services = directory.path().join("services.d");
    fs::create_dir(&services).unwrap();
    fs::write(&path, format!("{NAMED}[checks]\nscripts = true\n")).unwrap();
    fs::write(services.join("a.toml"), "[[service]]\nname = \"web\"\nport = 80\n").unwrap();
    let checks = r#"{"checks": [
        {"id": "mem-util", "name": "Memory", "args": ["/usr/local/bin/check_mem.py", "-limit", "256MB"], "interval": "10s"},
        {"id": "web-ttl", "service_id": "web", "ttl": "30s"}],
        "check": {"id": "web-alias", "alias_service": "web"}}"#;
    fs::write(services.join("b.json"), checks).unwrap();
    let config = Config::load(&path).unwrap();
    let of_host: Vec<_> = config.checks.iter().map(|check| check.id.as_str()).collect();
    assert_eq!(of_host, ["web-alias", "mem-util"]);
    assert_eq!(config.services[0].checks[0].id, "web-ttl");

    fs::write(services.join("b.json"), checks.replace("\"web\", \"ttl\"", "\"wen\", \"ttl\"")).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("b.json:3: no service of this host has the id \"wen\""), "{error}");
    fs::write(services.join("b.json"), checks).unwrap();
    fs::write(services.join("c.json"), r#"{"check": {"id": "web-ttl", "ttl": "30s"}}"#).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("c.json:1: the check id \"web-ttl\" is taken by"), "{error}");
    fs::remove_file(services.join("c.json")).unwrap();
    fs::write(&path, NAMED).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("b.json:2: a check that runs a program, which weft.toml does not allow"), "{error}");
}

#[test]
fn a_service_of_the_api_that_would_loop_back_into_weft_is_not_admitted() {
    let config = read(&format!("{NAMED}advertise = \"10.0.0.11\"\n")).unwrap();
    let admitted = |json: &str| config.admits(&service_registration(json.as_bytes()).unwrap());
    assert!(admitted(r#"{"Name":"x","Port":80}"#).is_ok() && admitted(r#"{"Name":"x"}"#).is_ok());
    for json in [
        r#"{"Name":"x","Port":8500}"#,
        r#"{"Name":"x","Port":7947,"Address":"10.0.0.11"}"#,
        r#"{"Name":"x","Port":80,"Address":"127.64.0.9"}"#,
    ] {
        assert!(admitted(json).unwrap_err().to_string().starts_with("request body: x at "), "{json}");
    }
}

#[test]
fn a_missing_file_is_one_mistake_that_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/weft.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/weft.toml: cannot be read") && error.contains("--config"), "{error}");
}

#[test]
fn a_reload_tells_what_changed_and_what_waits_for_a_restart() {
    let service = |port: u16| format!("[[service]]\nname = \"x\"\nport = {port}\n");
    let old = read(&format!("{NAMED}{}", service(80))).unwrap();
    let moved = read(&format!("{NAMED}\n\n{}", service(80))).unwrap();
    assert!(Config::reload_difference(&old, &moved).is_empty());

    let new = "[node]\nname = \"web-01\"\nzone = \"b\"\n[api]\nlisten = \"127.0.0.1:8501\"\n[[service]]\nname = \"y\"\nport = 1\n";
    let difference = Config::reload_difference(&old, &read(new).unwrap());
    assert_eq!((difference.live, difference.restart), (vec!["node.zone".into()], vec!["api.listen".into()]));
    assert_eq!(difference.services_set.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["y"]);
    assert_eq!(difference.services_removed.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["x"]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_reader(text in "(\\[|\\]|=|\"|service|node|check|name|port|\n|\\.|[a-z0-9]| |\\{|\\}|,){0,40}") {
        let _ = read(&text);
    }
}
