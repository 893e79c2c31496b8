//! One simulated machine: its disk, and the cores of the agent that runs on it, if one does. Inputs come from `world`, which
//! also carries out what the cores put out.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use weft::model::{Claim, MemberState, NodeId, NodeName, Now, SwimMessage};
use weft::swim::{Config, Swim};

/// What a datagram carries. (The catalog's messages would be the second kind.)
#[derive(Debug, Clone)]
pub(crate) enum Datagram {
    Swim(SwimMessage),
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) incarnation: u64,
    /// The member list as it was written last.
    pub(crate) members: Vec<Claim>,
}

/// Something that a host's membership said, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Now,
    pub(crate) viewer: usize,
    pub(crate) node: NodeId,
    pub(crate) state: MemberState,
}

/// The cores of a running agent.
pub(crate) struct Agent {
    pub(crate) swim: Swim,
    /// Counts the agent's starts; an event for an earlier start is void.
    pub(crate) start: u64,
    /// The earliest tick that is in the queue.
    pub(crate) tick_at: Option<Now>,
}

pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) name: NodeName,
    pub(crate) address: SocketAddr,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) config: Config,
    pub(crate) disk: Disk,
    /// None: crashed, or not started yet.
    pub(crate) agent: Option<Agent>,
    /// The process stands still until then.
    pub(crate) stalled_until: Now,
    /// What arrives meanwhile waits in its sockets (else it is lost, as with a machine that is suspended).
    pub(crate) sockets_keep: bool,
    pub(crate) starts: u64,
    pub(crate) left: bool,
    /// Datagrams sent, and the claims they carried.
    pub(crate) datagrams_sent: u64,
    pub(crate) claims_sent: u64,
}

impl Host {
    pub(crate) fn new(index: usize) -> Host {
        let number = u8::try_from(index / 200).expect("fewer than 51,200 hosts");
        let last = u8::try_from(index % 200 + 1).expect("at most 200");
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        id[8..].copy_from_slice(&(index as u64).to_be_bytes());
        Host {
            node: NodeId(id),
            name: NodeName::parse(&format!("host-{index}")).expect("a label"),
            address: SocketAddr::from(([10, 0, number, last], 7946)),
            seeds: Vec::new(),
            config: Config::default(),
            disk: Disk::default(),
            agent: None,
            stalled_until: Duration::ZERO,
            sockets_keep: true,
            starts: 0,
            left: false,
            datagrams_sent: 0,
            claims_sent: 0,
        }
    }

    /// Starts the agent from what the disk holds.
    pub(crate) fn start(&mut self, now: Now, rng: ChaCha8Rng) {
        let (config, name) = (self.config.clone(), self.name.clone());
        let mut swim = Swim::new(config, self.node, name, self.address, self.disk.incarnation, rng);
        swim.restore(now, self.disk.members.clone());
        swim.set_seeds(self.seeds.clone());
        self.starts += 1;
        self.left = false;
        self.agent = Some(Agent { swim, start: self.starts, tick_at: None });
    }

    /// Writes what an agent writes now and then.
    pub(crate) fn save(&mut self) {
        if let Some(agent) = &self.agent {
            self.disk.members = agent.swim.snapshot();
        }
    }
}
