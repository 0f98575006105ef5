//! Whose turn it is at a disk: the I/O priority of a thread (ioprio_set(2)).
//!
//! Limits: it is a word to the disk's scheduler. BFQ heeds class and level, mq-deadline the class alone, and a disk without a
//! scheduler (most NVMe) nothing.

const WHO_PROCESS: libc::c_int = 1;
const CLASS_SHIFT: u32 = 13;
const BEST_EFFORT: libc::c_int = 2 << CLASS_SHIFT;
const IDLE: libc::c_int = 3 << CLASS_SHIFT;
/// The last of the levels of a class.
const LAST_LEVEL: libc::c_int = 7;

/// How much of a disk a thread gets that others want too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IoPriority {
    /// The smallest share, and always some: for what must come to its end on a disk that is never idle.
    Smallest,
    /// What others leave, which may be nothing.
    Idle,
}

/// This thread gets `priority` from now on. A kernel that refuses lets it run as any other.
pub(crate) fn set(priority: IoPriority) {
    let value = match priority {
        IoPriority::Smallest => BEST_EFFORT | LAST_LEVEL,
        IoPriority::Idle => IDLE,
    };
    // SAFETY: three numbers and no memory; 0 is the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_priority_that_it_took_and_no_other_thread_has() {
        // SAFETY: two numbers and no memory; 0 is the calling thread.
        let own = || unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        let before = own();
        for (priority, class, level) in [(IoPriority::Smallest, 2, Some(7)), (IoPriority::Idle, 3, None)] {
            let has = std::thread::spawn(move || {
                set(priority);
                own()
            });
            let has = has.join().unwrap();
            assert_eq!(has >> CLASS_SHIFT, class, "{priority:?}");
            assert!(level.is_none_or(|level| has & 7 == level), "{priority:?}: {has}");
        }
        assert_eq!(own(), before);
    }
}
