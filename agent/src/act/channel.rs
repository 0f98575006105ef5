//! Messages between the agent and its executor, over a SOCK_SEQPACKET pair.
//!
//! A message is a chain of packets; the first begins with the message's length (u32, little-endian). Packets keep their
//! boundaries, so that a peer that breaks off in the middle cannot shift what follows.
//!
//! Two threads may send on one end; their messages do not mix.
//!
//! Invariants: a message is at most [`MAX_MESSAGE_BYTES`]; a longer claim is refused before anything is allocated; every
//! wait has a deadline or ends when the peer closes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// Largest message, either way. A thousand objects with paths of 4 KiB would be 4.5 MiB; plans are far smaller.
pub(super) const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Largest packet: well under the default socket buffer of 208 KiB.
const MAX_PACKET_BYTES: usize = 32 << 10;

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    /// Held from the first packet of a message to its last.
    sending: Mutex<()>,
}

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The peer closed its end.
    #[error("the other end closed")]
    Closed,
    /// The deadline passed.
    #[error("no answer in time")]
    Late,
    /// The peer broke the framing.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

impl Channel {
    /// This end of a pair, and the other for a child.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: ours, sending: Mutex::default() }, theirs))
    }

    /// An end that was handed over; made non-blocking.
    pub(super) fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { socket, sending: Mutex::default() })
    }

    /// Sends one message; `deadline` bounds the wait for room, `None` waits as long as the peer lives.
    pub(super) fn send(&self, message: &[u8], deadline: Option<Instant>) -> Result<(), ChannelError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(ChannelError::Malformed(format!("{} bytes are over the limit", message.len())));
        }
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let (first, rest) = message.split_at(message.len().min(MAX_PACKET_BYTES - 4));
        let mut packet = Vec::with_capacity(first.len() + 4);
        packet.extend_from_slice(&length.to_le_bytes());
        packet.extend_from_slice(first);
        self.send_packet(&packet, deadline)?;
        rest.chunks(MAX_PACKET_BYTES).try_for_each(|chunk| self.send_packet(chunk, deadline))
    }

    /// Receives one message.
    pub(super) fn receive(&self, deadline: Option<Instant>) -> Result<Vec<u8>, ChannelError> {
        let mut packet = vec![0; MAX_PACKET_BYTES];
        let got = self.receive_packet(&mut packet, deadline)?;
        let Some((length, first)) = packet[..got].split_first_chunk::<4>() else {
            return Err(ChannelError::Malformed("a message without its length".to_owned()));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(ChannelError::Malformed(format!("{length} bytes are over the limit")));
        }
        let mut message = first.to_vec();
        while message.len() < length {
            let got = self.receive_packet(&mut packet, deadline)?;
            message.extend_from_slice(&packet[..got]);
        }
        if message.len() > length {
            return Err(ChannelError::Malformed("a message longer than its length".to_owned()));
        }
        Ok(message)
    }

    /// Waits until a message begins to come, or the peer is gone; [`ChannelError::Late`] after `deadline`.
    pub(super) fn wait_for_message(&self, deadline: Instant) -> Result<(), ChannelError> {
        self.wait(PollFlags::IN, Some(deadline))
    }

    /// Whether the peer has closed its end; never waits.
    pub(super) fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Whether a message has begun to come; never waits.
    pub(super) fn has_message(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::IN)
    }

    /// Ends the channel for both sides; whoever waits on it learns that it is closed.
    pub(super) fn hang_up(&self) {
        // One that is closed already needs no end.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    fn send_packet(&self, packet: &[u8], deadline: Option<Instant>) -> Result<(), ChannelError> {
        loop {
            match send(&self.socket, packet, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive_packet(&self, packet: &mut [u8], deadline: Option<Instant>) -> Result<usize, ChannelError> {
        loop {
            match recv(&self.socket, &mut *packet, RecvFlags::TRUNC) {
                Ok((_, 0)) => return Err(ChannelError::Closed),
                Ok((_, n)) if n > packet.len() => {
                    return Err(ChannelError::Malformed(format!("a packet of {n} bytes")));
                }
                Ok((_, n)) => return Ok(n),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<(), ChannelError> {
        let left = match deadline {
            None => None,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                None => return Err(ChannelError::Late),
                Some(left) => Some(left),
            },
        };
        let left = left.and_then(|l| Timespec::try_from(l).ok());
        let mut fds = [PollFd::new(&self.socket, events)];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => Err(ChannelError::Late),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(20))
    }

    #[test]
    fn messages_of_every_size_arrive_whole_and_in_order() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_socket(theirs).unwrap();
        let sizes = [0, 1, MAX_PACKET_BYTES - 4, MAX_PACKET_BYTES - 3, MAX_PACKET_BYTES, 3_000_000];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for size in sizes {
                    ours.send(&vec![size as u8; size], soon()).unwrap();
                }
            });
            for size in sizes {
                assert_eq!(theirs.receive(soon()).unwrap(), vec![size as u8; size]);
            }
        });
        assert!(!theirs.is_closed());
        drop(ours);
        // A process that another test is just starting may hold a copy until its exec.
        while !theirs.is_closed() {
            std::thread::yield_now();
        }
        assert!(matches!(theirs.receive(soon()), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_claim_over_the_limit_and_silence_end_in_errors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_socket(theirs).unwrap();
        ours.send_packet(&u32::MAX.to_le_bytes(), soon()).unwrap();
        assert!(matches!(theirs.receive(soon()), Err(ChannelError::Malformed(_))));
        assert!(matches!(theirs.receive(Some(Instant::now())), Err(ChannelError::Late)));
        assert!(ours.send(&vec![0; MAX_MESSAGE_BYTES + 1], soon()).is_err());
    }
}
