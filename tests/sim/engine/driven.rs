//! What a simulated host runs: a core without sockets, driven by the world through [`Core`], and what it wants done.
//!
//! After every call the world drains [`Core::poll`] and asks for [`Core::next_timeout`]. Times are the host's own clock, which
//! starts at zero with the process. Hosts are addressed by index.

use std::time::Duration;

/// A host's own time since its process started.
pub(crate) type Now = Duration;

/// What a host holds of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// From the store; not heard of yet.
    Unknown,
    Alive,
    Suspect,
    Failed,
    Left,
}

/// What a message is for; bytes are counted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Questions and answers of the failure detector, with what rides on them.
    Probe,
    /// Datagrams that only carry claims.
    Gossip,
    /// Records, or announcements of them.
    Delta,
    /// Comparing catalogs: digests and summaries.
    Digest,
    /// Everything that goes over streams.
    Stream,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::Probe, Kind::Gossip, Kind::Delta, Kind::Digest, Kind::Stream];
}

/// Why a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has said goodbye.
    Left,
    /// It met records of its own future: to be started again.
    OwnPast,
}

/// What a core wants done, or tells the observers.
#[derive(Debug, Clone)]
pub(crate) enum Effect<M, S> {
    /// Send a datagram.
    Send { to: u32, message: M },
    /// Ask over a stream. Ends in one [`Core::stream_done`] with the token. `fresh`: over a new connection, which costs
    /// handshakes; else over the one of the last request with the same token.
    Stream { to: u32, token: u64, fresh: bool, request: S },
    /// What is held of a host has changed. `generation` counts the host's installations (a reimaged host begins a new one).
    Saw { host: u32, generation: u32, state: State },
    /// A copy of a payload came; `fresh` if it was not held yet.
    Got { item: u64, fresh: bool },
    /// The process ends.
    End(End),
}

/// The state machine that a simulated host runs.
pub(crate) trait Core {
    /// A datagram's content.
    type Message: Clone;
    /// A stream's request or reply.
    type Stream: Clone;

    /// A datagram came.
    fn receive(&mut self, now: Now, from: u32, message: Self::Message);
    /// Serves a stream; `None` refuses it.
    fn stream(&mut self, now: Now, from: u32, request: Self::Stream) -> Option<Self::Stream>;
    /// A stream of this host's own has been answered, or has failed.
    fn stream_done(&mut self, now: Now, to: u32, token: u64, reply: Option<Self::Stream>);
    /// Does what is due.
    fn tick(&mut self, now: Now);
    /// When [`Core::tick`] is to be called next.
    fn next_timeout(&self) -> Option<Now>;
    /// The next thing to be done.
    fn poll(&mut self) -> Option<Effect<Self::Message, Self::Stream>>;
    /// What is held of a host.
    fn view(&self, host: u32, generation: u32) -> Option<State>;
    /// Bytes of the UDP payload, encoded and sealed; without the headers of IP and UDP.
    fn bytes(message: &Self::Message) -> usize;
    /// What the datagram is for.
    fn kind(message: &Self::Message) -> Kind;
    /// Bytes within the stream, without TLS and TCP.
    fn stream_bytes(stream: &Self::Stream) -> usize;
}
