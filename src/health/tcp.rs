//! Connects: a connect that succeeds passes, and where TLS is asked for, a handshake with it. HTTP and gRPC checks begin
//! with the same.

use std::io;

use tokio::net::TcpStream;

use super::Attempt;
use super::tls::{Tls, TlsError};
use crate::config::{CheckTarget, CheckTls};
use crate::model::Health;

/// One attempt.
pub(super) async fn attempt(target: &CheckTarget, tls: Option<&CheckTls>, shared: &Tls) -> Attempt {
    let made = async {
        let stream = connect(target).await.map_err(|error| format!("TCP connect {target}: {error}"))?;
        let Some(tls) = tls else { return Ok(format!("TCP connect {target}: success")) };
        let handshake = shared.handshake(tls, target, &[], stream).await;
        handshake.map_err(|error: TlsError| format!("TLS with {target}: {error}"))?;
        Ok(format!("TCP connect {target} and TLS handshake: success"))
    };
    match made.await {
        Ok(output) => Attempt::new(Health::Passing, output),
        Err::<_, String>(output) => Attempt::critical(output),
    }
}

/// Connects to one of the target's addresses.
pub(super) async fn connect(target: &CheckTarget) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    // Where nobody listens on a port of the ephemeral range, a connect over loopback may pick that very port as its
    // source and meet itself (TCP's simultaneous open). That is no service.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::super::attempt::{Shared, attempt};
    use super::*;
    use crate::config::CheckKind;

    #[tokio::test]
    async fn a_tcp_check_passes_while_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = CheckTarget { host: "localhost".into(), port: listener.local_addr().unwrap().port() };
        let kind = CheckKind::Tcp { target, tls: None };
        let patience = Duration::from_secs(5);
        assert_eq!(attempt(&kind, patience, &Shared::default()).await.health, Health::Passing);
        drop(listener);
        let answer = attempt(&kind, patience, &Shared::default()).await;
        assert_eq!(answer.health, Health::Critical);
        assert!(answer.output.contains("refused"), "{}", answer.output);
    }
}
