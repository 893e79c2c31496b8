//! Seals gossip packets and opens them: who holds one of the cluster's gossip keys may speak, each packet counts once.
//!
//! Payloads come in and sealed packets go out ([`Sealer`]); packets come in and payloads with their sender go out
//! ([`Opener`]). What a packet costs before it is authenticated is bounded: one key derivation for each key of the keyring,
//! no memory. Keys change while packets flow: the counter and the replay windows go on over every change.
//!
//! ```text
//! 0    1  version, 1
//! 1   16  sender
//! 17   8  epoch    big endian, grows with the sender's starts
//! 25   8  counter  big endian, counts its packets within the epoch
//! 33      payload, encrypted by AES-256-GCM
//!     16  tag; it also covers the header and the cluster's name
//! ```
//!
//! The key is HKDF-SHA256(gossip key, "weft packet 1" ‖ sender ‖ epoch), the nonce is the counter: a key and nonce never
//! come together twice as long as no epoch is used twice, which `store` and `agent/own.rs` see to. There is one counter for an epoch, not one
//! for each gossip key, so that going back to an earlier key cannot repeat a nonce either.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

use super::keyring::Fingerprint;
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

/// Text that is no gossip key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a gossip key is 32 random bytes in base64, 44 characters; `weft keyring install --generate` makes one")]
pub struct GossipKeyError;

impl FromStr for GossipKey {
    type Err = GossipKeyError;

    /// From base64, as `openssl rand -base64 32` prints it.
    fn from_str(text: &str) -> Result<GossipKey, GossipKeyError> {
        let bytes = data_encoding::BASE64.decode(text.trim().as_bytes()).map_err(|_| GossipKeyError)?;
        bytes.try_into().map(GossipKey).map_err(|_| GossipKeyError)
    }
}

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

/// A key of the keyring, ready to derive packet keys.
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

    /// Seals with another gossip key from now on. The counter goes on, whichever key it is.
    pub fn set_key(&mut self, key: &GossipKey) {
        self.key = Derivation::new(key).packet_key(self.sender, self.epoch);
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
    /// The packet key of its last packet, with the gossip key that it was derived from; `None` once that is removed.
    key: Option<Found>,
    window: ReplayWindow,
    /// Value of `Opener::opened` when it was last heard.
    heard: u64,
}

/// A packet key and the gossip key that it was derived from.
type Found = (Fingerprint, LessSafeKey);

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
    keyring: Vec<(Fingerprint, Derivation)>,
    senders: HashMap<NodeId, Sender>,
    /// Packets opened so far: the clock of who was heard last.
    opened: u64,
    /// Those of them that were not sealed with the primary key.
    opened_by_older: u64,
}

/// Whose packet it claims to be. Nothing of it is proved.
pub fn claimed_sender(packet: &[u8]) -> Option<NodeId> {
    PacketHeader::read(packet).map(|header| header.sender)
}

impl Opener {
    /// `keyring` holds the primary key first, then older ones that are still accepted.
    pub fn new(keyring: &[GossipKey], cluster: &str, local: NodeId) -> Opener {
        let mut opener = Opener {
            cluster: cluster.to_owned(),
            local,
            keyring: Vec::new(),
            senders: HashMap::new(),
            opened: 0,
            opened_by_older: 0,
        };
        opener.set_keyring(keyring);
        opener
    }

    /// Opens with these keys from now on, the primary first. What senders may not replay stays; what only a removed key
    /// opened is opened no more.
    pub fn set_keyring(&mut self, keyring: &[GossipKey]) {
        self.keyring = keyring.iter().map(|key| (Fingerprint::of(key), Derivation::new(key))).collect();
        for sender in self.senders.values_mut() {
            sender.key.take_if(|(of, _)| !self.keyring.iter().any(|(held, _)| held == of));
        }
    }

    /// How many packets were opened by another key than the primary.
    pub fn opened_by_older(&self) -> u64 {
        self.opened_by_older
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
                let key = known.key.as_ref().ok_or(OpenError::Unauthenticated);
                let opened = key.and_then(|(_, key)| self.decrypt(key, packet, &header));
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

    fn search(&self, packet: &[u8], header: &PacketHeader) -> Result<(Vec<u8>, Option<Found>), OpenError> {
        for (of, derivation) in &self.keyring {
            let key = derivation.packet_key(header.sender, header.epoch);
            if let Ok(payload) = self.decrypt(&key, packet, header) {
                return Ok((payload, Some((*of, key))));
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
    fn admit(&mut self, header: &PacketHeader, (payload, key): (Vec<u8>, Option<Found>)) -> Vec<u8> {
        self.opened += 1;
        let known = || self.senders.get(&header.sender).and_then(|known| known.key.as_ref());
        let by = key.as_ref().or_else(known).map(|(of, _)| *of);
        self.opened_by_older += u64::from(by != self.keyring.first().map(|(primary, _)| *primary));
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
                known.key = Some(key);
                known.window.mark(header.counter);
                known.heard = self.opened;
            }
            (entry, Some(key)) => {
                let mut window = ReplayWindow::new();
                window.mark(header.counter);
                entry.insert_entry(Sender { epoch: header.epoch, key: Some(key), window, heard: self.opened });
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
    fn no_nonce_repeats_under_a_key_whichever_keys_are_the_primary_in_turn() {
        let mut sealer = sealer(1);
        let mut seen = std::collections::HashSet::new();
        for key in [KEY, OLDER_KEY, KEY, KEY, OLDER_KEY, KEY] {
            sealer.set_key(&key);
            for _ in 0..3 {
                let packet = sealer.seal(b"x").unwrap();
                let counter = u64::from_be_bytes(packet[25..33].try_into().unwrap());
                assert!(seen.insert(counter), "the counter {counter} came again");
                let mut opener = Opener::new(std::slice::from_ref(&key), "prod", BOB);
                assert!(opener.open(&packet).is_ok(), "sealed with the key that was set");
            }
        }
    }

    #[test]
    fn a_key_that_is_added_opens_at_once_and_one_that_is_removed_no_more() {
        let mut opener = Opener::new(&[OLDER_KEY], "prod", BOB);
        let mut alice = Sealer::new(&OLDER_KEY, "prod", ALICE, 1);
        assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
        alice.set_key(&KEY);
        assert_eq!(opener.open(&alice.seal(b"x").unwrap()), Err(OpenError::Unauthenticated));
        opener.set_keyring(&[OLDER_KEY, KEY]);
        assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
        alice.set_key(&OLDER_KEY);
        let stolen = alice.seal(b"x").unwrap();
        let before = alice.seal(b"x").unwrap();
        assert!(opener.open(&before).is_ok(), "the old key opens as long as it is held");
        opener.set_keyring(&[KEY]);
        assert_eq!(opener.open(&stolen), Err(OpenError::Unauthenticated), "though its packet key was at hand");
        assert_eq!(opener.open(&alice.seal(b"x").unwrap()), Err(OpenError::Unauthenticated));
        alice.set_key(&KEY);
        assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
    }

    #[test]
    fn what_came_before_a_change_of_keys_does_not_count_again_after_it() {
        let mut opener = Opener::new(&[KEY], "prod", BOB);
        let mut alice = sealer(7);
        let packet = alice.seal(b"x").unwrap();
        assert!(opener.open(&packet).is_ok());
        for keyring in [&[KEY, OLDER_KEY][..], &[OLDER_KEY, KEY], &[OLDER_KEY], &[OLDER_KEY, KEY]] {
            opener.set_keyring(keyring);
            assert_eq!(opener.open(&packet), Err(OpenError::Replayed));
            assert_eq!(opener.open(&sealer(6).seal(b"x").unwrap()), Err(OpenError::OldEpoch));
        }
    }

    #[test]
    fn packets_of_an_older_key_are_counted() {
        let mut opener = Opener::new(&[KEY, OLDER_KEY], "prod", BOB);
        let mut alice = Sealer::new(&OLDER_KEY, "prod", ALICE, 1);
        for expected in 1..=3 {
            assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
            assert_eq!(opener.opened_by_older(), expected);
        }
        alice.set_key(&KEY);
        assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
        assert_eq!(opener.opened_by_older(), 3);
        opener.set_keyring(&[OLDER_KEY, KEY]);
        assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
        assert_eq!(opener.opened_by_older(), 4);
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
