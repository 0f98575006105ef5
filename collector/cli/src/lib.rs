//! The command line of dogwatch: asks a collector, or reads a node's own journal, and prints what it learns.
//!
//! Modules stand in the order in which a command passes them: [`program`] is the process around it, `args` parses it,
//! `config` finds out whom to ask and `holder` whose certificate that is done with, `time` and `range` read its times,
//! `ask` puts the question, `verbs` carry it out through `client` or `journal`, `view` holds what came back under the
//! names that `-o json` promises, `top` reckons and draws figures, `output` writes it, [`error`] says what went wrong.
//!
//! Data goes to stdout, talk to stderr. Nothing that a node or a collector said reaches a terminal unescaped.
//!
//! Deliberately absent: decisions. Whether a wish is granted, the collector and the node say.

mod args;
mod ask;
mod client;
mod config;
pub mod error;
mod holder;
mod journal;
mod output;
pub mod program;
mod range;
mod time;
mod top;
mod verbs;
mod view;

pub use args::Cli;
pub use client::Dial;
pub use output::{Io, Terminal};
pub use verbs::{Env, World, run};

/// `text` on one line, with everything that a terminal might obey spelt out.
pub fn harmless(text: &str) -> String {
    output::text::safe(text).into_owned()
}
