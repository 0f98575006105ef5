//! What makes figures move: traffic, refused and dropped packets, a disk with I/O.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::loopfs::LoopFs;

/// Datagrams that a receiver gets who does not read: more than its smallest buffer holds.
const DATAGRAMS: usize = 64;
/// Connections to a listener who accepts none: more than its queue takes.
const CONNECTIONS: usize = 6;

/// Everything that is kept going.
pub(super) struct Stir {
    disk: LoopFs,
    device: String,
    listener: TcpListener,
    _open: Vec<TcpStream>,
}

impl Stir {
    pub(super) fn new() -> Self {
        let disk = LoopFs::create(64 << 20, "ext4", &[]).expect("an ext4 filesystem can be made and mounted");
        let device = device_of(disk.path());
        for address in ["127.0.0.1:0", "[::1]:0"] {
            drop_datagrams(address);
        }
        let open = overflow();
        reset();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let stir = Self { disk, device, listener, _open: open };
        stir.again();
        stir
    }

    /// Moves what moves: some I/O on the disk, a connection that ends in TIME-WAIT.
    pub(super) fn again(&self) {
        let path = self.disk.path().join("written");
        let mut file =
            File::options().create(true).truncate(false).write(true).read(true).open(path).unwrap();
        file.write_all(&[7; 64 << 10]).unwrap();
        file.sync_all().unwrap();
        // SAFETY: the descriptor is open, and the call only drops clean pages of that file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut [0; 4096]).unwrap();
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = self.listener.accept().unwrap();
        drop(client);
        let _ = server.read(&mut [0]);
    }

    /// Where the disk is mounted.
    pub(super) fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// The name of its loop device.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Whether `figure` is of something that this test can speak of: other loop devices and the mounts in temporary
    /// folders belong to other tests, and come, change and go meanwhile; a compressed memory disk of no size is none.
    pub(super) fn is_ours_to_judge(&self, figure: &str) -> bool {
        let own = self.disk.path().to_str().unwrap();
        if figure.starts_with("disks.zram") || figure.starts_with("ticks.") {
            return false;
        }
        if let Some(disk) = figure.strip_prefix("disks.loop") {
            let (number, _) = disk.split_once('.').unwrap_or((disk, ""));
            return self.device == format!("loop{number}");
        }
        match figure.strip_prefix("mounts.") {
            Some(path) => {
                let elsewhere = !Path::new(path).starts_with(std::env::temp_dir()) && !is_of_part(path);
                path.starts_with(own) || elsewhere
            }
            None => true,
        }
    }
}

/// Whether `figure`, without what it begins with, is of a mount that shows a part of another one, as `/run/netns` does: a
/// sample has each filesystem once.
fn is_of_part(figure: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[3] != "/" && figure.strip_prefix(words[4]).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The name of the loop device that is mounted at `path`.
fn device_of(path: &Path) -> String {
    let output = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(path).output().unwrap();
    let source = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    source.strip_prefix("/dev/").unwrap_or_else(|| panic!("{source} is a device")).to_owned()
}

/// Datagrams for somebody whose buffer is full.
fn drop_datagrams(address: &str) {
    let receiver = UdpSocket::bind(address).unwrap();
    let smallest: libc::c_int = 1;
    // SAFETY: the option takes a pointer to an int and its size.
    let set = unsafe {
        libc::setsockopt(
            receiver.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const smallest).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    let sender = UdpSocket::bind(address).unwrap();
    for _ in 0..DATAGRAMS {
        sender.send_to(&[0; 1024], receiver.local_addr().unwrap()).unwrap();
    }
}

/// More connections than a listener who accepts none has room for; those that came through stay open.
fn overflow() -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: the descriptor is open; a second listen(2) only sets the length of the queue.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let address: SocketAddr = listener.local_addr().unwrap();
    (0..CONNECTIONS)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok())
        .collect()
}

/// A connection to nobody, which is answered by a reset.
fn reset() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens there any more");
}
