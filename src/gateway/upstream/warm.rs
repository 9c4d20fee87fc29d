//! Keeps one connection of each class of calls open to each member that calls may go to.
//!
//! Calls of different classes go over different connections. If the one for streams were opened by
//! the first Watch, the writes that its client sends right behind it would overtake it: they have a
//! connection already. With warm connections both are sent at once, as they are to etcd itself.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::Class;
use super::members::MemberIndex;
use super::pool::Pool;

/// How long a worker that starts waits for its first connections before it takes clients.
const AT_START: Duration = Duration::from_secs(1);

/// Between two rounds. A member that ends each connection at once costs no more than one per class
/// in this time; one that cannot be reached counts as down, and is not tried before a health check
/// has reached it.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);

/// Opens the first connections. It gives up on slow ones: [`keep`] goes on with them.
pub async fn up(pool: &Rc<Pool>) {
    let _ = timeout(AT_START, round(pool)).await;
}

/// Opens what is missing, whenever a connection has ended or a member's health has changed. It
/// never returns while the members exist.
pub async fn keep(pool: Rc<Pool>) {
    let mut changes = pool.members.health_changes();
    loop {
        round(&pool).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = pool.link_closed() => {}
        }
        sleep(BETWEEN_ROUNDS).await;
    }
}

/// One member after the other, so that a start is no storm of handshakes.
async fn round(pool: &Rc<Pool>) {
    let members: Vec<MemberIndex> = pool.members.in_use().collect();
    for member in members {
        join_all(Class::OF_CALLS.map(|class| pool.warm(member, class))).await;
    }
}
