//! What the desk was asked: calls by verb and outcome, for metrics. Both sets are fixed, so that the counts are bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Code, Status};

/// Calls by verb and outcome since start; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>);

impl Counts {
    /// Counts one call of `verb`. A stream counts by how it began.
    pub(super) fn note<T>(&self, verb: &'static str, result: Result<T, Status>) -> Result<T, Status> {
        let outcome = result.as_ref().err().map_or("ok", |status| word(status.code()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((verb, outcome)).or_default() += 1;
        result
    }

    /// Verb, outcome, calls.
    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((verb, outcome), n)| (*verb, *outcome, *n)).collect()
    }
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::InvalidArgument | Code::OutOfRange => "invalid",
        Code::NotFound => "not_found",
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => "refused",
        Code::PermissionDenied | Code::Unauthenticated => "forbidden",
        Code::ResourceExhausted => "busy",
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => "unavailable",
        Code::Unimplemented => "unknown_call",
        Code::Unknown | Code::Internal | Code::DataLoss => "failed",
    }
}
