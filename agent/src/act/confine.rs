//! Confinement: what the executor gives up before it takes its first request.
//!
//! No descriptors but its own; no new privileges; only the capabilities that reading and unlinking other people's files
//! take; no core, no children; and by Landlock, no access to any file outside the roots, no execution, no TCP, no
//! signals to others. Inside the roots it may list, read, and move, hard-link and unlink *regular files* — not write (but
//! where a root cuts live logs), not make folders, symbolic links or devices.
//!
//! Landlock is asked for as far as the kernel has it, and the answer is said in a word. A kernel whose Landlock cannot
//! move files between folders (ABI 1) is left without: there, it would forbid the quarantine.
//!
//! Deliberately absent: a fallback that pretends. What could not be had is in [`Confinement::lacks`].

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::cleaner::{DESCRIPTORS, MAX_BATCH};
use super::live::MAX_WATCHED;
use super::policy::{MAX_DEPTH, MAX_ROOTS};

/// Newest Landlock that this was tried with.
const ABI_WANTED: ABI = ABI::V6;
/// What a root holds open: itself, its quarantine, the folder of what is held, and two beside it that its kind asks.
const DESCRIPTORS_A_ROOT: usize = 5;
/// What a walk, or a look at the folders above an object, holds open on each level: the folder, and a second time to list it.
const DESCRIPTORS_A_LEVEL: usize = 2;
/// Standard streams, the socket, a handle, a file and a process' folder that are being looked at, and as many again.
const OTHER_DESCRIPTORS: usize = 32;
/// Open descriptors: as many roots as may be, a whole batch claimed, and the walk or the logs that are watched beside it. One
/// that was not to be had would show as a file that cannot be opened.
const MAX_DESCRIPTORS: u64 = (MAX_ROOTS * DESCRIPTORS_A_ROOT
    + MAX_BATCH * DESCRIPTORS
    + (MAX_DEPTH as usize + 1) * DESCRIPTORS_A_LEVEL
    + MAX_WATCHED
    + OTHER_DESCRIPTORS) as u64;
/// Address space, against what runs away. What a survey takes has its own bound (`finds`), far tighter than one here could
/// be: mappings of the program, its stack and what is only reserved count too.
const MAX_ADDRESS_SPACE: u64 = 1 << 30;
/// Address space of the image keeper: an answer of the runtime's may be 8 MiB, and some dozen times that once it is
/// decoded. One that would take more ends the keeper, not the agent.
const MAX_KEEPER_ADDRESS_SPACE: u64 = 512 << 20;

/// How far Landlock confines the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// Everything that was asked for.
    Fully,
    /// What this kernel has of it.
    Partially,
    /// Not at all.
    NotEnforced,
}

impl Enforcement {
    /// The word in status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fully => "fully",
            Self::Partially => "partially",
            Self::NotEnforced => "not enforced",
        }
    }
}

/// What was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Landlock.
    pub landlock: Enforcement,
    /// Whether no exec can give privileges any more.
    pub no_new_privileges: bool,
    /// The capabilities that are left, as the bits of `CapEff`.
    pub capabilities: u64,
    /// What could not be given up, and why.
    pub lacks: Vec<String>,
}

/// Closes everything but the standard streams and `keep`.
pub(super) fn close_other_descriptors(keep: BorrowedFd<'_>) -> io::Result<()> {
    let keep = keep.as_raw_fd();
    let ranges = [(3, keep.saturating_sub(1)), (keep.max(2).saturating_add(1), i32::MAX)];
    for (first, last) in ranges {
        if first > last {
            continue;
        }
        // SAFETY: the caller is a process that has just started and owns no descriptor in these ranges.
        let done =
            unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Asks to be killed when the parent's starting thread ends, and checks that it has not ended already.
pub(super) fn die_with_parent(parent: u32) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("the kernel will not end it with its parent: {e}"))?;
    let now = rustix::process::getppid().map(|p| p.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        return Err("its parent has ended".to_owned());
    }
    Ok(())
}

/// A grant of Landlock: what may be done beneath folders.
type Grant<'k> = (&'k [BorrowedFd<'k>], BitFlags<AccessFs>);

/// What a child keeps.
struct Kept<'k> {
    grants: &'k [Grant<'k>],
    capabilities: CapabilitySet,
    address_space: u64,
}

/// What stays within reach.
#[derive(Debug, Default)]
pub(super) struct Reach<'f> {
    /// Folders beneath which files are listed, read, moved and unlinked.
    pub(super) roots: Vec<BorrowedFd<'f>>,
    /// Those of them beneath which files are opened for writing: a hole can be cut in no other way. Truncating and
    /// making files that are not regular stay forbidden there too.
    pub(super) cut: Vec<BorrowedFd<'f>>,
    /// Folders beneath which folders are listed, and nothing read.
    pub(super) listed: Vec<BorrowedFd<'f>>,
}

/// Gives everything up but `reach`. Nothing is an error: what cannot be given up is said.
pub(super) fn confine(reach: &Reach<'_>) -> Confinement {
    let in_roots = make_bitflags!(AccessFs::{ReadFile | ReadDir | RemoveFile | MakeReg | Refer});
    give_up(&Kept {
        grants: &[
            (&reach.roots, in_roots),
            (&reach.cut, AccessFs::WriteFile.into()),
            (&reach.listed, AccessFs::ReadDir.into()),
        ],
        capabilities: needed(),
        address_space: MAX_ADDRESS_SPACE,
    })
}

/// Gives everything up but to write files in `own`, and to reach sockets, which Landlock says nothing of.
pub(super) fn confine_keeper(own: Option<BorrowedFd<'_>>) -> Confinement {
    let in_own = make_bitflags!(AccessFs::{ReadFile | WriteFile | ReadDir | RemoveFile | MakeReg | Truncate});
    give_up(&Kept {
        grants: &[(own.as_slice(), in_own)],
        capabilities: CapabilitySet::empty(),
        address_space: MAX_KEEPER_ADDRESS_SPACE,
    })
}

fn give_up(kept: &Kept<'_>) -> Confinement {
    let mut lacks = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            lacks.push(format!("{what}: {why}"));
        }
    };
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Nofile, MAX_DESCRIPTORS),
        (Resource::As, kept.address_space),
    ] {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        let set = rustix::process::setrlimit(resource, limit);
        note("resource limits", set.map_err(|e| format!("{resource:?}: {e}")));
    }
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    note("protection against tracing", hidden.map_err(|e| e.to_string()));
    let no_new = rustix::thread::set_no_new_privs(true);
    note("no new privileges", no_new.map_err(|e| e.to_string()));
    note("capabilities", drop_capabilities(kept.capabilities).map_err(|e| e.to_string()));
    let landlock = match restrict(kept.grants) {
        Ok(enforcement) => enforcement,
        Err(why) => {
            note("Landlock", Err(why));
            Enforcement::NotEnforced
        }
    };
    Confinement {
        landlock,
        no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
        capabilities: rustix::thread::capabilities(None).map_or(u64::MAX, |s| s.effective.bits()),
        lacks,
    }
}

/// What reading and unlinking others' files takes: passing permission bits, the sticky bit, and leases on them.
fn needed() -> CapabilitySet {
    CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::LEASE
}

fn drop_capabilities(needed: CapabilitySet) -> Result<(), rustix::io::Errno> {
    let have = rustix::thread::capabilities(None)?;
    if have.permitted.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let Some(one) = CapabilitySet::from_bits(1 << bit) else { continue };
            // Past the last capability that this kernel has, asking is an error.
            match rustix::thread::capability_is_in_bounding_set(one) {
                Ok(true) if !needed.contains(one) => {
                    rustix::thread::remove_capability_from_bounding_set(one)?
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    // A kernel without ambient capabilities has none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    let left = have.permitted.intersection(needed);
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

fn restrict(grants: &[Grant<'_>]) -> Result<Enforcement, String> {
    let status = (|| {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI_WANTED))?
            .handle_access(AccessNet::from_all(ABI_WANTED))?
            .scope(Scope::from_all(ABI_WANTED))?
            .create()?;
        for (folders, access) in grants {
            for folder in *folders {
                rules = rules.add_rule(PathBeneath::new(folder, *access))?;
            }
        }
        rules.restrict_self()
    })()
    .map_err(|e: landlock::RulesetError| format!("not to be had on this kernel: {e}"))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Fully,
        RulesetStatus::PartiallyEnforced => Enforcement::Partially,
        RulesetStatus::NotEnforced => Enforcement::NotEnforced,
    })
}
