//! What went over the bridge: tcpdump writes it, this reads it back.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::fleet::Fleet;
use crate::process::{Process, wait_for};

const ETHERNET_HEADER_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// A running capture of everything that crosses the bridge.
pub(crate) struct Capture {
    process: Process,
    file: PathBuf,
}

/// One UDP datagram or TCP segment with a payload, over IPv4.
pub(crate) struct Packet {
    pub(crate) from: (Ipv4Addr, u16),
    pub(crate) to: (Ipv4Addr, u16),
    pub(crate) is_tcp: bool,
    /// TCP's sequence number; 0 for UDP.
    pub(crate) sequence: u32,
    pub(crate) payload: Vec<u8>,
}

impl Capture {
    /// Returns when tcpdump listens.
    #[track_caller]
    pub(crate) fn start(fleet: &Fleet) -> Capture {
        let file = fleet.folder().join("bridge.pcap");
        let mut command = fleet.at_switch("tcpdump");
        command
            .args(["-i", "br0", "-n", "-U", "--immediate-mode", "-s", "0", "-B", "32768", "-Z", "root", "-w"])
            .arg(&file);
        let process = Process::start("tcpdump", &mut command, &fleet.folder().join("tcpdump.log"));
        wait_for("tcpdump listens", Duration::from_secs(10), || {
            let printed = process.printed();
            if printed.contains("listening on") { Ok(()) } else { Err(printed) }
        });
        Capture { process, file }
    }

    /// Every byte that was captured, headers included.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Vec<u8> {
        // tcpdump writes out what it has on SIGINT; what the kernel still holds for it takes a moment longer.
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(Signal::INT);
        self.process.finish(Duration::from_secs(10));
        fs::read(&self.file).expect("the capture")
    }
}

/// True if `needle` is anywhere in `bytes`.
pub(crate) fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// The packets of a pcap file that have a payload.
pub(crate) fn packets(pcap: &[u8]) -> Vec<Packet> {
    const FILE_HEADER_BYTES: usize = 24;
    const RECORD_HEADER_BYTES: usize = 16;
    let mut found = Vec::new();
    let mut rest = pcap.get(FILE_HEADER_BYTES..).unwrap_or_default();
    while let Some(header) = rest.get(..RECORD_HEADER_BYTES) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(frame) = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length) else { break };
        found.extend(packet(frame).filter(|packet| !packet.payload.is_empty()));
        rest = &rest[RECORD_HEADER_BYTES + length..];
    }
    found
}

fn packet(frame: &[u8]) -> Option<Packet> {
    if frame.get(12..14)? != ETHERTYPE_IPV4 {
        return None;
    }
    let ip = frame.get(ETHERNET_HEADER_BYTES..)?;
    let ip_header_bytes = usize::from(ip.first()? & 0x0f) * 4;
    let ip = ip.get(..usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])))?;
    let address = |at: usize| Some(Ipv4Addr::new(*ip.get(at)?, *ip.get(at + 1)?, *ip.get(at + 2)?, *ip.get(at + 3)?));
    let body = ip.get(ip_header_bytes..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let protocol = *ip.get(9)?;
    let (header_bytes, sequence) = match protocol {
        PROTOCOL_UDP => (8, 0),
        PROTOCOL_TCP => {
            let sequence = body.get(4..8)?;
            let sequence = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            (usize::from(body.get(12)? >> 4) * 4, sequence)
        }
        _ => return None,
    };
    Some(Packet {
        from: (address(12)?, port(0)?),
        to: (address(16)?, port(2)?),
        is_tcp: protocol == PROTOCOL_TCP,
        sequence,
        payload: body.get(header_bytes..)?.to_vec(),
    })
}
