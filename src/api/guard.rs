//! Who may ask: `Host`, `Origin` and `Sec-Fetch-Site`, against pages in a local browser that were told to ask. Pure.
//!
//! DNS rebinding points a name of the attacker's at 127.0.0.1, so the API answers only to names and addresses that are
//! its own. A page of another origin that sends anything but a plain GET or POST has its `Origin` named by the browser.
//! What changes something is not for pages at all, of whatever origin: over TCP no request that looks like a browser's
//! may write.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERER};
use hyper::http::uri::Authority;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a form can send without the browser asking first (the fetch standard's CORS-safelisted types).
const FORM_TYPES: [&str; 3] = ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"];

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// Over TCP, to this address of ours.
    Tcp(IpAddr),
    /// Over TLS, which a page of another name does not get through: the certificate names this host.
    Tls,
    /// Over the unix socket, which no browser reaches: file permissions decide who may.
    Unix,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a request needs exactly one Host header")]
    HostMissing,
    #[error(
        "this API does not answer to the Host {0:?}; ask for localhost, a loopback address or the address it listens on"
    )]
    Host(String),
    #[error("pages of {0:?} may not use this API")]
    Origin(String),
    #[error("pages may not change anything here; use the command line, or a program that is no browser")]
    Page,
}

/// Decides from the request's headers and, where its target is absolute, the target's authority.
pub(super) fn admit(via: Via, target: Option<&Authority>, headers: &HeaderMap) -> Result<(), Refusal> {
    if let Via::Tcp(local) = via {
        let host = only(headers, &HOST).ok_or(Refusal::HostMissing)?;
        check_host(local, &text(host))?;
        if let Some(target) = target {
            check_host(local, target.as_str())?;
        }
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE)
        && !matches!(site.as_bytes(), b"same-origin" | b"none")
    {
        return Err(Refusal::Origin(text(headers.get(ORIGIN).unwrap_or(site))));
    }
    for origin in headers.get_all(ORIGIN) {
        let scheme = if via == Via::Tls { "https" } else { "http" };
        let same = |host: &HeaderValue| text(origin).eq_ignore_ascii_case(&format!("{scheme}://{}", text(host)));
        if !only(headers, &HOST).is_some_and(same) {
            return Err(Refusal::Origin(text(origin)));
        }
    }
    Ok(())
}

/// Decides whether a request that would change something comes from a page. Pages do not reach the unix socket.
pub(super) fn admit_write(via: Via, headers: &HeaderMap) -> Result<(), Refusal> {
    if via == Via::Unix {
        return Ok(());
    }
    let fetched =
        headers.get_all(SEC_FETCH_SITE).iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let from_page = headers.contains_key(ORIGIN) || headers.contains_key(REFERER);
    if fetched || headers.contains_key(ORIGIN) || (from_page && sends_form(headers)) {
        return Err(Refusal::Page);
    }
    Ok(())
}

fn sends_form(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|kind| {
        let kind = text(kind);
        let essence = kind.split(';').next().unwrap_or_default().trim();
        FORM_TYPES.iter().any(|form| form.eq_ignore_ascii_case(essence))
    })
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

fn check_host(local: IpAddr, host: &str) -> Result<(), Refusal> {
    let refusal = || Refusal::Host(host.chars().take(64).collect());
    let authority: Authority = host.parse().map_err(|_| refusal())?;
    // "user@host": no client of ours sends it, and it makes two readings of one text possible.
    if host.contains('@') {
        return Err(refusal());
    }
    let name = authority.host();
    if name.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    match address(name) {
        Some(ip) if ip.is_loopback() || ip == local.to_canonical() => Ok(()),
        _ => Err(refusal()),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical()),
        None => host.parse().ok(),
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Via = Via::Tcp(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 11)));

    fn asked(via: Via, headers: &[(&'static str, &'static str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        admit(via, None, &map)
    }

    #[test]
    fn loopback_names_and_the_address_listened_on_are_answered() {
        for host in ["localhost", "LocalHost:8500", "127.0.0.1:8500", "127.9.9.9", "[::1]:8500", "10.0.0.11:8500"] {
            assert_eq!(asked(LOCAL, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn every_other_host_is_refused_as_dns_rebinding() {
        let hosts =
            ["evil.example", "localhost.evil.example", "10.0.0.12", "a@localhost", "127.0.0.1.evil", "[::2]", ""];
        for host in hosts {
            assert!(matches!(asked(LOCAL, &[("host", host)]), Err(Refusal::Host(_))), "{host}");
        }
        assert_eq!(asked(LOCAL, &[]), Err(Refusal::HostMissing));
        assert_eq!(asked(LOCAL, &[("host", "localhost"), ("host", "localhost")]), Err(Refusal::HostMissing));
    }

    #[test]
    fn an_absolute_target_must_be_ours_too() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        assert!(admit(LOCAL, Some(&Authority::from_static("evil.example")), &headers).is_err());
        assert!(admit(LOCAL, Some(&Authority::from_static("localhost:8500")), &headers).is_ok());
    }

    #[test]
    fn only_pages_of_our_own_origin_may_ask() {
        let from = |origin| asked(LOCAL, &[("host", "127.0.0.1:8500"), ("origin", origin)]);
        assert_eq!(from("http://127.0.0.1:8500"), Ok(()));
        for origin in ["null", "http://evil.example", "http://127.0.0.1:3000", "https://127.0.0.1:8500"] {
            assert_eq!(from(origin), Err(Refusal::Origin(origin.into())));
        }
    }

    #[test]
    fn a_browser_that_says_the_page_is_elsewhere_is_believed() {
        let site = |site| asked(LOCAL, &[("host", "localhost"), ("sec-fetch-site", site)]);
        assert_eq!((site("none"), site("same-origin")), (Ok(()), Ok(())));
        assert!(site("same-site").is_err() && site("cross-site").is_err());
    }

    #[test]
    fn programs_may_write_and_pages_may_not() {
        let write = |via, headers: &[(&'static str, &'static str)]| {
            let headers =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            admit_write(via, &headers.collect())
        };
        let program = [("host", "localhost"), ("content-type", "application/json")];
        assert_eq!(write(LOCAL, &program), Ok(()));
        // curl --data says so, and is no page.
        assert_eq!(write(LOCAL, &[("content-type", "application/x-www-form-urlencoded")]), Ok(()));
        for page in [
            &[("origin", "http://localhost:8500")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("referer", "http://evil.example/"), ("content-type", "Text/Plain; charset=utf-8")],
            &[("referer", "http://evil.example/"), ("content-type", "multipart/form-data; boundary=x")],
        ] {
            assert_eq!(write(LOCAL, page), Err(Refusal::Page), "{page:?}");
            assert_eq!(write(Via::Tls, page), Err(Refusal::Page), "{page:?}");
            assert_eq!(write(Via::Unix, page), Ok(()), "{page:?}");
        }
    }

    #[test]
    fn over_tls_the_certificate_says_the_name_and_pages_are_those_of_its_origin() {
        assert_eq!(asked(Via::Tls, &[("host", "weft.example:8500")]), Ok(()));
        let from = |origin| asked(Via::Tls, &[("host", "weft.example"), ("origin", origin)]);
        assert_eq!(from("https://weft.example"), Ok(()));
        assert!(from("http://weft.example").is_err() && from("https://evil.example").is_err());
    }

    #[test]
    fn the_unix_socket_takes_any_host() {
        assert_eq!(asked(Via::Unix, &[("host", "weft")]), Ok(()));
        assert_eq!(asked(Via::Unix, &[]), Ok(()));
    }
}
