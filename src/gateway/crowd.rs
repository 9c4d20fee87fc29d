//! Those who are here, by the address that they come from, and who gives way when there are too
//! many.
//!
//! The rule where no certificate says yet who comes: the address with the most gives up its oldest.
//! So an address alone may use all the room that there is, and loses of it what others need; a
//! flood from one address takes nothing from the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// Whose share one is: an IPv4 address, or the 64 bits of an IPv6 address that name a network (RFC
/// 4291, 2.5.4: whoever has one has all addresses of it). An IPv4 address is the same in either
/// form (`::ffff:192.0.2.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
            address => address,
        })
    }
}

/// Those who are here. Every step costs the logarithm of their number.
pub struct Crowd<T> {
    /// By their tickets, and so by their age.
    members: BTreeMap<u64, (Origin, T)>,
    tickets: HashMap<Origin, BTreeSet<u64>>,
    /// How many each origin has, the age of its oldest, and which it is: the last has the most,
    /// and of equals the oldest.
    ranks: BTreeSet<(usize, Reverse<u64>, Origin)>,
    next: u64,
}

impl<T> Default for Crowd<T> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), tickets: HashMap::new(), ranks: BTreeSet::new(), next: 0 }
    }
}

impl<T> Crowd<T> {
    /// How many are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many an origin has here.
    #[must_use]
    pub fn of(&self, origin: Origin) -> usize {
        self.tickets.get(&origin).map_or(0, BTreeSet::len)
    }

    /// How many the origin with the most has here.
    #[must_use]
    pub fn most(&self) -> usize {
        self.ranks.last().map_or(0, |(count, ..)| *count)
    }

    /// One more comes: its ticket.
    pub fn enter(&mut self, origin: Origin, one: T) -> u64 {
        let ticket = self.next;
        self.next = self.next.saturating_add(1);
        self.members.insert(ticket, (origin, one));
        self.change(origin, |tickets| tickets.insert(ticket));
        ticket
    }

    /// One goes, unless it has gone before.
    pub fn leave(&mut self, ticket: u64) -> Option<(Origin, T)> {
        let (origin, one) = self.members.remove(&ticket)?;
        self.change(origin, |tickets| tickets.remove(&ticket));
        Some((origin, one))
    }

    /// The oldest of all.
    #[must_use]
    pub fn oldest(&self) -> Option<(u64, Origin, &T)> {
        self.members.first_key_value().map(|(ticket, (origin, one))| (*ticket, *origin, one))
    }

    /// The newest of all.
    #[must_use]
    pub fn newest(&self) -> Option<(u64, Origin)> {
        self.members.last_key_value().map(|(ticket, (origin, _))| (*ticket, *origin))
    }

    /// The one that gives way: the oldest of the origin with the most.
    pub fn give_way(&mut self) -> Option<T> {
        let (_, Reverse(ticket), _) = *self.ranks.last()?;
        self.leave(ticket).map(|(_, one)| one)
    }

    fn change(&mut self, origin: Origin, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let tickets = self.tickets.entry(origin).or_default();
        let rank = |tickets: &BTreeSet<u64>| {
            tickets.first().map(|oldest| (tickets.len(), Reverse(*oldest), origin))
        };
        if let Some(before) = rank(tickets) {
            self.ranks.remove(&before);
        }
        change(tickets);
        match rank(tickets) {
            Some(after) => drop(self.ranks.insert(after)),
            None => drop(self.tickets.remove(&origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn an_origin_is_what_one_peer_has_alone() {
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
    }

    #[test]
    fn the_one_with_the_most_gives_way_with_its_oldest() {
        let mut crowd = Crowd::default();
        let (flood, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        crowd.enter(other, "other's oldest");
        for one in ["first", "second", "third"] {
            crowd.enter(flood, one);
        }
        assert_eq!((crowd.len(), crowd.most(), crowd.of(flood), crowd.of(other)), (4, 3, 3, 1));
        assert_eq!((crowd.give_way(), crowd.give_way()), (Some("first"), Some("second")));
        // Of equals, the one that has been there longest.
        assert_eq!(
            (crowd.give_way(), crowd.give_way(), crowd.give_way()),
            (Some("other's oldest"), Some("third"), None)
        );
        assert!(crowd.is_empty() && crowd.ranks.is_empty() && crowd.tickets.is_empty());
    }

    #[test]
    fn who_leaves_is_counted_no_more_and_leaves_once() {
        let mut crowd = Crowd::default();
        let (one, two) = (origin("2001:db8::1"), origin("192.0.2.2"));
        let tickets = [crowd.enter(one, 1), crowd.enter(one, 2), crowd.enter(two, 3)];
        assert_eq!(crowd.leave(tickets[0]), Some((one, 1)));
        assert_eq!(crowd.leave(tickets[0]), None);
        assert_eq!(
            (crowd.len(), crowd.of(one), crowd.oldest(), crowd.newest()),
            (2, 1, Some((1, one, &2)), Some((2, two)))
        );
    }
}
