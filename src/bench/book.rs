//! Where one thread notes what it measures; each second of it goes to whoever adds up.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::connection::Failure;
use super::tally::Tally;
use crate::method::Method;

/// A second of one thread.
#[derive(Debug)]
pub struct Page {
    /// Which second, counted from the start of the slice.
    pub second: u64,
    /// What was noted in it: what ended then, whenever it was due.
    pub tally: Tally,
    /// When the last of it ended, from the start of the slice.
    pub until: Duration,
}

/// The notes of one thread in one slice.
pub struct Book {
    base: Instant,
    warm_up: Duration,
    until: Duration,
    open: RefCell<Page>,
    pages: Box<dyn Fn(Page)>,
}

impl Book {
    /// A book that begins at `base`. What is due in the warm-up counts as sent, and is not measured; what is done after `until` is not in
    /// time.
    #[must_use]
    pub fn new<T: 'static>(
        base: Instant,
        warm_up: Duration,
        until: Duration,
        to: UnboundedSender<T>,
        wrap: impl Fn(Page) -> T + 'static,
    ) -> Self {
        let pages = Box::new(move |page| drop(to.send(wrap(page))));
        Self { base, warm_up, until, open: RefCell::new(blank(0)), pages }
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.base.elapsed()
    }

    /// When the slice began.
    #[must_use]
    pub const fn base(&self) -> Instant {
        self.base
    }

    /// Notes a request that was due then, and has come to this end now.
    pub fn note(&self, name: &'static str, method: Method, due: Duration, result: Result<(), Failure>) {
        let now = self.now();
        self.turn(
            now,
            |tally, measured| {
                tally.sent(method, result.as_ref().err());
                tally.series.entry(name).or_default().requests = true;
                if measured && result.is_ok() && now <= self.until {
                    tally.in_time += 1;
                }
                Self::result(tally, name, now.saturating_sub(due), &result, measured);
            },
            due,
        );
    }

    /// Notes something that is no request of its own: an event of a watch.
    pub fn observe(&self, name: &'static str, due: Duration, result: &Result<(), Failure>) {
        let now = self.now();
        self.turn(now, |tally, measured| Self::result(tally, name, now.saturating_sub(due), result, measured), due);
    }

    /// Notes a request that nobody measures.
    pub fn sent(&self, method: Method, failure: Option<&Failure>) {
        self.open.borrow_mut().tally.sent(method, failure);
    }

    /// Notes that a request that was due then leaves only now.
    pub fn leaves(&self, due: Duration) {
        let late = self.now().saturating_sub(due);
        if due >= self.warm_up {
            let mut open = self.open.borrow_mut();
            open.tally.latest = open.tally.latest.max(late);
        }
    }

    /// A request that was due then, and will not be sent.
    pub fn not_sent(&self, due: Duration) {
        self.leaves(due);
        if due >= self.warm_up {
            self.open.borrow_mut().tally.not_sent += 1;
        }
    }

    fn result(tally: &mut Tally, name: &'static str, latency: Duration, result: &Result<(), Failure>, measured: bool) {
        match result {
            Ok(()) if measured => tally.series.entry(name).or_default().success(latency),
            // Nothing has happened.
            Ok(()) | Err(Failure::Stopped) => {}
            Err(failure) => {
                if let Failure::Wrong(what) = failure {
                    tally.wrong(|| format!("{name}: {what}"));
                }
                // Also in the warm-up: what fails then says something.
                tally.series.entry(name).or_default().failure(failure);
            }
        }
    }

    fn turn(&self, now: Duration, note: impl FnOnce(&mut Tally, bool), due: Duration) {
        let mut open = self.open.borrow_mut();
        if open.second != now.as_secs() {
            (self.pages)(std::mem::replace(&mut *open, blank(now.as_secs())));
        }
        open.until = now;
        note(&mut open.tally, due >= self.warm_up);
    }

    /// Sends the last page.
    pub fn close(&self) {
        (self.pages)(std::mem::replace(&mut *self.open.borrow_mut(), blank(u64::MAX)));
    }
}

fn blank(second: u64) -> Page {
    Page { second, tally: Tally::default(), until: Duration::ZERO }
}
