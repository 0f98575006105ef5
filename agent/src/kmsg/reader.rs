//! The thread that reads the ring, and what a restart passes over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{LogLine, Stream};
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};

use super::choose::{Chooser, GAP_NS, Now, Recorded};
use super::record::Message;
use super::ring::{Read, Ring, open};
use super::{Batch, Event, KernelConfig, Resume, SOURCE};
use crate::tail::Judge;

/// Bytes of a message that are kept; no kernel writes more.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// Messages in one batch, at most.
const BATCH_MESSAGES: usize = 512;
/// Messages of a ring that are looked through for what the journal has: more than the largest ring holds.
const MAX_RING_MESSAGES: usize = 4_000_000;
/// How long a full inbox is left alone. Meanwhile the ring is the buffer, and what it overwrites is counted.
const FULL_WAIT: Duration = Duration::from_millis(5);
/// A line of the journal is of this boot, where no checkpoint says so, if its time differs by no more than the clock may
/// have been set meanwhile.
const SAME_LINE_NS: u64 = 60_000_000_000;

/// What became of a batch.
#[derive(Debug)]
pub enum Sent {
    /// It was taken.
    Taken,
    /// There is no room now; the batch comes back.
    Full(Batch),
    /// Nobody is there any more.
    Gone,
}

/// Stops the thread when dropped.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Stop {
    set: AtomicBool,
    bell: OwnedFd,
}

impl Stop {
    fn set(&self) {
        self.set.store(true, Ordering::Relaxed);
        // Fails only where the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }
}

/// Reads on a thread named `kmsg` until the handle is dropped or `send` says that nobody takes batches. Where the log
/// cannot be read, that is an event, and the thread ends.
///
/// # Errors
/// Masks that cannot be built, and those of starting a thread.
pub fn start(
    config: KernelConfig,
    resume: Resume,
    send: impl FnMut(Batch) -> Sent + Send + 'static,
) -> io::Result<Handle> {
    let judge = Judge::new(&config.rules, SOURCE, MAX_LINE_BYTES).map_err(io::Error::other)?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let stop = Arc::new(Stop { set: AtomicBool::new(false), bell });
    let theirs = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name("kmsg".to_owned()).spawn(move || {
        let mut out = Outlet { send, stop: theirs };
        let said = match open(&config) {
            Ok((ring, name, why)) => {
                tracing::info!(from = name, "reading the kernel's log");
                let note = why.map(|w| Event::Note(format!("the kernel's log is read by {name}: {w}")));
                out.say(note);
                follow(&config, judge, &resume, ring, &now, &mut out).map_err(|e| {
                    format!("read the kernel's log on: {name}: {e}; restart the agent once that is mended")
                })
            }
            Err(why) => Err(why),
        };
        if let Err(why) = said {
            out.say(Some(Event::Unable(why)));
        }
    })?;
    Ok(Handle { stop, thread: Some(thread) })
}

fn now() -> Now {
    let t = clock_gettime(ClockId::Monotonic);
    Now { at: clock::now(), monotonic_us: t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1000 }
}

struct Outlet<S> {
    send: S,
    stop: Arc<Stop>,
}

impl<S: FnMut(Batch) -> Sent> Outlet<S> {
    /// Waits for room, but not beyond a stop; false when nothing more is wanted.
    fn give(&mut self, mut batch: Batch) -> bool {
        loop {
            match (self.send)(batch) {
                Sent::Taken => return true,
                Sent::Gone => return false,
                Sent::Full(back) => batch = back,
            }
            if self.stop.is_set() {
                return false;
            }
            std::thread::sleep(FULL_WAIT);
        }
    }

    fn say(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.give(Batch { events: vec![event], mark: None });
        }
    }
}

/// Reads `ring` until stopped.
fn follow<S: FnMut(Batch) -> Sent>(
    config: &KernelConfig,
    mut judge: Judge,
    resume: &Resume,
    mut ring: Box<dyn Ring>,
    clock: &dyn Fn() -> Now,
    out: &mut Outlet<S>,
) -> io::Result<()> {
    let recorded = recorded(&mut judge, resume, &mut *ring, clock())?;
    let mut chooser = Chooser::new(config, judge, ring.numbered(), recorded, clock());
    let mut caught_up = false;
    let mut told = chooser.mark();
    while !out.stop.is_set() {
        let now = clock();
        let mut empty = false;
        for _ in 0..BATCH_MESSAGES {
            match ring.read()? {
                Read::Message(message) => chooser.take(&message, now),
                Read::Malformed => chooser.malformed(),
                Read::Overwritten => chooser.overwritten(now),
                Read::Empty => {
                    empty = true;
                    break;
                }
            }
        }
        if empty && !std::mem::replace(&mut caught_up, true) {
            chooser.caught_up(config.history);
        }
        chooser.say_dropped(now, false);
        let mark = chooser.mark();
        if !chooser.out.is_empty() || mark != told {
            told = mark;
            if !out.give(Batch { events: std::mem::take(&mut chooser.out), mark }) {
                return Ok(());
            }
        }
        if empty {
            ring.wait(out.stop.bell.as_fd(), chooser.owes().then_some(Duration::from_nanos(GAP_NS)))?;
        }
    }
    chooser.say_dropped(clock(), true);
    if !chooser.out.is_empty() {
        let mark = chooser.mark();
        out.give(Batch { events: std::mem::take(&mut chooser.out), mark });
    }
    Ok(())
}

/// What of this boot is recorded: by the checkpoint, and by the newest lines of the journal where the ring holds the
/// same line under the same number. Leaves `ring` at its oldest message.
fn recorded(judge: &mut Judge, resume: &Resume, ring: &mut dyn Ring, now: Now) -> io::Result<Recorded> {
    let checkpoint = resume.checkpoint.filter(|c| c.boot_id == resume.boot_id);
    let mut recorded = Recorded {
        floor: checkpoint.map(|c| c.mark.next),
        recorder_to: None,
        evidence_to: checkpoint.and_then(|c| c.mark.evidence_to),
    };
    let lines: Vec<_> = resume.journaled.iter().filter(|(_, line)| line.source == SOURCE).collect();
    let mut oldest = None;
    for _ in 0..MAX_RING_MESSAGES {
        match ring.read()? {
            Read::Message(message) => {
                let oldest = *oldest.get_or_insert(message.seq);
                let same = |line: &LogLine| is_same(line, &message, judge, checkpoint.is_some(), now);
                for stream in newest(&lines, &message, same) {
                    match stream {
                        Stream::Evidence => {
                            recorded.evidence_to = recorded.evidence_to.max(Some(message.seq));
                        }
                        _ => recorded.recorder_to = Some(message.seq),
                    }
                    // The journal says that this boot was read before, though no checkpoint does.
                    recorded.floor = recorded.floor.or(Some(oldest));
                }
            }
            Read::Empty => break,
            Read::Malformed | Read::Overwritten => {}
        }
    }
    ring.rewind()?;
    Ok(recorded)
}

fn newest(
    lines: &[&(Stream, LogLine)],
    message: &Message,
    mut same: impl FnMut(&LogLine) -> bool,
) -> Vec<Stream> {
    lines.iter().filter(|(_, l)| l.offset == message.seq && same(l)).map(|(stream, _)| *stream).collect()
}

fn is_same(line: &LogLine, message: &Message, judge: &mut Judge, same_boot: bool, now: Now) -> bool {
    let near = line.written_wall_ns.is_some_and(|w| w.abs_diff(now.written(message.at_us)) <= SAME_LINE_NS);
    (same_boot || near) && line.line == judge.masked(&message.text).0
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
