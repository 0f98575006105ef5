//! Tables that tests cannot mount.

use super::*;
use crate::sample::mountinfo::parse;

const TABLE: &[u8] = b"1 1 8:1 / / rw - ext4 /dev/a rw\n\
    2 1 0:40 /@ /data rw - btrfs /dev/b rw\n\
    3 2 0:40 /@logs /data/logs rw - btrfs /dev/b rw\n\
    4 1 0:40 / /mnt/pool rw - btrfs /dev/b rw\n\
    5 1 0:41 /share /net rw - nfs4 server:/x rw\n\
    6 1 0:41 /share/logs /mnt/logs rw - nfs4 server:/x rw\n\
    7 1 0:42 / /merged rw - overlay overlay rw,upperdir=/upper\n\
    8 1 8:1 /srv/x /mnt/hidden rw - ext4 /dev/a rw\n\
    9 8 8:2 / /mnt/hidden rw - xfs /dev/c rw\n";

fn held(path: &str, root: &str) -> Vec<PathBuf> {
    let table = parse(TABLE);
    let footing = Footing::of(&table, Path::new(root)).unwrap();
    let hold =
        Hold { id: "hold-1".to_owned(), place: HeldPlace::Beneath(path.into()), reason: String::new() };
    let all = spread(vec![hold], &table, &[footing]);
    let of = |h: Hold| match h.place {
        HeldPlace::Beneath(path) => path,
        other => panic!("{other:?}"),
    };
    all.into_iter().skip(1).map(of).collect()
}

#[test]
fn subvolumes_servers_and_overlays_are_told_by_the_table_alone() {
    let none: [&str; 0] = [];
    assert_eq!(held("/mnt/pool/@logs/app", "/data/logs"), [Path::new("/data/logs/app")]);
    assert_eq!(held("/mnt/pool/@/x", "/data"), [Path::new("/data/x")]);
    assert_eq!(held("/mnt/pool/@/x", "/data/logs"), none.map(Path::new), "another subvolume");
    assert_eq!(held("/mnt/logs/app", "/net/logs"), [Path::new("/net/logs/app")], "nobody asks the server");
    assert_eq!(held("/net", "/mnt/logs"), [Path::new("/mnt/logs")]);
    assert_eq!(held("/srv/x/app", "/mnt/hidden"), none.map(Path::new), "another disk lies over it");
    assert_eq!(held("/merged/a", "/merged"), none.map(Path::new), "its own name says it already");
}

#[test]
fn a_root_keeps_the_place_at_which_it_was_opened() {
    let then = parse(b"1 1 8:1 / / rw - ext4 /dev/a rw\n8 1 8:1 /srv/x /mnt/hidden rw - ext4 /dev/a rw\n");
    let footing = Footing::of(&then, Path::new("/mnt/hidden")).unwrap();
    let place = HeldPlace::Beneath("/srv/x/app".into());
    let hold = Hold { id: "hold-1".to_owned(), place, reason: String::new() };
    let all = spread(vec![hold], &parse(TABLE), &[footing]);
    assert_eq!(all[1].place, HeldPlace::Beneath("/mnt/hidden/app".into()));
}
