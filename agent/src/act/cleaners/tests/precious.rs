//! Databases, keys and disk images that a cleaner meets, by their names, their copies' names, their content and their folders.

use std::time::Duration;

use super::*;

const KEY: &[u8] = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----\n";
const SQLITE: &[u8] = b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20";
const LOG: &[u8] = b"2024-06-12T10:11:12Z one line of a log\n";

impl Scene {
    fn files(&self, files: &[(&str, &[u8])]) {
        files.iter().for_each(|(path, content)| drop(self.file(path, content)));
    }

    /// Plans and applies; what went.
    fn cleaned(&self) -> (Vec<String>, Action) {
        let mut executor = self.executor();
        let plan = self.plan(&executor, "node");
        let names = self.names(&plan);
        let done = self.apply(&mut executor, plan);
        assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "as planned: {done:#?}");
        (names, done)
    }

    fn has(&self, files: &[(&str, &[u8])]) {
        let went: Vec<_> = files.iter().filter(|(path, _)| !self.path(path).exists()).collect();
        assert!(went.is_empty(), "{went:?} went");
    }
}

#[test]
fn keys_databases_and_images_among_temp_files_stay() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp");
    let stays: [(&str, &[u8]); 16] = [
        ("tmp/mykey", KEY),
        ("tmp/plainname", SQLITE),
        ("tmp/kubeconfig", b"apiVersion: v1\n"),
        ("tmp/token.json", b"{}"),
        ("tmp/vm.img", b"x"),
        ("tmp/proj/.git/config", b"[core]\n"),
        ("tmp/proj/.git/objects/ab/cdef", b"x"),
        ("tmp/.ssh/config", b"Host x\n"),
        ("tmp/server.key.bak", b"x"),
        ("tmp/x.sqlite.1.gz", b"x"),
        ("tmp/passwords", b"\x03\xD9\xA2\x9A\x67\xFB\x4B\xB5\x01\0\x04\0"),
        ("tmp/ring.old", b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n"),
        ("tmp/level/CURRENT", b"MANIFEST-000004\n"),
        ("tmp/level/MANIFEST-000004", b"x"),
        ("tmp/level/000003.log", b"x"),
        ("tmp/level/archive/000001.log", b"x"),
    ];
    let goes: [(&str, &[u8]); 3] = [
        ("tmp/build.out", b"x"),
        ("tmp/notes", LOG),
        ("tmp/trace", b"read\n  -----BEGIN PRIVATE KEY-----\n"),
    ];
    scene.files(&stays);
    scene.files(&goes);
    let (went, done) = scene.cleaned();
    assert_eq!(went, goes.map(|(path, _)| path), "{done:#?}");
    scene.has(&stays);
    assert_eq!(scene.reason(&done, "tmp/mykey"), "it begins as a private key does, whatever it is called");
    assert!(scene.reason(&done, "tmp/plainname").contains("an SQLite database"));
    assert!(scene.reason(&done, "tmp/server.key.bak").starts_with("*.key is never touched"));
    assert!(scene.reason(&done, "tmp/proj/.git").contains(".git"));
    assert!(scene.reason(&done, "tmp/level").contains("CURRENT marks the folder as a database's"));
}

#[test]
fn rotated_keys_and_databases_stay_and_logs_about_them_go() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::RotatedLogs, "log").keep_newest = 0;
    let stays: [(&str, &[u8]); 9] = [
        ("log/keys/server.key", KEY),
        ("log/keys/server.key.1", b"x"),
        ("log/x.sqlite", b"x"),
        ("log/x.sqlite.1", b"x"),
        ("log/realdb.log.1", SQLITE),
        ("log/pk.log.1", KEY),
        ("log/proj/.git/refs/heads/v1", b"x"),
        ("log/proj/.git/refs/heads/v1.1", b"x"),
        ("log/app.log", LOG),
    ];
    let late_key = [LOG.repeat(200).as_slice(), KEY].concat();
    let goes: [(&str, &[u8]); 4] = [
        ("log/app.db.log.1", LOG),
        ("log/certbot.log.1", LOG),
        ("log/keys.log.2.gz", b"\x1F\x8B\x08\0"),
        ("log/mentions.log.1", &late_key),
    ];
    scene.files(&stays);
    scene.files(&goes);
    let (went, done) = scene.cleaned();
    assert_eq!(went, goes.map(|(path, _)| path), "{done:#?}");
    scene.has(&stays);
    // What stays for good is not planned again.
    assert_eq!(scene.cleaned().0, Vec::<String>::new());
}

#[test]
fn copies_that_a_custom_pattern_meets_stay() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::Custom, "srv").patterns =
        ["**/*.bak", "**/*.dat", "**/export-*"].map(str::to_owned).to_vec();
    let stays: [(&str, &[u8]); 13] = [
        ("srv/server.key.bak", b"x"),
        ("srv/a.pem.bak", b"x"),
        ("srv/secret.bak", b"x"),
        ("srv/app.db.bak", b"x"),
        ("srv/export-app.tfstate", b"{}"),
        ("srv/export-my.frm", b"x"),
        ("srv/export-x.ldf", b"x"),
        ("srv/export-x.mdf", b"x"),
        ("srv/export-plain", KEY),
        ("srv/export-lite.dat", SQLITE),
        ("srv/derby/service.properties", b"x"),
        ("srv/derby/seg0/c10.dat", b"x"),
        ("srv/derby/log/log1.dat", b"x"),
    ];
    let goes: [(&str, &[u8]); 3] =
        [("srv/export-1.csv", b"a,b\n"), ("srv/old/c10.dat", b"x"), ("srv/x.bak", b"x")];
    scene.files(&stays);
    scene.files(&goes);
    let (went, done) = scene.cleaned();
    assert_eq!(went, goes.map(|(path, _)| path), "{done:#?}");
    scene.has(&stays);
}

#[test]
fn what_a_survey_had_no_time_to_read_is_read_before_it_goes() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp").preserve = true;
    scene.files(&[("tmp/mykey", KEY), ("tmp/notes", LOG)]);
    let mut executor = scene.executor();
    executor.limits.reading = Duration::ZERO;
    let plan = scene.plan(&executor, "node");
    assert_eq!(scene.names(&plan), ["tmp/mykey", "tmp/notes"]);
    let done = scene.apply(&mut executor, plan);
    assert!(scene.path("tmp/mykey").exists() && !scene.path("tmp/notes").exists(), "{done:#?}");
    assert!(scene.reason(&done, "tmp/mykey").contains("a private key"));
}

#[test]
fn a_live_log_that_begins_as_a_key_is_not_cut() {
    let mut scene = Scene::new(CleanupMode::Auto);
    let root = scene.root(Cleaner::LiveLogs, "srv");
    root.patterns = vec!["app-*.log".to_owned()];
    root.mode = Some(CleanupMode::Auto);
    (root.keep_bytes, root.min_size_bytes) = (8 << 10, 32 << 10);
    scene.file("srv/app-1.log", &[KEY, &LOG.repeat(5_000)].concat());
    let executor = scene.executor();
    let plan = scene.plan(&executor, "node");
    assert!(scene.reason(&plan, "srv/app-1.log").contains("a private key"), "{plan:#?}");
}

#[test]
fn what_a_survey_reads_is_as_old_as_before() {
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::TempFiles, "tmp");
    let path = scene.file("tmp/notes", LOG);
    let read = |path: &Path| fs::metadata(path).map(|m| (m.atime(), m.atime_nsec())).unwrap();
    // Older than its last change, so that relatime would note any reading.
    read_at(&path, scene.now - 200 * DAY_NS);
    let before = read(&path);
    assert_eq!(scene.names(&scene.plan(&scene.executor(), "node")), ["tmp/notes"]);
    assert_eq!(read(&path), before);
}
