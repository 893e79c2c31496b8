//! UDP checks, as Consul has them: a datagram is sent, and only an ICMP refusal is a failure. No answer within the timeout
//! passes, because most services that speak UDP do not answer what they do not understand.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

use super::Attempt;
use crate::config::CheckTarget;
use crate::model::Health;

/// Not empty: some kernels and middleboxes drop datagrams without a body.
const DATAGRAM: &[u8] = b"\n";

/// One attempt.
pub(super) async fn attempt(target: &CheckTarget, timeout: Duration) -> Attempt {
    match tokio::time::timeout(timeout, exchange(target)).await {
        Ok(Ok(bytes)) => Attempt::new(Health::Passing, format!("UDP {target}: answered with {bytes} bytes")),
        Ok(Err(error)) => Attempt::critical(format!("UDP {target}: {error}")),
        Err(_) => Attempt::new(Health::Passing, format!("UDP {target}: sent, and not refused within {timeout:?}")),
    }
}

async fn exchange(target: &CheckTarget) -> io::Result<usize> {
    let addresses = lookup_host((target.host.as_str(), target.port)).await?;
    let address = addresses.into_iter().next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(DATAGRAM).await?;
    // What is longer is cut by the kernel: that it answers is all that counts.
    socket.recv(&mut [0; 64]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn bound() -> (UdpSocket, CheckTarget) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, CheckTarget { host: "127.0.0.1".into(), port })
    }

    #[tokio::test]
    async fn silence_passes_and_an_icmp_refusal_fails() {
        let (socket, target) = bound().await;
        let silent = attempt(&target, SHORT).await;
        assert_eq!(silent.health, Health::Passing);
        assert!(silent.output.contains("not refused within 50ms"), "{}", silent.output);
        drop(socket);
        let refused = attempt(&target, Duration::from_secs(5)).await;
        assert_eq!(refused.health, Health::Critical);
        assert!(refused.output.contains("refused"), "{}", refused.output);
    }

    #[tokio::test]
    async fn an_answer_ends_the_wait() {
        let (socket, target) = bound().await;
        tokio::spawn(async move {
            let (_, from) = socket.recv_from(&mut [0; 8]).await.unwrap();
            socket.send_to(b"pong", from).await.unwrap();
        });
        let answered = attempt(&target, Duration::from_secs(5)).await;
        assert_eq!(answered.output, format!("UDP {target}: answered with 4 bytes"));
    }
}
