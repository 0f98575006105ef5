//! After an action whose executor died, and (so that quarantine was emptied) another one started: what each object that has
//! no outcome looks like now.
//!
//! As a rule an executor hangs for a disk or a server that does not answer, which then keeps whoever looks there waiting too.
//! So it is looked at aside, and of what does not answer nobody can tell.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dogwatch::record::{Action, ActionState, ObjectOutcome, PlannedObject, Refusal};

use super::ExecutorError;
use crate::act::aside::Aside;
use crate::act::plan::bounded;

/// Says what became of the objects of `action` that have no outcome. Those that are still there are skipped; of the others
/// nobody can say who removed them, and that is what is said.
pub fn look_after(action: &mut Action, error: &ExecutorError, aside: &Aside) {
    action.state = ActionState::Failed;
    let still_there = still_there(action, aside);
    let mut gone: HashSet<PathBuf> = HashSet::new();
    for object in action.objects.iter_mut().filter(|o| o.outcome == ObjectOutcome::Pending) {
        object.outcome = ObjectOutcome::Failed;
        let reason = match &still_there {
            _ if object.cut.is_some() => "it may have been cut before the executor failed".to_owned(),
            Ok(there) if there.contains(&object.path) => {
                object.outcome = ObjectOutcome::Skipped;
                "still there after the executor failed".to_owned()
            }
            Ok(_) => {
                gone.insert(object.path.clone());
                "not under its name after the executor failed: removed, or in quarantine until the next start"
                    .to_owned()
            }
            Err(why) => format!("nobody can tell whether it went before the executor failed: {why}"),
        };
        action.refused.push(Refusal { path: Some(object.path.clone()), reason });
    }
    action.refused = bounded(std::mem::take(&mut action.refused));
    let total = action.objects.len();
    action.detail = match still_there {
        Ok(_) => format!("{error}; {} of {total} objects are no longer under their names", gone.len()),
        Err(why) => format!("{error}; which of {total} objects went nobody can tell: {why}"),
    };
}

/// Which of those that a removal has brought no outcome are still under their names.
fn still_there(action: &Action, aside: &Aside) -> Result<HashSet<PathBuf>, String> {
    let is_open = |o: &&PlannedObject| o.outcome == ObjectOutcome::Pending && o.cut.is_none();
    let open = action.objects.iter().filter(is_open);
    let open: Vec<_> = open.map(|o| (o.path.clone(), o.device, o.inode)).collect();
    if open.is_empty() {
        return Ok(HashSet::new());
    }
    aside.look(Path::new(&action.mount), move || {
        let is_there = |(path, device, inode): &(PathBuf, u64, u64)| {
            let found = std::fs::symlink_metadata(path);
            found.is_ok_and(|m| m.dev() == *device && m.ino() == *inode)
        };
        open.into_iter().filter(is_there).map(|(path, _, _)| path).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use dogwatch::record::Cut;

    use super::*;
    use crate::act::specimen;
    use crate::own_mounts::{in_own_mounts, mount_dead};

    #[test]
    fn a_disk_that_does_not_answer_keeps_nobody_from_saying_how_an_action_ended() {
        in_own_mounts(|base| {
            let share = base.join("share");
            std::fs::create_dir(&share).unwrap();
            let server = mount_dead(&share);
            let cut = Some(Cut { from: 0, to: 10, tail: Vec::new() });
            let live = PlannedObject { cut, ..specimen::object(share.join("app.log")) };
            let mut action = specimen::action(vec![specimen::object(share.join("app.log.1")), live]);
            let (told, ended) = channel();
            let looks = std::thread::spawn(move || {
                let aside = Aside::new(Duration::from_millis(20));
                look_after(&mut action, &ExecutorError::Hung(Duration::from_secs(540)), &aside);
                let _ = told.send(action);
            });
            let ended = ended.recv_timeout(Duration::from_secs(60));
            // Whoever waits for it waits until then.
            drop(server);
            looks.join().unwrap();
            let action = ended.expect("it waits for the server");
            assert_eq!(action.state, ActionState::Failed);
            assert!(action.objects.iter().all(|o| o.outcome == ObjectOutcome::Failed), "{action:?}");
            assert!(action.detail.contains("which of 2 objects went nobody can tell"), "{}", action.detail);
            let said: Vec<_> = action.refused.iter().map(|r| r.reason.as_str()).collect();
            assert!(said[0].contains("does not answer") && said[1].contains("may have been cut"), "{said:?}");
        });
    }
}
