//! The drill in `deploy/README.md`, "Before you switch to auto", as it is written there: its blocks of `sh` are run by one
//! `bash -e`, and what they print must be what its blocks of `text` show, `…` standing for anything.
//!
//! The shell has mounts, processes and a network of its own, so that all of it ends with the test, however that ends, and
//! the ports on the page are free.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dogwatch_e2e::process::Process;
use dogwatch_e2e::programs;
use dogwatch_e2e::wait::until;

/// The drill says half a minute; an unoptimised build on a busy machine needs more.
const PATIENCE: Duration = Duration::from_secs(400);
const SECTION: &str = "### The drill";

/// A fenced block.
#[derive(Debug, PartialEq)]
struct Block {
    language: String,
    text: String,
}

/// The blocks of the section of `page` that begins with the line `heading`.
fn blocks(page: &str, heading: &str) -> Vec<Block> {
    let level = heading.split(' ').next().unwrap().len();
    let mut lines = page.lines().skip_while(|l| *l != heading).skip(1);
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            blocks.push(Block { language: language.to_owned(), text: text.join("\n") + "\n" });
        } else if line.starts_with('#') && line.split(' ').next().unwrap().len() <= level {
            break;
        }
    }
    blocks
}

/// Whether `line` shows `wanted`, of which `…` stands for anything.
fn shows(line: &str, wanted: &str) -> bool {
    let mut rest = line;
    wanted.split('…').all(|piece| match rest.split_once(piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// The first line of `wanted` that `said` does not have, after those before it.
fn missing<'w>(said: &str, wanted: &'w str) -> Option<&'w str> {
    let mut said = said.lines();
    wanted.lines().find(|wanted| !said.by_ref().any(|line| shows(line, wanted)))
}

/// Runs `script` apart from this machine's mounts, processes and network, with the programs under their shipped names;
/// what it printed, and whether it ended well.
fn run(folder: &Path, script: &str) -> (String, bool) {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let programs = programs!();
    for (shipped, built) in [
        ("dogwatch-agent", programs.agent),
        ("dogwatch-collector", programs.collector),
        ("dogwatch", programs.dogwatch),
    ] {
        symlink(built, bin.join(shipped)).unwrap();
    }
    let file = folder.join("drill.sh");
    std::fs::write(&file, script).unwrap();
    let tmp = folder.join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["bash", "-ec", r#"ip link set lo up; exec bash -e "$0""#])
        .arg(&file)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("TMPDIR", &tmp)
        .stdin(Stdio::null());
    let log: PathBuf = folder.join("said");
    let mut process = Process::start("the drill", command, &log);
    let status = until("the drill to end", PATIENCE, || process.ended());
    let mut said = std::fs::read_to_string(&log).unwrap();
    if !status.success() {
        let logs = std::fs::read_dir(&tmp).unwrap().flatten().map(|d| d.path().join("agent.log"));
        logs.filter_map(|l| std::fs::read_to_string(l).ok()).for_each(|l| said += &l);
    } else {
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "the drill tidies up");
    }
    (said, status.success())
}

#[test]
fn the_drill_runs_as_written_and_shows_what_the_page_says() {
    assert!(
        rustix::process::geteuid().is_root(),
        "the drill mounts a filesystem: run this as root (sudo -E cargo test …)"
    );
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/README.md");
    let blocks = blocks(&std::fs::read_to_string(page).unwrap(), SECTION);
    let count = |language: &str| blocks.iter().filter(|b| b.language == language).count();
    assert_eq!(
        (count("sh"), count("text")),
        (5, 3),
        "the drill is another one than this test knows: {blocks:?}"
    );

    // What each block prints is told apart by a line that nothing else prints.
    let mark = |i: usize| format!("---- block {i} of the drill ----");
    let mut script = String::new();
    for (i, block) in blocks.iter().enumerate().filter(|(_, b)| b.language == "sh") {
        script += &format!("echo '{}'\n{}", mark(i), block.text);
    }
    let folder = tempfile::TempDir::with_prefix("dogwatch-drill-").unwrap();
    let (said, ended_well) = run(folder.path(), &script);
    assert!(ended_well, "the drill failed:\n{said}");
    for (i, block) in blocks.iter().enumerate().filter(|(_, b)| b.language == "text") {
        let (_, from) = said.split_once(&mark(i - 1)).unwrap();
        let printed = from.split("\n---- block ").next().unwrap();
        let missing = missing(printed, &block.text);
        assert_eq!(missing, None, "the page shows a line that the drill does not:\n{printed}");
    }
    let shown: Vec<&str> = said.lines().filter(|l| l.starts_with("mnt/log/")).collect();
    assert_eq!(shown.len(), 10, "what stays, and nothing else: {shown:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(folder.path().to_str().unwrap()), "nothing stays mounted here");
    assert_no_loop_device(folder.path());
}

/// A loop device of the drill's goes with its mount; the kernel may take a moment.
fn assert_no_loop_device(folder: &Path) {
    until("the drill's loop device to be free", Duration::from_secs(20), || {
        let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
        let mut backing =
            devices.filter_map(|d| std::fs::read_to_string(d.path().join("loop/backing_file")).ok());
        (!backing.any(|b| Path::new(b.trim_end()).starts_with(folder))).then_some(())
    });
}

#[test]
fn what_is_shown_is_compared_line_by_line() {
    let page = "# a\n### x\n```sh\necho\n```\ntext\n```text\none … three\n```\n### y\n```sh\nno\n```\n";
    let found = blocks(page, "### x");
    assert_eq!(found.iter().map(|b| b.language.as_str()).collect::<Vec<_>>(), ["sh", "text"]);
    assert_eq!(missing("zero\none two three\n", &found[1].text), None);
    assert_eq!(missing("one two\nthree\n", &found[1].text), Some("one … three"));
    assert_eq!(missing("b\na\n", "a\nb\n"), Some("b"), "also their order");
}

#[test]
fn a_drill_that_fails_is_noticed() {
    let folder = tempfile::TempDir::with_prefix("dogwatch-drill-").unwrap();
    let (said, ended_well) = run(folder.path(), "dogwatch --version\nfalse\necho never\n");
    assert!(!ended_well && said.contains("dogwatch") && !said.contains("never"), "{said}");
    assert!(File::open(folder.path().join("said")).is_ok());
}
