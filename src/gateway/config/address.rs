//! Methods of [`Network`] and [`Endpoint`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Endpoint, Network};

impl Network {
    /// True if the block contains the address. An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`, as a
    /// dual-stack listener reports it) is treated as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let other = Network { address: address.to_canonical(), prefix: self.prefix };
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.first().is_some_and(|first| other.first() == Some(first))
    }

    /// The first address of the block; `None` if the prefix is longer than an address.
    pub(super) fn first(&self) -> Option<IpAddr> {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        let rest = u32::from(bits - self.prefix.min(bits));
        match self.address {
            _ if self.prefix > bits => None,
            IpAddr::V4(address) => Some(
                Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(rest).unwrap_or(0))
                    .into(),
            ),
            IpAddr::V6(address) => Some(
                Ipv6Addr::from_bits(address.to_bits() & u128::MAX.checked_shl(rest).unwrap_or(0))
                    .into(),
            ),
        }
    }
}

impl Endpoint {
    /// True if only this host, and pods in its network namespace, can reach the endpoint.
    pub fn is_loopback(&self) -> bool {
        &*self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }

    /// `HOST:PORT`, with an IPv6 address in brackets: the name of a member in logs, metrics and the
    /// audit log.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `https://HOST:PORT`, `http://HOST:PORT`, or `HOST:PORT`, which means `https`.
    fn from_str(text: &str) -> Result<Self, String> {
        super::value::endpoint(text)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: &str, prefix: u8) -> Network {
        Network { address: address.parse().unwrap(), prefix }
    }

    #[test]
    fn a_block_contains_the_addresses_with_its_prefix() {
        for (block, inside, outside) in [
            (block("10.0.0.0", 8), "10.255.255.255", "11.0.0.0"),
            (block("10.0.0.7", 8), "10.1.1.1", "9.255.255.255"),
            (block("192.0.2.4", 32), "192.0.2.4", "192.0.2.5"),
            (block("fd00::", 8), "fdff::1", "fe00::"),
            (block("0.0.0.0", 0), "255.255.255.255", "::1"),
            (block("::", 0), "2001:db8::1", "10.0.0.1"),
        ] {
            assert!(block.contains(inside.parse().unwrap()), "{block:?} {inside}");
            assert!(!block.contains(outside.parse().unwrap()), "{block:?} {outside}");
        }
    }

    #[test]
    fn a_mapped_ipv4_address_is_treated_as_ipv4() {
        assert!(block("10.0.0.0", 8).contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_block_with_an_impossible_prefix_is_empty() {
        assert!(!block("10.0.0.0", 33).contains("10.0.0.0".parse().unwrap()));
    }
}
