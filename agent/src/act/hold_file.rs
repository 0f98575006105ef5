//! The file `holds` in the state folder: what is held on this node, over restarts.
//!
//! Layout: a first line `dogwatch-holds 1 <SHA-256 of the rest, hex>`, then a JSON array. A path stands as the hex of its
//! bytes, since it need not be UTF-8.
//!
//! What follows the array is padding of newlines: the file has its room for good, and is changed by an exchange of names
//! ([`write_reserved_private_file`]), so that what is held is kept with nothing free as well.
//!
//! Invariants: it appears whole or not at all. A file that is there and is not
//! what was written makes the holds unknown, never empty. Each start makes it before it is counted, so that in a state folder
//! that was in use its absence is a loss: the holds are unknown, and no file comes in its place before the collector has
//! said what is held. Where nobody could ever hold anything, or the folder is new, no file means that nothing is held.
//!
//! Limits: [`super::hold::MAX_HOLDS`], and 256 KiB, the most that is read of a private file.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use dogwatch::identity::{
    MAX_KEY_FILE_BYTES, read_private_file, reserve_private_file, write_private_file,
    write_reserved_private_file,
};
use dogwatch::record::Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hold::{HeldThing, HoldSet, MAX_HOLDS, NodeHold};

/// Its name in the state folder.
pub const HOLDS_FILE: &str = "holds";
const VERSION: &str = "dogwatch-holds 1";

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    #[serde(flatten)]
    what: RowThing,
    reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
enum RowThing {
    Path { path_hex: String },
    Pod { namespace: String, pod: String },
    Node,
}

/// What the file in `state_dir` says; `expected`: an earlier run was to have made it.
pub(super) fn read(state_dir: &Path, expected: bool) -> HoldSet {
    let path = state_dir.join(HOLDS_FILE);
    let bytes = match read_private_file(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() && expected => {
            return HoldSet::Unknown(format!(
                "{} is gone, and the state folder is not new; the collector says anew what is held as soon as it is reached, \
                 and where it never will, take `collector` out of this node's configuration",
                path.display()
            ));
        }
        Err(e) if e.is_not_found() => return HoldSet::Known(Vec::new()),
        Err(e) => return unknown(&path, &e.to_string()),
    };
    match decode(&bytes) {
        Ok(holds) => HoldSet::Known(holds),
        Err(why) => unknown(&path, &why),
    }
}

fn unknown(path: &Path, why: &str) -> HoldSet {
    HoldSet::Unknown(format!(
        "{} cannot be believed ({why}); the collector says anew what is held as soon as it is reached, and without one \
         remove the file if nothing is",
        path.display()
    ))
}

/// Keeps `holds` in `state_dir`; durable when this returns.
pub(super) fn write(state_dir: &Path, holds: &[NodeHold]) -> Result<(), String> {
    let path = state_dir.join(HOLDS_FILE);
    let bytes = encode(holds)?;
    if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(format!("{} holds take {} bytes, over {MAX_KEY_FILE_BYTES}", holds.len(), bytes.len()));
    }
    write_reserved_private_file(&path, &bytes, MAX_KEY_FILE_BYTES as usize).map_err(|e| e.to_string())
}

/// Takes room for what will be held, as long as there is some: for the file and for the next one.
pub(super) fn reserve(state_dir: &Path, now: &HoldSet) -> Result<(), String> {
    let path = state_dir.join(HOLDS_FILE);
    let size = MAX_KEY_FILE_BYTES;
    match now {
        HoldSet::Known(holds) if std::fs::metadata(&path).map_or(0, |m| m.len()) != size => {
            let kept = write(state_dir, holds);
            if kept.is_err() && !path.exists() {
                // No room to come back to, but a file: that there is none would be taken for a loss by the next run.
                write_private_file(&path, &encode(holds)?).map_err(|e| e.to_string())?;
            }
            kept
        }
        // One that is not believed is left for people to look at.
        _ => reserve_private_file(&path, size as usize).map_err(|e| e.to_string()),
    }
}

fn encode(holds: &[NodeHold]) -> Result<Vec<u8>, String> {
    let rows: Vec<Row> = holds
        .iter()
        .map(|h| Row {
            id: h.id.clone(),
            what: match &h.what {
                HeldThing::Path(p) => RowThing::Path { path_hex: to_hex(p.as_os_str().as_bytes()) },
                HeldThing::Pod { namespace, pod } => {
                    RowThing::Pod { namespace: namespace.clone(), pod: pod.clone() }
                }
                HeldThing::Node => RowThing::Node,
            },
            reason: h.reason.clone(),
        })
        .collect();
    let json = serde_json::to_vec(&rows).map_err(|e| e.to_string())?;
    let digest = Hash(Sha256::digest(&json).into());
    Ok([format!("{VERSION} {digest}\n").as_bytes(), &json].concat())
}

fn decode(bytes: &[u8]) -> Result<Vec<NodeHold>, String> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or("it has no first line")?;
    let (head, json) = (&bytes[..end], bytes[end + 1..].trim_ascii_end());
    let digest = Hash(Sha256::digest(json).into());
    if head != format!("{VERSION} {digest}").as_bytes() {
        return Err("its first line is of another version, or its digest does not fit the rest".to_owned());
    }
    let rows: Vec<Row> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    if rows.len() > MAX_HOLDS {
        return Err(format!("it names {} holds, over {MAX_HOLDS}", rows.len()));
    }
    let hold = |row: Row| {
        let what = match row.what {
            RowThing::Path { path_hex } => {
                let path = from_hex(&path_hex).ok_or_else(|| format!("{}: its path is no hex", row.id))?;
                HeldThing::Path(PathBuf::from(std::ffi::OsString::from_vec(path)))
            }
            RowThing::Pod { namespace, pod } => HeldThing::Pod { namespace, pod },
            RowThing::Node => HeldThing::Node,
        };
        Ok(NodeHold { id: row.id, what, reason: row.reason })
    };
    rows.into_iter().map(hold).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len() / 2).map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use dogwatch::identity::write_private_file;

    use super::*;

    fn some() -> Vec<NodeHold> {
        let path = PathBuf::from(std::ffi::OsString::from_vec(b"/var/log/\xff\n".to_vec()));
        let pod = HeldThing::Pod { namespace: "shop".to_owned(), pod: "api".to_owned() };
        [HeldThing::Path(path), pod, HeldThing::Node]
            .into_iter()
            .enumerate()
            .map(|(i, what)| NodeHold { id: format!("hold-{i}"), what, reason: "why \"so\"".to_owned() })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_held_where_nothing_was_ever_said() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read(temp.path(), false), HoldSet::Known(Vec::new()));
        write(temp.path(), &some()).unwrap();
        assert_eq!(read(temp.path(), false), HoldSet::Known(some()));
        write(temp.path(), &[]).unwrap();
        assert_eq!(read(temp.path(), false), HoldSet::Known(Vec::new()));
    }

    #[test]
    fn every_torn_or_changed_file_is_unknown_and_never_empty() {
        let whole = encode(&some()).unwrap();
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "changed at {at}");
        }
        let temp = tempfile::tempdir().unwrap();
        write_private_file(&temp.path().join(HOLDS_FILE), b"garbage").unwrap();
        assert!(
            matches!(read(temp.path(), false), HoldSet::Unknown(why) if why.contains("holds cannot be believed"))
        );
        std::fs::remove_file(temp.path().join(HOLDS_FILE)).unwrap();
        std::fs::create_dir(temp.path().join(HOLDS_FILE)).unwrap();
        assert!(matches!(read(temp.path(), false), HoldSet::Unknown(_)));
    }

    #[test]
    fn room_is_taken_beforehand_and_a_file_that_is_not_believed_stays() {
        let temp = tempfile::tempdir().unwrap();
        reserve(temp.path(), &read(temp.path(), false)).unwrap();
        assert_eq!(read(temp.path(), false), HoldSet::Known(Vec::new()));
        let inodes = || std::fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(inodes(), 2);
        write(temp.path(), &some()).unwrap();
        reserve(temp.path(), &read(temp.path(), false)).unwrap();
        assert_eq!((read(temp.path(), false), inodes()), (HoldSet::Known(some()), 2));
        write_private_file(&temp.path().join(HOLDS_FILE), b"garbage").unwrap();
        reserve(temp.path(), &read(temp.path(), false)).unwrap();
        assert_eq!(std::fs::read(temp.path().join(HOLDS_FILE)).unwrap(), b"garbage");
    }

    #[test]
    fn a_file_that_is_gone_from_a_folder_in_use_is_unknown_until_somebody_says_what_is_held() {
        let temp = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let lost = read(temp.path(), true);
            assert!(matches!(&lost, HoldSet::Unknown(why) if why.contains("holds is gone")), "{lost:?}");
            // Room is taken all the same, and the next start is in doubt too.
            reserve(temp.path(), &lost).unwrap();
        }
        write(temp.path(), &some()).unwrap();
        assert_eq!(read(temp.path(), true), HoldSet::Known(some()));
        std::fs::remove_file(temp.path().join(HOLDS_FILE)).unwrap();
        assert!(matches!(read(temp.path(), true), HoldSet::Unknown(_)));
    }

    #[test]
    fn version_one_stays_readable() {
        let json = r#"[{"id":"hold-0badcafe","what":"path","path_hex":"2f78","reason":"r"},{"id":"hold-1","what":"node","reason":""}]"#;
        let digest = Hash(Sha256::digest(json).into());
        let golden = format!("{VERSION} {digest}\n{json}");
        let holds = decode(golden.as_bytes()).unwrap();
        assert_eq!(holds[0].what, HeldThing::Path("/x".into()));
        assert_eq!(holds[1].what, HeldThing::Node);
        assert_eq!(encode(&holds).unwrap(), golden.into_bytes());
    }
}
