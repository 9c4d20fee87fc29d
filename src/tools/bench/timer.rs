//! A timer that is accurate to some microseconds. Tokio's timer has a resolution of a millisecond,
//! which would show as latency.

use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// A kernel timer (timerfd_create(2)), read like a pipe: tokio's safe way to wait for an arbitrary
/// descriptor.
pub struct Timer(Receiver);

impl Timer {
    /// Not armed yet. Must be called within a runtime.
    ///
    /// # Errors
    /// The kernel does not provide a timer.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        Receiver::from_owned_fd_unchecked(timer).map(Self)
    }

    /// Waits until this time; returns at once if it has passed.
    ///
    /// # Errors
    /// The timer cannot be armed.
    pub async fn until(&self, at: Instant) -> io::Result<()> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once(left))?;
            self.0.readable().await?;
            // The number of expirations does not matter: the loop checks the time.
            let _ = self.0.try_read(&mut [0_u8; 8]);
        }
    }
}

fn once(left: Duration) -> Itimerspec {
    let value = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_fires_too_early() {
        let timer = Timer::new().unwrap();
        for wait in [0, 1, 300, 2500] {
            let at = Instant::now() + Duration::from_micros(wait);
            timer.until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }
    }
}
