//! A stretch of time that a question is about.

/// Half-open `[since, until)`, wall ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) since: Option<i64>,
    pub(crate) until: Option<i64>,
}

impl Range {
    pub(crate) fn holds(&self, wall_ns: i64) -> bool {
        self.since.is_none_or(|s| wall_ns >= s) && self.until.is_none_or(|u| wall_ns < u)
    }
}
