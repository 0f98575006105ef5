//! Judges and masks single lines that come from no file, by the same rules and masks as lines of files.

use std::sync::Arc;

use super::deliver::MASK_MARGIN;
use super::mask::{MaskError, Masker};
use super::matcher::{Hit, Matcher};
use super::rules::{Rule, RuleSet};

/// The rules and masks for one source.
#[derive(Debug)]
pub(crate) struct Judge {
    rules: RuleSet,
    matcher: Option<Arc<Matcher>>,
    masker: Masker,
    limit: usize,
    hits: Vec<Hit>,
}

impl Judge {
    /// For `source`, of whose lines `limit` bytes are seen and kept.
    pub(crate) fn new(rules: &RuleSet, source: &str, limit: usize) -> Result<Self, MaskError> {
        Ok(Self {
            matcher: rules.matcher(&rules.selection(source)),
            masker: Masker::new(rules.masks())?,
            rules: rules.clone(),
            limit,
            hits: Vec::new(),
        })
    }

    /// The rules that match `line`, which holds no newline.
    pub(crate) fn matches(&mut self, line: &[u8]) -> Vec<&Rule> {
        self.hits.clear();
        if let Some(matcher) = &self.matcher {
            matcher.hits(line, self.limit, &mut self.hits);
        }
        let rules = self.rules.rules();
        self.hits.iter().flat_map(|h| &h.rules).filter_map(|r| rules.get(usize::from(*r))).collect()
    }

    /// `line`, masked and cut, and whether it was cut.
    pub(crate) fn masked(&mut self, line: &[u8]) -> (Vec<u8>, bool) {
        let mut kept = line[..line.len().min(self.limit + MASK_MARGIN)].to_vec();
        self.masker.mask(&mut kept);
        kept.truncate(self.limit);
        (kept, line.len() > self.limit)
    }
}
