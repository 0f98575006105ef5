//! A cleanup in two parts: to the low-water marks, and, while the mount goes on filling, beyond.
//!
//! How far a cleanup aims beyond the mark rests on the rate of the last seconds, and nobody can tell a burst that has just
//! ended from a flood that has just begun. So what brings the mount to its marks goes first, and by what was written
//! meanwhile it is told how much of the rest is wanted. It is one action: one record that it begins, one permit, one outcome;
//! the second part is not surveyed, planned or waited for again.
//!
//! Invariants
//! - Where nobody writes while the first part goes, no more goes than the marks ask for, but for what the last file is larger.
//! - The second part is of the same plan, and begins only where what began the first would still begin.
//!
//! Limits: room that does not come free (a snapshot has it, or the filesystem frees later than the executor waits) looks as if
//! somebody had taken it. XFS takes room for a file that grows in steps: between two of them a flood passes for calm, lives on
//! what it has taken, and is seen with the next step. While the executor is at another mount first, the rate is taken for less
//! than it is. Either way the mount stands at its marks, and is cleaned again as any that falls.

use std::ops::{ControlFlow, Range};

use dogwatch::record::{Action, ActionState, Moment, PlannedObject, Refusal};

use super::breaker::Room;
use super::{Busy, Respond, Step};
use crate::act::shares::joined;
use crate::act::words;

const SECOND_NS: u64 = 1_000_000_000;
/// A rate is never of less: one write-back would look like a flood.
const MIN_SPAN_NS: u64 = SECOND_NS;

/// How far an action is of which a part rests on a rate.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// For how long it is to last beyond the marks, ns; `None`: all of it is for the marks.
    reach_ns: Option<u64>,
    begun_boot_ns: u64,
    /// The first part, once it is over and the second is under way, and why no more than that goes.
    first: Option<(Action, String)>,
}

impl Parts {
    pub(super) fn reaching(reach_ns: Option<u64>) -> Self {
        Self { reach_ns, ..Self::default() }
    }
}

/// What was written while `first` was carried out, bytes a second.
fn rate(first: &Action, span_ns: u64) -> u64 {
    let Some((before, after)) = first.available_before_bytes.zip(first.available_after_bytes) else {
        return 0;
    };
    let written = before.saturating_add(first.freed_bytes.unwrap_or(0)).saturating_sub(after);
    scaled(written, SECOND_NS, span_ns.max(MIN_SPAN_NS))
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
    fn wants(&self, first: &Action, now: Moment) -> (u64, u64) {
        let Some(after) = first.available_after_bytes else { return (0, 0) };
        let rate = rate(first, now.boot_ns.saturating_sub(self.parts.begun_boot_ns));
        let mark = self.trigger.available_bytes.saturating_add(self.lacked.bytes);
        let beyond = scaled(rate, self.parts.reach_ns.unwrap_or(0), SECOND_NS);
        (mark.saturating_add(beyond).saturating_sub(after), rate)
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

    /// What became of one part, or of all at once: the next part, or the outcome of the whole.
    pub(super) fn next_part(&mut self, applied: Action, now: Moment) -> ControlFlow<Step, Action> {
        let busy = self.mounts.get(&applied.mount).and_then(|site| site.busy.as_ref());
        let of_it = |a: &&Action| {
            a.id == applied.id && a.state == ActionState::Started && applied.objects.len() < a.objects.len()
        };
        let Some((busy, whole)) = busy.and_then(|b| Some((b, b.action.as_ref().filter(of_it)?.clone())))
        else {
            return ControlFlow::Continue(applied);
        };
        let (wanted, rate) = busy.wants(&applied, now);
        let late = self.too_late(&busy.leave, now);
        let Some(parts) = self.mounts.get_mut(&applied.mount).and_then(|s| Some(&mut s.busy.as_mut()?.parts))
        else {
            return ControlFlow::Continue(applied);
        };
        let said = || {
            let rate = words::bytes(rate);
            format!(
                "it was to go beyond the low-water mark: others took {rate} a second since the cleanup began"
            )
        };
        if let Some((first, why)) = parts.first.take() {
            return ControlFlow::Continue(ended(whole, vec![first, applied], why));
        }
        if applied.state == ActionState::Refused {
            // Nothing of it was touched, whatever part it was.
            let refused = Action { objects: whole.objects.clone(), ..applied };
            return ControlFlow::Continue(joined(whole, vec![refused]));
        }
        let begun = applied.objects.len();
        let second = lead(&whole.objects[begun..], Room { bytes: wanted, inodes: 0 });
        if applied.state != ActionState::Done || second == 0 || late.is_some() {
            return ControlFlow::Continue(ended(whole, vec![applied], late.unwrap_or_else(said)));
        }
        parts.first = Some((applied, said()));
        ControlFlow::Break(Step::Apply(Box::new(part(&whole, begun..begun + second))))
    }
}
