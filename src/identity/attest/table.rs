//! `/proc/self/net/tcp` and `tcp6` (proc(5)): whose a socket is, where netlink is not to be had. The tables are read whole,
//! so this is for hosts that have nothing better.

use std::fs::File;
use std::io::{Read as _, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::diag::{SocketOwner, Tuple};

/// 150 bytes a socket: some hundred thousand sockets.
const TABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// As in `diag`: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
const STATES: [&str; 4] = ["01", "04", "05", "08"];

/// The owner of the socket with these ends.
pub(super) fn find(tuple: Tuple) -> Option<SocketOwner> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().find_map(|path| find_in(&read(path).ok()?, tuple))
}

fn read(path: &str) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TABLE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn find_in(table: &str, tuple: Tuple) -> Option<SocketOwner> {
    let canonical = |end: std::net::SocketAddr| (end.ip().to_canonical(), end.port());
    let wanted = (canonical(tuple.local), canonical(tuple.remote));
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let ends = (end(words.next()?)?, end(words.next()?)?);
        let is_live = STATES.contains(&words.next()?);
        let (uid, inode) = (words.nth(3)?.parse().ok()?, words.nth(1)?.parse::<u64>().ok()?);
        (ends == wanted && is_live && inode != 0).then_some(SocketOwner { uid, cgroup: None })
    })
}

/// `0100007F:1F90`: words of four bytes in the machine's order, then the port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = address.as_bytes().chunks(8).map(word).collect();
    let address: IpAddr = match words?.as_slice() {
        [word] => Ipv4Addr::from(*word).into(),
        words @ [_, _, _, _] => Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical(),
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

fn word(hex: &[u8]) -> Option<[u8; 4]> {
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 8)?;
    u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_table_names_this_process_while_its_socket_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tuple = Tuple { local: client.local_addr().unwrap(), remote: client.peer_addr().unwrap() };
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(find(tuple), Some(SocketOwner { uid, cgroup: None }));
        drop(client);
        assert_eq!(find(tuple), None);
    }

    #[test]
    fn lines_of_both_tables_are_read_and_what_is_none_is_passed_over() {
        let tuple = Tuple { local: "127.0.0.1:8080".parse().unwrap(), remote: "127.64.0.1:80".parse().unwrap() };
        let hex = |address: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(address.octets()));
        let (local, remote) = (hex(Ipv4Addr::LOCALHOST), hex(Ipv4Addr::new(127, 64, 0, 1)));
        let rest = "00000000:00000000 00:00000000 00000000  1001        0 5417 1 0 20 4 30 10 -1";
        let owner = Some(SocketOwner { uid: 1001, cgroup: None });
        let v4 = format!("head\nrubbish\n   0: {local}:1F90 {remote}:0050 01 {rest}\n");
        assert_eq!(find_in(&v4, tuple), owner);
        let mapped = format!("{:08X}", u32::from_ne_bytes([0, 0, 0xff, 0xff]));
        let zeros = "0".repeat(16);
        let v6 = format!("head\n0: {zeros}{mapped}{local}:1F90 {zeros}{mapped}{remote}:0050 01 {rest}\n");
        assert_eq!(find_in(&v6, tuple), owner);
        assert_eq!(find_in(&v4.replace("5417", "0"), tuple), None, "closed");
        assert_eq!(find_in(&v4.replace(" 01 ", " 0A "), tuple), None, "a listener");
        for none in ["", "head\n0:", "head\n0: : : 01", "head\n0: 0:0 0:0 01 a b c d e f", "h\n0: ÄÄÄÄ:1 x"] {
            assert_eq!(find_in(none, tuple), None, "{none:?}");
        }
    }
}
