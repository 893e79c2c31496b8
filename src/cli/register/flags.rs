//! A service described on the command line, to the body of `PUT /v1/agent/service/register`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::body::duration;
use crate::cli::output::{CliError, EXIT_USAGE};

/// A service without a file.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "Described", multiple = true)]
pub(super) struct Described {
    /// The service's name
    #[arg(long)]
    name: Option<String>,
    /// Where the process listens
    #[arg(long, requires = "name", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Unique on this host [default: the name]
    #[arg(long, requires = "name")]
    id: Option<String>,
    /// A tag; may be given several times
    #[arg(long = "tag", requires = "name", value_name = "TAG")]
    tags: Vec<String>,
    /// Where the process listens, if not on 127.0.0.1 or everywhere
    #[arg(long, requires = "name", value_name = "IP")]
    address: Option<std::net::IpAddr>,
    /// What it speaks
    #[arg(long, requires = "name", value_parser = ["tcp", "http", "http2", "grpc"])]
    protocol: Option<String>,
    /// A key-value pair; may be given several times
    #[arg(long, requires = "name", value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// http=URL, tcp=ADDR, udp=ADDR, grpc=ADDR, ttl=DURATION or systemd=UNIT; may be given several times
    #[arg(long = "check", requires = "name", value_name = "KIND=TARGET", value_parser = pair)]
    checks: Vec<(String, String)>,
    /// From one attempt of a check to the next [default: 10s]
    #[arg(long, requires = "checks", value_name = "DURATION", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
}

const CHECK_KINDS: [&str; 6] = ["http", "tcp", "udp", "grpc", "ttl", "systemd"];

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

impl Described {
    /// The agent checks what is in it; here only what clap cannot say.
    pub(super) fn body(&self) -> Result<Value, CliError> {
        let usage = |message: &str, advice: &str| CliError::failed(message, advice).exiting(EXIT_USAGE);
        let name = self.name.as_ref().ok_or_else(|| usage("a service without a name", "give --name"))?;
        let Some(port) = self.port else {
            return Err(usage(&format!("no port is given for {name}"), "add --port PORT, where the process listens"));
        };
        let mut body = Map::from_iter([("name".to_owned(), json!(name)), ("port".to_owned(), json!(port))]);
        let mut given = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        given("id", self.id.as_ref().map(|id| json!(id)));
        given("address", self.address.map(|address| json!(address)));
        given("protocol", self.protocol.as_ref().map(|protocol| json!(protocol)));
        given("tags", (!self.tags.is_empty()).then(|| json!(self.tags)));
        let meta: Map<String, Value> = self.meta.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        given("meta", (!meta.is_empty()).then_some(Value::Object(meta)));
        let checks =
            self.checks.iter().map(|(kind, target)| self.check(kind, target)).collect::<Result<Vec<_>, _>>()?;
        given("checks", (!checks.is_empty()).then_some(Value::Array(checks)));
        Ok(Value::Object(body))
    }

    fn check(&self, kind: &str, target: &str) -> Result<Value, CliError> {
        if !CHECK_KINDS.contains(&kind) {
            let advice = format!(
                "write one of {}, e.g. --check tcp=127.0.0.1:8080",
                CHECK_KINDS.map(|kind| format!("{kind}=")).join(" ")
            );
            return Err(CliError::failed(format!("{kind:?} is no kind of check"), advice).exiting(EXIT_USAGE));
        }
        let mut check = Map::from_iter([(kind.to_owned(), json!(target))]);
        if kind != "ttl" {
            // Consul asks for an interval of everything that is tried.
            let interval = self.interval.unwrap_or(Duration::from_secs(10));
            check.insert("interval".into(), json!(duration(interval)));
        }
        Ok(Value::Object(check))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        described: Described,
    }

    fn body(words: &str) -> Result<Value, String> {
        let words = Words::try_parse_from(format!("x {words}").split(' ')).map_err(|error| error.to_string())?;
        words.described.body().map_err(|error| error.to_string())
    }

    #[test]
    fn options_become_consuls_body() {
        let words = "--name web --port 8080 --id web-2 --tag v2 --tag blue --protocol http --meta team=pay \
                     --check http=http://127.0.0.1:8080/?a=b --check ttl=30s --interval 1500ms";
        let expected = json!({
            "name": "web", "port": 8080, "id": "web-2", "tags": ["v2", "blue"], "protocol": "http",
            "meta": { "team": "pay" },
            "checks": [{ "http": "http://127.0.0.1:8080/?a=b", "interval": "1500ms" }, { "ttl": "30s" }],
        });
        assert_eq!(body(&words.split_whitespace().collect::<Vec<_>>().join(" ")), Ok(expected));
        assert_eq!(body("--name web --port 80"), Ok(json!({ "name": "web", "port": 80 })));
    }

    #[test]
    fn what_is_missing_or_unknown_is_told() {
        assert!(body("--name web").unwrap_err().contains("--port"));
        assert!(body("--name web --port 80 --check ping=x").unwrap_err().contains("no kind of check"));
        assert!(body("--name web --port 80 --check tcp").unwrap_err().contains("KEY=VALUE"));
        assert!(body("--name web --port 0").is_err() && body("--port 80").is_err());
    }
}
