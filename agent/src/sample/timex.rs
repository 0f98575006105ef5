//! The kernel's clock: adjtimex(2), asked for everything and told nothing.
//!
//! Deliberately absent: time servers and how far they are away, which only the time daemon knows; setting anything.

use std::io;
use std::mem::MaybeUninit;

use dogwatch::record::ClockState;
use rustix::io::Errno;

use super::Failures;

/// The state of the node's clock; `None` where the kernel was built without it. Another error, such as that of a
/// seccomp filter, goes to `failed`.
pub(super) fn read(failed: &mut Failures) -> Option<ClockState> {
    match ask() {
        Ok(t) => Some(state(t.status, t.offset, t.esterror, t.maxerror)),
        Err(e) if e.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => None,
        Err(e) => {
            failed.push("clock", &format!("adjtimex: {e}"));
            None
        }
    }
}

fn ask() -> io::Result<libc::timex> {
    // SAFETY: a `timex` is integers and padding, for all of which zeros are valid.
    let mut timex: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    timex.modes = 0;
    // SAFETY: the pointer is to a `timex` of this stack frame; with no modes set the call only writes to it.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 { Err(io::Error::last_os_error()) } else { Ok(timex) }
}

fn state(status: i32, offset: i64, estimated: i64, maximal: i64) -> ClockState {
    let nanoseconds = status & libc::STA_NANO != 0;
    ClockState {
        synchronised: status & libc::STA_UNSYNC == 0,
        offset_us: if nanoseconds { offset / 1_000 } else { offset },
        estimated_error_us: u64::try_from(estimated).unwrap_or(0),
        max_error_us: u64::try_from(maximal).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_the_offset_is_minded() {
        let fine = state(libc::STA_NANO, -1_234_567, 16, 500);
        let expected =
            ClockState { synchronised: true, offset_us: -1_234, estimated_error_us: 16, max_error_us: 500 };
        assert_eq!(fine, expected);
        let coarse = state(libc::STA_UNSYNC, -1_234, -1, 16_000_000);
        assert_eq!((coarse.synchronised, coarse.offset_us, coarse.estimated_error_us), (false, -1_234, 0));
    }

    #[test]
    fn this_machine_is_read() {
        let mut failed = Failures::default();
        assert!(read(&mut failed).is_some_and(|c| c.max_error_us <= 16_000_000));
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }
}
