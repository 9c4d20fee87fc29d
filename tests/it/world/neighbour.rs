//! A well-behaved client beside those that are not: it must not notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::Client;
use tokio::task::JoinHandle;

use super::{World, soon};

/// The common name that it needs a binding for.
pub const NEIGHBOUR: &str = "neighbour";

/// Reads and writes, one call after the other, for as long as this lives.
pub struct Neighbour {
    rounds: Arc<AtomicU64>,
    task: JoinHandle<etcd_client::Error>,
}

impl World {
    /// Lets a neighbour work, on one connection of its own, on keys that begin with `neighbour`.
    pub async fn neighbour(&self) -> Neighbour {
        let (client, key) = (self.as_(NEIGHBOUR).await, self.key(NEIGHBOUR));
        let rounds = Arc::new(AtomicU64::new(0));
        let neighbour = Neighbour { task: tokio::spawn(work(client, key, rounds.clone())), rounds };
        neighbour.is_unharmed().await;
        neighbour
    }
}

impl Neighbour {
    /// No call of its has failed so far, and calls still come to their end.
    pub async fn is_unharmed(&self) {
        let before = self.rounds.load(Ordering::SeqCst);
        soon("the neighbour's calls", || async {
            assert!(!self.task.is_finished(), "a call of the neighbour failed after {} rounds", self.rounds.load(Ordering::SeqCst));
            (self.rounds.load(Ordering::SeqCst) > before + 1).then_some(())
        })
        .await;
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(mut client: Client, key: String, rounds: Arc<AtomicU64>) -> etcd_client::Error {
    loop {
        let round = rounds.load(Ordering::SeqCst).to_string();
        if let Err(error) = client.put(key.clone(), round, None).await {
            eprintln!("the neighbour's put: {error}");
            return error;
        }
        if let Err(error) = client.get(key.clone(), None).await {
            eprintln!("the neighbour's get: {error}");
            return error;
        }
        rounds.fetch_add(1, Ordering::SeqCst);
        // A neighbour, not a load generator.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
