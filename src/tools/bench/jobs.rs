//! The requests that one thread must send in one slice, handed to its streams when they are due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::arrivals::Arrivals;
use super::recorder::Recorder;
use super::stop::Stop;
use super::timer::Timer;
use super::worker::{End, Pace, SliceSpec};

/// The requests of one slice.
pub struct Jobs {
    spec: SliceSpec,
    left: Cell<u64>,
    stop: Arc<Stop>,
    /// How long after the end of the slice a due request may still be sent.
    request_timeout: Duration,
    recorder: Rc<Recorder>,
    /// Open loop: due requests that no stream has taken yet.
    due: RefCell<VecDeque<Duration>>,
    bell: Notify,
    /// Open loop: when the last request became due.
    over: Cell<Option<Duration>>,
}

impl Jobs {
    /// The requests of this slice.
    #[must_use]
    pub fn new(
        spec: SliceSpec,
        stop: Arc<Stop>,
        request_timeout: Duration,
        recorder: Rc<Recorder>,
    ) -> Self {
        let left = match spec.end {
            End::Count(count) => count,
            End::After(_) => u64::MAX,
        };
        let (due, bell, over) = (RefCell::default(), Notify::new(), Cell::new(None));
        Self { spec, left: Cell::new(left), stop, request_timeout, recorder, due, bell, over }
    }

    /// The due time of the next request for a stream; `None` at the end, or when it is too late.
    pub async fn next(&self) -> Option<Duration> {
        if self.spec.pace == Pace::Closed {
            self.stop.or(tokio::time::sleep_until(self.spec.base.into())).await?;
            let now = self.recorder.now();
            return self.admits(now).then_some(now);
        }
        loop {
            let over = self.over.get();
            if self.stop.is_requested()
                || over.is_some_and(|over| self.recorder.now() > over + self.request_timeout)
            {
                return None;
            }
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            if over.is_some() {
                return None;
            }
            self.bell.notified().await;
        }
    }

    /// Makes requests available when they are due.
    pub async fn dispatch(&self, arrivals: Arrivals) {
        // Without a timer nothing becomes due: the report shows a slice without requests.
        if let Ok(timer) = Timer::new() {
            self.stop.or(self.hand_out(arrivals, &timer)).await;
        }
        self.over.set(Some(self.recorder.now()));
        self.bell.notify_waiters();
    }

    async fn hand_out(&self, arrivals: Arrivals, timer: &Timer) {
        for (number, due) in arrivals.enumerate() {
            if !self.admits(due) || timer.until(self.spec.base + due).await.is_err() {
                break;
            }
            self.due.borrow_mut().push_back(due);
            self.bell.notify_one();
            if number % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Call when all streams have ended: records the requests that were due but not sent.
    pub fn close(&self) {
        self.due.borrow_mut().drain(..).for_each(|due| self.recorder.record_not_sent(due));
    }

    /// True if a request that is due at this time belongs to the slice. Counts it.
    fn admits(&self, due: Duration) -> bool {
        let measured = due >= self.spec.warm_up;
        let in_time = match self.spec.end {
            End::After(time) => due < self.spec.warm_up + time,
            End::Count(_) => !measured || self.left.get() > 0,
        };
        if in_time && measured {
            self.left.set(self.left.get().saturating_sub(1));
        }
        in_time && !self.stop.is_requested()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::bench::arrivals::Gaps;
    use crate::bench::recorder::Second;
    use crate::bench::rng::Rng;

    const RATE: f64 = 1000.0;

    /// 100 requests that are due within 100 ms.
    #[expect(clippy::disallowed_methods, reason = "a test reads all messages")]
    fn jobs(request_timeout: Duration) -> (Rc<Jobs>, Arc<Stop>, UnboundedReceiver<Second>) {
        let (sender, seconds) = unbounded_channel();
        let (base, stop) = (Instant::now(), Arc::new(Stop::default()));
        let end = Duration::from_millis(100);
        let recorder = Rc::new(Recorder::new(base, Duration::ZERO, end, sender, |second| second));
        let spec = SliceSpec {
            base,
            warm_up: Duration::ZERO,
            pace: Pace::Open(RATE),
            end: End::After(end),
            number: 0,
        };
        (Rc::new(Jobs::new(spec, stop.clone(), request_timeout, recorder)), stop, seconds)
    }

    fn arrivals() -> Arrivals {
        Arrivals::new(Gaps::Uniform, RATE, 0, 1, Rng::new(1, 1))
    }

    fn not_sent(jobs: &Jobs, seconds: &mut UnboundedReceiver<Second>) -> u64 {
        jobs.close();
        jobs.recorder.close();
        std::iter::from_fn(|| seconds.try_recv().ok()).map(|second| second.tally.not_sent).sum()
    }

    #[tokio::test]
    async fn due_requests_are_sent_within_the_timeout_only() {
        let (patient, _, mut seconds) = jobs(Duration::from_secs(3600));
        patient.dispatch(arrivals()).await;
        for _ in 0..100 {
            assert!(patient.next().await.is_some());
        }
        assert_eq!((patient.next().await, not_sent(&patient, &mut seconds)), (None, 0));

        let (hasty, _, mut seconds) = jobs(Duration::ZERO);
        hasty.dispatch(arrivals()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((hasty.next().await, not_sent(&hasty, &mut seconds)), (None, 100));
    }

    #[tokio::test]
    async fn due_requests_are_not_sent_after_a_stop() {
        let (all, stop, mut seconds) = jobs(Duration::from_secs(3600));
        all.dispatch(arrivals()).await;
        assert!(all.next().await.is_some());
        stop.request();
        assert_eq!((all.next().await, not_sent(&all, &mut seconds)), (None, 99));
    }

    #[tokio::test]
    async fn a_stop_interrupts_a_long_gap() {
        let (all, stop, _pages) = jobs(Duration::ZERO);
        let far = Arrivals::new(Gaps::Uniform, 0.001, 0, 1, Rng::new(1, 1));
        let long = Jobs::new(
            SliceSpec { end: End::Count(2), ..all.spec },
            stop.clone(),
            Duration::ZERO,
            all.recorder.clone(),
        );
        tokio::join!(long.dispatch(far), async {
            assert!(long.next().await.is_some());
            stop.request();
        });
        assert_eq!(long.next().await, None);
    }
}
