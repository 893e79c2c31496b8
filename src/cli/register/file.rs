//! A service file to bodies of `PUT /v1/agent/service/register`, one a service.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::Value;

use super::{body, field};
use crate::cli::output::{CliError, EXIT_USAGE};
use crate::config::{CheckKind, Config};

/// As much as the agent reads of a service file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads TOML or JSON; which of the two shows in the ending, or in the first character.
pub(super) fn read(path: &Path) -> Result<Vec<Value>, CliError> {
    let text = text(path).map_err(|error| {
        CliError::failed(format!("cannot read {}: {error}", path.display()), "name a file with a service in it")
    })?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let looks_like_json = text.trim_start().starts_with('{');
    let bodies = match ending {
        "json" => json(path, &text),
        "toml" => toml(path, &text),
        _ if looks_like_json => json(path, &text),
        _ => toml(path, &text),
    }?;
    match bodies.is_empty() {
        true => {
            Err(wrong(path, "there is no service in it", r#"write [[service]] and below it name = "web", port = 8080"#))
        }
        false => Ok(bodies),
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Weft's form, checked here with lines and advice.
fn toml(path: &Path, text: &str) -> Result<Vec<Value>, CliError> {
    let config = Config::from_text(text, path).map_err(|errors| {
        let advice = "correct the file and register again";
        CliError::failed(format!("{} is no service file\n{errors}", path.display()), advice).exiting(EXIT_USAGE)
    })?;
    let of_files_only =
        config.services.iter().flat_map(|service| &service.checks).find(|check| is_of_files_only(&check.kind));
    let says_who_calls = config.services.iter().find(|service| !service.callers.is_empty());
    if let Some(service) = says_who_calls {
        let advice = "put the file into /etc/weft/services.d/ and run: weft reload";
        let what = format!("{} has `unit`, `user` or `cgroup`, which only files may say", service.instance.id);
        return Err(wrong(path, &what, advice));
    }
    match of_files_only {
        Some(check) => {
            let advice = "put the file into /etc/weft/services.d/ and run: weft reload";
            Err(wrong(path, &format!("the check {} runs a program or reads a file of this host", check.id), advice))
        }
        None => Ok(config.services.iter().map(body::of).collect()),
    }
}

/// Whoever reaches the API may not have the agent run programs or read files.
fn is_of_files_only(kind: &CheckKind) -> bool {
    match kind {
        CheckKind::Script { .. } => true,
        CheckKind::Http { tls, .. } | CheckKind::Tcp { tls, .. } | CheckKind::Grpc { tls, .. } => {
            tls.as_ref().is_some_and(|tls| tls.roots.is_some())
        }
        CheckKind::Udp { .. } | CheckKind::Ttl { .. } | CheckKind::Alias { .. } | CheckKind::Systemd { .. } => false,
    }
}

/// Consul's form: `{"service": {...}}`, `{"services": [...]}`, or the API's body itself. The agent checks what is in it.
fn json(path: &Path, text: &str) -> Result<Vec<Value>, CliError> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| wrong(path, &format!("not JSON: {error}"), "correct it there"))?;
    let services = [field(&value, "service"), field(&value, "services")];
    let bodies = services.into_iter().flatten().flat_map(|found| match found {
        Value::Array(services) => services.clone(),
        other => vec![other.clone()],
    });
    let mut bodies: Vec<Value> = bodies.collect();
    if bodies.is_empty() && field(&value, "name").is_some() {
        bodies.push(value);
    }
    match bodies.iter().any(|body| field(body, "name").and_then(Value::as_str).is_none_or(str::is_empty)) {
        true => Err(wrong(path, "a service without a name", r#"write {"service": {"name": "web", "port": 8080}}"#)),
        false => Ok(bodies),
    }
}

fn wrong(path: &Path, what: &str, advice: &str) -> CliError {
    CliError::failed(format!("{}: {what}", path.display()), advice).exiting(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn read_as(name: &str, text: &str) -> Result<Vec<Value>, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_toml_file_becomes_consuls_body() {
        let text = "[[service]]\nname = \"pg\"\nid = \"pg-1\"\nport = 5432\ntags = [\"primary\"]\nvip_port = 6432\n\
                    meta = { version = \"17\" }\n[[service.check]]\ntcp = \"127.0.0.1:5432\"\ninterval = \"1m30s\"\n\
                    timeout = \"500ms\"\nfailures_before_critical = 2\ninitial = \"passing\"\n";
        let expected = json!({
            "name": "pg", "id": "pg-1", "port": 5432, "protocol": "tcp", "vip_port": 6432,
            "tags": ["primary"], "meta": { "version": "17" },
            "weights": { "passing": 1, "warning": 1 },
            "checks": [{
                "check_id": "service:pg-1", "name": "Service 'pg' check", "tcp": "127.0.0.1:5432",
                "interval": "90s", "timeout": "500ms", "status": "passing",
                "success_before_passing": 1, "failures_before_warning": 2, "failures_before_critical": 2,
            }],
        });
        assert_eq!(read_as("pg.toml", text).unwrap(), [expected]);
    }

    #[test]
    fn every_form_of_consuls_json_is_taken_and_sent_as_it_is() {
        let web = json!({ "Name": "web", "Port": 8080 });
        for text in [json!({ "Service": web }), json!({ "services": [web] }), web.clone()] {
            for name in ["web.json", "web"] {
                assert_eq!(read_as(name, &text.to_string()).unwrap(), std::slice::from_ref(&web), "{name}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_file_and_its_line() {
        let error = read_as("web.toml", "[[service]]\nname = \"web\"\nport = 80800\n").unwrap_err();
        assert!(error.message.contains("web.toml:3:"), "{error}");
        assert_eq!(error.exit_code, EXIT_USAGE);
        assert!(read_as("x.toml", "").unwrap_err().message.contains("no service"));
        assert!(read_as("x.json", "{\"service\": {\"port\": 1}}").unwrap_err().message.contains("without a name"));
        assert!(read_as("x.json", "{").unwrap_err().message.contains("not JSON"));
    }
}
