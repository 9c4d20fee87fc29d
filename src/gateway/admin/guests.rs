//! Who is connected to a door, and who gives way: a caller that says nothing must never keep a
//! probe out.
//!
//! Each newcomer is let in. When too many have not said what they want, the oldest of the address
//! that has the most of them goes; so too for those who have asked and do not take their answer. A
//! probe says what it wants at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::crowd::{Crowd, Origin};

/// Callers at once whose request is not whole.
pub const MAX_ASKING: usize = 128;
/// Callers at once who are being answered.
pub const MAX_ANSWERED: usize = 64;

/// Those who are connected to one door.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<Both>>);

#[derive(Default)]
struct Both {
    asking: Crowd<Arc<Notify>>,
    answered: Crowd<Arc<Notify>>,
}

/// One of them, until it is dropped.
pub struct Guest {
    guests: Guests,
    origin: Origin,
    place: Mutex<Place>,
    give_way: Arc<Notify>,
}

#[derive(Clone, Copy)]
enum Place {
    Asking(u64),
    Answered(u64),
}

impl Guests {
    /// One more comes.
    pub fn enter(&self, origin: Origin) -> Guest {
        let give_way = Arc::<Notify>::default();
        let ticket = enter(&mut self.lock().asking, MAX_ASKING, origin, &give_way);
        Guest { guests: self.clone(), origin, place: Mutex::new(Place::Asking(ticket)), give_way }
    }

    fn lock(&self) -> MutexGuard<'_, Both> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn enter(crowd: &mut Crowd<Arc<Notify>>, most: usize, origin: Origin, one: &Arc<Notify>) -> u64 {
    if crowd.len() >= most
        && let Some(oldest) = crowd.give_way()
    {
        oldest.notify_one();
    }
    crowd.enter(origin, one.clone())
}

impl Guest {
    /// It has said what it wants, and is answered from now on.
    pub fn has_asked(&self) {
        let mut both = self.guests.lock();
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Asking(ticket) = *place {
            both.asking.leave(ticket);
            *place = Place::Answered(enter(
                &mut both.answered,
                MAX_ANSWERED,
                self.origin,
                &self.give_way,
            ));
        }
    }

    /// Waits until it has to go for others.
    pub async fn gives_way(&self) {
        self.give_way.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut both = self.guests.lock();
        match *self.place.lock().unwrap_or_else(PoisonError::into_inner) {
            Place::Asking(ticket) => drop(both.asking.leave(ticket)),
            Place::Answered(ticket) => drop(both.answered.leave(ticket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_of_the_address_with_the_most_gives_way_in_each_crowd() {
        let origin = |last| Origin::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
        let guests = Guests::default();
        let probe = guests.enter(origin(1));
        let silent: Vec<Guest> = (0..MAX_ASKING).map(|_| guests.enter(origin(2))).collect();
        assert!(silent[0].gives_way().now_or_never().is_some());
        assert!(
            silent[1].gives_way().now_or_never().is_none()
                && probe.gives_way().now_or_never().is_none()
        );
        probe.has_asked();
        let slow: Vec<Guest> = (0..MAX_ANSWERED).map(|_| guests.enter(origin(2))).collect();
        slow.iter().for_each(Guest::has_asked);
        assert!(slow[0].gives_way().now_or_never().is_some());
        assert!(
            slow[1].gives_way().now_or_never().is_none()
                && probe.gives_way().now_or_never().is_none()
        );
        drop((probe, silent, slow));
        assert!(guests.lock().asking.is_empty() && guests.lock().answered.is_empty());
    }
}
