//! Reads one chunk of a file and hands on the lines in it.

use std::ops::ControlFlow;

use dogwatch::record::{LogLine, Moment, Stream};
use memchr::{memchr, memchr_iter, memrchr};

use super::follow::{Dropped, Followed, Place, read_full, read_some};
use super::holes::{behind_zeros, missing, next_hole, written};
use super::lines::{Piece, choose, last_lines};
use super::tailer::{CHUNK_BYTES, Tailer};
use super::{Keep, TailEvent, TailGap};

/// Bytes behind the end of a cut line that masking still sees, so that a secret across the cut is recognised.
pub(super) const MASK_MARGIN: usize = 1024;
/// Bytes before a chunk that are read again to find context of a match at its beginning.
const CONTEXT_BYTES: usize = 64 * 1024;

pub(super) type Out<'a> = &'a mut dyn FnMut(TailEvent) -> ControlFlow<()>;

/// What comes after a chunk.
pub(super) enum Next {
    /// There may be more to read.
    More,
    /// Nothing more for now.
    Done,
    /// The taker wants no more in this turn.
    Stopped,
}

/// How the lines of a block end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Each with a newline.
    Newline,
    /// The block is one line, the last of its file, without one.
    Nothing,
    /// The block is the beginning of one line whose end is not in sight.
    Later,
}

/// A line on its way out.
pub(super) struct Taken<'a> {
    /// It, or as much of it as is there.
    pub(super) line: &'a [u8],
    /// From where reading would have to begin to meet it again.
    pub(super) from: u64,
    /// Its offset.
    pub(super) at: u64,
    /// The offset behind it.
    pub(super) behind: u64,
    /// What is dealt with once it is durable: offset, lines done, and context due.
    pub(super) mark: (u64, u64, u8),
    /// Whether it goes on.
    pub(super) cut: bool,
    /// Of a runtime's line: the output, parts, and when it was written.
    pub(super) dress: Option<(&'static str, u32, Option<i64>)>,
}

impl Tailer {
    /// Reads a chunk of `file` and hands on what is to be kept of it.
    pub(super) fn advance(&mut self, file: &mut Followed, now: Moment, out: Out<'_>) -> Next {
        let mut buffer = std::mem::take(&mut self.buffer);
        let next = self.advance_into(file, &mut buffer, now, out);
        self.buffer = buffer;
        next
    }

    fn advance_into(&mut self, file: &mut Followed, buffer: &mut [u8], now: Moment, out: Out<'_>) -> Next {
        let Some(handle) = &file.file else { return Next::Done };
        // What the file is, is asked after reading: what was read before somebody cut it or began it anew is then known as that.
        let read = read_full(handle, buffer, file.scan).and_then(|n| Ok((n, handle.metadata()?)));
        // The head is compared after reading too: what was read before it changed is not handed on as the old content.
        let seen = read.and_then(|(n, metadata)| Ok((file.unchanged(metadata.len())?, n, metadata)));
        let (same, mut n, metadata) = match seen {
            Ok(seen) => seen,
            Err(e) => {
                self.report(&file.path.clone(), &format!("cannot be read: {e}"), now);
                return Next::Done;
            }
        };
        let size = metadata.len();
        if !same {
            return self.begin_anew(file, size, now, out);
        }
        file.size = size.max(file.scan + n as u64);
        if file.fresh && !file.head.is_empty() {
            file.fresh = false;
            if self.becomes_copy(file, now) {
                return Next::Done;
            }
        }
        let Some(handle) = file.file.as_ref() else { return Next::Done };
        let hole = missing(handle, &buffer[..n], file.scan, size);
        let mut backlog = size.saturating_sub(file.scan);
        if backlog > self.config.max_backlog_bytes {
            // What nobody can read does not wait to be read.
            let hole = next_hole(handle, file.scan, size);
            backlog -= hole.map_or(0, |h| h.to - h.from);
        }
        if backlog > self.config.max_backlog_bytes {
            return self.skip_ahead(file, size, out);
        }
        let mut more = n == CHUNK_BYTES;
        if let Some(hole) = hole {
            // First what is before it. Where it reaches the end of the file, what is written next may begin in it.
            n = (hole.from - file.scan) as usize;
            more = hole.to < size;
            if more && !buffer[..n].contains(&b'\n') {
                return self.pass_hole(file, hole, now, out);
            }
            file.waiting_at = (!more).then_some(size);
        }
        // What is left unread here waits until the file changes.
        let end = if hole.is_some() { size } else { file.scan + n as u64 };
        self.stats.bytes += n as u64;
        self.read_budget.take(n as u64);
        let block = &buffer[..n];
        if file.long {
            return self.skip_long(file, block, out);
        }
        let next = if more { Next::More } else { Next::Done };
        match memrchr(b'\n', block) {
            Some(last) => {
                file.waiting_at = (!more && (last + 1 < n || hole.is_some())).then_some(end);
                let flow = self.deliver(file, &block[..=last], Ends::Newline, now, out);
                if flow.is_break() { Next::Stopped } else { next }
            }
            None if n == CHUNK_BYTES => {
                let flow = self.deliver(file, block, Ends::Later, now, out);
                file.long = true;
                file.scan += n as u64;
                if flow.is_break() { Next::Stopped } else { next }
            }
            None => {
                file.waiting_at = (n > 0 || hole.is_some()).then_some(end);
                next
            }
        }
    }

    /// Skips the rest of a line that was handed on, cut.
    fn skip_long(&mut self, file: &mut Followed, block: &[u8], out: Out<'_>) -> Next {
        match memchr(b'\n', block) {
            None => {
                file.scan += block.len() as u64;
                if block.len() == CHUNK_BYTES { Next::More } else { Next::Done }
            }
            Some(at) => {
                self.stats.lines += 1;
                let offset = file.scan + at as u64 + 1;
                file.move_to(offset, &block[..=at]);
                if self.progress(file, out).is_break() { Next::Stopped } else { Next::More }
            }
        }
    }

    /// Skips the older part of a backlog that is over the limit.
    fn skip_ahead(&mut self, file: &mut Followed, size: u64, out: Out<'_>) -> Next {
        let (from, target) = (file.low(), size - self.config.max_backlog_bytes / 2);
        let bytes =
            file.file.as_ref().and_then(|f| read_some(f, target, CHUNK_BYTES).ok()).unwrap_or_default();
        match memchr(b'\n', &bytes) {
            Some(at) => file.place_at(target + at as u64 + 1),
            None => {
                file.place_at(target);
                file.long = true;
            }
        }
        file.after = 0;
        file.joiner.clear();
        let reason = format!("more than {} bytes were waiting to be read", self.config.max_backlog_bytes);
        let flow = self.gap(file, None, (from, file.offset), None, reason, out);
        if flow.is_break() { Next::Stopped } else { Next::More }
    }

    /// Hands on the last line of a rotated file, though no newline ends it, and closes the file.
    pub(super) fn finish(&mut self, file: &mut Followed, now: Moment, out: Out<'_>) -> ControlFlow<()> {
        if file.offset < file.size
            && !file.long
            && let Some(handle) = &file.file
        {
            let rest = read_some(handle, file.offset, CHUNK_BYTES).unwrap_or_default();
            let rest = written(handle, &rest, file.offset);
            if !rest.is_empty() && !rest.contains(&b'\n') {
                self.deliver(file, rest, Ends::Nothing, now, out)?;
            }
        }
        self.cut(file, now, out)?;
        self.say_dropped(file, out)?;
        if file.long {
            file.move_to(file.size, b"");
        }
        self.progress(file, out)?;
        file.ended = true;
        file.file = None;
        self.dirty = true;
        ControlFlow::Continue(())
    }

    /// Says which lines the budgets dropped.
    pub(super) fn say_dropped(&mut self, file: &mut Followed, out: Out<'_>) -> ControlFlow<()> {
        for stream in [Stream::Evidence, Stream::Recorder] {
            let slot = match stream {
                Stream::Evidence => &mut file.dropped_evidence,
                _ => &mut file.dropped_recorder,
            };
            let Some(dropped) = slot.take() else { continue };
            self.stats.gaps += 1;
            out(TailEvent::Gap(TailGap {
                source: file.source.to_string(),
                inode: file.inode,
                stream: Some(stream),
                from_offset: dropped.from,
                to_offset: Some(dropped.to),
                bytes: Some(dropped.bytes),
                lines: Some(dropped.lines),
                reason: format!("over the {stream} stream's budget of bytes in a second"),
                mark: Some(file.mark_here()),
            }))?;
        }
        self.progress(file, out)
    }

    pub(super) fn gap(
        &mut self,
        file: &mut Followed,
        stream: Option<Stream>,
        (from, to): (u64, u64),
        lines: Option<u64>,
        reason: String,
        out: Out<'_>,
    ) -> ControlFlow<()> {
        self.stats.gaps += 1;
        let mark = Some(file.mark_here());
        let (source, inode) = (file.source.to_string(), file.inode);
        let bytes = Some(to.saturating_sub(from));
        let to_offset = Some(to);
        out(TailEvent::Gap(TailGap {
            source,
            inode,
            stream,
            from_offset: from,
            to_offset,
            bytes,
            lines,
            reason,
            mark,
        }))
    }

    /// Says how far `file` is, if that is farther than what was said last.
    pub(super) fn progress(&mut self, file: &mut Followed, out: Out<'_>) -> ControlFlow<()> {
        let mark = file.mark_here();
        if mark.offset <= file.told {
            return ControlFlow::Continue(());
        }
        file.told = mark.offset;
        out(TailEvent::Progress(mark))
    }

    /// Hands on the lines of `block`, which begins at `file.offset`, and moves behind it. After `Break` the file stands
    /// behind the last line that was handed on.
    fn deliver(
        &mut self,
        file: &mut Followed,
        block: &[u8],
        ends: Ends,
        now: Moment,
        out: Out<'_>,
    ) -> ControlFlow<()> {
        if file.pod.is_some() && ends != Ends::Later {
            return self.deliver_messages(file, block, now, out);
        }
        self.say_dropped_first(file, out)?;
        let limit = self.config.max_line_bytes;
        let base = file.offset;
        let all = self.config.emit_all && self.recorder_budget.left();
        let rules = self.config.rules.clone();
        let chosen = choose(block, file.matcher.as_deref(), rules.rules(), limit, file.after, all);
        if self.config.emit_all && !all {
            self.drop_block(file, block, now);
        }
        if chosen.earlier > 0 {
            self.earlier(file, chosen.earlier, now, out)?;
        }
        for piece in &chosen.pieces {
            let end = match ends {
                Ends::Newline => piece.range.end as u64 + 1,
                Ends::Nothing => piece.range.end as u64,
                Ends::Later => 0,
            };
            let at = base + piece.range.start as u64;
            let line = &block[piece.range.clone()];
            let taken = Taken {
                line,
                from: at,
                at,
                behind: at + line.len() as u64 + 1,
                // Its end is not known yet, so the mark stays before it; the offset keeps it from coming twice.
                mark: if ends == Ends::Later {
                    (at.min(file.low()), at, file.after)
                } else {
                    (base + end, base + end, piece.after)
                },
                cut: ends == Ends::Later,
                dress: None,
            };
            self.count(piece);
            if let Some(event) = self.event(file, piece, taken, all, now) {
                let flow = out(event);
                if flow.is_break() {
                    if ends != Ends::Later {
                        let taken = &block[..(end as usize).min(block.len())];
                        self.stats.lines += memchr_iter(b'\n', taken).count() as u64;
                        file.move_to(base + end, taken);
                        file.after = piece.after;
                    }
                    return flow;
                }
            }
        }
        self.stats.lines += memchr_iter(b'\n', block).count() as u64 + u64::from(ends == Ends::Nothing);
        if ends != Ends::Later {
            file.move_to(base + block.len() as u64, block);
        }
        file.after = chosen.after;
        self.progress(file, out)
    }

    /// Says what the budgets dropped, where they have room again.
    pub(super) fn say_dropped_first(&mut self, file: &mut Followed, out: Out<'_>) -> ControlFlow<()> {
        // What was dropped is told before a later line is handed on: after a crash the newest line that is durable says
        // from where lines are missing, and must not stand for one that nobody has.
        if file.dropped_evidence.is_some() && self.evidence_budget.left()
            || file.dropped_recorder.is_some() && self.recorder_budget.left()
        {
            self.say_dropped(file, out)?;
        }
        ControlFlow::Continue(())
    }

    pub(super) fn count(&mut self, piece: &Piece) {
        self.stats.matches += u64::from(!piece.rules.is_empty());
        for rule in &piece.rules {
            if let Some(count) = self.stats.rule_matches.get_mut(usize::from(*rule)) {
                *count += 1;
            }
        }
    }

    /// The event for the line `taken`, which is `piece`, unless nobody wants it or the budgets drop it.
    pub(super) fn event(
        &mut self,
        file: &mut Followed,
        piece: &Piece,
        taken: Taken<'_>,
        all: bool,
        now: Moment,
    ) -> Option<TailEvent> {
        let Taken { line, from, at, behind, mark, cut, dress } = taken;
        let limit = self.config.max_line_bytes;
        let cost = line.len().min(limit) as u64 + 1;
        let mut keep = Keep {
            evidence: piece.evidence && file.evidence_to.is_none_or(|to| at > to),
            recorder: all && file.recorder_to.is_none_or(|to| at > to),
        };
        if keep.evidence && !self.evidence_budget.take(cost) {
            keep.evidence = false;
            self.stats.dropped_lines += 1;
            Dropped::add(&mut file.dropped_evidence, (from, at, behind), behind - at, now.boot_ns);
        }
        if keep.recorder && !self.recorder_budget.take(cost) {
            keep.recorder = false;
            self.stats.dropped_lines += 1;
            Dropped::add(&mut file.dropped_recorder, (from, at, behind), behind - at, now.boot_ns);
        }
        if keep.evidence {
            file.evidence_to = Some(at);
        }
        if keep.recorder {
            file.recorder_to = Some(at);
        }
        if !keep.evidence && !keep.recorder {
            return None;
        }
        let mark = file.mark(mark.0, mark.1, mark.2);
        file.told = file.told.max(mark.offset);
        let rules = piece
            .rules
            .iter()
            .filter_map(|r| self.config.rules.rules().get(usize::from(*r)))
            .map(|r| r.name.clone())
            .collect();
        let (output, parts, written_wall_ns) = dress.unwrap_or_default();
        let line = LogLine {
            source: file.source.to_string(),
            offset: at,
            inode: file.inode,
            truncated: cut || line.len() > limit,
            line: self.masked(line),
            rules,
            pod: file.pod.clone(),
            output: output.to_owned(),
            parts,
            written_wall_ns,
            priority: None,
        };
        Some(TailEvent::Line { line, keep, mark })
    }

    /// `line`, masked and cut.
    pub(super) fn masked(&mut self, line: &[u8]) -> Vec<u8> {
        let limit = self.config.max_line_bytes;
        let mut line = line[..line.len().min(limit + MASK_MARGIN)].to_vec();
        self.masker.mask(&mut line);
        line.truncate(limit);
        line
    }

    /// Counts a whole block as dropped for the recorder stream, as far as it was not counted or handed on before.
    pub(super) fn drop_block(&mut self, file: &mut Followed, block: &[u8], now: Moment) {
        let (base, to) = (file.offset, file.offset + block.len() as u64);
        let done = file.done();
        let counted = file.dropped_recorder.map_or(done, |d| d.to.max(done));
        let Some(rest) = block.get((counted - base) as usize..).filter(|r| !r.is_empty()) else { return };
        if file.recorder_to.is_some_and(|have| have >= done) {
            return;
        }
        let lines = (memchr_iter(b'\n', rest).count() as u64).max(1);
        let fresh = Dropped { from: file.low(), done, since_ns: now.boot_ns, ..Dropped::default() };
        let slot = file.dropped_recorder.get_or_insert(fresh);
        slot.to = to;
        slot.bytes += rest.len() as u64;
        slot.lines += lines;
        self.stats.dropped_lines += lines;
    }

    /// Hands on the last `count` lines before `file.offset` as context, unless they were handed on already.
    fn earlier(&mut self, file: &mut Followed, count: usize, now: Moment, out: Out<'_>) -> ControlFlow<()> {
        let Some(handle) = &file.file else { return ControlFlow::Continue(()) };
        let from = file.offset.saturating_sub(CONTEXT_BYTES as u64);
        let bytes = read_some(handle, from, (file.offset - from) as usize).unwrap_or_default();
        if bytes.len() as u64 != file.offset - from || bytes.last() != Some(&b'\n') {
            return ControlFlow::Continue(());
        }
        let (bytes, is_cut) = behind_zeros(handle, &bytes, from);
        let from = file.offset - bytes.len() as u64;
        for range in last_lines(bytes, count, from == 0 && !is_cut) {
            let at = from + range.start as u64;
            let piece = Piece { range, rules: Vec::new(), evidence: true, after: file.after };
            // Its mark is that of the place where reading stands: nothing behind it is dealt with.
            let line = &bytes[piece.range.clone()];
            let behind = at + line.len() as u64 + 1;
            let mark = (file.offset, file.offset, file.after);
            let taken = Taken { line, from: at, at, behind, mark, cut: false, dress: None };
            if let Some(event) = self.event(file, &piece, taken, false, now) {
                out(event)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The content of `file` was replaced: says what was lost and begins at its start.
    fn begin_anew(&mut self, file: &mut Followed, size: u64, now: Moment, out: Out<'_>) -> Next {
        let mut flow = self.cut(file, now, out);
        if flow.is_continue() {
            flow = self.say_dropped(file, out);
        }
        let unread = file.size.max(file.scan).saturating_sub(file.offset);
        let rescued = self.rescue(file, now);
        if !rescued && unread > 0 && !(file.long && file.size <= file.scan) {
            let reason = "truncated before it was read".to_owned();
            let (from, to) = (file.offset, file.offset + unread);
            let said = self.gap(file, None, (from, to), None, reason, out);
            flow = if flow.is_break() { flow } else { said };
        }
        file.generation += 1;
        file.head.clear();
        file.tail.clear();
        (file.offset, file.scan, file.told, file.size) = (0, 0, 0, size);
        (file.long, file.after, file.ended) = (false, 0, false);
        (file.evidence_to, file.recorder_to, file.waiting_at) = (None, None, None);
        file.committed = (0, 0);
        (file.committed_done, file.done) = (0, 0);
        file.joiner.clear();
        file.active_ns = now.boot_ns;
        if let Place::Copy(_) = file.place {
            file.place = Place::Live;
        }
        self.dirty = true;
        if flow.is_break() { Next::Stopped } else { Next::More }
    }
}
