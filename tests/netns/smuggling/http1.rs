//! The cases over HTTP/1.1, as bytes.

use super::Case;
use super::Right::{self, AtMostOnce, NeverWhole, Once, Refused};

const RFC: &str = "RFC 9112";
const LINHART: &str = "Linhart and others, HTTP Request Smuggling, 2005";
const KETTLE: &str = "Kettle, HTTP Desync Attacks, 2019";
const KLEIN: &str = "Klein, HTTP Request Smuggling in 2020";
const TREPORT: &str = "Jabiyev and others, T-Reqs, 2021";
const CHUNKS: &str = "chunk parsing advisories (CVE-2021-32714, CVE-2023-25690 and kin; \"funky chunks\", 2025)";
const H2C: &str = "Bishop Fox, h2c Smuggling, 2020";
const LIMITS: &str = "limits";

/// The request that must stay what it is: part of a body, or nothing.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: raw.mesh.internal\r\n\r\n";

struct Table(Vec<Case>);

impl Table {
    fn raw(&mut self, name: &str, source: &'static str, right: Right, bytes: impl Into<Vec<u8>>) {
        let (name, bytes) = (name.replace(' ', "-"), bytes.into());
        let named = String::from_utf8_lossy(&bytes).replace("NAME", &name);
        // Only text is replaced, so bytes that are no text must be given by `bytes`.
        let bytes = if named.contains('\u{fffd}') { bytes } else { named.into_bytes() };
        self.0.push(Case { name, source, bytes, right });
    }

    /// `POST` with these header lines and this body.
    fn post(&mut self, name: &str, source: &'static str, right: Right, lines: &str, body: &str) {
        let head = "POST /sink HTTP/1.1\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\n";
        self.raw(name, source, right, format!("{head}{lines}\r\n{body}"));
    }

    /// `GET` with these header lines.
    fn get(&mut self, name: &str, source: &'static str, right: Right, lines: &str) {
        self.raw(
            name,
            source,
            right,
            format!("GET /sink HTTP/1.1\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\n{lines}\r\n"),
        );
    }

    /// A request line of its own.
    fn line(&mut self, name: &str, source: &'static str, right: Right, line: &str) {
        self.raw(name, source, right, format!("{line}\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\n\r\n"));
    }

    /// A chunked body.
    fn chunked(&mut self, name: &str, source: &'static str, right: Right, body: &str) {
        self.post(name, source, right, "Transfer-Encoding: chunked\r\n", body);
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut table = Table(Vec::new());
    two_framings(&mut table);
    transfer_codings(&mut table);
    lengths(&mut table);
    chunks(&mut table);
    lines_and_names(&mut table);
    targets_and_hosts(&mut table);
    between_hops(&mut table);
    too_much(&mut table);
    table.0
}

fn two_framings(table: &mut Table) {
    // The one reader ends the body at the empty chunk, the other after Content-Length bytes.
    let empty_then_second = format!("0\r\n\r\n{SECOND}");
    let length = empty_then_second.len();
    let both = |first: &str, second: &str| format!("{first}\r\n{second}\r\n");
    let (te, cl) = ("Transfer-Encoding: chunked", format!("Content-Length: {length}"));
    table.post("CL TE", KETTLE, AtMostOnce, &both(&cl, te), &empty_then_second);
    table.post("TE CL in the other order", KETTLE, AtMostOnce, &both(te, &cl), &empty_then_second);
    let hidden = format!("{:x}\r\n{SECOND}\r\n0\r\n\r\n", SECOND.len());
    table.post("TE CL short", KETTLE, AtMostOnce, &both("Content-Length: 4", te), &hidden);
    table.post("TE CL short in the other order", KETTLE, AtMostOnce, &both(te, "Content-Length: 4"), &hidden);
    table.post("CL zero TE", KETTLE, AtMostOnce, &both("Content-Length: 0", te), &empty_then_second);
}

fn transfer_codings(table: &mut Table) {
    let body = format!("0\r\n\r\n{SECOND}");
    let length = body.len();
    let te = |line: &str| format!("{line}\r\nContent-Length: {length}\r\n");
    // A reader that overlooks the coding takes the length; one that does not, the chunks.
    for (name, source, right, line) in [
        ("xchunked", KETTLE, Refused, "Transfer-Encoding: xchunked"),
        ("space before the colon", KETTLE, Refused, "Transfer-Encoding : chunked"),
        ("tab before the colon", KETTLE, Refused, "Transfer-Encoding\t: chunked"),
        ("tab after the colon", KETTLE, AtMostOnce, "Transfer-Encoding:\tchunked"),
        ("vertical tab", KETTLE, Refused, "Transfer-Encoding: \u{b}chunked"),
        ("form feed", KETTLE, Refused, "Transfer-Encoding: chunked\u{c}"),
        ("line begins with a space", KETTLE, Refused, " Transfer-Encoding: chunked"),
        ("folded name", KETTLE, Refused, "Transfer-Encoding\r\n : chunked"),
        ("folded value", LINHART, Refused, "Transfer-Encoding:\r\n chunked"),
        ("bare CR before it", KETTLE, Refused, "X: y\rTransfer-Encoding: chunked"),
        ("bare LF before it", KETTLE, AtMostOnce, "X: y\nTransfer-Encoding: chunked"),
        ("twice, unknown last", KETTLE, Refused, "Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        ("twice, unknown first", KETTLE, Refused, "Transfer-Encoding: x\r\nTransfer-Encoding: chunked"),
        ("chunked, identity", KETTLE, Refused, "Transfer-Encoding: chunked, identity"),
        ("identity", KLEIN, Refused, "Transfer-Encoding: identity"),
        ("identity, chunked", KLEIN, Refused, "Transfer-Encoding: identity, chunked"),
        ("gzip, chunked", RFC, Refused, "Transfer-Encoding: gzip, chunked"),
        ("chunked, chunked", RFC, Refused, "Transfer-Encoding: chunked, chunked"),
        ("quoted", KETTLE, Refused, "Transfer-Encoding: \"chunked\""),
        ("single quotes", KETTLE, Refused, "Transfer-Encoding: 'chunked'"),
        ("parameter", RFC, Refused, "Transfer-Encoding: chunked;q=1"),
        ("empty coding", KETTLE, Refused, "Transfer-Encoding:"),
        ("comma first", KLEIN, Refused, "Transfer-Encoding: ,chunked"),
        ("dot in the name", TREPORT, AtMostOnce, "Transfer.Encoding: chunked"),
        ("underscore in the name", KLEIN, AtMostOnce, "Transfer_Encoding: chunked"),
        ("NUL after the name", KLEIN, Refused, "Transfer-Encoding\0: chunked"),
        ("NUL in the value", KLEIN, Refused, "Transfer-Encoding: chun\0ked"),
        ("NUL after the value", KLEIN, Refused, "Transfer-Encoding: chunked\0"),
        ("quote before the name", KETTLE, AtMostOnce, "'Transfer-Encoding: chunked"),
    ] {
        table.post(&format!("TE {name}"), source, right, &te(line), &body);
    }
    let old = "POST /sink HTTP/1.0\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\n";
    table.raw("TE in HTTP 1.0", RFC, Refused, format!("{old}Transfer-Encoding: chunked\r\n\r\n{body}"));
    table.raw("TE and CL in HTTP 1.0", RFC, Refused, format!("{old}{}\r\n{body}", te("Transfer-Encoding: chunked")));
    table.post("TE in capitals", RFC, Once, "TRANSFER-ENCODING: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n");
}

fn lengths(table: &mut Table) {
    let rest = format!("hello{SECOND}");
    for (name, source, right, value) in [
        ("with a plus", RFC, Refused, "+5"),
        ("negative", RFC, Refused, "-5"),
        ("hexadecimal", RFC, Refused, "0x5"),
        ("octal-looking", TREPORT, AtMostOnce, "005"),
        ("with a fraction", RFC, Refused, "5.0"),
        ("with an exponent", RFC, Refused, "5e0"),
        ("two numbers", RFC, Refused, "5 5"),
        ("letters after", RFC, Refused, "5abc"),
        ("letters only", RFC, Refused, "five"),
        ("empty", RFC, Refused, ""),
        ("list of the same", RFC, Refused, "5, 5"),
        ("list of two", LINHART, Refused, "5, 10"),
        ("comma after", RFC, Refused, "5,"),
        ("quoted", RFC, Refused, "\"5\""),
        ("beyond 64 bits", LIMITS, Refused, "18446744073709551621"),
        ("at the end of 64 bits", LIMITS, Refused, "18446744073709551615"),
        ("underscore", RFC, Refused, "0_5"),
        ("NUL", KLEIN, Refused, "5\0"),
        ("vertical tab", KLEIN, Refused, "\u{b}5"),
        ("folded", RFC, Refused, "\r\n 5"),
    ] {
        // What follows five bytes must never be taken for a request where the length is in doubt.
        table.post(
            &format!("CL {name}"),
            source,
            right,
            &format!("Content-Length: {value}\r\n"),
            if right == Refused { &rest } else { "hello" },
        );
    }
    let twice = |first: &str, second: &str| format!("Content-Length: {first}\r\nContent-Length: {second}\r\n");
    table.post("CL twice, different", LINHART, Refused, &twice("5", "10"), &rest);
    table.post("CL twice, different in the other order", LINHART, Refused, &twice("10", "5"), &rest);
    table.post("CL twice, the same", RFC, AtMostOnce, &twice("5", "5"), "hello");
    table.post("CL twice, one empty", LINHART, Refused, &twice("5", ""), &rest);
    table.post("CL with a space before the colon", KLEIN, Refused, "Content-Length : 5\r\n", &rest);
    table.post("CL line begins with a space", KLEIN, Refused, " Content-Length: 5\r\n", &rest);
    table.post("CL after bare CR", KLEIN, Refused, "X: y\rContent-Length: 5\r\n", &rest);
    table.raw(
        "GET with a body",
        LINHART,
        Once,
        "GET /sink HTTP/1.1\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\nContent-Length: 5\r\n\r\nhello",
    );
    table.raw(
        "HEAD with a body",
        LINHART,
        AtMostOnce,
        format!(
            "HEAD /sink HTTP/1.1\r\nHost: raw.mesh.internal\r\nX-Case: NAME\r\nContent-Length: {}\r\n\r\n{SECOND}",
            SECOND.len()
        ),
    );
}

fn chunks(table: &mut Table) {
    let end = "0\r\n\r\n";
    for (name, right, body) in [
        ("size beyond 64 bits", NeverWhole, format!("FFFFFFFFFFFFFFFFF\r\nhello\r\n{end}")),
        ("size that wraps", NeverWhole, format!("10000000000000005\r\nhello\r\n{end}{SECOND}")),
        ("size negative", NeverWhole, format!("-5\r\nhello\r\n{end}")),
        ("size with a plus", NeverWhole, format!("+5\r\nhello\r\n{end}")),
        ("size with 0x", NeverWhole, format!("0x5\r\nhello\r\n{end}")),
        ("size no number", NeverWhole, format!("hello\r\nhello\r\n{end}")),
        ("size with an underscore", NeverWhole, format!("0_5\r\nhello\r\n{end}")),
        ("size missing", NeverWhole, format!("\r\nhello\r\n{end}")),
        ("size after a space", NeverWhole, format!(" 5\r\nhello\r\n{end}")),
        ("size with garbage", NeverWhole, format!("5 garbage\r\nhello\r\n{end}")),
        ("size line ends with LF", NeverWhole, format!("5\nhello\r\n{end}")),
        ("size line ends with CR", NeverWhole, format!("5\rXhello\r\n{end}")),
        ("extension ends with LF", NeverWhole, format!("5;ext\nhello\r\n{end}")),
        ("extension with bare CR", NeverWhole, format!("5;e\rxt\r\nhello\r\n{end}")),
        ("data longer than its size", NeverWhole, format!("5\r\nhelloXX\r\n{end}")),
        ("data without CRLF", NeverWhole, format!("5\r\nhello{end}")),
        ("data ended by LF", NeverWhole, format!("5\r\nhello\n{end}")),
        ("data ended by two other bytes", NeverWhole, format!("5\r\nhelloXY{end}{SECOND}")),
        ("huge extension", NeverWhole, format!("5;{}\r\nhello\r\n{end}", "e".repeat(1 << 17))),
        ("many extensions", NeverWhole, format!("{}{end}", format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(200))),
        ("last size with garbage", NeverWhole, format!("5\r\nhello\r\n0x\r\n\r\n{SECOND}")),
        ("trailer without a colon", NeverWhole, "5\r\nhello\r\n0\r\ngarbage\r\n\r\n".to_owned()),
        ("trailer too long", NeverWhole, format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "t".repeat(1 << 18))),
        ("size with leading zeros", AtMostOnce, format!("00000000000000000005\r\nhello\r\n{end}")),
        ("size with a space after", AtMostOnce, format!("5 \r\nhello\r\n{end}")),
        ("extension", Once, format!("5;name=value\r\nhello\r\n{end}")),
        ("extension in quotes", AtMostOnce, format!("5;name=\"a;b\"\r\nhello\r\n{end}")),
        ("trailer forges Content-Length", AtMostOnce, format!("5\r\nhello\r\n0\r\nContent-Length: {}\r\n\r\n", 50)),
        ("trailer forges Transfer-Encoding", AtMostOnce, "5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n".to_owned()),
        ("trailer forges Host", AtMostOnce, "5\r\nhello\r\n0\r\nHost: evil.example\r\n\r\n".to_owned()),
    ] {
        table.chunked(&format!("chunk {name}"), CHUNKS, right, &body);
    }
}

fn lines_and_names(table: &mut Table) {
    let whole = |end: &str| ["GET /sink HTTP/1.1", "Host: raw.mesh.internal", "X-Case: NAME", "", ""].join(end);
    table.raw("lines end with LF", RFC, AtMostOnce, whole("\n"));
    table.raw("lines end with CR", RFC, Refused, whole("\r") + "\r\n\r\n");
    table.raw("lines end with CR CR LF", RFC, Refused, whole("\r\r\n"));
    for (name, right, line) in [
        ("NUL in a value", Refused, "X: a\0b"),
        ("bare CR in a value", Refused, "X: a\rb"),
        ("bell in a value", Refused, "X: a\u{7}b"),
        ("DEL in a value", Refused, "X: a\u{7f}b"),
        ("NUL in a name", Refused, "X\0Y: a"),
        ("space in a name", Refused, "X Y: a"),
        ("space before a colon", Refused, "X : a"),
        ("no colon", Refused, "garbage"),
        ("empty name", Refused, ": a"),
        ("parenthesis in a name", Refused, "X(Y): a"),
        ("slash in a name", Refused, "X/Y: a"),
        ("folded value", Refused, "X: a\r\n b"),
        ("folded with a tab", Refused, "X: a\r\n\tb"),
        ("empty value", Once, "X:"),
        ("spaces around a value", Once, "X: \t a \t "),
        ("letters of Latin 1", Once, "X: caf\u{e9}"),
    ] {
        table.get(&format!("header with {name}"), RFC, right, &format!("{line}\r\n"));
    }
    for (name, right, line) in [
        ("two spaces", AtMostOnce, "GET  /sink HTTP/1.1"),
        ("a tab", Refused, "GET\t/sink\tHTTP/1.1"),
        ("a space before", Refused, " GET /sink HTTP/1.1"),
        ("a space after", AtMostOnce, "GET /sink HTTP/1.1 "),
        ("a space in the target", Refused, "GET /sink smuggled HTTP/1.1"),
        ("a request in the target", Refused, "GET /sink HTTP/1.1 GET /smuggled HTTP/1.1"),
        ("no target", Refused, "GET HTTP/1.1"),
        ("no version", Refused, "GET /sink"),
        ("HTTP 0.9", Refused, "GET /sink HTTP/0.9"),
        ("HTTP 1.2", AtMostOnce, "GET /sink HTTP/1.2"),
        ("HTTP 2.0", Refused, "GET /sink HTTP/2.0"),
        ("HTTP 11", Refused, "GET /sink HTTP/11"),
        ("HTTP 1.01", Refused, "GET /sink HTTP/1.01"),
        ("small letters in the version", Refused, "GET /sink http/1.1"),
        ("a method that is no token", Refused, "G(T /sink HTTP/1.1"),
        ("a NUL in the method", Refused, "G\0T /sink HTTP/1.1"),
        ("a NUL in the target", Refused, "GET /si\0nk HTTP/1.1"),
        ("a bell in the target", Refused, "GET /si\u{7}nk HTTP/1.1"),
        ("a bare CR in the target", Refused, "GET /si\rnk HTTP/1.1"),
        ("a method of its own", Once, "PROPFIND /sink HTTP/1.1"),
        ("small letters in the method", Once, "get /sink HTTP/1.1"),
    ] {
        table.line(&format!("request line with {name}"), RFC, right, line);
    }
    table.raw("HTTP 0.9 proper", RFC, Refused, "GET /sink\r\n");
    table.raw("empty lines before", RFC, Once, format!("\r\n\r\n{}", whole("\r\n")));
    table.raw("garbage before", RFC, Refused, format!("\0\0\0{}", whole("\r\n")));
    table.raw(
        "TLS where HTTP is spoken",
        RFC,
        Refused,
        [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0x80, 0xff, 0xfe].to_vec(),
    );
}

fn targets_and_hosts(table: &mut Table) {
    for (name, right, line) in [
        ("fragment", AtMostOnce, "GET /sink#fragment HTTP/1.1"),
        ("dots", Once, "GET /sink/../../smugglers HTTP/1.1"),
        ("encoded dots and slashes", Once, "GET /sink/%2e%2e/%2fx%00 HTTP/1.1"),
        ("two slashes", Once, "GET //sink HTTP/1.1"),
        ("backslash", AtMostOnce, "GET /sink\\..\\x HTTP/1.1"),
        ("absolute form", AtMostOnce, "GET http://raw.mesh.internal/sink HTTP/1.1"),
        ("absolute form of another host", AtMostOnce, "GET http://evil.example/sink HTTP/1.1"),
        ("absolute form with a user", AtMostOnce, "GET http://raw.mesh.internal@evil.example/sink HTTP/1.1"),
        ("authority form", Refused, "GET raw.mesh.internal:80 HTTP/1.1"),
        ("CONNECT", Refused, "CONNECT evil.example:443 HTTP/1.1"),
        ("no slash", Refused, "GET sink HTTP/1.1"),
        ("asterisk", Refused, "GET * HTTP/1.1"),
        ("another scheme", AtMostOnce, "GET file:///etc/passwd HTTP/1.1"),
    ] {
        table.line(&format!("target {name}"), RFC, right, line);
    }
    let host = |lines: &str| format!("GET /sink HTTP/1.1\r\nX-Case: NAME\r\n{lines}\r\n");
    for (name, right, lines) in [
        ("missing", Refused, ""),
        ("twice, different", Refused, "Host: raw.mesh.internal\r\nHost: evil.example\r\n"),
        ("twice, the same", Refused, "Host: raw.mesh.internal\r\nHost: raw.mesh.internal\r\n"),
        ("list", Refused, "Host: raw.mesh.internal, evil.example\r\n"),
        ("with a path", Refused, "Host: raw.mesh.internal/evil\r\n"),
        ("with a user", Refused, "Host: evil@raw.mesh.internal\r\n"),
        ("with a space", Refused, "Host: raw.mesh.internal evil\r\n"),
        ("with a bad port", Refused, "Host: raw.mesh.internal:http\r\n"),
        ("space before the colon", Refused, "Host : raw.mesh.internal\r\n"),
        ("empty", AtMostOnce, "Host:\r\n"),
        ("of another", AtMostOnce, "Host: other.example\r\n"),
    ] {
        table.raw(&format!("host {name}"), RFC, right, host(lines));
    }
}

fn between_hops(table: &mut Table) {
    // A caller that lists headers of its choice must not take framing, Host or what the agent adds away with them.
    for name in ["Content-Length", "Host", "Transfer-Encoding", "X-Forwarded-For", "X-Case", "close, Content-Length"] {
        let lines = format!("Connection: {name}\r\nContent-Length: {}\r\n", SECOND.len());
        // Whether it is the case's own marker that goes does not matter for what must not be there.
        table.post(
            &format!("Connection lists {name}"),
            "Davison, abusing hop-by-hop headers, 2019",
            AtMostOnce,
            &lines,
            SECOND,
        );
    }
    table.get(
        "upgrade to h2c",
        H2C,
        AtMostOnce,
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    );
    table.post(
        "upgrade with a body",
        H2C,
        AtMostOnce,
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
        "hello",
    );
    table.get("Expect of its own", RFC, AtMostOnce, "Expect: 200-maybe\r\n");
    table.get("Max-Forwards", RFC, Once, "Max-Forwards: 0\r\n");
}

fn too_much(table: &mut Table) {
    table.get("header of 256 KiB", LIMITS, Refused, &format!("X: {}\r\n", "a".repeat(1 << 18)));
    table.get("header name of 128 KiB", LIMITS, Refused, &format!("{}: a\r\n", "X".repeat(1 << 17)));
    table.get("head of 2 MiB", LIMITS, Refused, &format!("X: {}\r\n", "a".repeat(1000)).repeat(2000));
    table.get("2000 headers", LIMITS, Refused, &"X: a\r\n".repeat(2000));
    table.line("target of 128 KiB", LIMITS, Refused, &format!("GET /{} HTTP/1.1", "a".repeat(1 << 17)));
    table.line("method of 64 KiB", LIMITS, Refused, &format!("{} /sink HTTP/1.1", "A".repeat(1 << 16)));
}
