//! What cleanups have spent of their hourly budgets. Pure: time comes in.
//!
//! The executor, the image keeper and the response each have one of their own, and reckon alike, so that nothing is planned
//! that would be refused. The executor's dies with it: the agent hands what it knows to the next one
//! ([`super::handle::Executor::spent`]), and reads it from its record when it starts itself ([`Recovery`]).
//!
//! Invariants
//! - What may have gone counts as gone: of an action without an outcome, what was recorded before it would go.
//! - What was spent comes back an hour later, up to a second late and never early.
//! - At most one entry a source and second, so that its size is bounded by the roots.
//!
//! Deliberately absent: budgets of one action (whoever carries it out counts those).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use dogwatch::record::{
    Action, ActionState, Body, Kind, Kinds, Moment, ObjectOutcome, PlannedObject, Record,
};

use super::policy::{Budgets, Rules};
use super::words;

/// The span of the hourly budgets, ns.
pub const HOUR_NS: u64 = 3_600 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// How far back records are read at a start, ns: the hour, and the longest action that may have begun before it.
pub const RECALLED_NS: u64 = HOUR_NS + 900 * SECOND_NS;

/// From where something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The root at this place of the policy.
    Root(usize),
    /// A root that the policy has no more.
    NoRoot,
    /// The runtime's images.
    Images,
}

impl Source {
    /// Whether what goes from there counts against the policy's own budgets. Images have budgets of their own.
    pub fn is_of_files(self) -> bool {
        self != Self::Images
    }
}

/// What went from one source in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// The end of that second by the boot clock, ns.
    pub at_boot_ns: u64,
    /// From where.
    pub source: Source,
    /// Names that went.
    pub objects: u64,
    /// Allocated bytes, of an inode once.
    pub bytes: u64,
}

/// What went in the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// In the order in which it was noted.
    entries: VecDeque<Spending>,
}

impl Ledger {
    /// Notes what went.
    pub fn note(&mut self, spending: Spending) {
        let at_boot_ns = spending.at_boot_ns.div_ceil(SECOND_NS).saturating_mul(SECOND_NS);
        let same = self.entries.iter_mut().rev().take_while(|e| e.at_boot_ns == at_boot_ns);
        match same.into_iter().find(|e| e.source == spending.source) {
            Some(entry) => {
                entry.objects = entry.objects.saturating_add(spending.objects);
                entry.bytes = entry.bytes.saturating_add(spending.bytes);
            }
            None => {
                // Nobody need ever ask this one. Both are the ends of seconds, so that nothing comes back early.
                self.forget(at_boot_ns);
                self.entries.push_back(Spending { at_boot_ns, ..spending });
            }
        }
    }

    /// Notes what `action`, which is over, spent by `rules`, as of `now_boot_ns`.
    pub fn note_action(&mut self, action: &Action, rules: &Rules, now_boot_ns: u64) {
        let unknown = action.state == ActionState::Failed;
        let went = action.objects.iter().filter(|o| match o.outcome {
            ObjectOutcome::Removed | ObjectOutcome::Cut => true,
            // Of what failed in an action that failed nobody knows what became of it; what surely stays is skipped there.
            ObjectOutcome::Failed | ObjectOutcome::Pending => unknown,
            ObjectOutcome::Skipped => false,
        });
        self.note_objects(went, rules, now_boot_ns);
    }

    /// Notes all that `action` may yet spend.
    pub(super) fn note_all(&mut self, action: &Action, rules: &Rules, now_boot_ns: u64) {
        self.note_objects(action.objects.iter(), rules, now_boot_ns);
    }

    /// Notes `objects`, of each inode the most bytes that any of its names says.
    fn note_objects<'o>(
        &mut self,
        objects: impl Iterator<Item = &'o PlannedObject>,
        rules: &Rules,
        now_boot_ns: u64,
    ) {
        let mut spent: BTreeMap<Source, (u64, u64)> = BTreeMap::new();
        let mut inodes: HashMap<(u64, u64), u64> = HashMap::new();
        for object in objects {
            let entry = spent.entry(source_of(object, rules)).or_default();
            entry.0 += 1;
            let mut bytes = object.allocated_bytes;
            if object.image.is_none() {
                let counted = inodes.entry((object.device, object.inode)).or_default();
                bytes = bytes.saturating_sub(*counted);
                *counted += bytes;
            }
            entry.1 = entry.1.saturating_add(bytes);
        }
        for (source, (objects, bytes)) in spent {
            self.note(Spending { at_boot_ns: now_boot_ns, source, objects, bytes });
        }
    }

    /// What counts at `now_boot_ns`; what is older is forgotten.
    pub fn of_the_hour(&mut self, now_boot_ns: u64) -> impl Iterator<Item = &Spending> {
        self.forget(now_boot_ns);
        self.entries.iter()
    }

    fn forget(&mut self, now_boot_ns: u64) {
        self.entries.retain(|e| now_boot_ns.saturating_sub(e.at_boot_ns) <= HOUR_NS);
    }

    /// Objects and bytes that went within the hour before `now_boot_ns` from wherever `counts` says.
    pub fn spent(&mut self, now_boot_ns: u64, counts: impl Fn(Source) -> bool) -> (u64, u64) {
        let of_them = self.of_the_hour(now_boot_ns).filter(|e| counts(e.source));
        of_them.fold((0, 0), |(n, sum): (u64, u64), e| {
            (n.saturating_add(e.objects), sum.saturating_add(e.bytes))
        })
    }

    /// Whether `bytes` more may go at `now_boot_ns` from the root at `index`, by the policy's budgets and by the root's own,
    /// of which an action has spent `by_all` and `by_root` (objects, bytes).
    ///
    /// # Errors
    /// Which budget is in the way.
    pub(super) fn allows(
        &mut self,
        rules: &Rules,
        (by_all, by_root): ((u64, u64), (u64, u64)),
        index: usize,
        bytes: u64,
        now_boot_ns: u64,
    ) -> Result<(), String> {
        let all = self.spent(now_boot_ns, Source::is_of_files);
        within(&rules.policy.budgets, by_all, all, bytes)?;
        match &rules.roots()[index].policy.budgets {
            Some(own) => {
                let hour = self.spent(now_boot_ns, |source| source == Source::Root(index));
                within(own, by_root, hour, bytes).map_err(|why| format!("{why} from its root"))
            }
            None => Ok(()),
        }
    }
}

/// Where `object` is taken from by `rules`.
fn source_of(object: &PlannedObject, rules: &Rules) -> Source {
    match object.image {
        Some(_) => Source::Images,
        None => rules
            .root_for(&object.path, &object.cleaner)
            .map_or(Source::NoRoot, |(index, _)| Source::Root(index)),
    }
}

/// Whether `bytes` more fit `budgets`, of which an action and the hour have spent (objects, bytes).
fn within(budgets: &Budgets, action: (u64, u64), hour: (u64, u64), bytes: u64) -> Result<(), String> {
    let over = |spent: u64, budget: u64| spent >= budget || spent.saturating_add(bytes) > budget;
    if action.0 >= u64::from(budgets.max_objects) {
        Err(format!("over the budget of {} objects an action", budgets.max_objects))
    } else if over(action.1, budgets.max_bytes) {
        Err(format!("over the budget of {} an action", words::bytes(budgets.max_bytes)))
    } else if hour.0 >= u64::from(budgets.max_objects_per_hour) {
        Err(format!("over the budget of {} objects an hour", budgets.max_objects_per_hour))
    } else if over(hour.1, budgets.max_bytes_per_hour) {
        Err(format!("over the budget of {} an hour", words::bytes(budgets.max_bytes_per_hour)))
    } else {
        Ok(())
    }
}

/// The ledger as the urgent stream's own records tell it, when the agent starts.
///
/// An action without an outcome, because the agent was killed in its midst, spent what was recorded before it would go, and
/// whatever needs no such record (cuts and images).
#[derive(Debug)]
pub struct Recovery<'r> {
    rules: &'r Rules,
    now: Moment,
    ledger: Ledger,
    open: HashMap<String, Open>,
}

/// An action that has begun.
#[derive(Debug, Default)]
struct Open {
    wall_ns: i64,
    objects: Vec<PlannedObject>,
}

impl<'r> Recovery<'r> {
    /// The kinds of records that tell.
    pub fn kinds() -> Kinds {
        Kinds::default().with(Kind::Action).with(Kind::File)
    }

    /// One that reckons by `rules`, as of `now`.
    pub fn new(rules: &'r Rules, now: Moment) -> Self {
        Self { rules, now, ledger: Ledger::default(), open: HashMap::new() }
    }

    /// Takes the next record, in the order in which they were written.
    pub fn take(&mut self, record: Record) {
        let wall_ns = record.at.wall_ns;
        match record.body {
            Body::Action(action) => match action.state {
                ActionState::Planned => {}
                ActionState::Started => {
                    let unseen = |o: &PlannedObject| o.cut.is_some() || o.image.is_some();
                    let objects = action.objects.into_iter().filter(unseen).collect();
                    self.open.insert(action.id, Open { wall_ns, objects });
                }
                // An outcome whose objects found no room leaves what was seen of them.
                ActionState::Done | ActionState::Failed if action.objects.is_empty() => {}
                ActionState::Done | ActionState::Failed => {
                    self.open.remove(&action.id);
                    let at = self.boot_ns_of(wall_ns);
                    self.ledger.note_action(&action, self.rules, at);
                }
                ActionState::Refused => drop(self.open.remove(&action.id)),
            },
            Body::File(seen) => {
                if let Some(open) = self.open.get_mut(&seen.cause) {
                    open.wall_ns = wall_ns;
                    open.objects.extend(seen.objects);
                }
            }
            _ => {}
        }
    }

    /// What was spent.
    pub fn ledger(mut self) -> Ledger {
        for open in std::mem::take(&mut self.open).into_values() {
            let at = self.boot_ns_of(open.wall_ns);
            let mut named = HashSet::new();
            let once = open.objects.iter().filter(|o| named.insert(&o.path));
            self.ledger.note_objects(once, self.rules, at);
        }
        self.ledger.entries.make_contiguous().sort_by_key(|e| e.at_boot_ns);
        self.ledger
    }

    /// When that was by the boot clock. What is of an earlier boot, or of the future of a clock that was set back, counts for
    /// longer rather than shorter.
    fn boot_ns_of(&self, wall_ns: i64) -> u64 {
        let age = u64::try_from(self.now.wall_ns.saturating_sub(wall_ns)).unwrap_or(0);
        self.now.boot_ns.saturating_sub(age)
    }
}

#[cfg(test)]
mod tests;
