//! Seals gossip packets and opens them: who holds the cluster's gossip key may speak, each packet counts once.
//!
//! Payloads come in and sealed packets go out ([`Sealer`]); packets come in and payloads with their sender go out
//! ([`Opener`]). What a packet costs before it is authenticated is bounded: one key derivation, no memory.
//!
//! ```text
//! 0    1  version, 1
//! 1   16  sender
//! 17   8  epoch    big endian, counts the sender's starts
//! 25   8  counter  big endian, counts its packets within the epoch
//! 33      payload, encrypted by AES-256-GCM
//!     16  tag; it also covers the header and the cluster's name
//! ```
//!
//! The key is HKDF-SHA256(gossip key, "weft packet 1" ‖ sender ‖ epoch), the nonce is the counter: a key and nonce never
//! come together twice as long as no epoch is used twice, which `store` sees to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

use super::packet::DATAGRAM_BYTES_MAX;
use super::replay::ReplayWindow;
use crate::model::NodeId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 33;
const TAG_BYTES: usize = 16;
const INFO: &[u8] = b"weft packet 1";

/// What sealing adds to a payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Senders remembered at once, above the largest cluster planned for. One costs about 1 KiB, and only who holds the
/// gossip key can cost it. Those least recently heard are forgotten first, and with them what they may not replay.
const SENDERS_MAX: usize = 16_384;
/// How many are forgotten when the table is full, so that the search for them is paid rarely.
const SENDERS_FORGOTTEN: usize = SENDERS_MAX / 16;

/// The secret that admits to the cluster's gossip.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey(pub [u8; 32]);

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GossipKey(secret)")
    }
}

/// Why a payload was not sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More than a datagram can carry.
    #[error("a payload of {0} bytes does not fit a gossip packet; pull it over a stream")]
    TooLarge(usize),
    /// 2^64 packets in one epoch.
    #[error("this agent has sent all packets that one epoch may have; restart it")]
    Exhausted,
}

/// Why a packet was not opened. The receiver's state is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than an empty packet, or of another version.
    #[error("a packet that is none of Weft's")]
    Malformed,
    /// Longer than any packet.
    #[error("a packet of {0} bytes, more than the 1200 allowed")]
    Oversize(usize),
    /// Made without the gossip key, for another cluster, or damaged.
    #[error("a packet that was not made with this cluster's gossip key")]
    Unauthenticated,
    /// Seen before, or too far behind to tell.
    #[error("a packet that came before or is too late")]
    Replayed,
    /// From before the sender's last known start.
    #[error("a packet from an earlier start of its sender")]
    OldEpoch,
    /// It claims to be ours: our own, reflected, or another host with our identity.
    #[error("a packet that names this host as its sender")]
    OwnId,
}

/// The keyring key, ready to derive packet keys.
struct Derivation(Prk);

impl Derivation {
    fn new(key: &GossipKey) -> Derivation {
        Derivation(Salt::new(HKDF_SHA256, &[]).extract(&key.0))
    }

    fn packet_key(&self, sender: NodeId, epoch: u64) -> LessSafeKey {
        let epoch = epoch.to_be_bytes();
        let info = [INFO, sender.as_bytes(), &epoch];
        let okm = self.0.expand(&info, &AES_256_GCM).expect("32 bytes are within HKDF's limit of 8160");
        LessSafeKey::new(UnboundKey::from(okm))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn associated(header: &[u8], cluster: &str) -> Aad<Vec<u8>> {
    Aad::from([header, cluster.as_bytes()].concat())
}

/// Seals what this host sends.
pub struct Sealer {
    cluster: String,
    sender: NodeId,
    epoch: u64,
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    /// `epoch` must be one that `sender` never sealed with before.
    pub fn new(key: &GossipKey, cluster: &str, sender: NodeId, epoch: u64) -> Sealer {
        let key = Derivation::new(key).packet_key(sender, epoch);
        Sealer { cluster: cluster.to_owned(), sender, epoch, key, counter: 0 }
    }

    /// The packet that carries `payload`, of at most [`DATAGRAM_BYTES_MAX`].
    pub fn seal(&mut self, payload: &[u8]) -> Result<Vec<u8>, SealError> {
        if payload.len() > DATAGRAM_BYTES_MAX - OVERHEAD_BYTES {
            return Err(SealError::TooLarge(payload.len()));
        }
        let next = self.counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let mut packet = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
        packet.push(VERSION);
        packet.extend_from_slice(self.sender.as_bytes());
        packet.extend_from_slice(&self.epoch.to_be_bytes());
        packet.extend_from_slice(&self.counter.to_be_bytes());
        let associated = associated(&packet, &self.cluster);
        packet.extend_from_slice(payload);
        let sealed = self.key.seal_in_place_separate_tag(nonce(self.counter), associated, &mut packet[HEADER_BYTES..]);
        let tag = sealed.map_err(|_| SealError::TooLarge(payload.len()))?;
        packet.extend_from_slice(tag.as_ref());
        self.counter = next;
        Ok(packet)
    }
}

struct Sender {
    epoch: u64,
    key: LessSafeKey,
    window: ReplayWindow,
    /// Value of `Opener::opened` when it was last heard.
    heard: u64,
}

struct PacketHeader {
    sender: NodeId,
    epoch: u64,
    counter: u64,
}

impl PacketHeader {
    fn read(packet: &[u8]) -> Option<PacketHeader> {
        let (&version, rest) = packet.split_first()?;
        let (sender, rest) = rest.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (counter, _) = rest.split_first_chunk::<8>()?;
        (version == VERSION && packet.len() >= OVERHEAD_BYTES).then(|| PacketHeader {
            sender: NodeId(*sender),
            epoch: u64::from_be_bytes(*epoch),
            counter: u64::from_be_bytes(*counter),
        })
    }
}

/// Opens what other hosts send.
pub struct Opener {
    cluster: String,
    local: NodeId,
    keyring: Vec<Derivation>,
    senders: HashMap<NodeId, Sender>,
    /// Packets opened so far: the clock of who was heard last.
    opened: u64,
}

impl Opener {
    /// `keyring` holds the primary key first, then older ones that are still accepted.
    pub fn new(keyring: &[GossipKey], cluster: &str, local: NodeId) -> Opener {
        let keyring = keyring.iter().map(Derivation::new).collect();
        Opener { cluster: cluster.to_owned(), local, keyring, senders: HashMap::new(), opened: 0 }
    }

    /// The sender and the payload of an authentic packet that was not seen before.
    ///
    /// A sender that this opener has not heard starts at whatever epoch and counter its packet has: what was recorded
    /// before this agent's start can be replayed once, until the sender is heard. The cores bear old messages.
    pub fn open(&mut self, packet: &[u8]) -> Result<(NodeId, Vec<u8>), OpenError> {
        if packet.len() > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Oversize(packet.len()));
        }
        let header = PacketHeader::read(packet).ok_or(OpenError::Malformed)?;
        if header.sender == self.local {
            return Err(OpenError::OwnId);
        }
        let payload = match self.senders.get(&header.sender) {
            Some(known) if header.epoch < known.epoch => return Err(OpenError::OldEpoch),
            Some(known) if header.epoch == known.epoch => {
                if !known.window.is_new(header.counter) {
                    return Err(OpenError::Replayed);
                }
                let opened = self.decrypt(&known.key, packet, &header);
                // A sender whose key was rotated within its epoch is found by the keyring.
                opened.map(|payload| (payload, None)).or_else(|_| self.search(packet, &header))?
            }
            _ => self.search(packet, &header)?,
        };
        Ok((header.sender, self.admit(&header, payload)))
    }

    /// The start that this sender's last packets were from.
    pub fn epoch(&self, sender: NodeId) -> Option<u64> {
        self.senders.get(&sender).map(|known| known.epoch)
    }

    fn search(&self, packet: &[u8], header: &PacketHeader) -> Result<(Vec<u8>, Option<LessSafeKey>), OpenError> {
        let keys = self.keyring.iter().map(|key| key.packet_key(header.sender, header.epoch));
        for key in keys {
            if let Ok(payload) = self.decrypt(&key, packet, header) {
                return Ok((payload, Some(key)));
            }
        }
        Err(OpenError::Unauthenticated)
    }

    fn decrypt(&self, key: &LessSafeKey, packet: &[u8], header: &PacketHeader) -> Result<Vec<u8>, OpenError> {
        let (head, sealed) = packet.split_at_checked(HEADER_BYTES).ok_or(OpenError::Malformed)?;
        let mut payload = sealed.to_vec();
        let opened = key.open_in_place(nonce(header.counter), associated(head, &self.cluster), &mut payload);
        let length = opened.map_err(|_| OpenError::Unauthenticated)?.len();
        payload.truncate(length);
        Ok(payload)
    }

    /// Remembers an authentic packet. `key` is there if the sender is new, has started again, or changed its key.
    fn admit(&mut self, header: &PacketHeader, (payload, key): (Vec<u8>, Option<LessSafeKey>)) -> Vec<u8> {
        self.opened += 1;
        if key.is_some() && !self.senders.contains_key(&header.sender) && self.senders.len() >= SENDERS_MAX {
            self.forget_unheard();
        }
        match (self.senders.entry(header.sender), key) {
            (Entry::Occupied(known), None) => {
                let known = known.into_mut();
                known.window.mark(header.counter);
                known.heard = self.opened;
            }
            (Entry::Occupied(known), Some(key)) if known.get().epoch == header.epoch => {
                let known = known.into_mut();
                known.key = key;
                known.window.mark(header.counter);
                known.heard = self.opened;
            }
            (entry, Some(key)) => {
                let mut window = ReplayWindow::new();
                window.mark(header.counter);
                entry.insert_entry(Sender { epoch: header.epoch, key, window, heard: self.opened });
            }
            (Entry::Vacant(_), None) => {}
        }
        payload
    }

    fn forget_unheard(&mut self) {
        let mut heard: Vec<u64> = self.senders.values().map(|sender| sender.heard).collect();
        if heard.len() <= SENDERS_FORGOTTEN {
            return;
        }
        let (_, &mut limit, _) = heard.select_nth_unstable(SENDERS_FORGOTTEN);
        self.senders.retain(|_, sender| sender.heard >= limit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::PAYLOAD_BYTES_MAX;
    use super::*;

    const KEY: GossipKey = GossipKey([1; 32]);
    const OLDER_KEY: GossipKey = GossipKey([2; 32]);
    const ALICE: NodeId = NodeId([0xa; 16]);
    const BOB: NodeId = NodeId([0xb; 16]);

    fn sealer(epoch: u64) -> Sealer {
        Sealer::new(&KEY, "prod", ALICE, epoch)
    }

    fn opener() -> Opener {
        Opener::new(&[KEY], "prod", BOB)
    }

    #[test]
    fn a_packet_opens_once_and_names_its_sender() {
        let (mut sealer, mut opener) = (sealer(1), opener());
        let packet = sealer.seal(b"hello").unwrap();
        assert_eq!(packet.len(), 5 + OVERHEAD_BYTES);
        assert_eq!(opener.open(&packet), Ok((ALICE, b"hello".to_vec())));
        assert_eq!(opener.open(&packet), Err(OpenError::Replayed));
    }

    #[test]
    fn packets_may_overtake_each_other_within_the_window_only() {
        let (mut sealer, mut opener) = (sealer(1), opener());
        let packets: Vec<_> = (0..1100).map(|_| sealer.seal(b"x").unwrap()).collect();
        assert!(opener.open(&packets[1099]).is_ok());
        assert!(opener.open(&packets[1098]).is_ok());
        assert!(opener.open(&packets[76]).is_ok(), "1024 behind the next");
        assert_eq!(opener.open(&packets[75]), Err(OpenError::Replayed));
    }

    #[test]
    fn a_new_epoch_ends_the_older_ones() {
        let (mut first, mut second, mut opener) = (sealer(1), sealer(2), opener());
        let late = first.seal(b"late").unwrap();
        assert!(opener.open(&first.seal(b"x").unwrap()).is_ok());
        assert!(opener.open(&second.seal(b"y").unwrap()).is_ok());
        assert_eq!(opener.open(&late), Err(OpenError::OldEpoch));
        assert_eq!(opener.open(&first.seal(b"z").unwrap()), Err(OpenError::OldEpoch));
        assert!(opener.open(&second.seal(b"y").unwrap()).is_ok());
    }

    #[test]
    fn a_forged_epoch_or_counter_changes_nothing() {
        let (mut sealer, mut opener) = (sealer(1), opener());
        for at in [17, 25] {
            let mut forged = sealer.seal(b"x").unwrap();
            forged[at] = 0xff;
            assert_eq!(opener.open(&forged), Err(OpenError::Unauthenticated));
        }
        assert!(opener.open(&sealer.seal(b"x").unwrap()).is_ok());
    }

    #[test]
    fn damage_to_any_byte_is_refused_and_leaves_the_packet_to_come() {
        let packet = sealer(1).seal(b"payload").unwrap();
        let mut opener = opener();
        for at in 0..packet.len() {
            for bit in 0..8 {
                let mut damaged = packet.clone();
                damaged[at] ^= 1 << bit;
                assert!(opener.open(&damaged).is_err(), "byte {at} bit {bit}");
            }
            assert!(opener.open(&packet[..at]).is_err(), "cut at {at}");
        }
        assert!(opener.senders.is_empty(), "what is not authentic costs no memory");
        assert!(opener.open(&packet).is_ok());
    }

    #[test]
    fn another_key_another_cluster_and_our_own_id_are_refused() {
        let mut opener = opener();
        let stranger = Sealer::new(&OLDER_KEY, "prod", ALICE, 1).seal(b"x").unwrap();
        assert_eq!(opener.open(&stranger), Err(OpenError::Unauthenticated));
        let elsewhere = Sealer::new(&KEY, "test", ALICE, 1).seal(b"x").unwrap();
        assert_eq!(opener.open(&elsewhere), Err(OpenError::Unauthenticated));
        let own = Sealer::new(&KEY, "prod", BOB, 1).seal(b"x").unwrap();
        assert_eq!(opener.open(&own), Err(OpenError::OwnId));
        assert_eq!(opener.open(&[1; 1201]), Err(OpenError::Oversize(1201)));
        assert_eq!(opener.open(&[1; 48]), Err(OpenError::Malformed));
        assert_eq!(opener.open(&[2; 100]), Err(OpenError::Malformed));
    }

    #[test]
    fn an_older_key_of_the_keyring_still_opens_even_within_one_epoch() {
        let mut opener = Opener::new(&[KEY, OLDER_KEY], "prod", BOB);
        let mut older = Sealer::new(&OLDER_KEY, "prod", ALICE, 1);
        let first = older.seal(b"x").unwrap();
        assert!(opener.open(&first).is_ok());
        let mut newer = sealer(1);
        newer.counter = 1;
        assert!(opener.open(&newer.seal(b"x").unwrap()).is_ok());
        assert_eq!(opener.open(&first), Err(OpenError::Replayed), "the window outlives the key");
    }

    #[test]
    fn a_full_payload_fits_and_one_byte_more_does_not() {
        let mut sealer = sealer(1);
        assert_eq!(sealer.seal(&[0; PAYLOAD_BYTES_MAX]).unwrap().len(), DATAGRAM_BYTES_MAX);
        assert_eq!(sealer.seal(&[0; PAYLOAD_BYTES_MAX + 1]), Err(SealError::TooLarge(PAYLOAD_BYTES_MAX + 1)));
    }

    #[test]
    fn memory_for_senders_is_bounded_and_the_recently_heard_stay() {
        let mut opener = opener();
        let derive = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            NodeId(id)
        };
        for number in 0..SENDERS_MAX + 10 {
            let packet = Sealer::new(&KEY, "prod", derive(number), 1).seal(b"x").unwrap();
            assert!(opener.open(&packet).is_ok());
        }
        assert!(opener.senders.len() <= SENDERS_MAX);
        assert!(!opener.senders.contains_key(&derive(0)));
        assert!(opener.senders.contains_key(&derive(SENDERS_MAX - 1)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_opener_panic(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
            prop_assert!(opener().open(&bytes).is_err());
        }

        #[test]
        fn any_payload_reads_back(payload in prop::collection::vec(any::<u8>(), 0..PAYLOAD_BYTES_MAX), epoch in any::<u64>()) {
            let packet = sealer(epoch).seal(&payload).unwrap();
            prop_assert_eq!(opener().open(&packet), Ok((ALICE, payload)));
        }
    }
}
