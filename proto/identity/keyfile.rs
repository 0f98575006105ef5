//! Private files: keys, credentials and token records.
//!
//! Invariants: a private file is mode 0600 from its first byte (never widened and narrowed), appears whole or not at
//! all (temp, sync, rename, sync of the folder), and is refused when anyone but its owner could have read it: a key that
//! others have seen is no key, and going on with it would hide that. A file that is there but unreadable is never
//! replaced by a new one silently: a new identity is a person's decision.
//!
//! Limits: [`MAX_KEY_FILE_BYTES`]. Deliberately absent: encryption at rest, hardware keys.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// No key file is longer: a chain of certificates with its key takes a few KiB.
pub const MAX_KEY_FILE_BYTES: u64 = 256 * 1024;

/// A private file that could not be read, made or believed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The attempt: `read`, `write`, …
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "{} can be read or written by others (mode {mode:04o}); a key that others may have seen is not used. If nobody has, \
         run `chmod 600` on it; else remove it, so that a new one is made", path.display()
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{} is damaged: {reason}. Restore it from a backup, or move it away so that a new one is made: {consequence}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What a new one entails.
        consequence: &'static str,
    },
    /// No randomness.
    #[error("cannot make a key for {}: the system gives no random bytes: {reason}", path.display())]
    Random {
        /// For which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl KeyFileError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Whether the file simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Loads an Ed25519 key (PKCS#8 PEM) for chain heads or receipts; makes one where there is none. Two processes that
/// start at once end up with the same one.
pub fn load_or_create_signing_key(path: &Path) -> Result<SigningKey, KeyFileError> {
    match read_private_file(path) {
        Ok(pem) => return signing_key_from(path, &pem),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| KeyFileError::Random { path: path.to_owned(), reason: e.to_string() })?;
    let key = SigningKey::from_bytes(&seed);
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| corrupt_key(path, e.to_string()))?;
    match create_private_file(path, pem.as_bytes()) {
        Ok(()) => Ok(key),
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            signing_key_from(path, &read_private_file(path)?)
        }
        Err(e) => Err(e),
    }
}

fn signing_key_from(path: &Path, pem: &[u8]) -> Result<SigningKey, KeyFileError> {
    let text = std::str::from_utf8(pem).map_err(|e| corrupt_key(path, e.to_string()))?;
    SigningKey::from_pkcs8_pem(text)
        .map_err(|e| corrupt_key(path, format!("no PKCS#8 PEM of an Ed25519 key: {e}")))
}

fn corrupt_key(path: &Path, reason: String) -> KeyFileError {
    KeyFileError::Corrupt {
        path: path.to_owned(),
        reason,
        consequence: "peers will report the changed key, and it must be made known to them",
    }
}

/// Reads a file that its owner alone may read. A symlink as the last part of `path` is refused, and so is anything but
/// a regular file.
pub fn read_private_file(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
        .open(path)
        .map_err(KeyFileError::io("open", path))?;
    let meta = file.metadata().map_err(KeyFileError::io("stat", path))?;
    if !meta.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(KeyFileError::Io { what: "read", path: path.to_owned(), source });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(KeyFileError::io("read", path))?;
    if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("over {MAX_KEY_FILE_BYTES} bytes"));
        return Err(KeyFileError::Io { what: "read", path: path.to_owned(), source });
    }
    Ok(bytes)
}

/// Writes a file of mode 0600 whole, in place of any older one, durably.
pub fn write_private_file(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    write_whole(path, bytes, 0o600, Existing::Replace)
}

/// Writes a file of mode 0644 whole, in place of any older one, durably: certificates, which are no secret.
pub fn write_public_file(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    write_whole(path, bytes, 0o644, Existing::Replace)
}

/// Like [`write_private_file`], but an existing file stays and is an error (`AlreadyExists`).
pub fn create_private_file(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    write_whole(path, bytes, 0o600, Existing::Keep)
}

/// Makes a folder of mode 0700, with its parents; an existing one stays as it is.
pub fn create_private_dir(path: &Path) -> Result<(), KeyFileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(KeyFileError::io("create folder", path))
}

#[derive(Clone, Copy, PartialEq)]
enum Existing {
    Replace,
    Keep,
}

fn write_whole(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), KeyFileError> {
    let temp = temp_beside(path)?;
    let written = write_temp(&temp, bytes, mode).and_then(|()| publish(&temp, path, existing));
    if written.is_err() {
        // The temp file holds the secret; a failure to remove it changes nothing about the error to report.
        let _ = fs::remove_file(&temp);
    }
    written?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(KeyFileError::io("sync folder", parent))
}

/// A random name in the same folder: a leftover of a crash never stands in the way.
fn temp_beside(path: &Path) -> Result<PathBuf, KeyFileError> {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random)
        .map_err(|e| KeyFileError::Random { path: path.to_owned(), reason: e.to_string() })?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(name))
}

fn write_temp(temp: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temp)
        .map_err(KeyFileError::io("create", temp))?;
    file.write_all(bytes).map_err(KeyFileError::io("write", temp))?;
    file.sync_all().map_err(KeyFileError::io("sync", temp))
}

fn publish(temp: &Path, path: &Path, existing: Existing) -> Result<(), KeyFileError> {
    if existing == Existing::Replace {
        return fs::rename(temp, path).map_err(KeyFileError::io("write", path));
    }
    let renamed = renameat_with(CWD, temp, CWD, path, RenameFlags::NOREPLACE);
    let done = match renamed {
        // Some filesystems know no NOREPLACE; a link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(temp, path).and_then(|()| fs::remove_file(temp))
        }
        other => other.map_err(io::Error::from),
    };
    done.map_err(KeyFileError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let first = load_or_create_signing_key(&path).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        let again = load_or_create_signing_key(&path).unwrap();
        assert_eq!(first.to_bytes(), again.to_bytes());
        assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file stays behind");
    }

    #[test]
    fn two_starting_at_once_get_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let keys: Vec<[u8; 32]> = std::thread::scope(|s| {
            let threads: Vec<_> =
                (0..8).map(|_| s.spawn(|| load_or_create_signing_key(&path).unwrap().to_bytes())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|k| *k == keys[0]));
    }

    #[test]
    fn an_exposed_key_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        load_or_create_signing_key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create_signing_key(&path).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        for bytes in
            [&b""[..], b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
        {
            write_private_file(&path, bytes).unwrap();
            let error = load_or_create_signing_key(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Corrupt { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_link_a_folder_and_a_giant_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        write_private_file(&real, b"x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(read_private_file(&link).is_err());
        assert!(read_private_file(dir.path()).is_err());
        File::options().write(true).open(&real).unwrap().set_len(MAX_KEY_FILE_BYTES + 1).unwrap();
        assert!(read_private_file(&real).unwrap_err().to_string().contains("bytes"));
    }

    #[test]
    fn creating_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create_private_file(&path, b"first").unwrap();
        assert!(create_private_file(&path, b"second").is_err());
        assert_eq!(read_private_file(&path).unwrap(), b"first");
        write_private_file(&path, b"third").unwrap();
        assert_eq!(read_private_file(&path).unwrap(), b"third");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
