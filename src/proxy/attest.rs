//! Who calls: for a connection that a program of this host made, by the kernel's word and this host's rules; for a call of
//! another host, by its word, as far as its certificate lets it speak for the service that it names.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tracing::warn;

use super::worker::Worker;
use crate::identity::{Attestor, Groups, PeerIdentity};
use crate::model::{CallerVerdict, Callers, ServiceName};

/// Different things that are told once each; what comes after so many is not told any more.
const TOLD_MAX: usize = 1024;

/// What workers share to say who calls.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) callers: Arc<ArcSwap<Callers>>,
    groups: Groups,
    told: Arc<Mutex<HashSet<String>>>,
}

impl Shared {
    pub(super) fn new(callers: Arc<ArcSwap<Callers>>, groups: Groups) -> Shared {
        Shared { callers, groups, told: Arc::default() }
    }

    /// True the first time that `what` is to be told.
    fn is_news(&self, what: String) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD_MAX && told.insert(what)
    }
}

/// One worker's part of it.
pub(super) struct Attest {
    shared: Shared,
    attestor: Attestor,
}

impl Attest {
    pub(super) fn new(shared: Shared) -> Attest {
        Attest { attestor: Attestor::open(shared.groups.clone()), shared }
    }

    /// Which service the program calls as that made this connection from `client` to `vip` and `port`.
    async fn caller(&self, tcp: &TcpStream, client: SocketAddr, vip: Ipv4Addr, port: u16) -> Option<ServiceName> {
        if self.shared.callers.load().is_empty() {
            return None;
        }
        // Only where the address of the service is kept does the kernel leave the client's port as it is; else the port
        // may belong to another program by now.
        if tcp.local_addr().ok().map(|local| local.ip().to_canonical()) != Some(IpAddr::V4(vip)) {
            if self.shared.is_news("rule".to_owned()) {
                warn!(
                    "the redirect rule that is loaded is an older one, with which nobody can tell who calls: every call is \
                     anonymous; restart weft-redirect.service"
                );
            }
            return None;
        }
        let program = self.attestor.program(client, (vip, port).into()).await?;
        // A connection that was reset meanwhile has given its ports back, and the socket that was found may be another's.
        tcp.peer_addr().ok()?;
        match self.shared.callers.load().judge(&program) {
            CallerVerdict::Service(service) => Some(service.clone()),
            CallerVerdict::Nobody => None,
            CallerVerdict::Tie(one, other) => {
                if self.shared.is_news(format!("tie {one} {other}")) {
                    warn!(
                        %one, %other, uid = program.uid, cgroup = program.cgroup.as_deref(),
                        "a program is as much the one service as the other, so it calls as neither: give the two `unit`, \
                         `user` or `cgroup` keys that tell them apart"
                    );
                }
                None
            }
        }
    }
}

impl Worker {
    /// Which service the program calls as that made this connection; `None` is anonymous.
    pub(super) async fn caller_of(
        &self,
        tcp: &TcpStream,
        client: SocketAddr,
        vip: Ipv4Addr,
        port: u16,
    ) -> Option<ServiceName> {
        let caller = self.attest.caller(tcp, client, vip, port).await;
        match caller {
            Some(_) => self.counters.callers_named.one(),
            None => self.counters.callers_anonymous.one(),
        }
        caller
    }

    /// False if the peer may not call as this service. That is counted, and told once.
    pub(super) fn may_call_as(&self, peer: &PeerIdentity, caller: Option<&ServiceName>) -> bool {
        let Some(caller) = caller.filter(|caller| !peer.grants_service(caller)) else { return true };
        self.counters.callers_refused.one();
        if self.attest.shared.is_news(format!("claim {}", peer.node)) {
            warn!(
                node = %peer.name, id = %peer.node, service = %caller, grants = peer.grants.join(", "),
                "a host claims to call as a service that its certificate does not grant; its calls as that are refused: \
                 look into that host, or enrol it again with a token made with --service {caller}"
            );
        }
        false
    }
}
