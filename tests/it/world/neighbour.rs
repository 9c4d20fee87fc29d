//! A well-behaved client beside misbehaving ones. It must not be affected.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::task::JoinHandle;

use super::{World, soon};

/// The common name that it needs a binding for.
pub const NEIGHBOUR: &str = "neighbour";

/// Writes and reads in a loop, one call at a time, until it is dropped.
pub struct Neighbour {
    seen: Arc<Seen>,
    task: JoinHandle<etcd_client::Error>,
}

#[derive(Default)]
struct Seen {
    rounds: AtomicU64,
    /// The duration of each round: a put and a get.
    took: Mutex<Vec<Duration>>,
}

impl World {
    /// Starts a neighbour with its own connection, on keys that begin with `neighbour`.
    pub async fn neighbour(&self) -> Neighbour {
        Neighbour::works(self.as_(NEIGHBOUR).await, self.key(NEIGHBOUR)).await
    }
}

impl Neighbour {
    /// Starts a neighbour with this client, on this key.
    pub async fn works(client: Client, key: String) -> Self {
        let seen = Arc::<Seen>::default();
        let neighbour = Self { task: tokio::spawn(work(client, key, seen.clone())), seen };
        neighbour.is_unharmed().await;
        neighbour
    }

    /// Asserts that none of its calls has failed so far and that calls still complete.
    pub async fn is_unharmed(&self) {
        let before = self.seen.rounds.load(Ordering::SeqCst);
        soon("the neighbour's calls", || async {
            let rounds = self.seen.rounds.load(Ordering::SeqCst);
            assert!(
                !self.task.is_finished(),
                "a call of the neighbour failed after {rounds} rounds"
            );
            (rounds > before + 1).then_some(())
        })
        .await;
    }

    /// Like [`Neighbour::is_unharmed`]. Also prints the latencies since the last call; on a busy
    /// machine they cannot be asserted.
    pub async fn was_served(&self, meanwhile: &str) {
        self.is_unharmed().await;
        let mut took = std::mem::take(&mut *self.seen.took.lock().unwrap());
        took.sort_unstable();
        let at = |part: usize| took[(took.len() - 1) * part / 100];
        eprintln!(
            "{meanwhile}: the neighbour's {} rounds without an error, p50 {:?}, p99 {:?}",
            took.len(),
            at(50),
            at(99)
        );
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(mut client: Client, key: String, seen: Arc<Seen>) -> etcd_client::Error {
    loop {
        let round = seen.rounds.load(Ordering::SeqCst).to_string();
        let begun = Instant::now();
        if let Err(error) = client.put(key.clone(), round, None).await {
            eprintln!("the neighbour's put: {error}");
            return error;
        }
        if let Err(error) = client.get(key.clone(), None).await {
            eprintln!("the neighbour's get: {error}");
            return error;
        }
        seen.took.lock().unwrap().push(begun.elapsed());
        seen.rounds.fetch_add(1, Ordering::SeqCst);
        // A neighbour, not a load generator.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
