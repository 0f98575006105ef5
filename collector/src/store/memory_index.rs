//! The index in memory: what the collector falls back to when the engine on disk fails again, and what tests compare
//! with. Built anew at every start; nothing is written anywhere.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use super::index::{Batch, Index, IndexError, Pair, Span};

/// An ordered map behind a lock.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    map: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.map.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError> {
        if span.to.as_ref().is_some_and(|to| *to <= span.from) {
            return Ok(Vec::new());
        }
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let to = span.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = map.range::<[u8], _>((Bound::Included(span.from.as_slice()), to));
        let pair = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v.clone());
        Ok(if span.reverse {
            range.rev().take(limit).map(pair).collect()
        } else {
            range.take(limit).map(pair).collect()
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            match value {
                Some(v) => map.insert(key, v),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn engine(&self) -> &'static str {
        "memory"
    }
}
