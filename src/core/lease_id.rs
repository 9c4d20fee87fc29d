//! Lease ids that carry a mark of their owner.
//!
//! etcd lets a client choose the id of a lease, a positive `int64`. The gateway chooses it in a way
//! that lets every replica with the same key recognize the owner, without state and without a
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
//! The salt is never 0. So no id is 0, and all are positive.
//!
//! # Probabilities
//!
//! * **Two identities.** With one salt, two names have the same mark with probability 2^-31. So a
//!   given identity passes for the owner of a given lease with probability 1 in 2 x 10^9. That any
//!   of 100,000 identities does has probability 1 in 21,000. Each lease gets a new random salt.
//!   (Without a salt, about two of 100,000 names would have the same mark for all their leases:
//!   there are 10^10 / 2 pairs and 2^31 marks.)
//! * **Guesses.** Without the key, an attacker can compute neither the salt for which two names
//!   collide nor the id that a name gets. The id of another identity's lease is not secret: every
//!   attached key shows it. To use the lease, the attacker's own name must have the same mark under
//!   its salt, and the attacker cannot choose the name.
//! * **Foreign ids.** An id that no gateway with this key created looks sealed with probability
//!   1/4096, and owned with 2^-43. Whether an id is foreign or sealed for another identity matters
//!   only while the lease has no keys: a sealed one is refused, a foreign one is not. With keys
//!   attached, etcd's own rule decides for both. So 1 in 4096 foreign leases cannot be used through
//!   the gateway until it has keys.
//! * **Chosen ids.** A client may choose the id of its lease. An id that looks sealed for another
//!   name is refused, even if no lease has it, because the other identity could use the lease as
//!   its own. By accident, this happens for 1 in 4096 ids whose upper bits are not 0. An id below
//!   2^43 has no salt and is never refused.
//! * **Taken ids.** One identity has 2^20 - 1 ids. With n live leases, a new salt hits a taken id
//!   with probability n / 2^20. etcd reports this, and the gateway tries another salt.

use std::fmt;

use aws_lc_rs::{hmac, rand};

/// Minimum length of a key in bytes. More entropy than this does not make HMAC-SHA256 stronger.
pub const MIN_KEY_BYTES: usize = 32;

const SALT_BITS: u32 = 20;
const MARK_BITS: u32 = 31;
const SEAL_BITS: u32 = 12;

/// The secret key that all replicas share.
#[derive(Clone)]
pub struct LeaseKey(hmac::Key);

/// Why a lease key cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseKeyError {
    /// The key has fewer than [`MIN_KEY_BYTES`] bytes.
    #[error("a lease key needs at least {MIN_KEY_BYTES} random bytes, this one has {0}")]
    TooShort(usize),
    /// The operating system provided no random bytes.
    #[error("the operating system provided no random bytes for a lease key")]
    NoRandomness,
}

/// The owner of a lease id, relative to a given name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The id was created for this name.
    Own,
    /// A gateway with this key created the id for another name.
    Sealed,
    /// No gateway with this key created the id: a client or etcd chose it, or an earlier key was in
    /// use.
    Foreign,
}

impl LeaseKey {
    /// Creates a key from the bytes of a file.
    ///
    /// # Errors
    /// If there are fewer than [`MIN_KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LeaseKeyError> {
        if bytes.len() < MIN_KEY_BYTES {
            return Err(LeaseKeyError::TooShort(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Creates a key for this process only. After a restart, leases granted before are foreign.
    ///
    /// # Errors
    /// If the operating system provides no random bytes.
    pub fn random() -> Result<Self, LeaseKeyError> {
        let mut bytes = [0; MIN_KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_| LeaseKeyError::NoRandomness)?;
        Self::from_bytes(&bytes)
    }

    /// Creates a positive id for a lease of `name`. Each value of the low 20 bits of `salt` gives
    /// another id (0 is replaced by 1).
    pub fn mint(&self, name: &str, salt: u32) -> i64 {
        let salt = (salt & low_bits(SALT_BITS)).max(1);
        let mark = self.mark(salt, name);
        (i64::from(salt) << (MARK_BITS + SEAL_BITS))
            | (i64::from(mark) << SEAL_BITS)
            | i64::from(self.seal(salt, mark))
    }

    /// The owner of `id`, relative to `name`.
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

    /// The first 32 bits of the MAC over a label, the salt and `bytes`. No label is a prefix of
    /// another and the salt has a fixed length of four bytes, so different inputs are different
    /// byte strings.
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

/// Salt, owner mark and seal; `None` for an id that this module never creates.
fn parts(id: i64) -> Option<(u32, u32, u32)> {
    let id = u64::try_from(id).ok()?;
    let salt = bits(id, MARK_BITS + SEAL_BITS, SALT_BITS)?;
    (salt != 0).then_some(())?;
    Some((salt, bits(id, SEAL_BITS, MARK_BITS)?, bits(id, 0, SEAL_BITS)?))
}

/// `count` bits (at most 31) of `id`, starting at bit `from`.
fn bits(id: u64, from: u32, count: u32) -> Option<u32> {
    u32::try_from((id >> from) & u64::from(low_bits(count))).ok()
}

const fn low_bits(count: u32) -> u32 {
    (1 << count) - 1
}

#[cfg(test)]
mod tests;
