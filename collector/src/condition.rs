//! How dogwatch itself is: judged from figures, in words, with what to do about it. Pure.
//!
//! Invariants: every subject has its line, also where all is well, so that silence never means that nobody looked; the
//! worst comes first. What many nodes share is told once with their number, and the first of them by name.
//!
//! Deliberately absent: measuring (`query` gathers the figures) and the incidents of the nodes themselves.

mod decisions;

use std::collections::BTreeMap;

use dogwatch::record::Severity;

use crate::wording::{bytes, span};

pub use decisions::Decisions;

const SECOND_NS: i64 = 1_000_000_000;
const DAY_S: i64 = 86_400;
/// A certificate that ends within this long is told; the built-in CA renews well before.
const CERTIFICATE_SOON_S: i64 = 3 * DAY_S;
/// The CA is replaced by hand, in all places: earlier.
const CA_SOON_S: i64 = 90 * DAY_S;
/// A node renews at two thirds of its certificate's life; the shortest is hours.
const NODE_CERTIFICATE_SOON_S: i64 = 3_600;
/// Clocks farther apart than this disturb the order of what happened on several nodes.
const CLOCK_SKEW_NS: i64 = 2 * SECOND_NS;
/// And so far apart certificates and times to search in are wrong.
const CLOCK_WRONG_NS: i64 = 60 * SECOND_NS;
/// Records that a healthy uplink leaves behind for a moment: ten seconds of a busy node.
const LAG_RECORDS: u64 = 10_000;
/// The index follows within milliseconds; so long means that it does not.
const INDEX_LAG_S: u64 = 10;
/// Asks that wait for casework, of the most that may; more than half is a backlog.
const BACKLOG_SHARE: f64 = 0.5;
/// Nodes named in one line.
const NAMED: usize = 3;
/// Reasons for gaps that are told one by one.
const REASONS: usize = 8;
/// Longest words of a node or system that a line repeats, characters.
const MAX_WORDS: usize = 300;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `collector`, or a node's name.
    pub subject: String,
    /// What was looked at.
    pub name: &'static str,
    /// Info: well.
    pub severity: Severity,
    /// What is, with figures.
    pub words: String,
    /// Empty where nothing is to be done.
    pub remedy: String,
}

/// The figures.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Now, wall ns.
    pub now_wall_ns: i64,
    /// The collector's version.
    pub version: String,
    /// Each journal of blocks.
    pub journals: Vec<Journal>,
    /// The collector's own journal.
    pub truth: Decisions,
    /// The index.
    pub index: Index,
    /// End of the certificate that is shown, wall ns.
    pub certificate_ends_wall_ns: i64,
    /// End of the built-in CA; `None` with an external one.
    pub ca_ends_wall_ns: Option<i64>,
    /// Refusals that are active: rule, how many findings, how often in all.
    pub refusals: Vec<(String, u64, u64)>,
    /// Why nodes may not clean by themselves, if they may not, and whether something went wrong.
    pub brake: Option<(String, bool)>,
    /// Asks that wait for casework, and the most that may.
    pub backlog: (usize, usize),
    /// Findings and actions that belong to no incident, at most as many as were looked for.
    pub loose: usize,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Losses of the last hour: node, class of reason, gaps, records.
    pub gaps: Vec<Loss>,
    /// Whether there were more gaps than were looked at.
    pub more_gaps: bool,
}

/// A journal of blocks.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// Of which stream.
    pub stream: &'static str,
    /// Bytes that it holds.
    pub used_bytes: u64,
    /// Bytes beyond which the oldest go.
    pub max_bytes: u64,
    /// Free in its filesystem.
    pub free_bytes: u64,
    /// Below this it takes nothing.
    pub reserve_bytes: u64,
    /// Why it takes nothing, if so.
    pub refusing: Option<String>,
    /// Blocks that found no room aside.
    pub turned_away: u64,
}

/// The index.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Whether it answers.
    pub ready: bool,
    /// How often it was built anew in this run.
    pub rebuilds: u32,
    /// Why, the last time.
    pub reason: Option<String>,
    /// Whether it is kept in memory.
    pub fallback: bool,
    /// Seconds that it is behind.
    pub lag_s: u64,
    /// Frames that were not understood.
    pub odd_frames: u64,
}

/// A node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// When it was heard of last, wall ns; 0: never.
    pub last_seen_wall_ns: i64,
    /// Its agent's version.
    pub version: String,
    /// What it cannot see or do.
    pub unable: Vec<String>,
    /// How far its clock is ahead.
    pub clock_ahead_ns: Option<i64>,
    /// End of its certificate.
    pub certificate_ends_wall_ns: Option<i64>,
    /// Records that wait to be handed over.
    pub lag_records: u64,
    /// Whether it samples less often, to stay below its cap.
    pub saving: bool,
}

/// Losses of one node for one class of reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// The node.
    pub node: String,
    /// Class of reason.
    pub class: &'static str,
    /// Gaps.
    pub gaps: u64,
    /// Records; gaps of which nobody knows the number count none.
    pub records: u64,
    /// One of the reasons, in full.
    pub example: String,
}

/// Judges; worst first, the collector before nodes.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut out = Vec::new();
    store(facts, &mut out);
    index(&facts.index, &mut out);
    certificates(facts, &mut out);
    refusals(facts, &mut out);
    casework(facts, &mut out);
    brake(facts, &mut out);
    nodes(facts, &mut out);
    gaps(facts, &mut out);
    // Stable: what is equally bad stays in the order of looking.
    out.sort_by_key(|c| (std::cmp::Reverse(c.severity), c.subject != "collector"));
    out
}

fn own(name: &'static str, severity: Severity, words: String, remedy: &str) -> Check {
    Check { subject: "collector".to_owned(), name, severity, words: cut(&words), remedy: remedy.to_owned() }
}

fn store(facts: &Facts, out: &mut Vec<Check>) {
    let refusing: Vec<&Journal> = facts.journals.iter().filter(|j| j.refusing.is_some()).collect();
    if let Some(first) = refusing.first() {
        let streams: Vec<&str> = refusing.iter().map(|j| j.stream).collect();
        out.push(own(
            "store",
            Severity::Critical,
            format!(
                "nothing is taken in of {}: {}",
                streams.join(", "),
                first.refusing.as_deref().unwrap_or_default()
            ),
            "free space on the collector's disk, give it a larger one, or lower retention or store.reserve_bytes; nodes keep \
             what they record until then, as far as their rings reach",
        ));
    } else if let Some(j) = facts.journals.iter().min_by_key(|j| j.free_bytes) {
        let near = j.free_bytes < j.reserve_bytes.saturating_mul(2);
        let (severity, remedy) = match near {
            true => (
                Severity::High,
                "free space or lower retention: below the reserve no block is accepted any more",
            ),
            false => (Severity::Info, ""),
        };
        let words = format!(
            "{} are free, the reserve is {}; blocks are accepted",
            bytes(j.free_bytes),
            bytes(j.reserve_bytes)
        );
        out.push(own("store", severity, words, remedy));
    }
    let held: Vec<String> = facts
        .journals
        .iter()
        .map(|j| format!("{} {} of {}", j.stream, bytes(j.used_bytes), bytes(j.max_bytes)))
        .collect();
    out.push(decisions::judge(&facts.truth, &held.join(", ")));
    let turned_away: u64 = facts.journals.iter().map(|j| j.turned_away).sum();
    if turned_away > 0 {
        out.push(own(
            "aside",
            Severity::Medium,
            format!("{turned_away} offending blocks found no room aside and were not kept"),
            "look at the equivocation findings, keep what is in the store's folder aside/, and empty it",
        ));
    }
}

fn index(i: &Index, out: &mut Vec<Check>) {
    let reason = i.reason.as_deref().unwrap_or("no reason was given");
    let (severity, words, remedy) = if !i.ready {
        let why = i.reason.as_ref().map_or(String::new(), |r| format!(" ({r})"));
        (
            Severity::High,
            format!("it is being built from the journals{why}; questions wait or fail meanwhile"),
            "wait: about a second a GB of the urgent journal; ingest goes on",
        )
    } else if i.fallback {
        (
            Severity::Medium,
            format!("it is kept in memory, since the one on disk failed {} times: {reason}", i.rebuilds),
            "look at the disk; what failed last is in the store's folder index.broken-1; a restart tries the disk again",
        )
    } else if i.lag_s >= INDEX_LAG_S {
        (
            Severity::Medium,
            format!("it is {} s behind what is durable: answers miss the newest", i.lag_s),
            "look at the load of the collector's disk and CPU",
        )
    } else if i.rebuilds > 0 {
        (
            Severity::Low,
            format!("it was moved aside and built anew {} times since the start: {reason}", i.rebuilds),
            "nothing is lost; where it goes on, look at the disk",
        )
    } else if i.odd_frames > 0 {
        (
            Severity::Low,
            format!("{} frames of the journals were not understood", i.odd_frames),
            "`dogwatch-collector verify` says which are damaged; after a downgrade, go back to the newer version",
        )
    } else {
        (Severity::Info, "it is up to date".to_owned(), "")
    };
    out.push(own("index", severity, words, remedy));
}

fn ending(now_wall_ns: i64, ends_wall_ns: i64) -> (i64, String) {
    let left = ends_wall_ns.saturating_sub(now_wall_ns) / SECOND_NS;
    let words =
        if left <= 0 { format!("ended {} ago", span(-left)) } else { format!("ends in {}", span(left)) };
    (left, words)
}

fn certificates(facts: &Facts, out: &mut Vec<Check>) {
    let (left, words) = ending(facts.now_wall_ns, facts.certificate_ends_wall_ns);
    let (severity, remedy) = match left {
        ..=0 => (
            Severity::Critical,
            "agents and people cannot connect: renew it, then look at the collector's clock and log",
        ),
        s if s < CERTIFICATE_SOON_S && facts.ca_ends_wall_ns.is_none() => (
            Severity::High,
            "have the external CA renew the files of identity.certificate; they are read again by themselves",
        ),
        _ => (Severity::Info, ""),
    };
    out.push(own("certificate", severity, format!("the collector's certificate {words}"), remedy));
    if let Some(ends) = facts.ca_ends_wall_ns {
        let (left, words) = ending(facts.now_wall_ns, ends);
        let (severity, remedy) = match left {
            ..=0 => {
                (Severity::Critical, "nobody can connect any more: make a new CA and enrol the nodes again")
            }
            s if s < CA_SOON_S => {
                (Severity::High, "plan for a new CA: every node and person needs a new certificate")
            }
            _ => (Severity::Info, ""),
        };
        out.push(own("ca", severity, format!("the built-in CA {words}"), remedy));
    }
}

fn refusals(facts: &Facts, out: &mut Vec<Check>) {
    if facts.refusals.is_empty() {
        out.push(own("refusals", Severity::Info, "nobody was refused lately".to_owned(), ""));
        return;
    }
    let told: Vec<String> = facts
        .refusals
        .iter()
        .map(|(rule, callers, times)| format!("{rule} {times} times from {callers}"))
        .collect();
    out.push(own(
        "refusals",
        Severity::Medium,
        format!("callers are being refused: {}", told.join(", ")),
        "`dogwatch get findings --active` shows who, and what to do about each",
    ));
}

fn brake(facts: &Facts, out: &mut Vec<Check>) {
    out.push(match &facts.brake {
        None => own("brake", Severity::Info, "nodes may clean up as their modes say".to_owned(), ""),
        Some((why, true)) => own(
            "brake",
            Severity::Critical,
            why.clone(),
            "look at the finding fleet-cleanup-stopped and what it cites, mend it, then `dogwatch brake release`; until then \
             only people clean, with `dogwatch clean --override`",
        ),
        Some((why, false)) => own(
            "brake",
            Severity::High,
            why.clone(),
            "`dogwatch brake release` when they may go on; until then only people clean, with `dogwatch clean --override`",
        ),
    });
}

fn casework(facts: &Facts, out: &mut Vec<Check>) {
    let (waiting, most) = facts.backlog;
    let much = most > 0 && waiting as f64 > most as f64 * BACKLOG_SHARE;
    let words =
        format!("{waiting} of at most {most} asks wait; {} pieces belong to no incident", facts.loose);
    match much {
        true => out.push(own(
            "casework",
            Severity::High,
            words,
            "incidents and people's orders come late: look at the collector's disk, for each is synced",
        )),
        false => out.push(own("casework", Severity::Info, words, "")),
    }
}

/// Nodes that have something in common, in one line if they are many.
fn shared(
    out: &mut Vec<Check>,
    nodes: &[(&Node, String)],
    name: &'static str,
    severity: Severity,
    what: &str,
    remedy: &str,
) {
    if nodes.len() <= NAMED {
        out.extend(nodes.iter().map(|(n, words)| Check {
            subject: n.name.clone(),
            name,
            severity,
            words: cut(words),
            remedy: remedy.to_owned(),
        }));
        return;
    }
    let named: Vec<&str> = nodes.iter().take(NAMED).map(|(n, _)| n.name.as_str()).collect();
    let words =
        format!("{} nodes {what}: {} and {} more", nodes.len(), named.join(", "), nodes.len() - NAMED);
    out.push(own(name, severity, words, remedy));
}

fn nodes(facts: &Facts, out: &mut Vec<Check>) {
    type Told<'n> = Option<(&'n Node, String)>;
    let now = facts.now_wall_ns;
    let mut each = |name, severity, what: &str, remedy: &str, told: &dyn Fn(&Node) -> Option<String>| {
        let found: Vec<(&Node, String)> = facts
            .nodes
            .iter()
            .map(|n| -> Told<'_> { told(n).map(|w| (n, w)) })
            .collect::<Vec<_>>()
            .into_iter()
            .flatten()
            .collect();
        let none = found.is_empty();
        shared(out, &found, name, severity, what, remedy);
        none
    };
    let mut well = true;
    well &= each(
        "uplink",
        Severity::High,
        "are silent",
        "look whether the node is up, at the agent's log there (`kubectl logs`), and at the network between; \
         what it records meanwhile stays on it",
        &|n| {
            let ago = span(now.saturating_sub(n.last_seen_wall_ns) / SECOND_NS);
            (!n.connected && n.last_seen_wall_ns > 0).then(|| format!("silent; last heard of {ago} ago"))
        },
    );
    well &= each(
        "uplink",
        Severity::Medium,
        "were enrolled and never seen",
        "look at the agent's log on that node; where the node is gone for good, its certificate ends by itself",
        &|n| (!n.connected && n.last_seen_wall_ns == 0).then(|| "enrolled, and nothing ever came".to_owned()),
    );
    well &= each(
        "uplink",
        Severity::Medium,
        "hand over too slowly",
        "look at the network and at the agent's log; what its ring cannot hold until then becomes a gap",
        &|n| {
            (n.connected && n.lag_records > LAG_RECORDS)
                .then(|| format!("{} records wait to be handed over", n.lag_records))
        },
    );
    well &= each(
        "clock",
        Severity::High,
        "have clocks that are minutes off",
        "set the clock (NTP) of the node, or of the collector if it is all of them",
        &|n| skew(n).filter(|ns| ns.abs() >= CLOCK_WRONG_NS).map(skewed),
    );
    well &= each(
        "clock",
        Severity::Low,
        "have clocks that are seconds off",
        "set the clock (NTP) of the node: times of several nodes are compared in timelines",
        &|n| skew(n).filter(|ns| (CLOCK_SKEW_NS..CLOCK_WRONG_NS).contains(&ns.abs())).map(skewed),
    );
    well &= each(
        "certificate",
        Severity::High,
        "have certificates that end soon",
        "look at the agent's log: it renews by itself at two thirds of the certificate's life and says why it cannot",
        &|n| {
            let (left, words) = ending(now, n.certificate_ends_wall_ns.filter(|_| n.connected)?);
            (left < NODE_CERTIFICATE_SOON_S).then(|| format!("its certificate {words}"))
        },
    );
    well &= each(
        "version",
        Severity::Low,
        "run another version than the collector",
        "roll the DaemonSet out to the collector's version; a collector is updated before its agents",
        &|n| {
            (!n.version.is_empty() && n.version != facts.version)
                .then(|| format!("runs version {}, the collector {}", n.version, facts.version))
        },
    );
    well &= each(
        "coverage",
        Severity::Low,
        "cannot see or do everything",
        "`dogwatch get nodes -o json` tells each; what needs a right needs a mount or a capability in the DaemonSet, and cleanups that \
         are stopped or paused `dogwatch brake status`",
        &|n| (!n.unable.is_empty()).then(|| format!("cannot see or do everything: {}", n.unable.join("; "))),
    );
    well &= each(
        "saving",
        Severity::Low,
        "sample less often than configured",
        "sample less often by choice (sample.every), or lower what is read (sample.processes)",
        &|n| n.saving.then(|| "samples less often than configured, to stay below its cap".to_owned()),
    );
    let connected = facts.nodes.iter().filter(|n| n.connected).count();
    let words = format!("{connected} of {} nodes are connected", facts.nodes.len());
    let words = if well { format!("{words}; none lags, and all clocks agree") } else { words };
    out.push(own(
        "nodes",
        Severity::Info,
        words,
        if facts.nodes.is_empty() { "`dogwatch-collector token` makes a join token" } else { "" },
    ));
}

fn skew(n: &Node) -> Option<i64> {
    n.clock_ahead_ns.filter(|_| n.connected)
}

fn skewed(ns: i64) -> String {
    let seconds = ns.unsigned_abs() as f64 / SECOND_NS as f64;
    format!("its clock is {seconds:.1} s {} the collector's", if ns > 0 { "ahead of" } else { "behind" })
}

fn gaps(facts: &Facts, out: &mut Vec<Check>) {
    if facts.gaps.is_empty() {
        out.push(own(
            "gaps",
            Severity::Info,
            "no node said that it lost anything in the last hour".to_owned(),
            "",
        ));
        return;
    }
    let mut classes: BTreeMap<&str, Vec<&Loss>> = BTreeMap::new();
    for loss in &facts.gaps {
        classes.entry(loss.class).or_default().push(loss);
    }
    for (class, losses) in classes.into_iter().take(REASONS) {
        let sum = |f: fn(&Loss) -> u64| losses.iter().map(|l| f(l)).sum::<u64>();
        let (severity, remedy) = advice(class);
        let example = losses.first().map_or("", |l| &l.example);
        let subject = match &losses[..] {
            [one] => one.node.clone(),
            _ => "collector".to_owned(),
        };
        let on = if losses.len() > 1 { format!(" on {} nodes", losses.len()) } else { String::new() };
        let least = if facts.more_gaps { "at least " } else { "" };
        out.push(Check {
            subject,
            name: "gaps",
            severity,
            words: cut(&format!(
                "{least}{} gaps in the last hour{on}, {} records: {class}, e.g. {example}",
                sum(|l| l.gaps),
                sum(|l| l.records)
            )),
            remedy: remedy.to_owned(),
        });
    }
}

/// How bad a class of losses is, and what to do; the classes are [`crate::wording::gap_class`]'s.
fn advice(class: &str) -> (Severity, &'static str) {
    match class {
        "restart" => (Severity::Info, ""),
        "journal" => (Severity::High, "look at the disk of the node's state folder"),
        "queue" | "budget" => {
            (Severity::Medium, "more is said than the budget allows: raise it, or quieten what logs so much")
        }
        "refused" => {
            (Severity::High, "the collector refused blocks: look at the equivocation and refusal findings")
        }
        "ring" => (
            Severity::Medium,
            "the node was away for longer than its ring reaches: enlarge state.evidence_bytes there",
        ),
        "rotated" => (
            Severity::Low,
            "logs go faster than they are read: rotate later, or look whether the agent starves",
        ),
        "sampler" => (Severity::Low, "the node was suspended or starved of CPU"),
        _ => (Severity::Low, "`dogwatch get events --kind gap` tells each"),
    }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests;
