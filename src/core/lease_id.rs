//! Lease ids that say whose they are.
//!
//! etcd lets a client choose the id of a lease, a positive `int64`. The proxy chooses it so that
//! any replica that has the same key can tell the owner from the id, without state and without a
//! lookup:
//!
//! ```text
//!  63  62             43 42                               12 11          0
//!   0 |   salt, 20 bits |      owner mark, 31 bits          | seal, 12 bits
//!
//!  owner mark = HMAC-SHA256(key, "owner" salt name), first 31 bits
//!  seal       = HMAC-SHA256(key, "seal" salt owner mark), first 12 bits
//! ```
//!
//! The salt is never 0, so no id is, and all are positive.
//!
//! # How sure that is
//!
//! * **Two identities.** Under one salt two names have the same mark with probability 2^-31. For a
//!   given lease and 100,000 identities, the chance that any other one counts as its owner is 1 in
//!   21,000; that a given one does, 1 in 2 x 10^9. Each lease draws anew. (Without a salt, two of
//!   100,000 names would share their mark for all their leases: 10^10 / 2 pairs on 2^31 marks.)
//! * **Guesses.** Without the key nobody can say which salt makes two names collide, nor what id a
//!   name gets. The id of another's lease is no secret (it stands in every key that is attached);
//!   what helps an attacker is only an id whose mark is both its owner's and his own, and he cannot
//!   choose his name to get one.
//! * **Foreign ids.** An id that no proxy with this key made looks sealed with probability 1/4096,
//!   and owned with 2^-43. A sealed id of somebody else matters only while the lease has no keys:
//!   then it is refused, and a foreign one is not. With keys attached etcd's own rule decides for
//!   both. So one foreign lease in 4096 cannot be used through the proxy until it has keys.
//! * **Chosen ids.** A client may name the id of its lease. One that looks sealed for another name
//!   is refused, also when no lease has it (any more): its owner would renew it for its own. By
//!   accident that is one id in 4096 of those whose upper bits are not 0; an id below 2^43 has no
//!   salt, and is never refused.
//! * **Taken ids.** One identity has 2^20 - 1 ids. With n leases alive a new salt hits a taken one
//!   with probability n / 2^20: etcd says so, and another salt is tried.

use std::fmt;

use aws_lc_rs::{hmac, rand};

/// The fewest bytes that a key may have: what HMAC-SHA256 can make use of.
pub const MIN_KEY_BYTES: usize = 32;

const SALT_BITS: u32 = 20;
const MARK_BITS: u32 = 31;
const SEAL_BITS: u32 = 12;

/// The secret that all replicas share.
#[derive(Clone)]
pub struct LeaseKey(hmac::Key);

/// Why some bytes are no lease key, or none could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseKeyError {
    /// Too few bytes.
    #[error("a lease key has at least {MIN_KEY_BYTES} random bytes, this one has {0}")]
    TooShort(usize),
    /// The operating system gave no random bytes.
    #[error("no random bytes for a lease key")]
    NoRandomness,
}

/// Whose an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It was made for this name.
    Own,
    /// A proxy with this key made it for someone else.
    Sealed,
    /// No proxy with this key made it: the client or etcd chose it, or it is from before the key.
    Foreign,
}

impl LeaseKey {
    /// A key from a file's bytes.
    ///
    /// # Errors
    /// If there are fewer than [`MIN_KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LeaseKeyError> {
        if bytes.len() < MIN_KEY_BYTES {
            return Err(LeaseKeyError::TooShort(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// A key of this process alone: leases that were granted before a restart are then foreign.
    ///
    /// # Errors
    /// If the operating system gives no random bytes.
    pub fn random() -> Result<Self, LeaseKeyError> {
        let mut bytes = [0; MIN_KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_| LeaseKeyError::NoRandomness)?;
        Self::from_bytes(&bytes)
    }

    /// An id for a lease of `name`: positive, and another one for each of the low 20 bits of `salt`
    /// (0 counts as 1).
    #[must_use]
    pub fn mint(&self, name: &str, salt: u32) -> i64 {
        let salt = (salt & low_bits(SALT_BITS)).max(1);
        let mark = self.mark(salt, name);
        (i64::from(salt) << (MARK_BITS + SEAL_BITS))
            | (i64::from(mark) << SEAL_BITS)
            | i64::from(self.seal(salt, mark))
    }

    /// Whose `id` is, as far as `name` is concerned.
    #[must_use]
    pub fn ownership(&self, id: i64, name: &str) -> Ownership {
        let Some((salt, mark, seal)) = parts(id) else { return Ownership::Foreign };
        if seal != self.seal(salt, mark) {
            Ownership::Foreign
        } else if mark == self.mark(salt, name) {
            Ownership::Own
        } else {
            Ownership::Sealed
        }
    }

    fn mark(&self, salt: u32, name: &str) -> u32 {
        self.code(b"owner", salt, name.as_bytes()) >> (u32::BITS - MARK_BITS)
    }

    fn seal(&self, salt: u32, mark: u32) -> u32 {
        self.code(b"seal", salt, &mark.to_be_bytes()) >> (u32::BITS - SEAL_BITS)
    }

    /// The first 32 bits of the MAC over a label, the salt and `bytes`. No label begins another,
    /// and the salt has four bytes, so no two questions are the same bytes.
    fn code(&self, label: &[u8], salt: u32, bytes: &[u8]) -> u32 {
        let mut mac = hmac::Context::with_key(&self.0);
        mac.update(label);
        mac.update(&salt.to_be_bytes());
        mac.update(bytes);
        mac.sign().as_ref().first_chunk().map_or(0, |first| u32::from_be_bytes(*first))
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseKey(..)")
    }
}

/// Salt, owner mark and seal; `None` for an id that this module never makes.
fn parts(id: i64) -> Option<(u32, u32, u32)> {
    let id = u64::try_from(id).ok()?;
    let salt = bits(id, MARK_BITS + SEAL_BITS, SALT_BITS)?;
    (salt != 0).then_some(())?;
    Some((salt, bits(id, SEAL_BITS, MARK_BITS)?, bits(id, 0, SEAL_BITS)?))
}

/// `count` bits (at most 31) of `id` from bit `from` on.
fn bits(id: u64, from: u32, count: u32) -> Option<u32> {
    u32::try_from((id >> from) & u64::from(low_bits(count))).ok()
}

const fn low_bits(count: u32) -> u32 {
    (1 << count) - 1
}

#[cfg(test)]
mod tests;
