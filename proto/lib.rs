//! The contract: what dogwatch's separate processes agree on.
//!
//! Modules stand in the order in which data passes them: what a [`record`] is, how records become a sealed [`block`],
//! how blocks form a signed [`chain`], how a [`journal`] keeps them, how [`wire`] messages become domain types
//! ([`convert`]), who may speak ([`identity`]) over which [`tls`], and what both daemons do alike: [`arenas`],
//! [`config`], [`supervise`] and [`telemetry`].
//!
//! Deliberately absent: anything that only one process does (sampling, storing, correlating, drawing).

pub mod arenas;
pub mod block;
pub mod chain;
pub mod clock;
pub mod config;
pub mod convert;
pub mod health;
pub mod identity;
pub mod journal;
pub mod record;
pub mod reload;
pub mod supervise;
pub mod telemetry;
pub mod termination;
pub mod tls;
pub mod wire;
