//! What fills a mount, drawn: the tree of its folders with whose they are, the largest files, which folders grow, who writes, and
//! what is deleted and still open.
//!
//! Pure. Names come from whoever may make a file: what would steer a terminal is spelt out, and columns are counted as a
//! terminal shows them. A line that is too long is cut at its end, where names are.

use crate::output::table::Line;
use crate::output::text::{Paint, bytes, count, fit, rate, safe, width, wrapped};
use crate::view::usage::{Folder, Owner, Usage, Writer, called};

/// Folders of one folder that are drawn; the rest is summed up in a line.
const MAX_DRAWN: usize = 8;
/// Folders below the top that are drawn.
const MAX_DRAWN_DEPTH: usize = 6;
/// Share of the whole that a folder needs to be drawn.
const MIN_SHARE: f64 = 0.02;
/// A folder of which so much lies in one folder is drawn in that one's line.
const SAME_AS_ITS_CHILD: f64 = 0.97;
/// Lines of each of the lists below the tree.
const MAX_LISTED: usize = 10;
/// Columns of a size: `1023.9 MiB`.
const SIZE_COLUMNS: usize = 10;

/// The picture, in lines of at most `columns`.
pub(crate) fn lines(usage: &Usage, columns: Option<usize>) -> Vec<Line> {
    let mut out = Picture { lines: Vec::new(), columns: columns.unwrap_or(usize::MAX) };
    let percent = usage.used_bytes as f64 * 100.0
        / (usage.used_bytes.saturating_add(usage.available_bytes).max(1)) as f64;
    let on = if usage.mount == usage.path { String::new() } else { format!(" (on {})", usage.mount) };
    out.push([
        (format!("{} {}{on}", usage.node, usage.path), Paint::Bold),
        (
            format!(
                "  {} of {} used ({:.0} %), {} available",
                bytes(usage.used_bytes),
                bytes(usage.total_bytes),
                percent.ceil().min(100.0),
                bytes(usage.available_bytes)
            ),
            Paint::Plain,
        ),
    ]);
    if let Some(root) = &usage.tree {
        out.row(root.allocated_bytes, &usage.path, root.owner.as_ref(), "");
        out.folders(root, root.allocated_bytes.max(1), "", 0);
    }
    out.growth(usage);
    out.writers(usage);
    if !usage.files.is_empty() {
        out.title("largest files");
        for file in usage.files.iter().take(MAX_LISTED) {
            let sparse = file.size_bytes > file.allocated_bytes.saturating_mul(2);
            let sparse =
                if sparse { format!(" (sparse: {} long)", bytes(file.size_bytes)) } else { String::new() };
            out.row(file.allocated_bytes, &format!("{}{sparse}", file.path), file.owner.as_ref(), "");
        }
    }
    out.remarks(usage);
    out.lines
}

struct Picture {
    lines: Vec<Line>,
    columns: usize,
}

impl Picture {
    /// One line, made harmless, cut at the right.
    fn push(&mut self, pieces: impl IntoIterator<Item = (String, Paint)>) {
        let mut left = self.columns;
        let mut line = Line::new();
        for (piece, paint) in pieces {
            let piece = safe(&piece);
            let piece = fit(&piece, left).into_owned();
            left = left.saturating_sub(width(&piece));
            line.push((piece, paint));
        }
        self.lines.push(line);
    }

    fn title(&mut self, text: &str) {
        self.lines.push(Line::new());
        self.push([(text.to_owned(), Paint::Bold)]);
    }

    fn row(&mut self, size: u64, name: &str, owner: Option<&Owner>, before: &str) {
        let mut pieces = vec![
            (format!("{:>SIZE_COLUMNS$} {before}", bytes(size)), Paint::Plain),
            (name.to_owned(), Paint::Plain),
        ];
        pieces.extend(owner.map(|o| (format!("  [{}]", owned(o)), Paint::Notice)));
        self.push(pieces);
    }

    fn folders(&mut self, folder: &Folder, whole: u64, indent: &str, depth: usize) {
        if depth >= MAX_DRAWN_DEPTH {
            return;
        }
        let is_large = |f: &&Folder| f.allocated_bytes as f64 >= MIN_SHARE * whole as f64;
        let drawn: Vec<&Folder> = folder.folders.iter().filter(is_large).take(MAX_DRAWN).collect();
        let drawn_bytes = drawn.iter().map(|f| f.allocated_bytes).fold(0, u64::saturating_add);
        let rest = folder.allocated_bytes.saturating_sub(drawn_bytes);
        let has_rest = !drawn.is_empty() && rest as f64 >= MIN_SHARE * whole as f64;
        for (n, child) in drawn.iter().enumerate() {
            let is_last = n + 1 == drawn.len() && !has_rest;
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let mut name = child.name.clone();
            let mut end = *child;
            let mut owner = child.owner.as_ref();
            while let Some(only) = end
                .folders
                .first()
                .filter(|f| f.allocated_bytes as f64 >= SAME_AS_ITS_CHILD * end.allocated_bytes as f64)
            {
                name = format!("{name}/{}", only.name);
                owner = only.owner.as_ref().or(owner);
                end = only;
            }
            let share = format!("{} {indent}{branch}", share(child.allocated_bytes, whole));
            self.row(child.allocated_bytes, &name, owner, &share);
            self.folders(end, whole, &format!("{indent}{below}"), depth + 1);
        }
        if has_rest {
            let share = format!("{} {indent}└─ ", share(rest, whole));
            self.row(rest, "(files, and smaller folders)", None, &share);
        }
    }

    fn growth(&mut self, usage: &Usage) {
        if let Some(why) = &usage.growth_unknown {
            self.title("folders that grow");
            return self.sentence(&format!("unknown: {why}"));
        }
        if usage.growth.is_empty() {
            return;
        }
        self.title("folders that grow");
        for g in usage.growth.iter().take(MAX_LISTED) {
            let least = if g.at_least { "≥ " } else { "" };
            let since = g.since.map(|t| format!(" since {}", t.to_the_second())).unwrap_or_default();
            let rate = if g.bytes_per_second >= 1.0 {
                format!(", {} of late", rate(g.bytes_per_second))
            } else {
                String::new()
            };
            let mut pieces = vec![
                (format!("{:>SIZE_COLUMNS$} ", format!("+{least}{}", bytes(g.grown_bytes))), Paint::Bad),
                (format!("{}{since}{rate}", g.path), Paint::Plain),
            ];
            pieces.extend(g.owner.as_ref().map(|o| (format!("  [{}]", owned(o)), Paint::Notice)));
            self.push(pieces);
        }
    }

    fn writers(&mut self, usage: &Usage) {
        let Some(w) = &usage.writers else {
            self.title("who writes");
            let why = usage.writers_unknown.as_deref().unwrap_or("the node did not say");
            return self.sentence(&format!("unknown: {why}"));
        };
        self.title("who writes");
        if w.confidence == "not growing" {
            self.sentence("nobody that counts: it did not grow while open files were looked at");
        } else {
            let explained = w.explained * 100.0;
            self.sentence(&format!(
                "it grows by {}; by whom is {}: open files explain {explained:.0} %",
                rate(w.bytes_per_second),
                w.confidence
            ));
        }
        for writer in w.growing.iter().take(MAX_LISTED) {
            self.writer(format!("{}/s", bytes(writer.bytes_per_second.max(0.0) as u64)), writer);
        }
        if w.deleted_bytes > 0 {
            self.title(&format!("deleted and still open: {}", bytes(w.deleted_bytes)));
            for writer in w.deleted.iter().take(MAX_LISTED) {
                self.writer(bytes(writer.allocated_bytes), writer);
            }
        }
        if let Some(why) = &w.missed {
            self.sentence(&format!("open files may have been missed: {why}"));
        }
    }

    fn writer(&mut self, figure: String, writer: &Writer) {
        let processes = writer.processes.iter().map(|p| match &p.name {
            Some(name) => format!("{name} ({})", p.pid),
            None => p.pid.to_string(),
        });
        let processes = processes.collect::<Vec<_>>().join(", ");
        let mut pieces = vec![
            (format!("{figure:>SIZE_COLUMNS$} "), Paint::Plain),
            (format!("{} by {processes}", writer.path), Paint::Plain),
        ];
        pieces.extend(writer.pod.as_ref().map(|pod| (format!("  [{}]", called(pod)), Paint::Notice)));
        self.push(pieces);
    }

    fn remarks(&mut self, usage: &Usage) {
        self.lines.push(Line::new());
        if !usage.whole {
            self.push([("NOT WHOLE: the time was up before all of it was seen".to_owned(), Paint::Bad)]);
        }
        if let Some(unfound) = usage.unfound_bytes.filter(|b| *b > usage.used_bytes / 100) {
            self.sentence(&format!(
                "{} in use was not found in any folder: deleted and still open, what a mount hides, the filesystem's own, or \
                 what could not be read",
                bytes(unfound)
            ));
        }
        for remark in usage.remarks.iter().take(MAX_LISTED) {
            self.sentence(remark);
        }
        let inodes = match (usage.inodes_used, usage.inodes_total) {
            (Some(used), Some(total)) => format!("{} of {} inodes used; ", count(used), count(total)),
            _ => String::new(),
        };
        self.sentence(&format!(
            "{inodes}{} entries in {:.1} s, {:.1} s of CPU",
            count(usage.entries),
            usage.seconds,
            usage.cpu_seconds
        ));
    }

    fn sentence(&mut self, text: &str) {
        let text = safe(text);
        if self.columns == usize::MAX {
            return self.push([(text.into_owned(), Paint::Plain)]);
        }
        for line in wrapped(&text, self.columns) {
            self.push([(line, Paint::Plain)]);
        }
    }
}

fn share(part: u64, whole: u64) -> String {
    format!("{:>3.0} %", part as f64 * 100.0 / whole as f64)
}

fn owned(owner: &Owner) -> String {
    owner.pod.as_ref().map_or_else(|| owner.part.clone(), |pod| format!("{} of {}", owner.part, called(pod)))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
