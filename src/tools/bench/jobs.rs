//! What one thread is to send in one slice: handed to its streams when it is due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::arrivals::Arrivals;
use super::book::Book;
use super::stop::Stop;
use super::timer::Timer;
use super::worker::{End, Go, Pace};

/// The jobs of one slice.
pub struct Jobs {
    go: Go,
    left: Cell<u64>,
    stop: Arc<Stop>,
    /// How long after the end something that is due may still be sent.
    patience: Duration,
    book: Rc<Book>,
    /// Of an open loop: what is due and not yet taken.
    due: RefCell<VecDeque<Duration>>,
    bell: Notify,
    /// Of an open loop: when nothing more was due.
    over: Cell<Option<Duration>>,
}

impl Jobs {
    /// Of this slice.
    #[must_use]
    pub fn new(go: Go, stop: Arc<Stop>, patience: Duration, book: Rc<Book>) -> Self {
        let left = match go.end {
            End::Count(count) => count,
            End::After(_) => u64::MAX,
        };
        let (due, bell, over) = (RefCell::default(), Notify::new(), Cell::new(None));
        Self { go, left: Cell::new(left), stop, patience, book, due, bell, over }
    }

    /// The next job of one stream; `None` at the end, or when it is too late for what is left.
    pub async fn next(&self) -> Option<Duration> {
        if self.go.pace == Pace::Closed {
            self.stop.or(tokio::time::sleep_until(self.go.base.into())).await?;
            let now = self.book.now();
            return self.admits(now).then_some(now);
        }
        loop {
            let over = self.over.get();
            if self.stop.is_wanted()
                || over.is_some_and(|over| self.book.now() > over + self.patience)
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

    /// Hands out what is due when it is due.
    pub async fn dispatch(&self, arrivals: Arrivals) {
        // Without a timer nothing can be due: it would show as a slice without a request.
        if let Ok(timer) = Timer::new() {
            self.stop.or(self.hand_out(arrivals, &timer)).await;
        }
        self.over.set(Some(self.book.now()));
        self.bell.notify_waiters();
    }

    async fn hand_out(&self, arrivals: Arrivals, timer: &Timer) {
        for (number, due) in arrivals.enumerate() {
            if !self.admits(due) || timer.until(self.go.base + due).await.is_err() {
                break;
            }
            self.due.borrow_mut().push_back(due);
            self.bell.notify_one();
            if number % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// When all streams have ended: what is still there was due, and is not sent any more.
    pub fn close(&self) {
        self.due.borrow_mut().drain(..).for_each(|due| self.book.not_sent(due));
    }

    /// Whether what is due then still belongs to the slice; counts it.
    fn admits(&self, due: Duration) -> bool {
        let measured = due >= self.go.warm_up;
        let in_time = match self.go.end {
            End::After(time) => due < self.go.warm_up + time,
            End::Count(_) => !measured || self.left.get() > 0,
        };
        if in_time && measured {
            self.left.set(self.left.get().saturating_sub(1));
        }
        in_time && !self.stop.is_wanted()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::bench::arrivals::Gaps;
    use crate::bench::book::Page;
    use crate::bench::dice::Dice;

    const RATE: f64 = 1000.0;

    /// 100 that are due within a tenth of a second.
    #[expect(clippy::disallowed_methods, reason = "a test reads all of them")]
    fn jobs(patience: Duration) -> (Rc<Jobs>, Arc<Stop>, UnboundedReceiver<Page>) {
        let (tell, pages) = unbounded_channel();
        let (base, stop) = (Instant::now(), Arc::new(Stop::default()));
        let end = Duration::from_millis(100);
        let book = Rc::new(Book::new(base, Duration::ZERO, end, tell, |page| page));
        let go = Go {
            base,
            warm_up: Duration::ZERO,
            pace: Pace::Open(RATE),
            end: End::After(end),
            number: 0,
        };
        (Rc::new(Jobs::new(go, stop.clone(), patience, book)), stop, pages)
    }

    fn arrivals() -> Arrivals {
        Arrivals::new(Gaps::Uniform, RATE, 0, 1, Dice::new(1, 1))
    }

    fn not_sent(jobs: &Jobs, pages: &mut UnboundedReceiver<Page>) -> u64 {
        jobs.close();
        jobs.book.close();
        std::iter::from_fn(|| pages.try_recv().ok()).map(|page| page.tally.not_sent).sum()
    }

    #[tokio::test]
    async fn what_is_due_while_nobody_can_send_is_sent_within_the_patience_and_not_for_ever() {
        let (patient, _, mut pages) = jobs(Duration::from_secs(3600));
        patient.dispatch(arrivals()).await;
        for _ in 0..100 {
            assert!(patient.next().await.is_some());
        }
        assert_eq!((patient.next().await, not_sent(&patient, &mut pages)), (None, 0));

        let (hasty, _, mut pages) = jobs(Duration::ZERO);
        hasty.dispatch(arrivals()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((hasty.next().await, not_sent(&hasty, &mut pages)), (None, 100));
    }

    #[tokio::test]
    async fn nothing_that_is_due_is_sent_any_more_when_everybody_is_to_stop() {
        let (all, stop, mut pages) = jobs(Duration::from_secs(3600));
        all.dispatch(arrivals()).await;
        assert!(all.next().await.is_some());
        stop.want();
        assert_eq!((all.next().await, not_sent(&all, &mut pages)), (None, 99));
    }

    #[tokio::test]
    async fn a_gap_of_an_hour_is_not_waited_for_when_everybody_is_to_stop() {
        let (all, stop, _pages) = jobs(Duration::ZERO);
        let far = Arrivals::new(Gaps::Uniform, 0.001, 0, 1, Dice::new(1, 1));
        let long = Jobs::new(
            Go { end: End::Count(2), ..all.go },
            stop.clone(),
            Duration::ZERO,
            all.book.clone(),
        );
        tokio::join!(long.dispatch(far), async {
            assert!(long.next().await.is_some());
            stop.want();
        });
        assert_eq!(long.next().await, None);
    }
}
