use dogwatch::record::Pod;
use proptest::prelude::*;

use super::*;
use crate::time::Utc;
use crate::view::usage::{File, Growth, Process, Writers};

const GIB: u64 = 1 << 30;

fn folder(name: &str, bytes: u64, folders: Vec<Folder>) -> Folder {
    Folder { name: name.into(), allocated_bytes: bytes, inodes: 1, owner: None, folders }
}

fn web() -> Pod {
    Pod { namespace: "shop".into(), name: "web-1".into(), uid: "u".into(), ..Pod::default() }
}

fn owner(part: &str) -> Owner {
    Owner { pod: Some(web()), part: part.into() }
}

fn usage() -> Usage {
    let cache = Folder { owner: Some(owner("emptyDir cache")), ..folder("cache", 4 * GIB, vec![]) };
    let pods = folder("pods", 6 * GIB, vec![cache]);
    let lib = folder("lib", 6 * GIB, vec![folder("kubelet", 6 * GIB, vec![pods])]);
    let tree = folder("", 10 * GIB, vec![lib, folder("日本語\u{1b}[2J", 3 * GIB, vec![])]);
    let writer = Writer {
        path: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache/spill".into(),
        pod: Some(web()),
        processes: vec![Process { pid: 7, name: Some("java".into()) }, Process { pid: 8, name: None }],
        allocated_bytes: GIB,
        bytes_per_second: 42.0 * 1024.0 * 1024.0,
    };
    let gone = Writer {
        path: "/var/log/app.log".into(),
        pod: None,
        processes: vec![Process { pid: 9, name: Some("app".into()) }],
        allocated_bytes: 2 * GIB,
        bytes_per_second: 0.0,
    };
    Usage {
        node: "node-1".into(),
        mount: "/var".into(),
        path: "/var".into(),
        time: Utc::known(1_795_226_700_000_000_000),
        total_bytes: 20 * GIB,
        used_bytes: 12 * GIB,
        available_bytes: 8 * GIB,
        inodes_total: Some(1_000_000),
        inodes_used: Some(12_345),
        whole: true,
        unfound_bytes: Some(2 * GIB),
        tree: Some(tree),
        files: vec![File {
            path: "/var/lib/image".into(),
            allocated_bytes: GIB,
            size_bytes: 9 * GIB,
            uid: 0,
            modified_at: None,
            owner: None,
        }],
        writers: Some(Writers {
            bytes_per_second: 45.0 * 1024.0 * 1024.0,
            confidence: "certain".into(),
            explained: 0.93,
            growing: vec![writer],
            deleted: vec![gone],
            deleted_bytes: 2 * GIB,
            missed: None,
        }),
        writers_unknown: None,
        growth: vec![Growth {
            path: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache".into(),
            grown_bytes: 3 * GIB,
            at_least: true,
            since: Utc::known(1_795_226_640_000_000_000),
            bytes_per_second: 42.0 * 1024.0 * 1024.0,
            allocated_bytes: 4 * GIB,
            owner: Some(owner("emptyDir cache")),
        }],
        growth_unknown: None,
        remarks: vec!["mounted there and not counted: /var/lib/x".into()],
        entries: 12_344,
        seconds: 0.5,
        cpu_seconds: 0.4,
    }
}

fn text(lines: &[Line]) -> String {
    let line = |l: &Line| l.iter().map(|(piece, _)| piece.as_str()).collect::<String>().trim_end().to_owned();
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_whole_picture() {
    insta::assert_snapshot!(text(&lines(&usage(), None)));
}

#[test]
fn what_is_unknown_is_called_so() {
    let unknown = Usage {
        writers: None,
        writers_unknown: Some("the table of mounts cannot be read".into()),
        growth: Vec::new(),
        growth_unknown: Some("the node has not walked it by itself since the agent's start".into()),
        whole: false,
        unfound_bytes: None,
        ..usage()
    };
    let drawn = text(&lines(&unknown, None));
    assert!(drawn.contains("unknown: the table of mounts"), "{drawn}");
    assert!(drawn.contains("unknown: the node has not walked it"), "{drawn}");
    assert!(drawn.contains("NOT WHOLE") && !drawn.contains("not found in any folder"), "{drawn}");
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal_and_nothing_steers_it(
        columns in 10_usize..140, name in any::<String>(), part in any::<String>(),
    ) {
        let mut usage = usage();
        if let Some(tree) = &mut usage.tree {
            tree.folders[0].name.clone_from(&name);
            tree.folders[0].owner = Some(owner(&part));
        }
        usage.remarks.push(name);
        for line in text(&lines(&usage, Some(columns))).split('\n') {
            prop_assert!(width(line) <= columns, "{columns}: {line:?}");
            prop_assert!(!line.chars().any(crate::output::text::is_dangerous), "{line:?}");
        }
    }
}
