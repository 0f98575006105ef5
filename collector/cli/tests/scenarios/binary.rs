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
fn usage_and_help_have_their_codes() {
    assert_eq!(dogwatch(&["--help"]).output().unwrap().status.code(), Some(0));
    assert_eq!(dogwatch(&[]).output().unwrap().status.code(), Some(2));
    let ended = dogwatch(&["get", "incidents"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("no collector is configured"));
    assert!(ended.stdout.is_empty());
}
