//! Memory given back to the kernel now and then.
//!
//! What the start needs once (rules compiled, the kernel's history read) leaves holes among what stays: a third of the
//! anonymous memory. [`Trim`] gives them back, then and now and then. With another C library than glibc it does nothing.

/// From the first tick to the first time: everything has begun by then.
const FIRST_TRIM_NS: u64 = 15_000_000_000;
/// From one time to the next. It costs about a millisecond.
const TRIM_EVERY_NS: u64 = 300_000_000_000;

/// When holes in the heap were last given back.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    due_boot_ns: Option<u64>,
}

impl Trim {
    /// Gives whole pages of free memory back to the kernel if it is time, as of boot time `boot_ns`.
    pub(crate) fn on_tick(&mut self, boot_ns: u64) {
        let due = *self.due_boot_ns.get_or_insert(boot_ns.saturating_add(FIRST_TRIM_NS));
        if boot_ns >= due {
            self.due_boot_ns = Some(boot_ns.saturating_add(TRIM_EVERY_NS));
            give_back();
        }
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number of bytes and works on what is free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
