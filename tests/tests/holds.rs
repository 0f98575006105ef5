//! Holds from a person to the disk and back: what is held stays, whoever cleans, over restarts, and goes once released.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use dogwatch::wire;
use dogwatch::wire::desk_client::DeskClient;
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{House, Person, Post, Stage, yaml};
use dogwatch_e2e::wait::until;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const MIN_AGE: Duration = Duration::from_secs(2);
const MIB: usize = 1 << 20;

/// A small disk with a folder of old logs, of which all are needed once it is full.
struct Disk {
    fs: LoopFs,
}

impl Disk {
    fn new(logs: &[&str]) -> Self {
        let fs = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
        for log in logs {
            let path = fs.path().join("log").join(log);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; MIB]).unwrap();
        }
        let made = SystemTime::now();
        until("the logs to be old", PATIENCE, || {
            (made.elapsed().unwrap_or_default() > MIN_AGE + Duration::from_secs(1)).then_some(())
        });
        Self { fs }
    }

    fn mount(&self) -> String {
        self.fs.path().display().to_string()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.fs.path().join("log").join(name)
    }

    /// So full that every log must go, and more.
    fn fill(&self) {
        rustix::fs::syncfs(std::fs::File::open(self.fs.path()).unwrap()).unwrap();
        let (available, total) = room(self.fs.path());
        assert!(available > total / 20);
        fill_to(&self.fs.path().join("filler"), total / 20);
    }

    fn config(&self, mode: &str, tail: &str) -> String {
        format!(
            "sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ntail: {tail}\n\
             cleanup:\n  mode: {mode}\n  roots: [{{ path: {}, min_age: {}s, keep_newest: 0 }}]\n",
            yaml(&self.fs.path().join("log")),
            MIN_AGE.as_secs()
        )
    }
}

/// A collector, an agent, and people.
struct Scene {
    runtime: Runtime,
    house: House,
    post: Post,
    person: Person,
    // Before the disk that it keeps busy is taken away the agent ends.
    disk: Disk,
    stage: Stage,
}

impl Scene {
    fn new(mode: &str, disk: Disk) -> Self {
        Self::that_tails(mode, disk, |_| "{ enabled: false }".to_owned())
    }

    /// One whose agent tails as `tail` says, which is given the stage's folder.
    fn that_tails(mode: &str, disk: Disk, tail: impl FnOnce(&Path) -> String) -> Self {
        let stage = Stage::new(programs!());
        let mut house = stage.house(&stage.path().join("collector"), "");
        house.start();
        let post = stage.post(
            "node-a",
            &stage.path().join("agent"),
            Some(&house),
            &disk.config(mode, &tail(stage.path())),
        );
        let person = house.person("ada", "responder");
        house.person("vic", "viewer");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, house, post, person, disk, stage }
    }

    fn desk(&self, name: &str) -> DeskClient<Channel> {
        let people = self.stage.path().join(format!("people-{}", self.house.address().port()));
        let file = |end: &str| people.join(format!("{name}.{end}"));
        let material =
            ClientMaterial::from_files(&file("crt"), &file("key"), &people.join("ca.crt")).unwrap();
        let tls = ClientTls::new(&material, ClientTlsOptions::default()).unwrap();
        self.runtime.block_on(async {
            let endpoint = tls.endpoint(&self.house.address().to_string()).unwrap();
            DeskClient::new(endpoint.connect_with_connector(tls.clone()).await.unwrap())
        })
    }

    fn add_as(&self, name: &str, hold: wire::Hold) -> Result<wire::Hold, Status> {
        let mut desk = self.desk(name);
        let ask = wire::AddHoldRequest { hold: Some(hold) };
        self.runtime.block_on(desk.add_hold(ask)).map(tonic::Response::into_inner)
    }

    fn add(&self, hold: wire::Hold) -> wire::Hold {
        self.add_as("ada", hold).unwrap()
    }

    fn release(&self, id: &str) -> Result<wire::Hold, Status> {
        let mut desk = self.desk("ada");
        let ask = wire::ReleaseHoldRequest { id: id.to_owned(), reason: "the case is closed".to_owned() };
        self.runtime.block_on(desk.release_hold(ask)).map(tonic::Response::into_inner)
    }

    fn holds(&self, released: bool) -> Vec<wire::Hold> {
        let mut desk = self.desk("vic");
        let ask = wire::GetHoldsRequest { released };
        self.runtime.block_on(desk.get_holds(ask)).unwrap().into_inner().holds
    }

    fn wait_holding(&self, id: &str) {
        until("the node to confirm the hold", PATIENCE, || {
            let hold = self.holds(false).into_iter().find(|h| h.id == id).unwrap();
            assert!(hold.state == "pending" || hold.state == "holding", "{hold:?}");
            (hold.state == "holding" && hold.confirmed_by == ["node-a"]).then_some(())
        });
    }

    /// Asks for a plan until the node knows the mount and is not busy with another.
    fn plan(&self) -> wire::Action {
        until("a plan", PATIENCE, || {
            let mut desk = self.desk("ada");
            let ask = wire::PlanRequest { node: "node-a".to_owned(), mount: self.disk.mount() };
            let row = self.runtime.block_on(desk.plan(ask)).ok()?;
            row.into_inner().action
        })
    }

    fn apply(&self, plan: &wire::Action) -> wire::Action {
        let mut desk = self.desk("ada");
        let ask = wire::ApplyRequest {
            node: "node-a".to_owned(),
            action_id: plan.id.clone(),
            override_brake: false,
        };
        self.runtime.block_on(desk.apply(ask)).unwrap().into_inner().action.unwrap()
    }
}

fn hold_of(path: &Path) -> wire::Hold {
    let path = path.display().to_string();
    wire::Hold { path, node: "node-a".to_owned(), reason: "the court asks".to_owned(), ..Default::default() }
}

fn why_stays(action: &wire::Action, path: &Path) -> String {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let refusal = action.refused.iter().find(|r| r.path == bytes);
    refusal.unwrap_or_else(|| panic!("{} is not refused: {action:?}", path.display())).reason.clone()
}

#[test]
fn what_is_held_stays_in_auto_and_in_clean_over_restarts_and_goes_once_released() {
    let disk = Disk::new(&["held.log.1", "a.log.1", "b.log.1", "c.log.1"]);
    let mut scene = Scene::new("auto", disk);
    scene.post.start();
    until("the node to be known", PATIENCE, || {
        scene.person.rows(&["get", "nodes"]).iter().any(|n| n["name"] == "node-a").then_some(())
    });
    let held = scene.disk.log("held.log.1");
    let hold = scene.add(hold_of(&held));
    assert!(hold.id.len() == 13 && hold.id.starts_with("hold-"), "{hold:?}");
    assert_eq!((hold.actor.as_str(), hold.reason.as_str()), ("ada", "the court asks"));
    scene.wait_holding(&hold.id);

    scene.disk.fill();
    let done = until("the cleanup", PATIENCE, || {
        scene.person.rows(&["get", "actions"]).into_iter().find(|a| a["state"] == "done")
    });
    assert!(held.exists(), "{done:#}");
    for gone in ["a.log.1", "b.log.1", "c.log.1"] {
        assert!(!scene.disk.log(gone).exists(), "{gone}: {done:#}");
    }
    let said = format!("held: {} the court asks", hold.id);
    assert!(done["refused"].as_array().unwrap().iter().any(|r| r["reason"] == said.as_str()), "{done:#}");

    // Both forget nothing: the agent is killed, the collector stopped, its index lost.
    scene.post.kill();
    scene.house.stop();
    std::fs::remove_dir_all(scene.house.store().join("index")).unwrap();
    scene.house.start();
    let known = scene.holds(false);
    assert_eq!((known.len(), known[0].state.as_str()), (1, "holding"), "its word was kept: {known:?}");
    scene.post.start();
    let refused = scene.plan();
    assert_eq!(why_stays(&refused, &held), said);
    assert!(refused.objects.is_empty(), "{refused:?}");
    let out = scene.person.dogwatch(&["clean", "node-a", "--mount", &scene.disk.mount(), "--yes"]);
    assert!(held.exists(), "{out:?}");

    let released = scene.release(&hold.id).unwrap();
    assert_eq!((released.state.as_str(), released.released_by.as_str()), ("released", "ada"));
    assert_eq!(scene.release(&hold.id).unwrap_err().code(), Code::FailedPrecondition);
    let plan = until("a plan with what was held", PATIENCE, || {
        let plan = scene.plan();
        (!plan.objects.is_empty()).then_some(plan)
    });
    let done = scene.apply(&plan);
    assert!(!held.exists(), "{done:?}");
    assert!(scene.holds(false).is_empty());
    let all = scene.holds(true);
    assert_eq!((all.len(), all[0].id.as_str(), all[0].state.as_str()), (1, hold.id.as_str(), "released"));
    scene.post.stop();
    scene.house.stop();
    let verified = scene.house.verify();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn people_are_told_on_which_mount_a_folder_is_what_is_not_there_and_what_a_cleanup_fell_short_of() {
    let mut scene = Scene::new("plan", Disk::new(&["a.log.1", "b.log.1"]));
    scene.post.start();
    let whole = scene.disk.mount();
    until("the node to know its mount", PATIENCE, || {
        let ran = scene.person.dogwatch(&["plan", "node-a", "--mount", &whole]);
        (ran.status.code() == Some(0)).then(|| {
            let out = String::from_utf8_lossy(&ran.stdout).into_owned();
            assert!(out.contains("nothing needs to go"), "{out}");
        })
    });
    let ran = scene.person.dogwatch(&["clean", "node-a", "--mount", &whole, "--yes"]);
    assert_eq!(ran.status.code(), Some(0), "there is room: {ran:?}");
    scene.disk.fill();
    until("a plan with both", PATIENCE, || (scene.plan().objects.len() == 2).then_some(()));
    let mount = scene.disk.mount();
    let folder = format!("{mount}/log");
    let link = scene.stage.path().join("by-link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    let link = link.display().to_string();
    let said = |args: &[&str]| {
        let ran = scene.person.dogwatch(args);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    };
    for named in [&folder, &link] {
        let (code, out, err) = said(&["plan", "node-a", "--mount", named]);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.contains(&format!("{named} is on {mount}")), "{err}");
        assert!(out.contains(&format!("for {mount} on node-a")), "{out}");
    }
    let nowhere = format!("{mount}/nowhere");
    let (code, _, err) = said(&["plan", "node-a", "--mount", &nowhere]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains(&format!("this node has no {nowhere}")), "{err}");

    let (code, out, err) =
        said(&["hold", "add", "--path", &nowhere, "--node", "node-a", "-m", "it may come"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("holding") && err.contains(&format!("nothing is at {nowhere} now on node-a")),
        "{out}{err}"
    );
    let known = scene.holds(false);
    assert_eq!(
        (known[0].absent_on.as_slice(), known[0].state.as_str()),
        (&["node-a".to_owned()][..], "holding")
    );
    let (_, _, err) = said(&["hold", "add", "--path", &folder, "--node", "node-a", "-m", "the court asks"]);
    assert!(!err.contains("nothing is at"), "{err}");
    let there = scene.holds(false).into_iter().find(|h| h.path == folder).unwrap();
    assert!(there.absent_on.is_empty(), "{there:?}");
    // It comes, and with the next word of the node that is known.
    std::fs::write(&nowhere, "it came").unwrap();
    scene.release(&there.id).unwrap();
    until("the node to find it", PATIENCE, || scene.holds(false)[0].absent_on.is_empty().then_some(()));

    // What was linked aside while it was held was changed by that, and is young until it is not.
    until("the released logs to be old again", PATIENCE, || {
        let old = |name: &str| {
            let meta = scene.disk.log(name).metadata().unwrap();
            let changed = std::time::UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs());
            meta.nlink() == 1 && changed.elapsed().unwrap_or_default() > Duration::from_secs(4)
        };
        (old("a.log.1") && old("b.log.1")).then_some(())
    });
    let (code, out, err) = said(&["clean", "node-a", "--mount", &folder, "--yes"]);
    assert_eq!(code, Some(2), "a mount that was not named is not cleaned unasked: {out}{err}");
    assert!(scene.disk.log("a.log.1").exists() && scene.disk.log("b.log.1").exists(), "{out}{err}");
    let (code, out, err) = said(&["clean", "node-a", "--mount", &mount, "--yes"]);
    assert!(!scene.disk.log("a.log.1").exists() && !scene.disk.log("b.log.1").exists(), "{out}{err}");
    assert_eq!(code, Some(1), "the filler stays, so the mount stays too full: {out}{err}");
    assert!(err.contains("are still missing to") && err.contains("try: "), "{err}");
    scene.post.stop();
    scene.house.stop();
}

#[test]
fn a_hold_between_plan_and_deed_wins_also_behind_a_link() {
    let mut scene = Scene::new("plan", Disk::new(&["app/x.log.1", "app/y.log.1", "z.log.1"]));
    scene.disk.fill();
    scene.post.start();
    let plan = until("a plan with all three", PATIENCE, || {
        let plan = scene.plan();
        (plan.objects.len() == 3).then_some(plan)
    });
    // A folder, by a name that is a link to it.
    let link = scene.stage.path().join("by-link");
    std::os::unix::fs::symlink(scene.disk.log("app"), &link).unwrap();
    let hold = scene.add(hold_of(&link));
    scene.wait_holding(&hold.id);
    let done = scene.apply(&plan);
    for held in ["app/x.log.1", "app/y.log.1"] {
        let held = scene.disk.log(held);
        assert!(held.exists());
        assert_eq!(why_stays(&done, &held), format!("held: {} the court asks", hold.id));
    }
    assert!(!scene.disk.log("z.log.1").exists(), "{done:?}");
    scene.post.stop();
}

#[test]
fn a_hold_waits_for_a_node_that_is_away_and_a_torn_file_holds_everything() {
    let mut scene = Scene::new("auto", Disk::new(&["a.log.1", "b.log.1"]));
    scene.post.start();
    until("the node to be known", PATIENCE, || {
        let rows = scene.person.rows(&["get", "nodes"]);
        rows.iter().any(|n| n["state"] == "connected").then_some(())
    });
    scene.post.stop();
    let held = scene.disk.log("a.log.1");
    let hold = scene.add(hold_of(&held));
    assert_eq!((hold.state.as_str(), hold.confirmed_by.len()), ("pending", 0));
    scene.post.start();
    scene.wait_holding(&hold.id);

    // While the collector is away nobody could say it anew.
    scene.post.kill();
    scene.house.stop();
    let file = scene.post.state().join("holds");
    let whole = std::fs::read(&file).unwrap();
    // In the midst of what it says; behind that comes padding.
    assert!(whole.len() > 40);
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(40).unwrap();
    scene.disk.fill();
    scene.post.start();
    let alone = scene.stage.on_journal(scene.post.state());
    let refused: Value = until("the cleanup to be refused", PATIENCE, || {
        // The machine's other disks may be full as well, and nothing may go there.
        let ours = |a: &Value| a["state"] == "refused" && a["mount"] == scene.disk.mount().as_str();
        alone.rows(&["get", "actions"]).into_iter().rev().find(ours)
    });
    let reasons = refused["refused"].to_string();
    assert!(reasons.contains("held: unknown what is held here is not known"), "{refused:#}");
    assert!(held.exists() && scene.disk.log("b.log.1").exists());

    scene.house.start();
    scene.wait_holding(&hold.id);
    let plan = until("a plan without what is held", PATIENCE, || {
        let plan = scene.plan();
        (!plan.objects.is_empty()).then_some(plan)
    });
    scene.apply(&plan);
    assert!(held.exists() && !scene.disk.log("b.log.1").exists());
    assert_eq!(std::fs::read(&file).unwrap(), whole, "the file is whole again");
    scene.post.stop();
}

#[test]
fn an_incident_holds_its_nodes_and_what_makes_no_sense_is_refused() {
    let mut scene = Scene::new("plan", Disk::new(&["a.log.1"]));
    scene.disk.fill();
    scene.post.start();
    let incident = until("an incident", PATIENCE, || {
        let rows = scene.person.rows(&["get", "incidents"]);
        rows.first().map(|i| i["id"].as_str().unwrap().to_owned())
    });
    let of = |incident: &str| wire::Hold {
        incident: incident.to_owned(),
        reason: "post-mortem".to_owned(),
        ..wire::Hold::default()
    };
    let hold = scene.add(of(&incident));
    scene.wait_holding(&hold.id);
    let plan = scene.plan();
    assert!(plan.objects.is_empty());
    assert_eq!(why_stays(&plan, &scene.disk.log("a.log.1")), format!("held: {} post-mortem", hold.id));
    // A pod's hold is beside it, and of every node.
    let pod = wire::Hold {
        namespace: "shop".into(),
        pod: "api-1".into(),
        reason: "r".into(),
        ..Default::default()
    };
    scene.wait_holding(&scene.add(pod).id);

    let code = |hold: wire::Hold| scene.add_as("ada", hold).unwrap_err().code();
    assert_eq!(code(of("inc-2020-01-01-001")), Code::NotFound);
    assert_eq!(code(wire::Hold { node: "nobody".into(), ..hold_of(Path::new("/x")) }), Code::NotFound);
    assert_eq!(code(hold_of(Path::new("x"))), Code::InvalidArgument);
    assert_eq!(code(wire::Hold { reason: String::new(), ..hold_of(Path::new("/x")) }), Code::InvalidArgument);
    let viewer = scene.add_as("vic", hold_of(Path::new("/x"))).unwrap_err();
    assert_eq!(viewer.code(), Code::PermissionDenied);
    assert_eq!(scene.release("hold-00000000").unwrap_err().code(), Code::NotFound);
    assert_eq!(scene.holds(false).len(), 2);
    scene.post.stop();
}

#[test]
fn an_open_security_incident_holds_its_nodes_logs_by_itself_until_it_is_resolved() {
    const RULES: &str = "rules:\n  - name: security-module-loaded\n    match: 'module verification failed'\n    \
                         severity: high\n    summary: \"An unsigned kernel module was loaded\"\n";
    let mut scene = Scene::that_tails("auto", Disk::new(&["a.log.1", "b.log.1"]), |folder| {
        let rules = folder.join("rules.yaml");
        std::fs::write(&rules, RULES).unwrap();
        let (log, rules) = (yaml(&folder.join("kern.log")), yaml(&rules));
        format!("{{ globs: [{log}], rules_file: {rules}, start: beginning, poll: 50ms }}")
    });
    scene.post.start();
    until("the node to be known", PATIENCE, || {
        scene.person.rows(&["get", "nodes"]).iter().any(|n| n["state"] == "connected").then_some(())
    });
    assert!(scene.holds(true).is_empty());
    let line = "kernel: rootkit: module verification failed: signature and/or required key missing\n";
    std::fs::write(scene.stage.path().join("kern.log"), line).unwrap();
    let hold = until("a hold by itself", PATIENCE, || scene.holds(false).pop());
    assert_eq!((hold.actor.as_str(), scene.holds(true).len()), ("collector", 1), "{hold:?}");
    assert_eq!(hold.reason, format!("security incident {} is open", hold.incident));
    let opened = &scene.person.rows(&["get", "incidents", &hold.incident])[0];
    assert_eq!((&opened["state"], &opened["severity"]), (&"open".into(), &"high".into()), "{opened:#}");
    scene.wait_holding(&hold.id);

    // The disk fills up, and neither the node nor a person removes what was there when it was opened.
    scene.disk.fill();
    let said = format!("held: {} security incident {} is open", hold.id, hold.incident);
    let logs = ["a.log.1", "b.log.1"].map(|name| scene.disk.log(name));
    let refused = until("the node's own cleanup to be refused", PATIENCE, || {
        let ours = |a: &Value| a["state"] == "refused" && a["mount"] == scene.disk.mount().as_str();
        scene.person.rows(&["get", "actions"]).into_iter().find(ours)
    });
    for log in &logs {
        let path = log.display().to_string();
        let left = refused["refused"].as_array().unwrap().iter().find(|r| r["path"] == path.as_str());
        assert_eq!(left.unwrap()["reason"], said.as_str(), "{refused:#}");
    }
    let plan = scene.plan();
    assert!(plan.objects.is_empty());
    logs.iter().for_each(|log| assert_eq!(why_stays(&plan, log), said));
    scene.person.dogwatch(&["clean", "node-a", "--mount", &scene.disk.mount(), "--yes"]);
    assert!(logs.iter().all(|log| log.exists()));
    let kept = until("what it keeps to be known", PATIENCE, || {
        let hold = scene.holds(false).pop()?;
        (hold.kept_unknown == 0).then_some(hold)
    });
    assert_eq!((kept.kept_bytes, kept.lacks.len()), (Some(0), 0), "nothing was deleted under it: {kept:?}");
    assert!(kept.kept_files >= 2, "{kept:?}");

    // Acknowledging it is no end.
    scene.person.ask(&["ack", &hold.incident]);
    assert_eq!(scene.holds(false).len(), 1);
    scene.person.ask(&["resolve", &hold.incident, "-m", "it was our own module"]);
    until("the hold to be let go of", PATIENCE, || scene.holds(false).is_empty().then_some(()));
    let over = scene.holds(true).pop().unwrap();
    assert_eq!((over.id.as_str(), over.released_by.as_str()), (hold.id.as_str(), "collector"), "{over:?}");
    // They were changed by being linked, and go once they are old again: by the node's next plan, or by ours.
    until("the logs to go", PATIENCE, || {
        let plan = scene.plan();
        if !plan.objects.is_empty() {
            scene.apply(&plan);
        }
        logs.iter().all(|log| !log.exists()).then_some(())
    });
    scene.post.stop();
    scene.house.stop();
}

#[test]
fn what_a_hold_keeps_of_deleted_files_is_listed_with_it() {
    let mut scene = Scene::new("plan", Disk::new(&["a.log.1", "b.log.1"]));
    scene.post.start();
    until("the node to be known", PATIENCE, || {
        scene.person.rows(&["get", "nodes"]).iter().any(|n| n["state"] == "connected").then_some(())
    });
    let hold = scene.add(hold_of(&scene.disk.log("a.log.1")));
    let rows = |scene: &Scene| scene.person.rows(&["hold", "ls"]).remove(0);
    until("the log to be linked", PATIENCE, || (rows(&scene)["kept_files"] == 1).then_some(()));
    assert_eq!((&rows(&scene)["kept_bytes"], &rows(&scene)["kept_unknown_nodes"]), (&0.into(), &0.into()));
    // As a rotation deletes.
    std::fs::remove_file(scene.disk.log("a.log.1")).unwrap();
    let kept = until("what is kept of it", PATIENCE, || {
        rows(&scene)["kept_bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    assert!(kept >= MIB as u64 && kept < 2 * MIB as u64, "{kept}");
    let table = scene.person.ask(&["hold", "ls"]);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert!(head.contains(&"KEPT") && table.contains("1.0 MiB"), "{table}");
    // Of a node that is away it is not known.
    scene.post.stop();
    until("it to be unknown", PATIENCE, || rows(&scene)["kept_bytes"].is_null().then_some(()));
    assert_eq!(rows(&scene)["kept_unknown_nodes"], 1);
    let table = scene.person.ask(&["hold", "ls"]);
    assert!(table.lines().nth(1).unwrap().split_whitespace().any(|cell| cell == "?"), "{table}");
    scene.post.start();
    scene.release(&hold.id).unwrap();
    until("it to come free", PATIENCE, || {
        let held = scene.disk.log(".dogwatch-held");
        (std::fs::read_dir(held).unwrap().count() == 0).then_some(())
    });
    scene.post.stop();
    scene.house.stop();
}
