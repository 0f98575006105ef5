//! `/proc/self/mountinfo` (proc(5)), and which of its mounts are filesystems to watch.
//!
//! What is left out, and why:
//!
//! - *pseudo filesystems* ([`PSEUDO`]): they hold no data, or no figures (`ramfs` has no limit that could be told).
//!   `devtmpfs` is kept: `df` shows it, and it fills when someone writes to a mistyped `/dev/name`. `tmpfs` is kept:
//!   a full `/run` or `/dev/shm` breaks a node. Any other filesystem of no blocks is left out when it is read.
//! - *images* (`squashfs`, `erofs`, `cramfs`): full by construction, never written.
//! - *views of another filesystem*: `overlay` whose upper (or first lower) layer lies on a mount that is listed, which
//!   is every container's root. Its figures are that filesystem's. An overlay at `/` stays.
//! - *API volumes of pods* (tmpfs below `/kubernetes.io~projected|secret|configmap|downward-api/`): only the kubelet
//!   writes them, there are several a pod. Memory-backed `emptyDir`s and `/dev/shm`s of pods stay.
//! - *bind duplicates*: of the mounts of one `st_dev`, the one whose root is `/` and whose path is shortest is kept;
//!   one with another root only where there is none such.
//! - *hidden mounts*: those under a later mount, at the same path or above it. Their paths lead elsewhere.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::procfile::number;

/// Mounts read of one table; a node with more has a leak, and the first ones are the oldest.
pub(super) const MAX_MOUNTS: usize = 10_000;

/// Filesystem types that hold no data.
const PSEUDO: [&[u8]; 33] = [
    b"autofs",
    b"binder",
    b"binfmt_misc",
    b"bpf",
    b"cgroup",
    b"cgroup2",
    b"configfs",
    b"cpuset",
    b"debugfs",
    b"devpts",
    b"efivarfs",
    b"functionfs",
    b"fuse.gvfsd-fuse",
    b"fuse.lxcfs",
    b"fuse.portal",
    b"fusectl",
    b"hugetlbfs",
    b"mqueue",
    b"nfsd",
    b"nsfs",
    b"proc",
    b"pstore",
    b"ramfs",
    b"resctrl",
    b"rootfs",
    b"rpc_pipefs",
    b"securityfs",
    b"selinuxfs",
    b"smackfs",
    b"sysfs",
    b"tracefs",
    b"usbfs",
    b"xenfs",
];

/// Types that are images: read-only and full by construction.
const IMAGES: [&[u8]; 3] = [b"squashfs", b"erofs", b"cramfs"];

/// Types whose figures come from a server that may not answer. `virtiofs` and `fuseblk` have one on this machine.
const REMOTE: [&[u8]; 24] = [
    b"9p",
    b"acfs",
    b"afs",
    b"beegfs",
    b"ceph",
    b"cifs",
    b"coda",
    b"fhgfs",
    b"fuse",
    b"fuseblk",
    b"gfs2",
    b"glusterfs",
    b"gpfs",
    b"lustre",
    b"ncpfs",
    b"nfs",
    b"nfs4",
    b"ocfs2",
    b"orangefs",
    b"panfs",
    b"pvfs2",
    b"smb3",
    b"smbfs",
    b"virtiofs",
];

/// One line of the table, escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) id: u32,
    pub(crate) parent: u32,
    pub(crate) dev_major: u32,
    pub(crate) dev_minor: u32,
    /// Which directory of the filesystem is mounted.
    pub(crate) root: Cow<'a, [u8]>,
    pub(crate) path: Cow<'a, [u8]>,
    pub(crate) fs: Cow<'a, [u8]>,
    pub(crate) source: Cow<'a, [u8]>,
    /// Options of the mount.
    mount_options: &'a [u8],
    /// Options of the superblock, escaped as they are: only known ones are looked for.
    super_options: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Where an overlay keeps what is written to it; `None`: it is none, or read-only. Of a folder with a comma or a colon
    /// in its name, which overlay escapes in its own way, `None` too.
    pub(crate) fn upper_folder(&self) -> Option<Cow<'a, [u8]>> {
        let options = self.super_options.split(|&b| b == b',');
        let upper = options.filter_map(|o| o.strip_prefix(b"upperdir=")).next()?;
        let upper = unescape(upper);
        (&*self.fs == b"overlay" && !upper.contains(&b'\\')).then_some(upper)
    }

    /// Where an overlay's layers and its working folder lie, as whoever mounted it named them: some from a folder that
    /// nobody knows any more (containerd's and Docker's, where the line would be too long). None of what is no overlay.
    pub(crate) fn layers(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        if &*self.fs != b"overlay" {
            return all;
        }
        for option in self.super_options.split(|&b| b == b',') {
            let mut parts = option.splitn(2, |&b| b == b'=');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
            match name {
                b"lowerdir" => all.extend(overlay_paths(&unescape(value), true)),
                b"upperdir" | b"workdir" => all.extend(overlay_paths(&unescape(value), false)),
                // One each, as it is (Linux 6.8).
                b"lowerdir+" | b"datadir+" => all.push(unescape(value).into_owned()),
                _ => {}
            }
        }
        all.retain(|path| !path.is_empty());
        all
    }

    /// Whether its figures may be long in coming.
    pub(crate) fn is_remote(&self) -> bool {
        self.fs.starts_with(b"fuse.") || REMOTE.contains(&&*self.fs)
    }

    /// Whether the filesystem stopped writing after an error. ext4 since 6.12 says so here and not in `ST_RDONLY`.
    pub(super) fn is_emergency_read_only(&self) -> bool {
        self.super_option(b"emergency_ro").is_some()
            || (self.fs.starts_with(b"ext") && self.super_option(b"shutdown").is_some())
    }

    /// Whether mount or superblock are read-only, as the table says it.
    pub(crate) fn is_read_only(&self) -> bool {
        let ro = |options: &[u8]| options.split(|&b| b == b',').any(|option| option == b"ro");
        ro(self.mount_options) || ro(self.super_options)
    }

    /// The value of superblock option `name`; empty for one without a value.
    fn super_option(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.super_options.split(|&b| b == b',').find_map(|option| match option.strip_prefix(name)? {
            [] => Some(&[][..]),
            [b'=', value @ ..] => Some(value),
            _ => None,
        })
    }

    fn is_data(&self) -> bool {
        !PSEUDO.contains(&&*self.fs) && !IMAGES.contains(&&*self.fs) && !self.is_api_volume()
    }

    fn is_api_volume(&self) -> bool {
        const VOLUMES: [&[u8]; 4] = [
            b"/kubernetes.io~projected/",
            b"/kubernetes.io~secret/",
            b"/kubernetes.io~configmap/",
            b"/kubernetes.io~downward-api/",
        ];
        &*self.fs == b"tmpfs" && VOLUMES.iter().any(|v| self.path.windows(v.len()).any(|w| w == *v))
    }
}

/// A table as read.
pub(crate) struct Table<'a> {
    /// Its mounts, oldest first.
    pub(crate) entries: Vec<Entry<'a>>,
    /// Lines that could not be understood.
    pub(super) malformed: usize,
    /// Lines beyond [`MAX_MOUNTS`].
    pub(super) beyond: usize,
}

impl<'a> Table<'a> {
    /// Why it does not tell of every mount, or `None`.
    pub(crate) fn lacks(&self) -> Option<String> {
        match (self.beyond, self.malformed) {
            (0, 0) => None,
            (0, lines) => Some(format!("{lines} lines of the table of mounts are not understood")),
            _ => Some(format!("the table of mounts is longer than is read of it ({MAX_MOUNTS} lines)")),
        }
    }

    /// The mount that `path` (absolute, without links) is on, as the kernel comes to it: from the process's root mount
    /// to what is mounted on it, and so on, so that a mount that a later one hides is none. `None` where the table does
    /// not tell.
    pub(crate) fn mount_of(&self, path: &[u8]) -> Option<&Entry<'a>> {
        let known = |id: u32| self.entries.iter().any(|e| e.id == id);
        let mut mount =
            self.entries.iter().find(|e| &*e.path == b"/" && (e.parent == e.id || !known(e.parent)))?;
        // A mount is on another one that is older; a table that says otherwise must not keep us here.
        for _ in 0..self.entries.len() {
            let on = |e: &&Entry<'_>| e.parent == mount.id && e.id != mount.id && is_beneath(path, &e.path);
            let Some(next) = self.entries.iter().filter(on).min_by_key(|e| e.path.len()) else { break };
            mount = next;
        }
        Some(mount)
    }
}

/// Whether `path` is `place` or lies in it.
fn is_beneath(path: &[u8], place: &[u8]) -> bool {
    place == b"/" || path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Parses the text of mountinfo. A last line without a newline (a table cut at its bound) counts as beyond.
pub(crate) fn parse(text: &[u8]) -> Table<'_> {
    let mut table = Table { entries: Vec::new(), malformed: 0, beyond: 0 };
    for line in text.split_inclusive(|&b| b == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            table.beyond += 1;
            continue;
        };
        if table.entries.len() >= MAX_MOUNTS {
            table.beyond += 1;
            continue;
        }
        match parse_line(line) {
            Some(entry) => table.entries.push(entry),
            None => table.malformed += 1,
        }
    }
    table
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Entry<'_>> {
    // Blanks inside fields are escaped, so a single blank always separates; the source may be empty.
    let mut fields = line.split(|&b| b == b' ');
    let id = number32(fields.next()?)?;
    let parent = number32(fields.next()?)?;
    let mut dev = fields.next()?.splitn(2, |&b| b == b':');
    let (dev_major, dev_minor) = (number32(dev.next()?)?, number32(dev.next()?)?);
    let root = unescape(fields.next()?);
    let path = unescape(fields.next()?);
    let mount_options = fields.next()?;
    // Any number of optional fields up to a lone hyphen.
    fields.find(|f| *f == b"-")?;
    let fs = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let super_options = fields.next().unwrap_or_default();
    path.starts_with(b"/").then_some(Entry {
        id,
        parent,
        dev_major,
        dev_minor,
        root,
        path,
        fs,
        source,
        mount_options,
        super_options,
    })
}

/// The paths in an overlay's option, in which it escapes `:` and `\` by a `\` before them (its documentation, "Multiple lower
/// layers"); several of them where it is a list.
fn overlay_paths(text: &[u8], is_list: bool) -> Vec<Vec<u8>> {
    let (mut all, mut path, mut bytes) = (Vec::new(), Vec::new(), text.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => path.extend(bytes.next()),
            b':' if is_list => all.push(std::mem::take(&mut path)),
            other => path.push(*other),
        }
    }
    all.push(path);
    all
}

fn number32(text: &[u8]) -> Option<u32> {
    number(text).and_then(|n| u32::try_from(n).ok())
}

/// Undoes `\ooo`, the kernel's escapes for blank, tab, newline, backslash and `#`. Other backslashes stay.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match &text[at..] {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            [byte, ..] => {
                out.push(*byte);
                at += 1;
            }
            [] => break,
        }
    }
    Cow::Owned(out)
}

/// The mounts to watch, in the table's order.
pub(crate) fn select<'t, 'a>(entries: &'t [Entry<'a>]) -> Vec<&'t Entry<'a>> {
    let visible = Visibility::new(entries);
    let shown: Vec<&Entry<'_>> = entries.iter().filter(|e| visible.reaches(e)).collect();
    let data: Vec<&Entry<'_>> = shown.iter().copied().filter(|e| e.is_data()).collect();
    // What a path lies on is asked of all visible mounts, so that a layer on something unlisted is not a view.
    let at: HashMap<&[u8], &Entry<'_>> = shown.iter().map(|e| (&*e.path, *e)).collect();
    let listed = |e: &Entry<'_>| &*e.path == b"/" || !is_view(e, &at);
    let mut best: HashMap<(u32, u32), &Entry<'_>> = HashMap::new();
    for entry in data.iter().copied().filter(|e| listed(e)) {
        let rank = |e: &Entry<'_>| (&*e.root != b"/", e.path.len());
        let kept = best.entry((entry.dev_major, entry.dev_minor)).or_insert(entry);
        if rank(entry) < rank(kept) {
            *kept = entry;
        }
    }
    let kept: HashSet<u32> = best.values().map(|e| e.id).collect();
    data.into_iter().filter(|e| kept.contains(&e.id)).collect()
}

/// Whether `entry` is an overlay whose figures are those of another mount in the table.
fn is_view(entry: &Entry<'_>, at: &HashMap<&[u8], &Entry<'_>>) -> bool {
    if &*entry.fs != b"overlay" {
        return false;
    }
    let layer = entry.super_option(b"upperdir").or_else(|| {
        entry.super_option(b"lowerdir").and_then(|dirs| dirs.split(|&b| b == b':').find(|d| !d.is_empty()))
    });
    let Some(layer) = layer.map(unescape).filter(|l| l.starts_with(b"/")) else { return false };
    let mut beneath: &[u8] = &layer;
    loop {
        if let Some(under) = at.get(beneath) {
            return &*under.fs != b"overlay" && under.is_data();
        }
        match beneath.iter().rposition(|&b| b == b'/') {
            Some(0) if beneath.len() > 1 => beneath = b"/",
            Some(slash) if slash > 0 => beneath = &beneath[..slash],
            _ => return false,
        }
    }
}

/// Follows paths through the tree of mounts as the kernel does.
struct Visibility<'t> {
    /// (parent, where on it) → what is mounted there.
    children: HashMap<(u32, &'t [u8]), u32>,
}

impl<'t> Visibility<'t> {
    /// What stands for the parents of the topmost mounts, which are outside of the table.
    const OUTSIDE: u32 = u32::MAX;

    fn new(entries: &'t [Entry<'_>]) -> Self {
        let ids: HashSet<u32> = entries.iter().map(|e| e.id).collect();
        let children = entries
            .iter()
            .map(|e| {
                let inside = e.parent != e.id && ids.contains(&e.parent);
                ((if inside { e.parent } else { Self::OUTSIDE }, &*e.path), e.id)
            })
            .collect();
        Self { children }
    }

    /// Whether the entry's path leads to the entry.
    fn reaches(&self, entry: &Entry<'_>) -> bool {
        let path = &*entry.path;
        let mut here = self.cross(Self::OUTSIDE, b"/");
        if path != b"/" {
            let ends = path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/').map(|(i, _)| i);
            for end in ends.chain([path.len()]) {
                here = self.cross(here, &path[..end]);
            }
        }
        here == entry.id
    }

    /// The topmost mount at `path` when one comes from mount `here`. The walk is bounded, in case ids form a ring.
    fn cross(&self, mut here: u32, path: &[u8]) -> u32 {
        for _ in 0..MAX_MOUNTS {
            match self.children.get(&(here, path)) {
                Some(next) => here = *next,
                None => break,
            }
        }
        here
    }
}

#[cfg(test)]
#[path = "mountinfo_tests.rs"]
mod tests;
