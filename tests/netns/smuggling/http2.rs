//! The cases over HTTP/2, as frames made by hand: what a downgrade to HTTP/1.1 would turn into another request.

use super::Right::{self, AtMostOnce, NeverWhole, Once, Refused};
use super::{Case, Told};
use crate::raw::Heard;

const KETTLE: &str = "Kettle, HTTP/2: The Sequel is Always Worse, 2021";
const RFC: &str = "RFC 9113, 8.1 to 8.3";
const FLOODS: &str = "CVE-2023-44487, CVE-2024-27316";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A string of HPACK, without Huffman coding: its length in 7 bits, or in more.
fn string(text: &[u8], out: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 127 {
        out.push(u8::try_from(length).expect("below 127"));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length % 128 + 128).expect("a byte"));
            length /= 128;
        }
        out.push(u8::try_from(length).expect("below 128"));
    }
    out.extend_from_slice(text);
}

/// Fields as literals that nobody remembers.
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in list {
        out.push(0);
        string(name.as_bytes(), &mut out);
        string(value.as_bytes(), &mut out);
    }
    out
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, 1, 0, &[])].concat()
}

/// One request on stream 1: these fields, with a body or without.
fn request(list: &[(&str, &str)], body: Option<&[u8]>) -> Vec<u8> {
    let block = fields(list);
    let flags = END_HEADERS | if body.is_none() { END_STREAM } else { 0 };
    let mut out = [opening(), frame(HEADERS, flags, 1, &block)].concat();
    if let Some(body) = body {
        out.extend(frame(DATA, END_STREAM, 1, body));
    }
    out
}

/// What the caller learned, as far as it can be told without decoding HPACK.
pub(super) fn told(heard: &Heard) -> Told {
    let (mut rest, mut refused, mut answered) = (heard.answer.as_slice(), false, false);
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (kind, payload) = (rest[3], rest.get(9..9 + length).unwrap_or_default());
        match kind {
            RST_STREAM | GOAWAY => refused = true,
            HEADERS if payload.first() == Some(&STATUS_200) => answered = true,
            HEADERS => refused = true,
            _ => {}
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    match (answered, refused || heard.closed) {
        (true, _) => Told::Yes,
        (false, true) => Told::No,
        (false, false) => Told::Else("nothing".to_owned()),
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, source: &'static str, right: Right, bytes: Vec<u8>| {
        cases.push(Case { name: format!("h2-{}", name.replace(' ', "-")), source, bytes, right });
    };
    let base = [(":method", "POST"), (":scheme", "http"), (":authority", "raw.mesh.internal"), (":path", "/sink")];
    let second = "GET /smuggled HTTP/1.1\r\nHost: raw.mesh.internal\r\n\r\n";
    let injected = format!("a\r\n\r\n{second}");
    let chunked_in_value = format!("a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}");

    // One more field after the pseudo fields.
    let extra: Vec<(&str, Right, &str, &str)> = vec![
        ("transfer-encoding", Refused, "transfer-encoding", "chunked"),
        ("connection", Refused, "connection", "close"),
        ("connection lists", Refused, "connection", "content-length"),
        ("keep-alive", Refused, "keep-alive", "timeout=5"),
        ("proxy-connection", Refused, "proxy-connection", "keep-alive"),
        ("upgrade", Refused, "upgrade", "h2c"),
        ("te gzip", Refused, "te", "gzip"),
        ("CRLF in a value", Refused, "x", "a\r\nx-injected: 1"),
        ("LF in a value", Refused, "x", "a\nx-injected: 1"),
        ("CR in a value", Refused, "x", "a\rb"),
        ("NUL in a value", Refused, "x", "a\0b"),
        ("request in a value", Refused, "x", &injected),
        ("framing in a value", Refused, "x", &chunked_in_value),
        ("capitals in a name", Refused, "X-Up", "a"),
        ("colon in a name", Refused, "x:y", "a"),
        ("space in a name", Refused, "x y", "a"),
        ("CRLF in a name", Refused, "x: a\r\ny", "a"),
        ("empty name", Refused, "", "a"),
        ("pseudo after others", Refused, ":path", "/smuggled"),
        ("unknown pseudo", Refused, ":unknown", "a"),
        ("response pseudo", Refused, ":status", "200"),
        ("host of another", AtMostOnce, "host", "evil.example"),
        ("host the same", AtMostOnce, "host", "raw.mesh.internal"),
        ("host with CRLF", Refused, "host", "a\r\nx: y"),
        ("content-length no number", Refused, "content-length", "+2"),
        ("content-length list", Refused, "content-length", "2, 2"),
        ("content-length right", Once, "content-length", "2"),
        ("trailers announced", Once, "te", "trailers"),
    ];
    for (name, right, field, value) in extra {
        let case = format!("h2-{}", name.replace(' ', "-"));
        let list = [&base[..], &[("x-case", case.as_str()), (field, value)]].concat();
        add(name, if right == Refused { KETTLE } else { RFC }, right, request(&list, Some(b"hi")));
    }
    for (name, length, body) in
        [("too short", "1", &b"hi"[..]), ("too long", "50", b"hi"), ("zero", "0", second.as_bytes())]
    {
        let case = format!("h2-content-length-{}", name.replace(' ', "-"));
        let list = [&base[..], &[("x-case", case.as_str()), ("content-length", length)]].concat();
        add(&format!("content-length {name}"), KETTLE, NeverWhole, request(&list, Some(body)));
    }

    // One pseudo field changed, doubled or left out.
    let changed: Vec<(&str, Right, &str, Option<&str>)> = vec![
        ("method with a request", Refused, ":method", Some("GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\nGET")),
        ("method with a space", Refused, ":method", Some("GET /smuggled")),
        ("method CONNECT", Refused, ":method", Some("CONNECT")),
        ("method missing", Refused, ":method", None),
        ("path with a request", Refused, ":path", Some("/x HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled")),
        ("path with a space", Refused, ":path", Some("/x HTTP/1.1")),
        ("path with a fragment", AtMostOnce, ":path", Some("/x#y")),
        ("path empty", Refused, ":path", Some("")),
        ("path without a slash", Refused, ":path", Some("sink")),
        ("path absolute", Refused, ":path", Some("http://evil.example/smuggled")),
        ("path missing", Refused, ":path", None),
        ("scheme with a host", Refused, ":scheme", Some("http://evil.example/?")),
        ("scheme missing", Refused, ":scheme", None),
        ("authority with CRLF", Refused, ":authority", Some("a\r\nx: y")),
        ("authority with a user", Refused, ":authority", Some("evil@raw.mesh.internal")),
        ("authority with a path", Refused, ":authority", Some("raw.mesh.internal/evil")),
        ("authority with a space", Refused, ":authority", Some("raw.mesh.internal x")),
        ("authority missing", Refused, ":authority", None),
    ];
    for (name, right, field, value) in changed {
        let case = format!("h2-{}", name.replace(' ', "-"));
        let mut list: Vec<(&str, &str)> = base
            .iter()
            .filter_map(|(pseudo, usual)| match *pseudo == field {
                true => value.map(|value| (*pseudo, value)),
                false => Some((*pseudo, *usual)),
            })
            .collect();
        list.push(("x-case", &case));
        add(name, KETTLE, right, request(&list, Some(b"hi")));
    }
    for field in [":path", ":method", ":scheme", ":authority"] {
        let name = format!("{} twice", &field[1..]);
        let case = format!("h2-{}", name.replace(' ', "-"));
        let other = if field == ":method" { "GET" } else { "/smuggled" };
        let list = [&base[..], &[(field, other), ("x-case", case.as_str())]].concat();
        add(&name, KETTLE, Refused, request(&list, Some(b"hi")));
    }

    // Floods: the connection ends, and nothing of it is forwarded.
    let begun = frame(HEADERS, 0, 1, &fields(&base));
    let more = frame(CONTINUATION, 0, 1, &fields(&[("x", &"a".repeat(1000))]));
    add("CONTINUATION without end", FLOODS, Refused, [opening(), begun, more.repeat(4000)].concat());
    let large = "a".repeat(13_000);
    let many = [&base[..], &[("x-case", "h2-large-fields")], &[("x", large.as_str()); 40]].concat();
    let block = fields(&many);
    let chunks: Vec<&[u8]> = block.chunks(16_000).collect();
    let mut bytes = opening();
    for (index, chunk) in chunks.iter().enumerate() {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let flags = if index + 1 == chunks.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags, 1, chunk));
    }
    add("large fields", FLOODS, Refused, bytes);
    cases
}
