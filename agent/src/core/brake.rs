//! The fleet brake within the core: what the collector says of cleanups goes to the responder, what that asks goes up.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, SyncSender, TrySendError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, CleanupMode, Hash, Moment, Stream};
use dogwatch::supervise::Stop;
use dogwatch::wire;
use tokio::sync::watch;

use super::{Core, Message};
use crate::act::brake_line::{BrakeJob, Unkept};
use crate::act::permit::{BrakeState, Heard, Link, Word};
use crate::act::respond::Step;
use crate::uplink::brake::{BrakeFeed, LinkNow, Outgoing};

/// While the core is behind by its whole inbox, what the collector says is offered again this often: it must not be lost.
const OFFER_AGAIN: Duration = Duration::from_millis(20);

/// What the collector says.
#[derive(Debug)]
pub enum BrakeNews {
    /// How it is reached, and what it says of all nodes.
    Link(LinkNow),
    /// Its answer to an ask.
    Answer(wire::PermitAnswer),
}

/// Where the core's words on cleanups go.
#[derive(Debug)]
pub struct BrakeWires {
    /// To the executor and the disk.
    pub line: Sender<BrakeJob>,
    /// To the collector.
    pub outgoing: watch::Sender<Outgoing>,
    /// What of the collector's words could not be kept.
    pub unkept: Unkept,
}

/// Hands what the collector says to the core until `stop` is set.
///
/// # Errors
/// None of its own; the type is what a part has.
pub async fn follow(mut feed: BrakeFeed, inbox: SyncSender<Message>, stop: Stop) -> Result<(), String> {
    loop {
        let news = tokio::select! {
            () = stop.wait() => return Ok(()),
            changed = feed.link.changed() => match changed {
                Ok(()) => BrakeNews::Link(feed.link.borrow_and_update().clone()),
                // The uplink ended, and the agent with it.
                Err(_) => { stop.wait().await; return Ok(()) }
            },
            Some(answer) = feed.answers.recv() => BrakeNews::Answer(answer),
        };
        let mut message = Message::Brake(news);
        while let Err(TrySendError::Full(again)) = inbox.try_send(message) {
            message = again;
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(OFFER_AGAIN) => {}
            }
        }
    }
}

impl Core {
    pub(super) fn on_brake(&mut self, news: BrakeNews) {
        let now = clock::now();
        let steps = match news {
            BrakeNews::Link(link) => self.on_link(link, now),
            BrakeNews::Answer(answer) => match heard(&answer) {
                Some(heard) => self.responder.on_heard(&answer.action_id, heard, now),
                None => Vec::new(),
            },
        };
        self.carry_out(now, steps);
    }

    fn on_link(&mut self, link: LinkNow, now: Moment) -> Vec<Step> {
        let brake = link.word.is_some();
        let state =
            if link.up { Link::Up { brake, since_boot_ns: now.boot_ns } } else { Link::Down(now.boot_ns) };
        if self.link_up != Some((link.up, brake)) {
            self.link_up = Some((link.up, brake));
            self.responder.gate_mut().set_link(state);
        }
        let mut steps = Vec::new();
        if let Some(said) = link.word.filter(|_| link.up).map(|w| self.word(w)) {
            let before = self.responder.gate().word().cloned();
            let doubted = self.responder.gate().doubt().is_some();
            if before.as_ref() != Some(&said) || doubted {
                // The executor before the disk, and both after the responder knows.
                steps.extend(self.responder.on_word(said.clone(), now));
                let after = self.responder.gate().word().cloned();
                if let Some(after) = after.clone().filter(|_| after != before || doubted) {
                    self.note_brake(before.as_ref(), &after, now);
                    let _ = self.wires.brake.line.send(BrakeJob::Keep(after));
                } else {
                    self.note_overtaken(&said, now);
                }
            }
            self.heard = self.responder.gate().word().cloned();
        }
        steps.extend(self.responder.proceed_all(now));
        steps
    }

    fn word(&mut self, said: wire::Brake) -> Word {
        let own = self.responder.gate().policy();
        let proven = said.proven.iter().any(|p| Hash::from_slice(p).is_ok_and(|hash| hash == own));
        let state = match said.state() {
            wire::BrakeState::Open => BrakeState::Open,
            wire::BrakeState::Paused => BrakeState::Paused,
            // A state that this version does not know is none to clean in.
            wire::BrakeState::Tripped | wire::BrakeState::Unspecified => BrakeState::Tripped,
        };
        let (revision, lineage) = (said.revision, said.lineage);
        Word { revision, lineage, state, reason: said.reason, proven: proven.then_some(own) }
    }

    /// That cleanups are stopped, or go on, is part of the node's story.
    fn note_brake(&self, before: Option<&Word>, said: &Word, now: Moment) {
        let was_open = before.is_none_or(|w| w.state == BrakeState::Open);
        let words = match (was_open, said.state) {
            (true, BrakeState::Open) => return,
            (false, BrakeState::Open) => "the collector lets cleanups go on".to_owned(),
            (_, BrakeState::Paused | BrakeState::Tripped) => format!("the collector says: {}", said.reason),
        };
        tracing::warn!(revision = said.revision, "{words}");
        self.wires.recorder.push(Stream::Urgent, now, Body::Note(words));
    }

    /// A word that a later one overtook is not followed; that is said once for each.
    fn note_overtaken(&mut self, said: &Word, now: Moment) {
        let overtaken = (said.revision, said.lineage);
        let news = said.state == BrakeState::Open && self.overtaken.replace(overtaken) != Some(overtaken);
        let Some(held) = self.responder.gate().word().filter(|_| news) else { return };
        let words = overtaken_words(said, held);
        tracing::warn!("{words}");
        self.wires.recorder.push(Stream::Urgent, now, Body::Note(words));
    }

    /// Says what is asked of the collector now, if that changed.
    pub(super) fn ask_for_permits(&self) {
        let policy = Some(self.responder.gate().policy());
        let now = Outgoing { asks: self.responder.asks(), heard: self.heard.clone(), policy };
        self.wires.brake.outgoing.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    pub(super) fn halt(&self, action: String, why: String) {
        // The thread that takes jobs lives as long as the agent.
        let _ = self.wires.brake.line.send(BrakeJob::Halt { action, why });
    }

    /// Cleanups that wait, and what keeps all of them from beginning, in words; the longest wait is counted.
    pub(super) fn waiting_words(&self, now: Moment) -> Vec<String> {
        let waits = self.responder.waits(now);
        let longest = waits.iter().map(|(_, _, ns)| ns / 1_000_000).max().unwrap_or(0);
        self.wires.figures.cleanup_waiting_ms.store(longest, Ordering::Relaxed);
        self.wires.figures.cleanups_waiting.store(waits.len() as u64, Ordering::Relaxed);
        let unkept = self.wires.brake.unkept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unkept =
            unkept.map(|why| format!("keep over a restart what the collector says of cleanups: {why}"));
        let unapplied =
            self.responder.gate().unapplied().filter(|_| self.responder.mode() != CleanupMode::Off);
        let unapplied = unapplied.map(|why| format!("clean by the configuration on disk: {why}"));
        let doubt = self.responder.gate().doubt().map(|why| format!("clean by itself yet: {why}"));
        let waits = waits.into_iter().map(|(mount, why, _)| format!("clean {mount} by itself yet: {why}"));
        let alone = |(mount, ns): (String, u64)| {
            let minutes = (ns / 1_000_000_000).div_ceil(60);
            format!(
                "clean {mount} by itself for {minutes} min more: the last cleanups did not hold, stop what writes to it"
            )
        };
        let left_alone = self.responder.left_alone(now).into_iter().map(alone);
        unapplied.into_iter().chain(unkept).chain(doubt).chain(waits).chain(left_alone).collect()
    }
}

/// What is said where the collector opens, and what is in force here is later.
fn overtaken_words(said: &Word, held: &Word) -> String {
    format!(
        "this node stays stopped: it was told of stop {} (\"{}\"), and the collector, at {}, says that cleanups go on without \
         knowing of that stop. `dogwatch brake status` names this node and what it was told; see whether that is dealt with, \
         then `dogwatch brake release -m WHY` lets this node go on, too",
        held.revision, held.reason, said.revision
    )
}

fn heard(answer: &wire::PermitAnswer) -> Option<Heard> {
    match answer.state() {
        wire::PermitState::Granted => {
            let lease_ns = u64::from(answer.lease_ms) * 1_000_000;
            Some(Heard::Granted(answer.asked_boot_ns.saturating_add(lease_ns)))
        }
        wire::PermitState::Waiting => {
            Some(Heard::Waiting { place: answer.place, of: answer.waiting, why: answer.reason.clone() })
        }
        wire::PermitState::Stopped => Some(Heard::Stopped(answer.reason.clone())),
        wire::PermitState::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stays_stopped_says_by_what_and_what_lets_it_go_on() {
        let word = |revision, state, reason: &str| Word {
            revision,
            lineage: 1,
            state,
            reason: reason.to_owned(),
            proven: None,
        };
        let said = word(3, BrakeState::Open, "");
        let words = overtaken_words(&said, &word(5, BrakeState::Paused, "paused by ada: look"));
        for part in ["stop 5", "paused by ada: look", "at 3", "brake status", "brake release -m"] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }
}
