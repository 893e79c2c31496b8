//! Seals gossip packets and opens them: who holds one of the cluster's gossip keys may speak, each packet counts once.
//!
//! Payloads come in and sealed packets go out ([`Sealer`]); packets come in and payloads with their sender go out
//! ([`Opener`]). What a packet costs before it is authenticated is bounded: one key derivation for each key of the keyring,
//! no memory. Keys change while packets flow: the counter goes on over every change.
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
//!
//! All hosts hold the gossip key, so a packet proves that some host made it and no more: one who stole the key can seal in any
//! sender's name, with any epoch and counter. So neither may make a receiver deaf to the sender itself. An epoch ends the ones
//! before it only once the sender has signed it ([`Opener::prove`]); until then packets of both are opened. Counters are
//! nonces and say nothing about what is old; what came before is known by its tag (`replay`).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use zeroize::Zeroize;

use super::keyring::Fingerprint;
use super::packet::DATAGRAM_BYTES_MAX;
use super::replay::Recent;
use crate::model::NodeId;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 33;
const TAG_BYTES: usize = 16;
const INFO: &[u8] = b"weft packet 1";

/// What sealing adds to a payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Senders remembered at once, above the largest cluster planned for. One costs about 1 KiB, twice that while somebody uses
/// other epochs in its name, and only who holds the gossip key can cost it. Those least recently heard are forgotten first.
const SENDERS_MAX: usize = 16_384;
/// How many are forgotten when the table is full, so that the search for them is paid rarely.
const SENDERS_FORGOTTEN: usize = SENDERS_MAX / 16;
/// Packet keys kept of one sender, each for one epoch: its own start, and the next or a lie. Of more, each packet derives its key
/// anew.
const KEYS_MAX: usize = 2;

/// The secret that admits to the cluster's gossip.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey(pub [u8; 32]);

/// Text that is no gossip key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a gossip key is 32 random bytes in base64, 44 characters; `weft keyring install --generate` makes one")]
pub struct GossipKeyError;

impl Drop for GossipKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

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
    /// Among the packets opened last.
    #[error("a packet that came before")]
    Replayed,
    /// From before the start that the sender last signed.
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

#[derive(Default)]
struct Sender {
    /// The start that it signed last; packets of earlier ones are refused.
    proven: Option<u64>,
    /// Of its last packet.
    epoch: u64,
    /// Packet keys at hand, the last used first.
    keys: Vec<(u64, Found)>,
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
    recent: Recent,
    /// Packets opened and epochs proven so far: the clock of who was heard last.
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
            recent: Recent::default(),
            opened: 0,
            opened_by_older: 0,
        };
        opener.set_keyring(keyring);
        opener
    }

    /// Opens with these keys from now on, the primary first. What came before is still known; what only a removed key opened
    /// is opened no more.
    pub fn set_keyring(&mut self, keyring: &[GossipKey]) {
        self.keyring = keyring.iter().map(|key| (Fingerprint::of(key), Derivation::new(key))).collect();
        for sender in self.senders.values_mut() {
            sender.keys.retain(|(_, (of, _))| self.keyring.iter().any(|(held, _)| held == of));
        }
    }

    /// How many packets were opened by another key than the primary.
    pub fn opened_by_older(&self) -> u64 {
        self.opened_by_older
    }

    /// The sender and the payload of an authentic packet that is not among those opened last.
    ///
    /// What was recorded long ago, or before this agent's start, can be replayed: the cores bear old messages.
    pub fn open(&mut self, packet: &[u8]) -> Result<(NodeId, Vec<u8>), OpenError> {
        if packet.len() > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Oversize(packet.len()));
        }
        let header = PacketHeader::read(packet).ok_or(OpenError::Malformed)?;
        if header.sender == self.local {
            return Err(OpenError::OwnId);
        }
        let known = self.senders.get(&header.sender);
        if known.and_then(|known| known.proven).is_some_and(|proven| header.epoch < proven) {
            return Err(OpenError::OldEpoch);
        }
        if self.recent.holds(packet) {
            return Err(OpenError::Replayed);
        }
        let at_hand = known.and_then(|known| known.keys.iter().find(|(epoch, _)| *epoch == header.epoch));
        let opened = at_hand.and_then(|(_, (_, key))| self.decrypt(key, packet, &header).ok());
        // A sender whose key was rotated within its epoch is found by the keyring.
        let (payload, found) = match opened {
            Some(payload) => (payload, None),
            None => self.search(packet, &header)?,
        };
        self.recent.mark(packet);
        self.admit(&header, found);
        Ok((header.sender, payload))
    }

    /// The sender has signed that it is in its start `epoch`: packets of earlier ones are opened no more.
    pub fn prove(&mut self, sender: NodeId, epoch: u64) {
        if sender == self.local {
            return;
        }
        self.make_room_for(sender);
        self.opened += 1;
        let heard = self.opened;
        let known = self.senders.entry(sender).or_insert_with(|| Sender { heard, ..Sender::default() });
        known.proven = known.proven.max(Some(epoch));
        let proven = known.proven;
        known.keys.retain(|(epoch, _)| proven.is_none_or(|proven| *epoch >= proven));
    }

    /// The start that this sender's last packet was from.
    pub fn epoch(&self, sender: NodeId) -> Option<u64> {
        self.senders.get(&sender).map(|known| known.epoch)
    }

    /// True if this sender's last packet was of a start that it has not signed, though it has signed one: it has just started
    /// again, or somebody else speaks in its name.
    pub fn is_in_doubt(&self, sender: NodeId) -> bool {
        self.senders.get(&sender).is_some_and(|known| known.proven.is_some_and(|proven| known.epoch != proven))
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

    /// Remembers whose packet it was. `found` is the packet key if none was at hand.
    fn admit(&mut self, header: &PacketHeader, found: Option<Found>) {
        self.opened += 1;
        self.make_room_for(header.sender);
        let known = self.senders.entry(header.sender).or_default();
        known.heard = self.opened;
        known.epoch = header.epoch;
        if let Some(found) = found {
            known.keys.retain(|(epoch, _)| *epoch != header.epoch);
            known.keys.truncate(KEYS_MAX - 1);
            known.keys.insert(0, (header.epoch, found));
        } else if let Some(at) = known.keys.iter().position(|(epoch, _)| *epoch == header.epoch) {
            known.keys[..=at].rotate_right(1);
        }
        let by = known.keys.first().map(|(_, (of, _))| *of);
        self.opened_by_older += u64::from(by != self.keyring.first().map(|(primary, _)| *primary));
    }

    fn make_room_for(&mut self, sender: NodeId) {
        if self.senders.len() >= SENDERS_MAX && !self.senders.contains_key(&sender) {
            self.forget_unheard();
        }
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
    fn packets_may_overtake_each_other_and_each_counts_once() {
        let (mut sealer, mut opener) = (sealer(1), opener());
        let packets: Vec<_> = (0..1100).map(|_| sealer.seal(b"x").unwrap()).collect();
        for packet in packets.iter().rev() {
            assert!(opener.open(packet).is_ok());
        }
        assert!(packets.iter().all(|packet| opener.open(packet) == Err(OpenError::Replayed)));
    }

    #[test]
    fn a_new_epoch_ends_the_older_ones_once_its_sender_has_signed_it() {
        let (mut first, mut second, mut opener) = (sealer(1), sealer(2), opener());
        let late = first.seal(b"late").unwrap();
        assert!(opener.open(&first.seal(b"x").unwrap()).is_ok());
        assert!(opener.open(&second.seal(b"y").unwrap()).is_ok(), "it has started again, most likely");
        assert!(opener.open(&first.seal(b"x").unwrap()).is_ok(), "but that may be a lie");
        opener.prove(ALICE, 2);
        assert_eq!(opener.open(&late), Err(OpenError::OldEpoch));
        assert_eq!(opener.open(&first.seal(b"z").unwrap()), Err(OpenError::OldEpoch));
        opener.prove(ALICE, 1);
        assert_eq!(opener.open(&late), Err(OpenError::OldEpoch), "an old word takes nothing back");
        assert!(opener.open(&second.seal(b"y").unwrap()).is_ok());
    }

    #[test]
    fn an_epoch_that_was_signed_before_any_packet_came_counts() {
        let (mut first, mut second, mut opener) = (sealer(1), sealer(2), opener());
        opener.prove(ALICE, 2);
        assert_eq!(opener.open(&first.seal(b"x").unwrap()), Err(OpenError::OldEpoch));
        assert!(opener.open(&second.seal(b"x").unwrap()).is_ok());
        opener.prove(BOB, 9);
        assert!(!opener.senders.contains_key(&BOB), "of itself it keeps nothing");
    }

    #[test]
    fn who_stole_the_key_mutes_nobody_by_a_later_epoch_or_counter() {
        for proven in [None, Some(3)] {
            let (mut alice, mut opener) = (sealer(3), opener());
            assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok());
            proven.into_iter().for_each(|epoch| opener.prove(ALICE, epoch));
            for epoch in [u64::MAX, 4, 5, 6, u64::MAX - 1, 3] {
                let mut thief = sealer(epoch);
                for counter in [0, 1, 1 << 20, u64::MAX - 3] {
                    thief.counter = counter;
                    assert!(opener.open(&thief.seal(b"lie").unwrap()).is_ok());
                    assert!(opener.open(&alice.seal(b"x").unwrap()).is_ok(), "epoch {epoch}, counter {counter}");
                }
            }
            assert!(opener.senders[&ALICE].keys.len() <= KEYS_MAX);
            let mut again = sealer(4);
            assert!(opener.open(&again.seal(b"x").unwrap()).is_ok(), "she starts again");
            assert_eq!(opener.is_in_doubt(ALICE), proven.is_some());
            opener.prove(ALICE, 4);
            assert!(!opener.is_in_doubt(ALICE));
            assert!(opener.open(&again.seal(b"x").unwrap()).is_ok());
            assert_eq!(opener.open(&alice.seal(b"x").unwrap()), Err(OpenError::OldEpoch));
        }
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
        assert_eq!(opener.open(&first), Err(OpenError::Replayed), "what came is known whatever the key");
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
            opener.prove(ALICE, 7);
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
        (0..SENDERS_MAX * 2).for_each(|number| opener.prove(derive(number), 1));
        assert!(opener.senders.len() <= SENDERS_MAX);
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
