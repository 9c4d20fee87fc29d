use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::proxy::budget::Budget;

const LIMIT: usize = 1 << 20;

fn packed(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

/// Frames bytes as a compressed message.
fn flagged(bytes: &[u8]) -> Bytes {
    let mut framed = frame::encode(bytes).to_vec();
    framed[0] = 1;
    framed.into()
}

fn unpacked(framed: Bytes, encoding: Encoding, limit: usize) -> Result<Bytes, Reason> {
    let budget = Budget::new(16 * LIMIT, LIMIT);
    let share = budget.share(&Arc::from("client"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime
        .block_on(plain(framed, encoding, limit, &share))
        .map(|plain| plain.framed)
        .map_err(|denial| denial.reason)
}

fn gunzipped(bytes: &[u8]) -> Result<Bytes, Reason> {
    unpacked(flagged(bytes), Encoding::Gzip, LIMIT)
}

#[test]
fn reads_the_encoding_that_a_head_names() {
    for (value, expected) in [
        ("identity", Encoding::Identity),
        ("", Encoding::Identity),
        ("gzip", Encoding::Gzip),
        ("GZIP", Encoding::Unknown),
        ("gzip, identity", Encoding::Unknown),
        ("deflate", Encoding::Unknown),
        ("snappy", Encoding::Unknown),
    ] {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(GRPC_ENCODING),
            value.parse().unwrap(),
        )]);
        assert_eq!(Encoding::of(&headers), expected, "{value}");
    }
    assert_eq!(Encoding::of(&HeaderMap::new()), Encoding::Identity);
}

#[test]
fn decompresses_only_flagged_messages_as_the_head_says() {
    let message = frame::encode(b"message");
    for encoding in [Encoding::Identity, Encoding::Gzip] {
        assert_eq!(unpacked(message.clone(), encoding, LIMIT), Ok(message.clone()));
    }
    let gzip = flagged(&packed(b"message"));
    assert_eq!(unpacked(gzip.clone(), Encoding::Gzip, LIMIT), Ok(message.clone()));
    assert_eq!(unpacked(gzip.clone(), Encoding::Identity, LIMIT), Err(Reason::BadFraming));
    for framed in [gzip, message] {
        assert_eq!(unpacked(framed, Encoding::Unknown, LIMIT), Err(Reason::Compressed));
    }
}

#[test]
fn accepts_exactly_one_whole_gzip_member() {
    let member = packed(b"one whole message");
    assert_eq!(gunzipped(&member), Ok(frame::encode(b"one whole message")));
    assert_eq!(gunzipped(&packed(b"")), Ok(frame::encode(b"")));
    for cut in 0..member.len() {
        assert_eq!(gunzipped(&member[..cut]), Err(Reason::BadFraming), "cut at {cut}");
    }
    for behind in [&b"\0"[..], b"\x1f", &packed(b""), &member] {
        assert_eq!(
            gunzipped(&[&member, behind].concat()),
            Err(Reason::BadFraming),
            "{behind:?} behind it"
        );
    }
    // The checksum and the length.
    for place in member.len() - 8..member.len() {
        let mut damaged = member.clone();
        damaged[place] ^= 1;
        assert_eq!(gunzipped(&damaged), Err(Reason::BadFraming), "byte {place}");
    }
}

#[test]
fn bounds_the_length_and_the_ratio() {
    let random: Vec<u8> =
        (0..40_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let exactly = |limit: usize| {
        unpacked(flagged(&packed(&random)), Encoding::Gzip, limit).map(|framed| framed.len())
    };
    assert_eq!(exactly(random.len()), Ok(random.len() + HEADER));
    assert_eq!(exactly(random.len() - 1), Err(Reason::TooLarge));
    // Zeroes have a ratio of a thousand to one, which only a short message may have.
    let zeroes = |length: usize| gunzipped(&packed(&vec![0; length])).map(|framed| framed.len());
    assert_eq!(zeroes(SHORT), Ok(SHORT + HEADER));
    assert_eq!(zeroes(SHORT + 1), Err(Reason::TooLarge));
    assert_eq!(zeroes(LIMIT), Err(Reason::TooLarge));
}

#[test]
fn decompressed_bytes_are_charged_to_the_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let random: Vec<u8> =
        (0..200_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let budget = Budget::new(4 * 200_000, 200_000);
    let share = budget.share(&Arc::from("client"));
    let gunzip = || {
        runtime
            .block_on(plain(flagged(&packed(&random)), Encoding::Gzip, LIMIT, &share))
            .map_err(|denial| denial.reason)
    };
    let first = gunzip().unwrap();
    assert_eq!(gunzip().err(), Some(Reason::Limit), "one client gets at most half of the budget");
    drop(first);
    let again = gunzip().unwrap();
    drop(again);
    assert!(share.take(2 * 200_000), "all of it was given back");
}

/// Messages of which half of the bytes are the same.
fn compressible() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..5_000)
}

proptest! {
    #[test]
    fn decompression_restores_the_message(message in compressible()) {
        prop_assert_eq!(gunzipped(&packed(&message)), Ok(frame::encode(&message)));
    }

    /// Damaged bytes are refused, or decompress to the original message.
    #[test]
    fn refuses_a_damaged_message_or_restores_it(index: prop::sample::Index, bit in 0_u8..8) {
        let message = b"a message that a client has packed, packed, packed";
        let mut damaged = packed(message);
        let index = index.index(damaged.len());
        damaged[index] ^= 1 << bit;
        match gunzipped(&damaged) {
            Ok(framed) => prop_assert_eq!(framed, frame::encode(message)),
            Err(reason) => prop_assert_eq!(reason, Reason::BadFraming),
        }
    }
}
