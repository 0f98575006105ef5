//! What fills a filesystem: how much lies in which folder, and which files are the largest.
//!
//! [`walk`] reads folders; [`show`] draws what it found, [`verb`] does both on a command line. [`scout`] finds out who fills
//! one: [`open_files`] and [`traces`] see who writes, [`blame`] judges, [`census`] sees what nobody was caught at.
//!
//! Invariants: nothing is followed, opened for reading or written, and no mount is crossed. Memory is bounded by the share
//! of the whole that a folder must have to be told by itself, not by how many folders there are.
//!
//! Deliberately absent: judging what may go (`act` does).

pub mod blame;
pub mod census;
mod host_path;
pub mod open_files;
mod pace;
pub mod scout;
pub mod show;
pub mod tally;
pub mod traces;
pub mod verb;
pub mod walk;
