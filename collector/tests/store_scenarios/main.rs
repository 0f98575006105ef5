//! The store as its callers meet it: what is acked is there once, whatever happens to the process, the disk or the
//! index.

mod audit;
mod commit;
mod crash;
mod index;
mod kit;
mod questions;
mod space;
mod streams;
