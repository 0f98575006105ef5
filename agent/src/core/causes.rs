//! Who fills a mount: asked when a finding says that it fills, and told with that finding from then on.

use std::collections::BTreeMap;

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, Moment, Pod};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, TRIGGERS};
use crate::usage::blame::{Blame, Confidence, Culprit};
use crate::usage::scout::Answer;

/// What was found out stays with a mount's findings for so long; later ones are asked about anew.
const FRESH_NS: u64 = 600 * 1_000_000_000;
/// Writers that a finding names.
const MAX_NAMED: usize = 3;
/// Mounts whose causes are kept.
const MAX_MOUNTS: usize = 64;
/// Deleted files are worth a word from this on.
const MIN_DELETED_BYTES: u64 = 16 << 20;

/// What a mount's findings are told with.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    boot_ns: u64,
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
            self.wires.scout.as_ref().filter(|_| is_asked && finding.state != FindingState::Cleared)
        {
            // With too many questions waiting the finding stands without.
            let _ = scout.ask(&finding.subject.name);
        }
    }

    /// Adds what is known of the cause to a mount's finding.
    pub(super) fn tell_cause(&self, at: Moment, finding: &mut Finding) {
        if !is_about_filling(finding) || finding.state == FindingState::Cleared {
            return;
        }
        let Some(cause) = self.causes.get(&finding.subject.name) else { return };
        if at.boot_ns.saturating_sub(cause.boot_ns) > FRESH_NS {
            return;
        }
        finding.explanation = format!("{} {}", finding.explanation.trim_end(), cause.sentence);
        finding.facts.extend(cause.facts.iter().cloned());
        if finding.pod.is_none() {
            finding.pod.clone_from(&cause.pod);
        }
    }

    /// The scout has an answer: the mount's findings are told again, with it.
    pub(super) fn on_cause(&mut self, answer: Answer) {
        let cause = match &answer.found {
            Ok(blame) => cause(&answer, blame),
            Err(why) => {
                tracing::debug!(mount = answer.mount, why, "who fills it could not be found out");
                return;
            }
        };
        if self.causes.len() >= MAX_MOUNTS {
            let oldest = self.causes.iter().min_by_key(|(_, c)| c.boot_ns).map(|(mount, _)| mount.clone());
            oldest.map(|mount| self.causes.remove(&mount));
        }
        self.causes.insert(answer.mount.clone(), cause);
        let now = clock::now();
        let of_mount = |f: &&Finding| {
            f.subject.kind == "mount" && f.subject.name == answer.mount && TRIGGERS.contains(&f.rule.as_str())
        };
        let again: Vec<Finding> = self.detectors.active().into_iter().filter(of_mount).cloned().collect();
        for mut finding in again {
            finding.state = FindingState::Updated;
            self.say(now, finding);
        }
    }
}

/// Whether a cause has anything to do with it: not every finding about a mount says that it fills.
fn is_about_filling(finding: &Finding) -> bool {
    let rule = finding.rule.as_str();
    finding.subject.kind == "mount" && (TRIGGERS.contains(&rule) || rule == CLEANUP_NOT_HOLDING)
}

fn cause(answer: &Answer, blame: &Blame) -> Cause {
    let mut facts = vec![
        Fact::new("grows_bytes_per_second", format!("{:.0}", blame.bytes_per_second)),
        Fact::new("cause_confidence", word(blame.confidence)),
        Fact::new("explained_by_open_files_percent", format!("{:.0}", blame.explained * 100.0)),
    ];
    for (n, culprit) in blame.growing.iter().take(MAX_NAMED).enumerate() {
        facts.push(Fact::new(format!("writer_{}", n + 1), said(culprit)));
    }
    if blame.deleted_bytes >= MIN_DELETED_BYTES {
        facts.push(Fact::new("deleted_but_open_bytes", blame.deleted_bytes.to_string()));
        for (n, culprit) in blame.deleted.iter().take(MAX_NAMED).enumerate() {
            facts.push(Fact::new(format!("deleted_but_open_{}", n + 1), said(culprit)));
        }
    }
    if let Some(why) = &answer.incomplete {
        facts.push(Fact::new("writers_missed", why.clone()));
    }
    let first = blame.growing.first();
    let certain = blame.confidence == Confidence::Certain;
    let pod = first.filter(|_| certain).and_then(|c| c.pod.clone());
    Cause { boot_ns: answer.boot_ns, sentence: sentence(blame), facts, pod }
}

fn word(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Unknown => "unknown",
        Confidence::Still => "not growing",
    }
}

fn sentence(blame: &Blame) -> String {
    let rate = rate(blame.bytes_per_second);
    let mut text = match (blame.confidence, blame.growing.first()) {
        (Confidence::Certain, Some(first)) => format!("It grows by {rate}, most of it {}.", said(first)),
        (Confidence::Likely, Some(first)) => format!(
            "It grows by {rate}; files that are open explain {:.0} % of that, most {}.",
            blame.explained * 100.0,
            said(first)
        ),
        (Confidence::Unknown | Confidence::Certain | Confidence::Likely, _) => format!(
            "It grows by {rate}; by whom is unknown: files that are open explain {:.0} % of that.",
            blame.explained * 100.0
        ),
        (Confidence::Still, _) => "It did not grow while its writers were looked for.".to_owned(),
    };
    if blame.deleted_bytes >= MIN_DELETED_BYTES {
        let largest = blame.deleted.first().map(said).unwrap_or_default();
        text.push_str(&format!(
            " {} is in files that are deleted and still open, the largest {largest}: it comes free when they are closed.",
            bytes(blame.deleted_bytes as f64)
        ));
    }
    text
}

fn said(culprit: &Culprit) -> String {
    let mut text = culprit.path.display().to_string();
    if culprit.bytes_per_second > 0.0 {
        text.push_str(&format!(" at {}", rate(culprit.bytes_per_second)));
    } else {
        text.push_str(&format!(" with {}", bytes(culprit.bytes as f64)));
    }
    let by: Vec<String> = culprit
        .openers
        .iter()
        .map(|o| if o.name.is_empty() { o.pid.to_string() } else { format!("{} ({})", o.name, o.pid) })
        .collect();
    if !by.is_empty() {
        text.push_str(&format!(" by {}", by.join(", ")));
    }
    if let Some(pod) = &culprit.pod {
        let name =
            if pod.name.is_empty() { pod.uid.clone() } else { format!("{}/{}", pod.namespace, pod.name) };
        text.push_str(&format!(" of pod {name}"));
    }
    text
}

fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

fn bytes(n: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n.max(0.0);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::blame::Opener;

    fn blame(confidence: Confidence) -> Blame {
        let first = Culprit {
            path: "/data/spam".into(),
            pod: Some(Pod {
                namespace: "shop".into(),
                name: "web-1".into(),
                uid: "u".into(),
                ..Pod::default()
            }),
            openers: vec![Opener { pid: 7, name: "writer".into() }],
            is_deleted: false,
            bytes: 5 << 20,
            bytes_per_second: 2097152.0,
        };
        Blame {
            bytes_per_second: 2411724.8,
            growing: vec![first],
            explained: 0.87,
            confidence,
            deleted: Vec::new(),
            deleted_bytes: 0,
        }
    }

    fn answer(found: Blame) -> (Answer, Blame) {
        (Answer { mount: "/data".into(), boot_ns: 0, found: Ok(found.clone()), incomplete: None }, found)
    }

    #[test]
    fn a_certain_cause_names_file_process_and_pod() {
        let (answer, found) = answer(blame(Confidence::Certain));
        let cause = cause(&answer, &found);
        assert_eq!(
            cause.sentence,
            "It grows by 2.3 MiB/s, most of it /data/spam at 2.0 MiB/s by writer (7) of pod shop/web-1."
        );
        assert_eq!(cause.pod.map(|p| p.name).as_deref(), Some("web-1"));
    }

    #[test]
    fn an_unknown_one_names_nobody() {
        let (answer, found) = answer(blame(Confidence::Unknown));
        let cause = cause(&answer, &found);
        assert!(
            cause.sentence.contains("by whom is unknown") && !cause.sentence.contains("spam"),
            "{}",
            cause.sentence
        );
        assert_eq!(cause.pod, None);
    }
}
