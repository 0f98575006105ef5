//! What fills a mount, out of the wire's message.

use dogwatch::record::Pod;
use dogwatch::wire;

use super::usage::{File, Folder, Growth, Owner, Process, Usage, Writer, Writers};
use crate::time::Utc;

/// Deepest folder that is believed: a tree is read and drawn by recursion, and no node tells a deeper one.
const MAX_DEPTH: u32 = 64;

impl Usage {
    pub(crate) fn of(node: &str, m: wire::UsageReport) -> Self {
        let found = m.folders.first().map_or(0, |f| f.bytes);
        let counts = m.inodes_total > 0;
        Self {
            node: node.to_owned(),
            mount: m.mount,
            path: m.path,
            time: Utc::known(m.wall_ns),
            total_bytes: m.total_bytes,
            used_bytes: m.used_bytes,
            available_bytes: m.available_bytes,
            inodes_total: counts.then_some(m.inodes_total),
            inodes_used: counts.then_some(m.inodes_used),
            whole: m.whole,
            unfound_bytes: (m.whole && m.whole_filesystem).then(|| m.used_bytes.saturating_sub(found)),
            tree: tree(m.folders),
            files: m.files.into_iter().map(file).collect(),
            writers: m.writers.map(writers),
            writers_unknown: words(m.writers_unknown),
            growth: m.growth.into_iter().map(growth).collect(),
            growth_unknown: words(m.growth_unknown),
            remarks: m.remarks,
            entries: m.entries,
            seconds: m.seconds,
            cpu_seconds: m.cpu_seconds,
        }
    }
}

/// Folders in depth-first order, put into one another. A depth that skips levels is that of the next one.
fn tree(folders: Vec<wire::UsageFolder>) -> Option<Folder> {
    let mut open: Vec<Folder> = Vec::new();
    for f in folders {
        let depth = f.depth.min(MAX_DEPTH) as usize;
        while open.len() > depth.max(1) {
            close(&mut open);
        }
        open.push(Folder {
            name: f.name,
            allocated_bytes: f.bytes,
            inodes: f.inodes,
            owner: f.owner.map(owner),
            folders: Vec::new(),
        });
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop()
}

fn close(open: &mut Vec<Folder>) {
    if let Some(done) = open.pop()
        && let Some(parent) = open.last_mut()
    {
        parent.folders.push(done);
    }
}

fn words(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn pod(of: wire::Pod) -> Option<Pod> {
    Pod::try_from(of).ok()
}

fn owner(of: wire::UsageOwner) -> Owner {
    Owner { pod: of.pod.and_then(pod), part: of.part }
}

fn file(f: wire::UsageFile) -> File {
    File {
        path: f.path,
        allocated_bytes: f.bytes,
        size_bytes: f.size_bytes,
        uid: f.uid,
        modified_at: Utc::known(f.mtime_ns),
        owner: f.owner.map(owner),
    }
}

fn writers(w: wire::UsageWriters) -> Writers {
    Writers {
        bytes_per_second: w.bytes_per_second,
        confidence: w.confidence,
        explained: w.explained,
        growing: w.growing.into_iter().map(writer).collect(),
        deleted: w.deleted.into_iter().map(writer).collect(),
        deleted_bytes: w.deleted_bytes,
        missed: words(w.missed),
    }
}

fn writer(w: wire::UsageWriter) -> Writer {
    let process = |p: wire::UsageProcess| Process { pid: p.pid, name: words(p.name) };
    Writer {
        path: w.path,
        pod: w.pod.and_then(pod),
        processes: w.processes.into_iter().map(process).collect(),
        allocated_bytes: w.bytes,
        bytes_per_second: w.bytes_per_second,
    }
}

fn growth(g: wire::FolderGrowth) -> Growth {
    Growth {
        path: g.path,
        grown_bytes: g.grown_bytes,
        at_least: g.at_least,
        since: Utc::known(g.since_wall_ns),
        bytes_per_second: g.bytes_per_second,
        allocated_bytes: g.bytes,
        owner: g.owner.map(owner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_put_into_one_another_whatever_depths_are_claimed() {
        let folder = |depth, name: &str| wire::UsageFolder { depth, name: name.into(), ..Default::default() };
        let told = tree(vec![
            folder(0, "r"),
            folder(1, "a"),
            folder(2, "b"),
            folder(1, "c"),
            folder(9, "d"),
            folder(u32::MAX, "e"),
            folder(0, "f"),
        ]);
        fn names(f: &Folder) -> String {
            format!("{}({})", f.name, f.folders.iter().map(names).collect::<String>())
        }
        assert_eq!(names(&told.unwrap()), "r(a(b())c(d(e()))f())");
        assert!(tree(Vec::new()).is_none());
        let deep = tree((0..10_000).map(|n| folder(n, "x")).collect()).unwrap();
        let mut depth = 0;
        let mut at = &deep;
        while let Some(next) = at.folders.first() {
            (depth, at) = (depth + 1, next);
        }
        assert!(depth <= MAX_DEPTH as usize + 1, "{depth}");
    }
}
