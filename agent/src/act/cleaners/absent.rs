//! Cleaners that need no folder of files: a root of such a kind is refused, and takes nothing.

use std::path::Path;

use super::{Kind, Mistake, Taken};
use crate::act::policy::{RootPolicy, RootRules};

/// A kind that takes nothing.
pub(super) struct Absent;

impl Kind for Absent {
    fn defaults(&self, _: &mut RootPolicy) {}

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        vec![Mistake {
            field: "cleaner",
            value: root.cleaner.as_str().to_owned(),
            reason: "images lie in no folder that is cleaned: they go through the runtime alone".to_owned(),
            remedy: "leave the root out, and set cleanup.images".to_owned(),
        }]
    }

    fn takes(&self, _: &RootRules, _: &Path) -> Option<Taken> {
        None
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        name
    }

    fn family_word(&self) -> &'static str {
        "its kind"
    }

    fn why_safe(&self, _: &RootPolicy, _: &str) -> String {
        String::new()
    }
}
