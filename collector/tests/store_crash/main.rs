//! The store of a process that is killed. A test binary of its own: a process that is started holds, for a moment, what
//! every thread of its parent has open, locks of stores as well, and no other test may close one and open it again then.

#![expect(clippy::unwrap_used, reason = "tests end at once, and are one crate that nobody uses")]

mod crash;
#[path = "../store_scenarios/kit.rs"]
#[expect(dead_code, reason = "other scenarios need the rest")]
mod kit;
