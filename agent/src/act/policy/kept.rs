//! Globs on what stays: excludes of roots and of images, and lines of `tmpfiles.d`. Where one could mean more or less, it
//! means more.
//!
//! Invariant: `?` and a class stand for one character of a name. globset matches bytes, of which a character that is not
//! ASCII has several; a name with one is therefore matched a second time, by a regex that is globset's own but for these. What the bytes
//! alone keep stays too: `M??rz` keeps `März`.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::Chars;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// Largest that the regex of one list may become, bytes; globset's own.
const MAX_REGEX_BYTES: usize = 10 << 20;
/// What `?` stands for.
const ANY: &str = r"(?:(?u:[^/])|[\x80-\xff])";

/// Why a glob cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GlobError(String);

impl GlobError {
    pub(super) fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

impl From<globset::Error> for GlobError {
    fn from(error: globset::Error) -> Self {
        Self::new(error)
    }
}

/// A list of globs, compiled.
#[derive(Debug)]
pub(in crate::act) struct Kept {
    by_byte: GlobSet,
    /// Those in which something stands for one character, and the place of each in the list.
    by_character: Option<(Regex, Vec<usize>)>,
}

impl Kept {
    /// Compiles `globs`.
    pub(in crate::act) fn new(globs: &[String]) -> Result<Self, GlobError> {
        let mut by_byte = GlobSetBuilder::new();
        let (mut regexes, mut places) = (Vec::new(), Vec::new());
        for (place, glob) in globs.iter().enumerate() {
            by_byte.add(built(glob)?);
            if let Some(regex) = by_character(glob)? {
                regexes.push(regex);
                places.push(place);
            }
        }
        let by_character = if regexes.is_empty() { None } else { Some((compiled(&regexes)?, places)) };
        Ok(Self { by_byte: by_byte.build()?, by_character })
    }

    /// The place of a glob that matches `path`; the first, where only one of the two ways does.
    pub(in crate::act) fn first(&self, path: &Path) -> Option<usize> {
        let by_byte = self.by_byte.matches(path).into_iter().min();
        let bytes = path.as_os_str().as_bytes();
        // Of ASCII each character is a byte.
        let by_character = self.by_character.as_ref().filter(|_| !bytes.is_ascii());
        let by_character = by_character.and_then(|(regex, places)| {
            let found = regex.find(bytes)?;
            places.get(found.pattern().as_usize()).copied()
        });
        by_byte.into_iter().chain(by_character).min()
    }
}

fn built(glob: &str) -> Result<Glob, globset::Error> {
    let mut builder = GlobBuilder::new(glob);
    // `keep{,.old}` keeps both.
    builder.literal_separator(true).backslash_escape(true).empty_alternates(true);
    builder.build()
}

fn compiled(regexes: &[String]) -> Result<Regex, GlobError> {
    Regex::builder()
        .syntax(syntax::Config::new().utf8(false).dot_matches_new_line(true))
        .configure(Regex::config().utf8_empty(false).nfa_size_limit(Some(MAX_REGEX_BYTES)))
        .build_many(regexes)
        .map_err(|e| GlobError::new(e.to_string()))
}

/// The regex of `glob`, which globset takes, with characters where it has bytes; `None` where nothing in it stands for one.
fn by_character(glob: &str) -> Result<Option<String>, GlobError> {
    // While globset reads the rest, a character of nobody's stands in for each.
    let unread = || GlobError::new("it cannot be read by character");
    let stand_in = ('\u{f0000}'..='\u{ffffd}').find(|c| !glob.contains(*c)).ok_or_else(unread)?;
    let mut with_stand_ins = String::new();
    let mut ones = Vec::new();
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => with_stand_ins.extend([Some(c), chars.next()].into_iter().flatten()),
            '?' | '[' => {
                ones.push(if c == '?' { ANY.to_owned() } else { class(&mut chars) });
                with_stand_ins.push(stand_in);
            }
            other => with_stand_ins.push(other),
        }
    }
    if ones.is_empty() {
        return Ok(None);
    }
    let glob = built(&with_stand_ins)?;
    let mut bytes = String::new();
    for byte in stand_in.encode_utf8(&mut [0; 4]).bytes() {
        write!(bytes, "\\x{byte:02x}").map_err(|_| unread())?;
    }
    let mut rests = glob.regex().split(&bytes);
    let mut regex = rests.next().unwrap_or_default().to_owned();
    let mut ones = ones.iter();
    for rest in rests {
        regex.extend([ones.next().ok_or_else(unread)?, rest]);
    }
    // One that was left out would never match.
    if ones.next().is_some() { Err(unread()) } else { Ok(Some(regex)) }
}

/// Takes what is left of a class, read as globset reads it; gives the regex of its characters.
pub(super) fn class(glob: &mut Peekable<Chars<'_>>) -> String {
    let is_negated = glob.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut ranges: Vec<(char, char)> = Vec::new();
    let mut in_range = false;
    // A closing bracket that comes first is one of the characters.
    while let Some(c) = glob.next_if(|c| ranges.is_empty() || *c != ']') {
        match ranges.last_mut() {
            Some(_) if c == '-' && !in_range => in_range = true,
            Some(last) if in_range => {
                last.1 = c;
                in_range = false;
            }
            _ => ranges.push((c, c)),
        }
    }
    glob.next();
    if in_range {
        ranges.push(('-', '-'));
    }
    let ranges: String =
        ranges.iter().map(|(from, to)| format!(r"\x{{{:x}}}-\x{{{:x}}}", *from as u32, *to as u32)).collect();
    if is_negated { format!(r"(?:(?u:[^{ranges}])|[\x80-\xff])") } else { format!("(?u:[{ranges}])") }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
