//! The kernel's ring of messages, by its device or by syslog(2).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::record::{self, Message};
use super::{KernelConfig, Origin, syslog};

/// The longest record that a kernel writes is 8 KiB (`CONSOLE_EXT_LOG_MAX`), 2 KiB in later ones.
const RECORD_BYTES: usize = 16 * 1024;
/// Records in a row that do not fit, and of which the kernel must be standing still.
const MAX_UNFIT: u32 = 16;
/// `/dev/kmsg` (Documentation/admin-guide/devices.txt).
const KMSG_DEVICE: (u32, u32) = (1, 11);

/// What a read gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The next message.
    Message(Message),
    /// Something that is none.
    Malformed,
    /// Messages were overwritten before they were read; nobody knows how many.
    Overwritten,
    /// Nothing more for now.
    Empty,
}

/// Where messages come from.
pub(super) trait Ring: Send {
    /// The next one.
    fn read(&mut self) -> io::Result<Read>;
    /// Back to the oldest message.
    fn rewind(&mut self) -> io::Result<()>;
    /// Waits until there may be a message, `stop` is readable, or `most` is over.
    fn wait(&mut self, stop: BorrowedFd<'_>, most: Option<Duration>) -> io::Result<()>;
    /// Whether messages are numbered without holes, so that a hole is a loss.
    fn numbered(&self) -> bool;
}

/// An open ring, by what it is read, and why not by the better way, where it is not.
pub(super) type Opened = (Box<dyn Ring>, &'static str, Option<String>);

/// Opens what `config` names.
///
/// # Errors
/// In words: why none can be read, and what to do about it.
pub(super) fn open(config: &KernelConfig) -> Result<Opened, String> {
    let mut why = Vec::new();
    if config.origin != Origin::Syslog {
        for path in &config.devices {
            match Device::open(path) {
                Ok(device) => return Ok((Box::new(device), "/dev/kmsg", None)),
                Err(e) => why.push(format!("{}: {e}", path.display())),
            }
        }
    }
    if config.origin != Origin::Kmsg {
        match Text::open(config.poll) {
            Ok(text) => {
                let why = (!why.is_empty()).then(|| why.join("; "));
                return Ok((Box::new(text), "syslog(2)", why));
            }
            Err(e) => why.push(format!("syslog(2): {e}")),
        }
    }
    Err(format!(
        "read the kernel's log ({}); give the agent CAP_SYSLOG and the host's /dev/kmsg, or set kernel.dmesg_restrict=0",
        why.join("; ")
    ))
}

/// `/dev/kmsg`.
struct Device {
    file: File,
    buffer: Vec<u8>,
    unfit: u32,
}

impl Device {
    fn open(path: &Path) -> io::Result<Self> {
        // What stands there is asked before it is opened: containers put other devices in its place.
        let metadata = std::fs::metadata(path)?;
        let device = metadata.rdev();
        let is = (rustix::fs::major(device), rustix::fs::minor(device));
        if !metadata.file_type().is_char_device() || is != KMSG_DEVICE {
            return Err(io::Error::other("is not the kernel's log device (1:11)"));
        }
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
        let mut device = Self { file, buffer: vec![0; RECORD_BYTES], unfit: 0 };
        // Whether it may be read shows only at the first read of some kernels.
        device.read()?;
        device.rewind()?;
        Ok(device)
    }
}

impl Ring for Device {
    fn read(&mut self) -> io::Result<Read> {
        loop {
            let error = match self.file.read(&mut self.buffer) {
                Ok(n) => {
                    self.unfit = 0;
                    return Ok(record::parse(&self.buffer[..n]).map_or(Read::Malformed, Read::Message));
                }
                Err(e) => e,
            };
            return match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => Ok(Read::Empty),
                // The numbers of the messages around it say how many; go on with the oldest that is there.
                Some(libc::EPIPE) => continue,
                Some(libc::EINVAL) if self.unfit < MAX_UNFIT => {
                    self.unfit += 1;
                    Ok(Read::Malformed)
                }
                _ => Err(error),
            };
        }
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0)).map(|_| ())
    }

    fn wait(&mut self, stop: BorrowedFd<'_>, most: Option<Duration>) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.file, PollFlags::IN), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        wait(&mut fds, most)
    }

    fn numbered(&self) -> bool {
        true
    }
}

/// The ring as syslog(2) gives it, asked for again and again.
struct Text {
    every: Duration,
    waiting: VecDeque<Message>,
    /// The newest message that was given out.
    last: Option<u64>,
    /// Whether it may be asked again, and not only after a wait.
    due: bool,
}

impl Text {
    fn open(every: Duration) -> io::Result<Self> {
        let text = syslog::read_all()?;
        if syslog::parse(&text).is_empty() && !text.is_empty() {
            return Err(io::Error::other(
                "its lines have no times, without which they cannot be told apart; set printk.time=1",
            ));
        }
        Ok(Self { every, waiting: VecDeque::new(), last: None, due: true })
    }
}

impl Ring for Text {
    fn read(&mut self) -> io::Result<Read> {
        if self.waiting.is_empty() && std::mem::take(&mut self.due) {
            let messages = syslog::parse(&syslog::read_all()?);
            let overwritten = match (self.last, messages.first()) {
                (Some(last), Some(first)) => first.seq > last,
                _ => false,
            };
            self.waiting = messages.into_iter().filter(|m| self.last.is_none_or(|l| m.seq > l)).collect();
            if overwritten {
                return Ok(Read::Overwritten);
            }
        }
        let Some(message) = self.waiting.pop_front() else { return Ok(Read::Empty) };
        self.last = Some(message.seq);
        Ok(Read::Message(message))
    }

    fn rewind(&mut self) -> io::Result<()> {
        (self.waiting, self.last, self.due) = (VecDeque::new(), None, true);
        Ok(())
    }

    fn wait(&mut self, stop: BorrowedFd<'_>, most: Option<Duration>) -> io::Result<()> {
        self.due = true;
        let most = most.map_or(self.every, |m| m.min(self.every));
        wait(&mut [PollFd::from_borrowed_fd(stop, PollFlags::IN)], Some(most))
    }

    fn numbered(&self) -> bool {
        false
    }
}

fn wait(fds: &mut [PollFd<'_>], most: Option<Duration>) -> io::Result<()> {
    let most = most.and_then(|m| Timespec::try_from(m).ok());
    match poll(fds, most.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &mut dyn Ring) -> Vec<Message> {
        let mut out = Vec::new();
        loop {
            match ring.read().unwrap() {
                Read::Message(m) => out.push(m),
                Read::Empty => return out,
                Read::Malformed => panic!("a real kernel writes what is documented"),
                Read::Overwritten => {}
            }
        }
    }

    #[test]
    fn both_ways_show_the_same_messages() {
        let _alone = super::super::alone_with_the_machine();
        let mut device = Device::open(Path::new("/dev/kmsg")).expect("root may read it");
        let mut text = Text::open(Duration::from_secs(1)).expect("root may read it");
        let (by_device, by_text) = (all(&mut device), all(&mut text));
        assert!(!by_device.is_empty());
        // Others write while this reads, and multi-line messages are several lines of the text.
        let key = |m: &Message| (m.priority, m.at_us);
        let known: std::collections::HashSet<_> = by_text.iter().map(key).collect();
        let oldest = by_text.first().unwrap().at_us;
        let newest = by_text.last().unwrap().at_us;
        let between: Vec<_> = by_device.iter().filter(|m| (oldest..=newest).contains(&m.at_us)).collect();
        let missing = between.iter().filter(|m| !known.contains(&key(m))).count();
        assert!(missing == 0 && !between.is_empty(), "{missing} of {}", between.len());
        assert!(all(&mut text).is_empty(), "asked again only after a wait");
        device.rewind().unwrap();
        assert!(all(&mut device).len() >= by_device.len().min(10));
    }

    #[test]
    fn what_is_not_the_device_is_refused_by_name() {
        let config = KernelConfig {
            origin: Origin::Kmsg,
            devices: vec!["/dev/null".into(), "/nowhere/kmsg".into()],
            ..KernelConfig::default()
        };
        let Err(why) = open(&config) else { panic!("neither is the kernel's log") };
        assert!(
            why.contains("/dev/null: is not the kernel's log device")
                && why.contains("/nowhere/kmsg: No such"),
            "{why}"
        );
        let auto = KernelConfig { origin: Origin::Auto, ..config };
        let (_, name, note) = open(&auto).expect("root may call syslog(2)");
        assert_eq!(name, "syslog(2)");
        assert!(note.is_some_and(|n| n.contains("/dev/null")));
    }
}
