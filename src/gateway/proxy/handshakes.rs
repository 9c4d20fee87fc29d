//! Handshakes at once. Nobody knows yet who is behind one, so the shares are those of addresses
//! ([`crate::crowd`]).
//!
//! At the bound, who comes from an address that has fewer under way than another begins at once:
//! the other gives up its oldest. Who comes from an address that has as many as any waits, until
//! one ends or the oldest has had its time, which is shorter when many wait. Of those who wait
//! there are no more than of those under way: beyond that, the address with the most loses its
//! oldest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::crowd::{Crowd, Origin};

/// A handshake that others wait for is given this part of its time: with the default half a second,
/// which is two round trips around the world.
const GRACE: u32 = 20;

/// Where half the room of those who wait is taken, it is this part of that: enough within one
/// network, and a crowd moves on.
const HURRY: u32 = 10;

/// The handshakes under way, and the sockets that wait for their turn.
pub struct Handshakes<S> {
    under_way: Crowd<Begun>,
    waiting: Crowd<S>,
    most: usize,
    grace: Duration,
    ended: Arc<Ended>,
}

struct Begun {
    at: Instant,
    give_up: Arc<Notify>,
}

/// Those that ended since this was last looked at.
#[derive(Default)]
struct Ended {
    tickets: Mutex<Vec<u64>>,
    some: Notify,
}

/// One of them, until it is dropped.
pub struct Handshake {
    ticket: u64,
    give_up: Arc<Notify>,
    ended: Arc<Ended>,
}

impl<S> Handshakes<S> {
    /// None yet. Each has `time`, unless there are more than `most`.
    #[must_use]
    pub fn new(most: usize, time: Duration) -> Self {
        Self {
            under_way: Crowd::default(),
            waiting: Crowd::default(),
            most,
            grace: time / GRACE,
            ended: Arc::default(),
        }
    }

    /// One more has come. Returns the one that has to go for it without having begun, if there are
    /// too many.
    #[must_use]
    pub fn arrive(&mut self, origin: Origin, socket: S) -> Option<S> {
        self.waiting.enter(origin, socket);
        // It may be one that begins at once, and does not wait.
        if self.waiting.len() > self.most.saturating_add(1) {
            self.waiting.give_way()
        } else {
            None
        }
    }

    /// The next one that may begin now.
    pub fn begin_next(&mut self) -> Option<(S, Handshake)> {
        for ticket in
            std::mem::take(&mut *self.ended.tickets.lock().unwrap_or_else(PoisonError::into_inner))
        {
            self.under_way.leave(ticket);
        }
        let (newest, origin) = self.waiting.newest()?;
        let (oldest, ..) = self.waiting.oldest()?;
        let next = if self.under_way.len() < self.most {
            oldest
        } else if self.under_way.of(origin).saturating_add(1) < self.under_way.most() {
            self.give_up(Crowd::give_way);
            newest
        } else if self.is_due() {
            self.give_up(|under_way| {
                let (ticket, ..) = under_way.oldest()?;
                under_way.leave(ticket).map(|(_, begun)| begun)
            });
            oldest
        } else {
            return None;
        };
        let (origin, socket) = self.waiting.leave(next)?;
        let give_up = Arc::<Notify>::default();
        let ticket =
            self.under_way.enter(origin, Begun { at: Instant::now(), give_up: give_up.clone() });
        Some((socket, Handshake { ticket, give_up, ended: self.ended.clone() }))
    }

    /// Waits until [`Handshakes::begin_next`] may have one.
    pub async fn change(&self) {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        match self.under_way.oldest() {
            Some((.., begun)) => {
                drop(timeout_at(begun.at + self.patience(), self.ended.some.notified()).await)
            }
            None => self.ended.some.notified().await,
        }
    }

    /// Whether the oldest has had its time, where others wait.
    fn is_due(&self) -> bool {
        self.under_way.oldest().is_some_and(|(.., begun)| begun.at.elapsed() >= self.patience())
    }

    fn patience(&self) -> Duration {
        if self.waiting.len() > self.most / 2 { self.grace / HURRY } else { self.grace }
    }

    fn give_up(&mut self, which: impl FnOnce(&mut Crowd<Begun>) -> Option<Begun>) {
        if let Some(begun) = which(&mut self.under_way) {
            begun.give_up.notify_one();
        }
    }
}

impl Handshake {
    /// Waits until it is to make room.
    pub async fn given_up(&self) {
        self.give_up.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.ended.tickets.lock().unwrap_or_else(PoisonError::into_inner).push(self.ticket);
        self.ended.some.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn origin(last: u8) -> Origin {
        Origin::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)))
    }

    /// One arrives from this address: its handshake, if it may begin now.
    fn arrive(handshakes: &mut Handshakes<u8>, last: u8) -> Option<Handshake> {
        let _ = handshakes.arrive(origin(last), last);
        handshakes.begin_next().map(|(_, handshake)| handshake)
    }

    fn is_given_up(handshake: &Handshake) -> bool {
        handshake.given_up().now_or_never().is_some()
    }

    #[test]
    fn one_that_comes_from_elsewhere_begins_at_once_whatever_one_address_does() {
        let mut handshakes = Handshakes::new(4, AN_HOUR);
        let flood: Vec<_> = (0..100)
            .filter_map(|_| {
                let _ = handshakes.arrive(origin(1), 1);
                handshakes.begin_next()
            })
            .collect();
        assert_eq!(flood.len(), 4);
        let others: Vec<_> =
            [2, 3].iter().map(|last| arrive(&mut handshakes, *last).expect("it begins")).collect();
        // The oldest two of the flood made room; nobody else did, and each address has its share.
        assert_eq!(
            flood.iter().map(|(_, one)| is_given_up(one)).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        assert!(!others.iter().any(is_given_up));
    }

    #[test]
    fn those_who_wait_go_the_same_way_and_an_address_loses_only_its_own() {
        let mut handshakes = Handshakes::new(2, AN_HOUR);
        let _held = [arrive(&mut handshakes, 1), arrive(&mut handshakes, 2)];
        assert!(arrive(&mut handshakes, 2).is_none());
        let lost: Vec<_> = (0..10).filter_map(|_| handshakes.arrive(origin(1), 1)).collect();
        assert_eq!(lost, [1; 8]);
        assert!(handshakes.begin_next().is_none());
    }

    #[tokio::test]
    async fn at_the_bound_the_oldest_makes_room_when_it_has_had_its_time() {
        let mut handshakes = Handshakes::new(2, Duration::from_millis(40));
        let (oldest, second) =
            (arrive(&mut handshakes, 1).unwrap(), arrive(&mut handshakes, 2).unwrap());
        let mut third = arrive(&mut handshakes, 3);
        while third.is_none() {
            handshakes.change().await;
            third = handshakes.begin_next().map(|(_, handshake)| handshake);
        }
        assert!(is_given_up(&oldest));
        assert!(!is_given_up(&second));
    }

    #[tokio::test]
    async fn a_crowd_from_many_addresses_moves_on() {
        let mut handshakes = Handshakes::new(4, AN_HOUR);
        let first: Vec<_> = (0..4).filter_map(|last| arrive(&mut handshakes, last)).collect();
        assert!((4..6).all(|last| arrive(&mut handshakes, last).is_none()));
        assert_eq!(handshakes.patience(), handshakes.grace);
        assert!(arrive(&mut handshakes, 6).is_none());
        assert_eq!(handshakes.patience(), handshakes.grace / HURRY);
        handshakes.grace = Duration::from_millis(100);
        handshakes.change().await;
        assert!(handshakes.begin_next().is_some() && is_given_up(&first[0]));
    }

    #[tokio::test]
    async fn before_its_time_nobody_is_given_up_and_one_that_ends_makes_room_at_once() {
        let mut handshakes = Handshakes::new(2, AN_HOUR);
        let (oldest, second) =
            (arrive(&mut handshakes, 1).unwrap(), arrive(&mut handshakes, 2).unwrap());
        assert!(handshakes.change().now_or_never().is_none(), "there is nobody to wait for");
        assert!(arrive(&mut handshakes, 3).is_none());
        assert!(handshakes.change().now_or_never().is_none());
        drop(second);
        handshakes.change().await;
        assert!(handshakes.begin_next().is_some());
        assert!(!is_given_up(&oldest));
    }
}
