//! The table of what was measured: each figure beside its peer or limit.

use std::fmt;
use std::process::ExitCode;

/// What a figure must keep to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// Measured at most this.
    AtMost(f64),
    /// Measured at least this.
    AtLeast(f64),
    /// Measured at most this many times its peer.
    TimesPeer(f64),
    /// For comparison only.
    None,
}

/// One line.
#[derive(Debug, Clone)]
struct Row {
    what: String,
    measured: f64,
    unit: &'static str,
    peer: Option<(String, f64)>,
    limit: Limit,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    remarks: Vec<String>,
    unmeasured: Vec<String>,
}

impl Table {
    /// Adds a figure; `peer` is in the same unit.
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        measured: f64,
        unit: &'static str,
        peer: Option<(&str, f64)>,
        limit: Limit,
    ) {
        let peer = peer.map(|(name, value)| (name.to_owned(), value));
        self.rows.push(Row { what: what.into(), measured, unit, peer, limit });
    }

    /// Says how a figure came about.
    pub(crate) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Says what could not be measured.
    pub(crate) fn unmeasured(&mut self, what: &str, why: &str) {
        self.unmeasured.push(format!("{what}: {why}"));
    }

    /// 0 all within, 1 some over, 2 some not measured.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if !self.unmeasured.is_empty() {
            return ExitCode::from(2);
        }
        ExitCode::from(u8::from(self.rows.iter().any(|r| r.verdict() == Some(false))))
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, p)| self.measured / p)
    }

    /// Whether it is within; `None` without a limit. What is not a number is not within.
    fn verdict(&self) -> Option<bool> {
        match self.limit {
            Limit::AtMost(most) => Some(self.measured <= most),
            Limit::AtLeast(least) => Some(self.measured >= least),
            Limit::TimesPeer(most) => Some(self.ratio().is_some_and(|r| r <= most)),
            Limit::None => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![["what", "measured", "peer, same run", "ratio", "limit", ""].map(str::to_owned)];
        for r in &self.rows {
            let value = |v: f64| format!("{} {}", number(v), r.unit);
            lines.push([
                r.what.clone(),
                value(r.measured),
                r.peer.as_ref().map_or_else(String::new, |(name, v)| format!("{name} {}", number(*v))),
                r.ratio().map_or_else(String::new, |v| format!("{v:.2}")),
                match r.limit {
                    Limit::AtMost(v) => format!("≤ {}", value(v)),
                    Limit::AtLeast(v) => format!("≥ {}", value(v)),
                    Limit::TimesPeer(v) => format!("≤ {v:.2} x peer"),
                    Limit::None => String::new(),
                },
                match r.verdict() {
                    Some(true) => "ok",
                    Some(false) => "OVER",
                    None => "",
                }
                .to_owned(),
            ]);
        }
        let widths: Vec<usize> =
            (0..6).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
        for line in &lines {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        self.remarks.iter().try_for_each(|r| writeln!(f, "  {r}"))?;
        self.unmeasured.iter().try_for_each(|u| writeln!(f, "NOT MEASURED  {u}"))
    }
}

fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        a if a >= 0.1 => format!("{v:.2}"),
        _ => format!("{v:.4}"),
    }
}
