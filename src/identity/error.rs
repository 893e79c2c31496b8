//! Everything that can go wrong with an identity, in sentences that say what failed, on what, and what to do next.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use super::PeerError;
use super::exchange::RefusalCode;

/// Why an identity could not be made, read, or got.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}; check that it exists and that this user may use it", path.display())]
    Io {
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there but does not hold what it should.
    #[error("{} is damaged: {reason}; restore it from a backup, or enrol this host again with `weft enroll --token`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No identity in the data directory.
    #[error(
        "this host has no identity in {}; run `weft ca init` on the first host, `weft enroll --token` on every other",
        data_dir.display()
    )]
    NotEnrolled {
        /// Where it was looked for.
        data_dir: PathBuf,
    },
    /// `ca init` where a CA or an identity exists.
    #[error("{} exists already and is never overwritten; move it away if this host shall start a new cluster", path.display())]
    AlreadyThere {
        /// What is in the way.
        path: PathBuf,
    },
    /// This host keeps no CA.
    #[error("{} holds no CA; do that on a host that issues certificates: `weft ca status` names them", data_dir.display())]
    NotIssuer {
        /// Where it was looked for.
        data_dir: PathBuf,
    },
    /// A CA of somebody's own that cannot be used.
    #[error("the CA that was given cannot be used: {reason}")]
    GivenCa {
        /// What is wrong with it.
        reason: String,
    },
    /// A step of a change of roots that is not its turn.
    #[error("{0}")]
    Rotation(String),
    /// Another process holds a lock for too long.
    #[error("{} is locked by another process; try again when it has finished", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A cluster name that cannot stand in a SPIFFE id.
    #[error(
        "cluster name {0:?} cannot be used; take 1 to 63 lower-case letters, digits, '.', '-' and '_', a letter or digit first"
    )]
    ClusterName(String),
    /// A service grant that is no glob over service names.
    #[error(
        "service grant {0:?} cannot be used; take at most 32 globs of lower-case letters, digits, '-', '_' and '*'"
    )]
    Grant(String),
    /// A join token whose limits are out of range.
    #[error("{0}")]
    TokenLimits(&'static str),
    /// Text that is no join token.
    #[error("this is not a join token: {0}; copy the whole line that `weft token create` printed")]
    TokenText(&'static str),
    /// The issuer could not be reached.
    #[error(
        "cannot reach the issuer at {issuer}: {source}; check that its agent runs and that TCP to this port is open"
    )]
    Connect {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What answers does not hold the pinned root.
    #[error(
        "the host at {issuer} does not belong to the CA that the token pins; nothing was sent to it. \
         Make sure that the address is the issuer's, then create a new token there"
    )]
    WrongRoot {
        /// The address in the token.
        issuer: SocketAddr,
    },
    /// A host of the cluster, but not the one that keeps the token's ledger.
    #[error(
        "the host at {issuer} is {found}, not the issuer that made the token; nothing was sent to it. \
         Create a new token on the issuer"
    )]
    WrongIssuer {
        /// The address in the token.
        issuer: SocketAddr,
        /// Who answers there.
        found: String,
    },
    /// A certificate that is valid by the issuer's clock is not by ours.
    #[error(
        "clocks disagree: here it is {}, but {what} {} (issuer {issuer}); set this host's clock or the issuer's and try again",
        humantime::format_rfc3339_seconds(*local), humantime::format_rfc3339_seconds(*theirs)
    )]
    Clock {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// This host's time.
        local: SystemTime,
        /// What `theirs` is: "the issuer's clock says", "its certificate begins", ...
        what: &'static str,
        /// The time that ours does not agree with.
        theirs: SystemTime,
    },
    /// TLS with the issuer failed.
    #[error("TLS with the issuer at {issuer} failed: {source}")]
    Handshake {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// What the TLS stack said.
        source: io::Error,
    },
    /// The issuer said no.
    #[error("the issuer at {issuer} refused: {code}")]
    Refused {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// Why.
        code: RefusalCode,
    },
    /// The connection ended before the answer came.
    #[error(
        "the issuer at {issuer} did not answer: {source}; the token may be used up, `weft token list` on the issuer tells"
    )]
    BrokenOff {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// How it ended.
        source: io::Error,
    },
    /// The answer is not what was asked for.
    #[error(
        "the issuer at {issuer} sent an answer that cannot be used: {reason}; compare both hosts' `weft --version`"
    )]
    BadReply {
        /// The issuer's mesh address.
        issuer: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// No issuer is known that could renew the certificate.
    #[error("no issuer is on record in {}; enrol again with `weft enroll --token`", data_dir.display())]
    NoIssuer {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A file that should hold an operator's key and certificates.
    #[error("{} is no operator's file: {reason}; `weft ca operator NAME` on an issuer makes one", path.display())]
    NoOperator {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A policy that cannot be signed.
    #[error("{0}")]
    Policy(String),
    /// A certificate says something unusable.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration could not be made.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The crypto library failed; no cause is given.
    #[error("the crypto library could not {0}")]
    Crypto(&'static str),
}

impl IdentityError {
    /// True if the other end has ended the connection for what it was shown: a certificate that it does not believe.
    pub(super) fn is_alert(&self) -> bool {
        let (IdentityError::Handshake { source, .. } | IdentityError::BrokenOff { source, .. }) = self else {
            return false;
        };
        let error = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        matches!(error, Some(rustls::Error::AlertReceived(_)))
    }

    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> IdentityError {
        let path = path.into();
        move |source| IdentityError::Io { action, path, source }
    }

    pub(super) fn damaged(path: impl Into<PathBuf>, reason: &dyn fmt::Display) -> IdentityError {
        IdentityError::Damaged { path: path.into(), reason: reason.to_string() }
    }
}
