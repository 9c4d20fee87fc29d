//! All threads of the load, and what they measure, added up.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel, unbounded_channel};

use super::tally::Tally;
use super::timeline::Timeline;
use super::worker::{self, Assignment, Go, News, Order};

/// Threads that begin a slice do so together, a little later.
const LEAD: Duration = Duration::from_millis(20);

/// The threads.
pub struct Crew {
    orders: Vec<Sender<Order>>,
    news: UnboundedReceiver<News>,
    threads: Vec<JoinHandle<()>>,
}

/// What one slice gave.
#[derive(Debug, Default)]
pub struct Slice {
    /// By second, from its start.
    pub timeline: Timeline,
    /// All of it.
    pub total: Tally,
    /// From its start until the last answer.
    pub until: Duration,
}

impl Slice {
    /// Takes in a second of one thread.
    pub fn add(&mut self, second: u64, tally: &Tally, until: Duration) {
        self.timeline.add(second, tally);
        self.total.add(tally);
        self.until = self.until.max(until);
    }
}

impl Crew {
    /// Starts the threads, and waits until all connections are open.
    ///
    /// # Errors
    /// One of them cannot be opened.
    #[expect(
        clippy::disallowed_methods,
        reason = "a second of measurements from each thread: none may be lost, and no thread may wait"
    )]
    pub async fn assemble(assignments: Vec<Assignment>) -> Result<Self, String> {
        let (tell, news) = unbounded_channel();
        let mut crew = Self { orders: Vec::new(), news, threads: Vec::new() };
        for assignment in assignments {
            // One order is given when the one before is done.
            let (order, orders) = channel(4);
            let tell = tell.clone();
            let name = format!("load-{}", assignment.thread);
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || worker::run(assignment, orders, tell));
            crew.threads.push(thread.map_err(|error| format!("no thread: {error}"))?);
            crew.orders.push(order);
        }
        crew.ready().await?;
        Ok(crew)
    }

    async fn ready(&mut self) -> Result<(), String> {
        for _ in 0..self.orders.len() {
            match self.news.recv().await {
                Some(News::Ready) => {}
                Some(News::Failed(why)) => return Err(why),
                _ => return Err("a thread of the load ended".to_owned()),
            }
        }
        Ok(())
    }

    fn order(&self, order: impl Fn() -> Order) {
        for one in &self.orders {
            // A thread that ended is missed when its news do not come.
            let _ = one.try_send(order());
        }
    }

    /// Runs one slice. `tick` is called each second with what is there so far, and how long it has
    /// run.
    ///
    /// # Errors
    /// A watch cannot be opened.
    pub async fn slice(
        &mut self,
        target: usize,
        go: Go,
        mut tick: impl FnMut(&Slice, Duration),
    ) -> Result<Slice, String> {
        self.order(|| Order::Prepare(target));
        self.ready().await?;
        let base = Instant::now() + LEAD;
        self.order(|| Order::Go(Go { base, ..go }));
        let mut slice = Slice::default();
        let (mut told, mut done, mut settled) = (0, 0, 0);
        let mut clock = tokio::time::interval_at(
            (base + Duration::from_secs(1)).into(),
            Duration::from_secs(1),
        );
        while settled < self.orders.len() {
            tokio::select! {
                news = self.news.recv() => match news {
                    Some(News::Page(page)) => slice.add(page.second, &page.tally, page.until),
                    Some(News::Done(revision)) => {
                        told = told.max(revision);
                        done += 1;
                        if done == self.orders.len() {
                            self.order(|| Order::Settle(told));
                        }
                    }
                    Some(News::Settled) => settled += 1,
                    Some(News::Ready) => {}
                    Some(News::Failed(why)) => return Err(why),
                    None => return Err("a thread of the load ended".to_owned()),
                },
                _ = clock.tick() => tick(&slice, base.elapsed()),
            }
        }
        Ok(slice)
    }

    /// Ends the threads and their connections.
    pub async fn dismiss(mut self) {
        drop(self.orders);
        // Each thread has its end of the channel until it ends: to join it would keep signals
        // waiting.
        while self.news.recv().await.is_some() {}
        for thread in self.threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}
