//! The command line as people and scripts meet it.

mod binary;
mod canned;
mod journal;
mod verbs;
