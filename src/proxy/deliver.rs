//! Delivery to a service of this host, from an address of Weft's own.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Settings;
use crate::config::DELIVERY_SOURCE;
use crate::model::Instance;

/// With reusable ports the kernel may choose one that is in use towards the same service; the next is another.
const PORT_TRIES_MAX: u32 = 4;

/// Connects to where the instance listens.
pub(super) async fn connect(instance: &Instance, settings: &Settings) -> io::Result<TcpStream> {
    let address = instance.delivery();
    // An IPv4 address in IPv6 clothes is an IPv4 address.
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let refused = match address.ip() {
        IpAddr::V4(ip) if settings.vip_range.contains(&ip) => Some("an instance inside the VIP range would loop"),
        IpAddr::V6(ip) if ip.is_loopback() => Some("from ::1 the mesh would look like a caller of this host"),
        _ => None,
    };
    if let Some(reason) = refused {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
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
