//! Connections that have not proven themselves yet: how many there may be, and which one makes room for the next.
//!
//! A connection costs its client one packet and this host a descriptor and some KiB, so whoever can connect can open
//! thousands and say nothing. Each port therefore has a [`Lobby`]. A connection waits in it until it has shown that it means
//! something (a certificate, a request), and leaves it for good or until it is idle again. Newcomers are never turned away:
//!
//! - when its address has its share of the places, the oldest of that address makes room;
//! - when all places are taken, the oldest of the address that holds most of them.
//!
//! An honest client needs its place for milliseconds, so the oldest is hardly ever an honest one, and who floods shows out
//! his own connections first. Refusing newcomers instead would shut the port for as long as the idle ones may stay.
//!
//! Pure but for a lock and wakers: what is shown out hears of it by [`Place::shown_out`], whatever runtime polls that. How long
//! a connection may wait is its port's affair.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Of failed accepts in a row the first is worth a line in the log, and then one in so many.
const FAILURES_PER_LINE: u64 = 64;

/// How many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub total: usize,
    /// From one address.
    pub each: usize,
}

/// Whom a connection counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// Programs that came over a unix socket.
    pub const SOCKET: Source = Source(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    /// An IPv4 address, or the /64 that an IPv6 address is in: a single line is given 2⁶⁴ of those.
    pub fn of(address: IpAddr) -> Source {
        Source(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
            address => address,
        })
    }
}

/// One port's connections that have not proven themselves.
#[derive(Debug, Clone)]
pub struct Lobby(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    room: Mutex<Room>,
    crowded_out: AtomicU64,
    accept_failures: AtomicU64,
}

/// Who waits. Numbers are given in the order of coming, so the least is the oldest.
#[derive(Debug, Default)]
struct Room {
    last: u64,
    guests: BTreeMap<u64, (Source, Arc<Seat>)>,
    crowds: BTreeMap<Source, BTreeSet<u64>>,
    /// Crowds by size, and of equal ones the one that began first is the greatest.
    ranking: BTreeSet<(usize, Reverse<u64>, Source)>,
}

#[derive(Debug, Default)]
struct Seat(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shown_out: bool,
    waker: Option<Waker>,
}

impl Lobby {
    /// An empty one.
    pub fn new(limits: Limits) -> Lobby {
        Lobby(Arc::new(Shared {
            limits,
            room: Mutex::default(),
            crowded_out: AtomicU64::new(0),
            accept_failures: AtomicU64::new(0),
        }))
    }

    /// A place for a connection that has just come. Another may have to go for it.
    pub fn enter(&self, source: Source) -> Place {
        let seat = Arc::new(Seat::default());
        let number = AtomicU64::new(self.admit(source, &seat));
        Place { lobby: self.clone(), source, number, seat }
    }

    /// How many wait now.
    pub fn waiting(&self) -> u64 {
        self.room().guests.len() as u64
    }

    /// How many have had to make room.
    pub fn crowded_out(&self) -> u64 {
        self.0.crowded_out.load(Ordering::Relaxed)
    }

    /// How often the system gave no connection, for want of descriptors or memory.
    pub fn accept_failures(&self) -> u64 {
        self.0.accept_failures.load(Ordering::Relaxed)
    }

    /// Counts a failed accept; true if it is worth a line in the log.
    pub fn accept_failed(&self) -> bool {
        self.0.accept_failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(FAILURES_PER_LINE)
    }

    fn admit(&self, source: Source, seat: &Arc<Seat>) -> u64 {
        let (number, leaving) = self.room().admit(self.0.limits, source, seat.clone());
        if let Some(leaving) = leaving {
            self.0.crowded_out.fetch_add(1, Ordering::Relaxed);
            leaving.show_out();
        }
        number
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Gives a place, and says who makes room for it.
    fn admit(&mut self, limits: Limits, source: Source, seat: Arc<Seat>) -> (u64, Option<Arc<Seat>>) {
        let crowd = self.crowds.get(&source);
        let oldest = if crowd.is_some_and(|crowd| crowd.len() >= limits.each.max(1)) {
            crowd.and_then(|crowd| crowd.first().copied())
        } else if self.guests.len() >= limits.total.max(1) {
            self.ranking.last().map(|(_, Reverse(oldest), _)| *oldest)
        } else {
            None
        };
        let leaving = oldest.and_then(|oldest| self.leave(oldest));
        self.last += 1;
        let number = self.last;
        self.guests.insert(number, (source, seat));
        self.change_crowd(source, |crowd| crowd.insert(number));
        (number, leaving)
    }

    fn leave(&mut self, number: u64) -> Option<Arc<Seat>> {
        let (source, seat) = self.guests.remove(&number)?;
        self.change_crowd(source, |crowd| crowd.remove(&number));
        Some(seat)
    }

    fn change_crowd(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let crowd = self.crowds.entry(source).or_default();
        if let Some(oldest) = crowd.first() {
            self.ranking.remove(&(crowd.len(), Reverse(*oldest), source));
        }
        change(crowd);
        match crowd.first() {
            Some(oldest) => {
                self.ranking.insert((crowd.len(), Reverse(*oldest), source));
            }
            None => {
                self.crowds.remove(&source);
            }
        }
    }
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_out(&self) {
        let waker = {
            let mut state = self.state();
            state.shown_out = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A connection's place, given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    lobby: Lobby,
    source: Source,
    /// 0 while it does not wait.
    number: AtomicU64,
    seat: Arc<Seat>,
}

impl Place {
    /// The connection has shown what it is for: it is counted no more, and nobody shows it out.
    pub fn prove(&self) {
        let number = self.number.swap(0, Ordering::AcqRel);
        if number != 0 {
            self.lobby.room().leave(number);
        }
    }

    /// The connection is idle again: it waits as the newest.
    pub fn wait(&self) {
        self.prove();
        if !self.seat.state().shown_out {
            let number = self.lobby.admit(self.source, &self.seat);
            self.number.store(number, Ordering::Release);
        }
    }

    /// Ends when the connection must make room; never, while it is proven.
    pub async fn shown_out(&self) {
        poll_fn(|cx| self.poll_shown_out(cx)).await;
    }

    fn poll_shown_out(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.seat.state();
        if state.shown_out {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.prove();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([10, 0, 0, last]))
    }

    fn is_out(place: &Place) -> bool {
        place.poll_shown_out(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_of_an_address_with_its_share_makes_room() {
        let lobby = Lobby::new(Limits { total: 10, each: 2 });
        let one = lobby.enter(source(1));
        let two = lobby.enter(source(1));
        let other = lobby.enter(source(2));
        let three = lobby.enter(source(1));
        assert!(is_out(&one) && !is_out(&two) && !is_out(&three) && !is_out(&other));
        assert_eq!((lobby.waiting(), lobby.crowded_out()), (3, 1));
    }

    #[test]
    fn where_all_is_taken_the_oldest_of_the_largest_crowd_makes_room() {
        let lobby = Lobby::new(Limits { total: 4, each: 4 });
        let quiet = lobby.enter(source(1));
        let crowd: Vec<_> = (0..3).map(|_| lobby.enter(source(2))).collect();
        let late = lobby.enter(source(3));
        let out: Vec<bool> = crowd.iter().map(is_out).collect();
        assert_eq!(out, [true, false, false]);
        assert!(!is_out(&quiet) && !is_out(&late));
        // Of crowds as large the one that came first.
        let lobby = Lobby::new(Limits { total: 2, each: 2 });
        let first = lobby.enter(source(9));
        let second = lobby.enter(source(1));
        let _third = lobby.enter(source(5));
        assert!(is_out(&first) && !is_out(&second));
    }

    #[test]
    fn who_is_proven_is_not_shown_out_and_who_waits_again_is_the_newest() {
        let lobby = Lobby::new(Limits { total: 2, each: 2 });
        let place = lobby.enter(source(1));
        place.prove();
        let others: Vec<_> = (0..5).map(|_| lobby.enter(source(1))).collect();
        assert!(!is_out(&place));
        assert_eq!((lobby.waiting(), lobby.crowded_out()), (2, 3));
        place.wait();
        assert_eq!(lobby.crowded_out(), 4);
        let _later = lobby.enter(source(1));
        assert!(!is_out(&place), "the one before it was older");
        let _last = lobby.enter(source(1));
        assert!(is_out(&place));
        // What has been shown out does not come back.
        place.wait();
        drop((place, others));
        assert_eq!(lobby.waiting(), 2);
    }

    #[test]
    fn whoever_is_shown_out_is_woken() {
        struct Woken(AtomicU64);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let lobby = Lobby::new(Limits { total: 1, each: 1 });
        let place = lobby.enter(source(1));
        let woken = Arc::new(Woken(AtomicU64::new(0)));
        assert!(place.poll_shown_out(&mut Context::from_waker(&woken.clone().into())).is_pending());
        let _next = lobby.enter(source(2));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(is_out(&place));
    }

    #[test]
    fn ipv6_is_counted_by_its_64_and_mapped_ipv4_as_ipv4() {
        let of = |text: &str| Source::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), source(1));
        assert_ne!(source(1), source(2));
    }

    #[test]
    fn failed_accepts_are_counted_and_seldom_told() {
        let lobby = Lobby::new(Limits { total: 1, each: 1 });
        let told = (0..130).filter(|_| lobby.accept_failed()).count();
        assert_eq!((told, lobby.accept_failures()), (3, 130));
    }

    proptest! {
        #[test]
        fn the_limits_hold_whatever_comes_and_goes(steps in prop::collection::vec((0_u8..4, 0_u8..6), 0..200)) {
            let limits = Limits { total: 7, each: 3 };
            let lobby = Lobby::new(limits);
            let mut inside: Vec<Place> = Vec::new();
            for (what, who) in steps {
                let at = usize::from(who) % inside.len().max(1);
                match what {
                    0 | 1 => inside.push(lobby.enter(source(who))),
                    2 if !inside.is_empty() => drop(inside.swap_remove(at)),
                    3 if !inside.is_empty() => inside[at].wait(),
                    _ => {}
                }
                let room = lobby.room();
                prop_assert!(room.guests.len() <= limits.total);
                prop_assert!(room.crowds.values().all(|crowd| !crowd.is_empty() && crowd.len() <= limits.each));
                prop_assert_eq!(room.crowds.values().map(BTreeSet::len).sum::<usize>(), room.guests.len());
                prop_assert_eq!(room.ranking.len(), room.crowds.len());
            }
            drop(inside);
            prop_assert_eq!(lobby.waiting(), 0);
        }
    }
}
