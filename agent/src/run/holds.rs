//! The thread that keeps what is held: it alone waits for the disk and the executor.
//!
//! Invariant: no survey is answered, and so no plan made, before the core knows what the last run kept.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use crate::act::aside::Aside;
use crate::act::hold::{HoldSet, NodeHold};
use crate::act::hold_line::HoldLine;
use crate::act::real_path::CleanupRoots;
use crate::act::work::Job;
use crate::core::{Held, Message};

/// How long a held path may take to say where it lies: what is held waits for it, and then everything is.
const HELD_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

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
    let (sets_tx, sets) = channel::<Vec<NodeHold>>();
    let (roots_tx, roots) = sync_channel(1);
    let (told_tx, told) = sync_channel(1);
    let inbox = inbox.clone();
    std::thread::Builder::new().name("holds".to_owned()).spawn(move || {
        let Ok(roots) = roots.recv() else { return };
        let aside = Aside::new(HELD_ANSWERS_WITHIN);
        let held = |line: &HoldLine, kept| {
            let now = line.now();
            let (count, unknown) = match &now.set {
                HoldSet::Known(holds) => (holds.len(), None),
                HoldSet::Unknown(why) => (0, Some(why.clone())),
            };
            let (places, absent) = (now.resolved_apart(&roots, &aside), now.absent(&roots, &aside));
            Message::Held(Held { count, places, absent, kept, unknown })
        };
        // The core ends only when the agent does.
        let _ = inbox.send(held(&line, None));
        let _ = told_tx.send(());
        while let Ok(set) = sets.recv() {
            let before = line.now().set;
            let kept = line.keep(set);
            // The thread that takes jobs lives as long as the agent.
            if line.now().set != before {
                let _ = jobs.send(Job::Aside);
            }
            if inbox.send(held(&line, Some(kept))).is_err() {
                break;
            }
        }
    })?;
    Ok((sets_tx, First { roots: roots_tx, told }))
}
