//! The store as its callers meet it: what is acked is there once, whatever happens to the process, the disk or the
//! index.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

mod audit;
mod commit;
mod crash;
mod index;
mod kit;
mod questions;
mod space;
mod streams;
