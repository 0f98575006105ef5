//! What cleanups left before this start, read back from the record: what they spent of their hourly budgets, and those of
//! which the end was never said; and what keeps the record of what they remove.
//!
//! A restart must not give the budgets back: whoever restarts the agent again and again would have it remove without bound.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Kind, Kinds, Stream};

use super::{RunError, failed};
use crate::act::ledger::{HOUR_NS, Ledger, RECALLED_NS, Recovery};
use crate::act::policy::Rules;
use crate::act::unfinished::{Open, Unfinished};
use crate::act::witness::{PreserveBudget, Recorded, Witness};
use crate::act::work::Done;
use crate::core::Message;
use crate::record::Recorder;

/// How long the core may take to give a record its seq: it never waits for a disk.
const SEQ_WITHIN: Duration = Duration::from_secs(5);

/// What the last runs' actions spent within the hour, by what `rules` say of their objects now, and those that have no end
/// yet, however old: an agent that was away for long says it all the same.
pub(super) fn spent(recorder: &Recorder, rules: &Rules) -> Result<(Ledger, Vec<Unfinished>), RunError> {
    let now = clock::now();
    let (mut recovery, mut open) = (Recovery::new(rules, now), Open::default());
    let since = now.wall_ns.saturating_sub_unsigned(RECALLED_NS);
    recorder
        .recall(Stream::Urgent, Recovery::kinds(), i64::MIN, |record| {
            open.take(&record.body);
            if record.at.wall_ns >= since {
                recovery.take(record);
            }
        })
        .map_err(failed("reading what earlier cleanups left"))?;
    Ok((recovery.ledger(), open.unfinished()))
}

/// What keeps in the record what the executor is about to remove.
pub(super) fn witness(
    recorder: &Recorder,
    inbox: &SyncSender<Message>,
    budget: PreserveBudget,
) -> Result<Arc<dyn Witness>, RunError> {
    let inbox = inbox.clone();
    let push = Box::new(move |body| {
        let (seq, given) = sync_channel(1);
        inbox.send(Message::Done(Done::Keep { body: Box::new(body), seq })).ok()?;
        given.recv_timeout(SEQ_WITHIN).ok()
    });
    let recorded = Recorded::new(recorder.clone(), push, budget);
    let since = clock::now().wall_ns.saturating_sub_unsigned(HOUR_NS);
    recorder
        .recall(Stream::Evidence, Kinds::default().with(Kind::File), since, |r| recorded.recall(&r))
        .map_err(failed("reading how much content was kept"))?;
    Ok(Arc::new(recorded))
}
