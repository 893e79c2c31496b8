//! What agents say to each other, and how many bytes it takes: msgpack maps with the field names of memberlist's net.go, one
//! type byte before each, not encrypted (Serf's agent does not by default). A ping and an ack between real agents with names of
//! two letters were seen to have 61 and 150 bytes; these formulas give 63 and 152, for counters above 127.

use std::sync::Arc;

/// A piece of news that spreads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Alive {
        host: u32,
        incarnation: u32,
    },
    Suspect {
        host: u32,
        incarnation: u32,
        from: u32,
    },
    /// From the host itself it is a goodbye.
    Dead {
        host: u32,
        incarnation: u32,
        from: u32,
    },
    Event(Event),
}

/// A Serf user event; in this model what a registration travels as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) item: u64,
    /// Lamport time.
    pub(crate) time: u32,
    pub(crate) bytes: u16,
}

impl News {
    /// Whom it is about: newer news of the same host takes its place in the queue. None: it stands for itself.
    pub(super) fn about(&self) -> Option<u32> {
        match self {
            News::Alive { host, .. } | News::Suspect { host, .. } | News::Dead { host, .. } => Some(*host),
            News::Event(_) => None,
        }
    }

    /// Bytes of the encoded message.
    pub(super) fn bytes(&self, name: usize) -> usize {
        match self {
            // Incarnation, Node, Addr (4 bytes), Port, Meta (Serf's empty tags), Vsn (6 bytes).
            News::Alive { .. } => 2 + 13 + (5 + 1 + name) + (5 + 5) + (5 + 3) + (5 + 3) + (4 + 7),
            // Incarnation, Node, From.
            News::Suspect { .. } | News::Dead { .. } => 2 + 13 + (5 + 1 + name) + (5 + 1 + name),
            // User message and Serf type; LTime, Name, Payload, CC.
            News::Event(event) => 3 + (6 + 5) + (5 + 9) + (8 + 3) + usize::from(event.bytes) + 4,
        }
    }
}

/// The question part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Gossip,
    Ping { number: u32, target: u32 },
    IndirectPing { number: u32, target: u32 },
    Ack { number: u32 },
    Nack { number: u32 },
}

impl Probe {
    /// Bytes of the encoded message; `payload` is what an answer to a direct ping carries besides.
    pub(super) fn bytes(&self, name: usize, payload: usize) -> usize {
        // SeqNo, Node, SourceAddr, SourcePort, SourceNode.
        let ping = 2 + (6 + 3) + (5 + 1 + name) + (11 + 5) + (11 + 3) + (11 + 1 + name);
        match self {
            Probe::Gossip => 0,
            Probe::Ping { .. } => ping,
            // Besides: Target, Port, Nack.
            Probe::IndirectPing { .. } => ping + (7 + 5) + (5 + 3) + (5 + 1),
            // SeqNo, Payload.
            Probe::Ack { .. } => 2 + (6 + 3) + (8 + 1) + if payload > 0 { payload + 2 } else { 0 },
            Probe::Nack { .. } => 2 + (6 + 3),
        }
    }
}

/// One datagram.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(super) probe: Probe,
    pub(super) news: Vec<News>,
    pub(super) bytes: u16,
}

/// A state in a push-pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Alive,
    Suspect,
    Dead,
    Left,
}

/// A member in a push-pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(super) host: u32,
    pub(super) incarnation: u32,
    pub(super) held: Held,
}

/// All that a host holds.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub(super) members: Arc<[Entry]>,
    pub(super) events: Arc<[Event]>,
    pub(super) bytes: usize,
}

impl Whole {
    pub(super) fn new(members: Vec<Entry>, events: Vec<Event>, name: usize) -> Whole {
        // memberlist compresses push-pulls (LZW, 12-bit codes). The algorithm was run over such states: 16, 100, 1,000, 10,000
        // members take 568, 1,709, 10,221, 113,235 bytes of 82 each before. Events are taken to be random.
        const FIXED: usize = 400;
        const MEMBER: usize = 11;
        let told: usize = events.iter().map(|event| News::Event(*event).bytes(name)).sum();
        Whole { bytes: FIXED + members.len() * MEMBER + told, members: members.into(), events: events.into() }
    }
}

/// A request or reply over TCP.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    PushPull(Whole),
    /// A probe, or the answer to it.
    Ping,
}
