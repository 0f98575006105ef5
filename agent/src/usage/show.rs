//! What a walk found, as a tree for people and as JSON for programs.
//!
//! Names are data: what would steer a terminal is shown as an escape.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use super::blame::{Blame, Confidence, Culprit};
use super::layout::{Layout, Owner};
use super::report::{Report, Writers};
use super::tally::{Folder, Usage};

/// Folders of one folder that are drawn; the rest is summed up in a line.
const MAX_DRAWN: usize = 8;
/// Folders below the top that are drawn.
const MAX_DRAWN_DEPTH: usize = 6;
/// Share of the whole that a folder needs to be drawn.
const MIN_SHARE: f64 = 0.02;
/// Files that are listed.
const MAX_FILES: usize = 10;
/// A folder of which so much lies in one folder is drawn in that one's line.
const SAME_AS_ITS_CHILD: f64 = 0.97;

/// What filesystems say about themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// Its size.
    pub total_bytes: u64,
    /// What is in use.
    pub used_bytes: u64,
    /// What anybody may still use.
    pub available_bytes: u64,
    /// Inodes that it has; 0 where it does not count them.
    pub inodes: u64,
    /// Inodes in use; 0 where the filesystem does not count them.
    pub used_inodes: u64,
    /// Whether the whole filesystem was walked, so that what was found can be compared with what is used.
    pub walked_whole: bool,
}

/// The tree, for people.
pub fn tree(report: &Report) -> String {
    let (usage, fs) = (&report.usage, &report.fs);
    let mut out = String::new();
    let path = shown(usage.path.as_os_str());
    let (bytes, inodes) = (usage.root.bytes, usage.root.inodes);
    let _ = writeln!(out, "{} {path}  ({inodes} inodes)", size(bytes));
    let owner = report.layout.of(&usage.path);
    let drawing = Drawing { whole: bytes, layout: &report.layout };
    drawing.folders(&mut out, &usage.root, &usage.path, owner.as_ref(), "", 0);
    if !usage.files.is_empty() {
        let _ = writeln!(out, "\nlargest files");
        for file in usage.files.iter().take(MAX_FILES) {
            let sparse = if file.size_bytes > file.bytes.saturating_mul(2) {
                format!("  (sparse: {} long)", size(file.size_bytes).trim_start())
            } else {
                String::new()
            };
            let _ = writeln!(out, "{} {}{sparse}", size(file.bytes), shown(file.path.as_os_str()));
        }
    }
    match &report.writers {
        Some(Ok(found)) => writers(&mut out, found),
        Some(Err(why)) => {
            let _ = writeln!(out, "\nwho writes is unknown: {}", shown(why.as_ref()));
        }
        None => {}
    }
    out.push('\n');
    for line in remarks(usage, fs) {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// What a reader must know besides the figures.
fn remarks(usage: &Usage, fs: &Filesystem) -> Vec<String> {
    let mut lines = Vec::new();
    if !usage.whole {
        lines.push("NOT WHOLE: the walk was stopped before its end".to_owned());
    }
    lines.push(format!(
        "the filesystem: {} of {} used, {} available",
        size(fs.used_bytes).trim_start(),
        size(fs.total_bytes).trim_start(),
        size(fs.available_bytes).trim_start()
    ));
    if fs.walked_whole {
        let found = usage.root.bytes;
        if fs.used_bytes > found {
            lines.push(format!(
                "{} in use was not found in any folder: files that are deleted and still open, what a mount hides, the \
                 filesystem's own, or folders that could not be read",
                size(fs.used_bytes - found).trim_start()
            ));
        } else if found > fs.used_bytes {
            lines.push(format!(
                "{} more was found than is in use: files share extents (reflinks), or changed meanwhile",
                size(found - fs.used_bytes).trim_start()
            ));
        }
    }
    if usage.unread_total > 0 {
        lines.push(format!("{} could not be read:", usage.unread_total));
        lines.extend(
            usage
                .unread
                .iter()
                .take(MAX_FILES)
                .map(|(path, why)| format!("  {}: {why}", shown(path.as_os_str()))),
        );
    }
    if !usage.mounts.is_empty() {
        let mounts: Vec<String> = usage.mounts.iter().take(MAX_FILES).map(|m| shown(m.as_os_str())).collect();
        let more = usage.mounts.len().saturating_sub(MAX_FILES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("mounted there and not counted: {}{more}", mounts.join(", ")));
    }
    if usage.links_beyond_bound > 0 {
        lines.push(format!(
            "{} names of files with several names were counted for each name: there were too many to remember",
            usage.links_beyond_bound
        ));
    }
    lines.push(format!(
        "{} entries in {:.2} s, {:.2} s of CPU",
        usage.entries,
        usage.took.as_secs_f64(),
        usage.cpu.as_secs_f64()
    ));
    lines
}

/// Who writes, and what is deleted and still open.
fn writers(out: &mut String, found: &Writers) {
    let Blame { bytes_per_second, growing, explained, confidence, deleted, deleted_bytes, .. } = &found.blame;
    let _ = match confidence {
        Confidence::Still => writeln!(out, "\nit does not grow"),
        _ => writeln!(
            out,
            "\nit grows by {}/s; who: {}, open files explain {:.0} %",
            size(bytes_per_second.max(0.0) as u64).trim_start(),
            word(*confidence),
            explained * 100.0
        ),
    };
    for culprit in growing.iter().take(MAX_FILES) {
        let rate = culprit.bytes_per_second.max(0.0) as u64;
        let _ = writeln!(out, "{}/s {}", size(rate), by(culprit));
    }
    if *deleted_bytes > 0 {
        let _ = writeln!(out, "\ndeleted and still open: {}", size(*deleted_bytes).trim_start());
        for culprit in deleted.iter().take(MAX_FILES) {
            let _ = writeln!(out, "{} {}", size(culprit.bytes), by(culprit));
        }
    }
    if let Some(why) = &found.missed {
        let _ = writeln!(out, "open files may have been missed: {}", shown(why.as_ref()));
    }
}

fn by(culprit: &Culprit) -> String {
    let openers = culprit.openers.iter().map(|o| match o.name.as_str() {
        "" => o.pid.to_string(),
        name => format!("{} ({})", shown(name.as_ref()), o.pid),
    });
    let openers: Vec<String> = openers.collect();
    // What a process in a container calls its file is another file on the node.
    let named_by = if culprit.is_node_path { "" } else { " (as its process calls it)" };
    let openers = if openers.is_empty() { vec!["a process unknown".to_owned()] } else { openers };
    let pod = culprit.pod.as_ref().map(|pod| format!(" of {}", named(pod))).unwrap_or_default();
    format!("{}{named_by} by {}{pod}", shown(culprit.path.as_os_str()), openers.join(", "))
}

/// A pod as people call it; by its uid where it has no known name.
pub fn named(pod: &dogwatch::record::Pod) -> String {
    if pod.name.is_empty() {
        format!("pod {}", pod.uid)
    } else {
        format!("pod {}/{}", pod.namespace, pod.name)
    }
}

/// How sure it is, in one word.
pub fn word(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Unknown => "unknown",
        Confidence::Still => "not growing",
    }
}

struct Drawing<'a> {
    whole: u64,
    layout: &'a Layout,
}

impl Drawing<'_> {
    fn folders(
        &self,
        out: &mut String,
        folder: &Folder,
        path: &Path,
        above: Option<&Owner>,
        indent: &str,
        depth: usize,
    ) {
        if depth >= MAX_DRAWN_DEPTH {
            return;
        }
        let whole = self.whole;
        let drawn: Vec<&Folder> = folder
            .folders
            .iter()
            .filter(|f| f.bytes as f64 >= MIN_SHARE * whole as f64)
            .take(MAX_DRAWN)
            .collect();
        let rest = folder.bytes.saturating_sub(drawn.iter().map(|f| f.bytes).sum());
        let has_rest = !drawn.is_empty() && rest as f64 >= MIN_SHARE * whole as f64;
        for (n, child) in drawn.iter().enumerate() {
            let is_last = n + 1 == drawn.len() && !has_rest;
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let mut name = shown(&child.name);
            let mut at = path.join(&child.name);
            let mut end = *child;
            while let Some(only) =
                end.folders.first().filter(|f| f.bytes as f64 >= SAME_AS_ITS_CHILD * end.bytes as f64)
            {
                name = format!("{name}/{}", shown(&only.name));
                at.push(&only.name);
                end = only;
            }
            let owner = self.layout.of(&at);
            let told = owner.as_ref().filter(|o| Some(*o) != above);
            let told = told.map(|o| format!("  [{} of {}]", shown(o.part.as_ref()), named(&o.pod)));
            let _ = writeln!(
                out,
                "{} {} {indent}{branch}{name}{}",
                size(child.bytes),
                share(child.bytes, whole),
                told.unwrap_or_default()
            );
            self.folders(out, end, &at, owner.as_ref(), &format!("{indent}{below}"), depth + 1);
        }
        if has_rest {
            let _ = writeln!(
                out,
                "{} {} {indent}└─ (files, and smaller folders)",
                size(rest),
                share(rest, whole)
            );
        }
    }
}

fn share(bytes: u64, whole: u64) -> String {
    format!("{:>3.0} %", bytes as f64 * 100.0 / (whole.max(1)) as f64)
}

/// Right-aligned, so that lines stand beneath one another.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes:>5} B  ") } else { format!("{value:>5.1} {}", UNITS[unit]) }
}

/// A name as text: bytes that are no UTF-8 and what steers a terminal as `\xNN` or `\u{N}`.
pub fn shown(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            // Marks that turn the direction of writing are as good as control characters.
            let turns =
                matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || turns || c == '\\' {
                let _ = write!(text, "{}", c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// All of it, for programs: bytes are numbers, names as in the tree.
pub fn value(report: &Report) -> Value {
    let (usage, fs) = (&report.usage, &report.fs);
    json!({
        "path": shown(usage.path.as_os_str()),
        "whole": usage.whole,
        "filesystem": {
            "total_bytes": fs.total_bytes,
            "used_bytes": fs.used_bytes,
            "available_bytes": fs.available_bytes,
            "used_inodes": fs.used_inodes,
        },
        "tree": folder_value(&usage.root, &usage.path, None, &report.layout),
        "files": usage.files.iter().map(|f| json!({
            "path": shown(f.path.as_os_str()),
            "allocated_bytes": f.bytes,
            "size_bytes": f.size_bytes,
            "inode": f.inode,
            "uid": f.uid,
            "mtime_ns": f.mtime_ns,
        })).collect::<Vec<_>>(),
        "unread": usage.unread.iter().map(|(path, why)| json!({
            "path": shown(path.as_os_str()),
            "reason": why,
        })).collect::<Vec<_>>(),
        "unread_total": usage.unread_total,
        "mounts": usage.mounts.iter().map(|m| shown(m.as_os_str())).collect::<Vec<_>>(),
        "links_beyond_bound": usage.links_beyond_bound,
        "entries": usage.entries,
        "seconds": usage.took.as_secs_f64(),
        "cpu_seconds": usage.cpu.as_secs_f64(),
        "writers": report.writers.as_ref().map(|found| match found {
            Ok(found) => json!({
                "bytes_per_second": found.blame.bytes_per_second,
                "confidence": word(found.blame.confidence),
                "explained": found.blame.explained,
                "growing": found.blame.growing.iter().map(culprit_value).collect::<Vec<_>>(),
                "deleted": found.blame.deleted.iter().map(culprit_value).collect::<Vec<_>>(),
                "deleted_bytes": found.blame.deleted_bytes,
                "missed": found.missed,
            }),
            Err(why) => json!({ "unknown": why }),
        }),
    })
}

fn culprit_value(culprit: &Culprit) -> Value {
    json!({
        "path": shown(culprit.path.as_os_str()),
        "pod": culprit.pod.as_ref().map(named),
        "processes": culprit.openers.iter().map(|o| json!({ "pid": o.pid, "name": o.name })).collect::<Vec<_>>(),
        "allocated_bytes": culprit.bytes,
        "bytes_per_second": culprit.bytes_per_second,
    })
}

fn folder_value(folder: &Folder, path: &Path, above: Option<&Owner>, layout: &Layout) -> Value {
    let owner = layout.of(path);
    let told = owner.as_ref().filter(|o| Some(*o) != above);
    let below = |f: &Folder| folder_value(f, &path.join(&f.name), owner.as_ref(), layout);
    json!({
        "name": shown(&folder.name),
        "allocated_bytes": folder.bytes,
        "inodes": folder.inodes,
        "owner": told.map(|o| json!({ "pod": named(&o.pod), "part": o.part })),
        "folders": folder.folders.iter().map(below).collect::<Vec<_>>(),
        "small_folders": folder.small_folders,
        "small_folders_bytes": folder.small_folders_bytes,
        "small_folders_inodes": folder.small_folders_inodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, bytes: u64, folders: Vec<Folder>) -> Folder {
        Folder { name: name.into(), bytes, inodes: 1, folders, ..Folder::default() }
    }

    #[test]
    fn the_tree_is_drawn_with_shares_and_chains_in_one_line() {
        const GIB: u64 = 1 << 30;
        let logs = folder("log", 6 * GIB, vec![folder("pods", 6 * GIB, vec![folder("a", 4 * GIB, vec![])])]);
        let root =
            folder("", 10 * GIB, vec![logs, folder("lib", 3 * GIB, vec![]), folder("x", GIB / 100, vec![])]);
        let usage = Usage { path: "/var".into(), root, whole: true, ..Usage::default() };
        let fs = Filesystem {
            total_bytes: 20 * GIB,
            used_bytes: 12 * GIB,
            available_bytes: 8 * GIB,
            inodes: 90,
            used_inodes: 9,
            walked_whole: true,
        };
        let layout = Layout::default();
        let report = Report { mount: None, wall_ns: 0, fs, usage, layout, writers: None, grown: None };
        let drawn = tree(&report);
        let expected = " 10.0 GiB /var  (1 inodes)
  6.0 GiB  60 % ├─ log/pods
  4.0 GiB  40 % │  ├─ a
  2.0 GiB  20 % │  └─ (files, and smaller folders)
  3.0 GiB  30 % ├─ lib
  1.0 GiB  10 % └─ (files, and smaller folders)
";
        assert_eq!(drawn.split("\n\n").next().map(|t| format!("{t}\n")).as_deref(), Some(expected));
        assert!(drawn.contains("2.0 GiB in use was not found in any folder"), "{drawn}");
    }

    #[test]
    fn names_do_not_steer_a_terminal() {
        assert_eq!(shown(OsStr::from_bytes(b"a\x1b[2Jb\n\xff\xe2\x80\xae")), "a\\u{1b}[2Jb\\n\\xff\\u{202e}");
    }
}
