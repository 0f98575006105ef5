//! The store as its callers meet it: what is acked is there once, whatever happens to the process, the disk or the
//! index.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end at once, and are one crate that nobody uses"
)]

mod audit;
mod brake;
mod brake_doubt;
mod brake_missed;
mod chosen;
mod commit;
mod flood;
mod index;
mod kit;
mod questions;
mod space;
mod streams;
