//! What fills a filesystem: how much lies in which folder, which files are the largest, who writes, and which folders grow.
//!
//! [`walk`] reads folders at once, [`crawl`] in its own time; [`rounds`] does the latter for all of the node's disks and keeps in
//! [`growth`] what grew. [`open_files`] and [`traces`] see who writes, [`blame`] judges by that (of processes: [`writers`]), [`census`] sees what nobody was
//! caught at; [`scout`] asks them when a disk fills. [`layout`] says whose a folder is. [`report`] puts all of it together for a
//! person; [`show`] draws that, [`verb`] does both on a command line.
//!
//! Invariants: nothing is followed, opened for reading or written, and no mount is crossed. Memory is bounded by the share
//! of the whole that a folder must have to be told by itself, not by how many folders there are. A name is told only where
//! what it rests on is said with it; what cannot be known is called unknown.
//!
//! Deliberately absent: judging what may go (`act` does).

mod batch;
pub mod blame;
pub mod census;
mod containers;
pub mod crawl;
mod disk;
mod entry;
pub mod growth;
mod host_path;
pub mod layout;
pub mod open_files;
mod pace;
mod place;
mod reach;
pub mod report;
pub mod rounds;
pub mod scout;
pub mod show;
mod site;
pub mod tally;
pub mod traces;
pub mod verb;
pub mod walk;
mod writers;

pub use pace::Budget;
