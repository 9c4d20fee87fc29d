//! PROXY protocol, version 2: a balancer's word for who is connecting, in front of the TLS
//! handshake (haproxy's `doc/proxy-protocol.txt`, 2.2).
//!
//! Version 1 (text) is refused: its end has to be searched for, and nothing here needs it. A header
//! longer than [`MAX_LENGTH`] is refused too. What follows the addresses (TLVs) is read over: a TLV
//! with the client's certificate name would be an identity that nobody has proved.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a whole header, at most: the fixed part, the largest addresses (unix sockets, 216
/// bytes), and room for TLVs. 536 bytes are what every TCP segment can carry (RFC 9293, 3.7.1), and
/// a sender has to write the header as one segment.
pub const MAX_LENGTH: usize = 536;

/// Bytes of the fixed part: signature, version and command, family, and the length of the rest.
pub const FIXED_LENGTH: usize = 16;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A good beginning: go on when there are at least this many bytes in all.
    Incomplete(usize),
    /// A whole header.
    Header {
        /// The client. `None` when the balancer speaks for itself (LOCAL: a health check), or
        /// names no TCP address (a unix socket): then the connection's own peer is the
        /// client.
        source: Option<SocketAddr>,
        /// Bytes of the header.
        length: usize,
    },
}

/// Why this is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The signature is missing: the peer may be a client that does not come through the balancer.
    #[error("the connection does not begin with a PROXY protocol header")]
    NoSignature,
    /// `PROXY TCP4 ...`
    #[error("the balancer speaks PROXY protocol version 1: set it to version 2")]
    Version1,
    /// The signature of version 2 before another version.
    #[error("the PROXY protocol header is of an unknown version")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("the PROXY protocol header has an unknown command")]
    Command,
    /// A family or transport that the specification does not have.
    #[error("the PROXY protocol header has an unknown address family")]
    Family,
    /// Shorter than the addresses that it announces.
    #[error("the PROXY protocol header is too short for its addresses")]
    TooShort,
    /// Longer than [`MAX_LENGTH`].
    #[error("the PROXY protocol header is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, refusal)
    }
}

/// Looks at the first bytes of a connection.
///
/// # Errors
/// As soon as the bytes cannot become a header any more.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LENGTH>() else {
        return if bytes.iter().zip(SIGNATURE).all(|(byte, expected)| *byte == expected) {
            Ok(Parsed::Incomplete(FIXED_LENGTH))
        } else {
            Err(unsigned(bytes))
        };
    };
    let [signature @ .., version_command, family, high, low] = fixed;
    if signature != &SIGNATURE {
        return Err(unsigned(bytes));
    }
    if version_command >> 4 != 2 {
        return Err(Refusal::Version);
    }
    let announced = usize::from(u16::from_be_bytes([*high, *low]));
    let length = FIXED_LENGTH + announced;
    if length > MAX_LENGTH {
        return Err(Refusal::TooLong);
    }
    let local = match version_command & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(Refusal::Command),
    };
    let addresses = if local { 0 } else { addresses_length(*family)? };
    if announced < addresses {
        return Err(Refusal::TooShort);
    }
    let Some(body) = rest.get(..announced) else { return Ok(Parsed::Incomplete(length)) };
    Ok(Parsed::Header { source: if local { None } else { source(*family, body) }, length })
}

/// Reads a header from the beginning of a connection: its bytes, and not one more.
///
/// # Errors
/// Those of the connection, and [`Refusal`] as [`io::ErrorKind::InvalidData`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut buffer = [0; MAX_LENGTH];
    let mut filled = 0;
    loop {
        let wanted = match parse(buffer.get(..filled).unwrap_or_default())? {
            Parsed::Header { source, .. } => return Ok(source),
            Parsed::Incomplete(wanted) => wanted,
        };
        // `parse` never wants more than the buffer holds; a read of nothing would be the end of the
        // stream.
        let read = stream.read(buffer.get_mut(filled..wanted).unwrap_or_default()).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
}

/// What is wrong with bytes that do not begin with the signature.
fn unsigned(bytes: &[u8]) -> Refusal {
    if bytes.starts_with(b"PROXY") { Refusal::Version1 } else { Refusal::NoSignature }
}

/// Bytes of the addresses, by family (high four bits) and transport (low four bits).
fn addresses_length(family: u8) -> Result<usize, Refusal> {
    match family {
        // Unspecified: the receiver uses the connection's own addresses.
        0x00 => Ok(0),
        // TCP or UDP over IPv4, over IPv6, and unix sockets, stream or datagram.
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        _ => Err(Refusal::Family),
    }
}

/// The source address: source, destination, source port, destination port stand one after the
/// other.
fn source(family: u8, body: &[u8]) -> Option<SocketAddr> {
    let (address, ports): (IpAddr, &[u8]) = match family {
        0x11 => (Ipv4Addr::from(*body.first_chunk::<4>()?).into(), body.get(8..)?),
        0x21 => (Ipv6Addr::from(*body.first_chunk::<16>()?).into(), body.get(32..)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*ports.first_chunk::<2>()?)))
}

#[cfg(test)]
mod tests;
