//! The beat: absolute times on CLOCK_BOOTTIME, which neither `date -s` nor a suspended machine bends.
//!
//! A tick that begins late does not shift the ones that follow; ticks that did not happen at all are counted.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::Moment;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Now, by both clocks of the node.
pub fn now() -> Moment {
    dogwatch::clock::now()
}

/// Nanoseconds since boot, suspend included.
pub(super) fn boot_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}

/// Beats at a fixed interval until stopped.
#[derive(Debug)]
pub struct Ticker {
    timer: OwnedFd,
    stop: Arc<OwnedFd>,
    interval_ns: u64,
    /// When the next tick is due.
    due_ns: u64,
    late_ticks: u64,
}

/// Stops a [`Ticker`] from any thread, also one that waits.
#[derive(Debug, Clone)]
pub struct TickerStop(Arc<OwnedFd>);

impl Ticker {
    /// A ticker whose first tick is due at once and the others each `interval` (at least 1 ms) after it.
    pub fn new(interval: Duration) -> io::Result<(Self, TickerStop)> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let interval_ns = nanoseconds(interval);
        let due_ns = boot_ns();
        arm(&timer, due_ns, interval_ns)?;
        Ok((Self { timer, stop: Arc::clone(&stop), interval_ns, due_ns, late_ticks: 0 }, TickerStop(stop)))
    }

    /// Waits for the next tick and tells when it began; `None` once stopped.
    ///
    /// Errors: those of poll(2) and read(2) on a timer, which mean that the process is out of kernel memory.
    pub fn wait(&mut self) -> io::Result<Option<Moment>> {
        loop {
            let mut fds = [PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(&self.timer, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(None);
            }
            let mut expired = [0u8; 8];
            match rustix::io::read(&self.timer, &mut expired) {
                Ok(_) => {
                    let at = now();
                    self.account(u64::from_ne_bytes(expired), at.boot_ns);
                    return Ok(Some(at));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Makes the ticks that follow come each `interval` (at least 1 ms), the next one that long after the last one was due,
    /// or now if that is over.
    ///
    /// Errors: those of timerfd_settime(2); the interval is then as it was.
    pub fn set_interval(&mut self, interval: Duration) -> io::Result<()> {
        let interval_ns = nanoseconds(interval);
        let last_due_ns = self.due_ns.saturating_sub(self.interval_ns);
        let due_ns = last_due_ns.saturating_add(interval_ns).max(boot_ns());
        arm(&self.timer, due_ns, interval_ns)?;
        (self.interval_ns, self.due_ns) = (interval_ns, due_ns);
        Ok(())
    }

    /// The interval now.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval_ns)
    }

    /// Ticks that began more than a quarter of the interval late, or not at all.
    pub fn late_ticks(&self) -> u64 {
        self.late_ticks
    }

    /// Counts `expired` ticks, of which the last is the one that begins at `began_ns`.
    fn account(&mut self, expired: u64, began_ns: u64) {
        let missed = expired.saturating_sub(1);
        let this_due_ns = self.due_ns.saturating_add(missed.saturating_mul(self.interval_ns));
        let late = began_ns.saturating_sub(this_due_ns) > self.interval_ns / 4;
        self.late_ticks += missed + u64::from(late);
        self.due_ns = this_due_ns.saturating_add(self.interval_ns);
    }
}

impl TickerStop {
    /// Makes the ticker's present or next wait return `None`, and every one after it.
    pub fn stop(&self) {
        // An eventfd's write fails only when its counter is full, and then the ticker has been stopped already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

fn nanoseconds(interval: Duration) -> u64 {
    interval.clamp(Duration::from_millis(1), Duration::from_secs(86_400)).as_nanos() as u64
}

fn arm(timer: &OwnedFd, due_ns: u64, interval_ns: u64) -> io::Result<()> {
    let spec = Itimerspec { it_interval: timespec(interval_ns), it_value: timespec(due_ns) };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec)?;
    Ok(())
}

fn timespec(ns: u64) -> Timespec {
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_the_clock_without_drift() {
        let begun_ns = boot_ns();
        let (mut ticker, _stop) = Ticker::new(Duration::from_millis(20)).unwrap();
        let mut last = ticker.wait().unwrap().unwrap();
        for _ in 0..10 {
            last = ticker.wait().unwrap().unwrap();
        }
        // A busy machine makes ticks late, the first of them, too, and those are counted; none may come early.
        assert!(last.boot_ns - begun_ns >= 10 * 20_000_000, "{begun_ns} {last:?}");
    }

    #[test]
    fn a_changed_interval_counts_from_the_last_tick() {
        let (mut ticker, _stop) = Ticker::new(Duration::from_secs(3600)).unwrap();
        let first = ticker.wait().unwrap().unwrap();
        ticker.set_interval(Duration::from_millis(50)).unwrap();
        let second = ticker.wait().unwrap().unwrap();
        let third = ticker.wait().unwrap().unwrap();
        // The first tick may have begun late, which the second does not wait for.
        assert!(second.boot_ns - first.boot_ns < 3_600_000_000_000, "{first:?} {second:?}");
        assert!(third.boot_ns - first.boot_ns >= 50_000_000, "{first:?} {third:?}");
        ticker.set_interval(Duration::from_secs(3600)).unwrap();
        assert_eq!(ticker.interval(), Duration::from_secs(3600));
        assert!(ticker.due_ns > third.boot_ns + 3_500_000_000_000);
    }

    #[test]
    fn stopping_wakes_the_one_who_waits() {
        let (mut ticker, stop) = Ticker::new(Duration::from_secs(3600)).unwrap();
        assert!(ticker.wait().unwrap().is_some(), "the first tick is due at once");
        let waiter = std::thread::spawn(move || ticker.wait().unwrap());
        stop.stop();
        assert_eq!(waiter.join().unwrap(), None);
    }

    #[test]
    fn late_and_missed_ticks_are_counted() {
        let (mut ticker, _stop) = Ticker::new(Duration::from_secs(1)).unwrap();
        const S: u64 = 1_000_000_000;
        ticker.due_ns = 100 * S;
        ticker.account(1, 100 * S + S / 10);
        assert_eq!(ticker.late_ticks(), 0);
        ticker.account(1, 101 * S + S / 2);
        assert_eq!(ticker.late_ticks(), 1, "half a second is late");
        ticker.account(4, 105 * S);
        assert_eq!(ticker.late_ticks(), 4, "three never were, the fourth is in time");
        assert_eq!(ticker.due_ns, 106 * S);
    }
}
