//! Delivery to a service of this host, from an address of Weft's own, and what goes with a call made again.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Settings;
use super::link::{Link, LinkError};
use super::relay::Early;
use crate::config::DELIVERY_SOURCE;
use crate::model::Instance;
use crate::wire::frame::FrameHeader;

/// With reusable ports the kernel may choose one that is in use towards the same service; the next is another.
const PORT_TRIES_MAX: u32 = 4;

/// Connects to where the instance listens.
pub(super) async fn connect(instance: &Instance, settings: &Settings) -> io::Result<TcpStream> {
    let address = instance.delivery();
    if let IpAddr::V4(ip) = address.ip()
        && settings.vip_range.contains(&ip)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an instance inside the VIP range would loop"));
    }
    let tcp = timeout(settings.delivery_timeout, dial(address)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let mut tries = PORT_TRIES_MAX;
    loop {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            // Ports in TIME_WAIT may be taken again, else a busy service would use them all up within a minute.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((DELIVERY_SOURCE, 0)))?;
        }
        match socket.connect(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && tries > 1 => tries -= 1,
            connected => return connected,
        }
    }
}

/// Sends what the caller has sent so far.
pub(super) async fn send_early(service: &mut TcpStream, early: &Early) -> io::Result<()> {
    if !early.bytes.is_empty() {
        service.write_all(&early.bytes).await?;
    }
    if early.eof {
        service.shutdown().await?;
    }
    Ok(())
}

/// Queues what the caller has sent so far.
pub(super) fn resend_early(link: &mut Link, early: &Early) -> Result<(), LinkError> {
    if !early.bytes.is_empty() {
        let header = FrameHeader::data(early.bytes.len()).ok_or(LinkError::Protocol("early data over the limit"))?;
        link.send(&[&header.encode()[..], &early.bytes].concat())?;
    }
    if early.eof {
        link.send(&FrameHeader::FIN.encode())?;
    }
    Ok(())
}
