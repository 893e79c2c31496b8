//! `/v1/weft/whoami`: which service the program calls as that asks. The kernel is asked about the very connection that the
//! question came over, by the same rules that calls are attested by.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hyper::StatusCode;
use serde::Serialize;

use super::answer::Answer;
use crate::identity::{Attestor, Groups};
use crate::model::{CallerVerdict, Callers, Program};

/// Both ends of a TCP connection of a client, as the client's socket has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What is needed to say who asks.
#[derive(Debug, Clone)]
pub struct WhoAsks {
    /// Which programs are which service.
    pub callers: Arc<ArcSwap<Callers>>,
    /// The control groups of this host.
    pub groups: Groups,
    /// The cluster's name.
    pub cluster: String,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct Told<'a> {
    /// `None` is anonymous.
    service: Option<&'a str>,
    /// What services that are called read in `x-weft-client`.
    client: String,
    uid: Option<u32>,
    cgroup: Option<&'a str>,
    /// In a sentence.
    why: String,
}

impl WhoAsks {
    /// The answer.
    pub(super) async fn tell(&self, ends: Option<&Ends>) -> Answer {
        let Some(Ends { local, remote }) = ends else {
            let sentence = "over the unix socket nobody can tell; ask over TCP: weft --api 127.0.0.1:8500 whoami";
            return Answer::error(StatusCode::BAD_REQUEST, sentence);
        };
        // Rare, so that nothing needs to be kept open for it.
        let program = Attestor::open(self.groups.clone()).program(*local, *remote).await;
        Answer::json(&told(program.as_ref(), &self.callers.load(), &self.cluster), true)
    }
}

fn told<'a>(program: Option<&'a Program>, callers: &'a Callers, cluster: &str) -> Told<'a> {
    let (service, why) = match program.map(|program| callers.judge(program)) {
        Some(CallerVerdict::Service(service)) => (Some(service.as_str()), format!("it is a program of {service}")),
        Some(CallerVerdict::Nobody) => (None, "no service of this host says that it is its program".to_owned()),
        Some(CallerVerdict::Tie(one, other)) => {
            (None, format!("{one} and {other} both say that it is their program; tell them apart in their files"))
        }
        None => {
            let why =
                "the kernel does not find its socket: it is closed, or in another network namespace (a container)";
            (None, why.to_owned())
        }
    };
    let client = match service {
        Some(service) => format!("spiffe://{cluster}/service/{service}"),
        None => format!("spiffe://{cluster}/anonymous"),
    };
    let cgroup = program.and_then(|program| program.cgroup.as_deref());
    Told { service, client, uid: program.map(|program| program.uid), cgroup, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CallerKeys, CallerRule, ServiceName};

    #[test]
    fn the_answer_says_who_and_why() {
        let rule = |name| CallerRule {
            service: ServiceName::parse(name).unwrap(),
            keys: CallerKeys { cgroup: Some("/a".into()), ..CallerKeys::default() },
            from_file: true,
        };
        let program = Program { uid: 7, cgroup: Some("/a/b".into()) };
        let (one, two) = (Callers::new(vec![rule("web")]), Callers::new(vec![rule("web"), rule("api")]));
        let web = told(Some(&program), &one, "prod");
        assert_eq!((web.service, web.client.as_str()), (Some("web"), "spiffe://prod/service/web"));
        assert_eq!((web.uid, web.cgroup), (Some(7), Some("/a/b")));
        let tied = told(Some(&program), &two, "prod");
        assert_eq!((tied.service, tied.client.as_str()), (None, "spiffe://prod/anonymous"));
        assert!(tied.why.starts_with("api and web both"), "{}", tied.why);
        let none = Callers::default();
        assert!(told(Some(&program), &none, "prod").why.starts_with("no service"));
        assert!(told(None, &one, "prod").why.contains("another network namespace"));
    }
}
