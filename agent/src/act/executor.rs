//! The executor: the one process that removes anything.
//!
//! A child of the agent, started before anything hostile is parsed. Its first message is its [`Setup`]; from then on it
//! obeys that policy and nothing else: every object of every plan is judged again (`cleaner`, `vet`, `remove`), so that a parent
//! that was taken over can name only what the policy would let go anyway.
//!
//! Life: take the setup, close every other descriptor, open the roots and their quarantines, confine, say [`Ready`], then
//! answer requests one at a time until the parent is gone; to put back what a crash left is one of them, in steps.
//!
//! What is held it is told ([`HeldNow`]), also in the midst of an action; until the first time everything is.
//!
//! Ages are reckoned by a clock of its own ([`AgeClock`]), so that one that is ahead makes no file older.
//!
//! Invariants: one thread; no tokio; no network; no file written (a live log is cut by a hole, where a root says so). It looks whether its parent lives before each object.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{FileSeen, Refusal};
use dogwatch::wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::age_clock::{AgeClock, Before, Present};
use super::channel::{Channel, ChannelError};
use super::child::{self, Begun};
use super::cleaner::{Cleaner, News, Parent};
use super::clock_file::{self, LOOK_EVERY};
pub use super::confine::{Confinement, Enforcement};
use super::confine::{confine, die_with_parent};
use super::hold_line::HeldNow;
pub use super::leftovers::{Leftover, Restored};
use super::plan::Survey;
use super::policy::{Policy, ROOT_OFF};
use super::wire::{
    action_from_wire, action_to_wire, aside_to_wire, candidate_to_wire, held_from_wire, refusals_to_wire,
    restored_to_wire, spent_from_wire,
};
use super::witness::Verdict;
use crate::io_priority::{self, IoPriority};

/// Version of [`Setup`] and [`Ready`]; both ends are the same binary, so that any other means a mix-up.
pub(super) const VERSION: u32 = 1;
/// Actions that were told to end and are remembered; their ids do not come again.
const MAX_HALTED: usize = 32;
/// Between two words on how far an action is; nobody looks more often.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Candidates in one part of a survey: with the longest paths a quarter of a MiB.
const CANDIDATES_A_PART: usize = 64;

/// What the executor is started with; its first message, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    pub(super) version: u32,
    pub(super) parent: u32,
    pub(super) policy: Policy,
    pub(super) state_dir: PathBuf,
    clock: Before,
}

impl Setup {
    pub(super) fn new(policy: Policy, state_dir: PathBuf) -> Self {
        let clock = clock_file::read(&state_dir);
        Self { version: VERSION, parent: std::process::id(), policy, state_dir, clock }
    }
}

/// How an executor stands, from its first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    version: u32,
    /// Its process id.
    pub pid: u32,
    /// What it gave up.
    pub confinement: Confinement,
    /// Why it cannot clean at all, if it cannot.
    pub unable: Option<String>,
    /// Every root of the policy.
    pub roots: Vec<RootStatus>,
}

impl Ready {
    /// What a child without roots says.
    pub(super) fn of_child(confinement: Confinement, unable: Option<String>) -> Self {
        Self { confinement, unable, ..Self::unknown(std::process::id()) }
    }

    /// The roots that cannot be used though they should be, and why.
    pub(super) fn unusable(&self) -> impl Iterator<Item = (&Path, &str)> {
        let each = self.roots.iter().filter_map(|r| Some((r.path.as_path(), r.unusable.as_deref()?)));
        each.filter(|(_, why)| *why != ROOT_OFF)
    }

    /// Of the process `pid`, before it has spoken.
    pub(super) fn unknown(pid: u32) -> Self {
        Self {
            version: VERSION,
            pid,
            confinement: Confinement {
                landlock: Enforcement::NotEnforced,
                no_new_privileges: false,
                capabilities: 0,
                lacks: Vec::new(),
            },
            unable: Some("the executor has not spoken yet".to_owned()),
            roots: Vec::new(),
        }
    }
}

/// Whether a root can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// The root.
    pub path: PathBuf,
    /// The filesystem that it lies on, if it can be used: the device number in the table of mounts.
    pub device: Option<u64>,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
}

/// The executor's `main`: speaks over the socket `socket`, which it takes over. Returns when the parent has closed its
/// end (success) or speaks nonsense (failure).
///
/// Must be called in a process of its own that has opened nothing else: every other descriptor is closed.
pub fn child_main(socket: RawFd) -> ExitCode {
    child::main("executor", socket, serve)
}

impl child::Setup for Setup {
    fn sender(&self) -> (u32, u32) {
        (self.version, self.parent)
    }
}

fn serve(socket: OwnedFd) -> Result<(), String> {
    let Begun { channel, setup, lacks } = Begun::<Setup>::new(socket)?;
    // It walks folders and reads what goes, on a disk that others are at. Not what they leave alone: on a full disk that they
    // keep busy nothing would ever go.
    io_priority::set(IoPriority::Smallest);
    let (mut cleaner, roots) = Cleaner::open(setup.policy, &setup.state_dir);
    let mut confinement = confine(&cleaner.reach());
    confinement.lacks.extend(lacks);
    // A kernel clears the signal when credentials change.
    die_with_parent(setup.parent)?;
    let ready = Ready {
        version: VERSION,
        pid: std::process::id(),
        confinement,
        unable: cleaner.unable.clone(),
        roots,
    };
    child::say_ready(&channel, &ready)?;

    let halted = Halted::default();
    let ages = RefCell::new(AgeClock::begin(setup.clock, clock::now()));
    let present = || ages.borrow_mut().look(clock::now());
    loop {
        let heard = channel.wait_for_message(Instant::now() + LOOK_EVERY);
        // Whatever was asked, or nothing: a clock that was set right a while ago is to be believed by the time that a survey
        // is, and one that was behind meanwhile is to be known.
        present();
        if let Err(ChannelError::Late) = heard {
            continue;
        }
        let request = match channel.receive(None) {
            Ok(request) => request,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(format!("request: {error}")),
        };
        let request =
            wire::ExecutorRequest::decode(request.as_slice()).map_err(|e| format!("request: {e}"))?;
        match answer(&mut cleaner, &channel, &halted, &present, request) {
            Ok(()) => {}
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(format!("reply: {error}")),
        }
    }
}

fn answer(
    cleaner: &mut Cleaner,
    channel: &Channel,
    halted: &Halted,
    present: &dyn Fn() -> Present,
    request: wire::ExecutorRequest,
) -> Result<(), ChannelError> {
    use wire::executor_reply::Reply;
    use wire::executor_request::Request;
    let id = request.id;
    let send = |reply: Reply| {
        let reply = wire::ExecutorReply { id, reply: Some(reply) };
        channel.send(&reply.encode_to_vec(), None)
    };
    match request.request {
        Some(Request::Survey(wire::Survey { device })) => match cleaner.survey(device, present()) {
            Err(why) => send(Reply::Error(why)),
            Ok(found) => send_survey(&found, &send),
        },
        Some(Request::Apply(wire::Apply { plan: Some(plan) })) => match action_from_wire(plan) {
            Err(why) => send(Reply::Error(format!("the plan does not make sense: {why}"))),
            Ok(plan) => {
                let office = Office::new(channel, id, halted, plan.id.clone());
                let applied = cleaner.apply(plan, present, &office);
                // A hold may have come with the last answer.
                if let Some(now) = office.held.take() {
                    cleaner.hold(now);
                }
                send(Reply::Applied(action_to_wire(&applied)))
            }
        },
        Some(Request::Held(held)) => {
            cleaner.hold(held_from_wire(held));
            Ok(())
        }
        Some(Request::Aside(wire::Aside { may_release })) => {
            let office = Office::new(channel, id, halted, String::new());
            let step = cleaner.keep_aside(may_release, &office);
            if let Some(now) = office.held.take() {
                cleaner.hold(now);
            }
            send(match step {
                Ok(step) => {
                    Reply::Aside(wire::AsideDone { holds: aside_to_wire(&step.holds), more: step.more })
                }
                Err(why) => Reply::Error(why),
            })
        }
        Some(Request::Restore(wire::Restore {})) => {
            send(Reply::Restored(restored_to_wire(cleaner.restore_leftovers_step())))
        }
        Some(Request::Witnessed(_)) => send(Reply::Error("an answer to what was not asked".to_owned())),
        Some(Request::Stop(stop)) => {
            halted.add(stop);
            Ok(())
        }
        Some(Request::Spent(spent)) => {
            cleaner.spent(&spent_from_wire(&spent));
            Ok(())
        }
        Some(Request::Apply(wire::Apply { plan: None })) => send(Reply::Error("no plan to apply".to_owned())),
        None => send(Reply::Error("a request of a newer version".to_owned())),
    }
}

/// Sends a survey in parts.
pub(super) fn send_survey(
    found: &Survey,
    send: &dyn Fn(wire::executor_reply::Reply) -> Result<(), ChannelError>,
) -> Result<(), ChannelError> {
    use wire::executor_reply::Reply;
    let mut passed_over = refusals_to_wire(&found.passed_over);
    if let Some(partial) = &found.partial {
        let partial = Refusal { path: None, reason: format!("{PARTIAL}{partial}") };
        passed_over.extend(refusals_to_wire(&[partial]));
    }
    for candidates in found.candidates.chunks(CANDIDATES_A_PART) {
        let candidates = candidates.iter().map(candidate_to_wire).collect();
        send(Reply::Part(wire::SurveyPart { candidates, passed_over: Vec::new(), last: false }))?;
    }
    send(Reply::Part(wire::SurveyPart { candidates: Vec::new(), passed_over, last: true }))
}

/// What came in the midst of an action that asks for nothing meanwhile.
pub(super) fn news(channel: &Channel, halted: &Halted, action: &str) -> News {
    // No request has this number, so that no answer is expected.
    Office::new(channel, 0, halted, action.to_owned()).news()
}

/// Actions that are to end, and why; the newest.
#[derive(Default)]
pub(super) struct Halted(RefCell<VecDeque<wire::StopAction>>);

impl Halted {
    pub(super) fn add(&self, stop: wire::StopAction) {
        let mut stops = self.0.borrow_mut();
        if stops.iter().any(|known| known.action_id == stop.action_id) {
            return;
        }
        if stops.len() >= MAX_HALTED {
            stops.pop_front();
        }
        stops.push_back(stop);
    }

    fn why(&self, action: &str) -> Option<String> {
        self.0.borrow().iter().find(|s| s.action_id == action).map(|s| s.reason.clone())
    }
}

/// The agent at the other end of the channel, while an action is carried out.
struct Office<'c> {
    channel: &'c Channel,
    /// The number of the action's request.
    request: u64,
    halted: &'c Halted,
    /// Its id; empty where it is none that could be stopped.
    action: String,
    /// What came while something else was waited for.
    held: RefCell<Option<HeldNow>>,
    /// What stays of what was witnessed last.
    stays: RefCell<HashMap<usize, String>>,
    /// When it was said last how far the action is.
    told: Cell<Instant>,
}

impl<'c> Office<'c> {
    fn new(channel: &'c Channel, request: u64, halted: &'c Halted, action: String) -> Self {
        let told = Cell::new(Instant::now());
        let (held, stays) = Default::default();
        Self { channel, request, halted, action, held, stays, told }
    }

    /// The next thing that the agent says; what is held is put by.
    fn hear(&self) -> Result<Option<wire::Witnessed>, String> {
        use wire::executor_request::Request;
        let request = self.channel.receive(None).map_err(|e| format!("the agent could not be heard: {e}"))?;
        match wire::ExecutorRequest::decode(request.as_slice()) {
            Ok(wire::ExecutorRequest { request: Some(Request::Held(now)), .. }) => {
                self.held.replace(Some(held_from_wire(now)));
                Ok(None)
            }
            Ok(wire::ExecutorRequest { request: Some(Request::Stop(stop)), .. }) => {
                self.halted.add(stop);
                Ok(None)
            }
            Ok(wire::ExecutorRequest { id, request: Some(Request::Witnessed(said)) })
                if id == self.request =>
            {
                Ok(Some(said))
            }
            _ => Err("the agent said something else in the midst of an action".to_owned()),
        }
    }
}

impl Parent for Office<'_> {
    fn news(&self) -> News {
        let mut wrong = None;
        while wrong.is_none() && !self.channel.is_closed() && self.channel.has_message() {
            wrong = match self.hear() {
                Ok(None) => None,
                Ok(Some(_)) => Some("the agent answered what it was not asked".to_owned()),
                Err(why) => Some(why),
            };
        }
        let ended = self.channel.is_closed().then(|| "the agent ended".to_owned());
        let stopped = self.halted.why(&self.action).map(|why| format!("stopped: {why}"));
        News { held: self.held.take(), stop: ended.or(wrong).or(stopped) }
    }

    fn progress(&self, objects_done: u64, freed_bytes: u64) {
        if self.told.get().elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told.set(Instant::now());
        let so_far = wire::Progress { objects_done, freed_bytes };
        let reply = Some(wire::executor_reply::Reply::Progress(so_far));
        let reply = wire::ExecutorReply { id: self.request, reply };
        // An agent that is gone shows before the next object.
        let _ = self.channel.send(&reply.encode_to_vec(), None);
    }

    fn stays(&self) -> HashMap<usize, String> {
        self.stays.take()
    }

    fn witness(&self, seen: FileSeen) -> Result<Verdict, String> {
        let reply = Some(wire::executor_reply::Reply::Seen((&seen).into()));
        let reply = wire::ExecutorReply { id: self.request, reply };
        let failed = |e: ChannelError| format!("the agent could not be told: {e}");
        self.channel.send(&reply.encode_to_vec(), None).map_err(failed)?;
        loop {
            match self.hear()? {
                None => {}
                Some(said) if !said.refused.is_empty() => return Err(said.refused),
                Some(said) if said.digest_suffices => return Ok(Verdict::DigestSuffices),
                Some(said) => {
                    let stays = said.stays.into_iter().map(|s| (s.nth as usize, s.reason));
                    self.stays.replace(stays.collect());
                    return Ok(Verdict::Kept);
                }
            }
        }
    }
}

/// What a survey's part says in front of the reason for which it is partial.
pub(super) const PARTIAL: &str = "partial: ";

#[cfg(test)]
mod tests {
    use super::super::hold::HoldSet;
    use super::super::wire::{halt_request, held_request};
    use super::*;

    #[test]
    fn a_stop_and_a_hold_that_come_together_are_both_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_socket(theirs).unwrap();
        let now = HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/host".into() };
        for together in [
            [halt_request("a-1", "enough"), held_request(&now)],
            [held_request(&now), halt_request("a-1", "enough")],
        ] {
            let halted = Halted::default();
            together.iter().for_each(|message| ours.send(message, None).unwrap());
            let office = Office::new(&theirs, 1, &halted, "a-1".to_owned());
            let News { held, stop } = office.news();
            assert_eq!((held.as_ref(), stop.as_deref()), (Some(&now), Some("stopped: enough")));
            let News { held, stop } = office.news();
            assert_eq!((held, stop.as_deref()), (None, Some("stopped: enough")), "the stop lasts");
            together.iter().for_each(|message| ours.send(message, None).unwrap());
            let News { held, stop } = news(&theirs, &Halted::default(), "a-2");
            assert_eq!((held.as_ref(), stop), (Some(&now), None), "another action's");
        }
        drop(ours);
        // A process that another test is just starting may hold a copy until its exec.
        while !theirs.is_closed() {
            std::thread::yield_now();
        }
        let halted = Halted::default();
        assert_eq!(news(&theirs, &halted, "a-1").stop.as_deref(), Some("the agent ended"));
    }
}
