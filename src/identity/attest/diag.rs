//! sock_diag (sock_diag(7), linux/inet_diag.h): asks the kernel whose a TCP socket of this host is. One question and one
//! answer over netlink, encoded and decoded here; the kernel answers before `send` returns.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// linux/netlink.h and linux/sock_diag.h.
const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const ENOENT: i32 = 2;
/// linux/inet_diag.h, since Linux 5.7. The kernel adds it unasked.
const INET_DIAG_CGROUP_ID: u16 = 21;
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// `struct inet_diag_msg`.
const MESSAGE_BYTES: usize = 72;
/// A reply has about 200 bytes.
const REPLY_BYTES_MAX: usize = 4096;
/// Replies to questions that were given up, which are passed over.
const STALE_REPLIES_MAX: usize = 8;
/// Address families of the questions.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// States (linux/tcp_states.h) in which a connection's socket belongs to a program: ESTABLISHED, FIN_WAIT1 and 2 (half
/// closed), CLOSE_WAIT. One that is only connecting is another's, after ours.
const STATES: [u8; 4] = [1, 4, 5, 8];

/// Whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) uid: u32,
    /// The id of the control group in which it was made; `None` before Linux 5.7.
    pub(super) cgroup: Option<u64>,
}

/// Both ends of a connection, as the socket that is asked for has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// Why a reply says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("a reply cut short")]
    Short,
    #[error("a reply to another question")]
    Stale,
    #[error("a reply of the kind {0}")]
    Kind(u16),
    #[error("the kernel refuses the question (errno {0})")]
    Refused(i32),
}

/// A netlink socket to ask with. One thread's.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    sequence: AtomicU32,
}

impl Diag {
    /// Opens the socket, and proves it on a connection of its own: a kernel without the diagnostics module knows of none.
    pub(super) fn open() -> io::Result<Diag> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        let diag = Diag { socket, sequence: AtomicU32::new(0) };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let own = TcpStream::connect(listener.local_addr()?)?;
        let found = diag.ask(Tuple { local: own.local_addr()?, remote: own.peer_addr()? })?;
        found.map(|_| diag).ok_or_else(|| io::Error::other("the kernel does not find a socket that is there"))
    }

    /// Asks whose the socket with these ends is. `None`: there is none, or no program has it any more.
    pub(super) fn ask(&self, tuple: Tuple) -> io::Result<Option<SocketOwner>> {
        // The kernel's table is one for both families: this finds AF_INET6 sockets with IPv4 addresses too (measured).
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        rustix::net::send(&self.socket, &request(tuple, sequence), SendFlags::empty())?;
        let mut buffer = [0; REPLY_BYTES_MAX];
        for _ in 0..=STALE_REPLIES_MAX {
            let (_, length) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            match decode(&buffer[..length.min(REPLY_BYTES_MAX)], sequence, tuple) {
                Err(ReplyError::Stale) => {}
                reply => return reply.map_err(io::Error::other),
            }
        }
        Err(io::Error::other("only replies to other questions"))
    }
}

fn family(tuple: Tuple) -> u8 {
    if tuple.local.is_ipv4() && tuple.remote.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address in the 16 bytes that the kernel has for both families.
fn words(address: IpAddr, family: u8) -> [u8; 16] {
    let mut words = [0; 16];
    match (address, family) {
        (IpAddr::V4(address), AF_INET) => words[..4].copy_from_slice(&address.octets()),
        (IpAddr::V4(address), _) => words = address.to_ipv6_mapped().octets(),
        (IpAddr::V6(address), _) => words = address.octets(),
    }
    words
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`: numbers in the machine's order, ports and addresses in the network's.
fn request(tuple: Tuple, sequence: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [0; REQUEST_BYTES];
    let family = family(tuple);
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &u32::try_from(REQUEST_BYTES).unwrap_or(0).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &NLM_F_REQUEST.to_ne_bytes());
    put(8, &sequence.to_ne_bytes());
    put(16, &[family, IPPROTO_TCP, 0, 0]);
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &tuple.local.port().to_be_bytes());
    put(26, &tuple.remote.port().to_be_bytes());
    put(28, &words(tuple.local.ip(), family));
    put(44, &words(tuple.remote.ip(), family));
    // No interface, and INET_DIAG_NOCOOKIE: any socket with these ends.
    put(64, &[0xff; 8]);
    bytes
}

/// Reads the reply to the question of this number about these ends.
fn decode(bytes: &[u8], sequence: u32, tuple: Tuple) -> Result<Option<SocketOwner>, ReplyError> {
    let length = usize::try_from(number(bytes, 0)?).map_err(|_| ReplyError::Short)?;
    let kind = short(bytes, 4)?;
    if number(bytes, 8)? != sequence {
        return Err(ReplyError::Stale);
    }
    let body = bytes.get(HEADER_BYTES..length).ok_or(ReplyError::Short)?;
    match kind {
        SOCK_DIAG_BY_FAMILY => read_message(body, tuple),
        NLMSG_ERROR => match number(body, 0)?.cast_signed().wrapping_neg() {
            ENOENT => Ok(None),
            errno => Err(ReplyError::Refused(errno)),
        },
        other => Err(ReplyError::Kind(other)),
    }
}

/// `struct inet_diag_msg` and its attributes. Where no connection has the ends that were asked for the kernel tells of a
/// listener, so they are compared.
fn read_message(body: &[u8], tuple: Tuple) -> Result<Option<SocketOwner>, ReplyError> {
    let message = body.get(..MESSAGE_BYTES).ok_or(ReplyError::Short)?;
    let [family, state, ..] = *message else { return Err(ReplyError::Short) };
    let port = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let end = |address: usize, at: usize| {
        let bytes: [u8; 16] = message.get(address..address + 16)?.try_into().ok()?;
        let address = match family {
            AF_INET => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        };
        Some((address, port(at)?))
    };
    let canonical = |end: SocketAddr| Some((end.ip().to_canonical(), end.port()));
    let is_it = end(8, 4) == canonical(tuple.local) && end(24, 6) == canonical(tuple.remote);
    let (uid, inode) = (number(message, 64)?, number(message, 68)?);
    // A socket that its program has closed is nobody's: the kernel says uid 0 then.
    if !is_it || inode == 0 || !STATES.contains(&state) {
        return Ok(None);
    }
    Ok(Some(SocketOwner { uid, cgroup: cgroup_of(&body[MESSAGE_BYTES..]) }))
}

/// The control group among the attributes (`struct rtattr`: length, kind, bytes, padded to four).
fn cgroup_of(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let length = usize::from(short(attributes, 0).ok()?);
        let value = attributes.get(4..length)?;
        if short(attributes, 2).ok()? == INET_DIAG_CGROUP_ID {
            return value.try_into().ok().map(u64::from_ne_bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, ReplyError> {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    part.map(u32::from_ne_bytes).ok_or(ReplyError::Short)
}

fn short(bytes: &[u8], at: usize) -> Result<u16, ReplyError> {
    let part = bytes.get(at..at + 2).and_then(|part| part.try_into().ok());
    part.map(u16::from_ne_bytes).ok_or(ReplyError::Short)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    use super::*;
    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    fn tuple() -> Tuple {
        Tuple { local: "127.0.0.1:40000".parse().unwrap(), remote: "127.64.0.1:80".parse().unwrap() }
    }

    /// As the kernel would say it.
    fn reply(tuple: Tuple, state: u8, uid: u32, inode: u32, cgroup: Option<u64>) -> Vec<u8> {
        let asked = request(tuple, 7);
        let mut bytes = vec![0; HEADER_BYTES + MESSAGE_BYTES];
        bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
        bytes[16..18].copy_from_slice(&[asked[16], state]);
        bytes[20..60].copy_from_slice(&asked[24..64]);
        bytes[80..84].copy_from_slice(&uid.to_ne_bytes());
        bytes[84..88].copy_from_slice(&inode.to_ne_bytes());
        // An attribute of one byte, padded, comes before.
        bytes.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        if let Some(cgroup) = cgroup {
            bytes.extend([12u16.to_ne_bytes(), INET_DIAG_CGROUP_ID.to_ne_bytes()].concat());
            bytes.extend(cgroup.to_ne_bytes());
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_live_socket_names_its_owner() {
        let bytes = reply(tuple(), 1, 1001, 5, Some(77));
        assert_eq!(decode(&bytes, 7, tuple()), Ok(Some(SocketOwner { uid: 1001, cgroup: Some(77) })));
        let old_kernel = reply(tuple(), 8, 1001, 5, None);
        assert_eq!(decode(&old_kernel, 7, tuple()), Ok(Some(SocketOwner { uid: 1001, cgroup: None })));
        let v6 = Tuple { local: "[::1]:40000".parse().unwrap(), remote: "[::1]:80".parse().unwrap() };
        assert!(decode(&reply(v6, 1, 1, 5, None), 7, v6).unwrap().is_some());
    }

    #[test]
    fn what_is_closed_connecting_listening_or_another_socket_names_nobody() {
        let nobody = |bytes: Vec<u8>| assert_eq!(decode(&bytes, 7, tuple()), Ok(None));
        nobody(reply(tuple(), 1, 0, 0, Some(77)));
        for state in [0, 2, 3, 6, 7, 9, 10, 11, 12, 255] {
            nobody(reply(tuple(), state, 1001, 5, Some(77)));
        }
        let other = Tuple { local: "127.0.0.1:40001".parse().unwrap(), ..tuple() };
        nobody(reply(other, 1, 1001, 5, Some(77)));
        let swapped = Tuple { local: tuple().remote, remote: tuple().local };
        nobody(reply(swapped, 1, 1001, 5, Some(77)));
    }

    #[test]
    fn errors_and_other_answers_are_told_apart() {
        let mut error = [0u8; 36];
        error[..4].copy_from_slice(&36u32.to_ne_bytes());
        error[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        error[8..12].copy_from_slice(&7u32.to_ne_bytes());
        error[16..20].copy_from_slice(&(-2i32).to_ne_bytes());
        assert_eq!(decode(&error, 7, tuple()), Ok(None));
        assert_eq!(decode(&error, 8, tuple()), Err(ReplyError::Stale));
        error[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert_eq!(decode(&error, 7, tuple()), Err(ReplyError::Refused(i32::MIN)));
        error[4] = 99;
        assert_eq!(decode(&error, 7, tuple()), Err(ReplyError::Kind(99)));
        let whole = reply(tuple(), 1, 1, 5, Some(77));
        for cut in 0..HEADER_BYTES + MESSAGE_BYTES {
            assert!(decode(&whole[..cut], 7, tuple()).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_reply_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode(&bytes, 7, tuple());
        }

        #[test]
        fn no_damage_panics_or_names_another_socket(at in 0usize..108, byte in any::<u8>(), length in 0u32..200) {
            let mut bytes = reply(tuple(), 1, 1001, 5, Some(77));
            bytes[at] = byte;
            let _ = decode(&bytes, 7, tuple());
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let _ = decode(&bytes, 7, tuple());
        }
    }

    /// A listener, a client's socket of a family, and the ends as the client's socket has them.
    fn connected(domain: Domain) -> (TcpListener, TcpStream, Tuple) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        let wanted = match (domain == Domain::IPV6, address) {
            (true, SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            _ => address,
        };
        socket.connect(&wanted.into()).unwrap();
        let client: TcpStream = socket.into();
        let local = client.local_addr().unwrap();
        let tuple = Tuple { local: SocketAddr::new(local.ip().to_canonical(), local.port()), remote: address };
        (listener, client, tuple)
    }

    #[test]
    fn the_kernel_names_this_process_for_sockets_of_both_families_and_nobody_once_they_are_closed() {
        let diag = Diag::open().unwrap();
        let uid = rustix::process::getuid().as_raw();
        for domain in [Domain::IPV4, Domain::IPV6] {
            let (listener, mut client, tuple) = connected(domain);
            let (mut accepted, _) = listener.accept().unwrap();
            assert_eq!(diag.ask(tuple).unwrap().unwrap().uid, uid, "{domain:?}");
            client.write_all(b"x").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(diag.ask(tuple).unwrap().unwrap().uid, uid, "half closed, {domain:?}");
            drop(client);
            assert_eq!(diag.ask(tuple).unwrap(), None, "closed, {domain:?}");
            let mut said = Vec::new();
            accepted.read_to_end(&mut said).unwrap();
            // The listener is still there: it must not be told in the connection's place.
            let backwards = Tuple { local: tuple.remote, remote: "127.0.0.1:1".parse().unwrap() };
            assert_eq!(diag.ask(backwards).unwrap(), None);
        }
    }

    #[test]
    fn a_question_takes_microseconds() {
        const QUESTIONS: usize = 10_000;
        let diag = Diag::open().unwrap();
        let (_listener, _client, tuple) = connected(Domain::IPV4);
        let cpu = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
        };
        let mut took_us = Vec::with_capacity(QUESTIONS);
        let before = cpu();
        for _ in 0..QUESTIONS {
            let begun = Instant::now();
            assert!(diag.ask(tuple).unwrap().is_some());
            took_us.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        let cpu_us = (cpu() - before) / QUESTIONS as f64;
        took_us.sort_by(f64::total_cmp);
        let (median, p99) = (took_us[QUESTIONS / 2], took_us[QUESTIONS * 99 / 100]);
        println!("sock_diag: {cpu_us:.1} us of CPU a question; median {median:.1} us, p99 {p99:.1} us");
    }
}
