use std::ffi::OsStr;

use std::os::unix::ffi::OsStrExt;

use super::*;

fn rules() -> RootRules {
    RootRules::new(RootPolicy { excludes: vec!["keep*".into(), "audit".into()], ..RootPolicy::new("/r") })
        .unwrap()
}

fn verdict(name: &str) -> NameVerdict {
    rules().judge_name(Path::new(name))
}

#[test]
fn live_logs_never_match() {
    for name in check::LIVE_LOGS {
        assert_eq!(verdict(name), NameVerdict::NotTaken, "{name}");
    }
    for name in [
        "app-20240612.log",
        "catalina.2024-06-12.log",
        "kubelet.node.root.log.INFO.20240612-101112.4711",
        "backup-1.2.tar.gz",
        "app.log.0",
        "access.log.current",
        "000012.log",
        "data.gz",
        "x.0",
    ] {
        assert_eq!(verdict(name), NameVerdict::NotTaken, "{name}");
    }
}

#[test]
fn rotated_logs_match_on_their_face_or_beside_their_log() {
    for name in [
        "app.log.1",
        "app.log.12.gz",
        "0.log.20240612-101112",
        "0.log.20240612-101112.gz",
        "app.log-20240612",
        "app.log-20240612.xz",
        "x-2024-06-12T10-11-12.123.log.gz",
        "Xorg.0.log.old",
        ".hidden.log.1",
        "with\nnewline.log.1",
        "-dash.log.3",
    ] {
        assert!(
            matches!(verdict(name), NameVerdict::Taken(Taken { beside: None, .. })),
            "{name}: {:?}",
            verdict(name)
        );
    }
    for (name, log) in [
        ("syslog.1", "syslog"),
        ("syslog.22.gz", "syslog"),
        ("messages-20240612", "messages"),
        ("messages-20240612.zst", "messages"),
        ("dmesg.old", "dmesg"),
    ] {
        match verdict(name) {
            NameVerdict::Taken(Taken { beside: Some(live), .. }) => {
                assert_eq!(live, log.as_bytes(), "{name}")
            }
            other => unreachable!("{name}: {other:?}"),
        }
    }
    let odd = OsStr::from_bytes(b"\xff\xfe.log.1");
    assert!(matches!(rules().judge_name(Path::new(odd)), NameVerdict::Taken(_)));
}

#[test]
fn excludes_hold_for_names_folders_and_the_built_in_list() {
    for name in ["keep.log.1", "audit/x.log.1", "a.log.1.tmp", "a.log.1.lck", "sub/keepme.log.2"] {
        assert!(matches!(verdict(name), NameVerdict::Excluded(_)), "{name}: {:?}", verdict(name));
    }
    assert!(
        matches!(verdict("sub/audit/deep/x.log.1"), NameVerdict::Excluded(_)),
        "a name is one at any depth"
    );
    assert!(matches!(verdict("auditor/x.log.1"), NameVerdict::Taken(_)));
}

#[test]
fn age_counts_from_the_later_time_and_the_future_is_young() {
    let r = rules();
    let day = 24 * 3_600 * NS_PER_SECOND;
    let age = |modified_ns, changed_ns| {
        r.judge_age(&Times { modified_ns, changed_ns, born_ns: None, accessed_ns: Some(day) }, day)
    };
    assert_eq!(age(0, 0), Ok(86_400), "reading a rotated log does not make it young");
    assert!(age(0, 1).is_err(), "a nanosecond short is short");
    assert!(age(2 * day, 0).unwrap_err().contains("future"));
}

#[test]
fn a_rotation_that_renames_makes_nothing_young_for_longer_than_ten_minutes() {
    let day = 24 * 3_600 * NS_PER_SECOND;
    let (hour, ten_minutes) = (3_600 * NS_PER_SECOND, 600 * NS_PER_SECOND);
    let now = 20 * day;
    let judge = |policy: RootPolicy, [modified_ns, changed_ns, born_ns]: [i64; 3]| {
        let times = Times { modified_ns, changed_ns, born_ns: Some(born_ns), accessed_ns: None };
        RootRules::new(policy).unwrap().judge_age(&times, now)
    };
    let root = || RootPolicy::new("/var/log");
    assert_eq!(judge(root(), [day, now - ten_minutes, day]), Ok(19 * 86_400), "app.log.13 became app.log.14");
    let said = judge(root(), [day, now - ten_minutes + 1, day]).unwrap_err();
    assert!(said.contains("renamed") && said.ends_with("less than 10 min ago"), "{said}");
    assert!(judge(root(), [day, now + 1, day]).is_err(), "in the future");
    let said = judge(root(), [day, now - hour, now - 2 * hour]).unwrap_err();
    assert!(
        said.starts_with("it was made here") && said.contains("2 h ago"),
        "a copy with an old time: {said}"
    );
    assert!(judge(root(), [now - 2 * hour, now - hour, day]).is_err(), "written to since");
    let at_once = RootPolicy { min_age_seconds: 2, ..root() };
    assert_eq!(
        judge(at_once, [day, now - 2 * NS_PER_SECOND, day]),
        Ok(19 * 86_400),
        "no longer than min_age"
    );
    // What somebody else calls so, and other cleaners.
    for own in ["*.old", "*.gz", "orders-*.csv.gz"] {
        let own = RootPolicy { patterns: vec![own.to_owned()], ..root() };
        assert!(judge(own, [day, now - hour, day]).unwrap_err().contains("younger than"));
    }
    let own = RootPolicy { patterns: vec!["app.log.[1-9]*".to_owned()], ..root() };
    assert_eq!(judge(own, [day, now - hour, day]), Ok(19 * 86_400));
    let custom = RootPolicy { cleaner: Cleaner::Custom, patterns: vec!["*.tmp".to_owned()], ..root() };
    assert!(judge(custom, [day, now - hour, day]).is_err());
}

#[test]
fn every_mistake_is_named_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let real = temp.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let root = |p: &Path| RootPolicy::new(p);
    let policy = Policy {
        mode: CleanupMode::Auto,
        roots: vec![
            root(Path::new("/etc")),
            root(&link),
            root(Path::new("var/log")),
            root(Path::new("/var/../etc")),
            RootPolicy { patterns: vec!["*".into(), "[".into(), "a/b".into()], ..root(&real) },
            RootPolicy { tier: 0, max_depth: 99, ..root(&real) },
            root(&temp.path().join("state")),
        ],
        budgets: Budgets { max_bytes: 0, max_objects: 5_000, ..Budgets::default() },
    };
    let problems = policy.validate(&temp.path().join("state/dogwatch"));
    let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "roots[0].path",
            "roots[2].path",
            "roots[3].path",
            "roots[4].patterns",
            "roots[4].patterns",
            "roots[4].patterns",
            "roots[5].path",
            "roots[5].tier",
            "roots[5].max_depth",
            "roots[6].path",
            "budgets.max_bytes",
            "budgets.max_objects",
            // What a look at the node says stands last.
            "roots[1].path",
        ],
        "{problems:#?}"
    );
    let mistakes = policy.mistakes(&temp.path().join("state/dogwatch"));
    assert_eq!(mistakes[..], problems[..problems.len() - 1]);
    assert!(problems.iter().all(|p| !p.reason.is_empty() && !p.remedy.is_empty()));
    let good = Policy { mode: CleanupMode::Plan, roots: vec![root(&real)], budgets: Budgets::default() };
    assert_eq!(good.validate(Path::new("/var/spool/dogwatch")), []);
    let default = Policy { roots: vec![root(Path::new("/var/log"))], ..good };
    assert_eq!(default.validate(Path::new("/var/spool/dogwatch")), []);
}

#[test]
fn the_deepest_root_decides_and_nothing_leaves_it() {
    let policy = Policy {
        mode: CleanupMode::Plan,
        roots: vec![RootPolicy::new("/var/log"), RootPolicy::new("/var/log/pods")],
        budgets: Budgets::default(),
    };
    let rules = Rules::new(policy).unwrap();
    assert_eq!(rules.root_of(Path::new("/var/log/a.log.1")), Some((0, Path::new("a.log.1"))));
    assert_eq!(rules.root_of(Path::new("/var/log/pods/x/0.log.1")), Some((1, Path::new("x/0.log.1"))));
    for outside in [
        "/var/log",
        "/var/log/pods",
        "/var/logs/a.log.1",
        "/var/log/../lib/a.log.1",
        "/etc/passwd",
        "a.log.1",
        "/var/log/.dogwatch-quarantine/a.log.1",
    ] {
        assert_eq!(rules.root_of(Path::new(outside)), None, "{outside}");
    }
}
