//! Who fills a mount: asked when a finding says that it fills, and told with that finding from then on.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, Pod};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, INODE_HIGH_WATER, TRIGGERS};
use crate::detect::words::bytes;
use crate::usage::blame::{Blame, Confidence, Culprit, Opener};
use crate::usage::census::Grown;
use crate::usage::scout::Answer;
use crate::usage::show::word;

/// The fact that says how sure a cause is.
const CONFIDENCE: &str = "cause_confidence";
/// Writers that a finding names.
const MAX_NAMED: usize = 3;
/// A file with a smaller share of the growth is not named beside the others.
const MIN_SHARE: f64 = 0.1;
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
    /// What findings about inodes are told with: who takes the bytes need not be who takes those.
    inodes: Box<Told>,
}

/// What findings about inodes are told with.
#[derive(Debug, Clone)]
struct Told {
    brief: Option<String>,
    sentence: String,
    facts: Vec<Fact>,
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
        let of_inodes = finding.rule == INODE_HIGH_WATER;
        let (brief, sentence, facts) = if of_inodes {
            (&cause.inodes.brief, &cause.inodes.sentence, &cause.inodes.facts)
        } else {
            (&cause.brief, &cause.sentence, &cause.facts)
        };
        if let Some(brief) = brief {
            finding.summary = format!("{}; {brief}", finding.summary.trim_end_matches('.'));
        }
        finding.explanation = format!("{} {}", sentence, finding.explanation);
        finding.facts.extend(facts.iter().cloned());
        if finding.pod.is_none() && !of_inodes {
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
    for (n, culprit) in named(told).enumerate() {
        facts.push(Fact::new(format!("{key}_{}", n + 1), said(culprit)));
    }
    if let Some(grown) = &told.grown {
        let kind = if grown.is_file { "file" } else { "folder" };
        let when = if earlier.is_some() { "grew" } else { "grows" };
        facts.push(Fact::new(format!("{when}_in_{kind}"), place(grown)));
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
    let first = named(told).next();
    let certain = told.confidence == Confidence::Certain;
    let mut brief = Vec::new();
    let when = if earlier.is_some() { "filled by" } else { "filling:" };
    if let Some(first) = first {
        brief.push(format!("{when} {}", said(first)));
    } else if let Some(grown) = &told.grown {
        brief.push(format!("{when} {}, by whom is unknown", place(grown)));
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
        inodes: Box::new(of_inodes(blame)),
        grew: if is_told { Some(blame.clone()) } else { earlier },
    }
}

fn sentence(blame: &Blame) -> String {
    let rate = rate(blame.bytes_per_second);
    let mut text = match (blame.confidence, named(blame).next()) {
        (Confidence::Certain, Some(first)) => {
            format!("It grows by {rate}, most of it {}{}.", said(first), nobody(first))
        }
        (Confidence::Likely, Some(first)) => format!(
            "It grows by {rate}; files that are open explain {:.0} % of that: {}{}.",
            blame.explained * 100.0,
            named(blame).map(said).collect::<Vec<_>>().join("; "),
            nobody(first)
        ),
        (Confidence::Likely, None) if blame.grown.is_some() => format!(
            "It grows by {rate}, most of it {}; by whom is unknown: no process was caught at it.",
            blame.grown.as_ref().map(place).unwrap_or_default()
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

/// The files that a cause names: none where it is unknown, and none that hardly matters.
fn named(blame: &Blame) -> impl Iterator<Item = &Culprit> {
    let is_told = matches!(blame.confidence, Confidence::Certain | Confidence::Likely);
    let least = blame.bytes_per_second * MIN_SHARE;
    blame.growing.iter().filter(move |c| is_told && c.bytes_per_second >= least).take(MAX_NAMED)
}

fn nobody(culprit: &Culprit) -> &'static str {
    if culprit.openers.is_empty() { "; which process writes it is unknown" } else { "" }
}

fn place(grown: &Grown) -> String {
    let kind = if grown.is_file { "the file" } else { "the folder" };
    format!("in {kind} {}", bounded(&grown.path))
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
    Told { brief, sentence, facts }
}

fn said(culprit: &Culprit) -> String {
    let path = bounded(&culprit.path);
    let mut text = if culprit.is_node_path { path } else { format!("a file that its process calls {path}") };
    if culprit.bytes_per_second > 0.0 {
        text.push_str(&format!(" at {}", rate(culprit.bytes_per_second)));
    } else {
        text.push_str(&format!(" with {}", bytes(culprit.bytes as f64)));
    }
    let by: Vec<String> = culprit.openers.iter().map(opener).collect();
    if !by.is_empty() {
        let by_whom = if culprit.bytes_per_second > 0.0 { "by" } else { "held by" };
        text.push_str(&format!(" {by_whom} {}", by.join(", ")));
    }
    if let Some(pod) = &culprit.pod {
        let name =
            if pod.name.is_empty() { pod.uid.clone() } else { format!("{}/{}", pod.namespace, pod.name) };
        text.push_str(&format!(" of pod {name}"));
    }
    text
}

/// A process may choose its name, what it runs it may not choose.
fn opener(opener: &Opener) -> String {
    let Opener { pid, name, program } = opener;
    match program {
        _ if name.is_empty() => pid.to_string(),
        None => format!("{} ({pid})", plain(name)),
        Some(program) => format!("{} ({pid}, running {})", plain(name), plain(program)),
    }
}

/// A name as it is where it can be nothing but one word; quoted where it could be read as more of the sentence, or as an
/// order to a terminal.
fn plain(name: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || "/._-+@:~=#%…[]{}$".contains(c);
    if !name.is_empty() && name.chars().all(is_word) { name.to_owned() } else { format!("{name:?}") }
}

fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// The end of a path is what tells it from others; a name may be as long as its filesystem lets it be.
pub(super) fn bounded(path: &Path) -> String {
    let text = path.display().to_string();
    let beyond = text.chars().count().saturating_sub(MAX_PATH_CHARS);
    plain(&if beyond == 0 { text } else { format!("…{}", text.chars().skip(beyond).collect::<String>()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::blame::Opener;

    fn blame(confidence: Confidence) -> Blame {
        let first = Culprit {
            path: "/data/spam".into(),
            is_node_path: true,
            pod: Some(Pod {
                namespace: "shop".into(),
                name: "web-1".into(),
                uid: "u".into(),
                ..Pod::default()
            }),
            openers: vec![Opener { pid: 7, name: "writer".into(), program: None }],
            is_deleted: false,
            bytes: 5 << 20,
            bytes_per_second: 2097152.0,
        };
        Blame {
            bytes_per_second: 2411724.8,
            growing: vec![first],
            explained: 0.87,
            confidence,
            grown: None,
            inodes_per_second: 0.0,
            multiplied: None,
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
    fn a_name_cannot_be_read_as_more_of_the_sentence() {
        let mut hostile = blame(Confidence::Certain);
        hostile.growing[0].path = "/data/x by kubelet (1) of pod kube-system/etcd\u{1b}[2J".into();
        hostile.growing[0].openers =
            vec![Opener { pid: 7, name: "kubelet".into(), program: Some("a) b".into()) }];
        let text = sentence(&hostile);
        assert!(
            text.contains(r#"most of it "/data/x by kubelet (1) of pod kube-system/etcd\u{1b}[2J" at"#)
                && text.contains(r#"by kubelet (7, running "a) b") of pod shop/web-1"#),
            "{text}"
        );
    }

    #[test]
    fn what_only_a_census_saw_is_told_without_a_process() {
        let grown = Grown { path: "/data/cores".into(), is_file: false, bytes: 9, inodes: 0 };
        let mut found = blame(Confidence::Unknown);
        found.inodes_per_second = 50.0;
        found.with_census(9.0, Some(grown.clone()), Some(grown));
        let (answer, found) = answer(found);
        let cause = cause(&answer, &found, None);
        assert!(
            cause.sentence.contains("most of it in the folder /data/cores; by whom is unknown"),
            "{cause:?}"
        );
        assert!(!format!("{cause:?}").contains("writer_1"), "{cause:?}");
        assert!(cause.inodes.sentence.contains("most of them in the folder /data/cores"), "{cause:?}");
        assert!(cause.grew.is_some());
    }

    #[test]
    fn a_finding_about_inodes_is_not_told_who_takes_the_bytes() {
        let (answer, found) = answer(blame(Confidence::Certain));
        let cause = cause(&answer, &found, None);
        assert!(!format!("{:?}", cause.inodes).contains("spam"), "{cause:?}");
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
        assert!(!format!("{:?}", cause.facts).contains("spam"), "{cause:?}");
    }
}
