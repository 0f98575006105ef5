//! The thread that keeps what is held: it alone waits for the disk and the executor.
//!
//! Invariant: no survey is answered, and so no plan made, before the core knows what the last run kept.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::act::aside::Aside;
use crate::act::hold::{HeldPlace, HeldThing, Hold, HoldSet, NodeHold};
use crate::act::hold_line::HoldLine;
use crate::act::real_path::CleanupRoots;
use crate::act::work::Job;
use crate::core::{Held, Message};

/// How long a held path may take to say where it lies: what is held waits for it, and then everything is.
const HELD_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Where everything is held because nobody could tell where a hold lies, that is looked at again this long after: what was in the
/// way (a table of mounts that is too long, a disk that did not answer) goes without a word to us.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Has the core told what the last run kept, once it is known where may be cleaned.
pub(super) struct First {
    roots: SyncSender<CleanupRoots>,
    told: Receiver<()>,
}

impl First {
    /// Tells it, and returns when the core has it before anything that is sent from here on.
    pub(super) fn tell(self, roots: CleanupRoots) {
        // A thread that has ended does so with the agent.
        if self.roots.send(roots).is_ok() {
            let _ = self.told.recv();
        }
    }
}

/// Starts it. Sets of holds that come before it is known where may be cleaned wait for that.
pub(super) fn start_holds(
    line: HoldLine,
    inbox: &SyncSender<Message>,
    jobs: Sender<Job>,
) -> io::Result<(Sender<Vec<NodeHold>>, First)> {
    start_looking(line, inbox, jobs, LOOK_AGAIN)
}

fn start_looking(
    line: HoldLine,
    inbox: &SyncSender<Message>,
    jobs: Sender<Job>,
    look_again: Duration,
) -> io::Result<(Sender<Vec<NodeHold>>, First)> {
    let (sets_tx, sets) = channel::<Vec<NodeHold>>();
    let (roots_tx, roots) = sync_channel(1);
    let (told_tx, told) = sync_channel(1);
    let inbox = inbox.clone();
    std::thread::Builder::new().name("holds".to_owned()).spawn(move || {
        let Ok(roots) = roots.recv() else { return };
        let aside = Aside::new(HELD_ANSWERS_WITHIN);
        // Whether it is worth another look, once the core has it.
        let tell = |kept| {
            let now = line.now();
            let (count, is_set) = match &now.set {
                HoldSet::Known(holds) => (holds.len(), true),
                HoldSet::Unknown(_) => (0, false),
            };
            let (places, absent) = (now.resolved_apart(&roots, &aside), now.absent(&roots, &aside));
            let unknown = why_unknown(&now.set, &places);
            let looks_again = is_set && unknown.is_some();
            let held = Held { count, places, absent, kept, unknown };
            inbox.send(Message::Held(held)).map(|()| looks_again)
        };
        // The core ends only when the agent does.
        let Ok(mut looks_again) = tell(None) else { return };
        let _ = told_tx.send(());
        loop {
            let next = match looks_again {
                true => sets.recv_timeout(look_again),
                false => sets.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let kept = match next {
                Ok(set) => {
                    let before = line.now().set;
                    let kept = line.keep(set);
                    // The thread that takes jobs lives as long as the agent.
                    if line.now().set != before {
                        let _ = jobs.send(Job::Aside);
                    }
                    Some(kept)
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            looks_again = match tell(kept) {
                Ok(looks_again) => looks_again,
                Err(_) => break,
            };
        }
    })?;
    Ok((sets_tx, First { roots: roots_tx, told }))
}

/// Why everything is held though nobody said so, if it is: `places` are where `set` lies.
fn why_unknown(set: &HoldSet, places: &[Hold]) -> Option<String> {
    let said = |place: &Hold| match set {
        HoldSet::Known(holds) => holds.iter().any(|h| h.id == place.id && h.what == HeldThing::Node),
        HoldSet::Unknown(_) => false,
    };
    let unsaid = places.iter().find(|place| place.place == HeldPlace::Everywhere && !said(place))?;
    Some(match unsaid.is_unknown() {
        true => unsaid.reason.clone(),
        false => format!("{}: {}", unsaid.id, unsaid.reason),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::mount::{UnmountFlags, unmount};

    use super::*;
    use crate::own_mounts::{fill_the_table, in_own_mounts};

    /// Longest wait for a look that comes at once.
    const SOON: Duration = Duration::from_secs(60);

    fn hold(id: &str, what: HeldThing) -> NodeHold {
        NodeHold { id: id.to_owned(), what, reason: "court".to_owned() }
    }

    #[test]
    fn what_a_table_of_mounts_hid_is_looked_at_again_without_another_set() {
        in_own_mounts(|base| {
            let state = tempfile::tempdir().unwrap();
            let full = base.join("full");
            fill_the_table(&full);
            let (inbox, messages) = sync_channel(16);
            let (jobs, _kept) = channel();
            let line = HoldLine::open(state.path(), Path::new("/"));
            let (sets, first) = start_looking(line, &inbox, jobs, Duration::from_millis(1)).unwrap();
            let next = || match messages.recv_timeout(SOON).unwrap() {
                Message::Held(held) => held,
                other => unreachable!("{other:?}"),
            };
            let ends_held = |held: &Held| held.places.iter().any(|p| p.covers(Path::new("/any")));
            let teller = std::thread::spawn(move || first.tell(CleanupRoots::default()));
            let held = next();
            teller.join().unwrap();
            assert!(ends_held(&held) && held.kept.is_none());
            let why = held.unknown.unwrap();
            assert!(why.contains("not known: the table of mounts is longer"), "{why}");
            sets.send(vec![hold("hold-1", HeldThing::Path("/var/log/app".into()))]).unwrap();
            let kept = std::iter::repeat_with(next).find(|held| held.kept.is_some()).unwrap();
            assert!(ends_held(&kept) && kept.count == 1 && kept.unknown.is_some());
            // Nobody says anything any more; somebody unmounts.
            unmount(&full, UnmountFlags::DETACH).unwrap();
            let told = std::iter::repeat_with(next).find(|held| held.unknown.is_none()).unwrap();
            assert!(told.kept.is_none() && !ends_held(&told), "{told:?}");
            assert!(told.places.iter().any(|p| p.covers(Path::new("/var/log/app/x"))), "{told:?}");
            drop(sets);
            drop(inbox);
            assert!(
                messages.recv_timeout(SOON).is_err(),
                "nothing is unknown, so nothing is looked at again"
            );
        });
    }

    #[test]
    fn everything_is_unknown_only_where_nobody_held_the_node() {
        let everywhere = |id: &str, reason: &str| Hold {
            id: id.to_owned(),
            place: HeldPlace::Everywhere,
            reason: reason.to_owned(),
        };
        let known = HoldSet::Known(vec![
            hold("hold-1", HeldThing::Node),
            hold("hold-2", HeldThing::Path("/srv".into())),
        ]);
        assert_eq!(why_unknown(&known, &[everywhere("hold-1", "court")]), None);
        let silent = [everywhere("hold-1", "court"), everywhere("hold-2", "where it holds is not known: x")];
        assert_eq!(why_unknown(&known, &silent).unwrap(), "hold-2: where it holds is not known: x");
        let lost = why_unknown(&HoldSet::Unknown("torn".to_owned()), &[Hold::unknown("torn")]).unwrap();
        assert_eq!(lost, "what is held here is not known: torn");
    }
}
