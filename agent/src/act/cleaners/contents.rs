//! What a file begins with that must stay whatever it is called: a database, a disk image, a private key.
//!
//! Only beginnings that are sure are known: magics that their formats put there, each of eight bytes or together with a
//! version behind it, and lines that begin a key's armour. A log that mentions a key further on is a log.
//!
//! Limits: what has no such beginning (a table of InnoDB or of PostgreSQL, a part of a stream, what is encrypted or
//! compressed, a key in DER or in JSON) is not known.

use std::os::fd::OwnedFd;

use rustix::fs::Advice;

/// How much of a file is looked at: the first page of a database, and a key behind some lines of comment.
const HEAD_BYTES: usize = 4_096;

/// Where a magic stands, what it is, and what begins so.
type Magic = (usize, &'static [u8], &'static str);

const MAGICS: &[Magic] = &[
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, &[0xD9, 0xD5, 0x05, 0xF9, 0x20, 0xA1, 0x63, 0xD7], "an SQLite database's journal"),
    (0, &[0x37, 0x7F, 0x06, 0x82, 0x00, 0x2D, 0xE2, 0x18], "an SQLite database's log"),
    (0, &[0x37, 0x7F, 0x06, 0x83, 0x00, 0x2D, 0xE2, 0x18], "an SQLite database's log"),
    (16, &[0xDE, 0xC0, 0xEF, 0xBE, 1, 0, 0, 0], "an LMDB database"),
    (16, &[0xED, 0xDA, 0x0C, 0xED, 2, 0, 0, 0], "a Bolt database"),
    (0, &[0x41, 0xD8, 0x01, 0x00, 0x01, 0x00, 0x00, 0x00], "a WiredTiger table"),
    (0, b"H:2,block", "an H2 database"),
    (0, b"H:3,block", "an H2 database"),
    (0, b"\0\x01\0\0Standard Jet DB\0", "an Access database"),
    (0, b"\0\x01\0\0Standard ACE DB\0", "an Access database"),
    (0, b"QFI\xFB\0\0\0", "a disk image (qcow2)"),
    (0, b"KDMV\x01\0\0\0", "a disk image (VMDK)"),
    (0, b"KDMV\x02\0\0\0", "a disk image (VMDK)"),
    (0, b"KDMV\x03\0\0\0", "a disk image (VMDK)"),
    (0, b"vhdxfile", "a disk image (VHDX)"),
    (0, b"conectix\0\0\0", "a disk image (VHD)"),
    (0, b"<<< Oracle VM VirtualBox Disk Image >>>", "a disk image (VDI)"),
    (0, b"LUKS\xBA\xBE\0", "an encrypted disk's image (LUKS)"),
    (512, b"EFI PART\0\0\x01\0", "a disk image (GPT)"),
    (0, b"XFSB\0\0", "a filesystem's image (XFS)"),
    (0, &[0x03, 0xD9, 0xA2, 0x9A, 0x65, 0xFB, 0x4B, 0xB5], "a KeePass file"),
    (0, &[0x03, 0xD9, 0xA2, 0x9A, 0x67, 0xFB, 0x4B, 0xB5], "a KeePass file"),
    (0, &[0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 1], "a Java keystore"),
    (0, &[0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2], "a Java keystore"),
    (0, &[0xCE, 0xCE, 0xCE, 0xCE, 0, 0, 0, 1], "a Java keystore"),
    (0, &[0xCE, 0xCE, 0xCE, 0xCE, 0, 0, 0, 2], "a Java keystore"),
    (0, b"PuTTY-User-Key-File-", "a private key"),
];

/// Berkeley DB's kinds, in the byte order of who wrote it; its version follows.
const BERKELEY: [u32; 4] = [0x0005_3162, 0x0006_1561, 0x0004_2253, 0x0007_4582];
/// Its newest version of any kind is 10.
const BERKELEY_VERSIONS: u32 = 32;
/// DuckDB's storage versions are below 100.
const DUCKDB_VERSIONS: u64 = 10_000;

/// Why the open `file` stays, if it begins as what must.
pub(super) fn demand_nothing_precious(file: &OwnedFd) -> Result<(), String> {
    let head = head_of(file).map_err(|e| format!("it cannot be read to see what it is: {e}"))?;
    what_begins(&head).map_or(Ok(()), |what| Err(format!("it begins as {what} does, whatever it is called")))
}

/// What begins with `head`, if it is known.
fn what_begins(head: &[u8]) -> Option<&'static str> {
    let has = |(at, magic, _): &&Magic| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    let by_magic = || MAGICS.iter().find(has).map(|(_, _, what)| *what);
    by_magic().or_else(|| by_fields(head)).or_else(|| by_lines(head))
}

/// What is known by several fields.
fn by_fields(head: &[u8]) -> Option<&'static str> {
    let le32 = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let duckdb = || {
        let version = u64::from_le_bytes(head.get(12..20)?.try_into().ok()?);
        (head.get(8..12)? == b"DUCK" && version < DUCKDB_VERSIONS).then_some("a DuckDB database")
    };
    let redis = || {
        // `REDIS0011`, and an opcode.
        let version = head.get(5..9)?.iter().all(u8::is_ascii_digit);
        (head.starts_with(b"REDIS") && version && *head.get(9)? >= 0xF0).then_some("a Redis database")
    };
    let berkeley = || {
        let (kind, version) = (le32(12)?, le32(16)?);
        let is =
            |kind: u32, version: u32| BERKELEY.contains(&kind) && (1..BERKELEY_VERSIONS).contains(&version);
        let any_order = is(kind, version) || is(kind.swap_bytes(), version.swap_bytes());
        any_order.then_some("a Berkeley database")
    };
    let ext = || {
        // s_magic, s_log_block_size and s_rev_level of a superblock at 1024.
        let magic = head.get(1_080..1_082)? == [0x53, 0xEF];
        let blocks = head.get(1_028..1_032)? != [0; 4];
        (magic && blocks && le32(1_048)? <= 6 && le32(1_100)? <= 1).then_some("a filesystem's image (ext4)")
    };
    let pkcs12 = || {
        /// The content's type: data, or signed data, of PKCS #7.
        const TYPE: [u8; 10] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07];
        // A sequence of version 3 and a sequence that begins with that type, both of any length.
        let (start, rest) = (head.first()?, head.get(..40.min(head.len()))?);
        let version = rest.windows(4).take(8).position(|w| w == [0x02, 0x01, 0x03, 0x30])?;
        let typed = rest.get(version..)?.windows(TYPE.len()).take(10).any(|w| w == TYPE);
        (*start == 0x30 && typed).then_some("a PKCS #12 keystore")
    };
    duckdb().or_else(redis).or_else(berkeley).or_else(ext).or_else(pkcs12)
}

/// A private key in text: at the start of a line, which may be behind others that tell about it. A certificate is known only
/// where the file begins with it.
fn by_lines(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
    let begins = |label: &[u8]| {
        label.starts_with(b"CERTIFICATE-----") || label.starts_with(b"TRUSTED CERTIFICATE-----")
    };
    if head.strip_prefix(b"-----BEGIN ").is_some_and(begins) {
        return Some("a certificate");
    }
    let is_key = |line: &[u8]| {
        let line = line.trim_ascii_end();
        let armour = |start: &[u8], ends: &[&[u8]]| {
            let label = line.strip_prefix(start);
            label.is_some_and(|label| ends.iter().any(|end| label.ends_with(end)))
        };
        armour(b"-----BEGIN ", &[b"PRIVATE KEY-----", b"PRIVATE KEY BLOCK-----"])
            || armour(b"---- BEGIN ", &[b"PRIVATE KEY ----"])
            || line.starts_with(b"AGE-SECRET-KEY-1")
    };
    head.split(|b| *b == b'\n').any(is_key).then_some("a private key")
}

/// The first bytes of `file`. Nothing behind them is read in advance: many files are looked at, and of most no more is wanted.
fn head_of(file: &OwnedFd) -> rustix::io::Result<Vec<u8>> {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
    let mut head = vec![0; HEAD_BYTES];
    let mut have = 0;
    let read = loop {
        match rustix::io::pread(file, &mut head[have..], have as u64) {
            Ok(0) => break Ok(()),
            Ok(n) => have += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => break Err(error),
        }
    };
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Normal);
    head.truncate(have);
    read.map(|()| head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `bytes` with `more` written into it at `at`.
    fn with(mut bytes: Vec<u8>, at: usize, more: &[u8]) -> Vec<u8> {
        bytes.resize(bytes.len().max(at + more.len()), 0);
        bytes[at..at + more.len()].copy_from_slice(more);
        bytes
    }

    #[test]
    fn what_must_stay_is_known_by_its_beginning() {
        let page = || vec![0; HEAD_BYTES];
        let ext = with(with(page(), 1_028, &[1]), 1_080, &[0x53, 0xEF]);
        let pkcs12 =
            b"\x30\x82\x0A\x0B\x02\x01\x03\x30\x82\x09\xC1\x06\x09\x2A\x86\x48\x86\xF7\x0D\x01\x07\x01\xA0";
        for (head, what) in [
            (b"SQLite format 3\0\x10\0".to_vec(), "an SQLite database"),
            (with(page(), 16, b"\xDE\xC0\xEF\xBE\x01\0\0\0"), "an LMDB database"),
            (with(page(), 16, b"\xED\xDA\x0C\xED\x02\0\0\0"), "a Bolt database"),
            (with(page(), 8, b"DUCK\x40\0\0\0\0\0\0\0"), "a DuckDB database"),
            (b"REDIS0011\xFA\x09redis-ver".to_vec(), "a Redis database"),
            (with(page(), 12, b"\x62\x31\x05\0\x09\0\0\0"), "a Berkeley database"),
            (with(page(), 12, b"\0\x06\x15\x61\0\0\0\x09"), "a Berkeley database"),
            (b"H:2,block:4,blockSize:1000,".to_vec(), "an H2 database"),
            (ext, "a filesystem's image (ext4)"),
            (with(page(), 512, b"EFI PART\0\0\x01\0"), "a disk image (GPT)"),
            (b"\x03\xD9\xA2\x9A\x67\xFB\x4B\xB5\x01".to_vec(), "a KeePass file"),
            (b"\xFE\xED\xFE\xED\0\0\0\x02\0\0\0\x01".to_vec(), "a Java keystore"),
            (pkcs12.to_vec(), "a PKCS #12 keystore"),
            (b"PuTTY-User-Key-File-3: ssh-ed25519\r\n".to_vec(), "a private key"),
            (b"-----BEGIN PRIVATE KEY-----\nMIIE".to_vec(), "a private key"),
            (b"\xEF\xBB\xBF-----BEGIN EC PRIVATE KEY-----\r\nMHc".to_vec(), "a private key"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl".to_vec(), "a private key"),
            (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ".to_vec(), "a private key"),
            (b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2".to_vec(), "a private key"),
            (b"# created: 2024\n# public key: age1x\nAGE-SECRET-KEY-1QQ\n".to_vec(), "a private key"),
            (
                b"Bag Attributes\n    localKeyID: 1\n-----BEGIN ENCRYPTED PRIVATE KEY-----\n".to_vec(),
                "a private key",
            ),
            (b"-----BEGIN CERTIFICATE-----\nMIID".to_vec(), "a certificate"),
        ] {
            assert_eq!(
                what_begins(&head),
                Some(what),
                "{:?}",
                String::from_utf8_lossy(&head[..40.min(head.len())])
            );
        }
        for (at, magic, what) in MAGICS {
            assert_eq!(what_begins(&with(Vec::new(), *at, magic)), Some(*what));
        }
    }

    #[test]
    fn what_only_resembles_it_goes() {
        let page = || vec![b'x'; HEAD_BYTES];
        for head in [
            b"".to_vec(),
            b"SQLite format 3 is what it is\n".to_vec(),
            with(page(), 8, b"DUCK soup tonight"),
            b"REDIS0011 is its version\n".to_vec(),
            with(page(), 1_080, &[0x53, 0xEF]),
            vec![0; HEAD_BYTES],
            b"2024-06-12 read -----BEGIN PRIVATE KEY-----\n".to_vec(),
            b"-----BEGIN PUBLIC KEY-----\nMIIB".to_vec(),
            b"-----BEGIN PGP MESSAGE-----\n\nhQ".to_vec(),
            b"line\n-----BEGIN CERTIFICATE-----\nMIID".to_vec(),
            b"\x28\xB5\x2F\xFD".to_vec(),
            b"\x1F\x8B\x08\0".to_vec(),
            b"\x7FELF\x02\x01\x01\0".to_vec(),
            b"{\"level\":\"info\",\"msg\":\"-----BEGIN PRIVATE KEY-----\"}\n".to_vec(),
        ] {
            assert_eq!(
                what_begins(&head),
                None,
                "{:?}",
                String::from_utf8_lossy(&head[..40.min(head.len())])
            );
        }
    }

    #[test]
    fn a_file_is_read_to_its_end_or_as_far_as_is_looked_at() {
        use std::io::Write;
        let key = b"-----BEGIN RSA PRIVATE KEY-----\n";
        for (before, stays) in [(0, true), (3_000, true), (HEAD_BYTES, false), (1 << 20, false)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&b"a line of a log\n".repeat(before / 16)).unwrap();
            file.write_all(key).unwrap();
            assert_eq!(demand_nothing_precious(&OwnedFd::from(file)).is_err(), stays, "{before}");
        }
    }

    proptest! {
        #[test]
        fn a_log_is_none_of_it_wherever_in_a_line_it_mentions_a_key(
            lines in prop::collection::vec("[ -~]{0,60}", 0..60),
            label in prop::sample::select(vec!["", "RSA ", "OPENSSH ", "EC "]),
            at in 0usize..60,
        ) {
            let mut lines: Vec<String> = lines.into_iter().map(|line| format!("2024-06-12T10:11:12Z {line}")).collect();
            let at = at.min(lines.len());
            let key = format!("-----BEGIN {label}PRIVATE KEY-----");
            lines.insert(at, format!("2024-06-12T10:11:13Z read {key}"));
            let log = lines.join("\n");
            prop_assert_eq!(what_begins(log.as_bytes()), None);
            lines.insert(at, key);
            let text = lines.join("\n");
            let seen = &text.as_bytes()[..text.len().min(HEAD_BYTES)];
            let begins: usize = lines[..at].iter().map(|line| line.len() + 1).sum();
            let fits = begins + 11 + label.len() + "PRIVATE KEY-----".len() <= seen.len();
            prop_assert_eq!(what_begins(seen), fits.then_some("a private key"));
        }

        #[test]
        fn any_bytes_can_be_looked_at(head in prop::collection::vec(any::<u8>(), 0..1_200)) {
            let _ = what_begins(&head);
        }
    }
}
