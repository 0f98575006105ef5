//! Reading the journal for one stream's call, on blocking threads: a stalled disk stalls only its reader.

use std::collections::HashMap;
use std::path::PathBuf;

use dogwatch::chain::SignedHead;
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{Incarnation, Seq, Stream};
use dogwatch::wire;
use tokio::task::{JoinError, JoinHandle};

/// Bytes read from the journal at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Incarnations that Hello names: what a collector takes at most. Of more than that the newest are named.
const MAX_KEPT: usize = 4096;

/// Entries read from the journal, and where to go on.
pub(super) struct Batch {
    pub(super) entries: Vec<(Position, FrameKind, bytes::Bytes)>,
    pub(super) next: Position,
    /// Whether there is nothing behind it until the recorder tells of something new.
    pub(super) ended: bool,
}

/// Waits for the read under way; for ever where there is none.
pub(super) async fn joined(
    reading: &mut Option<JoinHandle<Result<Batch, String>>>,
) -> Result<Result<Batch, String>, JoinError> {
    match reading {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}

pub(super) fn read(dir: PathBuf, after: Position, stream: Stream) -> JoinHandle<Result<Batch, String>> {
    tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&dir).map_err(|e| e.to_string())?;
        let mut batch = Batch { entries: Vec::new(), next: after, ended: true };
        let mut bytes = 0;
        for entry in reader.scan_after(after) {
            let entry = entry.map_err(|e| e.to_string())?;
            batch.next = entry.at;
            let wanted = match entry.kind {
                // The recorder's blocks stay on the node until an incident asks; its signed heads anchor them.
                FrameKind::Block => stream != Stream::Recorder,
                FrameKind::SignedHead => true,
                FrameKind::Receipt | FrameKind::Decision => false,
            };
            if wanted {
                bytes += entry.payload.len();
                batch.entries.push((entry.at, entry.kind, entry.payload));
            }
            if bytes >= READ_BYTES {
                batch.ended = false;
                break;
            }
        }
        Ok(batch)
    })
}

/// A block as the journal's index has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Indexed {
    pub(super) at: Position,
    pub(super) incarnation: Incarnation,
    pub(super) last_seq: Seq,
}

/// What the journal holds.
pub(super) struct Held {
    /// By incarnation, oldest first.
    pub(super) kept: Vec<wire::Kept>,
    /// Oldest first.
    pub(super) blocks: Vec<Indexed>,
}

pub(super) async fn held(dir: PathBuf) -> Result<Held, String> {
    let list = move || -> Result<Held, String> {
        let index = Reader::open(&dir).and_then(|r| r.blocks()).map_err(|e| e.to_string())?;
        let mut held = Held { kept: Vec::new(), blocks: Vec::with_capacity(index.len()) };
        for (at, info) in index {
            let incarnation = info.chain.incarnation;
            held.blocks.push(Indexed { at, incarnation, last_seq: info.last_seq });
            match held.kept.iter_mut().rev().find(|k| k.incarnation[..] == incarnation.0) {
                Some(k) => k.last_seq = k.last_seq.max(info.last_seq),
                None => held.kept.push(wire::Kept {
                    incarnation: incarnation.0.to_vec().into(),
                    first_seq: info.first_seq,
                    last_seq: info.last_seq,
                }),
            }
        }
        if held.kept.len() > MAX_KEPT {
            let surplus = held.kept.len() - MAX_KEPT;
            held.kept.drain(..surplus);
            let named: HashMap<&[u8], ()> = held.kept.iter().map(|k| (&k.incarnation[..], ())).collect();
            held.blocks.retain(|b| named.contains_key(&b.incarnation.0[..]));
        }
        Ok(held)
    };
    blocking(list).await
}

/// The newest signed head of each incarnation that stands at `from` or behind it and before `until`, and where reading
/// ended. A head covers those before it, so the others need not be sent again with each connection.
pub(super) async fn earlier_heads(
    dir: PathBuf,
    from: Position,
    until: Option<Position>,
) -> Result<(Vec<(Position, wire::SignedHead)>, Position), String> {
    let list = move || -> Result<_, String> {
        let mut newest: HashMap<Incarnation, (Position, wire::SignedHead)> = HashMap::new();
        let mut read_to = Position::default();
        for entry in Reader::open(&dir).map_err(|e| e.to_string())?.scan(from) {
            let entry = entry.map_err(|e| e.to_string())?;
            if until.is_some_and(|until| entry.at > until) {
                break;
            }
            read_to = entry.at;
            if entry.kind == FrameKind::SignedHead
                && let Ok(head) = SignedHead::from_bytes(&entry.payload)
                && let Ok(said) = head.decode()
            {
                newest.insert(said.chain.incarnation, (entry.at, wire::SignedHead::from(&head)));
            }
        }
        let mut heads: Vec<_> = newest.into_values().collect();
        heads.sort_by_key(|(at, _)| *at);
        Ok((heads, read_to))
    };
    blocking(list).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}
