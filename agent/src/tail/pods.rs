//! Hands on the messages of a pod's file.
//!
//! As plain lines are handed on, but what rules see is a block of messages; and since one may be open when reading
//! stops, a mark says both from where to read again and which messages are dealt with.

use std::ops::ControlFlow;

use dogwatch::record::Moment;
use memchr::{memchr, memchr_iter};

use super::deliver::{MASK_MARGIN, Out, Taken};
use super::follow::{Followed, read_some};
use super::holes::behind_zeros;
use super::lines::{Piece, choose};
use super::runtime::{Joiner, Message, Unwrapped};
use super::tailer::Tailer;

/// Bytes before a block that are read again to find context of a match at its beginning.
const CONTEXT_BYTES: u64 = 64 * 1024;

impl Tailer {
    /// Hands on the messages that `block`, which begins at `file.offset`, completes, and moves behind it. After `Break`
    /// the file stands where reading must go on so that nothing is lost; what is done already is passed over then.
    pub(super) fn deliver_messages(
        &mut self,
        file: &mut Followed,
        block: &[u8],
        now: Moment,
        out: Out<'_>,
    ) -> ControlFlow<()> {
        let mut unwrapped = std::mem::take(&mut self.unwrapped);
        unwrapped.clear();
        let flow = self.deliver_unwrapped(file, block, &mut unwrapped, now, out);
        self.unwrapped = unwrapped;
        flow
    }

    fn deliver_unwrapped(
        &mut self,
        file: &mut Followed,
        block: &[u8],
        unwrapped: &mut Unwrapped,
        now: Moment,
        out: Out<'_>,
    ) -> ControlFlow<()> {
        self.say_dropped_first(file, out)?;
        let end = file.offset + block.len() as u64;
        let (done, before) = (file.done(), (file.low(), file.done(), file.after));
        let all = self.config.emit_all && self.recorder_budget.left();
        if self.config.emit_all && !all {
            self.drop_block(file, block, now);
        }
        let most = self.config.max_line_bytes + MASK_MARGIN;
        file.joiner.unwrap(block, file.offset, done, most, now.boot_ns, unwrapped);
        if let Err(at) = self.say_messages(file, block, unwrapped, before, all, now, out) {
            // Read again from the oldest part that is needed; what is done stays so.
            let Some(message) = at else { return ControlFlow::Break(()) };
            let (told, done) = (file.told, message.end.max(file.done));
            let read = message.low.saturating_sub(file.offset).min(block.len() as u64) as usize;
            self.stats.lines += memchr_iter(b'\n', &block[..read]).count() as u64;
            file.place_at(message.low);
            (file.told, file.done) = (told, done);
            return ControlFlow::Break(());
        }
        self.stats.lines += memchr_iter(b'\n', block).count() as u64;
        file.move_to(end, block);
        file.done = end.max(file.done);
        self.progress(file, out)
    }

    /// Hands on the chosen ones of `unwrapped`; the message at which the taker wanted no more, or `None` where that was
    /// before the first.
    #[expect(clippy::too_many_arguments, reason = "what a block of messages is, and where they go")]
    fn say_messages(
        &mut self,
        file: &mut Followed,
        block: &[u8],
        unwrapped: &Unwrapped,
        before: (u64, u64, u8),
        all: bool,
        now: Moment,
        out: Out<'_>,
    ) -> Result<(), Option<Message>> {
        let rules = self.config.rules.clone();
        let limit = self.config.max_line_bytes;
        let chosen = choose(&unwrapped.text, file.matcher.as_deref(), rules.rules(), limit, file.after, all);
        if chosen.earlier > 0 && self.earlier_messages(file, chosen.earlier, before, now, out).is_break() {
            // Nothing of the block was handed on: it is read again.
            let again = Message::none(before.0, before.1);
            return Err(Some(again));
        }
        let mut messages = unwrapped.messages.iter();
        for piece in &chosen.pieces {
            let Some(message) = messages.find(|m| m.range.start == piece.range.start) else { continue };
            self.count(piece);
            let mark = (message.low, message.end, piece.after);
            if let Some(event) = self.event(file, piece, taken(message, unwrapped, block, mark), all, now)
                && out(event).is_break()
            {
                file.after = piece.after;
                return Err(Some(message.clone()));
            }
        }
        file.after = chosen.after;
        Ok(())
    }

    /// Hands on the last `count` messages before those of the block as context, unless they were handed on already.
    fn earlier_messages(
        &mut self,
        file: &mut Followed,
        count: usize,
        before: (u64, u64, u8),
        now: Moment,
        out: Out<'_>,
    ) -> ControlFlow<()> {
        let Some(handle) = &file.file else { return ControlFlow::Continue(()) };
        let to = before.1;
        let from = to.saturating_sub(CONTEXT_BYTES);
        let bytes = read_some(handle, from, (to - from) as usize).unwrap_or_default();
        if bytes.len() as u64 != to - from || bytes.last() != Some(&b'\n') {
            return ControlFlow::Continue(());
        }
        let (bytes, is_cut) = behind_zeros(handle, &bytes, from);
        let from = to - bytes.len() as u64;
        let whole =
            if from == 0 && !is_cut { 0 } else { memchr(b'\n', bytes).map_or(bytes.len(), |i| i + 1) };
        let (block, base) = (&bytes[whole..], from + whole as u64);
        let mut unwrapped = Unwrapped::default();
        let most = self.config.max_line_bytes + MASK_MARGIN;
        Joiner::default().unwrap(block, base, 0, most, now.boot_ns, &mut unwrapped);
        let first = unwrapped.messages.len().saturating_sub(count);
        for message in &unwrapped.messages[first..] {
            let piece =
                Piece { range: message.range.clone(), rules: Vec::new(), evidence: true, after: before.2 };
            let taken = taken(message, &unwrapped, block, before);
            if let Some(event) = self.event(file, &piece, taken, false, now) {
                out(event)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Hands on what is open in `file`, cut: no more of it will come, or it has been too long.
    pub(super) fn cut(&mut self, file: &mut Followed, now: Moment, out: Out<'_>) -> ControlFlow<()> {
        // Its last line is the last that was read; two bytes of it are names enough for two messages.
        let Some(at) = file.joiner.low().and_then(|_| file.offset.checked_sub(2)) else {
            return ControlFlow::Continue(());
        };
        let (mut unwrapped, before) = (Unwrapped::default(), (file.low(), file.done(), file.after));
        let (offset, all) = (file.offset, self.config.emit_all && self.recorder_budget.left());
        file.joiner.cut(at, offset, 0, &mut unwrapped);
        // Two messages at most, and they are read no more: a taker who has enough gets them all the same.
        let mut enough = false;
        let mut patient = |event| {
            enough |= out(event).is_break();
            ControlFlow::Continue(())
        };
        // Nothing breaks off here.
        let _ = self.say_messages(file, b"", &unwrapped, before, all, now, &mut patient);
        if enough { ControlFlow::Break(()) } else { self.progress(file, out) }
    }
}

fn taken<'a>(message: &Message, unwrapped: &'a Unwrapped, block: &[u8], mark: (u64, u64, u8)) -> Taken<'a> {
    let dress = message.output.map(|o| (o.as_str(), message.parts, message.written(block)));
    Taken {
        line: &unwrapped.text[message.range.clone()],
        from: message.from,
        at: message.at,
        behind: message.end,
        mark,
        cut: message.cut,
        dress,
    }
}
