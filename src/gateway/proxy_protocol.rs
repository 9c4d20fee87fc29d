//! PROXY protocol, version 2: the client's address, which a load balancer sends before the TLS
//! handshake (haproxy's `doc/proxy-protocol.txt`, 2.2).
//!
//! Version 1 (text) is rejected: its end has to be searched for, and no supported balancer needs
//! it. A header longer than [`MAX_LENGTH`] is rejected too. TLVs after the addresses are ignored:
//! a TLV with the name in the client's certificate would be an identity without proof.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a header: the fixed part, the longest addresses (Unix sockets, 216 bytes), and
/// TLVs. A sender has to write the header in one TCP segment, and every segment can carry 536 bytes
/// (RFC 9293, 3.7.1).
pub const MAX_LENGTH: usize = 536;

/// Bytes of the fixed part: signature, version and command, family, length of the rest.
pub const FIXED_LENGTH: usize = 16;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Result of [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The bytes may start a header. Call again with at least this many in total.
    Incomplete(usize),
    /// A complete header.
    Header {
        /// Address of the client. `None` if the balancer itself is the client (LOCAL: a health
        /// check), or if the header has no TCP address (a Unix socket): use the connection's own
        /// peer address.
        source: Option<SocketAddr>,
        /// Length of the header in bytes.
        length: usize,
    },
}

/// Why the bytes are not a valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeaderError {
    /// No signature. The peer may be a client that bypasses the balancer.
    #[error("the connection does not start with a PROXY protocol header")]
    NoSignature,
    /// Version 1: `PROXY TCP4 ...`.
    #[error("PROXY protocol version 1 is not supported: set the load balancer to version 2")]
    Version1,
    /// The signature is valid, but the version is not 2.
    #[error("the PROXY protocol header has an unknown version")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("the PROXY protocol header has an unknown command")]
    Command,
    /// An address family or transport that the specification does not define.
    #[error("the PROXY protocol header has an unknown address family")]
    Family,
    /// Shorter than the addresses of its family.
    #[error("the PROXY protocol header is too short for its addresses")]
    TooShort,
    /// Longer than [`MAX_LENGTH`].
    #[error("the PROXY protocol header is longer than {MAX_LENGTH} bytes")]
    TooLong,
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Parses the first bytes of a connection.
///
/// # Errors
/// As soon as the bytes cannot be the start of a valid header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LENGTH>() else {
        return if bytes.iter().zip(SIGNATURE).all(|(byte, expected)| *byte == expected) {
            Ok(Parsed::Incomplete(FIXED_LENGTH))
        } else {
            Err(no_signature(bytes))
        };
    };
    let [signature @ .., version_command, family, high, low] = fixed;
    if signature != &SIGNATURE {
        return Err(no_signature(bytes));
    }
    if version_command >> 4 != 2 {
        return Err(HeaderError::Version);
    }
    let announced = usize::from(u16::from_be_bytes([*high, *low]));
    let length = FIXED_LENGTH + announced;
    if length > MAX_LENGTH {
        return Err(HeaderError::TooLong);
    }
    let local = match version_command & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(HeaderError::Command),
    };
    let addresses = if local { 0 } else { addresses_length(*family)? };
    if announced < addresses {
        return Err(HeaderError::TooShort);
    }
    let Some(body) = rest.get(..announced) else { return Ok(Parsed::Incomplete(length)) };
    Ok(Parsed::Header { source: if local { None } else { source(*family, body) }, length })
}

/// Reads a header from the start of a connection, and no byte after it. Returns the address of the
/// client as in [`Parsed::Header`].
///
/// # Errors
/// Errors of the stream, and [`HeaderError`] as [`io::ErrorKind::InvalidData`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut buffer = [0; MAX_LENGTH];
    let mut filled = 0;
    loop {
        let wanted = match parse(buffer.get(..filled).unwrap_or_default())? {
            Parsed::Header { source, .. } => return Ok(source),
            Parsed::Incomplete(wanted) => wanted,
        };
        // `parse` never asks for more than `MAX_LENGTH`. An empty slice would read 0 bytes, which
        // is an error below.
        let read = stream.read(buffer.get_mut(filled..wanted).unwrap_or_default()).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
}

/// The error for bytes without the signature.
fn no_signature(bytes: &[u8]) -> HeaderError {
    if bytes.starts_with(b"PROXY") { HeaderError::Version1 } else { HeaderError::NoSignature }
}

/// Length of the addresses of a family (high four bits) and transport (low four bits).
fn addresses_length(family: u8) -> Result<usize, HeaderError> {
    match family {
        // Unspecified: the receiver uses the addresses of the connection.
        0x00 => Ok(0),
        // TCP or UDP over IPv4, the same over IPv6, and Unix sockets (stream or datagram).
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        _ => Err(HeaderError::Family),
    }
}

/// The source address. The body has source, destination, source port, destination port.
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
