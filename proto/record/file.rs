//! Files that were about to go: what they were, and pieces of their content.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::PlannedObject;

/// Most bytes of a file in one piece of content, before compression. Bytes that do not compress grow by a fraction of a
/// per cent, so that a piece always fits a block.
pub const MAX_PIECE_BYTES: usize = 256 * 1024;

/// What the executor was about to remove, durable before it went. That an object is named here does not mean that it
/// went: the last checks come after.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileSeen {
    /// What it was to go for: an action's id (`a-…`), or that of a hold that was released (`hold-…`).
    pub cause: String,
    /// The files, each with its digest; empty where `content` is given.
    pub objects: Vec<PlannedObject>,
    /// A piece of one file's content.
    pub content: Option<FileContent>,
}

impl FileSeen {
    /// Each file with its digest, as figures of an event: `sha256.` and the path, or `sha256_of_ends.` where the digest covers
    /// the first and last MiB only; empty where there is none. Of a path that is not UTF-8, each byte that is not
    /// printable ASCII is written `\xNN`, so that no two are one.
    pub fn digests(&self) -> impl Iterator<Item = (String, String)> {
        self.objects.iter().map(|object| {
            let path = match object.path.to_str() {
                Some(path) => path.to_owned(),
                None => object.path.as_os_str().as_bytes().escape_ascii().to_string(),
            };
            let key = if object.digest_partial { "sha256_of_ends" } else { "sha256" };
            let digest = object.sha256.map(|hash| hash.to_string()).unwrap_or_default();
            (format!("{key}.{path}"), digest)
        })
    }
}

impl fmt::Display for FileSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(c) = &self.content {
            let end = c.offset.saturating_add(c.length);
            return write!(f, "{}: kept bytes {} to {end} of {}", self.cause, c.offset, c.path.display());
        }
        let bytes = self.objects.iter().fold(0u64, |sum, o| sum.saturating_add(o.size_bytes));
        write!(f, "{}: saw {} files with {bytes} bytes before they go", self.cause, self.objects.len())?;
        match self.objects.first() {
            Some(first) => write!(f, ", the first {}", first.path.display()),
            None => Ok(()),
        }
    }
}

/// A piece of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// The file's absolute path; not necessarily UTF-8.
    pub path: PathBuf,
    /// `st_dev` of its filesystem.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Where in the file the piece begins, bytes.
    pub offset: u64,
    /// Its length, bytes, at most [`MAX_PIECE_BYTES`].
    pub length: u64,
    /// Size of the whole file, bytes.
    pub size_bytes: u64,
    /// The piece as one zstd frame.
    pub zstd: Vec<u8>,
}

impl FileContent {
    /// A piece, at `offset`, of the file that `object` names.
    ///
    /// # Errors
    /// Where the compressor fails, or `piece` is over [`MAX_PIECE_BYTES`].
    pub fn compress(object: &PlannedObject, offset: u64, piece: &[u8]) -> std::io::Result<Self> {
        // The level of zstd's own tool; 250 MB/s and a tenth of the size for logs.
        const LEVEL: i32 = 3;
        if piece.len() > MAX_PIECE_BYTES {
            return Err(std::io::Error::other(format!("{} bytes are over {MAX_PIECE_BYTES}", piece.len())));
        }
        let zstd = zstd::bulk::compress(piece, LEVEL)?;
        Ok(Self {
            path: object.path.clone(),
            device: object.device,
            inode: object.inode,
            offset,
            length: piece.len() as u64,
            size_bytes: object.size_bytes,
            zstd,
        })
    }

    /// The piece as it was.
    ///
    /// # Errors
    /// Where it does not come out at exactly its length.
    pub fn decompress(&self) -> std::io::Result<Vec<u8>> {
        let expected = usize::try_from(self.length).ok().filter(|n| *n <= MAX_PIECE_BYTES);
        let expected = expected.ok_or_else(|| std::io::Error::other("a piece over the limit"))?;
        let piece = zstd::bulk::decompress(&self.zstd, expected)?;
        if piece.len() == expected {
            Ok(piece)
        } else {
            Err(std::io::Error::other(format!("{} bytes came out instead of {expected}", piece.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> PlannedObject {
        PlannedObject {
            path: "/x".into(),
            device: 1,
            inode: 2,
            size_bytes: 3,
            allocated_bytes: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            uid: 0,
            gid: 0,
            mode: 0,
            links: 1,
            cleaner: String::new(),
            tier: 1,
            why_safe: String::new(),
            outcome: crate::record::ObjectOutcome::Pending,
            sha256: None,
            digest_partial: false,
            image: None,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: None,
        }
    }

    #[test]
    fn every_file_is_told_with_its_digest_whatever_its_name_is() {
        use std::ffi::OsStr;
        let named = |name: &[u8], digest_partial, sha256| PlannedObject {
            path: OsStr::from_bytes(name).into(),
            digest_partial,
            sha256,
            ..object()
        };
        let hash = Some(crate::record::Hash([0xab; 32]));
        let objects = vec![
            named(b"/x/\xc3\xa4.log.1", false, hash),
            named(b"/x/\xff", true, hash),
            named(b"/x/\xfe", false, None),
        ];
        let seen = FileSeen { cause: "a-1".to_owned(), objects, content: None };
        let told: Vec<_> = seen.digests().collect();
        let said = |key: &str, digest: String| (key.to_owned(), digest);
        assert_eq!(
            told,
            [
                said("sha256./x/ä.log.1", "ab".repeat(32)),
                said("sha256_of_ends./x/\\xff", "ab".repeat(32)),
                said("sha256./x/\\xfe", String::new())
            ]
        );
    }

    #[test]
    fn pieces_come_back_and_bombs_do_not() {
        let noise: Vec<u8> =
            (0..MAX_PIECE_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for piece in [&b""[..], b"line\n", &noise, &vec![0; MAX_PIECE_BYTES]] {
            let kept = FileContent::compress(&object(), 0, piece).unwrap();
            assert_eq!(kept.decompress().unwrap(), piece);
            assert!(kept.zstd.len() < MAX_PIECE_BYTES + 4096);
            let wrong = FileContent { length: kept.length + 1, ..kept.clone() };
            assert!(wrong.decompress().is_err());
            if let Some(length) = kept.length.checked_sub(1) {
                assert!(FileContent { length, ..kept.clone() }.decompress().is_err());
            }
            assert!(FileContent { length: u64::MAX, ..kept }.decompress().is_err());
        }
        assert!(FileContent::compress(&object(), 0, &vec![0; MAX_PIECE_BYTES + 1]).is_err());
    }
}
