//! A checked service definition as the body that Consul's API takes; beside Consul's keys are Weft's `protocol`,
//! `vip_port`, `timeout` and `systemd`. Pure.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::{CheckDefinition, CheckKind, CheckTls, ServiceDefinition};

/// The body of `PUT /v1/agent/service/register`.
pub(super) fn of(definition: &ServiceDefinition) -> Value {
    let instance = &definition.instance;
    let mut body = Map::new();
    body.insert("name".into(), json!(instance.service.as_str()));
    body.insert("id".into(), json!(instance.id.as_str()));
    body.insert("protocol".into(), json!(instance.protocol.as_str()));
    body.insert("tags".into(), json!(instance.tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>()));
    body.insert("meta".into(), json!(instance.meta));
    let weights = instance.weights;
    body.insert("weights".into(), json!({ "passing": weights.passing, "warning": weights.warning }));
    body.insert("checks".into(), definition.checks.iter().map(check).collect());
    if instance.port != 0 {
        body.insert("port".into(), json!(instance.port));
    }
    if let Some(address) = instance.address {
        body.insert("address".into(), json!(address));
    }
    if let Some(port) = instance.vip_port {
        body.insert("vip_port".into(), json!(port));
    }
    if let Some(timeout) = instance.request_timeout {
        body.insert("timeout".into(), json!(duration(timeout)));
    }
    Value::Object(body)
}

fn check(definition: &CheckDefinition) -> Value {
    let mut check = kind(&definition.kind);
    check.insert("check_id".into(), json!(definition.id));
    check.insert("name".into(), json!(definition.name));
    check.insert("status".into(), json!(definition.initial.as_str()));
    if !definition.notes.is_empty() {
        check.insert("notes".into(), json!(definition.notes));
    }
    // Consul's: of these two kinds nothing is tried, so nothing has an interval.
    if !is_told(&definition.kind) {
        check.insert("interval".into(), json!(duration(definition.interval)));
        check.insert("timeout".into(), json!(duration(definition.timeout)));
        check.insert("success_before_passing".into(), json!(definition.success_before_passing));
        check.insert("failures_before_warning".into(), json!(definition.failures_before_warning));
        check.insert("failures_before_critical".into(), json!(definition.failures_before_critical));
    }
    if let Some(after) = definition.deregister_after {
        check.insert("deregister_critical_service_after".into(), json!(duration(after)));
    }
    Value::Object(check)
}

fn is_told(kind: &CheckKind) -> bool {
    matches!(kind, CheckKind::Ttl { .. } | CheckKind::Alias { .. })
}

fn kind(kind: &CheckKind) -> Map<String, Value> {
    let mut check = Map::new();
    match kind {
        CheckKind::Http { url, method, headers, body, tls, .. } => {
            check.insert("http".into(), json!(url));
            check.insert("method".into(), json!(method));
            let mut header: Map<String, Value> = Map::new();
            for (name, value) in headers {
                let values = header.entry(name.clone()).or_insert_with(|| json!([]));
                if let Value::Array(values) = values {
                    values.push(json!(value));
                }
            }
            if !header.is_empty() {
                check.insert("header".into(), Value::Object(header));
            }
            if !body.is_empty() {
                check.insert("body".into(), json!(body));
            }
            add_tls(&mut check, tls.as_ref(), None);
        }
        CheckKind::Tcp { target, tls } => {
            check.insert("tcp".into(), json!(target.to_string()));
            add_tls(&mut check, tls.as_ref(), Some("tcp_use_tls"));
        }
        CheckKind::Udp { target } => {
            check.insert("udp".into(), json!(target.to_string()));
        }
        CheckKind::Grpc { target, service, tls } => {
            let service = if service.is_empty() { String::new() } else { format!("/{service}") };
            check.insert("grpc".into(), json!(format!("{target}{service}")));
            add_tls(&mut check, tls.as_ref(), Some("grpc_use_tls"));
        }
        CheckKind::Ttl { ttl } => {
            check.insert("ttl".into(), json!(duration(*ttl)));
        }
        CheckKind::Script { args } => {
            check.insert("args".into(), json!(args));
        }
        CheckKind::Alias { node, service } => {
            if let Some(node) = node {
                check.insert("alias_node".into(), json!(node.as_str()));
            }
            if let Some(service) = service {
                check.insert("alias_service".into(), json!(service.as_str()));
            }
        }
        CheckKind::Systemd { unit } => {
            check.insert("systemd".into(), json!(unit));
        }
    }
    check
}

fn add_tls(check: &mut Map<String, Value>, tls: Option<&CheckTls>, switch: Option<&str>) {
    // Roots of a file are not among Consul's keys: `file` refuses them.
    let Some(CheckTls { server_name, skip_verify, roots: _ }) = tls else { return };
    if let Some(switch) = switch {
        check.insert(switch.into(), json!(true));
    }
    if let Some(name) = server_name {
        check.insert("tls_server_name".into(), json!(name));
    }
    if *skip_verify {
        check.insert("tls_skip_verify".into(), json!(true));
    }
}

/// In Go's words, which know no spaces and no days.
pub(super) fn duration(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, service_registration};

    /// Everything that a service file can say, but for what is of files only.
    const ALL: &str = r#"
        [[service]]
        name = "pg"
        id = "pg-1"
        port = 5432
        address = "10.0.0.1"
        protocol = "http"
        vip_port = 6432
        timeout = "1500ms"
        tags = ["primary", "v2"]
        meta = { version = "17" }
        weights = { passing = 3, warning = 2 }
        [[service.check]]
        id = "alive"
        name = "it answers"
        notes = "ask the pay team"
        http = "https://10.0.0.1:5432/health?deep"
        method = "POST"
        header = { X-Asked-By = ["weft"] }
        body = "{}"
        tls_server_name = "pg.example.net"
        tls_skip_verify = true
        interval = "2s"
        timeout = "250ms"
        initial = "warning"
        success_before_passing = 2
        failures_before_warning = 3
        failures_before_critical = 5
        [[service.check]]
        http = "http://10.0.0.1:5432/"
        [[service.check]]
        tcp = "10.0.0.1:5432"
        tcp_use_tls = true
        [[service.check]]
        tcp = "[::1]:5432"
        [[service.check]]
        udp = "10.0.0.1:53"
        [[service.check]]
        grpc = "10.0.0.1:50051/pay.Ledger"
        grpc_use_tls = true
        [[service.check]]
        ttl = "30s"
        [[service.check]]
        alias_service = "web"
        [[service.check]]
        alias_node = "db-01"
        [[service.check]]
        systemd = "postgresql.service"
        [[service]]
        name = "small"
        port = 80
    "#;

    #[test]
    fn the_agent_reads_from_the_body_what_the_file_said() {
        let config = Config::from_text(ALL, Path::new("pg.toml")).unwrap();
        for mut definition in config.services {
            let mut read = service_registration(of(&definition).to_string().as_bytes()).unwrap();
            for either in [&mut definition, &mut read] {
                either.source.clear();
                // Nothing is tried, so these mean nothing.
                let told = either.checks.iter_mut().filter(|check| is_told(&check.kind));
                told.for_each(|check| check.timeout = check.interval);
            }
            assert_eq!(read, definition);
        }
    }
}
