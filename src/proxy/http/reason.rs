//! Why a request was answered by Weft itself and not by the service: the words of the `weft-error` header, which users see
//! and agents act on.

use hyper::StatusCode;
use hyper::header::HeaderName;

use crate::proxy::admission;

/// The header that names the reason. Only Weft sets it: what a service sends under this name is removed.
pub(super) const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");

/// Which rule denied a call, beside [`WEFT_ERROR`].
pub(super) const WEFT_RULE: HeaderName = HeaderName::from_static("weft-rule");

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The request is not one that can be carried.
    BadRequest,
    /// The service is gone since the connection began.
    NoService,
    /// No instance takes calls.
    NoInstance,
    /// The instance's process, or its host, does not take connections.
    ConnectFailed,
    /// The instance's host refused: the instance is not there any more, or takes no calls.
    Refused,
    /// The instance's host does not let this host call in the name of that service.
    NotAllowed,
    /// An intention does not let the caller make this request.
    Denied,
    /// Nothing came within the request's time.
    Timeout,
    /// The connection was lost before the response began.
    Reset,
    /// The connection to the instance's host was lost, with all requests on it: nobody knows which it has seen.
    HostLost,
    /// The service answered something that is no HTTP.
    Protocol,
    /// The instance's host is stopping.
    Draining,
    /// This host has as many calls of the service under way as it may.
    Limited,
    /// The instance has as many calls as it may, and no place in its queue.
    Overloaded,
    /// The caller makes more calls a second than it may.
    RateLimited,
}

/// Those that cross between hosts.
const ALL: [Reason; 14] = [
    Reason::BadRequest,
    Reason::NoService,
    Reason::NoInstance,
    Reason::ConnectFailed,
    Reason::Refused,
    Reason::NotAllowed,
    Reason::Denied,
    Reason::Timeout,
    Reason::Reset,
    Reason::Protocol,
    Reason::Draining,
    Reason::Limited,
    Reason::Overloaded,
    Reason::RateLimited,
];

impl From<admission::Refused> for Reason {
    fn from(refused: admission::Refused) -> Reason {
        match refused {
            admission::Refused::Overloaded => Reason::Overloaded,
            admission::Refused::RateLimited => Reason::RateLimited,
        }
    }
}

impl Reason {
    /// The word of the header.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad-request",
            Reason::NoService => "no-service",
            Reason::NoInstance => "no-instance",
            Reason::ConnectFailed => "connect-failed",
            Reason::Refused => "refused",
            Reason::NotAllowed => "not-allowed",
            Reason::Denied => "denied",
            Reason::Timeout => "timeout",
            Reason::Reset | Reason::HostLost => "reset",
            Reason::Protocol => "protocol",
            Reason::Draining => "draining",
            Reason::Limited => "limited",
            Reason::Overloaded => "overloaded",
            Reason::RateLimited => "rate-limited",
        }
    }

    /// Reads the word.
    pub(super) fn parse(word: &[u8]) -> Option<Reason> {
        ALL.into_iter().find(|reason| reason.as_str().as_bytes() == word)
    }

    /// The status that goes with it (RFC 9110 §15.6).
    pub(super) fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::NotAllowed | Reason::Denied => StatusCode::FORBIDDEN,
            Reason::ConnectFailed | Reason::Reset | Reason::HostLost | Reason::Protocol => StatusCode::BAD_GATEWAY,
            Reason::NoService | Reason::NoInstance | Reason::Refused | Reason::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Reason::Limited | Reason::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Reason::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// True if no instance has seen anything of the request, so that another may be asked.
    pub(super) fn is_untouched(self) -> bool {
        matches!(self, Reason::ConnectFailed | Reason::Refused | Reason::Draining)
    }

    /// True if it says that there are too many calls, and a later one may be taken.
    pub(super) fn is_too_many(self) -> bool {
        matches!(self, Reason::Limited | Reason::Overloaded | Reason::RateLimited)
    }

    /// True if the request, or who makes it, is at fault: no instance has failed.
    pub(super) fn is_callers_own(self) -> bool {
        matches!(self, Reason::BadRequest | Reason::NotAllowed | Reason::Denied | Reason::RateLimited)
    }

    /// What a person reads in the body.
    pub(super) fn sentence(self, service: &str, rule: Option<&str>) -> String {
        let what = match self {
            Reason::BadRequest => "the request cannot be carried as it is framed".to_owned(),
            Reason::NoService => format!("no service {service} is known any more"),
            Reason::NoInstance => format!("no instance of {service} takes calls"),
            Reason::ConnectFailed => format!("no instance of {service} takes connections"),
            Reason::Refused => format!("the host of {service} does not serve it any more"),
            Reason::NotAllowed => format!("the host of {service} does not let this host call in that name"),
            Reason::Denied => format!("this call to {service} is denied"),
            Reason::Timeout => format!("{service} has not answered in time"),
            Reason::Reset => format!("{service} broke the connection off before it answered"),
            Reason::HostLost => format!("the host of {service} was lost before it answered"),
            Reason::Protocol => format!("{service} answered something that is no HTTP"),
            Reason::Draining => format!("the host of {service} is stopping"),
            Reason::Limited => format!("this host has as many calls of {service} under way as it may"),
            Reason::Overloaded => format!("{service} has as many calls as it may"),
            Reason::RateLimited => format!("this caller makes more calls of {service} a second than it may"),
        };
        match rule {
            Some(rule) => format!("weft: {what}: {rule}; `weft intention check SOURCE {service}` tells more\n"),
            None => format!("weft: {what}; `weft explain {service}` tells more\n"),
        }
    }

    /// gRPC's status code (grpc/grpc: statuscodes.md).
    pub(super) fn grpc_status(self) -> &'static str {
        match self {
            Reason::BadRequest => "13",
            Reason::Timeout => "4",
            Reason::NotAllowed | Reason::Denied => "7",
            Reason::Limited | Reason::Overloaded | Reason::RateLimited => "8",
            _ => "14",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for reason in ALL {
            assert_eq!(Reason::parse(reason.as_str().as_bytes()), Some(reason));
            assert!(reason.status().is_server_error() || reason.is_callers_own());
        }
        assert_eq!(Reason::parse(b"teapot"), None);
    }
}
