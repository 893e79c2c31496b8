//! What a scanner says of the mesh port, with Debian's testssl.sh: TLS 1.3 and nothing older, nothing weak; and what a client
//! without a certificate, or with a protocol of its own, comes to.

use std::fs;

use serde_json::Value;

use crate::fleet::Fleet;

/// Severities above low.
const BAD: [&str; 3] = ["MEDIUM", "HIGH", "CRITICAL"];
/// What is said of a private authority's certificates of seven days, and is meant to be so: they are shorter than what the Web's
/// are warned of, end instead of being revoked, and lead to a root that the scanner, which gets no further than the demand for a
/// certificate of its own, does not find.
const MEANT: [&str; 4] = ["cert_expirationStatus", "cert_notAfter", "cert_revocation", "cert_chain_of_trust"];

#[test]
fn the_mesh_port_speaks_tls_1_3_with_nothing_weak_and_only_to_who_has_a_certificate() {
    let Some(fleet) = Fleet::raise(&["a", "x"]) else { return };
    fleet["a"].found_mesh();
    fleet["a"].start_agent();
    let report = fleet["x"].folder().join("testssl.json");
    let (address, report) = (fleet["a"].address(), report.to_str().expect("a path in UTF-8"));
    let scan =
        ["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", &address, "--jsonfile", report];
    // Its status counts what it found; what that is, the report says.
    let _ = fleet["x"].run("testssl", [&scan[..], &["node.weft.internal:7947"]].concat());
    let found = fs::read_to_string(report).expect("the scanner's report");
    let found: Vec<Value> = serde_json::from_str(&found).expect("the report is JSON");
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let finding = |id: &str| found.iter().find(|entry| entry["id"] == id).map(|entry| text(entry, "finding"));
    for old in ["SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2"] {
        assert_eq!(finding(old).as_deref(), Some("not offered"), "{old}");
    }
    assert_eq!(finding("TLS1_3").as_deref(), Some("offered with final"));
    assert_eq!(finding("heartbleed").map(|text| text.starts_with("not vulnerable")), Some(true), "it went to the end");
    let bad: Vec<&Value> = found
        .iter()
        .filter(|entry| BAD.contains(&text(entry, "severity").as_str()) && !MEANT.contains(&text(entry, "id").as_str()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");

    let refused = |protocol: &[&str]| {
        let target = format!("{address}:7947");
        let words =
            [&["5", "openssl", "s_client", "-ign_eof", "-tls1_3", "-connect", target.as_str()], protocol].concat();
        let done = fleet["x"].run("timeout", words);
        format!("{}{}", done.stdout, done.stderr)
    };
    for protocol in [&[][..], &["-alpn", "weft-mesh"], &["-alpn", "weft-http"]] {
        let said = refused(protocol);
        assert!(said.contains("alert certificate required"), "{protocol:?}: {said}");
    }
    for protocol in ["http/1.1", "h2", "weft-mesh/9"] {
        let said = refused(&["-alpn", protocol]);
        assert!(said.contains("no peer certificate available"), "{protocol} was talked to: {said}");
    }
    assert!(fleet["a"].metric("weft_mesh_handshakes_failed_total", "") > 0.0);
}
