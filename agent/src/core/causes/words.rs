//! How a cause is put into words.
//!
//! Names come from processes and folders that anybody may name: each is bounded, and quoted where it could be read as more
//! of the sentence.

use std::path::Path;

use super::{MIN_DELETED_BYTES, MIN_SHARE};
use crate::detect::words::bytes;
use crate::usage::blame::{Blame, Confidence, Culprit, Opener};
use crate::usage::census::Grown;

/// Writers that a finding names.
pub(super) const MAX_NAMED: usize = 3;
/// Longest path that is told, from its end: a summary is a sentence.
pub(super) const MAX_PATH_CHARS: usize = 200;

/// A time as a reader at night wants it: to the second, for others write meanwhile.
pub(super) fn time(wall_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(wall_ns.into())
        .map(|t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
        .unwrap_or_default()
}

pub(super) fn sentence(blame: &Blame) -> String {
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
pub(super) fn named(blame: &Blame) -> impl Iterator<Item = &Culprit> {
    let is_told = matches!(blame.confidence, Confidence::Certain | Confidence::Likely);
    let least = blame.bytes_per_second * MIN_SHARE;
    blame.growing.iter().filter(move |c| is_told && c.bytes_per_second >= least).take(MAX_NAMED)
}

fn nobody(culprit: &Culprit) -> &'static str {
    if culprit.openers.is_empty() { "; which process writes it is unknown" } else { "" }
}

pub(super) fn place(grown: &Grown) -> String {
    let kind = if grown.is_file { "the file" } else { "the folder" };
    format!("in {kind} {}", bounded(&grown.path))
}

pub(super) fn said(culprit: &Culprit) -> String {
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
pub(in crate::core) fn bounded(path: &Path) -> String {
    let text = path.display().to_string();
    let beyond = text.chars().count().saturating_sub(MAX_PATH_CHARS);
    plain(&if beyond == 0 { text } else { format!("…{}", text.chars().skip(beyond).collect::<String>()) })
}
