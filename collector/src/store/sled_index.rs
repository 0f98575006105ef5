//! The index on disk, in sled: the only file that names it.
//!
//! sled has been seen to panic or hang inside `open`, to hang for good after a full disk, and to lose what it reported
//! as durable. So it only ever runs under the watchdog, holds nothing that the journals cannot give again, and its
//! cache is bounded.
//!
//! Deliberately absent: sled's background flusher (its errors reach nobody); the indexer asks for flushes.

use std::path::Path;
use std::sync::Arc;

use super::index::{Batch, Index, IndexError, Opener, Pair, Span};

/// sled's page cache: the index is small, and unbounded sled has been seen to take gigabytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// A sled database.
#[derive(Debug)]
struct SledIndex(sled::Db);

/// Opens or creates a database in a folder.
pub fn opener() -> Opener {
    Arc::new(|dir: &Path| {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(failed("open"))?;
        Ok(Box::new(SledIndex(db)) as Box<dyn Index>)
    })
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0.get(key).map_err(failed("read"))?.map(|v| v.to_vec()))
    }

    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError> {
        let from = span.from.clone();
        let range = match &span.to {
            Some(to) if *to <= from => return Ok(Vec::new()),
            Some(to) => self.0.range(from..to.clone()),
            None => self.0.range(from..),
        };
        let pair = |r: sled::Result<(sled::IVec, sled::IVec)>| {
            r.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(failed("scan"))
        };
        if span.reverse {
            range.rev().take(limit).map(pair).collect()
        } else {
            range.take(limit).map(pair).collect()
        }
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut b = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(v) => b.insert(key, v),
                None => b.remove(key),
            }
        }
        self.0.apply_batch(b).map_err(failed("write"))
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.0.flush().map(|_| ()).map_err(failed("flush"))
    }

    fn engine(&self) -> &'static str {
        "sled"
    }
}

fn failed(what: &'static str) -> impl Fn(sled::Error) -> IndexError {
    move |e| IndexError::Failed { what, detail: e.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::memory_index::MemoryIndex;
    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..4, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_answers_what_an_ordered_map_answers(
            batches in proptest::collection::vec(
                proptest::collection::btree_map(key(), proptest::option::of(key()), 0..8), 1..6),
            spans in proptest::collection::vec((key(), proptest::option::of(key()), any::<bool>(), 0usize..9), 1..9),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let sled = opener()(dir.path()).unwrap();
            let memory = MemoryIndex::default();
            for batch in batches {
                sled.apply(batch.clone()).unwrap();
                memory.apply(batch).unwrap();
            }
            for (from, to, reverse, limit) in spans {
                prop_assert_eq!(sled.get(&from).unwrap(), memory.get(&from).unwrap());
                let span = Span { from, to, reverse };
                prop_assert_eq!(sled.scan(&span, limit).unwrap(), memory.scan(&span, limit).unwrap());
            }
        }
    }
}
