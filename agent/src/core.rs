//! The core: one thread that owns what the agent knows, from samples and lines to findings, plans and records.
//!
//! It waits on one bounded inbox and never on a disk, a peer or the executor: recording does not block, the executor
//! has a thread of its own ([`crate::act::work`]), and the one wait that is right (an action's record must be durable
//! before the action) has a deadline and a consequence: the action is refused.
//!
//! It is the only pusher of the evidence stream, and so knows the seq that its next record will have; that is how a
//! finding can cite a sample that is recorded only because the finding cites it.

mod acting;
pub mod ballast;
mod brake;
mod causes;
mod figures;
mod growth;
mod holds;
mod jobs;
mod kernel;
mod kubelet;
mod lines;
mod not_holding;
mod pace;
mod reload;
mod usage;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{
    Action, ActionState, Body, Finding, FindingState, Moment, RecordRef, Sample, Seq, Stream,
};
use dogwatch::wire;
use dogwatch::wire::command::Command as Wanted;
use tokio::sync::watch;

use crate::act::at_work::AtWork;
use crate::act::hold::NodeHold;
use crate::act::permit::Word;
use crate::act::respond::{Command, Order, Respond, Step, Unmet};
use crate::act::work::{Done, Job};
use crate::ballast::{Ask, Told};
use crate::detect::Detectors;
use crate::health::Figures;
use crate::kmsg;
use crate::record::{Recorder, Settlement};
use crate::sample::Pace;
use crate::tail::{Mark, TailEvent};
use crate::uplink::{CommandCall, Pulse};
use crate::usage::rounds::Grown;
use crate::usage::scout::Answer;
pub use brake::{BrakeNews, BrakeWires, follow as follow_brake};
pub use holds::Held;
use holds::HoldState;
use pace::EvidenceTurns;
pub use reload::{Live, Reload};
pub use usage::Lookouts;

/// Messages that wait for the core at most.
pub const INBOX: usize = 256;
/// How long an action waits for its record to be durable before it is refused.
const DURABLE_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether a record is durable while an action waits for it.
const SETTLE_POLL: Duration = Duration::from_millis(5);
/// Evidence samples that are remembered, so that a citation of an older sample can name the nearest that was shipped:
/// two hours at one each ten seconds.
const REMEMBERED_SAMPLES: usize = 720;
/// Orders of people that wait for their outcome at most.
const MAX_ORDERS: usize = 16;

/// What comes in.
#[derive(Debug)]
pub enum Message {
    /// A tick's readings.
    Sample(Moment, Box<Sample>),
    /// Events of the tail, in order.
    Tail(Vec<TailEvent>),
    /// What the kernel said.
    Kernel(kmsg::Batch),
    /// A command of the collector's.
    Command(CommandCall),
    /// The executor's thread has a result.
    Done(Done),
    /// What is held is in force.
    Held(Held),
    /// How the ballast is.
    Ballast(Told),
    /// Something that the agent cannot do, or again can.
    Unable(Vec<String>),
    /// What the collector says of cleanups.
    Brake(BrakeNews),
    /// Who fills a mount.
    Cause(Box<Answer>),
    /// A mount was walked.
    Grown(Arc<Grown>),
    /// Samples come at another interval from now on.
    Pace(Pace),
    /// The configuration changed, or a new one cannot be used.
    Reload(Box<Reload>),
    /// The kubelet holds to something else.
    Kubelet(Box<Option<crate::kubelet::Kubelet>>),
    /// Time to end.
    Stop,
}

/// How the core works.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// How often samples come.
    pub sample_every: Duration,
    /// How often one goes to the evidence stream that nothing cites.
    pub evidence_every: Duration,
}

/// What the core is connected to.
#[derive(Debug)]
pub struct Wires {
    /// Everything that comes in.
    pub inbox: Receiver<Message>,
    /// The record.
    pub recorder: Recorder,
    /// Where jobs for the executor go.
    pub jobs: Sender<Job>,
    /// What whoever takes them is at.
    pub at_work: AtWork,
    /// Where sets of holds go to be kept.
    pub holds: Sender<Vec<NodeHold>>,
    /// Who looks after the ballast; `None`: nobody.
    pub ballast: Option<SyncSender<Ask>>,
    /// Where words on cleanups go.
    pub brake: BrakeWires,
    /// Marks of the tail that are durable.
    pub marks: Option<Sender<Vec<Mark>>>,
    /// Marks of the kernel's log that are durable.
    pub kernel_marks: Option<Sender<kmsg::Mark>>,
    /// Who is asked what fills a mount.
    pub lookouts: Lookouts,
    /// Figures of now, for the uplink.
    pub pulse: watch::Sender<Option<Pulse>>,
    /// Counters, for metrics.
    pub figures: Arc<Figures>,
}

/// A mark of the tail, and the seqs that must be durable before it is.
#[derive(Debug)]
struct Pending {
    needs: [Seq; 3],
    mark: Mark,
}

/// An action's record on its way to the disk.
#[derive(Debug)]
struct Recording {
    seq: Seq,
    action: Box<Action>,
    deadline_boot_ns: u64,
}

/// The owner.
pub struct Core {
    config: CoreConfig,
    wires: Wires,
    detectors: Detectors,
    responder: Respond,
    last_sample: Option<Moment>,
    evidence: EvidenceTurns,
    /// (recorder seq, evidence seq) of samples that are in both streams.
    shipped: VecDeque<(Seq, Seq)>,
    pending: VecDeque<Pending>,
    /// Who asked for figures, and when: a sample begun before that does not answer it.
    asking: Vec<(u64, CommandCall)>,
    ordering: Vec<CommandCall>,
    recording: Vec<Recording>,
    unable: Vec<String>,
    unable_parts: Vec<String>,
    /// Why samples come less often than configured.
    saving: Option<String>,
    evictions: kubelet::Evictions,
    problem_notes: usize,
    not_holding: BTreeMap<(String, String), Finding>,
    holds: HoldState,
    acting: acting::Acting,
    ballast: ballast::BallastState,
    /// Whether the collector is reached, and has a brake.
    link_up: Option<(bool, bool)>,
    /// The state of its brake that is in force here.
    heard: Option<Word>,
    /// The collector's newest word that was not followed: revision and lineage.
    overtaken: Option<(u64, u64)>,
    kernel: kernel::Kernel,
    causes: causes::Causes,
    grows: growth::Grows,
}

impl Core {
    /// A core that begins with what the last run left: findings that were active then.
    pub fn new(
        config: CoreConfig,
        mut wires: Wires,
        detectors: Detectors,
        responder: Respond,
        unable: Vec<String>,
    ) -> Self {
        let kernel = kernel::Kernel::new(wires.kernel_marks.take());
        let ballast = ballast::BallastState::new(wires.ballast.take());
        // The collector is told what is in force here before it says anything.
        let heard = responder.gate().word().cloned();
        let policy = responder.gate().policy();
        wires.brake.outgoing.send_modify(|outgoing| {
            outgoing.heard.clone_from(&heard);
            outgoing.policy = Some(policy);
        });
        Self {
            evidence: EvidenceTurns::new(config.evidence_every),
            config,
            wires,
            detectors,
            responder,
            last_sample: None,
            shipped: VecDeque::new(),
            pending: VecDeque::new(),
            asking: Vec::new(),
            ordering: Vec::new(),
            recording: Vec::new(),
            unable,
            unable_parts: Vec::new(),
            saving: None,
            evictions: kubelet::Evictions::default(),
            problem_notes: 0,
            not_holding: BTreeMap::new(),
            holds: HoldState::default(),
            acting: acting::Acting::default(),
            ballast,
            link_up: None,
            heard,
            overtaken: None,
            kernel,
            causes: causes::Causes::new(),
            grows: growth::Grows::new(),
        }
    }

    /// Takes up findings of the last run; those that no detector owns any more are cleared.
    pub fn seed(&mut self, mut active: Vec<Finding>) {
        let now = clock::now();
        active.iter_mut().for_each(causes::accuse_nobody);
        for mut orphan in self.detectors.seed(active) {
            if not_holding::RULES.contains(&orphan.rule.as_str()) {
                self.responder.seed(&orphan);
                self.not_holding.insert((orphan.rule.clone(), orphan.subject.name.clone()), orphan);
                continue;
            }
            orphan.state = FindingState::Cleared;
            orphan.explanation = "no detector of this version watches for it any more".to_owned();
            self.wires.recorder.push(Stream::Urgent, now, Body::Finding(Box::new(orphan)));
        }
    }

    /// Works until stopped, or until everyone who sends is gone.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            let message = if self.recording.is_empty() {
                self.wires.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.wires.inbox.recv_timeout(SETTLE_POLL)
            };
            let message = match message {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    self.settle();
                    self.ask_for_permits();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match message {
                Message::Sample(at, sample) => self.on_sample(at, sample),
                Message::Tail(batch) => batch.into_iter().for_each(|e| self.on_tail(e)),
                Message::Kernel(batch) => self.on_kernel(batch),
                Message::Command(call) => self.on_command(call),
                Message::Done(done) => self.on_done(done),
                Message::Held(held) => self.on_held(held),
                Message::Ballast(told) => self.on_ballast(told),
                Message::Unable(parts) => self.unable_parts = parts,
                Message::Brake(news) => self.on_brake(news),
                Message::Cause(answer) => self.on_cause(*answer),
                Message::Grown(grown) => self.on_grown(grown),
                Message::Pace(pace) => self.on_pace(&pace),
                Message::Reload(reload) => self.on_reload(*reload),
                Message::Kubelet(kubelet) => self.on_kubelet(*kubelet),
                Message::Stop => break,
            }
            self.settle();
            self.ask_for_permits();
            self.tell_durable();
            self.tell_kernel_durable();
        }
        let now = clock::now();
        self.wires.recorder.push(Stream::Urgent, now, Body::Note("the agent stops".to_owned()));
        Ok(())
    }

    fn on_sample(&mut self, at: Moment, mut sample: Box<Sample>) {
        let recorder = self.wires.recorder.clone();
        let stats = recorder.stats();
        sample.self_cost.queue_bytes = stats.queue_bytes;
        sample.self_cost.dropped_records = stats.dropped;
        let sample: Arc<Sample> = sample.into();
        self.note_hole(at, &sample);
        let has_groups = !sample.cgroups.is_empty();
        // First of all, so that it is under way before anything is planned.
        self.look_at_ballast(at, &sample.mounts);
        self.release_actions(at);

        let recorder_seq = recorder.push(Stream::Recorder, at, Body::Sample(Arc::clone(&sample)));
        let cite = self.refer(Stream::Recorder, recorder_seq);
        let findings = self.detectors.on_sample(at, &sample, &cite);
        if !findings.is_empty() {
            let evidence_seq = recorder.push(Stream::Evidence, at, Body::Sample(Arc::clone(&sample)));
            self.remember(recorder_seq, evidence_seq);
            self.evidence.took(at.boot_ns, has_groups);
        } else if self.evidence.is_due(at.boot_ns, has_groups) {
            let evidence_seq = recorder.next_seq(Stream::Evidence);
            recorder.push_routine_sample(at, Body::Sample(Arc::clone(&sample)));
            self.remember(recorder_seq, evidence_seq);
            self.evidence.took(at.boot_ns, has_groups);
        }
        self.hold_against_kubelet(at, &sample.mounts);
        self.responder.on_sample(&sample.mounts, at);
        for finding in findings {
            self.ask_for_cause(&finding);
            self.ask_for_growth(&finding);
            self.say(at, finding);
        }
        self.hold_again(at);
        let steps = self.responder.on_tick(at);
        self.carry_out(at, steps);
        self.publish(at, sample);
    }

    /// Records a finding, with citations that the collector can follow, and lets the responder see it.
    fn say(&mut self, at: Moment, mut finding: Finding) {
        for cited in &mut finding.citations {
            self.follow(cited);
        }
        finding.citations.dedup();
        self.tell_cause(at, &mut finding);
        self.tell_growth(at, &mut finding);
        self.wires.figures.findings.fetch_add(1, Ordering::Relaxed);
        tracing::info!(rule = finding.rule, state = finding.state.as_str(), severity = %finding.severity, summary = finding.summary, "finding");
        let recorder = &self.wires.recorder;
        if finding.citations.iter().any(|c| c.stream == Stream::Evidence) {
            recorder.cited(at);
        }
        recorder.push(Stream::Urgent, at, Body::Finding(Box::new(finding.clone())));
        let steps = self.responder.on_finding(&finding, at);
        self.carry_out(at, steps);
    }

    /// Makes a citation of a sample in the recorder stream, which stays on the node, one of the nearest sample at or
    /// before it that is in the evidence stream.
    fn follow(&self, cited: &mut RecordRef) {
        if cited.stream != Stream::Recorder || cited.incarnation != self.wires.recorder.incarnation() {
            return;
        }
        let at = self.shipped.partition_point(|(recorder_seq, _)| *recorder_seq <= cited.seq);
        let nearest = at.checked_sub(1).and_then(|i| self.shipped.get(i)).or_else(|| self.shipped.front());
        if let Some((_, evidence_seq)) = nearest {
            cited.stream = Stream::Evidence;
            cited.seq = *evidence_seq;
        }
    }

    fn remember(&mut self, recorder_seq: Seq, evidence_seq: Seq) {
        if self.shipped.len() == REMEMBERED_SAMPLES {
            self.shipped.pop_front();
        }
        self.shipped.push_back((recorder_seq, evidence_seq));
    }

    fn refer(&self, stream: Stream, seq: Seq) -> RecordRef {
        let recorder = &self.wires.recorder;
        RecordRef { node: recorder.node().clone(), incarnation: recorder.incarnation(), stream, seq }
    }

    fn on_command(&mut self, call: CommandCall) {
        let now = clock::now();
        if call.command.deadline_wall_ns != 0 && call.command.deadline_wall_ns < now.wall_ns {
            answer_error(call, "the command came after its deadline and was not begun; check the clocks");
            return;
        }
        match &call.command.command {
            Some(Wanted::Pulse(_)) => self.asking.push((now.boot_ns, call)),
            Some(Wanted::Plan(p)) => {
                let order = Order::PlanMount(p.mount.clone());
                self.order(now, order, false, call);
            }
            Some(Wanted::Apply(a)) => {
                let (order, over_brake) = (Order::ApplyPlan(a.action_id.clone()), a.override_brake);
                self.order(now, order, over_brake, call);
            }
            Some(Wanted::Holds(set)) => self.on_holds(set.clone(), call),
            Some(Wanted::Usage(ask)) => self.on_usage(ask.clone(), call),
            None => answer_error(call, "this agent's version does not know that command; upgrade it"),
        }
    }

    fn order(&mut self, now: Moment, order: Order, over_brake: bool, call: CommandCall) {
        self.ordering.retain(|c| !c.reply.is_closed());
        if self.ordering.len() >= MAX_ORDERS {
            answer_error(call, "the node has as many orders under way as it takes at once; try again");
            return;
        }
        let (id, actor) = (call.command.id.clone(), call.command.actor.clone());
        let command = Command { id, actor, order, over_brake };
        self.ordering.push(call);
        let steps = self.responder.on_command(command, now);
        self.carry_out(now, steps);
    }

    fn on_done(&mut self, done: Done) {
        let now = clock::now();
        let steps = match done {
            Done::Surveyed { mount, result } => {
                self.responder.on_survey(&mount, result.as_ref().map_err(Clone::clone), now)
            }
            Done::Applied(action) => {
                self.acting.end(&action.id);
                self.responder.on_applied(*action, now)
            }
            // Nobody waits for it; what it spent was counted when the record was read back.
            Done::Closed(action) => vec![Step::Record(action)],
            Done::Progress(so_far) => {
                self.acting.tell(so_far);
                Vec::new()
            }
            Done::Aside(aside) => {
                self.on_aside(aside);
                Vec::new()
            }
            Done::Keep { body, seq } => {
                // Whoever asked may have given up; what was kept is no harm.
                let _ = seq.try_send(self.wires.recorder.push(Stream::Evidence, now, *body));
                Vec::new()
            }
            Done::Found { command, result } => self.responder.on_found(&command, result, now),
        };
        self.carry_out(now, steps);
    }

    /// Looks which records have become durable, and which never will within their time.
    fn settle(&mut self) {
        let now = clock::now();
        let mut i = 0;
        while i < self.recording.len() {
            let kept = match self.wires.recorder.settlement(self.recording[i].seq) {
                Settlement::Durable => Ok(()),
                Settlement::Lost(why) => Err(why),
                Settlement::Waiting(why) if now.boot_ns >= self.recording[i].deadline_boot_ns => {
                    Err(why.unwrap_or_else(|| format!("the disk did not answer within {DURABLE_WAIT:?}")))
                }
                Settlement::Waiting(_) => {
                    i += 1;
                    continue;
                }
            };
            let done = self.recording.remove(i);
            if let Err(why) = &kept {
                self.refuse(now, &done.action, why);
                self.abridge(now, &done.action, why);
            }
            let steps = self.responder.on_recorded(&done.action, kept, now);
            self.carry_out(now, steps);
        }
    }

    /// Says that an action was refused because its record could not be kept; that too waits for the disk.
    fn refuse(&mut self, at: Moment, action: &Action, why: &str) {
        if !matches!(action.state, ActionState::Planned | ActionState::Started) {
            return;
        }
        let mut refused = action.clone();
        refused.state = ActionState::Refused;
        refused.objects.clear();
        refused.detail =
            format!("nothing was touched: the record of this action could not be kept first ({why})");
        self.count(&refused);
        acting::log(&refused);
        self.wires.recorder.push(Stream::Urgent, at, Body::Action(Box::new(refused)));
    }

    /// Records an outcome whose full record could not be kept once more without its objects, which the plan's record has.
    fn abridge(&mut self, at: Moment, action: &Action, why: &str) {
        let over = matches!(action.state, ActionState::Done | ActionState::Failed);
        if !over || (action.objects.is_empty() && action.refused.is_empty()) {
            return;
        }
        let mut brief = action.clone();
        brief.detail = format!(
            "{} (the record with its {} objects and {} refusals could not be kept: {why})",
            action.detail,
            action.objects.len(),
            action.refused.len()
        );
        brief.objects.clear();
        brief.refused.clear();
        self.wires.recorder.push(Stream::Urgent, at, Body::Action(Box::new(brief)));
    }

    /// Does what the responder decided, in order. A step can bring further steps.
    fn carry_out(&mut self, at: Moment, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Survey { mount, device } => self.give(Job::Survey { mount, device }),
                Step::Record(action) => {
                    self.count(&action);
                    acting::log(&action);
                    let seq = self.wires.recorder.push(Stream::Urgent, at, Body::Action(action.clone()));
                    let deadline_boot_ns = at.boot_ns + DURABLE_WAIT.as_nanos() as u64;
                    self.recording.push(Recording { seq, action, deadline_boot_ns });
                }
                Step::Apply(action) => self.apply_after_ballast(action),
                Step::Find { command, path } => self.give(Job::Find { command, path }),
                Step::Halt { action, why } => self.halt(action, why),
                Step::NotHolding { mount, summary, action_id } => {
                    self.not_holding(at, &mount, summary, action_id)
                }
                Step::OutOfBudget { mount, said } => self.out_of_budget(at, &mount, said),
                Step::Answer { command, result } => self.answer(&command, result),
            }
        }
    }

    fn answer(&mut self, command: &str, result: Result<Box<Action>, Unmet>) {
        let Some(i) = self.ordering.iter().position(|c| c.command.id == command) else { return };
        let call = self.ordering.swap_remove(i);
        match result {
            Ok(action) => {
                let id = call.command.id.clone();
                let action = Some(wire::Action::from(&*action));
                // The asker may have gone away; the record has it all the same.
                let _ = call.reply.send(wire::CommandResult { id, ok: true, action, ..Default::default() });
            }
            Err(Unmet { why, not_found }) => {
                let id = call.command.id.clone();
                let _ =
                    call.reply.send(wire::CommandResult { id, error: why, not_found, ..Default::default() });
            }
        }
    }

    fn publish(&mut self, at: Moment, sample: Arc<Sample>) {
        let recorder = &self.wires.recorder;
        let stats = recorder.stats();
        let mut unable = self.unable.clone();
        unable.extend(self.unable_parts.iter().chain(&self.kernel.unable).chain(&self.holds.unable).cloned());
        let kubelet = self.evictions.differs.iter().flatten();
        unable.extend(self.saving.iter().chain(&self.ballast.unable).chain(kubelet).cloned());
        unable.extend(self.waiting_words(at));
        unable.extend(self.stuck_words(at));
        unable.extend(stats.failing.iter().map(|e| format!("write its journal: {e}")));
        self.count_now(at, &sample);
        let pulse = Pulse {
            wall_ns: at.wall_ns,
            sample,
            records_total: stats.pushed.iter().sum(),
            unable: unable.into(),
            acting: self.acting.now(),
            held_aside: self.holds.said_aside(),
            forecasts: self.detectors.forecasts().into(),
            uplink_lag_records: recorder
                .kept(Stream::Evidence)
                .iter()
                .map(|k| k.last_seq + 1 - k.first_seq)
                .sum(),
        };
        self.wires.pulse.send_replace(Some(pulse));
        let (answered, waiting) = std::mem::take(&mut self.asking)
            .into_iter()
            .partition::<Vec<_>, _>(|(asked_boot_ns, _)| at.boot_ns >= *asked_boot_ns);
        self.asking = waiting;
        for (_, call) in answered {
            let id = call.command.id.clone();
            let _ = call.reply.send(wire::CommandResult { id, ok: true, ..Default::default() });
        }
    }
}

fn answer_error(call: CommandCall, error: &str) {
    let id = call.command.id.clone();
    let _ = call.reply.send(wire::CommandResult { id, error: error.to_owned(), ..Default::default() });
}
