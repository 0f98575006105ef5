//! How the C library's allocator keeps memory: settings for a program of many threads that do little.
//!
//! By default each thread has an arena of its own, which holds on to the largest that the thread ever needed: of the agent's
//! anonymous memory that was two fifths, for eleven threads of which hardly two ever work at once. Fewer arenas are also
//! warmer in the CPU's caches.
//!
//! What the start needs once (rules compiled, the kernel's history read) leaves holes among what stays: a third of the
//! anonymous memory. [`Trim`] gives them back, then and now and then.
//!
//! Deliberately absent: an allocator of our own. Other C libraries than glibc have no such settings and no such arenas.

/// One for whoever is busy, and one for the others.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// What is free at the top of the heap beyond this goes back to the kernel, and what is larger is mapped by itself and goes
/// back when it is freed. These are glibc's own figures; setting them keeps it from raising them to the largest block that
/// was ever freed.
#[cfg(target_env = "gnu")]
const GIVE_BACK_BYTES: libc::c_int = 128 << 10;

/// Makes these settings. Call it before threads are started: an arena that exists stays.
pub(crate) fn settle() {
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_TRIM_THRESHOLD, GIVE_BACK_BYTES),
        (libc::M_MMAP_THRESHOLD, GIVE_BACK_BYTES),
    ] {
        // SAFETY: mallopt(3) takes two numbers and changes settings of the allocator under its own lock. It fails only for
        // values out of range, and then everything stays as it was.
        unsafe { libc::mallopt(what, value) };
    }
}

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
