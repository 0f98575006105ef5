//! The lines that a container runtime writes for a pod, and the messages in them.
//!
//! The CRI log format (kubernetes `pkg/kubelet/kuberuntime/logs`, KEP 1602): `<RFC 3339 time> stdout|stderr <tags> text`,
//! tags parted by colons, of which the first is `F` for the last (or only) part of a message and `P` for one that goes
//! on. Runtimes part what is longer than 16 KiB or so; the parts of both outputs stand between each other.
//!
//! A block of lines is taken apart into one of messages, which rules then see: without prefixes, joined, each ended by
//! a newline. A message stands at the offset of the line that completes it, so that offsets rise in the order in which
//! messages are handed on, whatever stood between their parts.
//!
//! Limits: of a message some more bytes are kept than rules see and records hold. One that is spread over more than
//! [`MAX_SPAN`] bytes of the file is handed on cut, and what follows begins a new one: reading begins at its first part
//! after a restart, so that its spread must be bounded.

use std::ops::Range;

use memchr::memchr;

/// Bytes of a file over which a message may be spread.
const MAX_SPAN: u64 = 1024 * 1024;
/// Longest time of a line: nanoseconds and an offset from UTC.
const MAX_TIME: usize = 35;
/// Shortest: `2016-10-06T00:17:09Z`.
const MIN_TIME: usize = 20;
/// Bytes that are kept for a message in parts before anything is known of its length.
const FIRST_BYTES: usize = 4096;

/// Which output of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// `stdout`.
    Out,
    /// `stderr`.
    Err,
}

impl Output {
    /// As the runtime writes it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        }
    }
}

/// A line's parts; ranges into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    time: usize,
    output: Output,
    whole: bool,
    text: usize,
}

/// Takes a line apart; `None` if it is not in the format.
fn split(line: &[u8]) -> Option<Split> {
    if line.len() < MIN_TIME || line[4] != b'-' || line[10] != b'T' || line[13] != b':' {
        return None;
    }
    let window = &line[MIN_TIME - 1..line.len().min(MAX_TIME + 1)];
    let time = MIN_TIME - 1 + memchr(b' ', window)?;
    let rest = &line[time + 1..];
    let output = match rest.get(..7)? {
        b"stdout " => Output::Out,
        b"stderr " => Output::Err,
        _ => return None,
    };
    let tags = &rest[7..];
    let (whole, more) = match tags.first()? {
        b'F' => (true, &tags[1..]),
        b'P' => (false, &tags[1..]),
        _ => return None,
    };
    let behind = match more.first() {
        // An empty message of a runtime that writes no space then.
        None => 0,
        Some(b' ') => 1,
        Some(b':') => memchr(b' ', more).map_or(more.len(), |i| i + 1),
        Some(_) => return None,
    };
    Some(Split { time, output, whole, text: line.len() - more.len() + behind })
}

/// When a line says that it was written, wall ns.
fn written(time: &[u8]) -> Option<i64> {
    let stamp: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
    i64::try_from(stamp.as_nanosecond()).ok()
}

/// When the line `line` says that it was written, if it is in the format.
pub(super) fn written_of(line: &[u8]) -> Option<i64> {
    split(line).and_then(|s| written(&line[..s.time]))
}

/// A message of a block of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Where it stands in the block of messages, its newline excluded.
    pub(super) range: Range<usize>,
    /// Offset in the file of the line that completed it.
    pub(super) at: u64,
    /// From where it would have to be read again, and whatever else was open then.
    pub(super) from: u64,
    /// Offset behind it.
    pub(super) end: u64,
    /// From where reading must go on behind it, so that no open message loses a part.
    pub(super) low: u64,
    /// Which output it came from; `None` for a line that is not in the format.
    pub(super) output: Option<Output>,
    /// Lines that it was joined from; 0 for one that is not in the format.
    pub(super) parts: u32,
    /// Whether it was cut though it goes on.
    pub(super) cut: bool,
    time: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Time {
    /// Of this range of the block of lines.
    At(Range<usize>),
    Known(Option<i64>),
}

impl Message {
    /// No message: reading stands at `low`, and what is complete before `end` is done.
    pub(super) fn none(low: u64, end: u64) -> Self {
        let time = Time::Known(None);
        Self { range: 0..0, at: low, from: low, end, low, output: None, parts: 0, cut: false, time }
    }

    /// When it says that it was completed; `block` is the block of lines that it came from.
    pub(super) fn written(&self, block: &[u8]) -> Option<i64> {
        match &self.time {
            Time::At(range) => written(block.get(range.clone())?),
            Time::Known(known) => *known,
        }
    }
}

/// A message whose last part was not read yet.
#[derive(Debug)]
struct Open {
    first: u64,
    text: Vec<u8>,
    parts: u32,
    written: Option<i64>,
    since_ns: u64,
}

/// Messages, in the form in which rules see them.
#[derive(Debug, Default)]
pub(super) struct Unwrapped {
    /// The messages, each with a newline.
    pub(super) text: Vec<u8>,
    /// Where each came from, in order.
    pub(super) messages: Vec<Message>,
}

impl Unwrapped {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.messages.clear();
    }

    /// Appends a text; where it stands.
    fn push(&mut self, first: &[u8], rest: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(first);
        self.text.extend_from_slice(rest);
        let end = self.text.len();
        self.text.push(b'\n');
        start..end
    }
}

/// Joins the messages of one file.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: [Option<Open>; 2],
}

impl Joiner {
    /// The first part of the oldest open message.
    pub(super) fn low(&self) -> Option<u64> {
        self.open.iter().flatten().map(|o| o.first).min()
    }

    /// Whether an open message got no part since `now_ns - age_ns`.
    pub(super) fn is_stale(&self, now_ns: u64, age_ns: u64) -> bool {
        self.open.iter().flatten().any(|o| now_ns.saturating_sub(o.since_ns) >= age_ns)
    }

    /// Forgets what is open: it will be read again.
    pub(super) fn clear(&mut self) {
        self.open = [None, None];
    }

    /// Takes the lines of `block`, which begins at the start of a line at the offset `base`, apart. Messages completed
    /// before `done` were handed on earlier and are left out. Of a message in parts `most` bytes are kept.
    pub(super) fn unwrap(
        &mut self,
        block: &[u8],
        base: u64,
        done: u64,
        most: usize,
        now_ns: u64,
        out: &mut Unwrapped,
    ) {
        let mut start = 0;
        while start < block.len() {
            let end = memchr(b'\n', &block[start..]).map_or(block.len(), |i| start + i);
            let line = &block[start..end];
            let (at, behind) = (base + start as u64, base + (end + 1).min(block.len()) as u64);
            match split(line) {
                Some(s) if s.whole => {
                    let from = self.low().unwrap_or(at);
                    let slot = &mut self.open[s.output as usize];
                    let before = slot.take();
                    if at >= done {
                        let (earlier, parts) =
                            before.as_ref().map_or((&[][..], 1), |o| (&o.text[..], o.parts + 1));
                        let room =
                            if before.is_some() { most.saturating_sub(earlier.len()) } else { line.len() };
                        let text = &line[s.text..];
                        let range = out.push(earlier, &text[..text.len().min(room)]);
                        let low = self.low().unwrap_or(behind);
                        let time = Time::At(start..start + s.time);
                        let output = Some(s.output);
                        out.messages.push(Message {
                            range,
                            at,
                            from,
                            end: behind,
                            low,
                            output,
                            parts,
                            cut: false,
                            time,
                        });
                    }
                }
                Some(s) => {
                    let written = written(&line[..s.time]);
                    let open = self.open[s.output as usize].get_or_insert_with(|| Open {
                        first: at,
                        text: Vec::with_capacity(FIRST_BYTES.min(most)),
                        parts: 0,
                        written,
                        since_ns: now_ns,
                    });
                    let room = most.saturating_sub(open.text.len());
                    let text = &line[s.text..];
                    open.text.extend_from_slice(&text[..text.len().min(room)]);
                    open.parts = open.parts.saturating_add(1);
                    (open.written, open.since_ns) = (written, now_ns);
                    if behind - open.first > MAX_SPAN {
                        self.cut(at, behind, done, out);
                    }
                }
                None if at >= done => {
                    let from = self.low().unwrap_or(at);
                    let range = out.push(line, b"");
                    let low = self.low().unwrap_or(behind);
                    let time = Time::Known(None);
                    out.messages.push(Message {
                        range,
                        at,
                        from,
                        end: behind,
                        low,
                        output: None,
                        parts: 0,
                        cut: false,
                        time,
                    });
                }
                None => {}
            }
            start = end + 1;
        }
    }

    /// Gives out what is open, cut, as completed by the line at `at..behind`. All of it, for after a restart reading
    /// would begin before what was given out otherwise.
    pub(super) fn cut(&mut self, at: u64, behind: u64, done: u64, out: &mut Unwrapped) {
        let from = self.low().unwrap_or(at);
        for (i, output) in [Output::Out, Output::Err].into_iter().enumerate() {
            let Some(open) = self.open[i].take() else { continue };
            if at < done {
                continue;
            }
            let range = out.push(&open.text, b"");
            out.messages.push(Message {
                range,
                // Two at most, and a line is longer than that.
                at: at + i as u64,
                from,
                end: behind,
                low: behind,
                output: Some(output),
                parts: open.parts,
                cut: true,
                time: Time::Known(open.written),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: &str) -> Option<(Output, bool, &str)> {
        split(line.as_bytes()).map(|s| (s.output, s.whole, &line[s.text..]))
    }

    #[test]
    fn lines_of_the_format_are_told_from_others() {
        for (line, want) in [
            ("2016-10-06T00:17:09.669794202Z stdout F message", Some((Output::Out, true, "message"))),
            ("2016-10-06T00:17:09.66Z stderr P  two ", Some((Output::Err, false, " two "))),
            ("2016-10-06T00:17:09Z stderr F ", Some((Output::Err, true, ""))),
            ("2016-10-06T00:17:09Z stderr F", Some((Output::Err, true, ""))),
            (
                "2016-10-06T00:17:09.669794202+02:00 stdout P:TAG:b message",
                Some((Output::Out, false, "message")),
            ),
            ("2016-10-06T00:17:09.669794202Z stdout F:x", Some((Output::Out, true, ""))),
            ("2016-10-06T00:17:09.669794202Z stdout X message", None),
            ("2016-10-06T00:17:09.669794202Z stdin F message", None),
            ("2016-10-06T00:17:09.669794202Z stdout FF message", None),
            ("2016-10-06T00:17:09.669794202Z stdout ", None),
            (
                "{\"log\":\"docker writes this\\n\",\"stream\":\"stdout\",\"time\":\"2016-10-06T00:17:09Z\"}",
                None,
            ),
            ("2016-10-06T00:17:09.6697942020000000000000000Z stdout F x", None),
            ("", None),
        ] {
            assert_eq!(taken(line), want, "{line}");
        }
        assert_eq!(written_of(b"2016-10-06T00:17:09.669794202Z stdout F x"), Some(1_475_713_029_669_794_202));
        assert_eq!(written_of(b"2016-10-06T02:17:09.5+02:00 stdout F x"), Some(1_475_713_029_500_000_000));
        assert_eq!(written_of(b"2016-99-06T02:17:09.5+02:00 stdout F x"), None);
    }

    #[test]
    fn parts_are_joined_for_each_output_and_what_is_malformed_stays() {
        let t = "2016-10-06T00:17:09.1Z";
        let block = format!(
            "{t} stdout P a\n{t} stderr P x\n{t} stdout P b\nraw\n{t} stderr F y\n{t} stdout F c\n{t} stdout F whole\n"
        );
        let (mut joiner, mut out) = (Joiner::default(), Unwrapped::default());
        joiner.unwrap(block.as_bytes(), 1000, 0, 4096, 0, &mut out);
        assert_eq!(String::from_utf8_lossy(&out.text), "raw\nxy\nabc\nwhole\n");
        let parts: Vec<u32> = out.messages.iter().map(|m| m.parts).collect();
        assert_eq!(parts, [0, 2, 3, 1]);
        // While stdout is open, reading would begin at its first part.
        let lows: Vec<u64> = out.messages.iter().map(|m| m.low).collect();
        let c = 1000 + block.find("F c").unwrap() as u64 + 4;
        assert_eq!(lows[..3], [1000, 1000, c]);
        assert!(out.messages.windows(2).all(|w| w[0].at < w[1].at));
        assert_eq!(out.messages[2].written(block.as_bytes()), written(t.as_bytes()));
        assert_eq!(joiner.low(), None);
    }

    #[test]
    fn what_never_ends_is_cut_and_bounded() {
        let line = format!("2016-10-06T00:17:09.1Z stdout P {}\n", "x".repeat(1000));
        let block = line.repeat(3000);
        let (mut joiner, mut out) = (Joiner::default(), Unwrapped::default());
        joiner.unwrap(block.as_bytes(), 0, 0, 2000, 0, &mut out);
        assert!(out.messages.len() == 2 && out.messages.iter().all(|m| m.cut && m.range.len() == 2000));
        assert!(joiner.low().is_some_and(|l| block.len() as u64 - l <= MAX_SPAN));
    }
}
