//! What the collector holds on this node: taken, put in force, answered.
//!
//! Keeping a set touches the disk and the executor, which the core never waits for; a thread of its own does
//! ([`crate::act::hold_line`]) and says what came of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dogwatch::clock;
use dogwatch::record::{Body, Stream};
use dogwatch::wire;

use super::{Core, answer_error};
use crate::act::held_links::{HeldAside, Step};
use crate::act::hold::{Hold, NodeHold};
use crate::act::wire::{aside_to_wire, holds_from_wire};
use crate::uplink::CommandCall;

/// Sets that wait to be kept at most; the collector sends one at a time.
const MAX_WAITING: usize = 4;

/// Between two notes on a release that goes on: a large one takes minutes.
const NOTE_EVERY_NS: u64 = 60_000_000_000;
/// Most of a hold's reasons in a pulse, in characters; the record has them whole.
const MAX_LACKS_CHARS: usize = 200;

/// A set that was kept, or not.
#[derive(Debug)]
pub struct Held {
    /// How many holds there are.
    pub count: usize,
    /// The places that are held from now on.
    pub places: Vec<Hold>,
    /// Ids of those on paths at which nothing is now.
    pub absent: Vec<String>,
    /// Whether it is durable; if not, why. `None`: no set came, but what the last run kept is known, or where the present set
    /// lies was looked at again. That answers nobody.
    pub kept: Option<Result<(), String>>,
    /// Why everything is held though nobody said so, if it is: what is held is not known, or where it lies.
    pub unknown: Option<String>,
}

/// What the core knows of holds.
#[derive(Debug, Default)]
pub(super) struct HoldState {
    waiting: VecDeque<CommandCall>,
    /// What the collector said last.
    last: Option<Vec<NodeHold>>,
    /// What was kept aside for each of them when all of it was last looked at.
    aside: Vec<HeldAside>,
    /// The same for every pulse, its reasons cut short.
    said_aside: Arc<[wire::HeldAside]>,
    /// When it was noted last how far a release is that goes on.
    released_boot_ns: Option<u64>,
    /// Why the last set would not survive a restart, if so.
    unkept: Option<String>,
    /// What the node cannot do because of them, in words.
    pub(super) unable: Option<String>,
}

impl HoldState {
    /// What is kept aside, for a pulse.
    pub(super) fn said_aside(&self) -> Arc<[wire::HeldAside]> {
        Arc::clone(&self.said_aside)
    }
}

impl Core {
    /// The collector says what is held here.
    pub(super) fn on_holds(&mut self, set: wire::SetHolds, call: CommandCall) {
        if self.holds.waiting.len() >= MAX_WAITING {
            return answer_error(
                call,
                "as many sets of holds wait already as the node takes at once; try again",
            );
        }
        let holds = match holds_from_wire(set.holds) {
            Ok(holds) => holds,
            Err(e) => {
                return answer_error(
                    call,
                    &format!("a hold does not make sense to this agent ({e}); what it knew stays in force"),
                );
            }
        };
        let words = said(&holds);
        if self.wires.holds.send(holds.clone()).is_err() {
            return answer_error(call, "the agent is stopping");
        }
        // The collector sends the whole set at each connection and while it is not kept: only a change is news.
        let before = self.holds.last.as_ref();
        if before != Some(&holds) && !(before.is_none() && holds.is_empty()) {
            tracing::info!(holds = words, "the collector says what is held here");
            self.wires.recorder.push(Stream::Urgent, clock::now(), Body::Note(words));
        }
        self.holds.last = Some(holds);
        self.holds.waiting.push_back(call);
    }

    /// What is held was linked aside, and what is not held any more let go of: that is news. Of a sweep that goes on, now
    /// and then what went so far.
    pub(super) fn on_aside(&mut self, step: Step) {
        let now_boot_ns = clock::now().boot_ns;
        let (over, kept): (Vec<_>, Vec<_>) = step.holds.into_iter().partition(|a| a.released);
        if step.more {
            let last = *self.holds.released_boot_ns.get_or_insert(now_boot_ns);
            if over.is_empty() || now_boot_ns.saturating_sub(last) < NOTE_EVERY_NS {
                return;
            }
            self.holds.released_boot_ns = Some(now_boot_ns);
        } else {
            self.holds.released_boot_ns = None;
        }
        for gone in over.iter().filter(|a| a.files > 0 || !a.lacks.is_empty()) {
            let so_far = if step.more { " so far" } else { "" };
            let mut words = format!(
                "{} is over: {} files that were linked aside for it went{so_far}, with {} bytes that had no other name",
                gone.hold, gone.files, gone.kept_bytes
            );
            if !gone.lacks.is_empty() {
                words = format!("{words}; {}", gone.lacks);
            }
            self.wires.recorder.push(Stream::Urgent, clock::now(), Body::Note(words));
        }
        if step.more {
            return;
        }
        for now in &kept {
            let before = self.holds.aside.iter().find(|a| a.hold == now.hold);
            if now.lacks != before.map_or("", |b| b.lacks.as_str()) && !now.lacks.is_empty() {
                let words = format!("{} is not wholly kept aside: {}", now.hold, now.lacks);
                tracing::warn!("{words}");
                self.wires.recorder.push(Stream::Urgent, clock::now(), Body::Note(words));
            }
        }
        let short = |a: &wire::HeldAside| wire::HeldAside {
            lacks: a.lacks.chars().take(MAX_LACKS_CHARS).collect(),
            ..a.clone()
        };
        self.holds.said_aside = aside_to_wire(&kept).iter().map(short).collect();
        self.holds.aside = kept;
    }

    /// A set is in force.
    pub(super) fn on_held(&mut self, held: Held) {
        self.responder.set_holds(held.places);
        self.wires.figures.holds.store(held.count as u64, Ordering::Relaxed);
        if let Some(kept) = &held.kept {
            self.holds.unkept = kept.as_ref().err().cloned();
        }
        self.holds.unable = match (&held.unknown, &self.holds.unkept) {
            (Some(why), _) => Some(format!("clean up: {why}")),
            (None, Some(why)) => Some(format!("keep what is held over a restart: {why}")),
            (None, None) => None,
        };
        // A set may have come before that was told.
        let Some(kept) = held.kept else { return };
        let Some(call) = self.holds.waiting.pop_front() else { return };
        match kept {
            Ok(()) => {
                let id = call.command.id.clone();
                // Whoever asked may have gone away; it asks again when it is back.
                let _ = call.reply.send(wire::CommandResult {
                    id,
                    ok: true,
                    absent_holds: held.absent,
                    held_aside: aside_to_wire(&self.holds.aside),
                    ..Default::default()
                });
            }
            Err(why) => answer_error(
                call,
                &format!("the holds are in force, but would not survive a restart of the agent: {why}"),
            ),
        }
    }
}

/// A set in a sentence, for the record.
fn said(holds: &[NodeHold]) -> String {
    const SHOWN: usize = 16;
    if holds.is_empty() {
        return "nothing is held on this node any more".to_owned();
    }
    let ids: Vec<&str> = holds.iter().take(SHOWN).map(|h| h.id.as_str()).collect();
    let more = if holds.len() > SHOWN { format!(" and {} more", holds.len() - SHOWN) } else { String::new() };
    format!("held on this node from now on: {}{more}", ids.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use dogwatch::record::{CleanupMode, Hash, Incarnation, NodeName};
    use ed25519_dalek::SigningKey;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::act::at_work::AtWork;
    use crate::act::permit::Gate;
    use crate::act::policy::{Budgets, Policy, Rules};
    use crate::act::respond::{Respond, Settings};
    use crate::core::{BrakeWires, CoreConfig, Wires};
    use crate::detect::{DetectConfig, Detectors};
    use crate::health::Figures;
    use crate::record::{self, RecordConfig};

    /// A core that nobody runs, over a record in `dir`; and where its sets of holds go.
    pub(in crate::core) fn core(dir: &std::path::Path) -> (Core, mpsc::Receiver<Vec<NodeHold>>) {
        let node: NodeName = "a".parse().unwrap();
        let config = RecordConfig {
            state_dir: dir.to_owned(),
            node: node.clone(),
            segment_bytes: 1 << 20,
            urgent_bytes: 2 << 20,
            evidence_bytes: 2 << 20,
            recorder_bytes: 2 << 20,
            handed_over: true,
        };
        let key = SigningKey::from_bytes(&[1; 32]);
        let (recorder, _writer, _) = record::open(&config, key, [2; 16], || [3; 16]).unwrap();
        let policy = Policy { mode: CleanupMode::Off, roots: Vec::new(), budgets: Budgets::default() };
        let gate = Gate::open(node.clone(), Hash::ZERO);
        let responder = Respond::new(Rules::new(policy).unwrap(), Settings::default(), gate, Box::new(|| 1));
        let (holds, kept) = mpsc::channel();
        let wires = Wires {
            inbox: mpsc::channel().1,
            recorder,
            jobs: mpsc::channel().0,
            at_work: AtWork::default(),
            holds,
            ballast: None,
            brake: BrakeWires {
                line: mpsc::channel().0,
                outgoing: crate::uplink::brake::ends().2,
                unkept: Arc::default(),
            },
            marks: None,
            kernel_marks: None,
            lookouts: super::super::Lookouts::default(),
            pulse: watch::Sender::new(None),
            figures: Arc::<Figures>::default(),
        };
        let every = Duration::from_secs(1);
        let core_config = CoreConfig { sample_every: every, evidence_every: every };
        let detectors = Detectors::new(DetectConfig::default(), node, Incarnation([3; 16]));
        (Core::new(core_config, wires, detectors, responder, Vec::new()), kept)
    }

    fn set(paths: &[&str]) -> wire::SetHolds {
        let hold = |path: &&str| wire::NodeHold {
            id: format!("hold-{path}"),
            path: path.as_bytes().to_vec().into(),
            ..Default::default()
        };
        wire::SetHolds { holds: paths.iter().map(hold).collect() }
    }

    #[test]
    fn a_set_is_kept_each_time_and_noted_when_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, kept) = core(dir.path());
        let mut notes = |paths: &[&str]| {
            let before = core.wires.recorder.next_seq(Stream::Urgent);
            let (reply, _answer) = oneshot::channel();
            core.on_holds(set(paths), CommandCall { command: wire::Command::default(), reply });
            assert_eq!(kept.try_recv().unwrap().len(), paths.len(), "it goes to be kept, said or not");
            core.on_held(Held {
                count: paths.len(),
                places: Vec::new(),
                absent: Vec::new(),
                kept: Some(Ok(())),
                unknown: None,
            });
            core.wires.recorder.next_seq(Stream::Urgent) - before
        };
        assert_eq!(notes(&[]), 0, "nothing was held and nothing is");
        assert_eq!(notes(&["/a"]), 1);
        for _ in 0..3 {
            assert_eq!(notes(&["/a"]), 0, "the same at each connection");
        }
        assert_eq!(notes(&["/a", "/b"]), 1);
        assert_eq!(notes(&[]), 1, "that it is over is news");
        assert_eq!(notes(&[]), 0);
    }

    #[test]
    fn a_set_that_waits_is_not_answered_by_what_the_last_run_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, _kept) = core(dir.path());
        let (reply, mut answer) = oneshot::channel();
        core.on_holds(set(&["/a"]), CommandCall { command: wire::Command::default(), reply });
        let held = |kept| Held { count: 0, places: Vec::new(), absent: Vec::new(), kept, unknown: None };
        core.on_held(held(None));
        assert!(answer.try_recv().is_err(), "it is not kept yet");
        core.on_held(held(Some(Ok(()))));
        assert!(answer.try_recv().unwrap().ok);
    }

    #[test]
    fn another_look_says_what_is_unknown_and_forgets_nothing_of_the_set() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, _kept) = core(dir.path());
        let mut unable = |unknown: Option<&str>, kept| {
            let unknown = unknown.map(str::to_owned);
            core.on_held(Held { count: 1, places: Vec::new(), absent: Vec::new(), kept, unknown });
            core.holds.unable.clone().unwrap_or_default()
        };
        let full = || Some(Err("the disk is full".to_owned()));
        let why = "what is held here is not known: x";
        assert_eq!(unable(Some(why), full()), format!("clean up: {why}"));
        assert_eq!(unable(None, None), "keep what is held over a restart: the disk is full");
        assert_eq!(unable(Some(why), Some(Ok(()))), format!("clean up: {why}"));
        assert_eq!(unable(None, None), "");
    }
}
