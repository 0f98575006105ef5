//! How the daemons go: the cause where Kubernetes looks for it, and a node that is clean after an agent.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Stage, yaml};
use dogwatch_e2e::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

fn run(program: &Path, folder: &Path, config: &str, more: &[&str]) -> (Output, Option<String>) {
    let (file, log) = (folder.join("config.yaml"), folder.join("termination-log"));
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(program);
    command.env_clear().env("TERMINATION_LOG", &log).arg("--config").arg(file).args(more);
    let out = command.output().unwrap();
    let cause = std::fs::read_to_string(&log).ok();
    let _ = std::fs::remove_file(log);
    (out, cause)
}

#[test]
fn both_daemons_leave_the_cause_of_their_end() {
    let programs = programs!();
    let folder = tempfile::tempdir().unwrap();
    // A file where the state folder's parent should be.
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "x").unwrap();
    let unusable = format!("state: {{ dir: {} }}\n", yaml(&taken.join("state")));
    for (program, name) in [(&programs.agent, "dogwatch-agent"), (&programs.collector, "dogwatch-collector")]
    {
        let (out, cause) = run(program, folder.path(), "state: { dir: relative }\nstat: 1\n", &[]);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        let cause = cause.unwrap();
        assert!(cause.starts_with(name) && cause.contains("state.dir = relative"), "{cause}");
        assert!(cause.contains("\n  stat"), "every mistake is there: {cause}");

        let (out, cause) = run(program, folder.path(), &unusable, &[]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let cause = cause.unwrap();
        assert!(cause.contains("making the state folder") && cause.contains("taken"), "{cause}");

        // Mistakes beyond what the kubelet shows are cut, and whoever only checks leaves nothing.
        let many: String = (0..500).map(|i| format!("unknown_section_{i}: 1\n")).collect();
        let (_, cause) = run(program, folder.path(), &many, &[]);
        assert_eq!(cause.unwrap().len(), 4096);
        let (out, cause) = run(program, folder.path(), "stat: 1\n", &["--check-config"]);
        assert_eq!((out.status.code(), cause), (Some(2), None));
    }
}

#[test]
fn an_agent_takes_itself_away_once_it_has_stopped() {
    let stage = Stage::new(programs!());
    let (state, logs) = (stage.path().join("agent"), stage.path().join("logs"));
    std::fs::create_dir(&logs).unwrap();
    let cleanup = format!(
        "cleanup: {{ mode: plan, roots: [{{ path: {} }}] }}\ntail: {{ globs: [{}] }}\n",
        yaml(&logs),
        yaml(&logs.join("*.log"))
    );
    let mut post = stage.post("node-a", &state, None, &cleanup);
    post.start();
    let quarantine = logs.join(".dogwatch-quarantine");
    until("the executor to make its quarantine", PATIENCE, || quarantine.exists().then_some(()));
    let config = post.config().to_owned();
    let uninstall = |more: &[&str]| {
        let mut command = Command::new(&stage.programs().agent);
        command.arg("--config").arg(&config).arg("uninstall").args(more);
        command.output().unwrap()
    };
    let refused = uninstall(&[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("an agent runs on"), "{refused:?}");
    assert!(state.join("journal").exists() && quarantine.exists());
    post.stop();

    std::fs::write(state.join("notes.txt"), "mine").unwrap();
    let dry = uninstall(&["--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(said.contains("would stay") && said.contains("notes.txt: was not made by the agent"), "{said}");
    assert!(state.join("journal/urgent/lock").exists(), "a dry run removes nothing");
    // Nothing but the note stays of what a real agent wrote.
    assert_eq!(uninstall(&[]).status.code(), Some(1));
    let left: Vec<_> = std::fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
    assert!(!quarantine.exists() && logs.exists());

    std::fs::remove_file(state.join("notes.txt")).unwrap();
    let last = uninstall(&[]);
    assert_eq!(last.status.code(), Some(0), "{last:?}");
    assert!(!state.exists());
    let none = uninstall(&[]);
    assert!(none.status.success() && String::from_utf8_lossy(&none.stdout).contains("nothing of the agent"));
    let unknown = uninstall(&["--now"]);
    assert_eq!(unknown.status.code(), Some(2));
}
