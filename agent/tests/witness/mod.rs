//! A witness for tests that are about something else.

use dogwatch::record::FileSeen;
use dogwatch_agent::act::witness::{Verdict, Witness};

/// Keeps whatever an executor tells.
#[derive(Debug)]
pub(crate) struct Kept;

impl Witness for Kept {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        Ok(Verdict::Kept)
    }
}
