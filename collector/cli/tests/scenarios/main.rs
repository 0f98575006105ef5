//! The command line as people and scripts meet it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests: a failure here is a failed test")]

mod binary;
mod brake;
mod canned;
mod follow;
mod journal;
mod progress;
mod rows;
mod running;
mod terminal;
mod tls;
mod top;
mod verbs;
