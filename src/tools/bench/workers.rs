//! All threads of the load, and the sum of their measurements.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel, unbounded_channel};

use super::tally::Tally;
use super::timeline::Timeline;
use super::worker::{self, Assignment, Command, SliceSpec, Update};

/// Delay of a slice, so that all threads begin it together.
const LEAD: Duration = Duration::from_millis(20);

/// The threads.
pub struct Workers {
    commands: Vec<Sender<Command>>,
    updates: UnboundedReceiver<Update>,
    threads: Vec<JoinHandle<()>>,
}

/// The measurements of one slice.
#[derive(Debug, Default)]
pub struct Slice {
    /// By second, from its start.
    pub timeline: Timeline,
    /// Sum of all seconds.
    pub total: Tally,
    /// From its start until the last response.
    pub until: Duration,
}

impl Slice {
    /// Adds one second of one thread.
    pub fn add(&mut self, second: u64, tally: &Tally, until: Duration) {
        self.timeline.add(second, tally);
        self.total.add(tally);
        self.until = self.until.max(until);
    }
}

impl Workers {
    /// Starts the threads, and waits until all connections are open.
    ///
    /// # Errors
    /// A connection cannot be opened.
    #[expect(
        clippy::disallowed_methods,
        reason = "one message per second and thread: none may be lost, and no thread may wait"
    )]
    pub async fn start(assignments: Vec<Assignment>) -> Result<Self, String> {
        let (sender, updates) = unbounded_channel();
        let mut workers = Self { commands: Vec::new(), updates, threads: Vec::new() };
        for assignment in assignments {
            // Each command is sent after the one before is done, so this never fills up.
            let (command, commands) = channel(4);
            let sender = sender.clone();
            let name = format!("load-{}", assignment.thread);
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || worker::run(assignment, commands, sender));
            workers
                .threads
                .push(thread.map_err(|error| format!("cannot start a thread: {error}"))?);
            workers.commands.push(command);
        }
        workers.ready().await?;
        Ok(workers)
    }

    async fn ready(&mut self) -> Result<(), String> {
        for _ in 0..self.commands.len() {
            match self.updates.recv().await {
                Some(Update::Ready) => {}
                Some(Update::Failed(why)) => return Err(why),
                _ => return Err("a thread of the load has ended".to_owned()),
            }
        }
        Ok(())
    }

    fn command(&self, command: impl Fn() -> Command) {
        for one in &self.commands {
            // If a thread has ended, its messages are missed below.
            let _ = one.try_send(command());
        }
    }

    /// Runs one slice. `tick` is called once per second with the measurements so far and the
    /// elapsed time.
    ///
    /// # Errors
    /// A watch cannot be opened.
    pub async fn slice(
        &mut self,
        target: usize,
        spec: SliceSpec,
        mut tick: impl FnMut(&Slice, Duration),
    ) -> Result<Slice, String> {
        self.command(|| Command::Prepare(target));
        self.ready().await?;
        let base = Instant::now() + LEAD;
        self.command(|| Command::Send(SliceSpec { base, ..spec }));
        let mut slice = Slice::default();
        let (mut last_watched, mut done, mut settled) = (0, 0, 0);
        let mut ticker = tokio::time::interval_at(
            (base + Duration::from_secs(1)).into(),
            Duration::from_secs(1),
        );
        while settled < self.commands.len() {
            tokio::select! {
                updates = self.updates.recv() => match updates {
                    Some(Update::Second(second)) => slice.add(second.number, &second.tally, second.until),
                    Some(Update::Done(revision)) => {
                        last_watched = last_watched.max(revision);
                        done += 1;
                        if done == self.commands.len() {
                            self.command(|| Command::Settle(last_watched));
                        }
                    }
                    Some(Update::Settled) => settled += 1,
                    Some(Update::Ready) => {}
                    Some(Update::Failed(why)) => return Err(why),
                    None => return Err("a thread of the load has ended".to_owned()),
                },
                _ = ticker.tick() => tick(&slice, base.elapsed()),
            }
        }
        Ok(slice)
    }

    /// Ends the threads and their connections.
    pub async fn shut_down(mut self) {
        drop(self.commands);
        // A thread closes its end of the channel when it ends. Waiting for that, unlike a join,
        // lets signals be handled.
        while self.updates.recv().await.is_some() {}
        for thread in self.threads {
            // A panic has been reported by the thread.
            let _ = thread.join();
        }
    }
}
