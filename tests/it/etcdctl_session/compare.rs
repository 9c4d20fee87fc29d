//! Whether two outputs say the same. What may differ, and nothing else:
//!
//! 1. the endpoint that was called;
//! 2. ids of leases that etcd or the proxy chose, one for one throughout a session;
//! 3. where a step says so, durations (`12.3ms`), or numbers that depend on the database file and
//!    on the raft log.

use std::collections::HashMap;

/// Permitted differences of a step, in addition to the endpoint and lease ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayDiffer {
    Nothing,
    /// Durations, and remaining seconds of a lease.
    Durations,
    /// Numbers and versions of the status table.
    Numbers,
}

/// Both sides of a session.
pub struct Pairing {
    endpoints: (String, String),
    leases: HashMap<String, String>,
    /// The lease that was granted last: `LEASE` in later arguments.
    last_lease: Option<(String, String)>,
}

impl Pairing {
    pub fn of(direct: &str, through: &str) -> Self {
        Self {
            endpoints: (direct.to_owned(), through.to_owned()),
            leases: HashMap::new(),
            last_lease: None,
        }
    }

    /// The words of a command line, with each side's own id for `LEASE`.
    pub fn translated(&self, arguments: &str, through: bool) -> Vec<String> {
        let (direct_lease, through_lease) = self.last_lease.clone().unwrap_or_default();
        let lease = if through { through_lease } else { direct_lease };
        arguments.split(' ').map(|word| word.replace("LEASE", &lease)).collect()
    }

    /// Compares two outputs word by word.
    pub fn same(
        &mut self,
        direct: &str,
        through: &str,
        may_differ: MayDiffer,
    ) -> Result<(), String> {
        // Where both sides use one etcd, the list of its members may contain its own URL.
        let neutral = |text: &str| {
            text.replace(&self.endpoints.0, "ENDPOINT").replace(&self.endpoints.1, "ENDPOINT")
        };
        let (direct, through) = (neutral(direct), neutral(through));
        let (words, others) = (words(&direct), words(&through));
        if words.len() != others.len() {
            return Err(format!("{} words are not {}", words.len(), others.len()));
        }
        for (word, other) in words.iter().zip(&others) {
            let allowed = match may_differ {
                _ if word == other => true,
                _ if is_lease(word) && is_lease(other) => {
                    self.leases.entry((*word).to_owned()).or_insert_with(|| (*other).to_owned())
                        == other
                }
                MayDiffer::Nothing => false,
                MayDiffer::Durations => is_duration(word) && is_duration(other),
                MayDiffer::Numbers => starts_with_digit(word) && starts_with_digit(other),
            };
            if !allowed {
                return Err(format!("`{word}` is not `{other}`"));
            }
        }
        if direct.contains(" granted with TTL") {
            self.last_lease = Some((words[1].to_owned(), others[1].to_owned()));
        }
        Ok(())
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_'))
        .filter(|word| !word.is_empty())
        .collect()
}

/// Up to 16 hexadecimal digits as printed by etcdctl, or the same in decimal as in JSON.
fn is_lease(word: &str) -> bool {
    let hexadecimal =
        (12..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal
        || ((17..=19).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_duration(word: &str) -> bool {
    starts_with_digit(word) && ["s", "ms", "µs", "ns"].iter().any(|unit| word.ends_with(unit))
        || word.bytes().all(|byte| byte.is_ascii_digit())
}

fn starts_with_digit(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}
