use proptest::prelude::*;

use super::*;

/// A header with this version and command, family, and rest.
fn header(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[version_command, family], &length, body].concat()
}

/// 192.0.2.7:40000 to 198.51.100.1:2379.
const TCP4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x09, 0x4b];
/// PP2_TYPE_NOOP (4) of three bytes.
const TLV: &[u8] = &[0x04, 0, 3, 0, 0, 0];

fn tcp6() -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    [&source.octets()[..], &destination.octets(), &[0x9c, 0x40, 0x09, 0x4b]].concat()
}

#[test]
fn returns_the_source_address_of_tcp() {
    for (family, body, source) in [
        (0x11, TCP4.to_vec(), Some("192.0.2.7:40000")),
        (0x11, [TCP4, TLV, TLV].concat(), Some("192.0.2.7:40000")),
        (0x21, tcp6(), Some("[2001:db8::7]:40000")),
        (0x21, [&tcp6()[..], TLV].concat(), Some("[2001:db8::7]:40000")),
        (0x00, vec![], None),
        (0x00, TLV.to_vec(), None),
        (0x12, TCP4.to_vec(), None),
        (0x31, vec![0; 216], None),
    ] {
        let bytes = header(0x21, family, &body);
        let expected = Parsed::Header {
            source: source.map(|source| source.parse().unwrap()),
            length: bytes.len(),
        };
        assert_eq!(parse(&bytes), Ok(expected), "{family:#x}");
    }
}

#[test]
fn local_has_no_source_address() {
    for body in [&[][..], TCP4] {
        let bytes = header(0x20, 0x11, body);
        assert_eq!(parse(&bytes), Ok(Parsed::Header { source: None, length: bytes.len() }));
    }
}

#[test]
fn each_invalid_header_has_its_own_error() {
    for (bytes, error) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 2379\r\n".to_vec(), HeaderError::Version1),
        (b"PROXY".to_vec(), HeaderError::Version1),
        (b"\x16\x03\x01\x02\x00".to_vec(), HeaderError::NoSignature),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), HeaderError::NoSignature),
        (header(0x11, 0x11, TCP4), HeaderError::Version),
        (header(0x31, 0x11, TCP4), HeaderError::Version),
        (header(0x22, 0x11, TCP4), HeaderError::Command),
        (header(0x21, 0x13, TCP4), HeaderError::Family),
        (header(0x21, 0x41, TCP4), HeaderError::Family),
        (header(0x21, 0x11, &TCP4[..11]), HeaderError::TooShort),
        (header(0x21, 0x21, TCP4), HeaderError::TooShort),
        (header(0x21, 0x31, &[0; 215]), HeaderError::TooShort),
        (header(0x21, 0x11, &[0; 521]), HeaderError::TooLong),
        (header(0x20, 0x00, &[0; u16::MAX as usize]), HeaderError::TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
    }
    assert!(matches!(
        parse(&header(0x21, 0x11, &[0; 520])),
        Ok(Parsed::Header { length: MAX_LENGTH, .. })
    ));
}

#[test]
fn rejects_a_header_before_it_is_complete() {
    assert_eq!(parse(b"\r\n\r\n\0\r\nQUIX"), Err(HeaderError::NoSignature));
    assert_eq!(parse(&header(0x21, 0x11, &[0; 600])[..FIXED_LENGTH]), Err(HeaderError::TooLong));
    assert_eq!(parse(&header(0x21, 0x77, &[0; 20])[..FIXED_LENGTH]), Err(HeaderError::Family));
}

#[test]
fn a_prefix_of_a_header_says_how_many_bytes_to_read() {
    let bytes = header(0x21, 0x11, &[TCP4, TLV].concat());
    for cut in 0..bytes.len() {
        let wanted = if cut < FIXED_LENGTH { FIXED_LENGTH } else { bytes.len() };
        assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Incomplete(wanted)), "{cut}");
    }
}

#[tokio::test]
async fn reads_no_byte_after_the_header() {
    let header = header(0x21, 0x11, &[TCP4, TLV].concat());
    let mut stream = std::io::Cursor::new([&header[..], b"\x16\x03\x01 client hello"].concat());
    assert_eq!(read(&mut stream).await.unwrap(), Some("192.0.2.7:40000".parse().unwrap()));
    assert_eq!(stream.position(), header.len() as u64);
}

#[tokio::test]
async fn reads_a_header_that_arrives_byte_by_byte() {
    let header = header(0x21, 0x11, TCP4);
    let (mut near, mut far) = tokio::io::duplex(1);
    let sender = tokio::spawn(async move {
        for byte in header.iter().chain(b"!") {
            tokio::io::AsyncWriteExt::write_all(&mut near, &[*byte]).await.unwrap();
        }
    });
    assert_eq!(read(&mut far).await.unwrap(), Some("192.0.2.7:40000".parse().unwrap()));
    let mut next = [0];
    far.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"!");
    sender.await.unwrap();
}

#[tokio::test]
async fn a_truncated_header_is_an_unexpected_eof() {
    let whole = header(0x21, 0x11, TCP4);
    for cut in [0, 5, FIXED_LENGTH, whole.len() - 1] {
        let error = read(&mut &whole[..cut]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
    }
    assert_eq!(
        read(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).await.unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let rest = || prop::collection::vec(any::<u8>(), 0..600);
    prop_oneof![
        rest(),
        (any::<u8>(), any::<u8>(), rest(), 0usize..620).prop_map(
            |(version_command, family, body, cut)| {
                let mut bytes = header(version_command, family, &body);
                bytes.truncate(cut);
                bytes
            }
        ),
        prop::collection::vec(any::<u8>(), 4..600)
            .prop_map(|rest| [&SIGNATURE[..], &rest].concat()),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_yield_lengths_out_of_bounds(bytes in any_bytes()) {
        match parse(&bytes) {
            Ok(Parsed::Header { length, .. }) => {
                prop_assert!(length <= bytes.len() && length <= MAX_LENGTH);
            }
            Ok(Parsed::Incomplete(wanted)) => {
                prop_assert!(wanted > bytes.len() && wanted <= MAX_LENGTH);
            }
            Err(_) => {}
        }
    }

    #[test]
    fn bytes_after_a_header_change_nothing(
        body in prop::collection::vec(any::<u8>(), 12..300),
        rest in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let bytes = header(0x21, 0x11, &body);
        prop_assert_eq!(parse(&bytes), parse(&[&bytes[..], &rest].concat()));
    }
}
