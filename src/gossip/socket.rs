//! The gossip port: one UDP socket and one TCP listener on the same address, IPv4 and IPv6.
//!
//! A listen address comes in and bound sockets go out; addresses are translated between what people write and what a
//! dual-stack socket takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Asked of the kernel, which gives at most `net.core.rmem_max`: a thousand packets arriving at once find room.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Connections that may wait to be accepted; a whole cluster may start at once.
const BACKLOG: i32 = 1024;
/// With port 0 the system chooses a free UDP port; the same TCP port may be taken.
const PORT_ATTEMPTS: usize = 16;

/// UDP and TCP on one address.
pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    pub(super) address: SocketAddr,
}

impl Sockets {
    pub(super) fn bind(listen: SocketAddr) -> io::Result<Sockets> {
        match bind_free(listen) {
            // A kernel without IPv6 has no `[::]`; there it means "every address" all the same.
            Err(error) if is_any_v6(listen) && has_no_v6(&error) => {
                bind_free(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listen.port()))
            }
            bound => bound,
        }
    }
}

/// `to` as a socket bound to `local` takes it: mapped (RFC 4291 §2.5.5.2) if the socket is IPv6's and `to` is IPv4's.
pub(super) fn sendable(local: SocketAddr, to: SocketAddr) -> SocketAddr {
    match (local, to.ip()) {
        (SocketAddr::V6(_), IpAddr::V4(v4)) => SocketAddrV6::new(v4.to_ipv6_mapped(), to.port(), 0, 0).into(),
        (SocketAddr::V4(_), _) => canonical(to),
        _ => to,
    }
}

/// An IPv4-mapped address as the IPv4 address that it is.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V4(v4), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn is_any_v6(listen: SocketAddr) -> bool {
    listen.is_ipv6() && listen.ip().is_unspecified()
}

fn has_no_v6(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL].map(rustix::io::Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn bind_free(listen: SocketAddr) -> io::Result<Sockets> {
    let attempts = if listen.port() == 0 { PORT_ATTEMPTS } else { 1 };
    let mut last = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..attempts {
        last = bind_both(listen);
        if !matches!(&last, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    last
}

fn bind_both(listen: SocketAddr) -> io::Result<Sockets> {
    let udp = socket(listen, Type::DGRAM, Protocol::UDP)?;
    // Less than asked for is no reason not to start.
    let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    udp.bind(&SockAddr::from(listen))?;
    let udp = UdpSocket::from_std(udp.into())?;
    let address = udp.local_addr()?;
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    // A restarted agent must not wait for its old connections' TIME_WAIT.
    tcp.set_reuse_address(true)?;
    tcp.bind(&SockAddr::from(address))?;
    tcp.listen(BACKLOG)?;
    let tcp = TcpListener::from_std(tcp.into())?;
    Ok(Sockets { udp, tcp, address })
}

fn socket(listen: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), kind, Some(protocol))?;
    if is_any_v6(listen) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
