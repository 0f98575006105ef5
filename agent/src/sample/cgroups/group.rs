//! One group's files, read again and again.
//!
//! Descriptors stay open within a bound that all groups share, the others are opened each time: reading an open file
//! costs a third of opening, reading and closing it. An open file does not keep a removed group alive; reading it says
//! ENODEV, and then a group of the same path that was made anew is looked for once.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use dogwatch::record::Cgroup;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, pread};

use super::figures::{Counts, GroupFile, Limits, Reading, When};

/// At each pass of this number, once a minute by default, every file is read: limits, which people change, files that the group did not have, and those
/// whose figures could not have changed for all that is known.
pub(super) const SELDOM: u32 = 12;

/// Descriptors that may stay open, over all groups.
#[derive(Debug)]
pub(super) struct Kept {
    /// Open now.
    pub(super) open: usize,
    /// At most.
    pub(super) max: usize,
}

/// What went wrong in a pass: the first, and how many more.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    pub(super) first: Option<String>,
    pub(super) count: u64,
}

impl Wrong {
    fn push(&mut self, path: &str, file: &CStr, why: &str) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{path}/{}: {why}", file.to_string_lossy()));
    }
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    /// Relative to the hierarchies, without a slash in front.
    pub(super) path: Vec<u8>,
    /// As it is shown.
    pub(super) shown: String,
    /// By place in the table of files.
    descriptors: Box<[Option<OwnedFd>]>,
    /// Bits by place in the table: the group has no such file.
    absent: u32,
    limits: Limits,
    counts: Counts,
    passes: u32,
}

impl Group {
    /// A group of which nothing was read; `files` is the length of the table.
    pub(super) fn new(path: Vec<u8>, files: usize) -> Self {
        let shown = format!("/{}", String::from_utf8_lossy(&path));
        let descriptors = std::iter::repeat_with(|| None).take(files).collect();
        Self {
            path,
            shown,
            descriptors,
            absent: 0,
            limits: Limits::default(),
            counts: Counts::default(),
            passes: 0,
        }
    }

    /// Its figures; `None`: it is gone.
    pub(super) fn read(
        &mut self,
        files: &[(BorrowedFd<'_>, &GroupFile)],
        kept: &mut Kept,
        wrong: &mut Wrong,
        buf: &mut [u8],
    ) -> Option<Cgroup> {
        let seldom = self.passes.is_multiple_of(SELDOM);
        self.passes = self.passes.wrapping_add(1);
        if seldom {
            self.absent = 0;
        }
        let mut reading = Reading::with_limits(self.limits);
        let mut found = false;
        for (i, (root, file)) in files.iter().enumerate() {
            let bit = 1u32 << i;
            let is_known = !seldom && reading.takes_over(file.when, &self.counts);
            if self.absent & bit != 0 || is_known {
                continue;
            }
            // What is read only now and then is opened for it.
            let stays = file.when == When::Always || !seldom;
            match self.text(i, *root, file.name, stays, kept, buf) {
                Ok(len) => {
                    found = true;
                    // Whatever is cut by the buffer has no end of line, and would be another number.
                    let text = if len == buf.len() { whole_lines(buf) } else { &buf[..len] };
                    if (file.put)(text, &mut reading).is_none() {
                        wrong.push(&self.shown, file.name, "not as the kernel documents it");
                    }
                }
                // No controller, no PSI, or PSI that is off; or the whole group is gone.
                Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => self.absent |= bit,
                Err(e) => {
                    found = true;
                    wrong.push(&self.shown, file.name, &e.to_string());
                }
            }
        }
        (self.limits, self.counts) = (reading.limits(), reading.counts());
        let mut group = reading.finish();
        group.path.clone_from(&self.shown);
        found.then_some(group)
    }

    /// Closes what it has open.
    pub(super) fn close(&mut self, kept: &mut Kept) {
        for descriptor in &mut self.descriptors {
            if descriptor.take().is_some() {
                kept.open -= 1;
            }
        }
    }

    fn text(
        &mut self,
        i: usize,
        root: BorrowedFd<'_>,
        name: &CStr,
        stays: bool,
        kept: &mut Kept,
        buf: &mut [u8],
    ) -> Result<usize, Errno> {
        if let Some(descriptor) = &self.descriptors[i] {
            match pread_all(descriptor, buf) {
                Err(Errno::NODEV) => {
                    self.descriptors[i] = None;
                    kept.open -= 1;
                }
                other => return other,
            }
        }
        let mut path = Vec::with_capacity(self.path.len() + name.to_bytes().len() + 2);
        path.extend_from_slice(&self.path);
        path.push(b'/');
        path.extend_from_slice(name.to_bytes_with_nul());
        let path = CStr::from_bytes_with_nul(&path).map_err(|_| Errno::INVAL)?;
        let opened = match openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(e @ (Errno::MFILE | Errno::NFILE)) => {
                // Others need descriptors more than this needs to be cheap.
                kept.max = 0;
                self.close(kept);
                return Err(e);
            }
            other => other?,
        };
        let len = pread_all(&opened, buf)?;
        if stays && kept.open < kept.max {
            kept.open += 1;
            self.descriptors[i] = Some(opened);
        }
        Ok(len)
    }
}

/// The file as of now, in one piece: the kernel makes the whole text at a read from the beginning.
fn pread_all(descriptor: &OwnedFd, buf: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match pread(descriptor, &mut *buf, 0) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn whole_lines(text: &[u8]) -> &[u8] {
    let end = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    &text[..end]
}
