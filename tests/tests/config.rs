//! Configuration: every mistake in one run, with key, value and remedy, and exit code 2.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::path::Path;
use std::process::{Command, Output};

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::Programs;

fn run(program: &Path, folder: &Path, yaml: &str, more: &[&str], env: &[(&str, &str)]) -> Output {
    let file = folder.join("config.yaml");
    std::fs::write(&file, yaml).unwrap();
    let mut command = Command::new(program);
    command.env_clear().args(more).arg("--config").arg(file).envs(env.iter().copied());
    command.output().unwrap()
}

fn assert_names(out: &Output, keys: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(out.stdout.is_empty(), "talk goes to stderr: {out:?}");
    for key in keys {
        assert!(said.contains(key), "{key} is not named in:\n{said}");
    }
}

#[test]
fn an_agent_names_every_mistake_at_once() {
    let Programs { agent, .. } = programs!();
    let folder = tempfile::tempdir().unwrap();
    let yaml = "
node: { name: Not_A_Name }
sample: { every: 1ms, evry: 2s }
tail: { globs: [relative.log], rules_file: /nonexistent/rules.yaml }
detect: { space: { high_used: 0.5, low_used: 0.9 } }
cleanup:
  mode: sometimes
  roots:
    - { path: /etc }
    - { path: /var/log, patterns: ['*'] }
uplink: { trust_domian: mine }
health: { listen: nowhere }
";
    let keys = [
        "node.name",
        "sample.every",
        "sample.evry",
        "tail.globs[0]",
        "tail.rules_file",
        "detect.space.high_used",
        "cleanup.mode",
        "cleanup.roots[0].path",
        "cleanup.roots[1].patterns",
        "uplink.trust_domian",
        "health.listen",
        "state.segment_bytes",
    ];
    let env = [("DOGWATCH_STATE__SEGMENT_BYTES", "lots")];
    assert_names(&run(&agent, folder.path(), yaml, &["--check-config"], &env), &keys);
    // The same without being asked to check: nothing is started with a wrong configuration.
    assert_names(&run(&agent, folder.path(), yaml, &[], &env), &keys);
}

#[test]
fn a_collector_names_every_mistake_at_once() {
    let Programs { collector, .. } = programs!();
    let folder = tempfile::tempdir().unwrap();
    let yaml = "
server: { listen: 7443, prot: 1 }
identity: { node_lifetime: 1ms, certificate: /tls.crt }
store: { segment_bytes: 3000001 }
retention: { evidence: { max_age: never } }
incidents: { quiet: -1 }
log: { format: xml }
";
    let keys = [
        "server.listen",
        "server.prot",
        "identity.node_lifetime",
        "identity.key",
        "identity.client_ca",
        "store.segment_bytes",
        "retention.evidence.max_age",
        "incidents.quiet",
        "log.format",
    ];
    assert_names(&run(&collector, folder.path(), yaml, &["--check-config"], &[]), &keys);
    assert_names(&run(&collector, folder.path(), yaml, &[], &[]), &keys);
}

#[test]
fn what_is_shipped_is_valid_and_what_is_not_yaml_is_said_so() {
    let programs = programs!();
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    for (program, file) in [(&programs.collector, "collector.yaml"), (&programs.agent, "agent.yaml")] {
        let Ok(text) = std::fs::read_to_string(config.join(file)) else { continue };
        let out = run(program, folder.path(), &text, &["--check-config"], &[]);
        assert_eq!(out.status.code(), Some(0), "{file}: {out:?}");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "the configuration is valid\n");
    }
    // Where there is nothing to clean yet is no mistake, and no silence either.
    let roots =
        "cleanup: { mode: plan, roots: [{ path: /nowhere/logs }, { path: /nowhere/off, mode: off }] }";
    let out = run(&programs.agent, folder.path(), roots, &["--check-config"], &[]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("there is no /nowhere/logs") && !said.contains("/nowhere/off"), "{said}");
    for program in [&programs.collector, &programs.agent] {
        let out = run(program, folder.path(), "a: [unclosed", &["--check-config"], &[]);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        let missing = Command::new(program).args(["--config", "/nonexistent.yaml"]).output().unwrap();
        assert_eq!(missing.status.code(), Some(2), "{missing:?}");
        assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent.yaml"), "{missing:?}");
    }
    // The CLI too: an unknown key in its file is a usage error.
    let cli = folder.path().join("cli.yaml");
    std::fs::write(&cli, "colector: \"h:1\"\n").unwrap();
    let out =
        Command::new(&programs.dogwatch).arg("--config").arg(&cli).args(["get", "nodes"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("colector"), "{out:?}");
}
