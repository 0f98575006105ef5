//! What a root's `excludes` keep, and which of them could never keep anything.
//!
//! An entry is a glob on names and on paths beneath the root, of files and of folders; a folder keeps all that lies in it, and
//! a `/` at the end changes nothing. What is called exactly as an entry is written stays too, also where that is a glob of
//! something else. `?` and a class stand for one character, whatever its bytes (`kept`).
//!
//! Invariant: what could never match, or was meant in another language (`!a`, `~/a`, `^a$`, `.*\.gz`), is a mistake. Nobody would
//! notice it before the files are gone.

use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use super::kept::{self, GlobError, Kept};

/// Most ways in which the braces of one entry can be read.
const MAX_READINGS: usize = 1_000;

/// The excludes of one root, compiled.
#[derive(Debug)]
pub(super) struct Excludes {
    globs: Kept,
    /// As they are compared.
    entries: Vec<String>,
}

impl Excludes {
    pub(super) fn new(entries: &[String]) -> Result<Self, GlobError> {
        let entries: Vec<String> = entries.iter().map(|e| without_slash(e).to_owned()).collect();
        Ok(Self { globs: Kept::new(&entries)?, entries })
    }

    /// The place of the first entry that keeps what lies at `relative`, by its own name or path or by those of a folder above.
    pub(super) fn first(&self, relative: &Path) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let names = |at: &'_ Path| at.file_name().map(Path::new).and_then(|name| self.of(name));
        relative.ancestors().filter_map(|at| names(at).into_iter().chain(self.of(at)).min()).min()
    }

    fn of(&self, at: &Path) -> Option<usize> {
        let by_glob = self.globs.first(at);
        let by_itself = self.entries.iter().position(|entry| Path::new(entry) == at);
        by_glob.into_iter().chain(by_itself).min()
    }
}

fn without_slash(entry: &str) -> &str {
    entry.strip_suffix('/').unwrap_or(entry)
}

/// What is wrong with `entry`, an exclude of the root at `root`, and what to write instead.
pub(super) fn mistake(root: &Path, entry: &str) -> Option<(String, String)> {
    let beneath = Path::new(entry).strip_prefix(root).ok().filter(|_| entry.starts_with('/'));
    match (flaw(entry)?, beneath.and_then(Path::to_str)) {
        (Flaw::Absolute, Some("")) => {
            Some((Flaw::Absolute.reason(), "write ** for all of the root".to_owned()))
        }
        (Flaw::Absolute, Some(rest)) => Some((Flaw::Absolute.reason(), format!("write {rest}"))),
        (flaw, _) => Some((flaw.reason(), flaw.remedy().to_owned())),
    }
}

/// Whether `entry` is a glob that something without a `/` at its beginning or end can match.
pub(in crate::act) fn can_match(entry: &str) -> bool {
    flaw(entry).is_none() && !entry.ends_with('/')
}

/// Why an entry could never match.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    NoGlob(String),
    Empty,
    Blank,
    TooMany,
    Absolute,
    Dots,
    Slashes,
    SlashInBraces,
    Negation,
    Home,
    Regex,
}

impl Flaw {
    fn reason(&self) -> String {
        let reason = match self {
            Self::NoGlob(error) => return format!("it is no glob: {error}"),
            Self::Empty => "it, or an alternative in its braces, names nothing",
            Self::Blank => "a blank stands at its beginning or end",
            Self::TooMany => "its braces have too many alternatives to be judged",
            Self::Absolute => "it is matched against paths beneath the root",
            Self::Dots => "it is matched against paths beneath the root, which have no '.' and '..'",
            Self::Slashes => "it is matched against paths beneath the root, which have no '//'",
            Self::SlashInBraces => "an alternative in its braces ends in a '/', which no path does",
            Self::Negation => "an exclude is not taken back by another: '!' is a character of the name",
            Self::Home => "nobody's home is meant by '~' here: it is a character of the name",
            Self::Regex => "it is written as a regular expression, and a glob is meant",
        };
        reason.to_owned()
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::NoGlob(_) => "use *, ?, [a-z] and {a,b}",
            Self::Empty => "leave it out, or name a file or folder",
            Self::Blank => "leave the blank out, or write ? for one that is meant",
            Self::TooMany => "write one entry for each",
            Self::Absolute => "leave out the leading /, and what it has of the root's own path",
            Self::Dots => "write it without '.' and '..', from the root on",
            Self::Slashes => "write one /",
            Self::SlashInBraces => "leave out that /",
            Self::Negation => "leave it out, or write \\! for a name that begins so",
            Self::Home => "write the path from the root on, or \\~ for a name that begins so",
            Self::Regex => {
                "write * for .*, a dot for \\., nothing for ^ and $, or \\^ for a name that begins so"
            }
        }
    }
}

fn flaw(entry: &str) -> Option<Flaw> {
    if let Err(error) = Excludes::new(&[entry.to_owned()]) {
        return Some(Flaw::NoGlob(error.to_string()));
    }
    if entry.trim().is_empty() {
        return Some(Flaw::Empty);
    }
    if entry.trim() != entry {
        return Some(Flaw::Blank);
    }
    // Before its end is cut off: of `/` nothing would be left.
    if entry.starts_with('/') {
        return Some(Flaw::Absolute);
    }
    // By them it would match hardly anything, and nothing that was meant.
    let habit =
        [(entry.starts_with('!'), Flaw::Negation), (entry == "~" || entry.starts_with("~/"), Flaw::Home)];
    // `a\.log` alone is a glob that some write.
    let escapes_dots = entry.replace(r"\\", "").contains(r"\.");
    let has_others = entry.contains(".*") || entry.contains(".+") || entry.ends_with('$');
    let regex = (entry.starts_with('^') || escapes_dots && has_others, Flaw::Regex);
    if let Some((_, flaw)) = habit.into_iter().chain([regex]).find(|(is_so, _)| *is_so) {
        return Some(flaw);
    }
    let Some(readings) = readings(&mut without_slash(entry).chars().peekable(), false) else {
        return Some(Flaw::TooMany);
    };
    readings.iter().find_map(|reading| {
        let mut parts = reading.split('/');
        if reading.is_empty() {
            Some(Flaw::Empty)
        } else if reading.starts_with('/') {
            Some(Flaw::Absolute)
        } else if parts.clone().any(|part| matches!(part, "." | "..")) {
            Some(Flaw::Dots)
        } else if entry.ends_with("//") || reading.contains("//") {
            Some(Flaw::Slashes)
        } else {
            parts.next_back().is_some_and(str::is_empty).then_some(Flaw::SlashInBraces)
        }
    })
}

/// The ways in which the braces of a glob can be read, to the end, or of one alternative in them; what a class stands for is
/// one character. `None` if there are too many.
fn readings(glob: &mut Peekable<Chars<'_>>, is_alternative: bool) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    while let Some(c) = glob.next_if(|c| !is_alternative || !matches!(c, ',' | '}')) {
        let next = match c {
            '\\' => glob.next().map(String::from).into_iter().collect(),
            '[' => {
                kept::class(glob);
                vec!["?".to_owned()]
            }
            '{' => {
                let mut alternatives = Vec::new();
                loop {
                    alternatives.extend(readings(glob, true)?);
                    if glob.next() != Some(',') {
                        break alternatives;
                    }
                }
            }
            other => vec![other.to_string()],
        };
        if all.len() * next.len() > MAX_READINGS {
            return None;
        }
        all = all.iter().flat_map(|start| next.iter().map(move |end| format!("{start}{end}"))).collect();
    }
    Some(all)
}

#[cfg(test)]
#[path = "excludes_tests.rs"]
mod tests;
