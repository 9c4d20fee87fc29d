//! Connections of which something is awaited before anything is done for them: the header of their
//! balancer, or their first byte. They cost a socket and nothing else: no handshake begins before,
//! and a client that means it sends its first byte with the connection. Of too many, the address
//! with the most gives up its oldest.

use std::net::SocketAddr;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;

use crate::crowd::{Crowd, Origin};

/// Those who are awaited.
pub struct Arrivals<T> {
    crowd: Crowd<(AbortHandle, SocketAddr)>,
    awaited: FuturesUnordered<Abortable<BoxFuture<'static, (u64, T)>>>,
    most: usize,
}

impl<T: Send + 'static> Arrivals<T> {
    /// None yet, and never more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { crowd: Crowd::default(), awaited: FuturesUnordered::new(), most: most.max(1) }
    }

    /// One more has come. Returns the peer that has to go for it, if there are too many.
    #[must_use]
    pub fn enter(
        &mut self,
        peer: SocketAddr,
        awaited: impl Future<Output = T> + Send + 'static,
    ) -> Option<SocketAddr> {
        let lost = if self.crowd.len() >= self.most { self.crowd.give_way() } else { None };
        let (abort, registration) = AbortHandle::new_pair();
        let ticket = self.crowd.enter(Origin::from(peer.ip()), (abort, peer));
        self.awaited
            .push(Abortable::new(awaited.map(move |what| (ticket, what)).boxed(), registration));
        lost.map(|(abort, peer)| {
            abort.abort();
            peer
        })
    }

    /// The next of which it is there. Waits while there is none; nothing is lost when this is
    /// dropped before.
    pub async fn next(&mut self) -> T {
        loop {
            match self.awaited.next().await {
                Some(Ok((ticket, what))) => {
                    self.crowd.leave(ticket);
                    return what;
                }
                // It had to go.
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
    async fn who_speaks_goes_on_whatever_one_silent_address_does() {
        let peer = |last: u8| SocketAddr::from(([192, 0, 2, last], 4096));
        let mut arrivals = Arrivals::new(3);
        let (speak, spoken) = oneshot::channel();
        assert_eq!(arrivals.enter(peer(1), async { spoken.await.unwrap() }), None);
        let silent = std::iter::repeat_with(oneshot::channel::<&str>).take(10).collect::<Vec<_>>();
        let mut lost = 0;
        let (_kept, silent): (Vec<_>, Vec<_>) = silent.into_iter().unzip();
        for one in silent {
            lost +=
                usize::from(arrivals.enter(peer(2), async { one.await.unwrap() }) == Some(peer(2)));
        }
        assert_eq!((lost, arrivals.crowd.len()), (8, 3));
        assert!(arrivals.next().now_or_never().is_none());
        speak.send("hello").unwrap();
        assert_eq!(arrivals.next().await, "hello");
        assert_eq!((arrivals.crowd.len(), arrivals.awaited.len()), (2, 2));
    }
}
