//! Live logs in the folders of databases, laid out as their own programs lay them out.

use super::*;

/// Logs in one folder: wherever its marker comes among them in the order of the folder, some come before it.
const LOGS: usize = 12;

impl Scene {
    fn live_logs(&self, folder: &str, count: usize) -> Vec<PathBuf> {
        let line = b"one line of a log that somebody writes\n";
        (0..count).map(|n| self.file(&format!("{folder}/app-{n}.log"), &line.repeat(10_000))).collect()
    }
}

#[test]
fn live_logs_beside_a_databases_files_are_never_watched() {
    let mut scene = Scene::new(CleanupMode::Auto);
    let root = scene.root(Cleaner::LiveLogs, "srv");
    root.patterns = vec!["app-*.log".to_owned()];
    root.mode = Some(CleanupMode::Auto);
    (root.keep_bytes, root.min_size_bytes) = (8 << 10, 32 << 10);
    let layouts: [(&str, &str, &[&str]); 4] = [
        ("srv/pg", "PG_VERSION", &["PG_VERSION", "postgresql.conf", "base/5/PG_VERSION", "log/x"]),
        ("srv/mysql", "mysql.ibd", &["mysql.ibd", "auto.cnf", "shop/orders.ibd"]),
        ("srv/maria", "ibdata1", &["ibdata1", "ib_logfile0", "mysql/user.frm"]),
        ("srv/etcd", "member", &["member/snap/db", "member/wal/0000000000000000-0000000000000000.wal"]),
    ];
    let mut theirs = Vec::new();
    for (folder, _, files) in layouts {
        theirs.extend(scene.live_logs(folder, LOGS));
        for file in files {
            scene.file(&format!("{folder}/{file}"), b"data");
        }
        // Beneath it too, as PostgreSQL's own logs are.
        theirs.extend(scene.live_logs(&format!("{folder}/log"), 2));
    }
    theirs.extend(scene.live_logs("srv/etcd/member", 2));
    // A folder of that name alone is no etcd's.
    fs::create_dir_all(scene.path("srv/web/member")).unwrap();
    let ours = scene.live_logs("srv/web", 3);

    let executor = scene.executor();
    let device = fs::metadata(scene.base.path()).unwrap().dev();
    let survey = executor.survey(device, scene.now).unwrap();
    let met: Vec<&PathBuf> = survey
        .candidates
        .iter()
        .map(|c| &c.object.path)
        .chain(survey.passed_over.iter().filter_map(|r| r.path.as_ref()))
        .collect();
    for path in &theirs {
        assert!(!met.contains(&path), "{} was looked at: {survey:#?}", path.display());
    }
    for path in &ours {
        assert!(met.contains(&path), "{} was crowded out: {survey:#?}", path.display());
    }
    assert!(survey.passed_over.iter().all(|r| r.path.is_some()), "none was left out: {survey:#?}");
    for (folder, marker, _) in layouts {
        let said = survey.passed_over.iter().find(|r| r.path == Some(scene.path(folder)));
        let said = said.unwrap_or_else(|| panic!("{folder} is not named: {survey:#?}"));
        let (mysql, marks) = (["auto.cnf", "mysql.ibd"], |m: &str| {
            said.reason == format!("{m} marks the folder as a database's")
        });
        assert!(marks(marker) || folder == "srv/mysql" && mysql.into_iter().any(marks), "{said:?}");
    }
}
