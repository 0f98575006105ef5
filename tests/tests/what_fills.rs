//! `dogwatch top --disk`: a node tells what fills its disk, folders and writers and what is deleted and still open, to whoever
//! may ask; and a finding names the folder that grows where no writer is seen.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::Stage;
use dogwatch_e2e::wait::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;

fn python(stage: &Stage, script: &str, folder: &Path) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(folder);
    Process::start("the writer", command, &stage.path().join("writer.log"))
}

fn parse(out: &[u8]) -> Value {
    serde_json::from_slice(out).expect("the answer is JSON")
}

#[test]
fn a_node_tells_what_fills_its_disk() {
    let disk = LoopFs::create(256 * MIB, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let more = "cleanup: { mode: \"off\" }\nusage: { background: false }\n";
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), more);
    post.start();
    let rita = house.person("rita", "responder");
    let vera = house.person("vera", "viewer");

    std::fs::create_dir_all(disk.path().join("app/\u{1b}[31mred/deep")).expect("folders");
    std::fs::write(disk.path().join("app/\u{1b}[31mred/deep/big"), vec![1u8; 40 << 20]).expect("a file");
    std::fs::create_dir(disk.path().join("hidden")).expect("a folder");
    let script = "import os,sys,time\nd=sys.argv[1]\ng=open(d+'/gone.log','wb',0); g.write(b'x'*(20<<20)); os.unlink(d+'/gone.log')\n\
                  f=open(d+'/spill.log','wb',0)\nopen(d+'/ready','w').close()\n\
                  while f.tell() < (90<<20): f.write(b'x'*65536); os.fsync(f.fileno()); time.sleep(0.1)\ntime.sleep(600)\n";
    let writer = python(&stage, script, disk.path());
    until("the writer to begin", PATIENCE, || disk.path().join("ready").exists().then_some(()));
    let path = disk.path().to_str().expect("a plain path").to_owned();
    let ask = |person: &dogwatch_e2e::stage::Person, more: &[&str]| {
        let args = [&["top", "--disk", "--node", "node-a", "--mount", &path], more].concat();
        person.dogwatch(&args)
    };
    // Where the disk was slow to write, there is too little between its two looks to be certain of.
    let said = until("the node to be asked, and to be certain", PATIENCE, || {
        let out = ask(&rita, &["-o", "json"]);
        let said = out.status.success().then(|| parse(&out.stdout)[0].clone())?;
        let writers = &said["writers"];
        let rate = writers["growing"][0]["bytes_per_second"].as_f64().unwrap_or(0.0);
        (writers["confidence"] == "certain" && rate > 100_000.0).then_some(said)
    });
    assert_eq!((&said["mount"], &said["path"]), (&path.as_str().into(), &path.as_str().into()), "{said:#}");
    assert_eq!(said["whole"], true, "{said:#}");
    let root = &said["tree"];
    let app = &root["folders"][0];
    assert_eq!(app["name"], "app", "{root:#}");
    assert!(app["allocated_bytes"].as_u64().unwrap_or(0) >= 40 << 20, "{app:#}");
    assert_eq!(app["folders"][0]["name"], "\\u{1b}[31mred", "{app:#}");
    assert!(said["files"].to_string().contains("deep/big"), "{said:#}");
    let writers = &said["writers"];
    let first = &writers["growing"][0];
    assert_eq!(first["path"], format!("{path}/spill.log"), "{writers:#}");
    assert_eq!(first["processes"][0]["pid"], writer.id(), "{writers:#}");
    assert_eq!(first["pod"], Value::Null, "nobody's process accuses no pod: {writers:#}");
    assert!(writers["deleted"][0]["path"].to_string().contains("gone.log"), "{writers:#}");
    assert!(writers["deleted_bytes"].as_u64().unwrap_or(0) >= 20 << 20, "{writers:#}");
    assert!(said["growth_unknown"].to_string().contains("not walked it by itself"), "{said:#}");

    // For people: a picture that steers no terminal. A folder below the mount is walked alone.
    let out = ask(&rita, &[]);
    let drawn = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(drawn.contains("─ app/\\u{1b}[31mred/deep") && !drawn.contains('\u{1b}'), "{drawn}");
    assert!(drawn.contains("deleted and still open"), "{drawn}");
    let below = rita.dogwatch(&[
        "top",
        "--disk",
        "--node",
        "node-a",
        "--mount",
        &format!("{path}/app"),
        "-o",
        "json",
    ]);
    let below = &parse(&below.stdout)[0];
    assert_eq!(
        (&below["mount"], &below["unfound_bytes"]),
        (&path.as_str().into(), &Value::Null),
        "{below:#}"
    );

    // It is work for the node: a viewer may not order it, nowhere is not found, and each stands in the journal.
    let refused = ask(&vera, &[]);
    assert!(!refused.status.success(), "a viewer ordered a walk");
    let nowhere = rita.dogwatch(&["top", "--disk", "--node", "node-a", "--mount", "/no/such/folder"]);
    assert_eq!(nowhere.status.code(), Some(3), "{}", String::from_utf8_lossy(&nowhere.stderr));
}

#[test]
fn a_folder_that_grows_by_files_that_nobody_holds_open_is_named() {
    let disk = LoopFs::create(256 * MIB, "ext4", &["-m", "0"]).expect("a filesystem of its own");
    let stage = Stage::new(programs!());
    let state = stage.path().join("agent");
    let more = "cleanup: { mode: \"off\" }\ndetect: { rules: { off: [disk-time-to-full, cpu-saturation, cpu-steal, fork-storm, io-stall, tcp-retransmits], update_every: 5s } }\n\
                caps: { cpu: 100% }\nusage: { every: 60s, cpu: 50%, disk: 50%, entries_per_second: 1000000 }\n";
    let mut post = stage.post("node-a", &state, None, more);
    post.launch();
    let journal = stage.on_journal(&state);
    // Small files, closed at once: past the high-water mark, and then on, slowly, for as long as it takes.
    let script = "import os,sys,time\nd=sys.argv[1]+'/spool/in'\nos.makedirs(d)\nopen(sys.argv[1]+'/old','wb').write(b'x'*(190<<20))\n\
                  n=0\nwhile True:\n  n+=1\n  \n  if n<280: open(d+'/%d'%n,'wb').write(b'x'*131072)\n  time.sleep(0.3)\n";
    let _writer = python(&stage, script, disk.path());
    let wanted = disk.path().join("spool/in").display().to_string();
    let said = until("the folder to be named", PATIENCE * 2, || {
        let out = journal.dogwatch(&["get", "findings", "-o", "json"]);
        let rows: Value = serde_json::from_slice(&out.stdout).ok()?;
        let is_it = |f: &&Value| f["rule"] == "disk-high-water" && f.to_string().contains("growing_folder_1");
        rows.as_array()?.iter().find(is_it).cloned()
    });
    let explanation = said["explanation"].as_str().unwrap_or_default();
    assert!(explanation.contains(&wanted) && explanation.contains(" since "), "{said:#}");
    assert!(!said.to_string().contains("\"writer_1\""), "nobody holds these files open: {said:#}");
}
