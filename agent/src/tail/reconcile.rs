//! Brings what is followed in line with what a sweep found.
//!
//! A file that is new is placed: where the checkpoint says, where the journal says, at its end at the very first
//! start, else at its beginning. A file that left its path goes on being read through its descriptor. Files of the
//! checkpoint that no glob shows are looked for beside their old path: rotation may have happened in between.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dogwatch::record::{Moment, Stream};
use memchr::{memchr, memrchr};

use super::checkpoint::FileState;
use super::deliver::MASK_MARGIN;
use super::discover::Found;
use super::follow::{
    Copied, Followed, Opened, Place, TELLING_HEAD, begins_as, generations, holds, open, read_some, remainder,
    sibling,
};
use super::runtime::{Joiner, written_of};
use super::tailer::Tailer;
use super::{Start, TailEvent, TailGap};

/// A path that could not be read is tried again after this.
const RETRY_NS: u64 = 30_000_000_000;
/// Paths that problems are remembered for; beyond it they are neither said nor retried.
const MAX_REPORTED: usize = 1024;
/// How long something that looks like a copy in the making may stay unfinished.
const COPY_NS: u64 = 10_000_000_000;

impl Tailer {
    pub(super) fn sweep(&mut self, now: Moment) {
        let sweep = self.discovery.sweep();
        for (path, what) in &sweep.problems {
            self.report(path, what, now);
        }
        let roots = self.roots();
        // Whether one of the paths under which an inode is visible is the one that it was found at.
        let mut visible: HashMap<(u64, u64), bool> = HashMap::new();
        let mut new = Vec::new();
        for found in &sweep.files {
            let id = (found.device, found.inode);
            match self.identities.get(&id).copied() {
                Some(key) => {
                    let home =
                        self.files.get(&key).is_some_and(|f| *f.source == *found.path.to_string_lossy());
                    *visible.entry(id).or_default() |= home;
                    self.look_again(key, found, now);
                }
                None => new.push(found),
            }
        }
        let mut begun = Vec::new();
        for found in new {
            if let Some(id) = self.begin(found, &roots, now) {
                visible.insert(id, true);
                begun.push(id);
            }
        }
        if self.first_sweep {
            self.first_sweep = false;
            self.dirty = true;
            for state in std::mem::take(&mut self.resume) {
                self.find_again(state, now);
            }
            self.follow_journaled(&visible, now);
        }
        for id in begun {
            self.follow_between(id, now);
        }
        // What the journal holds matters for what was there at the start.
        self.journaled = Vec::new();
        self.place_all(&visible, now);
        self.swept_files = sweep.files.len() as u64;
        self.folders = sweep.folders.clone();
        let seen: std::collections::HashSet<&Path> = sweep
            .files
            .iter()
            .map(|f| f.path.as_path())
            .chain(sweep.problems.iter().map(|p| p.0.as_path()))
            .collect();
        self.reported.retain(|path, _| seen.contains(path.as_path()));
    }

    /// Says a problem with a path once, and puts off the next try.
    pub(super) fn report(&mut self, path: &Path, what: &str, now: Moment) {
        let retry = now.boot_ns.saturating_add(RETRY_NS);
        if let Some((said, at)) = self.reported.get_mut(path) {
            *at = retry;
            if said == what {
                return;
            }
        } else if self.reported.len() >= MAX_REPORTED {
            return;
        }
        self.reported.insert(path.to_owned(), (what.to_owned(), retry));
        self.say(TailEvent::Problem(format!("{}: {what}", path.display())));
    }

    /// Folders into which links may lead, links in their own paths resolved.
    fn roots(&self) -> Vec<PathBuf> {
        let mut roots = self.discovery.bases();
        roots.extend(self.config.link_roots.iter().cloned());
        roots.iter().filter_map(|r| fs::canonicalize(r).ok()).collect()
    }

    fn place_all(&mut self, visible: &HashMap<(u64, u64), bool>, now: Moment) {
        let mut forgotten = Vec::new();
        for file in self.files.values_mut() {
            let is_copy = matches!(file.place, Place::Copy(_));
            let place = match visible.get(&(file.device, file.inode)) {
                Some(_) if is_copy => continue,
                None if is_copy => {
                    file.ended = true;
                    Place::Gone
                }
                Some(true) => Place::Live,
                Some(false) => Place::Rotated,
                None => Place::Gone,
            };
            if place != file.place {
                file.active_ns = now.boot_ns;
                file.place = place;
            }
            if file.place == Place::Gone && file.file.is_none() {
                forgotten.push((file.device, file.inode));
            }
        }
        for id in forgotten {
            self.identities.remove(&id);
        }
        self.forget();
    }

    /// Forgets what is gone, read and durable. It stays while an older generation of the same source is unfinished,
    /// for otherwise a restart would take it for a generation that was missed.
    fn forget(&mut self) {
        let done = |f: &Followed| f.place == Place::Gone && f.ended && f.committed.0 >= f.offset;
        let mut over: Vec<u64> = self.files.values().filter(|f| done(f)).map(|f| f.key).collect();
        over.retain(|key| {
            let Some(file) = self.files.get(key) else { return false };
            !self.files.values().any(|f| f.source == file.source && f.born < file.born && !done(f))
        });
        for key in over {
            self.files.remove(&key);
            self.dirty = true;
        }
    }

    /// A file that is known was seen again.
    fn look_again(&mut self, key: u64, found: &Found, now: Moment) {
        let Some(mut file) = self.files.remove(&key) else { return };
        if matches!(file.place, Place::Copy(_)) {
            self.look_at_copy(&mut file, found, now);
        } else if file.file.is_none() && (found.size != file.size || found.mtime_ns != file.mtime_ns) {
            // It was rotated and closed, and somebody wrote to it, or it is another file on the same inode.
            self.reopen(&mut file, found, now);
        }
        let wanted = file.file.is_some() && file.size != file.scan;
        self.files.insert(key, file);
        if wanted {
            self.queue(key);
        }
    }

    fn reopen(&mut self, file: &mut Followed, found: &Found, now: Moment) {
        match open(&found.path) {
            Ok(opened) if (opened.device, opened.inode) == (file.device, file.inode) => {
                (file.mtime_ns, file.active_ns) = (opened.mtime_ns, now.boot_ns);
                (file.path, file.file, file.ended) = (opened.path, Some(opened.file), false);
                file.folder = opened.folder;
                // Its size stays what was read, so that a shorter content is no loss.
                file.size = file.scan.max(opened.size);
                self.dirty = true;
            }
            Ok(_) => {}
            Err(e) => self.report(&found.path, &format!("cannot be opened: {e}"), now),
        }
    }

    /// Begins to follow what was `found`; returns its identity.
    fn begin(&mut self, found: &Found, roots: &[PathBuf], now: Moment) -> Option<(u64, u64)> {
        if self.reported.get(&found.path).is_some_and(|r| r.1 > now.boot_ns) {
            return None;
        }
        if self.files.values().filter(|f| f.file.is_some()).count() >= self.config.max_files {
            let what = format!(
                "not followed: {} files are followed already; narrow the globs",
                self.config.max_files
            );
            self.report(&found.path, &what, now);
            return None;
        }
        let opened = match open(&found.path) {
            Ok(opened) => opened,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => {
                self.report(&found.path, &format!("cannot be opened: {e}"), now);
                return None;
            }
        };
        if opened.path != found.path && !roots.iter().any(|r| opened.path.starts_with(r)) {
            let what = format!(
                "leads to {}, outside of the log folders; add its folder to link_roots if that is meant",
                opened.path.display()
            );
            self.report(&found.path, &what, now);
            return None;
        }
        let id = (opened.device, opened.inode);
        if self.identities.contains_key(&id) {
            return Some(id);
        }
        let source = found.path.to_string_lossy().into_owned();
        match self.claim(&opened) {
            Some(state) => self.follow_from(opened, state, now),
            None => {
                let mut file = self.followed(opened, &source, now);
                self.place_new(&mut file);
                self.add(file);
            }
        }
        self.dirty = true;
        Some(id)
    }

    /// A log may be rotated more than once between two looks, or while the agent is down. What was born after the
    /// file that was followed under a path and before the one that is there now is a generation in between.
    fn follow_between(&mut self, id: (u64, u64), now: Moment) {
        let Some(new) = self.identities.get(&id).and_then(|k| self.files.get(k)) else { return };
        let (source, born) = (new.source.clone(), new.born);
        let before = self
            .files
            .values()
            .filter(|f| f.source == source && f.key != new.key && f.born < born)
            .filter_map(|f| f.born)
            .max();
        let (Some(before), Some(born)) = (before, born) else { return };
        for file in self.rotated(&source, now, |b| b > before && b < born) {
            self.add(file);
        }
    }

    /// Between a rotation's rename and the first line after it, nobody shows that a log was rotated. What the journal has of
    /// it is known at the start alone: up to the last file that it knows, what was born since is followed then.
    fn follow_journaled(&mut self, visible: &HashMap<(u64, u64), bool>, now: Moment) {
        let mut newest: HashMap<Arc<str>, (Option<SystemTime>, bool)> = HashMap::new();
        for file in self.files.values() {
            let shown = visible.contains_key(&(file.device, file.inode));
            let most = newest.entry(Arc::clone(&file.source)).or_default();
            *most = (*most).max((file.born, shown));
        }
        for (source, (born, shown)) in newest {
            let (Some(before), false) = (born, shown) else { continue };
            let mut missed = self.rotated(&source, now, |b| b > before);
            let known = |f: &&Followed| f.evidence_to.is_some() || f.recorder_to.is_some();
            let last = missed.iter().filter(known).map(|f| f.born).max();
            missed.retain(|f| Some(f.born) <= last);
            for file in missed {
                self.add(file);
            }
        }
    }

    /// What is a generation of `source` by its name, was born when `missed` says and is not followed yet: out of the globs'
    /// sight from the start.
    fn rotated(&mut self, source: &str, now: Moment, missed: impl Fn(SystemTime) -> bool) -> Vec<Followed> {
        let missed = generations(Path::new(source), |p, o| {
            o.born.is_some_and(&missed)
                && !self.identities.contains_key(&(o.device, o.inode))
                && !self.discovery.excludes(p)
        });
        let follow = |opened| {
            let mut file = self.followed(opened, source, now);
            // It may be a copy like any other.
            self.place_new(&mut file);
            (file.place, file.fresh) = (Place::Rotated, file.offset == 0);
            file
        };
        missed.into_iter().map(follow).collect()
    }

    /// The checkpoint's entry for `opened`, if there is one. The device is asked only where nothing else tells.
    fn claim(&mut self, opened: &Opened) -> Option<FileState> {
        let at = self.resume.iter().position(|s| {
            s.inode == opened.inode
                && if s.head.bytes == 0 { s.device == opened.device } else { begins_as(&opened.file, s.head) }
        })?;
        Some(self.resume.swap_remove(at))
    }

    /// Places a file that the checkpoint does not know.
    fn place_new(&mut self, file: &mut Followed) {
        self.apply_journal(file);
        let known = match (file.evidence_to, file.recorder_to) {
            (Some(e), Some(r)) if self.config.emit_all => Some(e.min(r)),
            (Some(e), _) if !self.config.emit_all => Some(e),
            (_, Some(r)) if self.config.emit_all => Some(r),
            (e, _) => e,
        };
        let at_end = self.first_sweep && !self.had_checkpoint && self.config.start == Start::End;
        let start = match known {
            // Messages may have been open there; what the journal has of what follows is passed over.
            Some(_) if file.pod.is_some() => 0,
            Some(offset) => offset,
            None if at_end => start_of_last_line(file),
            None => 0,
        };
        file.place_at(start);
        file.committed = (start, 0);
        file.fresh = start == 0 && !at_end;
    }

    /// Goes on with `opened` where `state` says.
    fn follow_from(&mut self, opened: Opened, state: FileState, now: Moment) {
        let mut file = self.followed(opened, &state.source, now);
        self.apply_journal(&mut file);
        file.place_at(state.offset);
        file.after = state.after;
        file.committed = (state.offset, state.after);
        (file.done, file.committed_done) = (state.done, state.done);
        file.ended = state.ended && file.size == state.offset;
        if file.ended {
            file.file = None;
        }
        self.add(file);
    }

    /// Looks beside its old path for a file of the checkpoint that the globs do not show any more.
    fn find_again(&mut self, state: FileState, now: Moment) {
        let renamed =
            sibling(&state.path, |inode, _| inode == state.inode, |o| begins_as(&o.file, state.head));
        let known = |tailer: &Self, o: &Opened| tailer.identities.contains_key(&(o.device, o.inode));
        if let Some(opened) = renamed.filter(|o| state.head.bytes > 0 && !known(self, o)) {
            self.follow_from(opened, state, now);
            return;
        }
        // copytruncate while nobody looked: the copy begins alike and goes on where reading stopped.
        let name = state.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let copy = sibling(
            &state.path,
            |inode, other| inode != state.inode && other.starts_with(&name),
            |o| {
                usize::from(state.head.bytes) >= TELLING_HEAD
                    && o.size >= state.offset
                    && begins_as(&o.file, state.head)
            },
        );
        if let Some(opened) = copy {
            self.adopt(opened, &state.source, state.offset, now);
        } else if !state.ended && state.head.bytes > 0 {
            self.say(TailEvent::Gap(TailGap {
                source: state.source,
                inode: state.inode,
                stream: None,
                from_offset: state.offset,
                to_offset: None,
                bytes: None,
                lines: None,
                reason: "deleted or truncated while the agent was not running; what was written last may be missing".to_owned(),
                mark: None,
            }));
        }
    }

    /// Saves what is unread of the content that `file` lost, from the copy beside it.
    pub(super) fn rescue(&mut self, file: &Followed, now: Moment) -> bool {
        let Some(opened) = remainder(file) else { return false };
        self.adopt(opened, &file.source.clone(), file.offset, now);
        true
    }

    /// Reads `opened`, a copy of what `source` held, from `offset` on.
    fn adopt(&mut self, opened: Opened, source: &str, offset: u64, now: Moment) {
        let id = (opened.device, opened.inode);
        let (size, mtime_ns) = (opened.size, opened.mtime_ns);
        let mut file = match self.identities.get(&id).copied().and_then(|k| self.files.remove(&k)) {
            Some(mut known) => {
                known.file = Some(opened.file);
                known
            }
            None => self.followed(opened, source, now),
        };
        (file.size, file.mtime_ns, file.active_ns) = (size, mtime_ns, now.boot_ns);
        (file.place, file.ended, file.fresh) = (Place::Rotated, false, false);
        file.generation += 1;
        file.place_at(offset);
        (file.committed, file.committed_done) = ((offset, 0), offset);
        self.add(file);
    }

    fn followed(&mut self, opened: Opened, source: &str, now: Moment) -> Followed {
        let key = self.next_key;
        self.next_key += 1;
        let head = read_some(&opened.file, 0, super::follow::HEAD_BYTES).unwrap_or_default();
        // Of a link the file that it leads to tells more: the uid.
        let pod = crate::pod::from_log_path(&opened.path.to_string_lossy())
            .or_else(|| crate::pod::from_log_path(source));
        Followed {
            key,
            generation: 0,
            source: source.into(),
            path: opened.path,
            device: opened.device,
            inode: opened.inode,
            folder: opened.folder,
            file: Some(opened.file),
            head,
            tail: Vec::new(),
            offset: 0,
            scan: 0,
            long: false,
            after: 0,
            evidence_to: None,
            recorder_to: None,
            dropped_evidence: None,
            dropped_recorder: None,
            committed: (0, 0),
            committed_done: 0,
            done: 0,
            pod,
            joiner: Joiner::default(),
            told: 0,
            size: opened.size,
            mtime_ns: opened.mtime_ns,
            born: opened.born,
            place: Place::Live,
            active_ns: now.boot_ns,
            ended: false,
            fresh: false,
            matcher: self.matcher(source),
            queued: false,
            waiting_at: None,
        }
    }

    fn add(&mut self, file: Followed) {
        let key = file.key;
        self.identities.insert((file.device, file.inode), key);
        self.files.insert(key, file);
        self.queue(key);
    }

    /// Takes over what the journal holds of `file`, where the file still holds the same line at the same place.
    fn apply_journal(&mut self, file: &mut Followed) {
        let journaled = std::mem::take(&mut self.journaled);
        for known in journaled.iter().filter(|j| j.line.inode == file.inode) {
            let at = known.line.offset;
            let window = self.config.max_line_bytes + MASK_MARGIN;
            let Some(bytes) = file.file.as_ref().and_then(|f| read_some(f, at, window).ok()) else {
                continue;
            };
            let line = &bytes[..memchr(b'\n', &bytes).unwrap_or(bytes.len())];
            // A message's text may be joined from several lines; its time is that of its last one, to the nanosecond.
            let same = match known.line.written_wall_ns {
                Some(wall_ns) => written_of(line) == Some(wall_ns),
                None => self.masked(line) == known.line.line,
            };
            if bytes.is_empty() || !same {
                continue;
            }
            match known.stream {
                Stream::Evidence => file.evidence_to = file.evidence_to.max(Some(at)),
                Stream::Recorder => file.recorder_to = file.recorder_to.max(Some(at)),
                Stream::Urgent => {}
            }
        }
        self.journaled = journaled;
    }

    /// Whether `file`, met for the first time, is the copy that copytruncate makes of a file that is followed. Such a
    /// copy is not read while its original is there: its lines were handed on already.
    pub(super) fn becomes_copy(&mut self, file: &mut Followed, now: Moment) -> bool {
        if file.head.len() < TELLING_HEAD {
            return false;
        }
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let original = self.files.values().find(|o| {
            o.path.parent() == file.path.parent()
                && o.offset > 0
                && !matches!(o.place, Place::Copy(_))
                && o.path.file_name().is_some_and(|n| name.starts_with(&*n.to_string_lossy()))
                && o.head.len() >= TELLING_HEAD
                && o.head.iter().zip(&file.head).all(|(a, b)| a == b)
        });
        let Some(original) = original else { return false };
        let (offset, tail) = (original.offset, original.tail.clone());
        let complete = file.size >= offset;
        if complete && !file.file.as_ref().is_some_and(|f| holds(f, offset, &tail)) {
            return false;
        }
        let copied = Copied { offset, tail, since_ns: now.boot_ns, size: file.size, confirmed: complete };
        file.place = Place::Copy(Box::new(copied));
        file.file = None;
        file.place_at(file.size);
        file.committed = (file.size, 0);
        self.dirty = true;
        true
    }

    /// Sees whether what looked like a copy is one.
    fn look_at_copy(&mut self, file: &mut Followed, found: &Found, now: Moment) {
        let Place::Copy(copied) = &mut file.place else { return };
        let old = now.boot_ns.saturating_sub(copied.since_ns) >= COPY_NS;
        if copied.confirmed && !old {
            // The rest of the copy is still being written.
            copied.size = found.size;
            (file.offset, file.scan, file.size, file.committed) =
                (found.size, found.size, found.size, (found.size, 0));
            return;
        }
        if copied.confirmed {
            if found.size > copied.size {
                // Somebody writes to it: it lives on its own now.
                let from = copied.size;
                self.lives(file, found, from, now);
            }
            return;
        }
        let (offset, tail) = (copied.offset, copied.tail.clone());
        if found.size >= offset {
            if open(&found.path).is_ok_and(|o| holds(&o.file, offset, &tail)) {
                copied.confirmed = true;
                (file.offset, file.scan, file.size, file.committed) =
                    (found.size, found.size, found.size, (found.size, 0));
            } else {
                self.lives(file, found, 0, now);
            }
        } else if found.size > copied.size {
            (copied.size, copied.since_ns) = (found.size, now.boot_ns);
        } else if old {
            self.lives(file, found, 0, now);
        }
    }

    fn lives(&mut self, file: &mut Followed, found: &Found, from: u64, now: Moment) {
        file.place = Place::Live;
        self.reopen(file, found, now);
        file.generation += 1;
        file.place_at(from);
        (file.committed, file.committed_done) = ((from, 0), from);
    }
}

/// Where the last line of `file` begins, if it has no newline yet; else the file's end.
fn start_of_last_line(file: &Followed) -> u64 {
    let from = file.size.saturating_sub(64 * 1024);
    let Some(handle) = &file.file else { return file.size };
    let Ok(bytes) = read_some(handle, from, (file.size - from) as usize) else { return file.size };
    match memrchr(b'\n', &bytes) {
        Some(at) => from + at as u64 + 1,
        None if from == 0 => 0,
        // A line longer than that is not worth its beginning.
        None => file.size,
    }
}
