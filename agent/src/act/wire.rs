//! Executor messages that are the executor's alone; everything else goes through [`dogwatch::convert`].
//!
//! What does not make sense is refused by name, so that a message from a taken-over peer cannot become an object with
//! half its identity.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use dogwatch::convert::Refused;
use dogwatch::record::{Action, PlannedObject, Refusal};
use dogwatch::wire;
use prost::Message;

use super::held_links::HeldAside;
use super::hold::{HeldThing, HoldSet, MAX_HOLDS, NodeHold};
use super::hold_line::HeldNow;
use super::ledger::{Source, Spending};
use super::leftovers::{Leftover, Restored};
use super::plan::Candidate;

pub(super) fn refusals_to_wire(refusals: &[Refusal]) -> Vec<wire::Refusal> {
    refusals.iter().map(wire::Refusal::from).collect()
}

pub(super) fn refusals_from_wire(refusals: Vec<wire::Refusal>) -> Result<Vec<Refusal>, Refused> {
    refusals.into_iter().map(Refusal::try_from).collect()
}

pub(super) fn candidate_to_wire(candidate: &Candidate) -> wire::Candidate {
    wire::Candidate {
        object: Some((&candidate.object).into()),
        root: candidate.root.display().to_string(),
        open_elsewhere: candidate.open_elsewhere,
        accessed_ns: candidate.accessed_ns,
        filesystem: candidate.filesystem,
    }
}

pub(super) fn candidate_from_wire(candidate: wire::Candidate) -> Result<Candidate, Refused> {
    let object = candidate.object.ok_or_else(|| Refused::missing("candidate.object"))?;
    Ok(Candidate {
        object: PlannedObject::try_from(object)?,
        root: PathBuf::from(candidate.root),
        open_elsewhere: candidate.open_elsewhere,
        accessed_ns: candidate.accessed_ns,
        filesystem: candidate.filesystem,
    })
}

pub(super) fn action_to_wire(action: &Action) -> wire::Action {
    wire::Action::from(action)
}

pub(super) fn action_from_wire(action: wire::Action) -> Result<Action, Refused> {
    Action::try_from(action)
}

/// The request that tells an executor what is held. It is not answered, and bears no number of its own.
pub(super) fn held_request(now: &HeldNow) -> Vec<u8> {
    let (holds, unknown) = match &now.set {
        HoldSet::Known(holds) => (holds.iter().map(hold_to_wire).collect(), String::new()),
        HoldSet::Unknown(why) => (Vec::new(), why.clone()),
    };
    let host_root = now.host_root.as_os_str().as_bytes().to_vec().into();
    let held = wire::HeldNow { holds, unknown, host_root };
    let request = Some(wire::executor_request::Request::Held(held));
    wire::ExecutorRequest { id: 0, request }.encode_to_vec()
}

/// The request that ends an action before its next object.
pub(super) fn halt_request(action: &str, why: &str) -> Vec<u8> {
    let stop = wire::StopAction { action_id: action.to_owned(), reason: why.to_owned() };
    let request = Some(wire::executor_request::Request::Stop(stop));
    wire::ExecutorRequest { id: 0, request }.encode_to_vec()
}

/// The request that tells what was spent before. It is not answered, and bears no number of its own.
pub(super) fn spent_request(spent: &[Spending]) -> Vec<u8> {
    let one = |s: &Spending| {
        let root = match s.source {
            Source::Root(index) => u32::try_from(index).ok(),
            Source::NoRoot | Source::Images => None,
        };
        wire::Spending { at_boot_ns: s.at_boot_ns, objects: s.objects, bytes: s.bytes, root }
    };
    let spent = wire::Spent { spending: spent.iter().map(one).collect() };
    let request = Some(wire::executor_request::Request::Spent(spent));
    wire::ExecutorRequest { id: 0, request }.encode_to_vec()
}

/// What such a request says.
pub(super) fn spent_from_wire(spent: &wire::Spent) -> Vec<Spending> {
    let one = |s: &wire::Spending| {
        let source = s.root.map_or(Source::NoRoot, |index| Source::Root(index as usize));
        Spending { at_boot_ns: s.at_boot_ns, source, objects: s.objects, bytes: s.bytes }
    };
    spent.spending.iter().map(one).collect()
}

/// What the request of what is held says. One that does not make sense holds everything.
pub(super) fn held_from_wire(held: wire::HeldNow) -> HeldNow {
    let host_root = PathBuf::from(std::ffi::OsString::from_vec(held.host_root.to_vec()));
    let set = if held.unknown.is_empty() {
        holds_from_wire(held.holds).map_or_else(|e| HoldSet::Unknown(e.to_string()), HoldSet::Known)
    } else {
        HoldSet::Unknown(held.unknown)
    };
    HeldNow { set, host_root }
}

/// What of it does not go that the executor is about to remove, by its place.
pub(super) fn stays_to_wire(stays: Vec<(usize, String)>) -> Vec<wire::Stays> {
    let one = |(nth, reason)| Some(wire::Stays { nth: u32::try_from(nth).ok()?, reason });
    stays.into_iter().filter_map(one).collect()
}

/// What a step did with what was left in quarantine.
pub(super) fn restored_to_wire(step: Restored) -> wire::Restored {
    let one = |l: Leftover| wire::Leftover {
        quarantined: l.quarantined,
        original: l.original,
        restored: l.restored,
        detail: l.detail,
        device: l.device,
    };
    wire::Restored { leftovers: step.leftovers.into_iter().map(one).collect(), more: step.more }
}

/// What an executor says that it did.
pub(super) fn restored_from_wire(step: wire::Restored) -> Restored {
    let one = |l: wire::Leftover| Leftover {
        quarantined: l.quarantined,
        original: l.original,
        restored: l.restored,
        detail: l.detail,
        device: l.device,
    };
    Restored { leftovers: step.leftovers.into_iter().map(one).collect(), more: step.more }
}

/// What is kept aside, for the agent and for the collector.
pub(crate) fn aside_to_wire(aside: &[HeldAside]) -> Vec<wire::HeldAside> {
    let one = |a: &HeldAside| wire::HeldAside {
        hold: a.hold.clone(),
        files: a.files,
        kept_bytes: a.kept_bytes,
        lacks: a.lacks.clone(),
        released: a.released,
    };
    aside.iter().map(one).collect()
}

/// What an executor says that it keeps aside; as many holds as there were in its folders and are in force at most.
pub(super) fn aside_from_wire(aside: Vec<wire::HeldAside>) -> Result<Vec<HeldAside>, Refused> {
    const MOST: usize = 64 * MAX_HOLDS;
    if aside.len() > MOST {
        return Err(Refused::new("aside.holds", format!("{} are over {MOST}", aside.len())));
    }
    let one = |a: wire::HeldAside| HeldAside {
        hold: a.hold,
        files: a.files,
        kept_bytes: a.kept_bytes,
        lacks: a.lacks,
        released: a.released,
    };
    Ok(aside.into_iter().map(one).collect())
}

fn hold_to_wire(hold: &NodeHold) -> wire::NodeHold {
    let mut out = wire::NodeHold { id: hold.id.clone(), reason: hold.reason.clone(), ..Default::default() };
    match &hold.what {
        HeldThing::Path(path) => out.path = path.as_os_str().as_bytes().to_vec().into(),
        HeldThing::Pod { namespace, pod } => {
            out.namespace.clone_from(namespace);
            out.pod.clone_from(pod);
        }
        HeldThing::Node => out.whole_node = true,
    }
    out
}

/// A whole set, or the first mistake in it by name: half a set would let go what the other half holds.
pub(crate) fn holds_from_wire(holds: Vec<wire::NodeHold>) -> Result<Vec<NodeHold>, Refused> {
    if holds.len() > MAX_HOLDS {
        return Err(Refused::new("holds", format!("{} are over {MAX_HOLDS}", holds.len())));
    }
    holds.into_iter().map(hold_from_wire).collect()
}

fn hold_from_wire(hold: wire::NodeHold) -> Result<NodeHold, Refused> {
    let pod = !hold.pod.is_empty() && !hold.namespace.is_empty();
    let what = match (hold.whole_node, hold.path.is_empty(), pod) {
        (true, true, false) => HeldThing::Node,
        (false, false, false) => {
            let path = PathBuf::from(std::ffi::OsString::from_vec(hold.path.to_vec()));
            if !path.is_absolute() {
                return Err(Refused::new(
                    "hold.path",
                    format!("{} of {} is not absolute", path.display(), hold.id),
                ));
            }
            HeldThing::Path(path)
        }
        (false, true, true) => HeldThing::Pod { namespace: hold.namespace, pod: hold.pod },
        _ => return Err(Refused::new("hold", format!("{} names not exactly one thing", hold.id))),
    };
    Ok(NodeHold { id: hold.id, what, reason: hold.reason })
}
