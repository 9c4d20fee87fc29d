//! Records the measurements of one thread, and sends them off second by second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::connection::Failure;
use super::tally::Tally;

/// One second of one thread.
#[derive(Debug)]
pub struct Second {
    /// Number of the second, from the start of the slice.
    pub number: u64,
    /// Requests that ended in it, whenever they were due.
    pub tally: Tally,
    /// When the last of them ended, from the start of the slice.
    pub until: Duration,
}

/// The recorder of one thread in one slice.
pub struct Recorder {
    base: Instant,
    warm_up: Duration,
    until: Duration,
    /// The current second; `None` after the end.
    open: RefCell<Option<Second>>,
    send: Box<dyn Fn(Second)>,
}

impl Recorder {
    /// A recorder that starts at `base`. Requests that are due in the warm-up are counted as sent,
    /// but not measured. Requests that end after `until` are not in time.
    #[must_use]
    pub fn new<T: 'static>(
        base: Instant,
        warm_up: Duration,
        until: Duration,
        to: UnboundedSender<T>,
        wrap: impl Fn(Second) -> T + 'static,
    ) -> Self {
        let send = Box::new(move |second| drop(to.send(wrap(second))));
        Self { base, warm_up, until, open: RefCell::new(Some(empty(0))), send }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.base.elapsed()
    }

    /// Start of the slice.
    #[must_use]
    pub const fn base(&self) -> Instant {
        self.base
    }

    /// Records a request that was due at this time, and has ended now.
    pub fn record_request(
        &self,
        name: &'static str,
        method: Method,
        due: Duration,
        result: Result<(), Failure>,
    ) {
        self.update(|second, now| {
            let (tally, measured) = (&mut second.tally, due >= self.warm_up);
            second.until = now;
            tally.sent(method, result.as_ref().err());
            tally.series.entry(name).or_default().requests = true;
            if measured && result.is_ok() && now <= self.until {
                tally.in_time += 1;
            }
            Self::result(tally, name, now.saturating_sub(due), &result, measured);
        });
    }

    /// Records an event of a watch, or another result that is not a request of its own.
    pub fn record_event(&self, name: &'static str, due: Duration, result: &Result<(), Failure>) {
        self.update(|second, now| {
            second.until = now;
            Self::result(
                &mut second.tally,
                name,
                now.saturating_sub(due),
                result,
                due >= self.warm_up,
            );
        });
    }

    /// Counts a request that is not measured.
    pub fn count_sent(&self, method: Method, failure: Option<&Failure>) {
        self.update(|second, _| second.tally.sent(method, failure));
    }

    /// Records that a request that was due at this time is sent now.
    pub fn record_sent(&self, due: Duration) {
        self.update(|second, now| {
            if due >= self.warm_up {
                second.tally.max_late = second.tally.max_late.max(now.saturating_sub(due));
            }
        });
    }

    /// Records a request that was due at this time and will not be sent.
    pub fn record_not_sent(&self, due: Duration) {
        self.record_sent(due);
        self.update(|second, _| second.tally.not_sent += u64::from(due >= self.warm_up));
    }

    fn result(
        tally: &mut Tally,
        name: &'static str,
        latency: Duration,
        result: &Result<(), Failure>,
        measured: bool,
    ) {
        match result {
            Ok(()) if measured => tally.series.entry(name).or_default().success(latency),
            // Nothing to record.
            Ok(()) | Err(Failure::Stopped) => {}
            Err(failure) => {
                if let Failure::Wrong(what) = failure {
                    tally.wrong(|| format!("{name}: {what}"));
                }
                // Failures during the warm-up are recorded, too.
                tally.series.entry(name).or_default().failure(failure);
            }
        }
    }

    /// Updates the current second; sends off the one before if it has ended. Does nothing after the
    /// last second.
    fn update(&self, write: impl FnOnce(&mut Second, Duration)) {
        let (now, mut open) = (self.now(), self.open.borrow_mut());
        let Some(second) = open.as_mut() else { return };
        if second.number != now.as_secs() {
            (self.send)(std::mem::replace(second, empty(now.as_secs())));
        }
        write(second, now);
    }

    /// Sends off the last second.
    pub fn close(&self) {
        if let Some(last) = self.open.borrow_mut().take() {
            (self.send)(last);
        }
    }
}

fn empty(number: u64) -> Second {
    Second { number, tally: Tally::default(), until: Duration::ZERO }
}

/// Sends off each second when it has ended, even if nothing else happens on the thread. Stops when
/// dropped.
pub struct Ticker(AbortHandle);

impl Ticker {
    /// The ticker of this recorder. Must be called on a `LocalSet`.
    #[must_use]
    pub fn of(recorder: &Rc<Recorder>) -> Self {
        let recorder = recorder.clone();
        let turning = async move {
            loop {
                let next = Duration::from_secs(recorder.now().as_secs() + 1);
                tokio::time::sleep_until((recorder.base() + next).into()).await;
                recorder.update(|_, _| {});
            }
        };
        Self(tokio::task::spawn_local(turning).abort_handle())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test reads all messages")]
    async fn each_second_is_sent_once_and_nothing_after_the_last() {
        let (sender, mut seconds) = unbounded_channel();
        // The first second ends in a tenth of one.
        let base = Instant::now().checked_sub(Duration::from_millis(900)).unwrap();
        let recorder =
            Rc::new(Recorder::new(base, Duration::ZERO, Duration::MAX, sender, |second| second));
        let alone = LocalSet::new();
        alone
            .run_until(async {
                let ticker = Ticker::of(&recorder);
                recorder.record_request("range", Method::Range, Duration::ZERO, Ok(()));
                let second: Second = seconds.recv().await.unwrap();
                assert_eq!((second.number, second.tally.succeeded()), (0, 1));
                drop(ticker);
                recorder.close();
                assert_eq!(seconds.recv().await.unwrap().number, 1);
                recorder.record_request("range", Method::Range, Duration::ZERO, Ok(()));
                recorder.close();
                assert!(seconds.try_recv().is_err());
            })
            .await;
    }
}
