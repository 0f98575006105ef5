//! What of the budgets a plan may spend, and which of them keeps something out of it.
//!
//! Every budget that whoever carries the plan out will ask is asked here first: what is planned and then refused would be
//! planned again and again, and keep from the plan what could go.
//!
//! Limits: how far content that is to be kept shrinks is a guess, from what was kept within the hour ([`PreserveLeft`]).

use std::collections::{BTreeMap, HashMap};

use super::super::ledger::{Ledger, Source};
use super::super::policy::{Budgets, RootPolicy, Rules};
use super::super::words;
use super::{BUDGETS, MAX_OBJECT_RECORD_BYTES, Sum, Unit};

/// How the reason begins for which an object stays that would be needed and may go.
const BUDGET: &str = "budget: ";

/// What the last hour's actions have left of the hourly budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Objects that may still go.
    pub objects: u64,
    /// Bytes that may still go.
    pub bytes: u64,
}

impl Allowance {
    /// What of the hourly `budgets` (objects, bytes) were `spent` leave.
    fn of(budgets: &Budgets, spent: (u64, u64)) -> Self {
        Self {
            objects: u64::from(budgets.max_objects_per_hour).saturating_sub(spent.0),
            bytes: budgets.max_bytes_per_hour.saturating_sub(spent.1),
        }
    }
}

/// What the last hour has left of every hourly budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Of the policy's own.
    pub node: Allowance,
    /// Of those roots that have budgets of their own, by their place in the policy.
    pub roots: BTreeMap<usize, Allowance>,
}

impl Left {
    /// What `ledger` leaves at `now_boot_ns` of the budgets of `rules`.
    pub fn of(rules: &Rules, ledger: &mut Ledger, now_boot_ns: u64) -> Self {
        let node = Allowance::of(&rules.policy.budgets, ledger.spent(now_boot_ns, Source::is_of_files));
        let own = rules.policy.roots.iter().enumerate().filter_map(|(index, root)| {
            let spent =
                |ledger: &mut Ledger| ledger.spent(now_boot_ns, |source| source == Source::Root(index));
            Some((index, Allowance::of(root.budgets.as_ref()?, spent(ledger))))
        });
        Self { node, roots: own.collect() }
    }
}

/// Of a node whose roots have spent nothing of their own budgets.
impl From<Allowance> for Left {
    fn from(node: Allowance) -> Self {
        Self { node, roots: BTreeMap::new() }
    }
}

/// How much content may still be kept of what goes from roots that preserve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreserveLeft {
    /// Largest file whose content is kept, bytes.
    pub object_bytes: u64,
    /// Bytes of content, as it lies in its files, that are expected to fit what is left.
    pub bytes: u64,
    /// Why it is no more, in words.
    pub said: String,
}

/// Which budget keeps something out of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Over {
    /// That of one action, or of the hour.
    Node,
    /// The own ones of the root at this place of the policy.
    Root(usize),
    /// That of content that is kept.
    Preserve,
    /// The room that the action's own record has.
    Record,
}

/// The tighter of the action's and the hour's budgets, each root's own, and that of content.
pub(super) struct Limit<'r> {
    rules: &'r Rules,
    node: Allowance,
    roots: HashMap<usize, Allowance>,
    preserve: Option<&'r PreserveLeft>,
}

impl<'r> Limit<'r> {
    pub(super) fn new(rules: &'r Rules, left: &Left, preserve: Option<&'r PreserveLeft>) -> Self {
        let tighter = |budgets: &Budgets, left: Option<&Allowance>| Allowance {
            objects: u64::from(budgets.max_objects)
                .min(left.map_or(u64::from(budgets.max_objects_per_hour), |l| l.objects)),
            bytes: budgets.max_bytes.min(left.map_or(budgets.max_bytes_per_hour, |l| l.bytes)),
        };
        let own = rules.roots().iter().enumerate().filter_map(|(index, root)| {
            Some((index, tighter(root.policy.budgets.as_ref()?, left.roots.get(&index))))
        });
        let roots = own.collect();
        Self { rules, node: tighter(&rules.policy.budgets, Some(&left.node)), roots, preserve }
    }

    /// Whether a plan of `sum` may be made, in which each root in `roots` gives so much.
    fn allows(&self, sum: &Sum, roots: &HashMap<usize, Sum>) -> Result<(), Over> {
        if sum.objects > self.node.objects || sum.bytes > self.node.bytes {
            return Err(Over::Node);
        }
        let spent = |(index, most): (&usize, &Allowance)| {
            let gives = roots.get(index).filter(|s| s.objects > most.objects || s.bytes > most.bytes);
            gives.map(|_| *index)
        };
        if let Some(index) = self.roots.iter().filter_map(spent).min() {
            return Err(Over::Root(index));
        }
        if self.preserve.is_some_and(|left| sum.preserved_bytes > left.bytes) {
            return Err(Over::Preserve);
        }
        if sum.record_bytes > MAX_OBJECT_RECORD_BYTES { Err(Over::Record) } else { Ok(()) }
    }

    pub(super) fn holds(&self, units: &[Unit], chosen: &[usize]) -> bool {
        let mut spending = Spent::default();
        chosen.iter().all(|i| self.takes(&mut spending, &units[*i]).is_ok())
    }

    /// Adds `unit` to what is `spent` if every budget lets it.
    pub(super) fn takes(&self, spent: &mut Spent, unit: &Unit) -> Result<(), Over> {
        // Images are of no root: their keeper has offered what their own budgets allow, and only the record bounds them here.
        let node = if unit.roots.is_empty() {
            Sum { record_bytes: unit.sum.record_bytes, ..Sum::default() }
        } else {
            unit.sum
        };
        let with = spent.sum.plus(&node);
        let mut roots = spent.roots.clone();
        for (root, objects) in &unit.roots {
            let sum = roots.entry(*root).or_default();
            // The blocks of an inode count in each root that has a name of it: which name goes last is not known here.
            *sum = sum.plus(&Sum { objects: *objects, ..unit.sum });
        }
        self.allows(&with, &roots)?;
        *spent = Spent { sum: with, roots };
        Ok(())
    }

    /// Why an object stays that `over` kept out.
    pub(super) fn why(&self, over: Over) -> String {
        format!("{BUDGET}{}", self.words(over))
    }

    fn words(&self, over: Over) -> String {
        let of = |left: &Allowance| format!("{} objects and {}", left.objects, words::bytes(left.bytes));
        match over {
            Over::Node => {
                format!(
                    "{} may go now, by cleanup.budgets of an action and of what is left of the hour",
                    of(&self.node)
                )
            }
            Over::Root(index) => {
                let path = |root: &RootPolicy| root.path.display().to_string();
                format!(
                    "{} may go now from {}, by its own budgets of an action and of what is left of the hour",
                    self.roots.get(&index).map_or_else(String::new, of),
                    self.rules.policy.roots.get(index).map_or_else(String::new, path)
                )
            }
            Over::Preserve => {
                let left = self.preserve.map_or((0, ""), |p| (p.bytes, &p.said));
                format!("about {} of content can be kept now: {}", words::bytes(left.0), left.1)
            }
            Over::Record => "the record of one action takes no more; it goes with the next".to_owned(),
        }
    }

    /// What keeps a plan from what it wants, for the whole of it.
    pub(super) fn said(&self, wanted: &Sum, given: &Sum, over: &[Over]) -> String {
        format!(
            "{BUDGETS}{} objects with {} would be needed, and {} objects with {} are planned; {}",
            wanted.objects,
            words::bytes(wanted.bytes),
            given.objects,
            words::bytes(given.bytes),
            self.all_words(over)
        )
    }

    /// Each of `over` in words.
    pub(super) fn all_words(&self, over: &[Over]) -> String {
        over.iter().map(|o| self.words(*o)).collect::<Vec<_>>().join("; ")
    }
}

/// What the units of a plan spend.
#[derive(Debug, Default, Clone)]
pub(super) struct Spent {
    pub(super) sum: Sum,
    roots: HashMap<usize, Sum>,
}
