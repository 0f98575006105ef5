//! What the owner of the brake does in doubt: what nodes say they were told, what the store may have lost, and an index
//! that says other than was decided.
//!
//! Invariants: cleanups are stopped from the moment at which a doubt is found, and no permit is given while one is looked
//! at; a doubt of the store's is settled there only once the decision that says so is durable. What is in force here and
//! what the index holds are one fold of the same decisions, so a difference means that one of them cannot be read
//! any more; then the index's fold, with a stop behind it, is taken up as a restart would.

use super::super::board::Stopping;
use super::super::handle::Unknown;
use super::super::tell;
use super::Keeper;
use crate::incident::COLLECTOR;
use crate::store::Mark;
use crate::store::decision::{Decision, Past, What};

const SECOND_NS: u64 = 1_000_000_000;
/// What nodes say that is looked up before the next turn of anything else.
const AT_ONCE: usize = 64;
/// So long the index may not answer before a node's word is taken as one that nobody knows.
const ANSWER_NS: u64 = 60 * SECOND_NS;
/// A place that is kept for so long beyond its time is worth a word; the next look at what is due takes one or two.
const OVERDUE_NS: u64 = 5 * SECOND_NS;
/// A node that has a place says something more often than so.
const UNHEARD_NS: u64 = 60 * SECOND_NS;

/// What the owner is in doubt about.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Of the store: what is to be settled there once all stops are durable.
    store: Option<Option<String>>,
    /// Why that failed the last time.
    settling: Option<String>,
    /// Frames that the index did not understand, and how often it was built, when it was compared last.
    looked: (u64, u32),
    /// To be compared, once the index has come so far, with the lineage of then.
    compare: Option<(Mark, u64)>,
    /// The index says other than was decided.
    differs: Option<Differs>,
    /// How far the index is behind, ns.
    behind_ns: u64,
}

#[derive(Debug)]
struct Differs {
    /// Told until the index's fold is taken up.
    _early: Stopping,
    /// The stop that is to be written, until it is.
    unwritten: Option<Decision>,
}

impl Keeper {
    /// Whether something is looked at that may be a stop.
    pub(super) fn in_doubt(&self) -> bool {
        self.astray.is_some()
            || self.doubts.differs.is_some()
            || self.doubts.compare.is_some()
            || self.claims.waiting() > 0
    }

    /// Whether the index's fold is about to take the place of what is in force here.
    pub(super) fn differs(&self) -> bool {
        self.doubts.differs.is_some()
    }

    /// Looks what the store is in doubt about; if there is something new, cleanups are stopped when this returns, which is
    /// still to be told and kept.
    pub(super) fn doubt_store(&mut self) -> bool {
        if self.doubts.store.as_ref().is_some_and(Option::is_some) {
            return false;
        }
        let why = self.store.truth_doubt(self.brake.ledger().stopped().is_some());
        if let Some(why) = &why {
            self.force(tell::lost(why), COLLECTOR);
            self.doubts.store = Some(Some(why.clone()));
        } else if self.store.truth_left_out() && self.astray.is_none() && self.store.answers() {
            // Nothing is in force that it could have been, and what was released since is known: a later stop is no doubt.
            self.doubts.store.get_or_insert(None);
        }
        why.is_some()
    }

    /// Says to the store that its doubt is a decision by now, or that there is none.
    pub(super) async fn settle_store(&mut self) {
        if !self.unwritten.is_empty() {
            return;
        }
        let Some(dealt) = self.doubts.store.take() else { return };
        match self.store.settle_truth(dealt.clone()).await {
            Ok(()) => self.doubts.settling = None,
            Err(error) => {
                let why = error.to_string();
                if self.doubts.settling.as_ref() != Some(&why) {
                    tracing::error!(%error, "what was in doubt is decided, and cannot be taken back: the next start will stop cleanups again");
                }
                self.doubts.settling = Some(why);
                self.doubts.store = Some(dealt);
            }
        }
    }

    /// At the start, once the store's doubt was looked at: whatever there is, or is not, is to be settled.
    pub(super) fn begin_to_settle(&mut self) {
        self.doubts.store.get_or_insert(None);
        let index = self.store.status().index;
        self.doubts.looked = (index.odd_frames, index.rebuilds);
    }

    /// Looks up what nodes say they were told.
    pub(super) async fn weigh(&mut self, ticked: bool) {
        // After a failure only once a second.
        if self.claims.waiting() == 0 || self.index_fails && !ticked {
            return;
        }
        for _ in 0..AT_ONCE {
            let Some((claim, since_ns)) = self.claims.take() else { return };
            if self.brake.ledger().knows(claim.state) {
                continue;
            }
            match self.store.brake_told(claim.state).await {
                Ok(true) => {
                    self.index_fails = false;
                    self.claims.recognise(&claim);
                    self.publish();
                }
                Ok(false) => {
                    self.index_fails = false;
                    self.unknown(claim).await;
                }
                Err(error) if self.now_ns().saturating_sub(since_ns) < ANSWER_NS => {
                    if !self.index_fails {
                        tracing::warn!(%error, node = %claim.node, "whether this collector told a node's stop is not known yet; nobody is given a permit until it is");
                    }
                    self.index_fails = true;
                    self.claims.put_back(claim, since_ns);
                    return;
                }
                Err(_) => self.unknown(claim).await,
            }
        }
    }

    /// A node was told of a stop that this collector does not know: it, and others like it, are lost here.
    async fn unknown(&mut self, claim: Unknown) {
        let node = claim.node.clone();
        let Some(claim) = self.claims.judge(claim, self.brake.ledger()) else {
            // It takes no place that it cannot use.
            return self.brake.withdraw(&node);
        };
        self.unknown = if self.brake.ledger().tripped.is_some() { self.unknown + 1 } else { 0 };
        if self.unknown >= super::MAX_UNKNOWN {
            // All are stopped; the release deals with it among those that are stopped alone.
            self.claims.keep(claim);
            return;
        }
        self.stop(tell::forgotten(&claim, self.brake.ledger().revision), COLLECTOR).await;
    }

    /// Holds the index against what is in force here, whenever it met something odd or was built anew.
    pub(super) async fn compare(&mut self, ticked: bool) {
        if ticked {
            let index = self.store.status().index;
            self.doubts.behind_ns = u64::try_from(index.lag.as_nanos()).unwrap_or(u64::MAX);
            let now = (index.odd_frames, index.rebuilds);
            // Only of a moment at which the index can have all that is in force here.
            if now != self.doubts.looked && self.unwritten.is_empty() {
                self.doubts.looked = now;
                self.doubts.compare = Some((self.store.mark(), self.brake.ledger().lineage));
            }
        }
        self.write_difference().await;
        if self.astray.is_some() || self.differs() || !self.unwritten.is_empty() {
            return;
        }
        let Some((mark, lineage)) = &self.doubts.compare else { return };
        let now = self.brake.ledger().lineage;
        if *lineage != now {
            self.doubts.compare = Some((self.store.mark(), now));
            return;
        }
        if !self.store.told(mark) {
            return;
        }
        // While the index does not answer it is asked again.
        if !self.store.answers() {
            return;
        }
        let Ok(ledger) = self.store.brake().await else { return };
        self.doubts.compare = None;
        let own = self.brake.ledger();
        if (ledger.revision, ledger.lineage) != (own.revision, own.lineage) {
            let why = ledger.stopped().map_or_else(String::new, |s| s.reason.clone());
            self.differ(&why).await;
        }
    }

    pub(super) async fn differ(&mut self, why: &str) {
        let ledger = self.brake.ledger();
        let state = Past { revision: ledger.revision, lineage: ledger.lineage };
        let what = tell::unreadable(why, state);
        let What::BrakeTripped { reason, .. } = &what else { return };
        tracing::error!(reason, "decisions cannot be read any more; cleanups are stopped on every node");
        // Nodes hear it now; what is written below takes effect by the index's fold, where it has its place.
        let early = self.board.stop(true, reason.clone());
        let decision = self.sealed(what, COLLECTOR);
        self.doubts.differs = Some(Differs { _early: early, unwritten: Some(decision) });
        self.write_difference().await;
    }

    async fn write_difference(&mut self) {
        let Some(decision) = self.doubts.differs.as_ref().and_then(|d| d.unwritten.clone()) else { return };
        match self.store.decide_all(vec![decision]).await {
            Ok(()) => {
                self.astray_since();
                if let Some(differs) = &mut self.doubts.differs {
                    differs.unwritten = None;
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// The index's fold was taken up: its stop is told from here on.
    pub(super) async fn agreed(&mut self) {
        if self.doubts.differs.as_ref().is_none_or(|d| d.unwritten.is_some()) {
            return;
        }
        // Before the early word goes.
        self.publish();
        self.doubts.differs = None;
        self.keep_and_tell(COLLECTOR).await;
    }

    /// Nodes that keep a place beyond their time, and why.
    pub(super) fn overdue(&self) -> (usize, String) {
        let nodes = self.brake.overdue(self.now_ns().saturating_sub(OVERDUE_NS));
        let why = if self.missed {
            "what nodes said is not looked up yet, since the index does not answer".to_owned()
        } else {
            let behind = i64::try_from(self.doubts.behind_ns / SECOND_NS).unwrap_or(i64::MAX);
            format!("the index is {} behind what nodes said", crate::wording::span(behind))
        };
        (nodes, why)
    }

    /// What people should know, and what to do.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.brake.ledger().tripped.as_ref().and_then(tell::remedy));
        notes.extend(self.claims.alone().map(|claim| tell::alone(claim, self.brake.ledger())));
        let (overdue, why) = self.overdue();
        if overdue > 0 {
            notes.push(format!(
                "{overdue} nodes keep their places although their time is over: {why}, and that may speak against them; \
                 `dogwatch status` says how the index does"
            ));
        }
        let unheard = self.brake.unheard(self.now_ns().saturating_sub(UNHEARD_NS));
        if unheard > 0 {
            notes.push(format!(
                "{unheard} nodes keep their places although their watch is over: nothing was heard of them since, and one that falls \
                 silent after its cleanup stops all; `dogwatch get nodes` says which are silent"
            ));
        }
        if self.astray.is_some() {
            notes.push(
                "the journal failed under a decision, which is being settled; until it is nobody is given a permit, and a release \
                 that reported the failure does not count"
                    .to_owned(),
            );
        }
        if self.claims.waiting() > 0 {
            notes.push(format!(
                "{} nodes tell of stops that are still looked up; nobody is given a permit until they are",
                self.claims.waiting()
            ));
        }
        if let Some(why) = &self.doubts.settling {
            notes.push(format!("the next start of the collector will stop cleanups again: {why}"));
        }
        notes
    }
}
