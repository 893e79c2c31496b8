//! Small questions to agents and backends: one HTTP request on a connection of its own, or a name's address. Not measured.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};

/// Longer than any answer takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(5);

/// `GET`; the body of a 200.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Result<String, String> {
    exchange(address, "GET", path, "")
}

/// `PUT`; the body of a 200.
pub(crate) fn put(address: SocketAddr, path: &str, body: &str) -> Result<String, String> {
    exchange(address, "PUT", path, body)
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<String, String> {
    let told = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Of 1.0, so that the answer comes without chunks and ends with the connection.
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = told().map_err(|error| format!("{address}: {error}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{address}: no answer in HTTP"))?;
    if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(format!("{head}: {body}")) }
}

/// The IPv4 address of a name, by the DNS server there.
pub(crate) fn resolve(server: SocketAddr, name: &str) -> Result<Ipv4Addr, String> {
    let name = Name::from_str(name).map_err(|error| error.to_string())?;
    let mut question = Message::query();
    question.add_query(Query::query(name, RecordType::A));
    let question = question.to_bytes().map_err(|error| error.to_string())?;
    let told = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(&question, server)?;
        let mut answer = vec![0; 4096];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = told().map_err(|error| format!("{server}: {error}"))?;
    let answer = Message::from_bytes(&answer).map_err(|error| error.to_string())?;
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    addresses.into_iter().next().ok_or_else(|| "it has no address".to_owned())
}
