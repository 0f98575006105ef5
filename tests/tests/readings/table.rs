//! The table: each figure of a sample beside what an independent source said just before and just after.

use std::collections::BTreeMap;
use std::fmt;

use super::ours::is_of;

/// A figure's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A number; true is 1.
    Number(f64),
    /// A text.
    Text(String),
}

impl Value {
    fn number(&self) -> f64 {
        match self {
            Self::Number(n) => *n,
            Self::Text(_) => f64::NAN,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) if n.fract() == 0.0 && n.abs() < 1e15 => write!(f, "{n:.0}"),
            Self::Number(n) => write!(f, "{n:.6}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// What a figure may do between two readings, and with it what is asked of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// It does not change: ours is the source's, whenever that said the same before and after.
    Same,
    /// It only grows: ours lies between the two, give or take the unit that either rounds to; each time.
    Grows(f64),
    /// It moves both ways, and may have gone further than the two and come back. Ours lies between the two, give or
    /// take the most that the source itself changed within any one bracket; most times.
    Moves(f64),
}

/// One figure of a source.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) figure: String,
    pub(super) value: Value,
    pub(super) rule: Rule,
}

impl Reading {
    pub(super) fn new(figure: impl Into<String>, value: f64, rule: Rule) -> Self {
        Self { figure: figure.into(), value: Value::Number(value), rule }
    }
}

/// The source's figure before, ours (`None`: we have none), the source's after.
type Bracket = (Value, Option<Value>, Value);

/// All that was seen of one figure by one source.
struct Row {
    rule: Rule,
    brackets: Vec<Bracket>,
}

/// The table.
#[derive(Default)]
pub(super) struct Table {
    rows: BTreeMap<(String, &'static str), Row>,
}

/// How a row came out.
struct Verdict {
    agrees: bool,
    /// Of so many brackets so many agreed.
    counts: (usize, usize),
    tolerance: f64,
}

impl Table {
    /// Adds a bracket of `source` for each figure that it told both times.
    pub(super) fn add(
        &mut self,
        source: &'static str,
        before: &[Reading],
        ours: &BTreeMap<String, Value>,
        after: &[Reading],
    ) {
        let after: BTreeMap<&str, &Reading> = after.iter().map(|r| (r.figure.as_str(), r)).collect();
        for reading in before {
            let Some(then) = after.get(reading.figure.as_str()) else { continue };
            let ours = ours.get(&reading.figure).cloned();
            // Of processes, a sample has the top ones alone; of a device or mount that came just now, nothing yet.
            if ours.is_none() && reading.figure.starts_with("processes.") {
                continue;
            }
            let row = self.rows.entry((reading.figure.clone(), source));
            let row = row.or_insert(Row { rule: reading.rule, brackets: Vec::new() });
            row.brackets.push((reading.value.clone(), ours, then.value.clone()));
        }
    }

    /// Whether `figure` stands in a row.
    pub(super) fn has(&self, figure: &str) -> bool {
        self.rows.range((figure.to_owned(), "")..).next().is_some_and(|((f, _), _)| f == figure)
    }

    /// Whether a row of `source` differs so far.
    pub(super) fn differs(&self, source: &str) -> bool {
        self.rows.iter().any(|((_, of), row)| *of == source && !row.verdict().agrees)
    }

    /// Whether a figure of `field` stands in a row.
    pub(super) fn has_of(&self, field: &str) -> bool {
        self.rows.keys().any(|(figure, _)| is_of(figure, field))
    }

    /// Prints every row; returns the number of rows and those that differ.
    pub(super) fn print(&self) -> (usize, Vec<String>) {
        let mut differ = Vec::new();
        let mut nought = 0;
        println!(
            "{:<44} {:<24} {:>22} {:>22} {:>22}  verdict",
            "figure", "source", "before", "ours", "after"
        );
        for ((figure, source), row) in &self.rows {
            let verdict = row.verdict();
            let (before, ours, after) = row.quietest();
            let shown = ours.as_ref().map_or_else(|| "absent".to_owned(), Value::to_string);
            let (held, of) = verdict.counts;
            let word = if verdict.agrees { "agrees" } else { "DIFFERS" };
            let rule = match row.rule {
                Rule::Same => "same".to_owned(),
                Rule::Grows(_) => format!("grows ±{}", verdict.tolerance),
                Rule::Moves(_) => format!("moves ±{}", verdict.tolerance),
            };
            let line = format!(
                "{figure:<44} {source:<24} {before:>22} {shown:>22} {after:>22}  {word} {held}/{of} {rule}",
                before = before.to_string(),
                after = after.to_string(),
            );
            println!("{line}");
            nought += usize::from(row.is_nought());
            if !verdict.agrees {
                differ.push(line);
            }
        }
        println!(
            "{} rows, {} differ; in {nought} of them the source said 0 throughout",
            self.rows.len(),
            differ.len()
        );
        println!("0 by every source, and so by ours: {}", self.always_nought().join(" "));
        (self.rows.len(), differ)
    }
}

impl Table {
    /// Figures of which nothing was seen but 0: that they agree says least.
    fn always_nought(&self) -> Vec<&str> {
        let mut nought: BTreeMap<&str, bool> = BTreeMap::new();
        for ((figure, _), row) in &self.rows {
            *nought.entry(figure).or_insert(true) &= row.is_nought();
        }
        nought.into_iter().filter(|(_, nought)| *nought).map(|(figure, _)| figure).collect()
    }
}

impl Row {
    fn is_nought(&self) -> bool {
        self.brackets.iter().all(|(b, _, a)| b.number() == 0.0 && a.number() == 0.0)
    }

    fn verdict(&self) -> Verdict {
        let change = |b: &Bracket| (b.0.number() - b.2.number()).abs();
        let most = self.brackets.iter().map(change).fold(0.0, f64::max);
        let tolerance = match self.rule {
            Rule::Same => 0.0,
            Rule::Grows(grain) => grain,
            Rule::Moves(grain) => most + grain,
        };
        let counted: Vec<&Bracket> = match self.rule {
            Rule::Same => self.brackets.iter().filter(|b| b.0 == b.2).collect(),
            _ => self.brackets.iter().collect(),
        };
        let held = counted.iter().filter(|b| holds(b, self.rule, tolerance)).count();
        let agrees = match self.rule {
            Rule::Moves(_) => held * 2 > counted.len(),
            _ => held == counted.len() && held > 0,
        };
        Verdict { agrees, counts: (held, counted.len()), tolerance }
    }

    /// The bracket in which the source changed least.
    fn quietest(&self) -> &Bracket {
        let change = |b: &&Bracket| (b.0.number() - b.2.number()).abs();
        let quietest = self.brackets.iter().min_by(|a, b| change(a).total_cmp(&change(b)));
        quietest.expect("a row is made with a bracket")
    }
}

fn holds((before, ours, after): &Bracket, rule: Rule, tolerance: f64) -> bool {
    let Some(ours) = ours else { return false };
    if rule == Rule::Same {
        return ours == before;
    }
    let (before, ours, after) = (before.number(), ours.number(), after.number());
    ours >= before.min(after) - tolerance && ours <= before.max(after) + tolerance
}

#[test]
fn a_figure_that_is_wrong_differs() {
    let number = |n: f64| Value::Number(n);
    let judge = |rule, brackets: &[(f64, f64, f64)]| {
        let brackets = brackets.iter().map(|(b, o, a)| (number(*b), Some(number(*o)), number(*a))).collect();
        Row { rule, brackets }.verdict().agrees
    };
    assert!(judge(Rule::Same, &[(1.0, 1.0, 1.0), (1.0, 2.0, 2.0)]), "it changed under the second bracket");
    assert!(!judge(Rule::Same, &[(1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]));
    assert!(!judge(Rule::Same, &[(1.0, 2.0, 2.0)]), "never seen at rest");
    assert!(judge(Rule::Grows(1.0), &[(10.0, 9.0, 10.0), (10.0, 15.0, 20.0)]));
    assert!(!judge(Rule::Grows(1.0), &[(10.0, 12.0, 20.0), (20.0, 18.0, 30.0)]));
    assert!(judge(Rule::Moves(0.0), &[(10.0, 12.0, 10.0), (10.0, 8.0, 12.0), (10.0, 99.0, 10.0)]));
    assert!(!judge(Rule::Moves(0.0), &[(10.0, 13.0, 10.0), (10.0, 7.0, 12.0), (10.0, 10.0, 10.0)]));
    let absent = Row { rule: Rule::Moves(9.0), brackets: vec![(number(0.0), None, number(0.0))] };
    assert!(!absent.verdict().agrees);
}
