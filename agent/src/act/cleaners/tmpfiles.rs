//! What lines of `tmpfiles.d` name beneath one root, and thereby keep (tmpfiles.d(5)).
//!
//! Invariants: every path is looked up within the host's root, as the host would, links included; a line is split, unquoted
//! and unescaped as systemd does, and means at least what it means there: a bracket stands for any one character, a specifier that
//! only the host knows for any text without a slash. What cannot be read or decided keeps everything.
//!
//! Limits: read once, when the root is opened. A file that another folder's file of the same name hides is read all the same,
//! and so is one that is masked elsewhere: at worst more stays.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::act::policy::Kept;

/// Where such lines are, beneath the host's root.
const PLACES: &[&str] =
    &["etc/tmpfiles.d", "run/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];
/// Most files of lines.
const MAX_FILES: usize = 1_000;
/// Largest such file, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most patterns beneath one root.
const MAX_NAMED: usize = 8_192;
/// Attempts at a lookup that lost a race with a rename elsewhere.
const TRIES: u32 = 8;
/// Specifiers that stand for a path of their own; of the system's manager, whose lines these are.
const FOLDERS: &[(u8, &str)] = &[
    (b'C', "/var/cache"),
    (b'L', "/var/log"),
    (b'S', "/var/lib"),
    (b'T', "/tmp"),
    (b'V', "/var/tmp"),
    (b'h', "/root"),
    (b't', "/run"),
];
/// Specifiers that stand for text without a slash.
const WORDS: &[u8] = b"ABGHMUWabglomuvw";

/// What stays beneath one root.
#[derive(Debug, Default)]
pub(in crate::act) struct Tmpfiles {
    named: Option<(Kept, Vec<String>)>,
    /// Why everything stays.
    all: Option<String>,
}

impl Tmpfiles {
    /// Reads the lines of the host whose files are at `host_root`, for the root that the host calls `root`.
    pub(super) fn read(host_root: &Path, root: &Path) -> Self {
        let globs = Host::open(host_root).and_then(|host| host.globs(root));
        let set = globs.and_then(|globs| match Kept::new(&globs) {
            Ok(set) => Ok((set, globs)),
            Err(e) => Err(format!("a line of tmpfiles.d is no pattern: {e}")),
        });
        match set {
            Ok(named) => Self { named: Some(named), all: None },
            Err(why) => Self { named: None, all: Some(why) },
        }
    }

    /// Why what lies at `relative`, or in a folder at it, is left alone.
    pub(super) fn why_left_alone(&self, relative: &Path) -> Option<String> {
        if let Some(why) = &self.all {
            return Some(why.clone());
        }
        let (set, globs) = self.named.as_ref()?;
        let mut above = relative.ancestors().filter(|p| !p.as_os_str().is_empty());
        let index = above.find_map(|p| set.first(p))?;
        Some(format!("a line of tmpfiles.d names it ({})", globs[index]))
    }
}

/// The host's files.
struct Host<'p> {
    path: &'p Path,
    root: OwnedFd,
}

impl<'p> Host<'p> {
    fn open(path: &'p Path) -> Result<Self, String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self { path, root }),
            Err(e) => Err(format!("tmpfiles.d of the host at {} cannot be read: {e}", path.display())),
        }
    }

    /// Patterns for what lies beneath `root`.
    fn globs(&self, root: &Path) -> Result<Vec<String>, String> {
        let mut globs = Vec::new();
        let mut files = 0;
        for place in PLACES.iter().map(Path::new) {
            let unread = |e: Errno| format!("{} cannot be read: {e}", self.path.join(place).display());
            let Some(folder) = self.find(place, OFlags::RDONLY | OFlags::DIRECTORY)? else { continue };
            for entry in rustix::fs::Dir::new(folder).map_err(unread)? {
                let entry = entry.map_err(unread)?;
                let path = place.join(OsStr::from_bytes(entry.file_name().to_bytes()));
                if path.extension().is_none_or(|e| e != "conf") {
                    continue;
                }
                files += 1;
                if files > MAX_FILES {
                    return Err(format!("tmpfiles.d has more than {MAX_FILES} files"));
                }
                let Some(text) = self.text(&path)? else { continue };
                for (number, line) in text.split(|b| *b == b'\n').enumerate() {
                    let named = named_beneath(line, root).map_err(|why| {
                        format!("line {} of {}: {why}", number + 1, self.path.join(&path).display())
                    })?;
                    globs.extend(named);
                }
                if globs.len() > MAX_NAMED {
                    let root = root.display();
                    return Err(format!("tmpfiles.d names more than {MAX_NAMED} paths beneath {root}"));
                }
            }
        }
        globs.sort();
        globs.dedup();
        Ok(globs)
    }

    /// The text of a file of lines; `None` where there is none, or a link to a device in its place masks it.
    fn text(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let shown = self.path.join(path);
        let unread = |e: &dyn std::fmt::Display| format!("{} cannot be read: {e}", shown.display());
        // A container's /dev need not have it.
        if rustix::fs::readlinkat(&self.root, path, Vec::new()).is_ok_and(|to| to.as_bytes() == b"/dev/null")
        {
            return Ok(None);
        }
        let Some(found) = self.find(path, OFlags::PATH)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&found).map_err(|e| unread(&e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::CharacterDevice => return Ok(None),
            _ => return Err(unread(&"it is no file")),
        }
        // Without waiting: a FIFO that came in its place would hold up the executor's start.
        let Some(file) = self.find(path, OFlags::RDONLY | OFlags::NONBLOCK)? else { return Ok(None) };
        let mut text = Vec::new();
        let file = std::fs::File::from(file);
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|e| unread(&e))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(unread(&format!("it is longer than {MAX_FILE_BYTES} bytes")));
        }
        Ok(Some(text))
    }

    /// Opens `path`, links followed as the host follows them; `None` where nothing is there. A link that leads nowhere is an
    /// error: what it should lead to is not known here.
    fn find(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, String> {
        let unread = |e: Errno| format!("{} cannot be read: {e}", self.path.join(path).display());
        match self.open_in(path, flags) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(unread(e)),
        }
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            match self.open_in(&so_far, OFlags::PATH) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    return match self.open_in(&so_far, OFlags::PATH | OFlags::NOFOLLOW) {
                        Err(Errno::NOENT) => Ok(None),
                        Ok(_) => Err(format!(
                            "{} is a link that leads nowhere, so that what it protects is not known",
                            self.path.join(&so_far).display()
                        )),
                        Err(e) => Err(unread(e)),
                    };
                }
                Err(e) => return Err(unread(e)),
            }
        }
        // It came just now.
        self.open_in(path, flags).map(Some).map_err(unread)
    }

    fn open_in(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut tries = 0;
        loop {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }
}

/// Globs, relative to `root`, of what a line names there; none for removals, comments, and the root's own line.
///
/// # Errors
/// Why everything beneath the root stays.
fn named_beneath(line: &[u8], root: &Path) -> Result<Vec<String>, String> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(Vec::new());
    }
    let (kind, rest) = word(line)?;
    // Lines that only remove do not protect.
    let kind = kind.first().copied().filter(|k| !matches!(k, b'r' | b'R'));
    let (path, _) = word(rest)?;
    let Some(kind) = kind.filter(|_| !path.is_empty()) else { return Ok(Vec::new()) };
    let path = expanded(&path)?;
    if path.first() != Some(&Piece::Byte(b'/')) {
        // Nobody acts on such a line.
        return Ok(Vec::new());
    }
    let parts: Vec<&[Piece]> = path.split(|p| *p == Piece::Byte(b'/')).collect();
    // As systemd simplifies a path: a doubled slash and a lone dot mean nothing.
    let parts: Vec<&[Piece]> =
        parts.into_iter().filter(|p| !p.is_empty() && **p != [Piece::Byte(b'.')]).collect();
    if parts.iter().any(|p| **p == [Piece::Byte(b'.'), Piece::Byte(b'.')]) {
        return Err("its path has \"..\" in it".to_owned());
    }
    let above: Vec<&OsStr> = root
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut globs = Vec::new();
    // Only some kinds are patterns, and which is not for us to say: each is taken both ways.
    for written in [Written::Pattern, Written::Literal] {
        let parts: Vec<String> = parts.iter().map(|part| glob(part, written)).collect();
        let leads = |(part, name): (&String, &&OsStr)| {
            Kept::new(std::slice::from_ref(part)).map(|set| set.first(Path::new(name)).is_some())
        };
        let on_the_way: Result<Vec<bool>, _> = parts.iter().zip(&above).map(leads).collect();
        if on_the_way.map_err(|e| format!("it is no pattern: {e}"))?.contains(&false) {
            continue;
        }
        match parts.get(above.len()..) {
            Some(below) if !below.is_empty() => globs.push(below.join("/")),
            // Whoever excludes the whole folder means what is in it.
            _ if kind == b'x' => return Err(format!("it excludes {} as a whole", root.display())),
            _ => {}
        }
    }
    globs.dedup();
    Ok(globs)
}

/// A piece of a path, after specifiers were expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// Any text without a slash.
    Any,
}

/// `path` with its specifiers expanded as far as they are the same on every host.
fn expanded(path: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            pieces.push(Piece::Byte(byte));
            continue;
        }
        match bytes.next() {
            Some(b'%') => pieces.push(Piece::Byte(b'%')),
            Some(word) if WORDS.contains(&word) => pieces.push(Piece::Any),
            Some(other) => match FOLDERS.iter().find(|(letter, _)| *letter == other) {
                Some((_, folder)) => pieces.extend(folder.bytes().map(Piece::Byte)),
                None => {
                    return Err(format!("its specifier %{} is not known", char::from(other).escape_debug()));
                }
            },
            None => return Err("its specifier has no letter".to_owned()),
        }
    }
    Ok(pieces)
}

/// How a part of a path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// As in glob(7).
    Pattern,
    /// As it stands.
    Literal,
}

/// A glob that matches at least what `part` does.
fn glob(part: &[Piece], written: Written) -> String {
    // Of what is no text, a byte each.
    let plain = |glob: &mut String, byte: u8| match byte {
        b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b'\\' => glob.extend(['\\', char::from(byte)]),
        byte if byte.is_ascii() => glob.push(char::from(byte)),
        _ => glob.push('?'),
    };
    let mut glob = String::new();
    let mut left = part;
    while let Some((piece, rest)) = left.split_first() {
        left = rest;
        match (piece, written) {
            (Piece::Any, _) => glob.push('*'),
            (Piece::Byte(byte), Written::Literal) => plain(&mut glob, *byte),
            (Piece::Byte(b'*'), Written::Pattern) => glob.push('*'),
            (Piece::Byte(b'?'), Written::Pattern) => glob.push('?'),
            (Piece::Byte(b'['), Written::Pattern) => match after_bracket(rest) {
                Some(rest) => {
                    glob.push('?');
                    left = rest;
                }
                None => plain(&mut glob, b'['),
            },
            (Piece::Byte(b'\\'), Written::Pattern) => match rest.split_first() {
                Some((Piece::Byte(escaped), rest)) => {
                    plain(&mut glob, *escaped);
                    left = rest;
                }
                _ => plain(&mut glob, b'\\'),
            },
            (Piece::Byte(byte), Written::Pattern) => plain(&mut glob, *byte),
        }
    }
    glob
}

/// What follows a bracket expression whose opening bracket was taken; `None` where it is none.
fn after_bracket(part: &[Piece]) -> Option<&[Piece]> {
    let at = |i: usize| part.get(i).copied();
    let is = |i: usize, byte: u8| at(i) == Some(Piece::Byte(byte));
    let mut i = usize::from(is(0, b'!') || is(0, b'^'));
    // A closing bracket that comes first is one of the bytes.
    i += usize::from(is(i, b']'));
    while let Some(piece) = at(i) {
        match piece {
            Piece::Byte(b']') => return part.get(i + 1..),
            Piece::Byte(b'[') => {
                let class = at(i + 1).filter(|c| [b':', b'.', b'='].map(Piece::Byte).contains(c));
                let end = class.and_then(|c| {
                    (i + 2..part.len()).find(|j| at(*j) == Some(c) && is(j + 1, b']')).map(|j| j + 2)
                });
                i = end.unwrap_or(i + 1);
            }
            _ => i += 1,
        }
    }
    None
}

/// The first word of `text` and what follows it, as systemd splits a line: quotes anywhere, escapes of C.
fn word(text: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut left = text.trim_ascii_start();
    let mut word = Vec::new();
    let mut quote = None;
    while let Some((byte, rest)) = left.split_first() {
        left = rest;
        match (*byte, quote) {
            (b'\\', _) => left = unescaped(rest, &mut word)?,
            (byte, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => quote = Some(*byte),
            (byte, None) if byte.is_ascii_whitespace() => break,
            (byte, _) => word.push(byte),
        }
    }
    match quote {
        Some(_) => Err("a quote in it does not end".to_owned()),
        None => Ok((word, left)),
    }
}

/// Takes one escape, whose backslash was taken, from `text` into `word`; gives what follows it.
fn unescaped<'t>(text: &'t [u8], word: &mut Vec<u8>) -> Result<&'t [u8], String> {
    let unknown = || "an escape in it is not known".to_owned();
    let number = |digits: Option<&'t [u8]>, radix| {
        let digits = digits.filter(|d| d.iter().all(|b| char::from(*b).is_digit(radix)));
        let text = digits.and_then(|d| std::str::from_utf8(d).ok());
        text.and_then(|t| u32::from_str_radix(t, radix).ok()).filter(|n| *n != 0).ok_or_else(unknown)
    };
    let (letter, rest) = text.split_first().ok_or_else(unknown)?;
    let byte = match letter {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b's' => b' ',
        b'\\' | b'"' | b'\'' => *letter,
        b'x' => {
            word.push(u8::try_from(number(rest.get(..2), 16)?).map_err(|_| unknown())?);
            return Ok(&rest[2..]);
        }
        b'0'..=b'7' => {
            word.push(u8::try_from(number(text.get(..3), 8)?).map_err(|_| unknown())?);
            return Ok(&text[3..]);
        }
        b'u' | b'U' => {
            let length = if *letter == b'u' { 4 } else { 8 };
            let c = char::from_u32(number(rest.get(..length), 16)?).ok_or_else(unknown)?;
            word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(&rest[length..]);
        }
        _ => return Err(unknown()),
    };
    word.push(byte);
    Ok(rest)
}

#[cfg(test)]
#[path = "tmpfiles_tests.rs"]
mod tests;
