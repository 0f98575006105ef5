//! Databases' folders as their own programs lay them out, and folders that only resemble them.

use std::fs::{create_dir_all, write};
use std::path::Path;

use super::*;
use crate::act::forbidden::{database_marker_in, marker};

/// Makes a file of each of `entries`, and a folder of what ends in `/`.
fn lay(folder: &Path, entries: &[&str]) {
    for entry in entries {
        let path = folder.join(entry);
        create_dir_all(path.parent().unwrap()).unwrap();
        if entry.ends_with('/') { create_dir_all(&path).unwrap() } else { write(&path, "data").unwrap() }
    }
}

/// What marks `folder`: as a look for names finds it, and as a walk does.
fn marks(folder: &Path) -> (Option<&'static str>, Option<&'static str>) {
    let opened = beneath::open_folder(std::fs::File::open(folder).unwrap(), Path::new("")).unwrap();
    let by_walk = std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let kind =
            if entry.file_type().unwrap().is_dir() { FileType::Directory } else { FileType::RegularFile };
        marker(&opened, &entry.file_name(), kind)
    });
    (database_marker_in(&opened), by_walk)
}

#[test]
fn folders_of_databases_are_known() {
    let layouts: &[(&str, &[&str])] = &[
        ("RocksDB", &["CURRENT", "LOCK", "LOG", "MANIFEST-000005", "OPTIONS-000007", "000004.log"]),
        ("LevelDB", &["CURRENT", "LOCK", "LOG", "LOG.old", "MANIFEST-000002", "000005.ldb"]),
        ("Pebble", &["STORAGE_MIN_VERSION", "LOCK", "marker.manifest.000001.MANIFEST-000001", "000002.log"]),
        ("LMDB", &["data.mdb", "lock.mdb"]),
        ("Derby", &["service.properties", "seg0/c10.dat", "log/log1.dat", "db.lck"]),
        ("Cassandra", &["commitlog/CommitLog-7-1.log", "data/", "saved_caches/", "hints/"]),
        ("Elasticsearch", &["node.lock", "_state/node-0.st", "indices/x/0/index/segments_1"]),
        ("Prometheus", &["chunks_head/000001", "wal/00000001", "lock", "01HXYZ/meta.json"]),
        ("InfluxDB 1", &["meta/meta.db", "data/x/", "wal/x/"]),
        ("InfluxDB 2", &["influxd.bolt", "influxd.sqlite", "engine/data/"]),
        ("ZooKeeper", &["myid", "version-2/log.100000001", "version-2/snapshot.0"]),
        ("ZooKeeper's epochs", &["acceptedEpoch", "currentEpoch", "log.1", "snapshot.0"]),
        ("Consul", &["raft/raft.db", "serf/local.snapshot", "node-id"]),
        ("Vault", &["vault.db", "raft/raft.db", "raft/snapshots/1-2-3/state.bin"]),
        ("raft", &["raft.db", "snapshots/"]),
        ("JetStream", &["meta.inf", "meta.sum", "msgs/1.blk", "obs/"]),
        ("ClickHouse", &["metadata/", "metadata_dropped/", "store/", "status", "uuid"]),
        ("an older ClickHouse", &["metadata/", "data/", "format_schemas/", "user_files/"]),
        ("CouchDB", &["_dbs.couch", "_nodes.couch", "shards/"]),
        ("Neo4j", &["neostore", "neostore.nodestore.db", "schema/"]),
        ("Neo4j's databases", &["store_lock", "neo4j/neostore"]),
        ("Redis", &["appendonly.aof.manifest", "appendonly.aof.1.incr.aof"]),
    ];
    let temp = tempfile::tempdir().unwrap();
    for (name, entries) in layouts {
        let folder = temp.path().join(name);
        lay(&folder, entries);
        let (by_look, by_walk) = marks(&folder);
        assert!(by_look.is_some() && by_walk.is_some(), "{name}: {by_look:?}, {by_walk:?}");
    }
    // A copy of one has no lock.
    let copy = temp.path().join("copy");
    lay(&copy, &["CURRENT", "MANIFEST-000005", "000004.sst"]);
    assert_eq!(marks(&copy).1, Some("CURRENT"));
}

#[test]
fn folders_of_logs_are_not_taken_for_databases() {
    let layouts: &[(&str, &[&str])] = &[
        ("releases", &["version-1/", "version-2/app.log.1", "current/"]),
        ("one of two", &["CURRENT", "LOG", "app.log.1"]),
        ("a lock", &["LOCK", "app.log", "app.log.1"]),
        ("manifests", &["MANIFEST-000005", "MANIFEST.MF", "MANIFEST-x"]),
        ("a current release", &["CURRENT", "MANIFEST-x", "app.log.1"]),
        ("logs by part", &["raft/x.log.1", "wal/x.log.1", "metadata/x.log.1", "commitlog/x.log.1", "store/"]),
        ("logs by database", &["databases/x.log.1", "transactions/x.log.1", "data/", "logs/"]),
        ("the wrong kinds", &["wal", "chunks_head/", "raft", "serf/", "CURRENT/", "LOCK"]),
        ("/var/log", &["syslog", "syslog.1", "journal/x/system.journal", "pods/", "apt/history.log.1.gz"]),
        ("java", &["service.properties", "log/app.log.1"]),
        ("lonely", &["data.mdb", "node.lock", "meta.inf", "myid", "currentEpoch"]),
    ];
    let temp = tempfile::tempdir().unwrap();
    for (name, entries) in layouts {
        let folder = temp.path().join(name.replace('/', "_"));
        lay(&folder, entries);
        assert_eq!(marks(&folder), (None, None), "{name}");
    }
}

#[test]
fn the_runbook_has_every_name() {
    let pairs = PAIRS.iter().flat_map(|pair| pair.beside.iter().copied().chain([pair.name]));
    let names = pairs.chain(crate::act::forbidden::DATABASE_MARKERS.iter().copied());
    assert_eq!(crate::act::runbook::lacks(names), [""; 0]);
}
