//! Files of `/proc`, read again and again.
//!
//! A [`ProcFile`] keeps its descriptor open and its buffer allocated and reads with `pread` from offset 0, so that a
//! tick costs the kernel's own work and little else. An error closes the descriptor; the next read opens anew.
//!
//! Deliberately absent: readahead, parsing, retries.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use memchr::memchr_iter;
use rustix::io::{Errno, pread};

/// A file of the node that could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// The system call failed.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its text is not what the kernel documents.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        what: &'static str,
    },
}

impl ProbeError {
    /// Whether the kernel lacks the file or its feature, which is no failure for optional readings.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
            }
            Self::Malformed { .. } => false,
        }
    }
}

/// One file of `/proc`, open, with its buffer.
pub(super) struct ProcFile {
    path: PathBuf,
    fd: Option<OwnedFd>,
    buf: Vec<u8>,
    max: usize,
}

impl ProcFile {
    /// The file at `path`, of which at most `max` bytes are read. Opened at the first read.
    pub(super) fn new(path: PathBuf, max: usize) -> Self {
        Self { path, fd: None, buf: Vec::new(), max }
    }

    /// Its open descriptor, if the last read went well.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// The whole file as of now, cut at the bound.
    pub(super) fn read(&mut self) -> Result<&[u8], ProbeError> {
        match self.fill() {
            Ok(len) => Ok(&self.buf[..len]),
            Err(source) => {
                self.fd = None;
                Err(ProbeError::Read { path: self.path.clone(), source })
            }
        }
    }

    /// Whether the last read stopped at the bound instead of the end.
    pub(super) fn is_cut(&self, len: usize) -> bool {
        len >= self.max
    }

    /// Gives memory back when one long reading made the buffer large.
    pub(super) fn shrink(&mut self, keep: usize) {
        if self.buf.len() > keep {
            self.buf.truncate(keep);
            self.buf.shrink_to_fit();
        }
    }

    /// The error for text that is not as documented.
    pub(super) fn malformed(&self, what: &'static str) -> ProbeError {
        ProbeError::Malformed { path: self.path.clone(), what }
    }

    fn fill(&mut self) -> io::Result<usize> {
        const FIRST: usize = 4096;
        if self.buf.is_empty() {
            self.buf.resize(FIRST.min(self.max), 0);
        }
        let fd = match self.fd.take() {
            Some(fd) => fd,
            None => File::open(&self.path)?.into(),
        };
        let fd = self.fd.insert(fd);
        let mut len = 0;
        // A seq_file may hand out less than asked although more follows, so only an empty read is the end.
        loop {
            if len == self.buf.len() {
                if len >= self.max {
                    return Ok(len);
                }
                self.buf.resize((len * 2).min(self.max), 0);
            }
            match pread(&*fd, &mut self.buf[len..], len as u64) {
                Ok(0) => return Ok(len),
                Ok(n) => len += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The lines of `text`, the newlines left out; behind the last newline one more, which may be empty.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    memchr_iter(b'\n', text).chain(std::iter::once(text.len())).map(move |at| {
        let line = &text[from..at];
        from = at + 1;
        line
    })
}

/// The decimal number that `text` consists of.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, &b| {
        b.is_ascii_digit().then(|| n.checked_mul(10)?.checked_add(u64::from(b - b'0'))).flatten()
    })
}

/// The decimal fraction that `text` consists of.
pub(super) fn fraction(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|v: &f64| v.is_finite())
}

/// The fields of a line, split at blanks.
pub(super) fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| b.is_ascii_whitespace()).filter(|f| !f.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rereads_what_changed_and_recovers_from_absence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = ProcFile::new(path.clone(), 1 << 20);
        assert!(file.read().unwrap_err().is_absent());
        std::fs::write(&path, "one").unwrap();
        assert_eq!(file.read().unwrap(), b"one");
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        assert_eq!(file.read().unwrap().len(), 10_000);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.read().unwrap(), b"two");
    }

    #[test]
    fn stops_at_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x".repeat(10_000)).unwrap();
        let mut file = ProcFile::new(path, 5_000);
        let len = file.read().unwrap().len();
        assert_eq!(len, 5_000);
        assert!(file.is_cut(len));
    }

    #[test]
    fn numbers_refuse_what_is_none() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"-1"), None);
        assert_eq!(fraction(b"0.25"), Some(0.25));
        assert_eq!(fraction(b"inf"), None);
    }
}
