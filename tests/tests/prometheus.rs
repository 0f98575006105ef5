//! A real Prometheus scrapes both daemons and, by the alert rules of `deploy/`, fires for a disk that is really full.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Stage, free_address, http_get, http_ok};
use dogwatch_e2e::wait::until;
use serde_json::Value;

/// The alert waits for a minute itself.
const PATIENCE: Duration = Duration::from_secs(180);

/// The groups of the PrometheusRule as a rules file of Prometheus: what stands beneath `spec`.
fn rules(folder: &Path) -> PathBuf {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/components/monitoring/rules.yaml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let (_, spec) = text.split_once("\nspec:\n").expect("a PrometheusRule has a spec");
    let lines = spec.lines().map(|l| l.strip_prefix("  ").unwrap_or(l));
    let path = folder.join("rules.yaml");
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    path
}

fn health_of(config: &Path) -> SocketAddr {
    let text = std::fs::read_to_string(config).unwrap();
    text.split("health: { listen: \"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
}

/// What Prometheus' API answers at `path`.
fn api(address: SocketAddr, path: &str) -> Option<Value> {
    let answer = http_get(address, path)?;
    let body = answer.split_once("\r\n\r\n")?.1;
    // It may come in parts, each under its length in hex: the JSON is what lies between the outer braces.
    let whole: String = body
        .split("\r\n")
        .filter(|l| !(l.len() <= 8 && !l.is_empty() && l.chars().all(|c| c.is_ascii_hexdigit())))
        .collect();
    serde_json::from_str(&whole).ok()
}

#[test]
fn a_full_disk_fires_an_alert() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let collector = health_of(house.config());
    let (agent, prometheus) = (free_address(), free_address());
    let disk = LoopFs::create(64 << 20, "ext4", &["-m", "0"]).unwrap();
    let mut post = stage.post(
        "node-a",
        &stage.path().join("agent"),
        Some(&house),
        &format!("health: {{ listen: \"{agent}\" }}\ncleanup: {{ mode: \"off\" }}\ndetect: {{ disk: {{ ignore: [\"/\"] }} }}\n"),
    );
    post.start();

    let config = stage.path().join("prometheus.yaml");
    std::fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n\
             - job_name: dogwatch-agent\n  static_configs: [{{ targets: [\"{agent}\"], labels: {{ node: node-a }} }}]\n\
             - job_name: dogwatch-collector\n  static_configs: [{{ targets: [\"{collector}\"] }}]\n",
            rules(stage.path()).display()
        ),
    )
    .unwrap();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", stage.path().join("tsdb").display()))
        .arg(format!("--web.listen-address={prometheus}"));
    let _prometheus =
        Process::start("prometheus (Debian: prometheus)", command, &stage.path().join("prometheus.log"));
    until("Prometheus to be ready", PATIENCE, || http_ok(prometheus, "/-/ready").then_some(()));
    until("both daemons to be scraped", PATIENCE, || {
        let targets = api(prometheus, "/api/v1/targets")?;
        let up = |t: &&Value| t["health"] == "up" && t["lastError"] == "";
        (targets["data"]["activeTargets"].as_array()?.iter().filter(up).count() == 2).then_some(())
    });
    let alerts = || api(prometheus, "/api/v1/alerts").unwrap_or_default();
    let mount = disk.path().display().to_string();
    let about = |v: &Value| v["labels"]["alertname"] == "DogwatchDiskFull" && v["labels"]["node"] == "node-a";
    let before = until("the alerts to be told", PATIENCE, || alerts()["data"]["alerts"].as_array().cloned());
    assert!(!before.iter().any(about), "the disk is not full yet");

    disk.fill().unwrap();
    let fired = until("the alert to fire", PATIENCE, || {
        let all = alerts();
        let full =
            |a: &&Value| about(a) && a["state"] == "firing" && a["labels"]["rule"] == "disk-high-water";
        let fired = all["data"]["alerts"].as_array()?.iter().find(full)?;
        Some(fired.clone())
    });
    eprintln!("{fired:#}");
    // It is the finding's about that disk; the machine's own root is not looked at.
    let person = house.person("anna", "viewer");
    let findings = person.rows(&["get", "findings", "--active"]);
    let ours = findings.iter().find(|f| f.to_string().contains(&mount)).unwrap();
    assert_eq!(
        (&ours["rule"], &ours["severity"]),
        (&Value::from("disk-high-water"), &Value::from("critical"))
    );

    disk.unfill().unwrap();
    until("the alert to end", PATIENCE, || {
        let all = alerts();
        let firing =
            |a: &Value| about(a) && a["labels"]["rule"] == "disk-high-water" && a["state"] == "firing";
        (!all["data"]["alerts"].as_array()?.iter().any(firing)).then_some(())
    });
    post.stop();
    house.stop();
}
