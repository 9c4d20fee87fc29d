//! Sockets whose PROXY header or first byte has not arrived. A TLS client sends its first byte at
//! once, so no handshake begins before, and such a socket costs only a file descriptor. When there
//! are too many, the address with the most sockets loses its oldest.

use std::net::SocketAddr;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;

use crate::origin_table::{Origin, OriginTable};

/// The sockets that are waited for.
pub struct PendingSockets<T> {
    by_origin: OriginTable<(AbortHandle, SocketAddr)>,
    waits: FuturesUnordered<Abortable<BoxFuture<'static, (u64, T)>>>,
    max: usize,
}

impl<T: Send + 'static> PendingSockets<T> {
    /// Allows `max` sockets.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { by_origin: OriginTable::default(), waits: FuturesUnordered::new(), max: max.max(1) }
    }

    /// Adds a socket of `peer`. `ready` is the future of its next phase. If there were too many
    /// sockets, evicts one and returns its peer.
    #[must_use]
    pub fn add(
        &mut self,
        peer: SocketAddr,
        ready: impl Future<Output = T> + Send + 'static,
    ) -> Option<SocketAddr> {
        let evicted = if self.by_origin.len() >= self.max { self.by_origin.evict() } else { None };
        let (abort, registration) = AbortHandle::new_pair();
        let ticket = self.by_origin.insert(Origin::from(peer.ip()), (abort, peer));
        self.waits
            .push(Abortable::new(ready.map(move |socket| (ticket, socket)).boxed(), registration));
        evicted.map(|(abort, peer)| {
            abort.abort();
            peer
        })
    }

    /// The next socket that is ready. Waits while there is none. Dropping the future loses no
    /// socket.
    pub async fn next(&mut self) -> T {
        loop {
            match self.waits.next().await {
                Some(Ok((ticket, socket))) => {
                    self.by_origin.remove(ticket);
                    return socket;
                }
                // It was evicted.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_silent_address_evicts_only_its_own_sockets() {
        let peer = |last: u8| SocketAddr::from(([192, 0, 2, last], 4096));
        let mut pending = PendingSockets::new(3);
        let (send, sent) = oneshot::channel();
        assert_eq!(pending.add(peer(1), async { sent.await.unwrap() }), None);
        let silent = std::iter::repeat_with(oneshot::channel::<&str>).take(10).collect::<Vec<_>>();
        let mut evicted = 0;
        let (_kept, silent): (Vec<_>, Vec<_>) = silent.into_iter().unzip();
        for one in silent {
            evicted +=
                usize::from(pending.add(peer(2), async { one.await.unwrap() }) == Some(peer(2)));
        }
        assert_eq!((evicted, pending.by_origin.len()), (8, 3));
        assert!(pending.next().now_or_never().is_none());
        send.send("hello").unwrap();
        assert_eq!(pending.next().await, "hello");
        assert_eq!((pending.by_origin.len(), pending.waits.len()), (2, 2));
    }
}
