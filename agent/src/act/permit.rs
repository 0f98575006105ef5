//! Whether the node may clean by itself now: the collector's permits, its brake, and what counts without it. Pure.
//!
//! A node in mode `auto` asks its collector before it removes anything, so that one bad rule harms few nodes at once.
//! What it goes by, the first that applies:
//!
//! 0. What may go is not what the configuration on disk says, since keys of it wait for a restart: nothing, whoever asks.
//! 1. The brake that was heard last is paused or tripped: nothing, also without a collector, also after a restart. The
//!    same where what was heard last cannot be read any more, until the collector says it again.
//! 2. No collector is configured: there is nobody to ask, and the node acts.
//! 3. A collector with a brake answers: its word. While it says *wait*, the node waits.
//! 4. It does not answer, or has no brake: [`Without`], after [`ANSWER_WAIT_NS`] and a span of its own
//!    ([`stagger_ns`]), so that not all nodes begin at once.
//!
//! A stop is ended only by a word of a later revision: what was under way when it came, and a collector that was put back
//! from an older copy, do not end it ([`Gate::set_word`]).
//!
//! Deliberately absent: asking (`uplink`), keeping (`brake_line`), people's orders, which need no permit: of the above 0. and 1.
//! are theirs too.

use std::fmt;
use std::str::FromStr;

use dogwatch::record::{CleanupMode, Hash, InvalidValue, NodeName, Severity};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::images::policy::ImagePolicy;
use super::policy::Policy;
use super::words;
use crate::detect::DiskConfig;

const SECOND_NS: u64 = 1_000_000_000;
/// A collector that has not answered for so long does not: it answers each second, and agents ask every five.
pub const ANSWER_WAIT_NS: u64 = 15 * SECOND_NS;
/// Nodes that act without a collector spread over so long: short enough for a disk that is full within minutes.
pub const SPREAD_NS: u64 = 60 * SECOND_NS;

/// What a node does by itself when its collector does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// Nothing.
    Wait,
    /// Only what is critical, and only under a policy that the fleet has proven.
    CriticalOnly,
    /// All that its mode lets it.
    Act,
}

impl Without {
    /// The word in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::CriticalOnly => "critical-only",
            Self::Act => "act",
        }
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Without {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Wait, Self::CriticalOnly, Self::Act].into_iter().find(|w| w.as_str() == s).ok_or_else(|| {
            InvalidValue::new("what to do without a collector", s, "must be wait, critical-only or act")
        })
    }
}

/// The brake's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrakeState {
    /// Nodes may clean.
    Open,
    /// A person paused.
    Paused,
    /// Something went wrong.
    Tripped,
}

/// What the collector said of all nodes last; kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Grows with every stop and release.
    pub revision: u64,
    /// The collector's digest of the stops and releases that led to it, given back to it; 0: it said none.
    #[serde(default)]
    pub lineage: u64,
    /// Whether anything may be cleaned.
    pub state: BrakeState,
    /// Why not.
    pub reason: String,
    /// The policy of this node, where the collector said that it is proven.
    pub proven: Option<Hash>,
}

/// What the last run kept of the collector's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing was ever heard here.
    Nothing,
    /// This.
    Word(Word),
    /// Something was, and it cannot be told what.
    Doubt {
        /// Why, and what mends it.
        why: String,
        /// An older word that can be read.
        older: Option<Word>,
    },
}

/// How the collector is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// None is configured.
    Nowhere,
    /// Not connected since then, by the boot clock.
    Down(u64),
    /// Connected; whether the collector has a brake, and since when.
    Up {
        /// Whether it has.
        brake: bool,
        /// Since when, by the boot clock.
        since_boot_ns: u64,
    },
}

/// What the collector answered to an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Go, until then by the boot clock.
    Granted(u64),
    /// Not yet.
    Waiting {
        /// 1 is next.
        place: u32,
        /// So many wait.
        of: u32,
        /// Why.
        why: String,
    },
    /// Not now; what is under way ends.
    Stopped(String),
}

/// What is asked of the collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The action's id.
    pub action: String,
    /// The mount to relieve.
    pub mount: String,
    /// What the plan expects to free.
    pub planned_bytes: u64,
    /// Objects of the plan.
    pub planned_objects: u64,
    /// [`policy_hash`].
    pub policy: Hash,
    /// The worst finding of the mount.
    pub severity: Severity,
    /// When it is full, if it fills.
    pub seconds_to_full: Option<f64>,
    /// What the plan uses.
    pub cleaners: Vec<String>,
    /// Whether it was granted and goes on.
    pub acting: bool,
}

/// A plan that waits for its permit.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Since when, by the boot clock.
    pub since_boot_ns: u64,
    /// The newest answer, and when it came.
    pub heard: Option<(Heard, u64)>,
}

/// Whether it may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clearance {
    /// Until then by the boot clock, unless it is granted again.
    Leased(u64),
    /// By what counts without a collector.
    Alone,
    /// Not yet, and why.
    Wait(String),
}

/// What the node goes by.
#[derive(Debug, Clone)]
pub struct Gate {
    node: NodeName,
    policy: Hash,
    without: Without,
    link: Link,
    word: Option<Word>,
    /// Why nobody can tell what was heard last, until it is heard again.
    doubt: Option<String>,
    /// What of the configuration on disk is not in force, and bounds what may go.
    unapplied: Option<String>,
}

impl Gate {
    /// A gate that nobody watches: no collector is configured.
    pub fn open(node: NodeName, policy: Hash) -> Self {
        Self {
            node,
            policy,
            without: Without::Act,
            link: Link::Nowhere,
            word: None,
            doubt: None,
            unapplied: None,
        }
    }

    /// A gate of a node with a collector that is not connected yet; `kept` by the last run.
    pub fn new(node: NodeName, policy: Hash, without: Without, kept: Kept, now_boot_ns: u64) -> Self {
        let (word, doubt) = match kept {
            Kept::Nothing => (None, None),
            Kept::Word(word) => (Some(word), None),
            Kept::Doubt { why, older } => (older, Some(why)),
        };
        Self { node, policy, without, link: Link::Down(now_boot_ns), word, doubt, unapplied: None }
    }

    /// The node's policy.
    pub fn policy(&self) -> Hash {
        self.policy
    }

    /// What was heard last.
    pub fn word(&self) -> Option<&Word> {
        self.word.as_ref()
    }

    /// The collector came or went.
    pub fn set_link(&mut self, link: Link) {
        if self.link != Link::Nowhere {
            self.link = link;
        }
    }

    /// The collector says how all nodes stand; whether it is followed. A stop always is. Where the node is stopped, only a
    /// later revision opens: an earlier one was overtaken, or is said by a collector that lost what it said since.
    pub fn set_word(&mut self, mut word: Word) -> bool {
        let held = self.word.as_ref().filter(|held| held.state != BrakeState::Open);
        if let Some(held) = held.filter(|held| word.revision <= held.revision) {
            if word.state == BrakeState::Open {
                return false;
            }
            // It stays at the later revision, so that what ends the earlier stop does not end it; and its reason stays.
            let proven = word.proven.take();
            let lineage =
                if word.revision == held.revision && held.lineage == 0 { word.lineage } else { held.lineage };
            word = Word { proven, lineage, ..held.clone() };
        }
        self.word = Some(word);
        self.doubt = None;
        true
    }

    /// What of the configuration on disk bounds what may go and is not in force, in words; `None`: all of it is.
    pub fn set_unapplied(&mut self, why: Option<String>) {
        self.unapplied = why;
    }

    /// The same, to look at.
    pub fn unapplied(&self) -> Option<&str> {
        self.unapplied.as_deref()
    }

    /// Why nobody can tell what was heard last, if so.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// Why nothing may be cleaned at all, if so.
    pub fn stopped(&self) -> Option<&str> {
        if self.doubt.is_some() {
            return self.doubt();
        }
        self.word.as_ref().filter(|w| w.state != BrakeState::Open).map(|w| w.reason.as_str())
    }

    /// Whether the collector is to be asked.
    pub fn asks(&self) -> bool {
        self.link != Link::Nowhere
    }

    /// Whether a plan that waits for `mount` may begin; `severity` is the mount's worst finding.
    pub fn clear(&self, waiting: &Waiting, mount: &str, severity: Severity, now_boot_ns: u64) -> Clearance {
        if let Some(why) = self.unapplied().or_else(|| self.stopped()) {
            return Clearance::Wait(why.to_owned());
        }
        let alone_since = match self.link {
            Link::Nowhere => return Clearance::Alone,
            Link::Down(since) => since,
            Link::Up { brake: false, since_boot_ns } => since_boot_ns,
            Link::Up { brake: true, since_boot_ns } => {
                let answered = waiting.heard.as_ref().map_or(0, |(_, at)| *at);
                let since = since_boot_ns.max(waiting.since_boot_ns).max(answered);
                match &waiting.heard {
                    Some((Heard::Granted(until), _)) if now_boot_ns < *until => {
                        return Clearance::Leased(*until);
                    }
                    Some((Heard::Waiting { place, of, why }, at)) if now_boot_ns < at + ANSWER_WAIT_NS => {
                        return Clearance::Wait(format!("place {place} of {of}: {why}"));
                    }
                    Some((Heard::Stopped(why), at)) if now_boot_ns < at + ANSWER_WAIT_NS => {
                        return Clearance::Wait(why.clone());
                    }
                    _ if now_boot_ns < since + ANSWER_WAIT_NS => {
                        return Clearance::Wait("the collector has been asked".to_owned());
                    }
                    _ => since,
                }
            }
        };
        self.alone(alone_since.max(waiting.since_boot_ns), mount, severity, now_boot_ns)
    }

    /// The same where the collector has not answered since then.
    fn alone(&self, since_boot_ns: u64, mount: &str, severity: Severity, now_boot_ns: u64) -> Clearance {
        const NO_ANSWER: &str = "the collector does not answer";
        let proven = self.word.as_ref().is_some_and(|w| w.proven == Some(self.policy));
        match self.without {
            Without::Wait => return Clearance::Wait(format!("{NO_ANSWER}, and the node waits for it")),
            Without::CriticalOnly if severity < Severity::Critical => {
                return Clearance::Wait(format!("{NO_ANSWER}, and this is not critical yet"));
            }
            Without::CriticalOnly if !proven => {
                return Clearance::Wait(format!(
                    "{NO_ANSWER}, and this policy was not proven on other nodes yet"
                ));
            }
            Without::CriticalOnly | Without::Act => {}
        }
        let begins =
            since_boot_ns.saturating_add(ANSWER_WAIT_NS).saturating_add(stagger_ns(&self.node, mount));
        match begins.checked_sub(now_boot_ns).filter(|left| *left > 0) {
            Some(left) => {
                let left = words::seconds(left.div_ceil(SECOND_NS));
                Clearance::Wait(format!("{NO_ANSWER}; the node goes on by itself in {left}"))
            }
            None => Clearance::Alone,
        }
    }
}

/// When a node's turn is among those that act without a collector, up to [`SPREAD_NS`]: always the same for a node and mount.
pub fn stagger_ns(node: &NodeName, mount: &str) -> u64 {
    let digest = Sha256::new().chain_update(node.as_str()).chain_update([0]).chain_update(mount).finalize();
    let bytes: [u8; 8] = digest.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes) % SPREAD_NS
}

/// What decides what may go: the policy, whatever its mode, the marks that a cleanup aims for, and this program's version.
pub fn policy_hash(policy: &Policy, images: &ImagePolicy, marks: &DiskConfig) -> Hash {
    let policy = Policy { mode: CleanupMode::Auto, ..policy.clone() };
    // Names, numbers and paths: what cannot be written as JSON (a path that is not UTF-8) counts by how it is shown.
    let text = serde_json::to_vec(&policy).unwrap_or_else(|_| format!("{policy:?}").into_bytes());
    let digest = Sha256::new()
        .chain_update(env!("CARGO_PKG_VERSION"))
        .chain_update([0])
        // All of them: which cleanups there are depends on when they begin, too.
        .chain_update(format!("{marks:?}"))
        .chain_update([0])
        .chain_update(format!("{images:?}"))
        .chain_update([0])
        .chain_update(text)
        .finalize();
    Hash(digest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Hash = Hash([7; 32]);
    const LONG: u64 = ANSWER_WAIT_NS + SPREAD_NS;

    fn word(state: BrakeState, proven: bool) -> Word {
        Word {
            revision: 1,
            lineage: 0,
            state,
            reason: "paused by ada: no".to_owned(),
            proven: proven.then_some(POLICY),
        }
    }

    fn gate(without: Without, word: Option<Word>) -> Gate {
        Gate::new("n1".parse().unwrap(), POLICY, without, word.map_or(Kept::Nothing, Kept::Word), 0)
    }

    fn clear(gate: &Gate, heard: Option<(Heard, u64)>, severity: Severity, now: u64) -> Clearance {
        gate.clear(&Waiting { since_boot_ns: 0, heard }, "/var", severity, now)
    }

    fn waits(clearance: &Clearance, words: &str) -> bool {
        matches!(clearance, Clearance::Wait(why) if why.contains(words))
    }

    #[test]
    fn what_was_stopped_stays_stopped_whoever_is_there() {
        for state in [BrakeState::Paused, BrakeState::Tripped] {
            let mut gate = gate(Without::Act, Some(word(state, true)));
            let far = 1_000 * LONG;
            assert!(waits(&clear(&gate, None, Severity::Critical, far), "paused by ada"));
            gate.set_link(Link::Up { brake: true, since_boot_ns: 0 });
            let granted = Some((Heard::Granted(u64::MAX), far));
            assert!(waits(&clear(&gate, granted, Severity::Critical, far), "paused by ada"));
            gate.set_link(Link::Up { brake: false, since_boot_ns: 0 });
            assert!(waits(&clear(&gate, None, Severity::Critical, far), "paused by ada"));
        }
    }

    #[test]
    fn only_a_later_revision_ends_a_stop_and_a_stop_is_taken_whenever_it_comes() {
        use BrakeState::{Open, Paused, Tripped};
        let said = |revision, state| Word {
            revision,
            lineage: revision * 7,
            state,
            reason: format!("{revision}"),
            proven: None,
        };
        // What is in force, what is said, whether it is followed, what is in force then.
        for (held, word, follows, then) in [
            ((4, Tripped), (3, Open), false, (4, Tripped)),
            ((4, Tripped), (4, Open), false, (4, Tripped)),
            ((4, Tripped), (5, Open), true, (5, Open)),
            ((4, Tripped), (3, Paused), true, (4, Tripped)),
            ((4, Paused), (6, Tripped), true, (6, Tripped)),
            ((4, Open), (3, Paused), true, (3, Paused)),
            ((4, Open), (3, Open), true, (3, Open)),
        ] {
            let mut gate = gate(Without::Act, Some(said(held.0, held.1)));
            assert_eq!(gate.set_word(said(word.0, word.1)), follows, "{held:?} {word:?}");
            let (revision, state) = then;
            assert_eq!(gate.word(), Some(&said(revision, state)), "{held:?} {word:?}");
            assert_eq!(gate.stopped().is_some(), state != Open);
        }
        // Told before the stop had its place: it is the same one.
        let mut gate = gate(Without::Act, Some(Word { lineage: 0, ..said(4, Paused) }));
        assert!(gate.set_word(Word { reason: "again".to_owned(), ..said(4, Paused) }));
        assert_eq!(gate.word(), Some(&said(4, Paused)));
    }

    #[test]
    fn what_cannot_be_read_stops_until_it_is_heard_again() {
        let why = || "the file is damaged".to_owned();
        for older in [None, Some(word(BrakeState::Open, true))] {
            let kept = Kept::Doubt { why: why(), older };
            let mut gate = Gate::new("n1".parse().unwrap(), POLICY, Without::Act, kept, 0);
            for link in [Link::Down(0), Link::Up { brake: false, since_boot_ns: 0 }] {
                gate.set_link(link);
                assert!(waits(&clear(&gate, None, Severity::Critical, 1_000 * LONG), "is damaged"));
            }
            assert!(gate.set_word(word(BrakeState::Open, true)));
            assert_eq!(clear(&gate, None, Severity::Critical, 1_000 * LONG), Clearance::Alone);
        }
    }

    #[test]
    fn without_a_collector_configured_there_is_nobody_to_ask() {
        let gate = Gate::open("n1".parse().unwrap(), POLICY);
        assert_eq!(clear(&gate, None, Severity::Medium, 0), Clearance::Alone);
    }

    #[test]
    fn a_collector_that_answers_decides() {
        let mut gate = gate(Without::Act, None);
        gate.set_link(Link::Up { brake: true, since_boot_ns: 0 });
        let now = 1_000 * LONG;
        let waiting = Heard::Waiting { place: 2, of: 9, why: "3 of 3".to_owned() };
        assert!(waits(
            &clear(&gate, Some((waiting.clone(), now)), Severity::Critical, now),
            "place 2 of 9: 3 of 3"
        ));
        assert_eq!(
            clear(&gate, Some((Heard::Granted(now + 1), now)), Severity::Medium, now),
            Clearance::Leased(now + 1)
        );
        assert!(waits(&clear(&gate, Some((Heard::Granted(now), now)), Severity::Medium, now), "been asked"));
        assert!(waits(&clear(&gate, None, Severity::Medium, ANSWER_WAIT_NS - 1), "been asked"));
        // It fell silent.
        assert!(waits(
            &clear(&gate, Some((waiting.clone(), 0)), Severity::Medium, ANSWER_WAIT_NS),
            "by itself in"
        ));
        assert_eq!(clear(&gate, Some((waiting, 0)), Severity::Medium, LONG), Clearance::Alone);
    }

    #[test]
    fn alone_only_what_is_critical_and_proven_goes_on_unless_configured() {
        for (without, severity, proven, acts) in [
            (Without::Wait, Severity::Critical, true, false),
            (Without::CriticalOnly, Severity::High, true, false),
            (Without::CriticalOnly, Severity::Critical, false, false),
            (Without::CriticalOnly, Severity::Critical, true, true),
            (Without::Act, Severity::Medium, false, true),
        ] {
            let mut gate = gate(without, Some(word(BrakeState::Open, proven)));
            for link in [Link::Down(0), Link::Up { brake: false, since_boot_ns: 0 }] {
                gate.set_link(link);
                let clearance = clear(&gate, None, severity, LONG);
                assert_eq!(
                    clearance == Clearance::Alone,
                    acts,
                    "{without} {severity} {proven}: {clearance:?}"
                );
                assert_ne!(clear(&gate, None, severity, ANSWER_WAIT_NS - 1), Clearance::Alone);
            }
        }
    }

    #[test]
    fn nodes_that_act_alone_spread() {
        let nodes: Vec<NodeName> = (0..50).map(|i| format!("node-{i}").parse().unwrap()).collect();
        let mut at: Vec<u64> = nodes.iter().map(|n| stagger_ns(n, "/var")).collect();
        at.sort_unstable();
        assert!(at.iter().all(|t| *t < SPREAD_NS));
        assert!(at[0] < SPREAD_NS / 5 && at[49] > SPREAD_NS * 4 / 5, "{at:?}");
        assert_eq!(stagger_ns(&nodes[0], "/var"), stagger_ns(&nodes[0], "/var"));
    }

    #[test]
    fn another_root_makes_another_policy_and_another_mode_does_not() {
        use crate::act::policy::{Budgets, RootPolicy};
        let policy = |mode, root: &str| Policy {
            mode,
            roots: vec![RootPolicy::new(root)],
            budgets: Budgets::default(),
        };
        let (images, marks) = (ImagePolicy::default(), DiskConfig::default());
        let of = |mode, root| policy_hash(&policy(mode, root), &images, &marks);
        assert_eq!(of(CleanupMode::Plan, "/var/log"), of(CleanupMode::Auto, "/var/log"));
        assert_ne!(of(CleanupMode::Auto, "/var/log"), of(CleanupMode::Auto, "/srv/log"));
        let auto = policy(CleanupMode::Auto, "/var/log");
        let mut lower = DiskConfig::default();
        lower.space.low_used = 0.7;
        assert_ne!(policy_hash(&auto, &images, &marks), policy_hash(&auto, &images, &lower));
        let more = ImagePolicy { keep_newest: 7, ..ImagePolicy::default() };
        assert_ne!(policy_hash(&auto, &images, &marks), policy_hash(&auto, &more, &marks));
    }
}
