//! Where one thread notes what it measures; each second of it goes to whoever adds up.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::connection::Failure;
use super::tally::Tally;

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
    /// `None` after the last.
    open: RefCell<Option<Page>>,
    pages: Box<dyn Fn(Page)>,
}

impl Book {
    /// A book that begins at `base`. What is due in the warm-up counts as sent, and is not
    /// measured; what is done after `until` is not in time.
    #[must_use]
    pub fn new<T: 'static>(
        base: Instant,
        warm_up: Duration,
        until: Duration,
        to: UnboundedSender<T>,
        wrap: impl Fn(Page) -> T + 'static,
    ) -> Self {
        let pages = Box::new(move |page| drop(to.send(wrap(page))));
        Self { base, warm_up, until, open: RefCell::new(Some(blank(0))), pages }
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
    pub fn note(
        &self,
        name: &'static str,
        method: Method,
        due: Duration,
        result: Result<(), Failure>,
    ) {
        self.turn(|page, now| {
            let (tally, measured) = (&mut page.tally, due >= self.warm_up);
            page.until = now;
            tally.sent(method, result.as_ref().err());
            tally.series.entry(name).or_default().requests = true;
            if measured && result.is_ok() && now <= self.until {
                tally.in_time += 1;
            }
            Self::result(tally, name, now.saturating_sub(due), &result, measured);
        });
    }

    /// Notes something that is no request of its own: an event of a watch.
    pub fn observe(&self, name: &'static str, due: Duration, result: &Result<(), Failure>) {
        self.turn(|page, now| {
            page.until = now;
            Self::result(
                &mut page.tally,
                name,
                now.saturating_sub(due),
                result,
                due >= self.warm_up,
            );
        });
    }

    /// Notes a request that nobody measures.
    pub fn sent(&self, method: Method, failure: Option<&Failure>) {
        self.turn(|page, _| page.tally.sent(method, failure));
    }

    /// Notes that a request that was due then leaves only now.
    pub fn leaves(&self, due: Duration) {
        self.turn(|page, now| {
            if due >= self.warm_up {
                page.tally.max_late = page.tally.max_late.max(now.saturating_sub(due));
            }
        });
    }

    /// A request that was due then, and will not be sent.
    pub fn not_sent(&self, due: Duration) {
        self.leaves(due);
        self.turn(|page, _| page.tally.not_sent += u64::from(due >= self.warm_up));
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

    /// Writes onto the page of this second; the one before, if it is over, goes out. After the last
    /// page nothing is written.
    fn turn(&self, write: impl FnOnce(&mut Page, Duration)) {
        let (now, mut open) = (self.now(), self.open.borrow_mut());
        let Some(page) = open.as_mut() else { return };
        if page.second != now.as_secs() {
            (self.pages)(std::mem::replace(page, blank(now.as_secs())));
        }
        write(page, now);
    }

    /// Sends the last page.
    pub fn close(&self) {
        if let Some(last) = self.open.borrow_mut().take() {
            (self.pages)(last);
        }
    }
}

fn blank(second: u64) -> Page {
    Page { second, tally: Tally::default(), until: Duration::ZERO }
}

/// Turns the pages of a book for as long as this is here: a thread to which nothing happens tells
/// of a second when it is over, too.
pub struct Clock(AbortHandle);

impl Clock {
    /// Of this book. On a `LocalSet`.
    #[must_use]
    pub fn of(book: &Rc<Book>) -> Self {
        let book = book.clone();
        let turning = async move {
            loop {
                let next = Duration::from_secs(book.now().as_secs() + 1);
                tokio::time::sleep_until((book.base() + next).into()).await;
                book.turn(|_, _| {});
            }
        };
        Self(tokio::task::spawn_local(turning).abort_handle())
    }
}

impl Drop for Clock {
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
    #[expect(clippy::disallowed_methods, reason = "a test reads all of them")]
    async fn a_second_in_which_nothing_comes_after_it_is_told_too_and_after_the_last_page_nothing_is()
     {
        let (tell, mut pages) = unbounded_channel();
        // The first second ends in a tenth of one.
        let base = Instant::now().checked_sub(Duration::from_millis(900)).unwrap();
        let book = Rc::new(Book::new(base, Duration::ZERO, Duration::MAX, tell, |page| page));
        let alone = LocalSet::new();
        alone
            .run_until(async {
                let clock = Clock::of(&book);
                book.note("range", Method::Range, Duration::ZERO, Ok(()));
                let page: Page = pages.recv().await.unwrap();
                assert_eq!((page.second, page.tally.succeeded()), (0, 1));
                drop(clock);
                book.close();
                assert_eq!(pages.recv().await.unwrap().second, 1);
                book.note("range", Method::Range, Duration::ZERO, Ok(()));
                book.close();
                assert!(pages.try_recv().is_err());
            })
            .await;
    }
}
