//! Unused images, removed through CRI by the image keeper in its own process, from a real containerd.
//!
//! `ctr` says independently what is there before and after.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod containerd;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use containerd::cri::{CREATED, Client, EXITED, RUNNING};
use containerd::{Containerd, PAUSE, until};
use dogwatch::identity::{create_private_dir, write_private_file};
use dogwatch::record::{Action, ActionState, CleanupMode, ObjectOutcome};
use dogwatch_agent::act::executor::Enforcement;
use dogwatch_agent::act::handle::{Executor, ExecutorError, Starting};
use dogwatch_agent::act::hold::{HeldThing, NodeHold};
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::images::IMAGE_PLACE;
use dogwatch_agent::act::images::child::IMAGES_FOLDER;
use dogwatch_agent::act::images::policy::{ImagePolicy, MAX_IMAGES_AN_ACTION, MIN_AGE_SECONDS};
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, Rules};

const DEADLINE: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

fn policy(socket: &Path) -> ImagePolicy {
    ImagePolicy {
        mode: CleanupMode::Auto,
        socket: Some(socket.to_owned()),
        min_age_seconds: MIN_AGE_SECONDS,
        keep_newest: 0,
        excludes: vec!["registry.test/excluded/*".to_owned()],
        ..ImagePolicy::default()
    }
}

/// A keeper that was told that nothing is held, and the line by which it hears of more.
fn keeper(policy: ImagePolicy, state: &Path) -> (Executor, HoldLine) {
    let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
    let args = ["image-keeper".into()];
    let keeper = Starting::begin_image_keeper(program, &args, policy, state, Path::new("/")).unwrap();
    let keeper = keeper.ready().unwrap();
    let holds = HoldLine::open(state, Path::new("/"));
    keeper.hold(&holds);
    (keeper, holds)
}

/// Leaves behind what a keeper would that had watched every image unused for as long as it takes.
fn watched(cri: &mut Client, state: &Path) {
    let unused_ns = MIN_AGE_SECONDS * 1_000_000_000;
    let images: Vec<(String, u64, u64)> = cri.image_ids().into_iter().map(|id| (id, unused_ns, 0)).collect();
    let seen = serde_json::json!({ "version": 1, "next_order": 1, "images": images });
    let folder = state.join(IMAGES_FOLDER);
    create_private_dir(&folder).unwrap();
    write_private_file(&folder.join("images-seen"), seen.to_string().as_bytes()).unwrap();
}

fn place(name: &str) -> PathBuf {
    Path::new(IMAGE_PLACE).join(name)
}

/// Everything that may go, planned.
fn make_plan(survey: &Survey, mount: &Path) -> Action {
    let trigger = Trigger {
        mount: mount.display().to_string(),
        device: std::fs::metadata(mount).unwrap().dev(),
        total_bytes: 1 << 40,
        available_bytes: 0,
        target_available_bytes: 1 << 39,
        inodes_free: 0,
        target_inodes_free: 0,
        reason: "test".to_owned(),
        finding_id: None,
        actor: "node".to_owned(),
    };
    let policy = Policy { mode: CleanupMode::Auto, roots: Vec::new(), budgets: Budgets::default() };
    let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    plan("a-1".to_owned(), &trigger, survey, &Rules::new(policy).unwrap(), allowance, &[], now)
}

fn offered(survey: &Survey) -> BTreeSet<PathBuf> {
    survey.candidates.iter().map(|c| c.object.path.clone()).collect()
}

fn why(action: &Action, name: &str) -> String {
    let found = action.refused.iter().find(|r| r.path.as_deref() == Some(&place(name)));
    found.map(|r| r.reason.clone()).unwrap_or_default()
}

fn outcome(action: &Action, name: &str) -> ObjectOutcome {
    action.objects.iter().find(|o| o.path == place(name)).unwrap().outcome
}

#[test]
fn unused_images_go_and_what_is_used_pinned_pause_held_or_excluded_stays() {
    let containerd = Containerd::start(256);
    let (waits, ends) = (containerd.program(true), containerd.program(false));
    let image = |name: &str, program: &Path, bytes| {
        containerd.import(&[format!("registry.test/{name}")], program, bytes);
    };
    image("infra/sandbox:1", &waits, 1_000);
    image("app/running:1", &waits, MIB);
    image("app/created:1", &waits, MIB);
    image("app/exited:1", &ends, MIB);
    image("app/late:1", &waits, MIB);
    image("app/pinned:1", &waits, MIB);
    containerd.ctr(&["images", "label", "registry.test/app/pinned:1", "io.cri-containerd.pinned=pinned"]);
    image("excluded/x:1", &waits, MIB);
    image("app/held:1", &waits, MIB);
    image("app/held-late:1", &waits, MIB);
    image("app/unused:1", &waits, 24 * MIB);
    // One layer, two images.
    let twins = ["registry.test/twins/a:1".to_owned(), "registry.test/twins/b:1".to_owned()];
    containerd.import(&twins, &waits, 8 * MIB);

    let mut cri = Client::connect(&containerd.socket());
    let pod = cri.run_pod("web", containerd.cgroup(), containerd.folder.path());
    let running = cri.create(&pod, "running", "registry.test/app/running:1");
    cri.start(&running);
    let created = cri.create(&pod, "created", "registry.test/app/created:1");
    let exited = cri.create(&pod, "exited", "registry.test/app/exited:1");
    cri.start(&exited);
    until("a container to exit", || (cri.states()[&exited] == EXITED).then_some(()));
    assert_eq!((cri.states()[&running], cri.states()[&created]), (RUNNING, CREATED));

    let state = containerd.folder.path().join("dogwatch");
    // A runtime that knows of pins must have them obeyed; with one that does not, people exclude.
    let pins = cri.is_pinned("registry.test/app/pinned:1");
    let mut policy = policy(&containerd.socket());
    if !pins {
        policy.excludes.push("registry.test/app/pinned".to_owned());
    }
    watched(&mut cri, &state);
    let (mut keeper, holds) = self::keeper(policy.clone(), &state);
    let confinement = &keeper.ready().confinement;
    assert_eq!(confinement.lacks, Vec::<String>::new());
    assert_eq!((confinement.landlock, confinement.capabilities), (Enforcement::Fully, 0));
    assert!(confinement.no_new_privileges);
    let hold = |name: &str| NodeHold {
        id: format!("hold-{}", name.len()),
        what: HeldThing::Path(place(name)),
        reason: "court".to_owned(),
    };
    holds.keep(vec![hold("registry.test/app/held")]).unwrap();

    let mount = containerd.fs.path();
    let device = std::fs::metadata(mount).unwrap().dev();
    let elsewhere = keeper.survey(device + 1, DEADLINE).unwrap();
    assert_eq!(elsewhere, Survey::default(), "images do not lie there");
    let survey = keeper.survey(device, DEADLINE).unwrap();
    let free = ["app/held-late:1", "app/held:1", "app/late:1", "app/unused:1", "twins/a:1", "twins/b:1"];
    let free: BTreeSet<PathBuf> = free.iter().map(|n| place(&format!("registry.test/{n}"))).collect();
    assert_eq!(offered(&survey), free);
    for (name, reason) in [
        ("app/running:1", "(running) uses it"),
        ("app/created:1", "(created) uses it"),
        ("app/exited:1", "(exited) uses it"),
        ("infra/sandbox:1", "begins each pod with it"),
        ("excluded/x:1", "excluded by"),
        ("app/pinned:1", if pins { "has it pinned" } else { "excluded by" }),
    ] {
        let refusal =
            survey.passed_over.iter().find(|r| r.path == Some(place(&format!("registry.test/{name}"))));
        assert!(refusal.is_some_and(|r| r.reason.contains(reason)), "{name}: {refusal:?}");
    }

    // One that is pulled only now may be for a pod that starts.
    image("app/pulled:1", &waits, 1_000);
    let now = keeper.survey(device, DEADLINE).unwrap();
    assert_eq!(offered(&now), free);
    let pulled = now.passed_over.iter().find(|r| r.path == Some(place("registry.test/app/pulled:1")));
    assert!(pulled.unwrap().reason.contains("less than 10 min"), "{pulled:?}");

    // Between plan and deed: a container begins, and somebody holds.
    let action = make_plan(&survey, mount);
    assert_eq!(action.objects.len(), 6);
    assert!(action.objects.iter().all(|o| o.why_safe.contains("none of 3 containers uses it")));
    let late = cri.create(&pod, "late", "registry.test/app/late:1");
    cri.start(&late);
    holds.keep(vec![hold("registry.test/app/held"), hold("registry.test/app/held-late:1")]).unwrap();
    let applied = keeper.apply(&action, DEADLINE).unwrap();

    assert_eq!(applied.state, ActionState::Done, "{applied:#?}");
    for name in ["app/unused:1", "twins/a:1", "twins/b:1"] {
        assert_eq!(
            outcome(&applied, &format!("registry.test/{name}")),
            ObjectOutcome::Removed,
            "{applied:#?}"
        );
    }
    for (name, reason) in [
        ("registry.test/app/late:1", "(running) uses it"),
        ("registry.test/app/held:1", "held: hold-22 court"),
        ("registry.test/app/held-late:1", "held: hold-29 court"),
    ] {
        assert_eq!(outcome(&applied, name), ObjectOutcome::Skipped);
        assert!(why(&applied, name).contains(reason), "{name}: {}", why(&applied, name));
    }
    let left = containerd.names();
    for name in ["running", "created", "exited", "late", "pinned", "held", "held-late"] {
        assert!(left.contains(&format!("registry.test/app/{name}:1")), "{name}: {left:?}");
    }
    assert!(left.contains(&PAUSE.to_owned()) && left.contains(&"registry.test/excluded/x:1".to_owned()));
    assert!(!left.iter().any(|n| n.contains("unused") || n.contains("twins")), "{left:?}");
    assert_eq!((cri.states()[&running], cri.states()[&late]), (RUNNING, RUNNING));

    // Both figures, and why they differ: the twins' layer counts twice in the list and once on disk, and what was pulled
    // lies there besides what was unpacked.
    let store = applied.image_store.as_deref().unwrap();
    let freed = applied.freed_bytes.unwrap();
    assert_eq!(freed, store.used_before_bytes - store.used_after_bytes.unwrap());
    assert!(store.listed_bytes > 40 * MIB as u64, "{store:?}");
    assert!((32 * MIB as u64..34 * MIB as u64).contains(&freed), "{store:?}");
    // How many inodes says little here: the container that came between made some of its own.
    assert!(store.inodes_before > 0 && store.inodes_after.is_some(), "{store:?}");
    let (before, after) = (applied.available_before_bytes.unwrap(), applied.available_after_bytes.unwrap());
    let unexplained = applied.unexplained.as_ref().unwrap();
    assert_eq!(unexplained.bytes, after as i64 - before as i64 - freed as i64);
    assert!(after - before > 60 * MIB as u64, "unpacked and as pulled: {before} to {after}");
    for words in ["layers that they share", "layers as they were pulled"] {
        assert!(unexplained.reason.contains(words), "{}", unexplained.reason);
    }
    eprintln!(
        "freed {freed}, listed {}, mount {}: {}",
        store.listed_bytes,
        after - before,
        unexplained.reason
    );

    // What belongs to no image or container is told, and stays.
    containerd.ctr(&["snapshots", "prepare", "orphan"]);
    let snapshots = mount.join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let newest = std::fs::read_dir(&snapshots).unwrap().flatten();
    let newest = newest.max_by_key(|e| e.file_name().to_str().unwrap().parse::<u64>().unwrap()).unwrap();
    std::fs::write(newest.path().join("fs/junk"), vec![7; 30 * MIB]).unwrap();
    let told = until("the runtime to measure its store", || {
        let survey = keeper.survey(device, DEADLINE).unwrap();
        let told = survey
            .passed_over
            .into_iter()
            .find(|r| r.path.is_none() && r.reason.contains("belong to no image"));
        told.filter(|t| t.reason.starts_with("3") || t.reason.starts_with("2"))
    });
    eprintln!("{}", told.reason);
    assert!(newest.path().join("fs/junk").exists());

    cri.remove_pod(&pod.0);
    // With its containers gone, all but the pinned, held, excluded and the pods' own are free once they were watched.
    drop(keeper);
    watched(&mut cri, &state);
    let (mut keeper, _holds) = self::keeper(policy, &state);
    let survey = keeper.survey(device, DEADLINE).unwrap();
    let again = make_plan(&survey, mount);
    let mut again: Vec<String> = again.objects.iter().map(|o| o.path.display().to_string()).collect();
    again.retain(|p| !p.contains("held"));
    assert_eq!(again.len(), 5, "{again:?}");
}

#[test]
fn a_containerd_that_dies_midway_fails_the_action_and_nothing_else() {
    // Where this test had no turn while images went, they may all be gone before it dies.
    assert!((0..5).any(|_| is_killed_midway()), "all images go before the runtime dies, each time");
}

/// Kills a containerd while images go, and looks at what becomes of that; `false` if they had all gone before.
fn is_killed_midway() -> bool {
    /// As many as an action takes, so that they do not all go while this test waits for its turn.
    const IMAGES: usize = MAX_IMAGES_AN_ACTION as usize;
    let mut containerd = Containerd::start(128);
    let program = containerd.program(true);
    let names: Vec<String> = (0..IMAGES).map(|n| format!("registry.test/many/n{n:03}:1")).collect();
    containerd.import(&names, &program, 1_000);
    let state = containerd.folder.path().join("dogwatch");
    let mut cri = Client::connect(&containerd.socket());
    watched(&mut cri, &state);
    let mut policy = policy(&containerd.socket());
    policy.budgets.max_objects = MAX_IMAGES_AN_ACTION;
    let (mut keeper, _holds) = keeper(policy, &state);
    let mount = containerd.fs.path().to_owned();
    let device = std::fs::metadata(&mount).unwrap().dev();
    let action = make_plan(&keeper.survey(device, DEADLINE).unwrap(), &mount);
    assert_eq!(action.objects.len(), IMAGES);

    let applied = std::thread::scope(|scope| {
        let applying = scope.spawn(|| keeper.apply(&action, DEADLINE));
        // The runtime has answered for the first once the second is gone from its list.
        until("two images to go", || (cri.image_tags().len() < IMAGES - 1).then_some(()));
        containerd.kill();
        applying.join().unwrap()
    })
    .unwrap();
    let count = |o| applied.objects.iter().filter(|x| x.outcome == o).count();
    let (removed, pending) = (count(ObjectOutcome::Removed), count(ObjectOutcome::Pending));
    eprintln!("{removed} of {IMAGES} images went before it died");
    if removed == IMAGES {
        containerd.begin();
        assert!(!containerd.names().iter().any(|name| names.contains(name)), "they did not go");
        return false;
    }
    assert_eq!(applied.state, ActionState::Failed, "{removed} went before it died");
    assert!(applied.detail.contains("did not answer"), "{}", applied.detail);
    assert!(removed > 0 && pending == 0, "{removed} removed, {pending} without an outcome");
    let error = keeper.survey(device, DEADLINE).unwrap_err();
    assert!(matches!(&error, ExecutorError::Refused(why) if why.contains("did not answer")), "{error}");
    assert!(keeper.is_alive());

    containerd.begin();
    let left = containerd.names();
    for object in &applied.objects {
        let name = object.path.strip_prefix(IMAGE_PLACE).unwrap().to_str().unwrap().to_owned();
        match object.outcome {
            ObjectOutcome::Removed => assert!(!left.contains(&name), "{name}"),
            ObjectOutcome::Skipped => assert!(left.contains(&name), "{name}"),
            ObjectOutcome::Failed | ObjectOutcome::Pending | ObjectOutcome::Cut => {}
        }
    }
    let survey = until("the keeper to go on with the new one, which loads its images first", || {
        keeper.survey(device, DEADLINE).ok().filter(|s| !s.candidates.is_empty())
    });
    assert!(survey.candidates.len() <= IMAGES - removed, "{survey:?}");
    true
}

/// Who listens at the socket.
fn impostor(socket: &Path, answers: &'static [u8]) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(answers);
            kept.push(stream);
        }
    });
}

#[test]
fn a_socket_that_is_silent_or_speaks_nonsense_costs_a_bounded_time_and_no_image() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for (name, answers) in
            [("silent", &b""[..]), ("http1", b"HTTP/1.1 200 OK\r\n\r\n"), ("noise", &[0xff; 4096])]
        {
            let folder = folder.path();
            scope.spawn(move || {
                let socket = folder.join(name);
                impostor(&socket, answers);
                let (mut keeper, _holds) = keeper(policy(&socket), &folder.join(format!("{name}-state")));
                let began = Instant::now();
                let error = keeper.survey(1, DEADLINE).unwrap_err();
                assert!(matches!(&error, ExecutorError::Refused(_)), "{name}: {error}");
                assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", began.elapsed());
                assert!(keeper.is_alive(), "{name}");
            });
        }
    });
}

#[test]
fn without_a_socket_it_says_where_it_looked_and_finds_one_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("later.sock");
    let (mut keeper, _holds) = keeper(policy(&socket), &folder.path().join("state"));
    let error = keeper.survey(1, DEADLINE).unwrap_err().to_string();
    assert!(error.contains("later.sock") && error.contains("cleanup.images.socket"), "{error}");
    impostor(&socket, b"HTTP/1.1 200 OK\r\n\r\n");
    let error = keeper.survey(1, DEADLINE).unwrap_err().to_string();
    assert!(!error.contains("there is no runtime's socket"), "{error}");
}
