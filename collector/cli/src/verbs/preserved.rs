//! `preserved`: what was kept of what a cleanup removed, and a file's content, verified on its way out.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dogwatch::record::{FileSeen, Hash, PlannedObject};
use sha2::{Digest, Sha256};

use super::Here;
use crate::args::PreservedArgs;
use crate::error::CliError;
use crate::journal::Folder;
use crate::output::Io;
use crate::output::text::safe;

/// Largest file that is put together here: no agent keeps more of one.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What one node kept, put together.
#[derive(Default)]
struct Kept {
    /// Whose it is: ids of actions and files are the node's own, and another may have the same ones.
    node: Option<String>,
    /// By path, device and inode: the newest that was seen.
    objects: BTreeMap<(PathBuf, u64, u64), PlannedObject>,
    /// Pieces of the wanted file, by device, inode and offset.
    pieces: BTreeMap<(u64, u64, u64), Vec<u8>>,
    /// Bytes of them.
    bytes: u64,
}

impl Kept {
    fn take(&mut self, node: &str, seen: FileSeen, wanted: Option<&Path>) -> Result<(), CliError> {
        let whose = self.node.get_or_insert_with(|| node.to_owned());
        if whose != node {
            return Err(CliError::Unverified(format!(
                "{} and {} both have an action {}, and what they kept must not be mixed\n  try: --node {}",
                safe(whose),
                safe(node),
                safe(&seen.cause),
                safe(whose)
            )));
        }
        for object in seen.objects {
            self.objects.insert((object.path.clone(), object.device, object.inode), object);
        }
        let Some(piece) = seen.content.filter(|c| wanted == Some(c.path.as_path())) else { return Ok(()) };
        if piece.offset.saturating_add(piece.length) > MAX_FILE_BYTES {
            return Err(broken(&piece.path, "a piece of it lies beyond what any agent keeps"));
        }
        let bytes = piece.decompress().map_err(|e| broken(&piece.path, &e.to_string()))?;
        self.bytes += bytes.len() as u64;
        if self.bytes > 4 * MAX_FILE_BYTES {
            return Err(broken(&piece.path, "there are more pieces than any agent keeps of a file"));
        }
        self.pieces.insert((piece.device, piece.inode, piece.offset), bytes);
        Ok(())
    }

    /// The content of the file at `path`, whole and with the digest that was recorded.
    fn content(&self, action: &str, path: &Path) -> Result<Vec<u8>, CliError> {
        let of_path = self.objects.values().filter(|o| o.path == path);
        let Some(object) = of_path.clone().find(|o| o.preserved_bytes.is_some()).or(of_path.clone().next())
        else {
            return Err(CliError::NotFound(format!(
                "nothing is known of {} in {action}\n  try: dogwatch preserved {action}",
                path.display()
            )));
        };
        if object.preserved_bytes.is_none() {
            return Err(CliError::NotFound(format!(
                "the content of {} was not kept, its digest was\n  try: cleanup.roots[].preserve: true, for those to come",
                path.display()
            )));
        }
        let mut content = Vec::new();
        let of_object = |offset| (object.device, object.inode, offset);
        for ((.., offset), bytes) in self.pieces.range(of_object(0)..=of_object(u64::MAX)) {
            if *offset != content.len() as u64 {
                break;
            }
            content.extend_from_slice(bytes);
        }
        if content.len() as u64 != object.size_bytes {
            let (have, want) = (content.len(), object.size_bytes);
            return Err(broken(
                path,
                &format!("{have} of its {want} bytes are here; the rest expired or is lost"),
            ));
        }
        let digest = Hash(Sha256::digest(&content).into());
        if object.sha256 != Some(digest) {
            return Err(broken(path, "its SHA-256 is not the one that was recorded before it went"));
        }
        Ok(content)
    }
}

fn broken(path: &Path, why: &str) -> CliError {
    CliError::Unverified(format!("{} cannot be written out: {why}", path.display()))
}

pub(super) async fn preserved(
    here: &Here<'_>,
    args: &PreservedArgs,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let wanted = args.path.as_deref();
    let mut kept = Kept::default();
    if here.settings.journal_only {
        let dir = here.settings.journal.as_deref().unwrap_or(Path::new("."));
        let (mut remarks, mut failed) = (Vec::new(), Ok(()));
        Folder::open(dir)?.seen(&args.action, &mut remarks, |node, seen| {
            if failed.is_ok() && args.node.as_deref().is_none_or(|asked| asked == node) {
                failed = kept.take(node, seen, wanted);
            }
        })?;
        failed?;
        for remark in remarks {
            io.say(&remark)?;
        }
    } else {
        let path = wanted.map(|p| p.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        let mut answers = here.desk().await?.preserved(&args.action, path, args.node.as_deref()).await?;
        while let Some(mut seen) = answers.next().await? {
            let node = std::mem::take(&mut seen.node);
            if node.is_empty() || args.node.as_ref().is_some_and(|asked| *asked != node) {
                return Err(CliError::Unverified(
                    "the collector does not say that this is the node's that was asked for\n  try: a collector as new as \
                     this command"
                        .to_owned(),
                ));
            }
            let seen = FileSeen::try_from(seen)
                .map_err(|e| CliError::Failed(format!("the collector's answer makes no sense: {e}")))?;
            kept.take(&node, seen, wanted)?;
        }
    }
    if let Some(node) = &kept.node {
        io.say(&format!("kept by {}", safe(node)))?;
    }
    match wanted {
        Some(path) => {
            let content = kept.content(&args.action, path)?;
            match &args.output {
                Some(file) => write_new(file, &content),
                // A terminal would obey what is in it.
                None if io.terminal.shown => Err(CliError::Usage(format!(
                    "{} may hold anything, and this is a terminal\n  try: -o FILE, or a pipe",
                    safe(&path.display().to_string())
                ))),
                None => Ok(io.out.write_all(&content)?),
            }
        }
        None => list(&args.action, &kept, io),
    }
}

fn write_new(file: &Path, content: &[u8]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| CliError::Failed(format!("writing {}: {e}", file.display()));
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    out.write_all(content).and_then(|()| out.sync_all()).map_err(failed)
}

fn list(action: &str, kept: &Kept, io: &mut Io<'_>) -> Result<(), CliError> {
    if kept.objects.is_empty() {
        return Err(CliError::NotFound(format!(
            "nothing was recorded of files that {action} was about to remove (what was cut of a live log stands in the action \
             itself: dogwatch get actions {action} -o yaml)\n  try: dogwatch get actions"
        )));
    }
    let mut text = format!("{:>12}  {:9}  {:64}  PATH\n", "BYTES", "PRESERVED", "SHA256");
    for object in kept.objects.values() {
        let preserved = if object.preserved_bytes.is_some() { "yes" } else { "no" };
        let digest = object.sha256.map_or_else(|| "-".to_owned(), |h| h.to_string());
        let path = safe(&object.path.display().to_string()).into_owned();
        text.push_str(&format!("{:>12}  {preserved:9}  {digest:64}  {path}\n", object.size_bytes));
    }
    Ok(io.out.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{FileContent, ObjectOutcome};

    use super::*;

    const PATH: &str = "/var/crash/core.1";
    const NODE: &str = "node-1";

    fn object(content: &[u8]) -> PlannedObject {
        PlannedObject {
            path: PATH.into(),
            device: 1,
            inode: 7,
            size_bytes: content.len() as u64,
            allocated_bytes: 4_096,
            mtime_ns: 0,
            ctime_ns: 0,
            uid: 0,
            gid: 0,
            mode: 0o644,
            links: 1,
            cleaner: "core-dumps".to_owned(),
            tier: 1,
            why_safe: String::new(),
            outcome: ObjectOutcome::Pending,
            sha256: Some(Hash(Sha256::digest(content).into())),
            digest_partial: false,
            image: None,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: Some(content.len() as u64),
        }
    }

    /// The pieces of `content` that begin at `offsets`, ten bytes each, and the object itself.
    fn kept(content: &[u8], offsets: &[usize]) -> Kept {
        let object = object(content);
        let mut kept = Kept::default();
        let seen = |content, objects| FileSeen { cause: "a-1".to_owned(), objects, content };
        for at in offsets {
            let piece = &content[*at..content.len().min(at + 10)];
            let piece = FileContent::compress(&object, *at as u64, piece).unwrap();
            kept.take(NODE, seen(Some(piece), Vec::new()), Some(Path::new(PATH))).unwrap();
        }
        kept.take(NODE, seen(None, vec![object]), Some(Path::new(PATH))).unwrap();
        kept
    }

    #[test]
    fn pieces_are_put_together_in_whatever_order_they_come() {
        let content = b"thirty bytes of something else";
        let whole = kept(content, &[20, 0, 10, 0]).content("a-1", Path::new(PATH));
        assert_eq!(whole.unwrap(), content);
    }

    #[test]
    fn what_is_not_whole_or_not_what_went_is_not_written_out() {
        let content = b"thirty bytes of something else";
        let why = |kept: &Kept| match kept.content("a-1", Path::new(PATH)) {
            Err(CliError::Unverified(why)) => why,
            other => panic!("it must not be taken for whole: {other:?}"),
        };
        for missing in [&[0, 20][..], &[10, 20], &[0, 10], &[]] {
            let said = why(&kept(content, missing));
            assert!(said.contains("of its 30 bytes are here"), "{missing:?}: {said}");
        }
        let mut forged = kept(content, &[0, 10]);
        let other = FileContent::compress(&object(content), 20, b"thing new.").unwrap();
        let seen = FileSeen { cause: "a-1".to_owned(), objects: Vec::new(), content: Some(other) };
        forged.take(NODE, seen, Some(Path::new(PATH))).unwrap();
        assert!(why(&forged).contains("SHA-256"), "a piece was changed");
        let beyond = FileContent::compress(&object(content), MAX_FILE_BYTES, b"x").unwrap();
        let seen = FileSeen { cause: "a-1".to_owned(), objects: Vec::new(), content: Some(beyond) };
        assert!(Kept::default().take(NODE, seen, Some(Path::new(PATH))).is_err());

        let mut without = kept(content, &[0, 10, 20]);
        without.objects.values_mut().for_each(|o| o.preserved_bytes = None);
        let not_kept = without.content("a-1", Path::new(PATH)).unwrap_err();
        assert!(matches!(not_kept, CliError::NotFound(why) if why.contains("was not kept")));
    }
    #[test]
    fn what_another_node_kept_under_the_same_id_is_not_mixed_in() {
        let mine = b"thirty bytes of something else";
        let theirs = b"thirty bytes of what is forged";
        let mut whole = kept(mine, &[0, 10, 20]);
        let seen = |o| FileSeen { cause: "a-1".to_owned(), objects: vec![o], content: None };
        let refused = whole.take("node-2", seen(object(theirs)), Some(Path::new(PATH))).unwrap_err();
        assert!(
            matches!(&refused, CliError::Unverified(why) if why.contains("node-1 and node-2")),
            "{refused}"
        );
        assert_eq!(whole.content("a-1", Path::new(PATH)).unwrap(), mine);
        // Nor is what had the same inode on another disk.
        let elsewhere = PlannedObject { device: 2, path: "/srv/core.1".into(), ..object(theirs) };
        whole.take(NODE, seen(elsewhere.clone()), Some(Path::new(PATH))).unwrap();
        let piece =
            FileContent { path: PATH.into(), ..FileContent::compress(&elsewhere, 0, theirs).unwrap() };
        let seen = FileSeen { cause: "a-1".to_owned(), objects: Vec::new(), content: Some(piece) };
        whole.take(NODE, seen, Some(Path::new(PATH))).unwrap();
        assert_eq!(whole.content("a-1", Path::new(PATH)).unwrap(), mine);
    }
}
