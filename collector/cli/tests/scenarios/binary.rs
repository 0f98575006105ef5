//! The program itself: exit codes and streams.

use std::process::{Command, Stdio};

use crate::journal::folder;

fn dogwatch(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dogwatch"));
    // Whatever is configured on this machine is none of the test's business.
    command.args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = folder();
    for format in ["table", "json", "jsonl", "name"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let args = ["get", "findings", "-o", format, "--journal", dir.path().to_str().unwrap()];
        let ended = dogwatch(&args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(0), "{format}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{format}");
    }
}

#[test]
fn data_and_talk_go_apart_and_pipes_get_no_colours() {
    let dir = folder();
    let ended =
        dogwatch(&["get", "findings", "-v", "--journal", dir.path().to_str().unwrap()]).output().unwrap();
    let (out, err) = (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap());
    assert_eq!(ended.status.code(), Some(0), "{err}");
    assert!(out.starts_with("ID ") && !out.contains('\u{1b}'), "{out}");
    assert_eq!(err, "dogwatch: configuration: none\ndogwatch: collector: none\n");
}

#[test]
fn what_a_pipe_holds_is_whole_whatever_columns_are_wished_for() {
    let dir = folder();
    let at = dir.path().to_str().unwrap();
    let piped = |args: &[&str], columns: &str| {
        let all = [args, &["--journal", at]].concat();
        let out = dogwatch(&all).env("COLUMNS", columns).output().unwrap().stdout;
        String::from_utf8(out).unwrap()
    };
    for verb in [&["get", "findings"][..], &["get", "actions"], &["logs", "--since", "2026-11-21"]] {
        let whole = piped(verb, "");
        assert!(whole.lines().any(|l| l.chars().count() > 40), "{verb:?}: {whole}");
        for columns in ["1", "40", "nonsense"] {
            assert_eq!(piped(verb, columns), whole, "{verb:?} with COLUMNS={columns}");
        }
    }
}

#[test]
fn usage_and_help_have_their_codes() {
    assert_eq!(dogwatch(&["--help"]).output().unwrap().status.code(), Some(0));
    assert_eq!(dogwatch(&[]).output().unwrap().status.code(), Some(2));
    let ended = dogwatch(&["get", "incidents"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("no collector is configured"));
    assert!(ended.stdout.is_empty());
}

#[test]
fn it_completes_explains_itself_and_says_whom_it_would_ask() {
    for shell in ["bash", "zsh", "fish"] {
        let script = dogwatch(&["completion", shell]).output().unwrap();
        assert!(
            script.status.success() && String::from_utf8(script.stdout).unwrap().contains("incidents"),
            "{shell}"
        );
    }
    let page = dogwatch(&["man"]).output().unwrap().stdout;
    assert!(String::from_utf8(page).unwrap().starts_with(".ie"), "a page of roff");
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    assert!(dogwatch(&["man", "--out", at]).status().unwrap().success());
    for page in ["dogwatch.1", "dogwatch-top.1", "dogwatch-hold-add.1"] {
        assert!(dir.path().join(page).is_file(), "{page}");
    }
    assert_eq!(dogwatch(&["man", "--out", "/nonexistent"]).status().unwrap().code(), Some(2));

    let config = dir.path().join("cli.yaml");
    std::fs::write(&config, "collector: c.example:7443\njournal: j\n").unwrap();
    let view = dogwatch(&["config", "view", "--config", config.to_str().unwrap()]).output().unwrap().stdout;
    let view = String::from_utf8(view).unwrap();
    assert!(view.contains("collector: \"c.example:7443\"\n") && view.contains(", --config"), "{view}");
    let none = dogwatch(&["config", "view"]).output().unwrap().stdout;
    assert!(String::from_utf8(none).unwrap().contains("/nonexistent/.config/dogwatch/cli.yaml"));
    let version = dogwatch(&["version"]).output().unwrap();
    assert_eq!(version.stdout, format!("dogwatch {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
}

#[test]
fn kubectl_runs_it_as_a_plugin() {
    let plugin = env!("CARGO_BIN_EXE_kubectl-dogwatch");
    let folder = std::path::Path::new(plugin).parent().unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display());
    let ran = Command::new("kubectl").args(["dogwatch", "watch", "--help"]).env("PATH", path).output();
    let ran = ran.expect("this test needs kubectl");
    let help = String::from_utf8(ran.stdout).unwrap();
    assert!(
        help.contains("Usage: kubectl dogwatch watch")
            && help.contains("  kubectl dogwatch watch --severity"),
        "{help}"
    );
}
