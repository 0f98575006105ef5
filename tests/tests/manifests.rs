//! What `deploy/` offers: manifests valid by Kubernetes' own schemas, configuration that the daemons take, images that run.
//!
//! Needs Go with its module proxy, promtool (Debian: prometheus), buildah, skopeo and binutils.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dogwatch_e2e::programs;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}\n{}\n{}", text(&out.stdout), text(&out.stderr));
    out
}

fn files(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), name, found);
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
}

#[test]
fn manifests_are_valid_and_the_daemons_take_their_configuration() {
    let programs = programs!();
    let out = tempfile::tempdir().unwrap();
    run(Command::new(deploy().join("check/run")).arg(out.path()));
    for (program, file, least) in
        [(&programs.agent, "agent.yaml", 8), (&programs.collector, "collector.yaml", 7)]
    {
        let mut rendered = Vec::new();
        files(out.path(), file, &mut rendered);
        assert!(rendered.len() >= least, "{rendered:?}");
        for config in rendered {
            let said = run(Command::new(program)
                .env_clear()
                .env("NODE_NAME", "worker-1")
                .args(["--check-config", "--config"])
                .arg(&config));
            assert_eq!(String::from_utf8_lossy(&said.stdout), "the configuration is valid\n", "{config:?}");
        }
    }
}

#[test]
fn images_hold_the_program_its_libraries_and_nothing_else() {
    let programs = programs!();
    let work = tempfile::tempdir().unwrap();
    for (part, program, user) in
        [("agent", &programs.agent, "0:0"), ("collector", &programs.collector, "65532:65532")]
    {
        let layout = work.path().join(part);
        let built = run(Command::new(deploy().join("image/build")).arg(part).arg(program).arg(&layout));
        let name = String::from_utf8(built.stdout).unwrap().trim().to_owned();
        let json = |args: &[&str]| -> Value {
            let out = run(Command::new("skopeo").arg("inspect").args(args).arg(format!("oci:{name}")));
            serde_json::from_slice(&out.stdout).unwrap()
        };
        let config = json(&["--config"]);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!([format!("/dogwatch-{part}")]));
        assert_eq!(config["config"]["User"], user);
        let manifest = json(&["--raw"]);
        let notes = &manifest["annotations"];
        assert_eq!(notes["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(notes["org.opencontainers.image.licenses"], "Apache-2.0");
        assert!(
            notes["org.opencontainers.image.source"].is_string()
                && notes["org.opencontainers.image.revision"].is_string()
        );
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        // An unoptimised program; a release is a tenth of it.
        assert!(layers[0]["size"].as_u64().unwrap() < 100 << 20, "{manifest}");

        // What is in it, and that it runs with nothing else around it.
        let root = work.path().join(format!("{part}-root"));
        std::fs::create_dir(&root).unwrap();
        let digest = layers[0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        run(Command::new("tar")
            .arg("-xf")
            .arg(layout.join("blobs/sha256").join(digest))
            .arg("-C")
            .arg(&root));
        let found = run(Command::new("find").arg(&root).args(["-type", "f", "-printf", "%P\n"]));
        let found: BTreeSet<String> =
            String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
        let expected = |f: &str| {
            f == format!("dogwatch-{part}")
                || ["etc/nsswitch.conf", "etc/passwd", "etc/group"].contains(&f)
                || f.contains("/ld-linux")
                || ["libc.so", "libm.so", "libgcc_s.so"]
                    .iter()
                    .any(|l| f.rsplit('/').next().unwrap().starts_with(l))
        };
        let strange: Vec<_> = found.iter().filter(|f| !expected(f)).collect();
        assert!(strange.is_empty(), "{strange:?}");
        let said = run(Command::new("chroot").arg(&root).arg(format!("/dogwatch-{part}")).arg("--version"));
        assert_eq!(
            String::from_utf8_lossy(&said.stdout).trim(),
            format!("dogwatch-{part} {}", env!("CARGO_PKG_VERSION"))
        );
    }
}
