//! The attacker: a process of its own that does a trick when it is told, or as fast as it can.
//!
//! It is this test's program once more, with a socket as its standard input. A request is 8 bytes (what, trick, locus,
//! 0, round as u32), its answer 16 (what came, 3 × 0, errno as u32, inode as u64).

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::trick::{Came, Locus, Places, Target, Trick};

const ATTACKER: &str = "DOGWATCH_TEST_ATTACKER";
/// Longest that any trick may take.
const PATIENCE: Duration = Duration::from_secs(60);

const BASE: u8 = 1;
const PREPARE: u8 = 2;
const STRIKE: u8 = 3;
const UNDO: u8 = 4;
const RUN: u8 = 5;
const HAS: u8 = 6;

/// The attacker, as the test holds it; ends with it.
pub(super) struct Attacker {
    child: Child,
    socket: UnixStream,
}

impl Attacker {
    /// Starts one in this thread's mount namespace, as `uid`.
    pub(super) fn start(uid: u32) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["act::races::attacker::attacks_when_told", "--exact", "--ignored", "--test-threads=1"])
            .env(ATTACKER, uid.to_string())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// What it attacks from now on; `rounds` of them, each with its victim at `at`.
    pub(super) fn aim(&mut self, places: &Places, rounds: usize, at: &dyn Fn(usize) -> PathBuf) {
        let say = |socket: &mut UnixStream, path: &Path| {
            let bytes = path.as_os_str().as_bytes();
            socket.write_all(&(bytes.len() as u32).to_le_bytes()).unwrap();
            socket.write_all(bytes).unwrap();
        };
        self.send(BASE, 0, 0, rounds);
        say(&mut self.socket, &places.base);
        assert_eq!(self.answer(), Came::Through(0));
        for n in 0..rounds {
            self.send(PREPARE, 0, 0, n);
            say(&mut self.socket, &at(n));
            assert_eq!(self.answer(), Came::Through(0), "round {n} cannot be prepared");
        }
    }

    pub(super) fn strike(&mut self, n: usize, trick: Trick, locus: Locus) -> Came {
        let index = Trick::ALL.iter().position(|t| *t == trick).unwrap();
        self.send(STRIKE, index as u8, u8::from(locus == Locus::Entry), n);
        self.answer()
    }

    pub(super) fn undo(&mut self, n: usize) {
        self.send(UNDO, 0, 0, n);
        assert_eq!(self.answer(), Came::Through(0), "round {n} cannot be undone");
    }

    /// Whether what it opened in round `n` is open in its hands and lies at its name; `false` if that has no name any more.
    pub(super) fn has(&mut self, n: usize) -> bool {
        self.send(HAS, 0, 0, n);
        match self.answer() {
            Came::Through(has) => has == 1,
            other => unreachable!("round {n}: what was opened is neither at its name nor gone: {other:?}"),
        }
    }

    /// Lets it run free on what it aims at, until it is dropped.
    pub(super) fn run_free(&mut self) {
        self.send(RUN, 0, 0, 0);
        assert_eq!(self.answer(), Came::Through(0));
    }

    pub(super) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    fn send(&mut self, what: u8, trick: u8, locus: u8, n: usize) {
        let mut request = [what, trick, locus, 0, 0, 0, 0, 0];
        request[4..].copy_from_slice(&(n as u32).to_le_bytes());
        self.socket.write_all(&request).unwrap();
    }

    fn answer(&mut self) -> Came {
        let mut answer = [0; 16];
        self.socket.read_exact(&mut answer).expect("the attacker answers in time");
        let inode = u64::from_le_bytes(answer[8..].try_into().unwrap());
        match answer[0] {
            0 => Came::Through(inode),
            1 => Came::Waits,
            _ => Came::Not(i32::from_le_bytes(answer[4..8].try_into().unwrap())),
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test by itself: the attacker's process.
#[test]
#[ignore = "started by another test"]
fn attacks_when_told() {
    let Ok(uid) = std::env::var(ATTACKER) else { return };
    let uid: u32 = uid.parse().unwrap();
    if uid != 0 {
        // SAFETY: plain system calls with integers; this process has nothing that depends on who it is.
        let dropped = unsafe {
            libc::setgroups(0, std::ptr::null()) == 0 && libc::setgid(uid) == 0 && libc::setuid(uid) == 0
        };
        assert!(dropped, "{}", io::Error::last_os_error());
    }
    // SAFETY: the standard input is the socket that the test gave, and nobody else here reads it.
    let mut socket = unsafe { UnixStream::from_raw_fd(0) };
    let mut places = Places { base: PathBuf::new() };
    let mut targets: Vec<Target> = Vec::new();
    let mut request = [0; 8];
    while socket.read_exact(&mut request).is_ok() {
        let n = u32::from_le_bytes(request[4..].try_into().unwrap()) as usize;
        let done = |result: io::Result<()>| match result {
            Ok(()) => Came::Through(0),
            Err(e) => Came::Not(e.raw_os_error().unwrap_or(libc::EIO)),
        };
        let came = match request[0] {
            BASE => {
                targets.clear();
                places.base = hear(&mut socket);
                Came::Through(0)
            }
            PREPARE => {
                let at = hear(&mut socket);
                done(Target::new(&places, n, &at).map(|target| targets.push(target)))
            }
            STRIKE => {
                let locus = if request[2] == 1 { Locus::Entry } else { Locus::Name };
                targets[n].strike(&places, Trick::ALL[usize::from(request[1])], locus)
            }
            HAS => match targets[n].has(&places) {
                Ok(has) => Came::Through(has),
                Err(e) => Came::Not(e.raw_os_error().unwrap_or(libc::EIO)),
            },
            UNDO => done(targets[n].undo(&places)),
            _ => {
                socket.write_all(&[0; 16]).unwrap();
                super::free::attack_for_ever(&places);
            }
        };
        let mut answer = [0; 16];
        match came {
            Came::Through(inode) => answer[8..].copy_from_slice(&inode.to_le_bytes()),
            Came::Waits => answer[0] = 1,
            Came::Not(errno) => {
                answer[0] = 2;
                answer[4..8].copy_from_slice(&errno.to_le_bytes());
            }
        }
        socket.write_all(&answer).unwrap();
    }
}

fn hear(socket: &mut UnixStream) -> PathBuf {
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut path = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut path).unwrap();
    std::ffi::OsString::from_vec(path).into()
}
