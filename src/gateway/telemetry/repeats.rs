//! Limits the rate of similar lines: a client that causes them must not fill a disk, or displace
//! other lines.
//!
//! Lines are similar if they come from the same place in the code and have the same `failure`, if
//! any (a closed set: [`crate::tls::HandshakeFailure`]). The limit is on all lines of level INFO
//! and above, so no place needs to ask for it. DEBUG and TRACE are complete.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::limiter::token_bucket::{TokenBucket, nanoseconds};

/// Similar lines that may be written at once.
pub const BURST: u32 = 50;
/// Similar lines per second after a burst.
pub const PER_SECOND: u32 = 1;

/// From this number of kinds on, lines of one place share a kind, whatever their `failure`.
const MAX_KINDS: usize = 1024;
/// Characters of a suppressed line that a report quotes.
const MAX_EXAMPLE: usize = 120;

/// Rates of similar lines, and the number of suppressed ones.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Kinds>);

#[derive(Default)]
struct Kinds {
    by_key: Mutex<HashMap<LineKey, LineKind>>,
    suppressed: AtomicU64,
    /// The time from which token buckets count.
    begun: OnceLock<Instant>,
}

/// The key of a kind of lines.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LineKey {
    callsite: Identifier,
    failure: Option<Box<str>>,
}

struct LineKind {
    rate: TokenBucket,
    /// Lines that were suppressed since the last report.
    suppressed: u64,
    /// The first of them, for the report.
    example: String,
}

impl Repeats {
    /// The number of lines that were suppressed since the start.
    pub fn total(&self) -> u64 {
        self.0.suppressed.load(Ordering::Relaxed)
    }

    /// The lines that were suppressed since the last call: an example and the number of each kind.
    pub fn take(&self) -> Vec<(String, u64)> {
        let mut kinds = self.0.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = kinds.values_mut().filter(|kind| kind.suppressed > 0);
        suppressed
            .map(|kind| (std::mem::take(&mut kind.example), std::mem::take(&mut kind.suppressed)))
            .collect()
    }

    /// Whether another line of its kind may be written now.
    fn allows(&self, event: &Event<'_>) -> bool {
        let now = nanoseconds(self.0.begun.get_or_init(Instant::now).elapsed());
        let mut failure = Failure(None);
        event.record(&mut failure);
        let callsite = event.metadata().callsite();
        let mut kinds = self.0.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = kinds.len() >= MAX_KINDS;
        let failure = failure.0.filter(|_| !is_full);
        let kind = kinds.entry(LineKey { callsite, failure }).or_insert_with(LineKind::new);
        let allowed = kind.rate.try_take(now).is_ok();
        if !allowed {
            if kind.suppressed == 0 {
                let mut example = Example(String::new());
                event.record(&mut example);
                kind.example = example.0;
            }
            kind.suppressed = kind.suppressed.saturating_add(1);
            self.0.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }
}

impl LineKind {
    fn new() -> Self {
        Self { rate: TokenBucket::new(PER_SECOND, BURST), suppressed: 0, example: String::new() }
    }
}

/// Reads the field `failure` of a line.
struct Failure(Option<Box<str>>);

impl Visit for Failure {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "failure" {
            self.0 = Some(value.into());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Reads the message and the `failure` of a line.
struct Example(String);

impl Example {
    fn add(&mut self, text: &str) {
        let room = MAX_EXAMPLE.saturating_sub(self.0.len());
        self.0.extend(text.chars().take(room));
    }
}

impl Visit for Example {
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

/// The target of reports about suppressed lines, which are not limited.
const REPORTS: &str = super::TARGET;

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || metadata.target() == REPORTS || self.allows(event)
    }
}
