//! What fills a mount, asked by a person: handed to who finds it out, and the answer put into the wire's words.
//!
//! The core waits for nothing here: the answer goes from the inquiry's thread to whoever asked.

use std::path::Path;
use std::time::Duration;

use dogwatch::wire;
use prost::Message as _;

use super::{Core, answer_error};
use crate::uplink::CommandCall;
use crate::usage::blame::Culprit;
use crate::usage::growth::Growth;
use crate::usage::layout::{Layout, Owner};
use crate::usage::report::{Asked, Inquire, Report, Writers};
use crate::usage::rounds::{Grown, Nudge};
use crate::usage::scout::Asker;
use crate::usage::show::{shown, word};
use crate::usage::tally::Folder;

/// Longest answer. It goes up the urgent stream, which a finding must not wait long for.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Folders and files of an answer, before that bound is looked at.
const MAX_FOLDERS: usize = 600;
const MAX_FILES: usize = 50;
/// Deepest folder that is told: below that a tree tells a reader nothing.
const MAX_DEPTH: u32 = 40;
/// Longest name and path that is told, characters.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 1_000;
/// Lines on what a reader must know.
const MAX_REMARKS: usize = 10;

/// Who is asked what fills a mount.
#[derive(Debug, Default)]
pub struct Lookouts {
    /// Who looks at open files; `None`: nobody.
    pub scout: Option<Asker>,
    /// Who walks a mount soon; `None`: nobody.
    pub rounds: Option<Nudge>,
    /// Who finds all of it out for a person; `None`: nobody.
    pub inquire: Option<Inquire>,
}

impl Core {
    /// A person asks what fills a mount of this node.
    pub(super) fn on_usage(&mut self, ask: wire::AskUsage, call: CommandCall) {
        let Some(inquire) = &self.wires.lookouts.inquire else {
            return answer_error(call, "this agent does not look at what fills a disk");
        };
        let reply = Box::new(move |answer: Result<Report, (String, bool)>| {
            let id = call.command.id.clone();
            let result = match answer {
                Ok(report) => {
                    wire::CommandResult { id, ok: true, usage: Some(message(&report)), ..Default::default() }
                }
                Err((error, not_found)) => wire::CommandResult { id, error, not_found, ..Default::default() },
            };
            // Whoever asked may have gone away.
            let _ = call.reply.send(result);
        });
        let within = Duration::from_millis(ask.within_ms.into());
        if let Err(refused) = inquire.ask(Asked { path: ask.path, within, reply }) {
            let why = "the node answers as many such questions as it takes at once; try again in a moment";
            (refused.reply)(Err((why.to_owned(), false)));
        }
    }
}

/// The report within [`MAX_ANSWER_BYTES`]: the smallest folders and files are left out first.
fn message(report: &Report) -> wire::UsageReport {
    let (mut folders, mut files) = (MAX_FOLDERS, MAX_FILES);
    loop {
        let message = bounded(report, folders, files);
        if message.encoded_len() <= MAX_ANSWER_BYTES || folders == 0 {
            return message;
        }
        (folders, files) = (folders / 2, files / 2);
    }
}

fn bounded(report: &Report, max_folders: usize, max_files: usize) -> wire::UsageReport {
    let Report { mount, wall_ns, fs, usage, layout, writers, grown } = report;
    let smallest = smallest_told(&usage.root, max_folders);
    let mut folders = Vec::new();
    let mut tell = Tell { layout, smallest, max: max_folders, told: &mut folders };
    tell.folder(&usage.root, &usage.path, None, 0);
    let file = |f: &crate::usage::tally::LargeFile| wire::UsageFile {
        path: path(&f.path),
        bytes: f.bytes,
        size_bytes: f.size_bytes,
        uid: f.uid,
        mtime_ns: f.mtime_ns,
        owner: layout.of(&f.path).as_ref().map(owner),
    };
    let (writers, writers_unknown) = match writers {
        Some(Ok(found)) => (Some(who(found)), String::new()),
        Some(Err(why)) => (None, why.clone()),
        None => (None, "nobody looked".to_owned()),
    };
    let (growth, growth_unknown) = grew(grown.as_deref());
    wire::UsageReport {
        mount: mount.clone().unwrap_or_default(),
        path: path(&usage.path),
        wall_ns: *wall_ns,
        total_bytes: fs.total_bytes,
        used_bytes: fs.used_bytes,
        available_bytes: fs.available_bytes,
        inodes_total: fs.inodes,
        inodes_used: fs.used_inodes,
        whole: usage.whole,
        whole_filesystem: fs.walked_whole,
        folders,
        files: usage.files.iter().take(max_files).map(file).collect(),
        writers,
        writers_unknown,
        growth,
        growth_unknown,
        remarks: remarks(report),
        entries: usage.entries,
        seconds: usage.took.as_secs_f64(),
        cpu_seconds: usage.cpu.as_secs_f64(),
    }
}

/// What else a reader must know: what could not be read, what is mounted within, what was counted more than once.
fn remarks(report: &Report) -> Vec<String> {
    let usage = &report.usage;
    let mut lines = Vec::new();
    if usage.unread_total > 0 {
        lines.push(format!("{} could not be read", usage.unread_total));
        let named = usage.unread.iter().take(MAX_REMARKS / 2);
        lines.extend(named.map(|(at, why)| format!("{}: {why}", path(at))));
    }
    if !usage.mounts.is_empty() {
        let named: Vec<String> = usage.mounts.iter().take(MAX_REMARKS).map(|m| path(m)).collect();
        let more = usage.mounts.len().saturating_sub(MAX_REMARKS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("mounted there and not counted: {}{more}", named.join(", ")));
    }
    if usage.links_beyond_bound > 0 {
        lines.push(format!(
            "{} names of files with several names were counted for each name",
            usage.links_beyond_bound
        ));
    }
    lines
}

/// The size from which on at most `max` folders are told.
fn smallest_told(root: &Folder, max: usize) -> u64 {
    fn sizes(folder: &Folder, depth: u32, into: &mut Vec<u64>) {
        into.push(folder.bytes);
        if depth < MAX_DEPTH {
            folder.folders.iter().for_each(|f| sizes(f, depth + 1, into));
        }
    }
    let mut all = Vec::new();
    sizes(root, 0, &mut all);
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.get(max).map_or(0, |first_left_out| first_left_out.saturating_add(1))
}

struct Tell<'a> {
    layout: &'a Layout,
    smallest: u64,
    max: usize,
    told: &'a mut Vec<wire::UsageFolder>,
}

impl Tell<'_> {
    fn folder(&mut self, folder: &Folder, at: &Path, above: Option<&Owner>, depth: u32) {
        // The root is always told.
        if depth > 0 && (folder.bytes < self.smallest || self.told.len() >= self.max) {
            return;
        }
        let here = self.layout.of(at);
        self.told.push(wire::UsageFolder {
            depth,
            name: cut(&shown(&folder.name), MAX_NAME),
            bytes: folder.bytes,
            inodes: folder.inodes,
            owner: here.as_ref().filter(|o| Some(*o) != above).map(owner),
        });
        if depth < MAX_DEPTH {
            for child in &folder.folders {
                self.folder(child, &at.join(&child.name), here.as_ref(), depth + 1);
            }
        }
    }
}

fn grew(grown: Option<&Grown>) -> (Vec<wire::FolderGrowth>, String) {
    let Some(grown) = grown else {
        return (Vec::new(), "the node has not walked it by itself since the agent's start".to_owned());
    };
    let Some(folders) = &grown.folders else {
        return (
            Vec::new(),
            "the node has walked it once since the agent's start, and growth needs two walks".to_owned(),
        );
    };
    let tell = |(growth, of): &(Growth, Option<Owner>)| wire::FolderGrowth {
        path: path(&growth.path),
        grown_bytes: growth.grown_bytes,
        at_least: growth.at_least,
        since_wall_ns: growth.since_wall_ns,
        bytes_per_second: growth.bytes_per_second,
        bytes: growth.bytes,
        owner: of.as_ref().map(owner),
    };
    (folders.iter().map(tell).collect(), String::new())
}

fn who(found: &Writers) -> wire::UsageWriters {
    let blame = &found.blame;
    wire::UsageWriters {
        bytes_per_second: blame.bytes_per_second,
        confidence: word(blame.confidence).to_owned(),
        explained: blame.explained,
        growing: blame.growing.iter().map(writer).collect(),
        deleted: blame.deleted.iter().map(writer).collect(),
        deleted_bytes: blame.deleted_bytes,
        missed: found.missed.clone().unwrap_or_default(),
    }
}

fn writer(culprit: &Culprit) -> wire::UsageWriter {
    let process =
        |o: &crate::usage::blame::Opener| wire::UsageProcess { pid: o.pid, name: shown(o.name.as_ref()) };
    wire::UsageWriter {
        path: path(&culprit.path),
        pod: culprit.pod.as_ref().map(wire::Pod::from),
        processes: culprit.openers.iter().map(process).collect(),
        bytes: culprit.bytes,
        bytes_per_second: culprit.bytes_per_second,
    }
}

fn owner(of: &Owner) -> wire::UsageOwner {
    wire::UsageOwner { pod: Some(wire::Pod::from(&of.pod)), part: cut(&shown(of.part.as_ref()), MAX_NAME) }
}

/// The end of a path is what tells it from others.
fn path(at: &Path) -> String {
    let text = shown(at.as_os_str());
    let beyond = text.chars().count().saturating_sub(MAX_PATH);
    if beyond == 0 { text } else { format!("…{}", text.chars().skip(beyond).collect::<String>()) }
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::show::Filesystem;
    use crate::usage::tally::Usage;

    fn report(root: Folder) -> Report {
        let fs = Filesystem {
            total_bytes: 10,
            used_bytes: 9,
            available_bytes: 1,
            inodes: 5,
            used_inodes: 4,
            walked_whole: true,
        };
        let usage = Usage { path: "/var".into(), root, whole: true, ..Usage::default() };
        let layout = Layout::default();
        Report { mount: Some("/var".into()), wall_ns: 1, fs, usage, layout, writers: None, grown: None }
    }

    #[test]
    fn an_answer_is_bounded_whatever_names_there_are_and_the_largest_stay() {
        // Names of 255 bytes, each shown as six characters or more.
        let folders = (0..2_000u64)
            .map(|n| Folder {
                name: format!("{n:04}{}", "\u{1b}".repeat(251)).into(),
                bytes: 10_000 - n,
                inodes: 1,
                ..Folder::default()
            })
            .collect();
        let root = Folder { bytes: 1 << 40, folders, ..Folder::default() };
        let message = message(&report(root));
        assert!(message.encoded_len() <= MAX_ANSWER_BYTES, "{}", message.encoded_len());
        assert!(message.folders.len() > 100, "{}", message.folders.len());
        let names: Vec<&str> = message.folders[1..].iter().map(|f| &f.name[..4]).collect();
        assert!(names.iter().enumerate().all(|(n, name)| *name == format!("{n:04}")), "{names:?}");
        assert!(message.folders.iter().all(|f| !f.name.contains('\u{1b}')));
        assert_eq!((message.folders[0].depth, message.folders[1].depth), (0, 1));
        assert!(message.growth_unknown.contains("not walked it by itself"), "{}", message.growth_unknown);
    }

    #[test]
    fn whose_a_folder_is_is_told_once_at_its_top() {
        let uid = "0f3a2b1c-0000-4000-8000-00000000000a";
        let mut folder = Folder { name: "deep".into(), bytes: 5, ..Folder::default() };
        for name in ["cache", "kubernetes.io~empty-dir", "volumes", uid, "pods", "kubelet", "lib"] {
            folder = Folder { name: name.into(), bytes: 5, folders: vec![folder], ..Folder::default() };
        }
        let root = Folder { bytes: 5, folders: vec![folder], ..Folder::default() };
        let message = message(&report(root));
        let parts: Vec<(&str, Option<&str>)> = message
            .folders
            .iter()
            .map(|f| (f.name.as_str(), f.owner.as_ref().map(|o| o.part.as_str())))
            .filter(|(_, part)| part.is_some())
            .collect();
        assert_eq!(
            parts,
            [
                (uid, Some("kubelet's folder")),
                ("volumes", Some("volumes")),
                ("cache", Some("emptyDir cache"))
            ]
        );
        let of = message.folders.iter().find_map(|f| f.owner.as_ref()).and_then(|o| o.pod.as_ref());
        assert_eq!(of.map(|p| (p.uid.as_str(), p.name.as_str())), Some((uid, "")));
    }
}
