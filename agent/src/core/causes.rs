//! Who fills a mount: asked when a finding says that it fills, and told with that finding from then on.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, Pod};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, TRIGGERS};
use crate::detect::words::bytes;
use crate::usage::blame::{Blame, Confidence, Culprit};
use crate::usage::scout::Answer;
use crate::usage::show::word;

/// The fact that says how sure a cause is.
const CONFIDENCE: &str = "cause_confidence";
/// Writers that a finding names.
const MAX_NAMED: usize = 3;
/// Longest path that is told, from its end: a summary is a sentence.
const MAX_PATH_CHARS: usize = 200;
/// Mounts whose causes are kept.
const MAX_MOUNTS: usize = 64;
/// Deleted files are worth a word from this on.
const MIN_DELETED_BYTES: u64 = 16 << 20;

/// What a mount's findings are told with, until they are over.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    boot_ns: u64,
    /// The newest that told what grows: a filesystem that is full grows no more, and it is then that people look.
    grew: Option<Blame>,
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
    pub(super) fn tell_cause(&mut self, finding: &mut Finding) {
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
        let Some(cause) = self.causes.get(mount) else { return };
        // Of an earlier run's, which no detector has told anew yet.
        if finding.facts.iter().any(|f| f.key == CONFIDENCE) {
            return;
        }
        if let Some(brief) = &cause.brief {
            finding.summary = format!("{}; {brief}", finding.summary.trim_end_matches('.'));
        }
        finding.explanation = format!("{} {}", cause.sentence, finding.explanation);
        finding.facts.extend(cause.facts.iter().cloned());
        if finding.pod.is_none() {
            finding.pod.clone_from(&cause.pod);
        }
    }

    /// The scout has an answer: the mount's findings are told again, with it.
    pub(super) fn on_cause(&mut self, answer: Answer) {
        let blame = match &answer.found {
            Ok(blame) => blame,
            Err(why) => {
                tracing::debug!(mount = answer.mount, why, "who fills it could not be found out");
                return;
            }
        };
        if !self.detectors.active().iter().any(|f| is_about_filling(f) && f.subject.name == answer.mount) {
            return;
        }
        let earlier = self.causes.remove(&answer.mount).and_then(|c| c.grew);
        let cause = cause(&answer, blame, earlier);
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
pub(super) fn is_about_filling(finding: &Finding) -> bool {
    let rule = finding.rule.as_str();
    finding.subject.kind == "mount" && (TRIGGERS.contains(&rule) || rule == CLEANUP_NOT_HOLDING)
}

fn cause(answer: &Answer, blame: &Blame, earlier: Option<Blame>) -> Cause {
    let is_told = matches!(blame.confidence, Confidence::Certain | Confidence::Likely);
    let earlier = if is_told { None } else { earlier };
    // What the writers are named by: now, or when it grew last.
    let told = earlier.as_ref().unwrap_or(blame);
    let mut facts = vec![
        Fact::new("grows_bytes_per_second", format!("{:.0}", blame.bytes_per_second)),
        Fact::new(CONFIDENCE, word(told.confidence)),
        Fact::new("explained_by_open_files_percent", format!("{:.0}", told.explained * 100.0)),
    ];
    let key = if earlier.is_some() { "earlier_writer" } else { "writer" };
    for (n, culprit) in told.growing.iter().take(MAX_NAMED).enumerate() {
        facts.push(Fact::new(format!("{key}_{}", n + 1), said(culprit)));
    }
    let deleted = blame.deleted_bytes >= MIN_DELETED_BYTES;
    if deleted {
        facts.push(Fact::new("deleted_but_open_bytes", blame.deleted_bytes.to_string()));
        for (n, culprit) in blame.deleted.iter().take(MAX_NAMED).enumerate() {
            facts.push(Fact::new(format!("deleted_but_open_{}", n + 1), said(culprit)));
        }
    }
    if let Some(why) = &answer.incomplete {
        facts.push(Fact::new("writers_missed", why.clone()));
    }
    let first = told.growing.first();
    let certain = told.confidence == Confidence::Certain;
    let mut brief = Vec::new();
    if let Some(first) = first.filter(|_| matches!(told.confidence, Confidence::Certain | Confidence::Likely))
    {
        let when = if earlier.is_some() { "filled by" } else { "filling:" };
        brief.push(format!("{when} {}", said(first)));
    }
    if let Some(largest) = blame.deleted.first().filter(|_| deleted) {
        brief.push(format!("{} deleted but open: {}", bytes(blame.deleted_bytes as f64), said(largest)));
    }
    let mut sentence = sentence(blame);
    if let Some(earlier) = &earlier {
        let then = self::sentence(earlier).replacen("It grows", "it grew", 1);
        sentence = format!("{sentence} Before that {then}");
    }
    Cause {
        boot_ns: answer.boot_ns,
        brief: (!brief.is_empty()).then(|| brief.join("; ")),
        sentence,
        facts,
        pod: first.filter(|_| certain).and_then(|c| c.pod.clone()),
        grew: if is_told { Some(blame.clone()) } else { earlier },
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
    let mut text = bounded(&culprit.path);
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

/// The end of a path is what tells it from others; a name may be as long as its filesystem lets it be.
pub(super) fn bounded(path: &Path) -> String {
    let text = path.display().to_string();
    let beyond = text.chars().count().saturating_sub(MAX_PATH_CHARS);
    if beyond == 0 { text } else { format!("…{}", text.chars().skip(beyond).collect::<String>()) }
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
        let cause = cause(&answer, &found, None);
        assert_eq!(
            cause.sentence,
            "It grows by 2.3 MiB/s, most of it /data/spam at 2.0 MiB/s by writer (7) of pod shop/web-1."
        );
        assert_eq!(cause.pod.map(|p| p.name).as_deref(), Some("web-1"));
    }

    #[test]
    fn who_filled_it_is_told_when_it_is_full_and_grows_no_more() {
        let still =
            Blame { growing: Vec::new(), explained: 0.0, bytes_per_second: 0.0, ..blame(Confidence::Still) };
        let (answer, found) = answer(still);
        let cause = cause(&answer, &found, Some(blame(Confidence::Certain)));
        assert!(cause.sentence.starts_with("It did not grow while"), "{}", cause.sentence);
        assert!(
            cause.sentence.contains("Before that it grew by 2.3 MiB/s, most of it /data/spam"),
            "{}",
            cause.sentence
        );
        assert_eq!(
            cause.brief.as_deref(),
            Some("filled by /data/spam at 2.0 MiB/s by writer (7) of pod shop/web-1")
        );
        assert!(cause.facts.iter().any(|f| f.key == "earlier_writer_1") && cause.grew.is_some());
        let (answer, found) = self::answer(blame(Confidence::Likely));
        assert_eq!(
            super::cause(&answer, &found, cause.grew).brief.as_deref().map(|b| &b[..7]),
            Some("filling")
        );
    }

    #[test]
    fn a_path_of_any_length_is_told_by_its_end() {
        let long = format!("/data/{}/spam.log", "é".repeat(4000));
        let told = bounded(Path::new(&long));
        assert_eq!(told.chars().count(), MAX_PATH_CHARS + 1);
        assert!(told.starts_with('…') && told.ends_with("/spam.log"), "{told}");
        assert_eq!(bounded(Path::new("/data/spam")), "/data/spam");
    }

    #[test]
    fn an_unknown_one_names_nobody() {
        let (answer, found) = answer(blame(Confidence::Unknown));
        let cause = cause(&answer, &found, None);
        assert!(
            cause.sentence.contains("by whom is unknown") && !cause.sentence.contains("spam"),
            "{}",
            cause.sentence
        );
        assert_eq!(cause.pod, None);
    }
}
