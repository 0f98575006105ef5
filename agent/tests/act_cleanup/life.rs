//! The executor's life: confined, with the roots that it can use, started again, dead, hung, orphaned.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dogwatch::record::{ActionState, CleanupMode, ObjectOutcome};
use dogwatch_agent::act::aside::Aside;
use dogwatch_agent::act::executor::Enforcement;
use dogwatch_agent::act::handle::{ExecutorError, look_after};
use dogwatch_agent::act::policy::{Policy, QUARANTINE, RootPolicy};
use sha2::{Digest, Sha256};

use super::common::{LoopFs, run};
use super::{DEADLINE, device, make_plan, policy, spawn};

#[test]
fn the_executor_is_confined() {
    let fs = LoopFs::ext4(16);
    let executor = spawn(policy(fs.path()));
    let ready = executor.ready();
    assert_eq!(ready.confinement.landlock, Enforcement::Fully, "{:?}", ready.confinement);
    assert!(ready.confinement.no_new_privileges);
    assert_eq!(ready.confinement.lacks, Vec::<String>::new());
    let status = fs::read_to_string(format!("/proc/{}/status", ready.pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, LEASE.
    let wanted = format!("{:016x}", 1u64 << 1 | 1 << 2 | 1 << 3 | 1 << 28);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(field(set), wanted, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Threads:"), "1");
    let descriptors: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", ready.pid))
        .unwrap()
        .map(|e| fs::read_link(e.unwrap().path()).unwrap())
        .collect();
    // Its socket, null, stderr, the root, its quarantine, its folder of held files and the table of mounts.
    assert_eq!(descriptors.len(), 7, "{descriptors:?}");
    let environment = fs::read(format!("/proc/{}/environ", ready.pid)).unwrap();
    assert_eq!(environment, b"");
}

#[test]
fn roots_that_cannot_be_used_are_told_and_off_means_off() {
    let fs = LoopFs::ext4(16);
    let root = fs.path().join("logs");
    fs::create_dir(&root).unwrap();
    let mut policy = policy(&root);
    for bad in ["/etc", "/var/lib/kubelet/pods", "/nowhere/logs"] {
        policy.roots.push(RootPolicy::new(bad));
    }
    let executor = spawn(policy.clone());
    let told: Vec<_> = executor.ready().roots.iter().map(|r| r.unusable.is_none()).collect();
    assert_eq!(told, [true, false, false, false], "{:#?}", executor.ready().roots);
    assert_eq!(executor.unable().len(), 3, "{:#?}", executor.unable());
    drop(executor);
    fs::remove_dir(root.join(QUARANTINE)).unwrap();
    let mut off = spawn(Policy { mode: CleanupMode::Off, ..policy });
    let refused = off.survey(device(&root), DEADLINE).unwrap_err();
    assert!(matches!(&refused, ExecutorError::Refused(why) if why.contains("off")), "{refused}");
    assert!(!root.join(QUARANTINE).exists(), "off makes nothing");
    assert!(off.is_alive());
}

#[test]
fn a_restarted_executor_puts_back_what_a_crash_left() {
    let fs = LoopFs::ext4(16);
    let folder = fs.path().join("pods/x");
    fs::create_dir_all(&folder).unwrap();
    drop(spawn(policy(fs.path())));
    let file = folder.join("0.log.1");
    fs::write(&file, "evidence").unwrap();
    // As a kill between moving and unlinking leaves it.
    let digest = Sha256::digest(b"pods/x");
    let digest = u32::from_be_bytes(digest[..4].try_into().unwrap());
    let (parent, inode) = (fs::metadata(&folder).unwrap().ino(), fs::metadata(&file).unwrap().ino());
    let entry = fs.path().join(QUARANTINE).join(format!("{parent:x}-{digest:08x}-{inode:x}-0.log.1"));
    fs::rename(&file, &entry).unwrap();
    let mut executor = spawn(policy(fs.path()));
    let step = executor.restore(DEADLINE).unwrap();
    assert!(!step.more, "{step:?}");
    let leftovers = step.leftovers;
    assert_eq!(leftovers.len(), 1);
    assert!(leftovers[0].restored, "{leftovers:?}");
    assert_eq!(leftovers[0].original.as_deref(), file.to_str());
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    assert!(!entry.exists());
}

#[test]
fn the_executor_leaves_a_busy_disk_to_others_and_keeps_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let executor = spawn(policy(&folder.path().canonicalize().unwrap()));
    let pid = libc::c_long::from(executor.ready().pid);
    // SAFETY: two numbers (IOPRIO_WHO_PROCESS, and whose) and no memory.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) };
    // Best effort, and the last level of it (ioprio_set(2)).
    assert_eq!((priority >> 13, priority & 7), (2, 7));
}

#[test]
fn a_dead_and_a_hung_executor_are_noticed() {
    let fs = LoopFs::ext4(16);
    fs::write(fs.path().join("a.log.1"), "x").unwrap();
    let policy = policy(fs.path());
    let signal = |pid: u32, name: &str| run("kill", &[&format!("-{name}"), &pid.to_string()]);

    let mut dead = spawn(policy.clone());
    let survey = dead.survey(device(fs.path()), DEADLINE).unwrap();
    let mut action = make_plan(&survey, &policy, fs.path(), 1 << 40, 0);
    signal(dead.ready().pid, "KILL");
    let error = dead.apply(&action, DEADLINE).unwrap_err();
    assert!(matches!(error, ExecutorError::Died(Some(_))), "{error}");
    assert!(error.is_fatal() && !dead.is_alive());
    look_after(&mut action, &error, &Aside::new(DEADLINE));
    assert_eq!((action.state, action.objects[0].outcome), (ActionState::Failed, ObjectOutcome::Skipped));

    let mut hung = spawn(policy);
    let pid = hung.ready().pid;
    signal(pid, "STOP");
    let error = hung.survey(device(fs.path()), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, ExecutorError::Hung(_)), "{error}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "killed and reaped");
}

/// State and begin of a process (proc(5)): another one may get its number.
fn stat(pid: &str) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields[0].to_owned(), fields[19].to_owned()))
}

const PARENT: &str = "DOGWATCH_TEST_PARENT";

/// Not a test by itself: the agent that `an_executor_ends_with_its_agent` kills.
#[test]
#[ignore = "started by another test"]
fn agent_that_is_killed() {
    let Ok(root) = std::env::var(PARENT) else { return };
    let executor = spawn(policy(Path::new(&root)));
    let pid = executor.ready().pid.to_string();
    println!("executor {pid} {}", stat(&pid).unwrap().1);
    std::io::stdout().flush().unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_executor_ends_with_its_agent() {
    let fs = LoopFs::ext4(16);
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["life::agent_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(PARENT, fs.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&agent.stdout);
    let executor = said.lines().find_map(|l| l.split("executor ").nth(1)).unwrap();
    let (pid, begin) = executor.trim().split_once(' ').unwrap();
    // It is nobody's child now, so that it may linger as a zombie; that is an end too.
    let lives = || stat(pid).is_some_and(|(state, b)| state != "Z" && b == begin);
    while lives() {
        std::thread::yield_now();
    }
}
