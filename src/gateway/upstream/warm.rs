//! Keeps one connection per class of calls open to each member that serves calls.
//!
//! Calls of different classes use different connections. If a client's first Watch had to open a
//! connection for streams, a write that the client sends after the Watch could overtake it on the
//! connection for unary calls. With warm connections, both are sent at once, as without the
//! gateway.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::Class;
use super::members::MemberIndex;
use super::pool::Pool;

/// How long a worker waits for its first connections before it accepts clients.
const START_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two rounds. It limits a member that closes connections at once to one connection
/// per class and second. An unreachable member is down, and is not tried before a health check
/// succeeds.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// Opens the first connections, for at most 1 s. [`keep`] opens those that take longer.
pub async fn start(pool: &Rc<Pool>) {
    let _ = timeout(START_TIMEOUT, open_missing(pool)).await;
}

/// Opens missing connections whenever one has ended or a member's health has changed. It runs for
/// as long as the worker.
pub async fn keep(pool: Rc<Pool>) {
    let mut changes = pool.members.health_changes();
    loop {
        open_missing(&pool).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = pool.link_closed() => {}
        }
        sleep(ROUND_PAUSE).await;
    }
}

/// One member after the other, so that a start does not cause a burst of handshakes.
async fn open_missing(pool: &Rc<Pool>) {
    let members: Vec<MemberIndex> = pool.members.in_use().collect();
    for member in members {
        join_all(Class::OF_CALLS.map(|class| pool.warm(member, class))).await;
    }
}
