//! Bodies of the API's registrations, in Consul's form: read as its files are, held to the same rules, refused whole.
//!
//! Two things are not for the API: programs to run, and files to read. Whoever reaches a loopback port must not choose
//! either.

use std::path::Path;

use super::document::{self, FILE_BYTES_MAX, Field, Place};
use super::section::Section;
use super::service::{self, Form};
use super::{
    CheckDefinition, CheckKind, CheckRegistration, ConfigError, ConfigErrors, ServiceDefinition, check, consul, rules,
};

/// What errors name in place of a file.
pub(super) const BODY: &str = "request body";
/// What definitions name in place of a file and line.
const SOURCE: &str = "the API";

/// Reads the body of `PUT /v1/agent/service/register`: Consul's form, keys in snake or Camel case.
pub fn service_registration(json: &[u8]) -> Result<ServiceDefinition, ConfigErrors> {
    let mut errors = Vec::new();
    let section = body(json, r#"write {"Name": "billing", "Port": 8080}"#, &mut errors);
    let read = section.and_then(|section| service::read(section, Form::Api, &mut errors));
    if let Some(read) = &read {
        rules::check_service(read, &mut errors);
        for (at, (check, place)) in read.definition.checks.iter().zip(&read.checks).enumerate() {
            refuse_script(check, place, &mut errors);
            if read.definition.checks[..at].iter().any(|earlier| earlier.id == check.id) {
                let message = format!("the check id {:?} is there twice", check.id);
                errors.push(place.error(message, "give one of them another `CheckID`, or leave the key out"));
            }
        }
    }
    let definition = read.map(|read| ServiceDefinition { source: SOURCE.to_owned(), ..read.definition });
    whole(definition, errors)
}

/// Reads the body of `PUT /v1/agent/check/register`.
pub fn check_registration(json: &[u8]) -> Result<CheckRegistration, ConfigErrors> {
    let mut errors = Vec::new();
    let section = body(json, r#"write {"Name": "disk", "TTL": "30s"}"#, &mut errors);
    let read = section.and_then(|section| check::read_loose(section, Form::Api, &mut errors));
    let registration = read.map(|read| {
        refuse_script(&read.definition, &read.place, &mut errors);
        CheckRegistration { service: read.service.map(|spot| spot.value), check: read.definition }
    });
    if let Some(CheckRegistration { service: Some(service), check }) = &registration
        && matches!(&check.kind, CheckKind::Alias { node: None, service: Some(other) } if other == service)
    {
        let message = format!("a check that makes {:?} as healthy as itself", service.as_str());
        errors.push(Place::whole(Path::new(BODY)).error(message, "name another service in `AliasService`"));
    }
    whole(registration, errors)
}

fn body(json: &[u8], form: &str, errors: &mut Vec<ConfigError>) -> Option<Section> {
    let place = Place::whole(Path::new(BODY));
    if json.len() as u64 > FILE_BYTES_MAX {
        errors.push(place.error(format!("{} bytes", json.len()), format!("send at most {FILE_BYTES_MAX}")));
        return None;
    }
    let Ok(text) = std::str::from_utf8(json) else {
        errors.push(place.error("not JSON: it is not UTF-8", "send JSON in UTF-8"));
        return None;
    };
    let (fields, syntax): (Vec<Field>, _) = document::parse_json(Path::new(BODY), text, form);
    if !syntax.is_empty() {
        errors.extend(syntax);
        return None;
    }
    Some(Section::new("", place, consul::normal(fields, errors)).in_json())
}

fn refuse_script(check: &CheckDefinition, place: &Place, errors: &mut Vec<ConfigError>) {
    if matches!(check.kind, CheckKind::Script { .. }) {
        let message = "a check that runs a program cannot be registered by the API";
        let advice = "write it into a file of services.d, with `scripts = true` under [checks] in weft.toml";
        errors.push(place.error(message, advice));
    }
}

/// Nothing is taken of what has a mistake.
fn whole<T>(value: Option<T>, mut errors: Vec<ConfigError>) -> Result<T, ConfigErrors> {
    match value {
        Some(value) if errors.is_empty() => Ok(value),
        _ => {
            errors.sort_by_key(|error| error.line);
            Err(ConfigErrors(errors))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{CheckTarget, CheckTls};
    use crate::model::{Health, Protocol, Weights};

    fn service(json: &str) -> ServiceDefinition {
        service_registration(json.as_bytes()).unwrap_or_else(|errors| panic!("{json}: {errors}"))
    }

    fn check(json: &str) -> CheckRegistration {
        check_registration(json.as_bytes()).unwrap_or_else(|errors| panic!("{json}: {errors}"))
    }

    #[track_caller]
    fn refused(result: Result<impl std::fmt::Debug, ConfigErrors>, parts: &[&str]) {
        let text = result.unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn the_documented_service_body_is_read() {
        let definition = service(
            r#"{
  "ID": "redis1",
  "Name": "redis",
  "Tags": ["primary", "v1"],
  "Address": "127.0.0.1",
  "Port": 8000,
  "Meta": {"redis_version": "4.0"},
  "EnableTagOverride": false,
  "Check": {
    "DeregisterCriticalServiceAfter": "90m",
    "HTTP": "http://localhost:5000/health",
    "Interval": "10s",
    "Timeout": "5s"
  },
  "Weights": {"Passing": 10, "Warning": 1}
}"#,
        );
        let instance = &definition.instance;
        assert_eq!((instance.id.as_str(), instance.service.as_str(), instance.port), ("redis1", "redis", 8000));
        assert_eq!(instance.weights, Weights { passing: 10, warning: 1 });
        assert_eq!((instance.protocol, definition.source.as_str()), (Protocol::Tcp, "the API"));
        assert_eq!(instance.meta["redis_version"], "4.0");
        let [check] = definition.checks.as_slice() else { panic!() };
        assert_eq!((check.id.as_str(), check.name.as_str()), ("service:redis1", "Service 'redis' check"));
        assert_eq!((check.initial, check.deregister_after), (Health::Critical, Some(Duration::from_secs(5400))));
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(10), Duration::from_secs(5)));
    }

    #[test]
    fn a_body_that_writes_null_and_empty_for_nothing_says_nothing() {
        let definition = service(
            r#"{"ID":"","Name":"web","Tags":null,"Port":0,"Address":"","SocketPath":"","EnableTagOverride":false,
                "Kind":"","Meta":null,"Weights":null,"Check":null,"Checks":null,"Proxy":null,"Connect":null,
                "TaggedAddresses":{},"Namespace":"","Partition":"default","Locality":null,"Token":"secret"}"#,
        );
        assert_eq!((definition.instance.id.as_str(), definition.instance.port), ("web", 0));
        assert_eq!((definition.instance.address, definition.checks.len()), (None, 0));
        assert_eq!(definition.instance.weights, Weights::default());
        assert_eq!(service(r#"{"name":"web","check":{},"connect":{"native":false}}"#).checks, []);
    }

    #[test]
    fn check_and_checks_may_both_be_there_and_are_numbered() {
        let definition = service(
            r#"{"Name":"web","Port":80,"Check":{"TTL":"15s"},
                "Checks":[{"TCP":"localhost:80","Interval":"10s","Status":"passing"},
                          {"CheckID":"mine","Name":"Mine","GRPC":"127.0.0.1:9000/health.v1","GRPCUseTLS":true,
                           "TLSSkipVerify":true,"Interval":10000000000,"Timeout":500000000,"Notes":"n"}]}"#,
        );
        let ids: Vec<_> = definition.checks.iter().map(|check| check.id.as_str()).collect();
        assert_eq!(ids, ["service:web:1", "service:web:2", "mine"]);
        let [ttl, tcp, grpc] = definition.checks.as_slice() else { panic!() };
        assert_eq!(ttl.kind, CheckKind::Ttl { ttl: Duration::from_secs(15) });
        assert_eq!((tcp.initial, tcp.timeout), (Health::Passing, Duration::from_secs(10)));
        let tls = Some(CheckTls { skip_verify: true, ..CheckTls::default() });
        let target = CheckTarget { host: "127.0.0.1".into(), port: 9000 };
        assert_eq!(grpc.kind, CheckKind::Grpc { target, service: "health.v1".into(), tls });
        assert_eq!((grpc.interval, grpc.timeout), (Duration::from_secs(10), Duration::from_millis(500)));
        assert_eq!((grpc.name.as_str(), grpc.notes.as_str()), ("Mine", "n"));
    }

    #[test]
    fn the_documented_checks_are_read() {
        let http = check(
            r#"{"id":"api","name":"HTTP API on port 5000","http":"https://localhost:5000/health","tls_server_name":"",
                "tls_skip_verify":false,"method":"POST","header":{"Content-Type":["application/json"]},
                "body":"{\"method\":\"health\"}","disable_redirects":true,"interval":"10s","timeout":"1s"}"#,
        );
        let CheckKind::Http { method, headers, body, tls, .. } = &http.check.kind else { panic!("{http:?}") };
        assert_eq!((method.as_str(), body.as_str()), ("POST", r#"{"method":"health"}"#));
        assert_eq!(headers, &[("Content-Type".to_owned(), "application/json".to_owned())]);
        assert_eq!((tls, http.service), (&Some(CheckTls::default()), None));
        let ttl = check(r#"{"Name":"Web App Status","Notes":"Web app does a curl internally","TTL":"30s"}"#);
        assert_eq!((ttl.check.id.as_str(), ttl.check.name.as_str()), ("Web App Status", "Web App Status"));
        let udp = check(r#"{"ID":"dns","Name":"DNS UDP","UDP":"localhost:53","Interval":"10s","ServiceID":"dns-1"}"#);
        assert_eq!(udp.check.kind, CheckKind::Udp { target: CheckTarget { host: "localhost".into(), port: 53 } });
        assert_eq!(udp.service.unwrap().as_str(), "dns-1");
        let alias = check(r#"{"CheckID":"a","Name":"a","serviceid":"web","AliasService":"db","AliasNode":"db-01"}"#);
        let CheckKind::Alias { node: Some(node), service: Some(service) } = alias.check.kind else { panic!() };
        assert_eq!((node.as_str(), service.as_str(), alias.check.id.as_str()), ("db-01", "db", "a"));
        let raised = check(r#"{"Name":"a","TTL":"1s","DeregisterCriticalServiceAfter":"5s"}"#);
        assert_eq!(raised.check.deregister_after, Some(Duration::from_secs(60)), "as Consul does");
    }

    #[test]
    fn every_refusal_says_where_and_what_to_do() {
        let of_service = |json: &str| service_registration(json.as_bytes());
        let of_check = |json: &str| check_registration(json.as_bytes());
        refused(of_service(""), &["request body:1: not JSON"]);
        refused(of_service("[]"), &["request body:1: it holds a list, not an object", r#"write {"Name""#]);
        refused(of_service("{}"), &["request body: a service without `name`; add \"name\": \"billing\""]);
        refused(
            of_service("{\n\"Name\": \"web\",\n\"Prt\": 80}"),
            &["request body:3: unknown key `prt`; did you mean `port`?"],
        );
        refused(
            of_service(r#"{"Name":"web","Port":"80"}"#),
            &["port must be a whole number, not text", r#""port": 0"#],
        );
        refused(of_service(r#"{"Name":"web","Port":70000}"#), &["port = 70000 is out of range"]);
        refused(of_service(r#"{"Name":"Web"}"#), &["has the character 'W'"]);
        refused(of_service(r#"{"Name":"web","name":"web"}"#), &["there twice, in two spellings"]);
        refused(
            of_service(r#"{"Name":"web","Connect":{"SidecarService":{"Port":1}}}"#),
            &["`connect` is not supported"],
        );
        refused(of_service(r#"{"Name":"web","Namespace":"team"}"#), &["`namespace` is not supported"]);
        refused(of_service(r#"{"Name":"web","Check":{"Interval":"10s"}}"#), &["a check that does nothing"]);
        refused(of_service(r#"{"Name":"web","Weights":{"Passing":0}}"#), &["weights.passing = 0 is out of range"]);
        let script = r#"{"Name":"web","Check":{"Args":["/usr/local/bin/check_redis.py"],"Interval":"10s"}}"#;
        refused(of_service(script), &["a check that runs a program cannot be registered by the API", "services.d"]);
        let twice = r#"{"Name":"web","Checks":[{"CheckID":"a","TTL":"1s"},{"CheckID":"a","TTL":"1s"}]}"#;
        refused(of_service(twice), &["the check id \"a\" is there twice"]);
        let itself = r#"{"Name":"web","Check":{"AliasService":"web"}}"#;
        refused(of_service(itself), &["as healthy as itself"]);
        refused(of_check(r#"{"Name":"a","CheckID":"_service_maintenance:web","TTL":"1s"}"#), &["that the agent makes"]);
        refused(of_check(r#"{"Name":"_node_maintenance","TTL":"1s"}"#), &["that the agent makes"]);
        refused(of_check(r#"{"TTL":"30s"}"#), &["a check without `name`"]);
        refused(of_check(r#"{"Name":"a","TTL":"30s","Interval":"10s"}"#), &["`interval` in a check of the kind ttl"]);
        refused(of_check(r#"{"Name":"a","TTL":"30 s"}"#), &["\"30 s\" is not a length of time", "\"1m30s\""]);
        refused(of_check(r#"{"Name":"a","TTL":-1}"#), &["ttl = -1 is no number of nanoseconds"]);
        refused(of_check(r#"{"Name":"a","TTL":1.5}"#), &["ttl must be a length of time, not a fraction"]);
        refused(of_check(r#"{"Name":"a","HTTP":"http://x/","TCP":"x:1"}"#), &["both `http` and `tcp`"]);
        refused(of_check(r#"{"Name":"a","HTTP":"http://x/","Method":"G T"}"#), &["no method for a check"]);
        let framed = r#"{"Name":"a","HTTP":"http://x/","Header":{"Content-Length":["1"]}}"#;
        refused(of_check(framed), &["header: \"Content-Length\" is not the check's to set"]);
        let split = r#"{"Name":"a","HTTP":"http://x/","Header":{"X":["a\r\nb"]}}"#;
        refused(of_check(split), &["has a value that no header can have"]);
        refused(of_check(r#"{"Name":"a","TTL":"1s","Status":"fine"}"#), &["\"fine\" is no state of health"]);
        refused(of_check(r#"{"Name":"a","HTTP":"http://x/","TLSRoots":"/etc/shadow"}"#), &["unknown key `tls_roots`"]);
        refused(of_check(r#"{"Name":"a","H2PING":"x:1"}"#), &["`h2ping` is not supported; use a grpc or tcp check"]);
        refused(check_registration(b"\xff"), &["not UTF-8"]);
        refused(check_registration(&vec![b' '; 2_000_000]), &["2000000 bytes; send at most 1048576"]);
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics_and_a_refusal_always_says_why(text in BODIES) {
            for error in [service_registration(text.as_bytes()).err(), check_registration(text.as_bytes()).err()] {
                assert!(error.is_none_or(|errors| !errors.0.is_empty() && !errors.to_string().is_empty()), "{text}");
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = (service_registration(&bytes), check_registration(&bytes));
        }
    }

    /// Objects of known and unknown keys with values of every kind.
    const BODIES: &str = concat!(
        r#"\{("(Name|ID|Port|Tags|Meta|Check|Checks|Weights|HTTP|TCP|UDP|GRPC|TTL|Args|AliasNode|AliasService|Systemd"#,
        r#"|Header|Interval|Timeout|Status|ServiceID|TLSSkipVerify|Connect|Namespace|x)":"#,
        r#"(null|true|0|-1|1e9|99999999999999999999|"[a-z0-9:/.\[\]]{0,12}"|\[("a")?\]"#,
        r#"|\{("(TTL|HTTP|Passing|x)":("1s"|"http://a/"|7|null))?\}),){0,5}"Name":"web"\}"#
    );
}
