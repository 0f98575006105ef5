//! Threads beside the core that wait for disks, so that it does not.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use super::RunError;
use crate::ballast::{Ask, Keeper};
use crate::config::Config;
use crate::core::ballast::{LOOKS, marks};
use crate::core::{Lookouts, Message};
use crate::sample::Roots;
use crate::usage::report::inquiry;
use crate::usage::rounds::{Newest, RoundsConfig, rounds};
use crate::usage::scout::{APART, scout};

/// The thread that looks after the ballast: it alone waits for the state folder's disk. What is there, and what could not
/// be taken, is said before anything else happens.
pub(super) fn start_ballast(
    config: &Config,
    inbox: &SyncSender<Message>,
) -> Result<Option<SyncSender<Ask>>, RunError> {
    let (asks_tx, asks) = sync_channel(LOOKS);
    let inbox = inbox.clone();
    let (state, wanted, marks) = (config.state_dir.clone(), config.ballast, marks(&config.detect));
    std::thread::Builder::new().name("ballast".to_owned()).spawn(move || {
        let mut keeper = Keeper::open(&state, wanted, marks);
        // The core ends only when the agent does.
        if inbox.send(Message::Ballast(keeper.told())).is_ok() {
            keeper.run(&asks, |told| inbox.send(Message::Ballast(told)).is_ok());
        }
    })?;
    Ok(Some(asks_tx))
}

/// Who is asked what fills a mount, and who walks by itself. The core asks, and ends only when the agent does; it is told of
/// each walk, and where it has no room of the next one.
pub(super) fn start_lookouts(
    roots: &Roots,
    walks: Option<RoundsConfig>,
    inbox: &SyncSender<Message>,
) -> Result<Lookouts, RunError> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let (asker, scout) = scout(roots.clone(), APART);
    let to_core = inbox.clone();
    thread("scout")
        .spawn(move || scout.run(|answer| to_core.send(Message::Cause(Box::new(answer))).is_ok()))?;
    let newest = Newest::default();
    let mut nudge = None;
    if let Some(config) = walks {
        let (ask, rounds) = rounds(roots.clone(), config, newest.clone());
        let inbox = inbox.clone();
        let told =
            move |grown| !matches!(inbox.try_send(Message::Grown(grown)), Err(TrySendError::Disconnected(_)));
        thread("usage").spawn(move || rounds.run(told))?;
        nudge = Some(ask);
    }
    let (inquire, inquiry) = inquiry(roots.clone(), newest);
    thread("usage-asked").spawn(move || inquiry.run())?;
    Ok(Lookouts { scout: Some(asker), rounds: nudge, inquire: Some(inquire) })
}
