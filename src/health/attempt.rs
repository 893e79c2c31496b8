//! One attempt of one check. Keeps nothing, decides nothing beyond the result of this one attempt, and always ends within
//! its timeout.

use std::time::Duration;

use super::tls::Tls;
use super::{grpc, http, program, script, systemd, tcp, udp};
use crate::config::CheckKind;
use crate::model::Health;

/// How much of what a check says is kept: enough for a sentence of the service's own, as Consul keeps 4 KiB.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The result: a passing or warning answer, or critical for every failure.
    pub health: Health,
    /// For people: what was tried and what came back, at most [`OUTPUT_BYTES_MAX`].
    pub output: String,
}

impl Attempt {
    pub(super) fn new(health: Health, output: String) -> Attempt {
        Attempt { health, output: capped(output) }
    }

    pub(super) fn critical(output: String) -> Attempt {
        Attempt::new(Health::Critical, output)
    }
}

/// Cut at the limit, between two characters.
pub(super) fn capped(mut output: String) -> String {
    if output.len() > OUTPUT_BYTES_MAX {
        let end = (0..=OUTPUT_BYTES_MAX).rev().find(|&at| output.is_char_boundary(at)).unwrap_or(0);
        output.truncate(end);
    }
    output
}

/// What attempts of all checks share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    /// The system's roots, and how TLS is spoken.
    pub(super) tls: Tls,
    /// How many programs may run at once.
    pub(super) programs: program::Slots,
}

/// Makes one attempt. Ends within `timeout`, which counts as critical; a UDP check that hears nothing passes.
pub(super) async fn attempt(kind: &CheckKind, timeout: Duration, shared: &Shared) -> Attempt {
    match kind {
        CheckKind::Http { url, target, path, method, headers, body, tls } => {
            let ask = http::Ask { url, target, path, method, headers, body, tls: tls.as_ref() };
            let attempt = tokio::time::timeout(timeout, ask.attempt(&shared.tls)).await;
            attempt.unwrap_or_else(|_| Attempt::critical(format!("{}: {}", ask.title(), late(timeout))))
        }
        CheckKind::Tcp { target, tls } => {
            let attempt = tokio::time::timeout(timeout, tcp::attempt(target, tls.as_ref(), &shared.tls)).await;
            attempt.unwrap_or_else(|_| Attempt::critical(format!("TCP connect {target}: {}", late(timeout))))
        }
        CheckKind::Grpc { target, service, tls } => {
            let attempt =
                tokio::time::timeout(timeout, grpc::attempt(target, service, tls.as_ref(), &shared.tls)).await;
            attempt.unwrap_or_else(|_| Attempt::critical(format!("gRPC health of {target}: {}", late(timeout))))
        }
        CheckKind::Udp { target } => udp::attempt(target, timeout).await,
        CheckKind::Script { args } => script::attempt(args, timeout, &shared.programs).await,
        CheckKind::Systemd { unit } => systemd::attempt(unit, timeout, &shared.programs).await,
        // These are told, not tried: `ttl` and `alias` wait for what they are told.
        CheckKind::Ttl { .. } | CheckKind::Alias { .. } => {
            Attempt::critical(format!("{} checks are not tried", kind.as_str()))
        }
    }
}

fn late(timeout: Duration) -> String {
    format!("no answer within {timeout:?}")
}
