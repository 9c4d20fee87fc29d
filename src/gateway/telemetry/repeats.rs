//! Of each kind of line only some are written: a peer that causes lines must not fill a disk, or
//! push out what others have to say.
//!
//! A kind is one place in the code, and the `failure` that it names, if it names one (a closed set:
//! [`crate::tls::HandshakeFailure`]). This holds for all lines from INFO on: so no place can be
//! forgotten. DEBUG is for who has asked for everything.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one kind at once.
pub const AT_ONCE: u32 = 50;
/// Lines of one kind per second, after that.
pub const PER_SECOND: u32 = 1;

/// Kinds beyond so many share the place of their line in the code.
const MAX_KINDS: usize = 1024;
/// Characters of a line that say in a report which kind is meant.
const MAX_LIKE: usize = 120;

/// How many lines of each kind were written lately, and how many were not.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Counts>);

#[derive(Default)]
struct Counts {
    kinds: Mutex<HashMap<Kind, Bucket>>,
    total: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    failure: Option<Box<str>>,
}

struct Bucket {
    left: f64,
    filled: Instant,
    /// Lines that were left out since the last report.
    left_out: u64,
    like: String,
}

impl Repeats {
    /// Lines that were left out so far.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// What was left out since this was last asked: what such a line says, and how many.
    pub fn take(&self) -> Vec<(String, u64)> {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = kinds.iter_mut().filter(|(_, bucket)| bucket.left_out > 0);
        left_out
            .map(|(_, bucket)| {
                (std::mem::take(&mut bucket.like), std::mem::take(&mut bucket.left_out))
            })
            .collect()
    }

    /// Whether one more of its kind may be written at `now`.
    fn may_pass(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut failure = Failure(None);
        event.record(&mut failure);
        let place = event.metadata().callsite();
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let is_one_too_many = kinds.len() >= MAX_KINDS;
        let failure = failure.0.filter(|_| !is_one_too_many);
        let bucket = kinds.entry(Kind { place, failure }).or_insert_with(|| Bucket::full(now));
        let passes = bucket.take(now);
        if !passes {
            if bucket.left_out == 0 {
                let mut like = Like(String::new());
                event.record(&mut like);
                bucket.like = like.0;
            }
            bucket.left_out = bucket.left_out.saturating_add(1);
            self.0.total.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { left: f64::from(AT_ONCE), filled: now, left_out: 0, like: String::new() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let come =
            now.saturating_duration_since(std::mem::replace(&mut self.filled, now)).as_secs_f64()
                * f64::from(PER_SECOND);
        let left = (self.left + come).min(f64::from(AT_ONCE));
        let passes = left >= 1.0;
        self.left = if passes { left - 1.0 } else { left };
        passes
    }
}

/// The `failure` that a line names.
struct Failure(Option<Box<str>>);

impl Visit for Failure {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "failure" {
            self.0 = Some(value.into());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// What a line says: its message, and the failure.
struct Like(String);

impl Like {
    fn add(&mut self, text: &str) {
        let room = MAX_LIKE.saturating_sub(self.0.len());
        self.0.extend(text.chars().take(room));
    }
}

impl Visit for Like {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "failure" {
            self.add(&format!(" ({value})"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.add(&format!("{value:?}"));
        }
    }
}

/// Its reports are not held to it.
const OWN: &str = super::TARGET;

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let about = event.metadata();
        *about.level() > Level::INFO
            || about.target() == OWN
            || self.may_pass(event, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_kind_is_written_again_as_time_goes_by() {
        let begun = Instant::now();
        let mut bucket = Bucket::full(begun);
        assert_eq!((0..200).filter(|_| bucket.take(begun)).count(), 50);
        assert!(bucket.take(begun + Duration::from_secs(1)));
        assert!(!bucket.take(begun + Duration::from_secs(1)));
        assert_eq!((0..200).filter(|_| bucket.take(begun + Duration::from_secs(3600))).count(), 50);
    }
}
