//! journald's files: which of them journald has put aside, and which of those are over a size.
//!
//! Source: systemd, `src/libsystemd/sd-journal/` (`journal-def.h` for the header, `journal-file.c` for the names that
//! archiving gives, `journal-vacuum.c` for what vacuuming takes).
//!
//! Invariants
//! - An active file is never named: its name has no `@` in the place where archiving puts one, and a header that says
//!   *online* is believed over any name that says *archived*.
//! - The name and the header of an archived file were written from the same fields; where they differ, it is not what it
//!   says, and stays.
//! - A folder keeps its newest files: the oldest go until active and archived ones together fit the size.
//!
//! The same files go as by `journalctl --vacuum-size` (of systemd 252, which counts active files towards the size too),
//! but for these, which stay: an archived file whose header cannot be read, one without entries until its turn comes, and
//! one that a reader has open (as every object of every plan does).
//!
//! Deliberately absent: opening anything, and age.

use std::collections::{HashMap, HashSet};

/// As much of a file as [`vet_header`] needs: the header up to `tail_entry_realtime`.
pub(super) const HEADER_BYTES: usize = 200;
/// What every journal begins with.
const SIGNATURE: &[u8; 8] = b"LPKSHHRH";
/// The header's `state`: somebody writes, or wrote when the power went.
const STATE_ONLINE: u8 = 1;
/// The header's `state`: put aside for good.
const STATE_ARCHIVED: u8 = 2;
const ACTIVE: &[u8] = b".journal";
const UNCLEAN: &[u8] = b".journal~";
/// Digits of a 128-bit id, and of a 64-bit number, in a name.
const ID_DIGITS: usize = 32;
const NUMBER_DIGITS: usize = 16;

/// What a file in a journal's folder is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalName {
    /// journald may write to it at any time: `system.journal`, `user-1000.journal`.
    Active,
    /// `<which>@<seqnum id>-<head seqnum>-<head realtime>.journal`: closed and put aside.
    Archived(ArchivedName),
    /// `<which>@<realtime>-<random>.journal~`: found unclean or broken, and put aside by the journald that came next.
    Unclean {
        /// When it was put aside, µs since 1970.
        realtime_us: u64,
    },
}

/// What the name of an archived file says of its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ArchivedName {
    seqnum_id: u128,
    head_seqnum: u64,
    head_realtime_us: u64,
}

impl JournalName {
    /// The name's parts; `None` for a file that is no journal.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        if let Some(stem) = name.strip_suffix(UNCLEAN) {
            let (which, mark) = split_mark(stem, 2 * NUMBER_DIGITS + 1)?;
            let (realtime, random) = mark.split_at_checked(NUMBER_DIGITS)?;
            number(random.strip_prefix(b"-")?)?;
            return (!which.is_empty()).then_some(Self::Unclean { realtime_us: number(realtime)? });
        }
        let stem = name.strip_suffix(ACTIVE).filter(|s| !s.is_empty())?;
        Some(archived(stem).map_or(Self::Active, Self::Archived))
    }

    /// Whether journald may still write to it.
    pub(super) fn is_active(self) -> bool {
        self == Self::Active
    }

    fn realtime_us(self) -> u64 {
        match self {
            Self::Active => u64::MAX,
            Self::Archived(name) => name.head_realtime_us,
            Self::Unclean { realtime_us } => realtime_us,
        }
    }
}

fn archived(stem: &[u8]) -> Option<ArchivedName> {
    let (which, mark) = split_mark(stem, ID_DIGITS + 2 * (NUMBER_DIGITS + 1))?;
    let (id, rest) = mark.split_at_checked(ID_DIGITS)?;
    let (seqnum, realtime) = rest.strip_prefix(b"-")?.split_at_checked(NUMBER_DIGITS)?;
    let name = ArchivedName {
        seqnum_id: u128::from_str_radix(lower_hex(id)?, 16).ok()?,
        head_seqnum: number(seqnum)?,
        head_realtime_us: number(realtime.strip_prefix(b"-")?)?,
    };
    (!which.is_empty()).then_some(name)
}

/// What stands before and after the `@` that is followed by exactly `length` bytes.
fn split_mark(stem: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let at = stem.len().checked_sub(length + 1)?;
    let (which, mark) = stem.split_at(at);
    Some((which, mark.strip_prefix(b"@")?))
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = lower_hex(digits).filter(|d| d.len() == NUMBER_DIGITS)?;
    u64::from_str_radix(digits, 16).ok()
}

fn lower_hex(digits: &[u8]) -> Option<&str> {
    let all = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    std::str::from_utf8(digits).ok().filter(|_| all)
}

/// Whether a folder's name is one that journald gives: a machine id, and a namespace after a dot where there is one.
pub(super) fn is_journal_folder(name: &[u8]) -> bool {
    let Some((id, rest)) = name.split_at_checked(ID_DIGITS) else { return false };
    lower_hex(id).is_some() && (rest.is_empty() || (rest.len() > 1 && rest[0] == b'.'))
}

/// Whether the header of a file called `name` says that it may go; if not, why. `head` is the file's beginning.
pub(super) fn vet_header(name: JournalName, head: &[u8]) -> Result<(), String> {
    let header = Header::parse(head)?;
    match name {
        JournalName::Active => Err("journald writes to it".to_owned()),
        JournalName::Unclean { .. } => Ok(()),
        JournalName::Archived(_) if header.state == STATE_ONLINE => {
            Err("its header says that it is online: journald may still write to it".to_owned())
        }
        JournalName::Archived(_) if header.state != STATE_ARCHIVED => {
            Err(format!("its header does not say that it is archived (state {})", header.state))
        }
        JournalName::Archived(name) if name != header.name => {
            Err("its header belongs to a file of another name".to_owned())
        }
        JournalName::Archived(_) => Ok(()),
    }
}

struct Header {
    state: u8,
    name: ArchivedName,
}

impl Header {
    /// Offsets of `struct Header`; numbers are little-endian, ids are bytes.
    fn parse(head: &[u8]) -> Result<Self, String> {
        const STATE: usize = 16;
        const SEQNUM_ID: usize = 72;
        const HEAD_ENTRY_SEQNUM: usize = 168;
        const HEAD_ENTRY_REALTIME: usize = 184;
        let short = || "it is too short to be a journal".to_owned();
        let bytes = head.get(..HEADER_BYTES).ok_or_else(short)?;
        if !bytes.starts_with(SIGNATURE) {
            return Err("it does not begin as a journal does".to_owned());
        }
        let number = |at: usize| {
            bytes
                .get(at..)
                .and_then(|b| b.first_chunk::<8>())
                .map(|b| u64::from_le_bytes(*b))
                .ok_or_else(short)
        };
        let id = bytes.get(SEQNUM_ID..).and_then(|b| b.first_chunk::<16>()).ok_or_else(short)?;
        let name = ArchivedName {
            seqnum_id: u128::from_be_bytes(*id),
            head_seqnum: number(HEAD_ENTRY_SEQNUM)?,
            head_realtime_us: number(HEAD_ENTRY_REALTIME)?,
        };
        Ok(Self { state: bytes[STATE], name })
    }
}

/// One file of a folder, as the choice needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JournalFile {
    pub(super) name: Vec<u8>,
    pub(super) allocated_bytes: u64,
}

/// Of one folder's files (others than journals count for nothing), the names that may go so that what stays fits
/// `keep_bytes`: the oldest.
pub(super) fn over_size(files: &[JournalFile], keep_bytes: u64) -> HashSet<&[u8]> {
    let journals: Vec<(&JournalFile, JournalName)> =
        files.iter().filter_map(|f| Some((f, JournalName::parse(&f.name)?))).collect();
    let mut stays = journals.iter().fold(0u64, |sum, (f, _)| sum.saturating_add(f.allocated_bytes));
    let mut go = HashSet::new();
    for file in oldest_first(journals) {
        if stays <= keep_bytes {
            break;
        }
        stays = stays.saturating_sub(file.allocated_bytes);
        go.insert(file.name.as_slice());
    }
    go
}

/// By the time of the first entry; files of one sequence by their numbers, so that a clock that was set back does not
/// make the newest the oldest.
fn oldest_first(mut journals: Vec<(&JournalFile, JournalName)>) -> Vec<&JournalFile> {
    journals.retain(|(_, name)| !name.is_active());
    journals
        .sort_by(|(a, x), (b, y)| x.realtime_us().cmp(&y.realtime_us()).then_with(|| a.name.cmp(&b.name)));
    let mut sequences: HashMap<u128, Vec<(u64, usize)>> = HashMap::new();
    for (at, (_, name)) in journals.iter().enumerate() {
        if let JournalName::Archived(name) = name {
            sequences.entry(name.seqnum_id).or_default().push((name.head_seqnum, at));
        }
    }
    let mut order: Vec<usize> = (0..journals.len()).collect();
    for members in sequences.into_values() {
        let mut numbered = members.clone();
        numbered.sort_unstable();
        for ((_, place), (_, member)) in members.iter().zip(numbered) {
            order[*place] = member;
        }
    }
    order.into_iter().map(|at| journals[at].0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn archived_name(seqnum: u64, realtime: u64) -> String {
        format!("system@{ID}-{seqnum:016x}-{realtime:016x}.journal")
    }

    fn header(state: u8, seqnum: u64, realtime: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES + 8];
        header[..8].copy_from_slice(SIGNATURE);
        header[16] = state;
        header[72..88].copy_from_slice(&u128::from_str_radix(ID, 16).unwrap().to_be_bytes());
        header[168..176].copy_from_slice(&seqnum.to_le_bytes());
        header[184..192].copy_from_slice(&realtime.to_le_bytes());
        header
    }

    #[test]
    fn names_say_what_journald_has_put_aside() {
        for active in ["system.journal", "user-1000.journal", "a@b.journal", "remote-10.0.0.1.journal"] {
            assert_eq!(JournalName::parse(active.as_bytes()), Some(JournalName::Active), "{active}");
        }
        let name = JournalName::parse(archived_name(7, 9).as_bytes()).unwrap();
        assert!(matches!(name, JournalName::Archived(n) if n.head_seqnum == 7 && n.head_realtime_us == 9));
        let user = format!("user-1000@{ID}-0000000000000001-0000000000000002.journal");
        assert!(matches!(JournalName::parse(user.as_bytes()), Some(JournalName::Archived(_))));
        let unclean = b"system@0005f1c2aabbccdd-0123456789abcdef.journal~";
        assert_eq!(
            JournalName::parse(unclean),
            Some(JournalName::Unclean { realtime_us: 0x0005_f1c2_aabb_ccdd })
        );
        for none in
            ["system.journal~", "x@1-2.journal~", ".journal", "journal", "system.journal.gz", "a.log.1"]
        {
            assert_eq!(JournalName::parse(none.as_bytes()), None, "{none}");
        }
        // Not what archiving writes, so journald may be writing to it.
        let upper =
            archived_name(0xA, 1).to_uppercase().replace("SYSTEM", "system").replace("JOURNAL", "journal");
        let nameless = archived_name(1, 1).replace("system", "");
        let signed = archived_name(1, 1).replace("-0", "-+");
        let newline = archived_name(1, 1).replace("@0", "@\n");
        for odd in [upper, nameless, signed, newline] {
            assert_eq!(JournalName::parse(odd.as_bytes()), Some(JournalName::Active), "{odd:?}");
        }
        for bytes in [&b"\xff@\xff.journal~"[..], b"@.journal~", b"~", b""] {
            assert_eq!(JournalName::parse(bytes), None);
        }
    }

    #[test]
    fn folders_are_those_of_a_machine() {
        assert!(is_journal_folder(ID.as_bytes()) && is_journal_folder(format!("{ID}.net").as_bytes()));
        for none in ["remote", "0123", &format!("{ID}x"), &format!("{ID}."), &ID.to_uppercase()] {
            assert!(!is_journal_folder(none.as_bytes()), "{none}");
        }
    }

    #[test]
    fn a_header_is_believed_over_a_name() {
        let name = JournalName::parse(archived_name(7, 9).as_bytes()).unwrap();
        assert_eq!(vet_header(name, &header(STATE_ARCHIVED, 7, 9)), Ok(()));
        let why = |head: &[u8]| vet_header(name, head).unwrap_err();
        assert!(why(&header(STATE_ONLINE, 7, 9)).contains("online"));
        assert!(why(&header(0, 7, 9)).contains("state 0"));
        assert!(why(&header(200, 7, 9)).contains("state 200"));
        assert!(why(&header(STATE_ARCHIVED, 8, 9)).contains("another name"));
        assert!(why(&header(STATE_ARCHIVED, 7, 8)).contains("another name"));
        assert!(why(b"").contains("short"));
        assert!(why(&header(STATE_ARCHIVED, 7, 9)[..HEADER_BYTES - 1]).contains("short"));
        assert!(why(&vec![0; 4096]).contains("begin"));
        assert!(why(&b"LPKSHHRX".repeat(512)).contains("begin"));
        let unclean = JournalName::Unclean { realtime_us: 1 };
        assert_eq!(vet_header(unclean, &header(STATE_ONLINE, 0, 0)), Ok(()));
        assert!(vet_header(unclean, &[0; 4096]).is_err());
        assert!(vet_header(JournalName::Active, &header(STATE_ARCHIVED, 7, 9)).is_err());
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let file = |name: String, allocated_bytes| JournalFile { name: name.into_bytes(), allocated_bytes };
        let files = [
            file("system.journal".to_owned(), 8),
            file(archived_name(20, 200), 8),
            file(archived_name(10, 100), 8),
            file("user-1@0000000000000096-0000000000000001.journal~".to_owned(), 8),
            file("notes.txt".to_owned(), 1 << 40),
        ];
        let go = |keep| {
            let mut go: Vec<usize> = over_size(&files, keep)
                .into_iter()
                .map(|n| files.iter().position(|f| f.name == n).unwrap())
                .collect();
            go.sort_unstable();
            go
        };
        assert_eq!(go(32), [0usize; 0]);
        assert_eq!(go(31), [2]);
        assert_eq!(go(24), [2]);
        assert_eq!(go(17), [2, 3]);
        assert_eq!(go(0), [1, 2, 3], "the active one never");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_make_the_newest_the_oldest() {
        let names = [archived_name(1, 500), archived_name(2, 600), archived_name(3, 10)];
        let files = names.clone().map(|n| JournalFile { name: n.into_bytes(), allocated_bytes: 1 });
        assert_eq!(over_size(&files, 2), HashSet::from([names[0].as_bytes()]));
        assert_eq!(over_size(&files, 1), HashSet::from([names[0].as_bytes(), names[1].as_bytes()]));
    }
}
