//! Private files that can be written anew with nothing free: their room is taken beforehand.
//!
//! Beside `name` lies `.name.spare`, of the same fixed size. New content is written into it in place, padded with
//! newlines, synced, and the two change names (`RENAME_EXCHANGE`): no block, no inode, no entry of the folder is
//! needed, and a reader finds the old content or the new, whole. The spare is then overwritten, so that no old key stays.
//!
//! Limits: what is longer than the size, and filesystems that cannot exchange names, take the usual way (a temporary
//! file), which needs room. Where blocks are never overwritten in place (btrfs, ZFS) this needs room as well.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::keyfile::{KeyFileError, write_private_file};

/// Content ends before it; whoever reads the file must pass over it, as JSON and PEM do.
const PADDING: u8 = b'\n';

/// Writes a file of mode 0600 whole, in place of any older one, durably, without needing room where
/// [`reserve_private_file`] or an earlier call had some. It is padded with newlines to `size` bytes.
pub fn write_reserved_private_file(path: &Path, bytes: &[u8], size: usize) -> Result<(), KeyFileError> {
    if bytes.len() > size {
        return write_private_file(path, bytes);
    }
    let spare = spare_beside(path);
    let Ok(file) = open_spare(&spare, size) else { return write_private_file(path, bytes) };
    let mut padded = bytes.to_vec();
    padded.resize(size, PADDING);
    let fail = |what: &'static str| {
        let path = spare.clone();
        move |source: io::Error| KeyFileError::Io { what, path, source }
    };
    file.write_all_at(&padded, 0).map_err(fail("write"))?;
    file.sync_all().map_err(fail("sync"))?;
    match renameat_with(CWD, &spare, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => fs::rename(&spare, path).map_err(fail("rename"))?,
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            // It holds what is secret, and will never serve here.
            let _ = fs::remove_file(&spare);
            return write_private_file(path, bytes);
        }
        Err(e) => return Err(fail("exchange")(e.into())),
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(|source| KeyFileError::Io {
        what: "sync folder",
        path: parent.to_owned(),
        source,
    })?;
    // What was the file is now the spare; one of an older version is shorter, and is made anew. The content is durable
    // whatever becomes of this.
    let _ = open_spare(&spare, size).and_then(|old| old.write_all_at(&vec![PADDING; size], 0));
    Ok(())
}

/// Takes room for the next [`write_reserved_private_file`] of `path`.
pub fn reserve_private_file(path: &Path, size: usize) -> Result<(), KeyFileError> {
    let spare = spare_beside(path);
    open_spare(&spare, size).map(drop).map_err(|source| KeyFileError::Io {
        what: "take room for",
        path: spare,
        source,
    })
}

fn spare_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    path.with_file_name(format!(".{name}.spare"))
}

/// The spare, of its whole size: made, if it is not there or has another size.
fn open_spare(spare: &Path, size: usize) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    if let Ok(file) = options.open(spare) {
        let meta = file.metadata()?;
        if meta.is_file() && meta.len() == size as u64 {
            return Ok(file);
        }
        fs::remove_file(spare)?;
    }
    let file = options.create_new(true).open(spare)?;
    // Written, not only allocated: overwriting what was never written takes room on some filesystems.
    let made = file.write_all_at(&vec![PADDING; size], 0).and_then(|()| file.sync_all());
    if made.is_err() {
        // A part of it would take the room that is missing.
        let _ = fs::remove_file(spare);
    }
    made.map(|()| file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    const SIZE: usize = 16 * 1024;

    fn content(path: &Path) -> Vec<u8> {
        fs::read(path).unwrap().trim_ascii_end().to_vec()
    }

    #[test]
    fn the_two_files_take_turns_and_the_older_content_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("key");
        // A file of an earlier version, shorter.
        write_private_file(&path, b"first").unwrap();
        let mut inodes = Vec::new();
        for text in ["second", "third", "fourth"] {
            write_reserved_private_file(&path, text.as_bytes(), SIZE).unwrap();
            assert_eq!(content(&path), text.as_bytes());
            assert_eq!(fs::read(spare_beside(&path)).unwrap(), vec![PADDING; SIZE]);
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (SIZE as u64, 0o600));
            inodes.push(meta.ino());
        }
        assert_ne!(inodes[0], inodes[1]);
        assert_eq!(inodes[0], inodes[2], "nothing new is made");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_too_long_goes_the_usual_way_and_a_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (path, other) = (temp.path().join("key"), temp.path().join("other"));
        write_reserved_private_file(&path, &vec![b'x'; SIZE + 1], SIZE).unwrap();
        assert_eq!(content(&path).len(), SIZE + 1);
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, spare_beside(&path)).unwrap();
        write_reserved_private_file(&path, b"short", SIZE).unwrap();
        assert_eq!((content(&path), content(&other)), (b"short".to_vec(), b"precious".to_vec()));
    }
}
