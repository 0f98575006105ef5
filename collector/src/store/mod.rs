//! The store: journals of blocks, the collector's own journal, and an index that both rebuild.

pub mod decision;
pub mod row;
