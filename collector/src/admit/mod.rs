//! Who may speak to the collector: it lets nodes in, names them, and says whom it turned away.
//!
//! [`ca`] issues certificates, [`tokens`] and (in a cluster) [`accounts`] are what a new node is let in by, [`enrol`] is the
//! service that does it,
//! [`gate`] asks every call who it is from, and [`refusals`] folds what was refused into findings.
//!
//! Invariants: a name comes from a verified certificate or a valid token, never from what a caller says of itself; a
//! token's use is durable before a certificate is issued for it; no refusal goes unreported, and none can flood.
//!
//! Deliberately absent: sockets and handshakes (`dogwatch::tls`), where decisions are kept (the store, behind
//! [`enrol::Ledger`]), and what happens inside an admitted stream.

pub mod accounts;
pub mod ca;
pub mod enrol;
pub mod gate;
pub mod refusals;
#[cfg(test)]
mod scenarios;
pub mod tokens;

/// Now, by the collector's wall clock, ns.
pub(crate) fn wall_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A wall time for people: RFC 3339, UTC, whole seconds.
pub(crate) fn shown_time(wall_ns: i64) -> String {
    jiff::Timestamp::from_second(wall_ns.div_euclid(1_000_000_000))
        .map_or_else(|_| format!("{wall_ns} ns"), |t| t.to_string())
}
