//! What a cleanup removed comes back: listed with its digest, byte for byte, from the collector and from the node's own
//! journal; and what is not whole is not written out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dogwatch::record::Hash;
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Person, Stage, yaml};
use dogwatch_e2e::wait::until;
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(60);
const MIN_AGE: Duration = Duration::from_secs(2);

/// Bytes that no compressor makes smaller, another run of them for each `seed`.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// What `dogwatch` says: exit code, stdout, stderr.
fn said(person: &Person, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let ran = person.dogwatch(args);
    (ran.status.code(), ran.stdout, String::from_utf8_lossy(&ran.stderr).into_owned())
}

/// Checks the list of `action` and the content of each of `files` as `person` gets them.
fn comes_back(person: &Person, action: &str, files: &BTreeMap<PathBuf, Vec<u8>>, folder: &Path) {
    let (code, list, err) = said(person, &["preserved", action]);
    assert_eq!(code, Some(0), "{err}");
    let list = String::from_utf8(list).unwrap();
    assert_eq!(list.lines().count(), files.len() + 1, "{list}");
    for (path, content) in files {
        let digest = Hash(Sha256::digest(content).into()).to_string();
        let line = list.lines().find(|l| l.contains(&digest));
        let line = line.unwrap_or_else(|| panic!("{} is not listed: {list}", path.display()));
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((cells[0], cells[1]), (&*content.len().to_string(), "yes"), "{line}");

        let path = path.display().to_string();
        let (code, piped, err) = said(person, &["preserved", action, &path]);
        assert_eq!(code, Some(0), "{err}");
        assert!(piped == *content, "{path}: {} bytes came", piped.len());
        let out = folder.join("out");
        let out_name = out.display().to_string();
        let (code, nothing, err) = said(person, &["preserved", action, &path, "-o", &out_name]);
        assert_eq!((code, nothing.len()), (Some(0), 0), "{err}");
        assert!(std::fs::read(&out).unwrap() == *content, "{path}");
        let (code, _, err) = said(person, &["preserved", action, &path, "-o", &out_name]);
        assert_eq!(code, Some(1), "what is there is not written over: {err}");
        std::fs::remove_file(&out).unwrap();
    }
    let (code, _, err) = said(person, &["preserved", action, "/var/log/another", "-o", "/nowhere/out"]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains("nothing is known of /var/log/another"), "{err}");
    let (code, _, err) = said(person, &["preserved", "a-00000000deadbeef"]);
    assert_eq!(code, Some(3), "{err}");
}

#[test]
fn what_was_preserved_is_listed_and_comes_back_byte_for_byte() {
    let fs = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let log = fs.path().join("log");
    std::fs::create_dir(&log).unwrap();
    // Empty, one piece, and several; and a name that a terminal would obey.
    let files: BTreeMap<PathBuf, Vec<u8>> = [
        ("small.log.1", noise(1, 5_000)),
        ("large.log.1", noise(2, 900_001)),
        ("odd\u{1b}[31m name.log.1", b"a line\n".repeat(3_000)),
    ]
    .into_iter()
    .map(|(name, content)| (log.join(name), content))
    .collect();
    for (path, content) in &files {
        std::fs::write(path, content).unwrap();
    }
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let config = format!(
        "sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ntail: {{ enabled: false }}\n\
         cleanup:\n  mode: plan\n  preserve: {{ max_bytes_per_object: 2MiB, max_bytes_per_hour: 4MiB }}\n  \
         roots: [{{ path: {}, min_age: {}s, keep_newest: 0, preserve: true }}]\n",
        yaml(&log),
        MIN_AGE.as_secs()
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &config);
    let made = SystemTime::now();
    until("the logs to be old", PATIENCE, || {
        (made.elapsed().unwrap_or_default() > MIN_AGE + Duration::from_secs(1)).then_some(())
    });
    rustix::fs::syncfs(std::fs::File::open(fs.path()).unwrap()).unwrap();
    fill_to(&fs.path().join("filler"), room(fs.path()).1 / 40);
    post.start();
    let ada = house.person("ada", "responder");
    let vic = house.person("vic", "viewer");
    let mount = fs.path().display().to_string();
    let plan = until("a plan with all of them", PATIENCE, || {
        let ran = ada.dogwatch(&["plan", "node-a", "--mount", &mount, "-o", "json"]);
        let plan: serde_json::Value = serde_json::from_slice(&ran.stdout).ok()?;
        (plan["objects"].as_array()?.len() == files.len()).then_some(plan)
    });
    assert_eq!(plan["state"], "planned", "{plan:#}");
    let ran = ada.dogwatch(&["clean", "node-a", "--mount", &mount, "--yes", "-o", "json"]);
    let done: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(done["state"], "done", "{done:#}");
    assert!(files.keys().all(|path| !path.exists()), "{done:#}");
    let action = done["id"].as_str().unwrap();

    until("the content to arrive", PATIENCE, || {
        files
            .keys()
            .all(|p| said(&ada, &["preserved", action, &p.display().to_string()]).0 == Some(0))
            .then_some(())
    });
    comes_back(&ada, action, &files, stage.path());
    let list = String::from_utf8(said(&ada, &["preserved", action]).1).unwrap();
    assert!(!list.contains('\u{1b}'), "{list:?}");
    let (code, nothing, err) = said(&vic, &["preserved", action]);
    assert!(code == Some(1) && nothing.is_empty() && err.contains("responder"), "{code:?} {err}");

    // The collector is gone, and the node has it still.
    house.stop();
    post.stop();
    comes_back(&stage.on_journal(post.state()), action, &files, stage.path());
}
