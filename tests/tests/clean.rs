//! `dogwatch clean` from person to disk, through real daemons: only a responder may, exactly the plan that was shown goes, and
//! the action says who wanted it.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use dogwatch_e2e::canary;
use dogwatch_e2e::layout::fill_to;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Stage, yaml};
use dogwatch_e2e::wait::until;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn paths(action: &Value) -> BTreeSet<PathBuf> {
    action["objects"].as_array().unwrap().iter().map(|o| o["path"].as_str().unwrap().into()).collect()
}

#[test]
fn only_a_responder_cleans_and_exactly_the_plan_goes() {
    let disk = LoopFs::create(64 * MIB, "ext4", &["-m", "0"]).unwrap();
    let root = disk.path().join("log");
    std::fs::create_dir(&root).unwrap();
    for i in 1..=6 {
        std::fs::write(root.join(format!("app.log.{i}")), vec![b'x'; 4 << 20]).unwrap();
    }
    std::fs::write(root.join("app.log"), "live\n").unwrap();
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let more = format!(
        "tail: {{ enabled: false }}\ncleanup:\n  mode: plan\n  roots: [{{ path: {}, min_age: 0s }}]\n",
        yaml(&root)
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    post.start();
    let (rita, vera) = (house.person("rita", "responder"), house.person("vera", "viewer"));
    fill_to(&disk.path().join("filler"), 4 * MIB);
    let mount = disk.path().to_str().unwrap();
    let plan = until("a plan of the node's own", PATIENCE, || {
        rita.rows(&["get", "actions", "--state", "planned"]).into_iter().find(|a| a["mount"] == mount)
    });
    let before = canary::remember(disk.path());

    let clean = ["clean", "node-a", "--mount", mount, "--yes", "-o", "json"];
    let refused = vera.dogwatch(&clean);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("responder"), "{said}");
    let [gone, new, changed] = canary::compare(&before, &canary::remember(disk.path()));
    assert!(
        gone.is_empty() && new.is_empty() && changed.is_empty(),
        "a viewer cleaned: {gone:?} {new:?} {changed:?}"
    );
    assert!(
        rita.rows(&["get", "actions"]).iter().all(|a| a["actor"] == "node"),
        "nothing was even planned for her"
    );

    let out = rita.dogwatch(&clean);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{said}");
    let done: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&done["state"], &done["actor"]), (&"done".into(), &"rita".into()), "{done:#}");
    assert!(
        said.contains(done["id"].as_str().unwrap()),
        "the plan that was told of is the one applied: {said}"
    );
    assert_eq!(paths(&done), paths(&plan), "what the node had planned by itself, for the same need");
    let [gone, _, changed] = canary::compare(&before, &canary::remember(disk.path()));
    assert_eq!(gone.into_iter().collect::<BTreeSet<_>>(), paths(&done));
    assert!(changed.is_empty(), "{changed:?}");
    let figure = |key: &str| done[key].as_i64().unwrap();
    let change = figure("available_after_bytes") - figure("available_before_bytes");
    assert_eq!(change - figure("freed_bytes"), figure("unexplained_bytes"), "{done:#}");

    // The disk has the room that is wanted: nothing needs to go, which is no failure.
    let again = rita.dogwatch(&clean);
    assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stderr));
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(again["detail"].as_str().unwrap().starts_with("nothing needs to go"), "{again:#}");
    post.stop();
    house.stop();
}
