//! A configuration that changes under a running daemon: what applies at once, what is refused, and what is told of it.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use dogwatch_e2e::layout::fill_to;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Post, Stage, free_address, http_get, yaml};
use dogwatch_e2e::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn figure(address: SocketAddr, series: &str) -> Option<f64> {
    let page = http_get(address, "/metrics")?;
    let line = page.lines().find(|l| l.strip_prefix(series).is_some_and(|r| r.starts_with(' ')))?;
    line.trim_end().rsplit(' ').next()?.parse().ok()
}

fn notes(journal: &Person, wanted: &str) -> bool {
    journal.rows(&["get", "events"]).iter().any(|row| row.to_string().contains(wanted))
}

/// Replaces a file as an editor or the kubelet does: by another under its name.
fn swap(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

fn hang_up(post: &mut Post) {
    let pid = Pid::from_raw(i32::try_from(post.process().id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
}

#[test]
fn an_agent_judges_by_new_thresholds_and_keeps_the_old_ones_where_the_new_are_wrong() {
    let stage = Stage::new(programs!());
    let (state, health) = (stage.path().join("agent"), free_address());
    // Of all mounts, this one is nobody else's to fill, to mount or to take away.
    let disk = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    fill_to(&disk.path().join("filler"), 32 << 20);
    let mount = format!("{}\"", disk.path().display());
    // It is above this, and below the other.
    let quiet = "detect: { space: { low_used: 99%, high_used: 100%, serious_used: 100%, critical_used: 100% }, time_to_full: { bound: 1s, critical: 0s } }\n";
    let eager = "detect: { space: { low_used: 0%, high_used: 0%, serious_used: 99%, critical_used: 100% }, time_to_full: { bound: 1s, critical: 0s } }\n";
    let more = format!(
        "health: {{ listen: \"{health}\" }}\ncleanup: {{ mode: \"off\" }}\ntail: {{ enabled: false }}\n"
    );
    let mut post = stage.post("node-a", &state, None, &format!("{more}{quiet}"));
    let base = std::fs::read_to_string(post.config()).unwrap();
    let file = post.config().to_owned();
    post.start();
    let journal = stage.on_journal(&state);
    until("the first samples", PATIENCE, || {
        figure(health, "dogwatch_agent_samples_total").filter(|n| *n >= 2.0)
    });
    let found = || -> BTreeMap<String, String> {
        let rows = journal.rows(&["get", "findings"]);
        let text =
            |r: &Value, key: &str| r[key].as_str().unwrap_or_else(|| unreachable!("{key} in {r}")).to_owned();
        let space = rows.iter().filter(|r| text(r, "rule") == "disk-high-water");
        let here = space.filter(|r| r["subject"].to_string().contains(&mount));
        here.map(|r| (text(r, "id"), text(r, "state"))).collect()
    };
    // On the whole machine.
    let active = || {
        let series = "dogwatch_agent_active_findings{rule=\"disk-high-water\",severity=\"medium\"}";
        figure(health, series).filter(|n| *n >= 1.0)
    };
    assert_eq!(found(), BTreeMap::new(), "it is not 100 % full");
    assert_eq!(figure(health, "dogwatch_agent_config_reload_success"), Some(1.0));
    let read_at = figure(health, "dogwatch_agent_config_reload_timestamp_seconds").unwrap();

    // The file alone tells.
    swap(&file, &base.replace(quiet, eager));
    let raised =
        until("a finding by the new threshold", PATIENCE, || Some(found()).filter(|f| !f.is_empty()));
    until("the figure of it", PATIENCE, active);
    assert!(figure(health, "dogwatch_agent_config_reload_timestamp_seconds").unwrap() > read_at);

    // Other thresholds by which it still holds: it goes on, and is not raised anew.
    swap(&file, &base.replace(quiet, &eager.replace("serious_used: 99%", "serious_used: 98%")));
    let applied = "applied: detect.space.serious_used";
    until("the other thresholds", PATIENCE, || notes(&journal, applied).then_some(()));
    let samples = figure(health, "dogwatch_agent_samples_total").unwrap();
    until("samples judged by them", PATIENCE, || {
        figure(health, "dogwatch_agent_samples_total").filter(|n| *n >= samples + 2.0)
    });
    assert!(raised.keys().eq(found().keys()), "{raised:?} became {:?}", found());

    // A mistake changes nothing, and every one is told.
    let broken = base.replace(quiet, "detect: { space: { high_used: 140% }, spase: {} }\n");
    swap(&file, &broken);
    until("the refusal", PATIENCE, || {
        (figure(health, "dogwatch_agent_config_reload_success") == Some(0.0)).then_some(())
    });
    for mistake in ["detect.space.high_used = 140%", "detect.spase"] {
        until(mistake, PATIENCE, || post.said().contains(mistake).then_some(()));
    }
    until("the refusal in the journal", PATIENCE, || notes(&journal, "detect.spase").then_some(()));
    let over = found().into_values().any(|state| state == "cleared");
    assert!(active().is_some() && !over, "the thresholds before it are in force");

    // Mended, by signal; what needs a restart is named, and the finding is over under its own id.
    let mended =
        base.replace("cleanup: { mode: \"off\" }", "cleanup: { mode: plan, budgets: { max_objects: 7 } }");
    swap(&file, &mended);
    hang_up(&mut post);
    until("the mended configuration", PATIENCE, || {
        (figure(health, "dogwatch_agent_config_reload_success") == Some(1.0)).then_some(())
    });
    until("the finding to be over under its id", PATIENCE, || {
        let now = found();
        let over = raised.keys().all(|id| now.get(id).is_some_and(|state| state == "cleared"));
        (over && now.len() == raised.len()).then_some(())
    });
    let restart = "restart to apply: cleanup.budgets.max_objects, cleanup.mode";
    until("what needs a restart", PATIENCE, || post.said().contains(restart).then_some(()));
    until("the same in the journal", PATIENCE, || notes(&journal, restart).then_some(()));
    post.stop();
}

#[test]
fn an_agent_cleans_by_itself_only_by_the_roots_that_its_file_has() {
    let stage = Stage::new(programs!());
    let (state, health) = (stage.path().join("agent"), free_address());
    let logs = stage.path().join("app/log");
    std::fs::create_dir_all(&logs).unwrap();
    let wide = format!("cleanup: {{ mode: plan, roots: [{{ path: {}, min_age: 2s }}] }}\n", logs.display());
    let more = format!("health: {{ listen: \"{health}\" }}\ntail: {{ enabled: false }}\n");
    let mut post = stage.post("node-a", &state, None, &format!("{more}{wide}"));
    let base = std::fs::read_to_string(post.config()).unwrap();
    let file = post.config().to_owned();
    post.start();
    let journal = stage.on_journal(&state);
    let mode = |mode: &str| {
        let series = format!("dogwatch_agent_cleanup_mode{{mode=\"{mode}\"}}");
        (figure(health, &series) == Some(1.0)).then_some(())
    };
    let pending = || figure(health, "dogwatch_agent_config_pending_keys");
    until("the mode", PATIENCE, || mode("plan"));
    assert_eq!(pending(), Some(0.0));

    // What the executor knows nothing of yet keeps the mode from it.
    let narrow =
        base.replace("mode: plan", "mode: auto").replace("min_age: 2s", "min_age: 2s, excludes: [audit]");
    swap(&file, &narrow);
    until("both keys to wait", PATIENCE, || pending().filter(|n| *n == 2.0));
    let why =
        "cleanup.roots[0].excludes waits for a restart of the agent; until then cleanups are only planned";
    until("why in the journal", PATIENCE, || notes(&journal, why).then_some(()));
    until("why in its log", PATIENCE, || post.said().contains(why).then_some(()));
    mode("plan").unwrap_or_else(|| unreachable!("it is not to clean by itself"));

    // A write that is under way is no configuration.
    std::fs::write(&file, "").unwrap();
    hang_up(&mut post);
    until("the refusal", PATIENCE, || {
        (figure(health, "dogwatch_agent_config_reload_success") == Some(0.0)).then_some(())
    });
    until("why", PATIENCE, || post.said().contains("gives no key at all").then_some(()));

    // Taken back, the mode alone applies.
    swap(&file, &base.replace("mode: plan", "mode: auto"));
    until("the mode", PATIENCE, || mode("auto"));
    assert_eq!(pending(), Some(0.0));

    // And in `auto` an edit takes it out of it, until the restart.
    swap(&file, &narrow);
    until("the mode", PATIENCE, || mode("plan"));
    post.stop();
    post.start();
    until("the mode after the restart", PATIENCE, || mode("auto"));
    assert_eq!(pending(), Some(0.0));
    post.stop();
}

/// The roll-out as the runbook has it, with an exclude that is written on the way.
#[test]
fn what_the_file_excludes_stays_whatever_mode_is_set_before_the_restart() {
    let disk = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let root = disk.path().join("log");
    std::fs::create_dir_all(root.join("audit")).unwrap();
    let logs = ["audit/a.log.1", "audit/a.log.2", "b.log.1", "b.log.2", "b.log.3", "b.log.4", "b.log.5"];
    let logs = logs.map(|name| root.join(name));
    for log in &logs {
        std::fs::write(log, vec![b'x'; 4 << 20]).unwrap();
    }
    let is_there = || logs.each_ref().map(|log| log.exists());
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let more = format!(
        "tail: {{ enabled: false }}\ncleanup: {{ mode: plan, roots: [{{ path: {}, min_age: 0s, keep_newest: 0 }}] }}\n",
        yaml(&root)
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    let base = std::fs::read_to_string(post.config()).unwrap();
    let file = post.config().to_owned();
    post.start();
    let rita = house.person("rita", "responder");
    fill_to(&disk.path().join("filler"), 4 << 20);
    let mount = disk.path().to_str().unwrap();
    until("a plan that has both", PATIENCE, || {
        rita.rows(&["get", "actions", "--state", "planned"]).into_iter().find(|a| a["mount"] == mount)
    });
    let excluding = base.replace("keep_newest: 0", "keep_newest: 0, excludes: [audit]");
    swap(&file, &excluding);
    let why =
        "cleanup.roots[0].excludes waits for a restart of the agent; until then cleanups are only planned";
    let said_of_node = || rita.rows(&["get", "nodes"]).iter().any(|row| row.to_string().contains(why));
    until("the node to say that it waits", PATIENCE, || said_of_node().then_some(()));
    swap(&file, &excluding.replace("mode: plan", "mode: auto"));
    until("the mode to wait", PATIENCE, || {
        post.said().contains("restart to apply: cleanup.mode, cleanup.roots[0].excludes").then_some(())
    });
    let refused = rita.dogwatch(&["clean", "node-a", "--mount", mount, "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(why), "{said}");
    assert_eq!(is_there(), [true; 7]);

    // The restart applies both.
    post.stop();
    post.start();
    until("a cleanup by itself", PATIENCE, || {
        let done = rita.rows(&["get", "actions", "--state", "done"]);
        done.into_iter().find(|a| a["mount"] == mount && a["actor"] == "node")
    });
    let [a, b, rest @ ..] = is_there();
    assert!(a && b && rest.contains(&false), "{rest:?}");
    assert!(!said_of_node());
    post.stop();
    house.stop();
}

#[test]
fn a_collector_takes_another_silence_and_refuses_a_mistake() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }\n");
    house.start();
    let base = std::fs::read_to_string(house.config()).unwrap();
    let health = base.split("health: { listen: \"").nth(1).unwrap().split('"').next().unwrap();
    let health: SocketAddr = health.parse().unwrap();
    let mut post =
        stage.post("node-a", &stage.path().join("agent"), Some(&house), "cleanup: { mode: \"off\" }\n");
    post.start();
    until("the node to be connected", PATIENCE, || {
        figure(health, "dogwatch_collector_nodes{state=\"connected\"}").filter(|n| *n == 1.0)
    });
    post.stop();
    let silent = "dogwatch_collector_active_findings{rule=\"node-silent\",severity=\"high\"}";
    assert_eq!(figure(health, silent), None);

    swap(house.config(), &base.replace("silent_after: 1h", "silent_after: soon"));
    until("the refusal", PATIENCE, || {
        (figure(health, "dogwatch_collector_config_reload_success") == Some(0.0)).then_some(())
    });
    let mistake = "incidents.silent_after = soon";
    until(mistake, PATIENCE, || house.said().contains(mistake).then_some(()));

    let quick = base
        .replace("silent_after: 1h", "silent_after: 1s")
        .replace("reserve_bytes: 1MiB", "reserve_bytes: 2MiB");
    swap(house.config(), &quick);
    until("the node's silence", PATIENCE, || figure(health, silent).filter(|n| *n == 1.0));
    assert_eq!(figure(health, "dogwatch_collector_config_reload_success"), Some(1.0));
    let restart = "restart to apply: store.reserve_bytes";
    until(restart, PATIENCE, || house.said().contains(restart).then_some(()));
    house.stop();
}
