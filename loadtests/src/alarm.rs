//! Waking at a moment, not at the millisecond after it, as tokio's own timer does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The system's timer of high resolution, as a descriptor.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        Ok(Self(watched(timer)?))
    }

    /// Waits for a moment; one that has passed already is not waited for at all.
    ///
    /// # Errors
    /// When the system refuses the timer.
    pub(crate) async fn until(&mut self, moment: Instant) -> io::Result<()> {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        self.set(left)?;
        self.0
            .async_io(Interest::READABLE, |timer| {
                rustix::io::read(timer, &mut [0; 8])?;
                Ok(())
            })
            .await
    }

    fn set(&self, left: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(left).map_err(io::Error::other)?,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "tokio has no timer of its own that is so fine")]
fn watched(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is moved in, is always the same, and is closed by being dropped, which
    // the `AsyncFd` does last.
    let watched = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_wakes_no_earlier_than_asked_and_again() {
        let mut alarm = Alarm::new().unwrap();
        for micros in [300, 0, 300] {
            let moment = Instant::now() + Duration::from_micros(micros);
            alarm.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
    }
}
