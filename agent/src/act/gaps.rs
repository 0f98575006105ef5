//! The gaps between a check and what follows it, where a hostile process may come in between; tests stop the executor
//! in each and let one.
//!
//! Invariant: in a program that is not a test, [`reach`] is nothing: no hook, no table of hooks, no way to set one.
//!
//! A new act (a cut, a link aside) names its gaps here and calls [`reach`] in them; `races/matrix` then asks for its cells.

use std::path::Path;

/// Where the executor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Gap {
    /// A root's quarantine was made; it is not open yet.
    QuarantineMade,
    /// A survey found a subfolder; it is not open yet.
    FolderListed,
    /// A survey looked at an object by its name.
    SurveySeen,
    /// Removal of an object: before anything.
    Begin,
    /// The folder is open.
    FolderOpen,
    /// A handle on the object says that it is a regular file; it is not open for reading yet.
    Found,
    /// The object is open.
    ObjectOpen,
    /// The policy lets it go.
    Vetted,
    /// It is claimed.
    Leased,
    /// It is claimed and compared with the plan.
    Claimed,
    /// A piece of it is about to be read for its digest.
    Digesting,
    /// It is digested; nobody was told yet.
    Seen,
    /// What was seen of it is durable, and it was compared again.
    Digested,
    /// Nobody holds it; it is about to be moved.
    Asked,
    /// It lies in quarantine.
    Moved,
    /// Holds and the lease were asked again; it was not compared there yet.
    AskedAgain,
    /// It was compared there; it is about to be unlinked.
    Compared,
    /// It is about to be moved back.
    PuttingBack,
    /// It is unlinked; nothing was reported yet.
    Unlinked,
    /// What a crash left was looked at.
    LeftoverSeen,
    /// The folder that it came from is open.
    LeftoverPlaced,
}

/// What a test does at a gap: the gap, and what is worked on as far as it is known there.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnMut(Gap, &Path)>;

#[cfg(test)]
thread_local! {
    static HOOK: std::cell::RefCell<Option<Hook>> = const { std::cell::RefCell::new(None) };
}

/// Sets what this thread does at gaps from now on.
#[cfg(test)]
pub(super) fn set_hook(hook: Option<Hook>) {
    HOOK.with(|slot| *slot.borrow_mut() = hook);
}

/// Says that a gap is reached.
#[cfg(test)]
pub(super) fn reach(gap: Gap, path: &Path) {
    // Taken out while it runs, so that what it does may pass gaps too.
    let Some(mut hook) = HOOK.with(|slot| slot.borrow_mut().take()) else { return };
    hook(gap, path);
    HOOK.with(|slot| drop(slot.borrow_mut().replace(hook)));
}

/// Nothing.
#[cfg(not(test))]
#[inline]
pub(super) fn reach(_: Gap, _: &Path) {}
