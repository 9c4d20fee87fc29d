//! A table of peers by their address, for peers whose certificate is not known yet. When there are
//! too many, one entry is evicted.
//!
//! The rule: the address with the most entries loses its oldest one. So a single address may use
//! the whole table until others need a part of it, and a flood from one address evicts no entry of
//! another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The address of a peer, as far as it matters for shares: an IPv4 address, or the first 64 bits of
/// an IPv6 address. These name a network (RFC 4291, 2.5.4), and a host can use any address in its
/// network. An IPv4-mapped address (`::ffff:192.0.2.1`) is the same as the IPv4 address.
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

/// Entries by their origin and by their age. Each operation costs the logarithm of their number.
pub struct OriginTable<T> {
    /// By ticket. Tickets rise, so this is the order of age.
    entries: BTreeMap<u64, (Origin, T)>,
    tickets: HashMap<Origin, BTreeSet<u64>>,
    /// The number of entries of each origin, its oldest ticket, and the origin. The last element is
    /// the origin with the most entries; if several have the same number, the one with the oldest
    /// entry.
    ranks: BTreeSet<(usize, Reverse<u64>, Origin)>,
    next_ticket: u64,
}

impl<T> Default for OriginTable<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            tickets: HashMap::new(),
            ranks: BTreeSet::new(),
            next_ticket: 0,
        }
    }
}

impl<T> OriginTable<T> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of entries of one origin.
    pub fn count(&self, origin: Origin) -> usize {
        self.tickets.get(&origin).map_or(0, BTreeSet::len)
    }

    /// The number of entries of the origin that has the most.
    pub fn max_count(&self) -> usize {
        self.ranks.last().map_or(0, |(count, ..)| *count)
    }

    /// Adds an entry. Returns its ticket.
    pub fn insert(&mut self, origin: Origin, value: T) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.saturating_add(1);
        self.entries.insert(ticket, (origin, value));
        self.change(origin, |tickets| tickets.insert(ticket));
        ticket
    }

    /// Removes an entry, unless it was removed before.
    pub fn remove(&mut self, ticket: u64) -> Option<(Origin, T)> {
        let (origin, value) = self.entries.remove(&ticket)?;
        self.change(origin, |tickets| tickets.remove(&ticket));
        Some((origin, value))
    }

    /// The oldest entry.
    pub fn oldest(&self) -> Option<(u64, Origin, &T)> {
        self.entries.first_key_value().map(|(ticket, (origin, value))| (*ticket, *origin, value))
    }

    /// The newest entry.
    pub fn newest(&self) -> Option<(u64, Origin)> {
        self.entries.last_key_value().map(|(ticket, (origin, _))| (*ticket, *origin))
    }

    /// Removes and returns the oldest entry of the origin with the most entries.
    pub fn evict(&mut self) -> Option<T> {
        let (_, Reverse(ticket), _) = *self.ranks.last()?;
        self.remove(ticket).map(|(_, value)| value)
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
    fn an_origin_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
    }

    #[test]
    fn evicts_the_oldest_of_the_origin_with_the_most() {
        let mut table = OriginTable::default();
        let (flood, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        table.insert(other, "other's oldest");
        for value in ["first", "second", "third"] {
            table.insert(flood, value);
        }
        assert_eq!(
            (table.len(), table.max_count(), table.count(flood), table.count(other)),
            (4, 3, 3, 1)
        );
        assert_eq!((table.evict(), table.evict()), (Some("first"), Some("second")));
        // Of two origins with the same number, the one with the oldest entry.
        assert_eq!(
            (table.evict(), table.evict(), table.evict()),
            (Some("other's oldest"), Some("third"), None)
        );
        assert!(table.is_empty() && table.ranks.is_empty() && table.tickets.is_empty());
    }

    #[test]
    fn an_entry_is_removed_once() {
        let mut table = OriginTable::default();
        let (one, two) = (origin("2001:db8::1"), origin("192.0.2.2"));
        let tickets = [table.insert(one, 1), table.insert(one, 2), table.insert(two, 3)];
        assert_eq!(table.remove(tickets[0]), Some((one, 1)));
        assert_eq!(table.remove(tickets[0]), None);
        assert_eq!(
            (table.len(), table.count(one), table.oldest(), table.newest()),
            (2, 1, Some((1, one, &2)), Some((2, two)))
        );
    }
}
