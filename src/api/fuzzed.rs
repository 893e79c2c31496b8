//! What programs send to the API, for the fuzzer: a request goes the way that it goes in `responder`, without a connection.
//! Nothing here is called by the agent.

use std::time::SystemTime;

use bytes::Bytes;
use hyper::{Method, Uri};
use serde_json::Value;
use tokio::sync::oneshot;

use super::consul::View;
use super::parameters::{resource, waiting};
use super::request::Asked;
use super::router::route;
use super::writes::decide;
use super::{Limits, Local, Settings, Traffic, keyring};
use crate::model::{Directory, NodeName};

/// A line of method, a space and a target, and after it the body.
pub fn request(data: &[u8], directory: &Directory) {
    let (line, body) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let body = body.get(1..).unwrap_or_default();
    let Some((method, target)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' ')) else { return };
    let (Ok(method), Ok(target)) = (Method::from_bytes(method.as_bytes()), target.parse::<Uri>()) else { return };
    let asked = Asked::new(method, target.path(), target.query().unwrap_or(""), false);
    let settings = Settings {
        listen: ([127, 0, 0, 1], 8500).into(),
        socket: None,
        cluster: "prod".into(),
        node: NodeName::parse("web-1").expect("a name"),
        domain: "mesh.internal".into(),
        version: "0".into(),
        writes_over_tcp: true,
        capture: None,
        roots: Vec::new(),
        tls: None,
        data_dir: None,
        limits: Limits::default(),
    };
    let _ = (keyring::decide(&asked), waiting(&asked, settings.limits.wait_max), resource(&asked));
    match decide(&asked) {
        Some(Ok(write)) => {
            let _ = write.command(Bytes::copy_from_slice(body), oneshot::channel().0);
        }
        Some(Err(_)) => {}
        None => {
            let local = Local::announced(directory);
            let view = View {
                directory,
                settings: &settings,
                local: &local,
                output: &|_| None,
                traffic: &Traffic::default,
                versions: &|_| None,
                now: SystemTime::UNIX_EPOCH,
            };
            let _ = route(&asked, &view);
        }
    }
    // Bodies whose path is known, whatever the line says.
    let _ = crate::config::service_registration(body);
    let _ = crate::config::check_registration(body);
    let _ = serde_json::from_slice::<Value>(body);
}
