//! What is asked for, and how often.

use std::fmt;
use std::str::FromStr;

use super::dice::Dice;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads one key.
    Range,
    /// Writes one key.
    Put,
    /// Updates a key of its own as libcalico-go and kube-apiserver do: compares its revision,
    /// writes it, and reads it where that fails.
    Txn,
    /// Writes a key that all watchers watch; measured until each of them has the event.
    WatchFanout,
    /// In turn: grants a lease, keeps it alive once, revokes it.
    Lease,
    /// Reads a whole snapshot.
    Snapshot,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Range, Kind::Put, Kind::Txn, Kind::WatchFanout, Kind::Lease, Kind::Snapshot];

    /// As `--mix` writes it.
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

/// Kinds with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// Whether it has any of this kind.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(of, _)| *of == kind)
    }

    /// One kind, by weight.
    pub fn pick(&self, dice: &mut Dice) -> Kind {
        let all: u64 = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut place = dice.below(all);
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

    /// `KIND=WEIGHT,..`; a kind alone has the weight 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Kind::ALL.map(Kind::name).join(", ");
        let mut parts: Vec<(Kind, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind =
                kind.ok_or_else(|| format!("there is no kind `{name}`; there are {}", names()))?;
            let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
            let weight = weight.ok_or_else(|| {
                format!("`{part}` has no weight from 1 to 1000000: write `{name}=8`")
            })?;
            if parts.iter().any(|(of, _)| *of == kind) {
                return Err(format!("`{name}` stands twice"));
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
    fn kinds_come_as_often_as_their_weights_say() {
        let mix: Mix = "range=8,put,txn=1".parse().unwrap();
        assert_eq!(mix.to_string(), "range=8,put=1,txn=1");
        let mut dice = Dice::new(1, 1);
        let picked: Vec<Kind> = (0..100_000).map(|_| mix.pick(&mut dice)).collect();
        let count = |kind| picked.iter().filter(|of| **of == kind).count();
        assert!((79_000..81_000).contains(&count(Kind::Range)));
        assert!(
            (9_500..10_500).contains(&count(Kind::Put))
                && (9_500..10_500).contains(&count(Kind::Txn))
        );
        assert!(mix.has(Kind::Txn) && !mix.has(Kind::Lease));
    }

    #[test]
    fn what_is_no_mix_is_refused_with_what_there_is() {
        for (text, says) in [
            ("", "there is no kind ``; there are range, put"),
            ("ranges=1", "there is no kind `ranges`"),
            ("range=0", "has no weight"),
            ("range=-1", "has no weight"),
            ("put=1,put=2", "stands twice"),
        ] {
            let mistake = text.parse::<Mix>().unwrap_err();
            assert!(mistake.contains(says), "{text}: {mistake}");
        }
    }
}
