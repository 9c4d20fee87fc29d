//! The operations of the load and their weights.

use std::fmt;
use std::str::FromStr;

use super::rng::Rng;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Read one key.
    Range,
    /// Write one key.
    Put,
    /// Update a key of its own as libcalico-go and kube-apiserver do: compare the revision, write,
    /// or else read.
    Txn,
    /// Write a key that all watchers watch; measured until each of them has the event.
    WatchFanout,
    /// In turn: grant a lease, keep it alive once, revoke it.
    Lease,
    /// Read a complete snapshot.
    Snapshot,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] =
        [Kind::Range, Kind::Put, Kind::Txn, Kind::WatchFanout, Kind::Lease, Kind::Snapshot];

    /// Its name for `--mix`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Range => "range",
            Kind::Put => "put",
            Kind::Txn => "txn",
            Kind::WatchFanout => "watch-fanout",
            Kind::Lease => "lease",
            Kind::Snapshot => "snapshot",
        }
    }
}

/// Kinds of operations with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// True if it contains this kind.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(of, _)| *of == kind)
    }

    /// Picks a kind by weight.
    pub fn pick(&self, rng: &mut Rng) -> Kind {
        let all: u64 = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut place = rng.below(all);
        for (kind, weight) in &self.0 {
            match place.checked_sub(u64::from(*weight)) {
                Some(rest) => place = rest,
                None => return *kind,
            }
        }
        Kind::Range
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `KIND=WEIGHT,...`; the weight defaults to 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Kind::ALL.map(Kind::name).join(", ");
        let mut parts: Vec<(Kind, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind
                .ok_or_else(|| format!("there is no operation `{name}`; there are {}", names()))?;
            let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
            let weight = weight.ok_or_else(|| {
                format!("`{part}` needs a weight from 1 to 1000000, such as `{name}=8`")
            })?;
            if parts.iter().any(|(of, _)| *of == kind) {
                return Err(format!("`{name}` is listed twice"));
            }
            parts.push((kind, weight));
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(kind, weight)| format!("{}={weight}", kind.name())).collect();
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_picked_by_weight() {
        let mix: Mix = "range=8,put,txn=1".parse().unwrap();
        assert_eq!(mix.to_string(), "range=8,put=1,txn=1");
        let mut rng = Rng::new(1, 1);
        let picked: Vec<Kind> = (0..100_000).map(|_| mix.pick(&mut rng)).collect();
        let count = |kind| picked.iter().filter(|of| **of == kind).count();
        assert!((79_000..81_000).contains(&count(Kind::Range)));
        assert!(
            (9_500..10_500).contains(&count(Kind::Put))
                && (9_500..10_500).contains(&count(Kind::Txn))
        );
        assert!(mix.has(Kind::Txn) && !mix.has(Kind::Lease));
    }

    #[test]
    fn an_invalid_mix_is_refused() {
        for (text, says) in [
            ("", "there is no operation ``; there are range, put"),
            ("ranges=1", "there is no operation `ranges`"),
            ("range=0", "needs a weight"),
            ("range=-1", "needs a weight"),
            ("put=1,put=2", "listed twice"),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
