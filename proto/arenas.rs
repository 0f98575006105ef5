//! How the C library's allocator keeps memory: settings for programs of many threads that do little.
//!
//! By default each thread has an arena of its own, which holds on to the largest that the thread ever needed: of the agent's
//! anonymous memory that was two fifths, for eleven threads of which hardly two ever work at once, and of the collector's
//! more than half. Fewer arenas are also warmer in the CPU's caches.
//!
//! Deliberately absent: an allocator of our own. Other C libraries than glibc have no such settings and no such arenas.

/// What is free at the top of the heap beyond this goes back to the kernel, and what is larger is mapped by itself and goes
/// back when it is freed. These are glibc's own figures; setting them keeps it from raising them to the largest block that
/// was ever freed.
#[cfg(target_env = "gnu")]
const GIVE_BACK_BYTES: libc::c_int = 128 << 10;

/// Makes these settings, with so many arenas at most. Call it before threads are started: an arena that exists stays.
pub fn settle(arenas: u8) {
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
    #[cfg(target_env = "gnu")]
    for (what, value) in [
        (libc::M_ARENA_MAX, libc::c_int::from(arenas)),
        (libc::M_TRIM_THRESHOLD, GIVE_BACK_BYTES),
        (libc::M_MMAP_THRESHOLD, GIVE_BACK_BYTES),
    ] {
        // SAFETY: mallopt(3) takes two numbers and changes settings of the allocator under its own lock. It fails only for
        // values out of range, and then everything stays as it was.
        unsafe { libc::mallopt(what, value) };
    }
}
