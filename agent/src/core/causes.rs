//! Who fills a mount: asked when a finding says that it fills, and told with that finding from then on.
//!
//! What an answer names is true of the moment of its look, and is told with that moment ([`SEEN_AT`]). As what happens now it
//! is told for [`FRESH_NS`]; after that, until a new answer comes, as what was then, and accuses no pod. What was found
//! before goes on to be told only while the mount has not grown since, so that nobody else can have filled it: one answer
//! that it grows, by whom is unknown, ends that. Where nobody looked for more than [`SOON_NS`] between, others may have
//! filled the rest: that, too, is told as what was then.

mod words;

use std::collections::BTreeMap;

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, Moment, Pod};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, INODE_HIGH_WATER, TRIGGERS};
use crate::detect::words::bytes;
use crate::usage::blame::{Blame, Confidence};
use crate::usage::scout::{Answer, PAUSE};
use crate::usage::show::word;
pub(super) use words::bounded;
use words::{MAX_NAMED, named, place, said, sentence, time};

/// The fact that says how sure a cause is.
const CONFIDENCE: &str = "cause_confidence";
/// The fact that says when the look was that names were taken from.
const SEEN_AT: &str = "cause_seen_at";
/// A file with a smaller share of the growth is not named beside the others.
const MIN_SHARE: f64 = 0.1;
/// Mounts whose causes are kept.
const MAX_MOUNTS: usize = 64;
/// Deleted files are worth a word from this on.
const MIN_DELETED_BYTES: u64 = 16 << 20;
/// An answer is about now for so long: before that is over, nobody looks again.
const FRESH_NS: u64 = PAUSE.as_nanos() as u64;
/// An answer that no other followed is told for so long, with its time: as long as an incident is young.
const STALE_NS: u64 = 10 * 60 * 1_000_000_000;
/// Who filled what has not grown since is told for so long: whoever comes in the morning asks who it was in the night.
const EARLIER_NS: u64 = 12 * 3600 * 1_000_000_000;
/// Within this after it was caught at writing, what filled the mount is taken for what filled the rest.
const SOON_NS: u64 = 2 * FRESH_NS;
/// By more than this multiple of its rate a cause has not filled the mount until it was full: others wrote, too.
const TOO_MUCH: f64 = 1.5;

/// An answer of the scout's.
#[derive(Debug, Clone)]
struct Seen {
    boot_ns: u64,
    wall_ns: i64,
    used_bytes: u64,
    blame: Blame,
    incomplete: Option<String>,
}

/// What a mount's findings are told with, until they are over.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    newest: Seen,
    /// The newest that told what grew, where it has not grown since: a filesystem that is full grows no more, and it is
    /// then that people look.
    earlier: Option<Earlier>,
}

/// Who was seen when it grew.
#[derive(Debug, Clone)]
struct Earlier {
    seen: Seen,
    /// Whether it stood still so soon after that nobody else filled the rest.
    is_sure: bool,
}

/// What a finding is told with at one moment.
#[derive(Debug, Clone)]
struct Told {
    brief: Option<String>,
    sentence: String,
    facts: Vec<Fact>,
    pod: Option<Pod>,
}

/// The newest cause of each mount.
pub(super) type Causes = BTreeMap<String, Cause>;

impl Core {
    /// Asks who fills the mount of a finding that was raised or grew worse.
    pub(super) fn ask_for_cause(&self, finding: &Finding) {
        let is_asked = finding.subject.kind == "mount" && TRIGGERS.contains(&finding.rule.as_str());
        if let Some(scout) =
            self.wires.lookouts.scout.as_ref().filter(|_| is_asked && finding.state != FindingState::Cleared)
        {
            // With too many questions waiting the finding stands without.
            let _ = scout.ask(&finding.subject.name);
        }
    }

    /// Adds what is known of the cause to a mount's finding; forgets it with the last of them.
    pub(super) fn tell_cause(&mut self, at: Moment, finding: &mut Finding) {
        if !is_about_filling(finding) {
            return;
        }
        let mount = &finding.subject.name;
        if finding.state == FindingState::Cleared {
            if !self
                .detectors
                .active()
                .iter()
                .any(|f| f.id != finding.id && is_about_filling(f) && f.subject.name == *mount)
            {
                self.causes.remove(mount);
            }
            return;
        }
        let Some(cause) = self.causes.get(mount).filter(|_| !is_told(finding)) else { return };
        let of_inodes = finding.rule == INODE_HIGH_WATER;
        let told = if of_inodes { cause.inodes(at.boot_ns) } else { cause.told(at.boot_ns) };
        let Some(told) = told else { return };
        if let Some(brief) = told.brief {
            finding.summary = format!("{}; {brief}", finding.summary.trim_end_matches('.'));
        }
        finding.explanation = format!("{} {}", told.sentence, finding.explanation);
        finding.facts.extend(told.facts);
        if finding.pod.is_none() {
            finding.pod = told.pod;
        }
    }

    /// The scout has an answer: the mount's findings are told again, with it.
    pub(super) fn on_cause(&mut self, answer: Answer) {
        let mount = answer.mount.clone();
        let Some(seen) = Seen::of(answer) else { return };
        if !self.detectors.active().iter().any(|f| is_about_filling(f) && f.subject.name == mount) {
            return;
        }
        let cause = Cause::after(self.causes.remove(&mount), seen);
        if self.causes.len() >= MAX_MOUNTS {
            let oldest =
                self.causes.iter().min_by_key(|(_, c)| c.newest.boot_ns).map(|(mount, _)| mount.clone());
            oldest.map(|mount| self.causes.remove(&mount));
        }
        self.causes.insert(mount.clone(), cause);
        self.tell_again(&mount);
    }

    /// Says the findings of a mount once more, for something became known.
    pub(super) fn tell_again(&mut self, mount: &str) {
        let now = clock::now();
        // One of an earlier run's says what that run knew: its detector tells it anew first.
        let of_mount = |f: &&Finding| {
            f.subject.kind == "mount"
                && f.subject.name == mount
                && TRIGGERS.contains(&f.rule.as_str())
                && !is_told(f)
        };
        let again: Vec<Finding> = self.detectors.active().into_iter().filter(of_mount).cloned().collect();
        for mut finding in again {
            finding.state = FindingState::Updated;
            self.say(now, finding);
        }
    }
}

/// Whether a cause has anything to do with it: not every finding about a mount says that it fills.
pub(super) fn is_about_filling(finding: &Finding) -> bool {
    let rule = finding.rule.as_str();
    finding.subject.kind == "mount" && (TRIGGERS.contains(&rule) || rule == CLEANUP_NOT_HOLDING)
}

/// Takes the pod from an earlier run's finding: whom that run saw may be gone since.
pub(super) fn accuse_nobody(finding: &mut Finding) {
    if is_about_filling(finding) {
        finding.pod = None;
    }
}

fn is_told(finding: &Finding) -> bool {
    finding.facts.iter().any(|f| f.key == CONFIDENCE)
}

impl Seen {
    fn of(answer: Answer) -> Option<Self> {
        let Answer { mount, boot_ns, wall_ns, used_bytes, found, incomplete } = answer;
        match found {
            Ok(blame) => Some(Self { boot_ns, wall_ns, used_bytes, blame, incomplete }),
            Err(why) => {
                tracing::debug!(mount, why, "who fills it could not be found out");
                None
            }
        }
    }

    fn names(&self) -> bool {
        matches!(self.blame.confidence, Confidence::Certain | Confidence::Likely)
    }

    fn age_ns(&self, boot_ns: u64) -> u64 {
        boot_ns.saturating_sub(self.boot_ns)
    }

    /// Whether so little was written since `before` that nobody but whom that saw can have filled it.
    fn is_filled_since(&self, before: &Self) -> bool {
        let seconds = before.age_ns(self.boot_ns) as f64 / 1e9;
        let grew = self.used_bytes.saturating_sub(before.used_bytes) as f64;
        let rate = if seconds > 0.0 { grew / seconds } else { 0.0 };
        let by_it = if before.names() { TOO_MUCH * before.blame.bytes_per_second } else { 0.0 };
        // However long nobody looked: what hardly shows over hours may be all that was left.
        let least = grew / seconds.clamp(1.0, SOON_NS as f64 / 1e9);
        // While others shrink it may stand still though somebody writes.
        let written = self.blame.growing.iter().map(|c| c.bytes_per_second).sum();
        !Blame::is_growth(written) && (rate <= by_it || !Blame::is_growth(least))
    }
}

impl Cause {
    /// What is known once `newest` came after `before`.
    fn after(before: Option<Self>, newest: Seen) -> Self {
        let is_still = newest.blame.confidence == Confidence::Still;
        let before = before.filter(|b| is_still && newest.is_filled_since(&b.newest));
        let earlier = before.and_then(|b| match b.newest.names() {
            true => Some(Earlier { is_sure: b.newest.age_ns(newest.boot_ns) <= SOON_NS, seen: b.newest }),
            false => b.earlier,
        });
        Self { newest, earlier }
    }

    /// What findings are told with now; `None`: nothing is known any more.
    fn told(&self, boot_ns: u64) -> Option<Told> {
        let newest = &self.newest;
        if newest.age_ns(boot_ns) <= FRESH_NS {
            let earlier = self.earlier.as_ref().filter(|e| e.seen.age_ns(boot_ns) <= EARLIER_NS);
            return Some(told(newest, earlier));
        }
        let then = if newest.names() { Some(newest) } else { self.earlier.as_ref().map(|e| &e.seen) };
        then.filter(|_| newest.age_ns(boot_ns) <= STALE_NS).map(told_of_then)
    }

    /// What findings about inodes are told with: who takes the bytes need not be who takes those.
    fn inodes(&self, boot_ns: u64) -> Option<Told> {
        (self.newest.age_ns(boot_ns) <= FRESH_NS).then(|| of_inodes(&self.newest.blame))
    }
}

fn told(newest: &Seen, earlier: Option<&Earlier>) -> Told {
    let blame = &newest.blame;
    let is_sure = earlier.is_none_or(|e| e.is_sure);
    // What the writers are named by: now, or when it grew last.
    let from = earlier.map_or(newest, |e| &e.seen);
    let confidence = if is_sure { from.blame.confidence } else { Confidence::Unknown };
    let mut facts = vec![
        Fact::new("grows_bytes_per_second", format!("{:.0}", blame.bytes_per_second)),
        Fact::new(CONFIDENCE, word(confidence)),
        Fact::new(SEEN_AT, time(from.wall_ns)),
        Fact::new("explained_by_open_files_percent", format!("{:.0}", from.blame.explained * 100.0)),
    ];
    facts.extend(names(from, earlier.is_some()));
    let deleted = blame.deleted_bytes >= MIN_DELETED_BYTES;
    if deleted {
        facts.push(Fact::new("deleted_but_open_bytes", blame.deleted_bytes.to_string()));
        for (n, culprit) in blame.deleted.iter().take(MAX_NAMED).enumerate() {
            facts.push(Fact::new(format!("deleted_but_open_{}", n + 1), said(culprit)));
        }
    }
    if let Some(why) = &newest.incomplete {
        facts.push(Fact::new("writers_missed", why.clone()));
    }
    let mut brief = Vec::new();
    match earlier {
        Some(earlier) if !earlier.is_sure => brief.extend(brief_of_then(&earlier.seen)),
        Some(Earlier { seen, .. }) => brief
            .extend(brief_name(&seen.blame).map(|n| format!("filled by {n}, seen {}", time(seen.wall_ns)))),
        None => brief.extend(brief_name(blame).map(|n| format!("filling: {n}"))),
    }
    if let Some(largest) = blame.deleted.first().filter(|_| deleted) {
        brief.push(format!("{} deleted but open: {}", bytes(blame.deleted_bytes as f64), said(largest)));
    }
    let mut sentence = sentence(blame);
    match earlier {
        Some(Earlier { seen, is_sure: true }) => {
            sentence = format!("{sentence} {}", sentence_of_then("Before that, at", seen));
        }
        Some(Earlier { seen, is_sure: false }) => {
            let then = sentence_of_then("At", seen);
            sentence = format!("{sentence} {then} Who filled it since then is unknown.");
        }
        None => {}
    }
    let is_certain = confidence == Confidence::Certain;
    Told {
        brief: (!brief.is_empty()).then(|| brief.join("; ")),
        sentence,
        facts,
        pod: named(&from.blame).next().filter(|_| is_certain).and_then(|c| c.pod.clone()),
    }
}

/// What was seen some time ago, and nobody has looked since: true of then, and no word of now.
fn told_of_then(seen: &Seen) -> Told {
    let mut facts =
        vec![Fact::new(CONFIDENCE, word(Confidence::Unknown)), Fact::new(SEEN_AT, time(seen.wall_ns))];
    facts.extend(names(seen, true));
    Told { brief: brief_of_then(seen), sentence: sentence_of_then("At", seen), facts, pod: None }
}

/// The facts that name files, folders and who writes them.
fn names(seen: &Seen, is_earlier: bool) -> Vec<Fact> {
    let (writer, grows) = if is_earlier { ("earlier_writer", "grew") } else { ("writer", "grows") };
    let mut facts: Vec<Fact> = named(&seen.blame)
        .enumerate()
        .map(|(n, culprit)| Fact::new(format!("{writer}_{}", n + 1), said(culprit)))
        .collect();
    if let Some(grown) = &seen.blame.grown {
        let kind = if grown.is_file { "file" } else { "folder" };
        facts.push(Fact::new(format!("{grows}_in_{kind}"), place(grown)));
    }
    facts
}

fn brief_name(blame: &Blame) -> Option<String> {
    let place = || blame.grown.as_ref().map(|grown| format!("{}, by whom is unknown", place(grown)));
    named(blame).next().map(said).or_else(place)
}

fn brief_of_then(seen: &Seen) -> Option<String> {
    brief_name(&seen.blame).map(|name| format!("at {} it was filled by {name}", time(seen.wall_ns)))
}

fn sentence_of_then(when: &str, seen: &Seen) -> String {
    let then = sentence(&seen.blame).replacen("It grows", "it grew", 1);
    format!("{when} {}, {then}", time(seen.wall_ns))
}

fn of_inodes(blame: &Blame) -> Told {
    let pace = format!("{:.0} inodes a second", blame.inodes_per_second);
    let confidence = match &blame.multiplied {
        _ if !blame.inodes_grow() => Confidence::Still,
        Some(_) => Confidence::Likely,
        None => Confidence::Unknown,
    };
    let mut facts = vec![
        Fact::new("grows_inodes_per_second", format!("{:.0}", blame.inodes_per_second)),
        Fact::new(CONFIDENCE, word(confidence)),
    ];
    let (sentence, brief) = match &blame.multiplied {
        Some(grown) if blame.inodes_grow() => {
            let place = place(grown);
            facts.push(Fact::new("inodes_grow_in_folder", place.clone()));
            (
                format!(
                    "It takes {pace} more, most of them {place}; by whom is unknown: no process was caught at it."
                ),
                Some(format!("inodes go {place}, by whom is unknown")),
            )
        }
        _ if blame.inodes_grow() => (format!("It takes {pace} more; where and by whom is unknown."), None),
        _ => ("It took no more inodes while that was looked for.".to_owned(), None),
    };
    Told { brief, sentence, facts, pod: None }
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
