//! What a finding names, held against the truth.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What really fills the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Truth {
    /// Files or folders, any of which may be named, and what lies beneath them.
    pub(super) places: Vec<PathBuf>,
    /// Processes that may be named.
    pub(super) pids: Vec<u32>,
    /// Pods, by their uids, that may be named.
    pub(super) pods: Vec<String>,
}

/// What a finding said, judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It names no file, folder, process or pod.
    Unknown,
    /// It names some, all of them true.
    Right,
    /// It names one that is not true.
    Wrong(String),
}

/// One answer about a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) confidence: String,
    /// The facts that name something.
    pub(super) named: Vec<String>,
    pub(super) verdict: Verdict,
    /// Whether a process of the truth is among them, and a pod.
    pub(super) process: bool,
    pub(super) pod: bool,
}

/// What `finding` says about its cause; `None`: nothing yet. `strangers` are names that are true of no cause.
pub(super) fn judge(finding: &Value, truth: &Truth, strangers: &[String]) -> Option<Said> {
    let facts: Vec<(String, String)> = facts(finding);
    let confidence = facts.iter().find(|(key, _)| key == "cause_confidence")?.1.clone();
    let names = |key: &str| {
        ["writer_", "earlier_writer_", "grows_in_", "grew_in_", "inodes_grow_in_", "deleted_but_open_"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
            && !key.ends_with("_bytes")
    };
    let named: Vec<String> = facts.iter().filter(|(key, _)| names(key)).map(|(_, v)| v.clone()).collect();
    let mut said = Said {
        confidence,
        verdict: if named.is_empty() { Verdict::Unknown } else { Verdict::Right },
        named,
        process: false,
        pod: false,
    };
    for text in said.named.clone() {
        let named = Named::of(&text);
        if !truth.places.iter().any(|place| named.place.starts_with(place)) {
            said.verdict = Verdict::Wrong(format!("place {}", named.place.display()));
        }
        if let Some(pid) = named.pids.iter().find(|pid| !truth.pids.contains(pid)) {
            said.verdict = Verdict::Wrong(format!("process {pid}"));
        }
        if let Some(pod) = named.pod.as_ref().filter(|pod| !is_pod(pod, truth)) {
            said.verdict = Verdict::Wrong(format!("pod {pod}"));
        }
        said.process |= !named.pids.is_empty();
        said.pod |= named.pod.is_some();
    }
    let uid = finding["pod"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && !truth.pods.iter().any(|own| own == uid) {
        said.verdict = Verdict::Wrong(format!("the finding's pod {uid}"));
    }
    // People read the sentences.
    for text in [&finding["explanation"], &finding["summary"], &finding["message"]] {
        let text = text.as_str().unwrap_or_default();
        if let Some(stranger) = strangers.iter().find(|name| text.contains(name.as_str())) {
            said.verdict = Verdict::Wrong(format!("the text has {stranger}"));
        }
    }
    Some(said)
}

fn facts(finding: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    match &finding["facts"] {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), text(v))).collect(),
        Value::Array(all) => all.iter().map(|f| (text(&f["key"]), text(&f["value"]))).collect(),
        _ => Vec::new(),
    }
}

fn is_pod(said: &str, truth: &Truth) -> bool {
    truth.pods.iter().any(|uid| said == uid || said == super::causes::pod_name(uid))
}

/// A fact taken apart.
struct Named {
    place: PathBuf,
    pids: Vec<u32>,
    pod: Option<String>,
}

impl Named {
    fn of(text: &str) -> Self {
        let text = ["in the file ", "in the folder "]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        // A quoted name ends at its quote, any other at the first space.
        let (place, rest) = match text.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find("\" ").or(quoted.rfind('"')).unwrap_or(quoted.len());
                let place = quoted[..end].replace("\\u{1b}", "\u{1b}");
                (place, quoted.get(end + 1..).unwrap_or_default().to_owned())
            }
            None => {
                let (place, rest) = text.split_once(' ').unwrap_or((text, ""));
                (place.to_owned(), rest.to_owned())
            }
        };
        // What else is quoted is a process's word of itself.
        let rest: String = rest.split('"').step_by(2).collect();
        let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
        let pids = rest.split('(').skip(1).filter_map(|part| digits(part).parse().ok()).collect();
        let pod = rest.split_once(" of pod ").map(|(_, pod)| pod.to_owned());
        Self { place: Path::new(&place).to_owned(), pids, pod }
    }
}
