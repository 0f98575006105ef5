//! Writes of which nobody knows whether they stand: the journal failed under them.
//!
//! Invariants
//! - What nodes and people were told is what will be: a release that did not say that it stands is taken back by the stops
//!   that were in force, and a permit by its end. The rest comes to the same if it stands twice, and is written again.
//! - Only a later write that stands says where all before it do: a frame that was whole when the journal failed may
//!   be read at any time after, and none behind it ([`Store::mark`](crate::store::Store::mark)) says so before.
//! - Then the index's fold is taken up, and never an open one in the place of a stop: that is a difference.

use dogwatch::clock;

use super::Keeper;
use crate::incident::COLLECTOR;
use crate::store::Mark;
use crate::store::decision::{Decision, PermitEnd, What};

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Astray {
    /// To be written before anybody can tell.
    again: Vec<What>,
    /// What was durable after that.
    mark: Option<Mark>,
}

impl Keeper {
    /// Nobody knows whether these stand.
    pub(super) fn uncertain(&mut self, decisions: Vec<Decision>) {
        let mut again = self.astray.take().unwrap_or_default().again;
        for decision in decisions {
            let what = match decision.what {
                What::PermitGranted { node, action, .. } => {
                    Some(What::PermitEnded { node, action, how: PermitEnd::Lapsed })
                }
                What::BrakeReleased { .. } => self.stop_again(),
                what => Some(what),
            };
            again.extend(what.filter(|what| !again.contains(what)));
        }
        self.astray = Some(Astray { again, mark: None });
    }

    /// Stops by what is in force; where nothing is, a decision that changes nothing and shows where the journal is.
    fn stop_again(&mut self) -> Option<What> {
        let ledger = self.brake.ledger();
        let paused = ledger.paused.clone().map(|s| (What::BrakePaused { reason: s.reason }, s.by));
        let tripped = ledger.tripped.clone().map(|s| {
            let (finding, past) = (s.finding, None);
            let (reason, node, action, cites, cause) = (s.reason, s.node, s.action, s.cites, s.cause);
            (What::BrakeTripped { reason, finding, node, action, cites, past, cause }, s.by)
        });
        if paused.is_none() && tripped.is_none() {
            // No action is without an id.
            let node = self.claims.alone().next()?.node.clone();
            return Some(What::PermitEnded { node, action: String::new(), how: PermitEnd::Lapsed });
        }
        for (what, by) in paused.into_iter().chain(tripped) {
            self.force(what, &by);
        }
        None
    }

    /// Something was made durable.
    pub(super) fn durable(&mut self) {
        self.failing = None;
        if let Some(Astray { mark: Some(mark), .. }) = &mut self.astray {
            // The index must have that, too, before its fold is taken up.
            *mark = self.store.mark();
        }
    }

    /// The index's fold is to be taken up once it has all that is durable now.
    pub(super) fn astray_since(&mut self) {
        self.failing = None;
        let again = self.astray.take().unwrap_or_default().again;
        let mark = again.is_empty().then(|| self.store.mark());
        self.astray = Some(Astray { again, mark });
    }

    /// Settles what is astray, and takes up the index's fold once that has come so far.
    pub(super) async fn take_up(&mut self, ticked: bool) {
        let Some(astray) = self.astray.as_ref().filter(|_| self.unwritten.is_empty()) else { return };
        let Some(mark) = &astray.mark else {
            if ticked || astray.again.is_empty() {
                self.write_again(astray.again.clone()).await;
            }
            return;
        };
        if !self.store.told(mark) || !self.store.answers() {
            return;
        }
        let Ok(ledger) = self.store.brake().await else { return };
        let own = self.brake.ledger();
        let opens = own.stopped().is_some() && ledger.stopped().is_none();
        if opens || ledger.revision < own.revision {
            if self.differs() {
                self.astray_since();
            } else {
                self.astray = None;
                let why = if opens { "a stop is missing in it" } else { "the newest of it is missing" };
                self.differ(why).await;
            }
            return;
        }
        let now = self.now_ns();
        self.brake.take_up(ledger, now);
        self.astray = None;
        self.agreed().await;
    }

    async fn write_again(&mut self, again: Vec<What>) {
        let wall_ns = clock::wall_ns();
        let decision = |what| Decision { wall_ns, actor: COLLECTOR.to_owned(), what };
        match self.store.decide_all(again.into_iter().map(decision).collect()).await {
            Ok(()) => {
                if let Some(astray) = &mut self.astray {
                    astray.again.clear();
                }
                self.astray_since();
            }
            Err(error) => self.fail(&error),
        }
    }
}
