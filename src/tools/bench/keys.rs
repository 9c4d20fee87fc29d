//! The keys of a run, all below one prefix. Each value identifies its key and the write it is from.

use std::io::Write as _;

use bytes::Bytes;
use etcd_warden_core::wire::frame;
use etcd_warden_proto::etcdserverpb::RangeRequest;
use prost::Message as _;

/// Bytes of a value before its filler.
pub const HEAD: usize = 52;
const MARK: &[u8] = b"etcd-warden-bench ";

/// Follows the prefix in each key, because another program may have a key such as
/// `/app/data/00000001` below `--prefix /app/`.
const MINE: &str = "etcd-warden-bench/";

/// Digits of a data key's index, and of a stream's number: enough for the command line's limits.
const INDEX: usize = 8;
const STREAM: usize = 10;

/// The keys.
pub struct Keys {
    /// The prefix, which ends with a slash.
    pub prefix: String,
    /// The prefix of the keys of this program.
    root: String,
    /// Bytes of each value, at least [`HEAD`].
    pub size: usize,
    /// The keys that are read and written at random.
    pub data: Vec<Vec<u8>>,
    /// The framed Range request of each.
    ranges: Vec<Bytes>,
}

impl Keys {
    /// The keys of a run; `count` data keys.
    #[must_use]
    pub fn new(prefix: &str, count: u64, size: usize, serializable: bool) -> Self {
        let root = format!("{prefix}{MINE}");
        let data: Vec<Vec<u8>> =
            (0..count).map(|index| format!("{root}data/{index:0INDEX$}").into_bytes()).collect();
        let range = |key: &Vec<u8>| {
            frame::encode(
                &RangeRequest { key: key.clone(), serializable, ..RangeRequest::default() }
                    .encode_to_vec(),
            )
        };
        Self {
            prefix: prefix.to_owned(),
            root,
            size,
            ranges: data.iter().map(range).collect(),
            data,
        }
    }

    /// The key of one stream for guarded updates. No other stream writes it.
    #[must_use]
    pub fn own(&self, thread: usize, stream: usize) -> Vec<u8> {
        format!("{}txn/{thread:03}-{stream:0STREAM$}", self.root).into_bytes()
    }

    /// The watched key of one stream. No other stream writes it.
    #[must_use]
    pub fn watched(&self, thread: usize, stream: usize) -> Vec<u8> {
        format!("{}watch/{thread:03}-{stream:0STREAM$}", self.root).into_bytes()
    }

    /// The range of a watcher: first key and range end. With a number, the range begins at a
    /// different key before the watched keys: it contains all of them and no other keys, and no two
    /// watchers have the same range.
    #[must_use]
    pub fn watched_range(&self, number: Option<usize>) -> [Vec<u8>; 2] {
        let first = number.map_or_else(
            || format!("{}watch/", self.root),
            |number| format!("{}watch.{number:0STREAM$}", self.root),
        );
        [first, format!("{}watch0", self.root)].map(String::into_bytes)
    }

    /// The number of the stream that writes a watched key.
    #[must_use]
    pub fn stream(key: &[u8]) -> Option<u64> {
        std::str::from_utf8(key.get(key.len().checked_sub(STREAM)?..)?).ok()?.parse().ok()
    }

    /// The framed Range request of a data key.
    #[must_use]
    pub fn range(&self, index: usize) -> Bytes {
        self.ranges.get(index).cloned().unwrap_or_default()
    }

    /// True if a key has the form of the keys of this program. Other keys below the prefix are
    /// foreign.
    #[must_use]
    pub fn is_ours(&self, key: &[u8]) -> bool {
        let Some(rest) = key.strip_prefix(self.root.as_bytes()) else { return false };
        let digits =
            |text: &[u8], count: usize| text.len() == count && text.iter().all(u8::is_ascii_digit);
        let pair = |text: &[u8]| {
            text.get(..3).is_some_and(|first| digits(first, 3))
                && text.get(4..).is_some_and(|last| digits(last, STREAM))
        };
        if let Some(number) = rest.strip_prefix(b"data/") {
            return digits(number, INDEX);
        }
        let pairs = [b"txn/".as_slice(), b"watch/"];
        pairs.iter().any(|kind| {
            rest.strip_prefix(*kind).is_some_and(|name| name.get(3) == Some(&b'-') && pair(name))
        })
    }

    /// The value of a key. `index` is that of the data key or the number of the stream, `stamp`
    /// identifies the write.
    #[must_use]
    pub fn value(&self, index: u64, stamp: u64) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.size);
        value.extend_from_slice(MARK);
        // Writing into a Vec does not fail.
        let _ = write!(value, "{index:016x} {stamp:016x} ");
        value.resize(self.size, filler(index));
        value
    }

    /// The stamp of a value; `None` if it is not a complete value of this key.
    #[must_use]
    pub fn stamp(&self, index: u64, value: &[u8]) -> Option<u64> {
        let rest = value.strip_prefix(MARK)?;
        let number = |from: usize| {
            u64::from_str_radix(std::str::from_utf8(rest.get(from..from + 16)?).ok()?, 16).ok()
        };
        let sound = value.len() == self.size
            && number(0)? == index
            && value.get(HEAD..)?.iter().all(|byte| *byte == filler(index));
        if sound { number(17) } else { None }
    }
}

fn filler(index: u64) -> u8 {
    let [low, ..] = (index % 26).to_le_bytes();
    b'a' + low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_identifies_its_key_and_its_write() {
        let keys = Keys::new("/p/", 3, 100, false);
        let value = keys.value(2, 77);
        assert_eq!(value.len(), 100);
        assert_eq!(keys.stamp(2, &value), Some(77));
        assert_eq!(keys.stamp(1, &value), None);
        for change in [0, 20, 60, 99] {
            let mut other = value.clone();
            other[change] ^= 1;
            assert_eq!(keys.stamp(2, &other), None, "byte {change}");
        }
        assert_eq!(keys.stamp(2, &value[..99]), None);
        assert_eq!(keys.value(0, 0).len(), 100);
        assert_eq!(
            Keys::new("/p/", 1, HEAD, false)
                .stamp(0, &Keys::new("/p/", 1, HEAD, false).value(0, 5)),
            Some(5)
        );
    }

    #[test]
    fn watchers_have_different_ranges_with_exactly_the_watched_keys() {
        let keys = Keys::new("/p/", 3, 100, false);
        let ranges: Vec<_> =
            [None, Some(0), Some(1), Some(199)].map(|number| keys.watched_range(number)).into();
        for (place, [first, end]) in ranges.iter().enumerate() {
            assert!(ranges[..place].iter().all(|[other, _]| other != first));
            let holds = |key: &[u8]| **first <= *key && *key < **end;
            assert!(
                [keys.watched(0, 0), keys.watched(255, 9999)].iter().all(|key| holds(key)),
                "{place}"
            );
            assert!(
                !keys.data.iter().chain([&keys.own(255, 9999)]).any(|key| holds(key)),
                "{place}"
            );
        }
    }

    #[test]
    fn own_keys_are_recognized_by_their_form() {
        let keys = Keys::new("/p/", 3, 100, false);
        for ours in [keys.data[2].clone(), keys.own(1, 2), keys.watched(0, 99_999)] {
            assert!(keys.is_ours(&ours), "{ours:?}");
        }
        let others =
            ["data/0000000", "data/0000000x", "", "x", "txn/000-000000000", "watch/000x0000000000"]
                .map(|key| format!("/p/{MINE}{key}"));
        let elsewhere =
            ["/p/data/00000000", "/p/txn/000-0000000000", "/q/etcd-warden-bench/data/00000000"]
                .map(str::to_owned);
        for other in others.iter().chain(&elsewhere) {
            assert!(!keys.is_ours(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn every_possible_stream_has_keys_of_its_own() {
        let keys = Keys::new("/p/", 1, 100, false);
        // The limits of `--connections` times `--streams`, on one thread.
        let most = 100_000 * 10_000 - 1;
        for stream in [0, 99_999, 100_000, most] {
            assert!(
                keys.is_ours(&keys.own(0, stream)) && keys.is_ours(&keys.watched(255, stream)),
                "{stream}"
            );
            assert_eq!(Keys::stream(&keys.watched(0, stream)), Some(stream as u64));
        }
        assert_eq!(Keys::stream(b"short"), None);
    }
}
