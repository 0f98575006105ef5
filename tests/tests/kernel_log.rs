//! What the kernel says, from its ring through agent and collector to the desk.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Stage};
use dogwatch_e2e::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes a line into the machine's log, as the kernel would with `priority`. The newline ends it; without one it would
/// wait for its continuation.
fn print(priority: u32, text: &str) {
    let mut device = std::fs::OpenOptions::new().write(true).open(Path::new("/dev/kmsg")).unwrap();
    device.write_all(format!("<{priority}>{text}\n").as_bytes()).unwrap();
}

fn config(source: &str) -> String {
    format!(
        "sample: {{ every: 250ms, evidence_every: 1s, processes: false }}\ncleanup: {{ mode: \"off\" }}\n\
         tail: {{ enabled: false }}\nkernel: {{ source: {source}, history: 1m, poll: 200ms }}\n"
    )
}

fn told(person: &Person, text: &str) -> Vec<Value> {
    person.rows(&["get", "events"]).into_iter().filter(|e| e.to_string().contains(text)).collect()
}

#[test]
fn what_the_kernel_says_reaches_the_desk_once_over_a_kill() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let person = house.person("ada", "viewer");
    let tag = format!("dogwatch-e2e-{}", std::process::id());
    // Before the agent is there: it is in the ring.
    print(3, &format!("{tag} before EXT4-fs error (device loop9): password=hunter2"));
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, Some(&house), &config("auto"));
    post.start();
    let first =
        until("the line from before the start", PATIENCE, || told(&person, &format!("{tag} before")).pop());
    assert!(
        first.to_string().contains("[masked:password]") && !first.to_string().contains("hunter2"),
        "{first}"
    );
    // A rule matched, and that is a finding that cites it.
    until("its finding", PATIENCE, || {
        let rows = person.rows(&["get", "findings"]);
        rows.into_iter().find(|f| {
            f["source"].to_string().contains("filesystem-error") || f.to_string().contains("filesystem-error")
        })
    });
    print(4, &format!("{tag} warning"));
    until("a warning that no rule knows", PATIENCE, || told(&person, &format!("{tag} warning")).pop());
    post.kill();
    print(4, &format!("{tag} while away"));
    post.start();
    until("what was said while nobody read", PATIENCE, || told(&person, &format!("{tag} while away")).pop());
    post.stop();
    post.start();
    print(4, &format!("{tag} last"));
    until("the last line", PATIENCE, || told(&person, &format!("{tag} last")).pop());
    post.stop();
    house.stop();

    let ledger = dogwatch_e2e::ledger::Ledger::read(&house.store());
    assert_eq!(ledger.twice(), [""; 0]);
    house.start();
    let log = |e: &&Value| e["kind"] == "log";
    for what in ["before", "warning", "while away", "last"] {
        let lines = told(&person, &format!("{tag} {what}"));
        assert_eq!(lines.iter().filter(log).count(), 1, "{what}: {lines:?}");
    }
}

#[test]
fn the_text_of_syslog_serves_where_the_device_is_not_to_be_had() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let person = house.person("ada", "viewer");
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, Some(&house), &config("syslog"));
    post.start();
    let tag = format!("dogwatch-e2e-syslog-{}", std::process::id());
    print(4, &format!("{tag} by syslog"));
    until("a line by syslog(2)", PATIENCE, || told(&person, &tag).pop());
    assert!(post.said().contains("reading the kernel's log from=\"syslog(2)\""), "{}", post.said());
    post.stop();
}
