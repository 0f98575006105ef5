//! A cleanup in two parts: to the low-water marks, and, while the mount goes on filling, beyond.
//!
//! How far a cleanup aims beyond the mark rests on the rate of the last seconds, and nobody can tell a burst that has just
//! ended from a flood that has just begun. So what brings the mount to its marks goes first, and by what was written
//! meanwhile, in a second at least, it is told how much of the rest is wanted. It is one action: one record that it begins, one
//! permit, one outcome; the second part is not surveyed or planned again.
//!
//! Invariants
//! - Where nobody writes while the first part goes, no more goes than the marks ask for, but for what the last file is larger.
//! - The second part is of the same plan, and begins only where what began the first would still begin.
//!
//! Limits: room that does not come free (a snapshot has it, or the filesystem frees later than the executor waits) looks as if
//! somebody had taken it. XFS takes room for a file that grows in steps: between two of them a flood passes for calm, lives on
//! what it has taken, and is seen with the next step. While the executor is at another mount first, the rate is taken for less
//! than it is. Either way the mount stands at its marks, and is cleaned again as any that falls.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use dogwatch::record::{Action, ActionState, Moment, ObjectOutcome, PlannedObject, Refusal};

use super::breaker::Room;
use super::{Busy, Respond, Step};
use crate::act::shares::joined;
use crate::act::words;

const SECOND_NS: u64 = 1_000_000_000;
/// A rate is never of less: one write-back would look like a flood.
const MIN_SPAN_NS: u64 = SECOND_NS;

/// How the reasons begin why an action is not applied after all.
const UNTOUCHED: &str = "nothing was touched: ";
/// How long figures of after the first part are waited for; then it is the end.
const UNSEEN_NS: u64 = 10 * SECOND_NS;

/// How far an action is of which a part rests on a rate.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// For how long it is to last beyond the marks, ns; `None`: all of it is for the marks.
    reach_ns: Option<u64>,
    begun_boot_ns: u64,
    /// The first part, once it is over.
    first: Option<First>,
    /// Why the collector stopped it.
    halted: Option<String>,
}

#[derive(Debug)]
struct First {
    done: Action,
    ended_boot_ns: u64,
    /// Why no more goes than the second part, which is under way; `None` while figures are waited for.
    rest: Option<String>,
}

/// What is available on the mount, as it was seen then.
#[derive(Debug, Clone, Copy)]
struct Seen {
    boot_ns: u64,
    available_bytes: u64,
}

impl Parts {
    pub(super) fn reaching(reach_ns: Option<u64>) -> Self {
        Self { reach_ns, ..Self::default() }
    }

    /// Nothing more of it begins, and `why`.
    pub(super) fn halt(&mut self, why: &str) {
        self.halted.get_or_insert_with(|| why.to_owned());
    }
}

/// `bytes` × `times` / `by`.
fn scaled(bytes: u64, times: u64, by: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(times) / u128::from(by)).unwrap_or(u64::MAX)
}

/// How many of `objects`, from the first on, give `room`. All names of a file go, and what it takes counts once.
fn lead(objects: &[PlannedObject], room: Room) -> usize {
    let file = |o: &PlannedObject| o.image.is_none().then_some((o.device, o.inode));
    let (mut gives, mut at) = (Room::default(), 0);
    while let Some(object) = objects.get(at).filter(|_| !gives.covers(room)) {
        gives = gives.plus(Room::of(object));
        let another = |o: &&PlannedObject| file(o).is_some() && file(o) == file(object);
        at += 1 + objects[at + 1..].iter().take_while(another).count();
    }
    at
}

/// The objects of `action` at `at`.
fn part(action: &Action, at: Range<usize>) -> Action {
    Action { objects: action.objects[at].to_vec(), refused: Vec::new(), ..action.clone() }
}

/// The outcome of `whole`, of which the parts `done` were carried out and the rest stays, and `why`.
fn ended(whole: Action, mut done: Vec<Action>, why: String) -> Action {
    let begun = done.iter().map(|part| part.objects.len()).sum();
    if begun < whole.objects.len() {
        let refused = vec![Refusal { path: None, reason: why }];
        done.push(Action {
            state: ActionState::Refused,
            refused,
            ..part(&whole, begun..whole.objects.len())
        });
    }
    joined(whole, done)
}

impl Busy {
    /// How many bytes are still to go after the `first` part, and the rate that this rests on, bytes a second.
    fn wants(&self, first: &Action, seen: Seen) -> (u64, u64) {
        let had = first.available_before_bytes.unwrap_or(seen.available_bytes);
        let written = had.saturating_add(first.freed_bytes.unwrap_or(0)).saturating_sub(seen.available_bytes);
        let span_ns = seen.boot_ns.saturating_sub(self.parts.begun_boot_ns).max(MIN_SPAN_NS);
        let rate = scaled(written, SECOND_NS, span_ns);
        let mark = self.trigger.available_bytes.saturating_add(self.lacked.bytes);
        let beyond = scaled(rate, self.parts.reach_ns.unwrap_or(0), SECOND_NS);
        (mark.saturating_add(beyond).saturating_sub(seen.available_bytes), rate)
    }
}

impl Respond {
    /// What of `action`, whose start is durable, is carried out first.
    pub(super) fn first_part(&mut self, action: &Action, now: Moment) -> Step {
        let busy = self.mounts.get_mut(&action.mount).and_then(|site| site.busy.as_mut());
        let first = busy.filter(|busy| busy.parts.reach_ns.is_some()).map(|busy| {
            busy.parts.begun_boot_ns = now.boot_ns;
            lead(&action.objects, busy.lacked)
        });
        let first = first.filter(|first| *first < action.objects.len());
        Step::Apply(Box::new(first.map_or_else(|| action.clone(), |first| part(action, 0..first))))
    }

    /// What became of one part, or of all at once: what is next, if anything by now, or the outcome of the whole.
    pub(super) fn next_part(&mut self, applied: Action, now: Moment) -> ControlFlow<Vec<Step>, Action> {
        let Some(busy) = self.mounts.get_mut(&applied.mount).and_then(|site| site.busy.as_mut()) else {
            return ControlFlow::Continue(applied);
        };
        let of_it = |a: &&Action| {
            a.id == applied.id && a.state == ActionState::Started && applied.objects.len() < a.objects.len()
        };
        let Some(whole) = busy.action.as_ref().filter(of_it).cloned() else {
            return ControlFlow::Continue(applied);
        };
        if let Some(first) = busy.parts.first.take() {
            return ControlFlow::Continue(ended(
                whole,
                vec![first.done, applied],
                first.rest.unwrap_or_default(),
            ));
        }
        if applied.state == ActionState::Refused {
            // Nothing of it was touched, whatever part it was.
            let refused = Action { objects: whole.objects.clone(), ..applied };
            return ControlFlow::Continue(joined(whole, vec![refused]));
        }
        let seen = applied
            .available_after_bytes
            .map(|available_bytes| Seen { boot_ns: now.boot_ns, available_bytes })
            .filter(|seen| seen.boot_ns.saturating_sub(busy.parts.begun_boot_ns) >= MIN_SPAN_NS);
        let mount = whole.mount.clone();
        busy.parts.first = Some(First { done: applied, ended_boot_ns: now.boot_ns, rest: None });
        self.second_part(&mount, seen, now)
    }

    /// Second parts for which figures have come by now, and the ends of those that are not to be.
    pub(super) fn go_on(&mut self, now: Moment) -> Vec<Step> {
        let mounts: Vec<String> = self.mounts.keys().cloned().collect();
        let mut steps = Vec::new();
        for mount in mounts {
            let Some(site) = self.mounts.get(&mount) else { continue };
            let Some((begun, ended)) = site.busy.as_ref().and_then(|busy| {
                let first = busy.parts.first.as_ref().filter(|first| first.rest.is_none())?;
                Some((busy.parts.begun_boot_ns, first.ended_boot_ns))
            }) else {
                continue;
            };
            let tells = |at: u64| at > ended && at.saturating_sub(begun) >= MIN_SPAN_NS;
            let seen = site.fall.newest().filter(|(at, _)| tells(*at));
            let seen = seen.map(|(boot_ns, available_bytes)| Seen { boot_ns, available_bytes });
            steps.extend(match self.second_part(&mount, seen, now) {
                ControlFlow::Break(next) => next,
                ControlFlow::Continue(whole) => {
                    self.on_whole(whole, seen.map(|seen| seen.available_bytes), now)
                }
            });
        }
        steps
    }

    /// After the first part on `mount`, of which figures may be `seen`: the second, the end, or that more is waited for.
    fn second_part(
        &mut self,
        mount: &str,
        seen: Option<Seen>,
        now: Moment,
    ) -> ControlFlow<Vec<Step>, Action> {
        let wait = ControlFlow::Break(Vec::new());
        let Some(busy) = self.mounts.get(mount).and_then(|site| site.busy.as_ref()) else { return wait };
        let (Some(whole), Some(first)) = (busy.action.clone(), &busy.parts.first) else { return wait };
        let failed = first.done.state != ActionState::Done;
        let late = busy.parts.halted.clone().or_else(|| self.too_late(&busy.leave, now)).map(|why| {
            // Of the first part something was.
            why.strip_prefix(UNTOUCHED).map_or(why.clone(), str::to_owned)
        });
        let over = failed.then(|| "what was to go before it failed".to_owned()).or(late);
        let begun = first.done.objects.len();
        let unseen = now.boot_ns.saturating_sub(first.ended_boot_ns) >= UNSEEN_NS;
        let (second, why) = match seen {
            Some(seen) => {
                let (wanted, rate) = busy.wants(&first.done, seen);
                let inodes = busy.lacked.inodes.saturating_sub(gone(&first.done).inodes);
                let rest = Room { bytes: wanted, inodes };
                (
                    lead(&whole.objects[begun..], rest),
                    beyond(&format!("others took {} a second since the cleanup began", words::bytes(rate))),
                )
            }
            None if over.is_some() || unseen => (0, beyond("nobody could tell how fast others write")),
            None => return wait,
        };
        let Some(busy) = self.mounts.get_mut(mount).and_then(|site| site.busy.as_mut()) else { return wait };
        let Some(mut first) = busy.parts.first.take() else { return wait };
        if over.is_some() || second == 0 {
            return ControlFlow::Continue(ended(whole, vec![first.done], over.unwrap_or(why)));
        }
        first.rest = Some(why);
        busy.parts.first = Some(first);
        ControlFlow::Break(vec![Step::Apply(Box::new(part(&whole, begun..begun + second)))])
    }
}

/// What came free with the objects of `action` that went: of a file with several names its inode counts once, of an image as
/// many as it had.
pub(super) fn gone(action: &Action) -> Room {
    let mut files = BTreeSet::new();
    let removed = action.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed);
    let counted = removed.filter(|o| o.image.is_some() || files.insert((o.device, o.inode)));
    counted.map(Room::of).fold(Room::default(), Room::plus)
}

fn beyond(why: &str) -> String {
    format!("it was to go beyond the low-water mark: {why}")
}
