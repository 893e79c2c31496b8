//! What of a request's and a response's head is checked, removed and added on the way. Pure.
//!
//! Inside Weft a request has origin-form target, version 1.1 and exactly one `Host`, however it came; on the last stretch it
//! gets the form that its service speaks.

use std::net::IpAddr;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Method, Version};

use crate::model::{ServiceId, ServiceName, Tag};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Which service, to the host that serves it.
pub(super) const WEFT_SERVICE: HeaderName = HeaderName::from_static("weft-service");
/// Which of its instances.
pub(super) const WEFT_INSTANCE: HeaderName = HeaderName::from_static("weft-instance");
/// Which tag was asked for.
pub(super) const WEFT_TAG: HeaderName = HeaderName::from_static("weft-tag");
/// Which service calls, as its host attests; without it nobody does.
pub(super) const WEFT_CALLER: HeaderName = HeaderName::from_static("weft-caller");
/// Which service calls, to the service that is called. Only Weft sets it.
pub(super) const CLIENT: HeaderName = HeaderName::from_static("x-weft-client");
/// Names that begin so are Weft's own between hosts: nobody else's pass.
const OWN_PREFIX: &str = "weft-";
/// Longest value of `Host`: a DNS name and a port, with room.
const HOST_BYTES_MAX: usize = 512;

/// Why a request cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Brings a request that an application sent into Weft's own form, or refuses it.
pub(super) fn admit(parts: &mut Parts, service: &str) -> Result<(), Malformed> {
    if parts.method == Method::CONNECT {
        return Err(Malformed("CONNECT asks for a forward proxy"));
    }
    check_framing(parts)?;
    check_target(parts)?;
    set_host(parts, service)?;
    let target = parts.uri.path_and_query().cloned();
    // `OPTIONS *` has no path in HTTP/2 and `*` in HTTP/1.1.
    let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
    if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        parts.uri = Uri::from(target);
    }
    parts.version = Version::HTTP_11;
    Ok(())
}

/// hyper has refused what is plainly wrong (differing lengths, a coding that does not end in `chunked`, one in HTTP/1.0)
/// and frames the body anew on the way out; what is left is what readers are known to disagree about.
fn check_framing(parts: &Parts) -> Result<(), Malformed> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if parts.headers.contains_key(CONTENT_LENGTH) {
            return Err(Malformed("both Transfer-Encoding and Content-Length"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed("a Transfer-Encoding other than chunked"));
        }
    }
    Ok(())
}

/// RFC 9112 §3.2: a path, or a whole URL; `*` belongs to OPTIONS, and a bare authority to CONNECT.
fn check_target(parts: &Parts) -> Result<(), Malformed> {
    if parts.uri.scheme().is_none() && parts.uri.authority().is_some() {
        return Err(Malformed("a target that is neither a path nor a URL"));
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(Malformed("the target * without OPTIONS"));
    }
    if parts.uri.authority().is_some_and(|authority| !is_authority(authority.as_str().as_bytes())) {
        return Err(Malformed("an authority that is none"));
    }
    Ok(())
}

/// Removes from trailers what only a head may say: framing, the host, what concerns one connection, and Weft's own.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(HOST);
    strip(trailers);
}

/// RFC 9112 §3.2: exactly one Host in HTTP/1.1, and the target's authority goes before it.
fn set_host(parts: &mut Parts, service: &str) -> Result<(), Malformed> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Malformed("more than one Host"));
    }
    if let Some(host) = first
        && !is_authority(host.as_bytes())
    {
        return Err(Malformed("a Host that is none"));
    }
    let named = match (parts.uri.authority(), first) {
        (Some(authority), first) => {
            if parts.version == Version::HTTP_2 && first.is_some_and(|host| host != authority.as_str()) {
                return Err(Malformed("a Host that is not :authority"));
            }
            HeaderValue::from_str(authority.as_str())
        }
        (None, Some(_)) => return Ok(()),
        (None, None) if parts.version == Version::HTTP_11 => return Err(Malformed("no Host")),
        (None, None) => HeaderValue::from_str(service),
    };
    let named = named.map_err(|_| Malformed("a Host that is none"))?;
    parts.headers.insert(HOST, named);
    Ok(())
}

/// `uri-host [":" port]` by its characters (RFC 3986 §3.2.2); an empty one is allowed by RFC 9110.
fn is_authority(bytes: &[u8]) -> bool {
    bytes.len() <= HOST_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte))
}

/// The protocol that a client of HTTP/1.1 wants to go over to, if it is one that can be carried. `h2c` is not: RFC 9113
/// has done away with it, and the request is answered as it is. Nor is one that is not a GET, which is all that goes over
/// (RFC 6455 §4.1, RFC 8441 §5): it would be judged by intentions as what it is not, and its body would be lost.
pub(super) fn wants_upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.method != Method::GET {
        return None;
    }
    let asked = parts.headers.get(UPGRADE)?;
    let connection = parts.headers.get_all(CONNECTION).iter();
    let is_meant = connection.flat_map(tokens).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let is_h2c = tokens(asked).any(|token| token.eq_ignore_ascii_case(b"h2c"));
    (is_meant && !is_h2c && parts.version == Version::HTTP_11).then(|| asked.clone())
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1), and what is Weft's own.
pub(super) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            // Framing and the host are not the sender's to take away.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != TE)
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
        headers.remove(CONNECTION);
    }
    let hop_by_hop = [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
    ];
    for name in hop_by_hop {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(TE)
        && tokens(&te).any(|token| token.eq_ignore_ascii_case(b"trailers"))
    {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    strip_own(headers);
}

/// Removes every header that only Weft may set.
pub(super) fn strip_own(headers: &mut HeaderMap) {
    if headers.keys().any(is_own) {
        let own: Vec<HeaderName> = headers.keys().filter(|name| is_own(name)).cloned().collect();
        own.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// Gateways to programs (CGI, WSGI) make one name of `x-weft-client` and `x_weft_client`, so both are Weft's.
fn is_own(name: &HeaderName) -> bool {
    let (name, client) = (name.as_str(), CLIENT);
    let same = |(one, other): (u8, u8)| one == other || (one == b'_' && other == b'-');
    name.starts_with(OWN_PREFIX)
        || (name.len() == client.as_str().len() && name.bytes().zip(client.as_str().bytes()).all(same))
}

/// True for what a policy must not change: framing, the host, what concerns one connection, and what only Weft sets.
pub(super) fn is_kept(name: &HeaderName) -> bool {
    let framing = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE, TE, KEEP_ALIVE, PROXY_CONNECTION];
    framing.contains(name) || is_own(name)
}

/// What a service is told of who calls: `spiffe://CLUSTER/service/NAME`, or `spiffe://CLUSTER/anonymous`.
pub(super) fn client(cluster: &str, caller: Option<&ServiceName>) -> HeaderValue {
    let text = match caller {
        Some(caller) => format!("spiffe://{cluster}/service/{caller}"),
        None => format!("spiffe://{cluster}/anonymous"),
    };
    // Names of clusters and services are labels; whatever else could be there names nobody.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("spiffe:///anonymous"))
}

/// Of a request: strips it, and says who asks. `Expect` has been answered here.
pub(super) fn prepare(headers: &mut HeaderMap, caller: IpAddr) {
    strip(headers);
    headers.remove(EXPECT);
    forwarded_for(headers, caller);
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// Appends the calling host to `X-Forwarded-For`: its programs call over loopback, which would say nothing elsewhere.
fn forwarded_for(headers: &mut HeaderMap, caller: IpAddr) {
    let so_far: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let caller = caller.to_string();
    let value = match so_far.as_slice() {
        [] => HeaderValue::try_from(caller),
        all => HeaderValue::from_bytes(&[all.join(&b", "[..]), caller.into_bytes()].join(&b", "[..])),
    };
    if let Ok(value) = value {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// For another host's agent: the caller goes in Weft's own header, and the agent there tells its service.
pub(super) fn insert_caller(headers: &mut HeaderMap, caller: Option<&HeaderValue>) {
    headers.remove(CLIENT);
    if let Some(caller) = caller {
        headers.insert(WEFT_CALLER, caller.clone());
    }
}

/// Reads what [`insert_caller`] wrote.
pub(super) fn read_caller(headers: &HeaderMap) -> Result<Option<ServiceName>, Malformed> {
    let mut callers = headers.get_all(WEFT_CALLER).iter();
    match (callers.next(), callers.next()) {
        (None, _) => Ok(None),
        (Some(caller), None) => {
            let name = caller.to_str().ok().and_then(|caller| ServiceName::parse(caller).ok());
            name.map(Some).ok_or(Malformed("a caller that is no service"))
        }
        (Some(_), Some(_)) => Err(Malformed("more than one caller")),
    }
}

/// Tells the serving host's agent what is asked for. Ids are any printable text, so not always ASCII.
pub(super) fn insert_target(
    headers: &mut HeaderMap,
    service: &ServiceName,
    instance: &ServiceId,
    tag: Option<&Tag>,
) -> Result<(), Malformed> {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Malformed("an id that is no text"));
    headers.insert(WEFT_SERVICE, value(service.as_str())?);
    headers.insert(WEFT_INSTANCE, value(instance.as_str())?);
    if let Some(tag) = tag {
        headers.insert(WEFT_TAG, value(tag.as_str())?);
    }
    Ok(())
}

/// Reads what [`insert_target`] wrote; `None` where a part is missing or is no name.
pub(super) fn read_target(headers: &HeaderMap) -> Option<(ServiceName, ServiceId, Option<Tag>)> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let service = ServiceName::parse(text(&WEFT_SERVICE)?).ok()?;
    let instance = ServiceId::parse(text(&WEFT_INSTANCE)?).ok()?;
    let tag = match headers.contains_key(WEFT_TAG) {
        true => Some(Tag::parse(text(&WEFT_TAG)?).ok()?),
        false => None,
    };
    Some((service, instance, tag))
}

/// True for calls of gRPC, whose errors are told in headers of their own.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(hyper::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(lines: &[(&str, &str)], uri: &str, version: Version) -> Parts {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn admitted(lines: &[(&str, &str)], uri: &str, version: Version) -> Result<Parts, Malformed> {
        let mut parts = parts(lines, uri, version);
        admit(&mut parts, "web").map(|()| parts)
    }

    #[test]
    fn a_request_of_any_form_becomes_origin_form_with_one_host() {
        let h2 = admitted(&[], "http://web.mesh.internal/a?b", Version::HTTP_2).unwrap();
        assert!(h2.uri == "/a?b" && h2.headers[HOST] == "web.mesh.internal", "{h2:?}");
        // RFC 9112 §3.2.2: the Host of an absolute-form request is not believed.
        let absolute = admitted(&[("host", "other")], "http://web:80/", Version::HTTP_11).unwrap();
        assert!(absolute.uri == "/" && absolute.headers[HOST] == "web:80", "{absolute:?}");
        let old = admitted(&[], "/", Version::HTTP_10).unwrap();
        assert_eq!(old.headers[HOST], "web");
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        let v11 = Version::HTTP_11;
        for (lines, uri) in [
            (&[][..], "/"),
            (&[("host", "a"), ("host", "a")], "/"),
            (&[("host", "a b")], "/"),
            (&[("host", "a/b")], "/"),
            (&[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "5")], "/"),
            (&[("host", "a"), ("transfer-encoding", "gzip, chunked")], "/"),
            (&[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "/"),
        ] {
            assert!(admitted(lines, uri, v11).is_err(), "{lines:?}");
        }
        assert!(admitted(&[("host", "evil")], "http://web/", Version::HTTP_2).is_err());
    }

    #[test]
    fn hop_by_hop_headers_go_and_with_them_those_that_connection_names() {
        let lines = [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("weft-error", "forged"),
            ("expect", "100-continue"),
            ("traceparent", "00-1-2-01"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        let mut headers = parts(&lines, "/", Version::HTTP_11).headers;
        prepare(&mut headers, "10.0.0.7".parse().unwrap());
        let mut left: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        left.sort_unstable();
        let expected: [(&str, &[u8]); 4] = [
            ("te", b"trailers"),
            ("traceparent", b"00-1-2-01"),
            ("x-forwarded-for", b"192.0.2.1, 10.0.0.7"),
            ("x-forwarded-proto", b"http"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn connection_cannot_take_away_the_host_or_the_length() {
        let lines = [("host", "a"), ("content-length", "3"), ("connection", "host, content-length")];
        let mut headers = parts(&lines, "/", Version::HTTP_11).headers;
        strip(&mut headers);
        assert!(headers.contains_key(HOST) && headers.contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn a_target_is_read_as_it_was_written_whatever_its_letters() {
        let (service, instance) = (ServiceName::parse("web").unwrap(), ServiceId::parse("größe/1").unwrap());
        let mut headers = HeaderMap::new();
        assert_eq!(read_target(&headers), None);
        insert_target(&mut headers, &service, &instance, None).unwrap();
        assert_eq!(read_target(&headers), Some((service.clone(), instance.clone(), None)));
        let tag = Tag::parse("primary").unwrap();
        insert_target(&mut headers, &service, &instance, Some(&tag)).unwrap();
        assert_eq!(read_target(&headers), Some((service, instance, Some(tag))));
    }

    #[test]
    fn an_upgrade_is_one_that_connection_names_and_never_h2c() {
        let asked = |connection, upgrade| {
            let lines = [("connection", connection), ("upgrade", upgrade)];
            wants_upgrade(&parts(&lines, "/", Version::HTTP_11)).is_some()
        };
        assert!(asked("keep-alive, Upgrade", "websocket"));
        assert!(!asked("keep-alive", "websocket"));
        assert!(!asked("Upgrade, HTTP2-Settings", "h2c"));
    }
}
