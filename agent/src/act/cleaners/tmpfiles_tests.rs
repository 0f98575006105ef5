//! Lines of `tmpfiles.d`, as a host has them.

use std::fs::{create_dir_all, write};
use std::os::unix::fs::symlink;

use super::*;

/// What a line protects beneath `root`: `Err` everything.
fn shields(root: &str, line: &str, relative: &str) -> Result<bool, String> {
    let globs = named_beneath(line.as_bytes(), Path::new(root))?;
    let named = Some((Kept::new(&globs).unwrap(), globs));
    Ok(Tmpfiles { named, all: None }.why_left_alone(Path::new(relative)).is_some())
}

#[test]
fn lines_name_what_stays() {
    for (root, line, stays, goes) in [
        ("/tmp", "x /tmp/systemd-private-%b-*", "systemd-private-0-1", "systemd-private"),
        ("/tmp", "X /tmp/keep/*", "keep/a", "keep"),
        ("/tmp", "d /tmp/build 0755 root root -", "build", "built"),
        ("/tmp", "D! /tmp/.X11-unix 1777 root root 10d", ".X11-unix", "X11-unix"),
        ("/tmp", "  x \"/tmp/quoted\"", "quoted", "quote"),
        ("/tmp", "x '/tmp/a b' - - - -", "a b", "a"),
        ("/tmp", "x /tmp/a' 'b", "a b", "a"),
        ("/tmp", "\"x\" /tmp/kind", "kind", "x"),
        ("/tmp", "x /tmp/100%%", "100%", "100"),
        ("/tmp", "x /tmp/a{b", "a{b", "ab"),
        ("/tmp", "x //tmp/./a//b/", "a/b", "a"),
        ("/var/tmp", "x \"/var/tmp/my data\"", "my data/deep/er", "my"),
        ("/var/tmp", "x /var/tmp/my\\x20data", "my data", "my"),
        ("/var/tmp", "x /var/tmp/my\\sd\\141t\\u0061", "my data", "my"),
        ("/var/tmp", "x /var/tmp/\\u00fc", "ü", "u"),
        ("/tmp", "x %T/keep", "keep", "kept"),
        ("/var/tmp", "x %V/keep", "keep", "kept"),
        ("/var/tmp", "x /var/*/keep", "keep", "kept"),
        ("/var/tmp", "x /v?r/[st]mp/keep", "keep", "kept"),
        ("/tmp", "x /tmp/a[[:digit:]x]b", "a7b", "ab"),
        ("/tmp", "x /tmp/a[]]b", "a]b", "ab"),
        ("/tmp", "x /tmp/M?rz", "März", "Mrz"),
        ("/tmp", "x /tmp/k[äö]se", "käse", "kse"),
        // A kind that is no pattern names what it says, brackets and all.
        ("/tmp", "d /tmp/[cache]", "[cache]", "cache"),
        ("/tmp", "x /tmp/[open", "[open", "open"),
        ("/tmp", "x /tmp/a\\\\*b", "a*b", "b"),
    ] {
        assert_eq!(shields(root, line, stays), Ok(true), "{line}: {stays}");
        assert_eq!(shields(root, line, goes), Ok(false), "{line}: {goes}");
    }
    for (root, line) in [
        ("/tmp", "q /tmp 1777 root root 10d"),
        ("/tmp", "r! /tmp/.X[0-9]*-lock"),
        ("/tmp", "# x /tmp/no"),
        ("/tmp", "x /var/tmp/other"),
        ("/tmp", "x /tmpfoo/bar"),
        ("/tmp", "x %V/other"),
        ("/var/tmp", "x %T/other"),
        ("/var/tmp", "x /*/other"),
        ("/tmp", ""),
        ("/tmp", "x"),
        ("/tmp", "d /var"),
    ] {
        assert_eq!(named_beneath(line.as_bytes(), Path::new(root)), Ok(Vec::new()), "{line}");
    }
}

#[test]
fn a_line_that_cannot_be_decided_or_names_the_whole_keeps_everything() {
    for line in [
        "x /tmp/a\\q",
        "x /tmp/a\\x2",
        "x \"/tmp/open",
        "x /tmp/%!",
        "x /tmp/%",
        "x /tmp/../tmp/a",
        "x /tmp",
        "x %T",
        "x /t*",
        "x /",
    ] {
        assert!(named_beneath(line.as_bytes(), Path::new("/tmp")).is_err(), "{line}");
    }
    assert!(named_beneath(b"x /t*", Path::new("/var/tmp")).is_ok());
}

#[test]
fn names_that_are_no_text_are_met() {
    let globs = named_beneath(b"x /tmp/\xff\\xfe", Path::new("/tmp")).unwrap();
    let lines = Tmpfiles { named: Some((Kept::new(&globs).unwrap(), globs)), all: None };
    assert!(lines.why_left_alone(Path::new(OsStr::from_bytes(b"\xff\xfe"))).is_some());
}

#[test]
fn a_line_shields_what_lies_beneath_and_unreadable_lines_shield_everything() {
    let host = tempfile::tempdir().unwrap();
    let folder = host.path().join("usr/lib/tmpfiles.d");
    create_dir_all(&folder).unwrap();
    write(folder.join("app.conf"), "x /tmp/app-*\nX /tmp/deep/er\n").unwrap();
    write(folder.join("app.conf.bak"), "x /tmp/unread\n").unwrap();
    let lines = Tmpfiles::read(host.path(), Path::new("/tmp"));
    for (path, shielded) in
        [("app-1", true), ("app-1/a/b", true), ("deep/er/x", true), ("deep/x", false), ("unread", false)]
    {
        assert_eq!(lines.why_left_alone(Path::new(path)).is_some(), shielded, "{path}");
    }
    write(folder.join("long.conf"), vec![b'#'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1]).unwrap();
    let why = || Tmpfiles::read(host.path(), Path::new("/tmp")).why_left_alone(Path::new("deep/x"));
    assert!(why().unwrap().contains("longer"));
    write(folder.join("long.conf"), "d /run/fine\nx \"/tmp\n").unwrap();
    assert!(why().unwrap().starts_with("line 2 of "), "{:?}", why());
    std::fs::remove_file(folder.join("long.conf")).unwrap();
    assert_eq!(why(), None);
    let gone = host.path().join("gone");
    assert!(Tmpfiles::read(&gone, Path::new("/tmp")).why_left_alone(Path::new("a")).is_some());
}

#[test]
fn links_lead_where_the_host_says_and_one_that_leads_nowhere_keeps_everything() {
    let host = tempfile::tempdir().unwrap();
    let at = |path: &str| host.path().join(path);
    for folder in ["etc/static/tmpfiles.d", "usr/lib/tmpfiles.d", "srv"] {
        create_dir_all(at(folder)).unwrap();
    }
    write(at("etc/static/tmpfiles.d/folder.conf"), "x /tmp/by-folder\n").unwrap();
    write(at("srv/file.conf"), "x /tmp/by-file\n").unwrap();
    // Absolute, as NixOS and stow have them: this machine has neither.
    symlink("/etc/static/tmpfiles.d", at("etc/tmpfiles.d")).unwrap();
    symlink("/srv/file.conf", at("usr/lib/tmpfiles.d/file.conf")).unwrap();
    symlink("/dev/null", at("usr/lib/tmpfiles.d/masked.conf")).unwrap();
    let why = |path: &str| Tmpfiles::read(host.path(), Path::new("/tmp")).why_left_alone(Path::new(path));
    assert!(why("by-folder").is_some() && why("by-file").is_some());
    assert_eq!(why("other"), None);

    type Lay<'l> = &'l dyn Fn();
    let dangling: [(&str, Lay<'_>); 3] = [
        ("usr/lib/tmpfiles.d/lost.conf", &|| {
            symlink("/nowhere/lost.conf", at("usr/lib/tmpfiles.d/lost.conf")).unwrap();
        }),
        ("run/tmpfiles.d", &|| {
            create_dir_all(at("run")).unwrap();
            symlink("/nowhere", at("run/tmpfiles.d")).unwrap();
        }),
        ("usr/local", &|| symlink("/nowhere", at("usr/local")).unwrap()),
    ];
    for (link, lay) in dangling {
        lay();
        let said = why("other").unwrap_or_default();
        assert!(said.contains(link) && said.contains("leads nowhere"), "{link}: {said}");
        std::fs::remove_file(at(link)).unwrap();
        assert_eq!(why("other"), None, "{link} is gone");
    }
    create_dir_all(at("usr/lib/tmpfiles.d/folder.conf")).unwrap();
    assert!(why("other").unwrap().contains("no file"));
}
