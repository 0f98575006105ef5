//! Folders of databases that no one name marks: by two that lie in them side by side.
//!
//! Only pairs are here that no other program's folder has: a folder of logs with one of them would be left alone for ever.
//! Sources: RocksDB and LevelDB (`CURRENT` names the manifest, `LOCK` is beside it; a copy has `MANIFEST-<number>`), Pebble,
//! LMDB, Derby (`derby.system.home`), Cassandra, Elasticsearch and OpenSearch (a node's folder), Prometheus and its kin (a
//! TSDB's head), InfluxDB 1, ZooKeeper (a member of an ensemble), Consul, Nomad and Vault (HashiCorp's raft), NATS JetStream
//! (a stream's and a consumer's folder), ClickHouse.
//!
//! Limits: a ZooKeeper that is alone, and a database whose folder has none of these names.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;

use crate::act::beneath;

/// Two names, one of several as the second.
pub(super) struct Pair {
    pub(super) name: &'static str,
    is_folder: bool,
    beside: &'static [&'static str],
}

const fn file(name: &'static str, beside: &'static [&'static str]) -> Pair {
    Pair { name, is_folder: false, beside }
}

const fn folder(name: &'static str, beside: &'static [&'static str]) -> Pair {
    Pair { name, is_folder: true, beside }
}

pub(super) const PAIRS: &[Pair] = &[
    file("CURRENT", &["LOCK"]),
    file("STORAGE_MIN_VERSION", &["LOCK"]),
    file("data.mdb", &["lock.mdb"]),
    file("service.properties", &["seg0"]),
    folder("commitlog", &["saved_caches"]),
    file("node.lock", &["_state"]),
    folder("wal", &["chunks_head", "meta"]),
    file("myid", &["version-2"]),
    file("currentEpoch", &["acceptedEpoch"]),
    folder("raft", &["serf", "vault.db"]),
    file("meta.inf", &["meta.sum"]),
    folder("metadata", &["metadata_dropped", "preprocessed_configs", "format_schemas"]),
];

/// The manifest that `CURRENT` names; where it lies, no lock has to.
const MANIFEST: &str = "MANIFEST-";

/// The name by which the entry `name` of `folder` marks it together with what lies beside it.
pub(super) fn pair_of(folder: &OwnedFd, name: &OsStr, kind: FileType) -> Option<&'static str> {
    let is_there = |other: &&str| beneath::facts_at(folder, *other).is_ok();
    let fits = |pair: &&Pair| {
        let is_kind =
            if pair.is_folder { kind != FileType::RegularFile } else { kind != FileType::Directory };
        pair.name == name && is_kind && pair.beside.iter().any(is_there)
    };
    let number = name.as_bytes().strip_prefix(MANIFEST.as_bytes());
    let is_manifest = number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    let manifest = || (is_manifest && is_there(&"CURRENT")).then_some("CURRENT");
    PAIRS.iter().find(fits).map(|pair| pair.name).or_else(manifest)
}

#[cfg(test)]
#[path = "databases_tests.rs"]
mod tests;
