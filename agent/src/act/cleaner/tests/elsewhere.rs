//! Engines', the kubelet's and volumes' folders that were put beneath a root, on real files.

use super::*;

const UID: &str = "0b2e4a52-3c0f-4a0e-9d0c-1f1f1f1f1f1f";

/// Rotated logs beneath `data` that are no cleanup's, wherever the marker of their folder lies.
fn not_ours() -> Vec<String> {
    vec![
        "docker/overlay2/abc/diff/var/log/app.log.1".to_owned(),
        "docker/containers/abc/abc-json.log.1".to_owned(),
        "docker/volumes/pg/_data/log/pg.log.1".to_owned(),
        "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs/var/log/app.log.1".to_owned(),
        "containerd/tmpmounts/m1/app.log.1".to_owned(),
        "crio/overlay/abc/diff/var/log/app.log.1".to_owned(),
        format!("local-path-provisioner/pvc-{UID}_shop_data/app.log.1"),
        format!("openebs/local/pvc-{UID}/logs/app.log.1"),
        "kubelet/plugins/csi/pv/globalmount/app.log.1".to_owned(),
        format!("kubelet/pods/{UID}/etc/app.log.1"),
    ]
}

/// What marks them.
const MARKS: [&str; 7] = [
    "docker/image",
    "containerd/io.containerd.metadata.v1.bolt",
    "containerd/io.containerd.content.v1.content",
    "crio/overlay-layers",
    "crio/overlay-images",
    "kubelet/plugins_registry",
    "kubelet/pods",
];

fn write(scene: &Scene, path: &str) -> PathBuf {
    let at = format!("data/{path}");
    fs::create_dir_all(scene.base.path().join(&at).parent().unwrap()).unwrap();
    scene.file(&at, 4_096)
}

#[test]
fn a_walk_and_a_plan_from_before_leave_storage_alone_wherever_it_lies() {
    for kind in [Kind::RotatedLogs, Kind::Custom] {
        let mut scene = Scene::new();
        let root = scene.root(kind, "data");
        root.max_depth = 12;
        if kind == Kind::Custom {
            (root.patterns, root.min_age_seconds) = (vec!["**/*.log.1".to_owned()], 3_600);
        }
        let theirs: Vec<PathBuf> = not_ours().iter().map(|path| write(&scene, path)).collect();
        let ours = write(&scene, "logs/app.log.1");
        let mut cleaner = scene.cleaner();
        // Before their folders are what they are, names alone tell.
        let before = scene.plan(&cleaner);
        assert!(before.objects.len() > 1, "{:?}", before.refused);
        MARKS.iter().for_each(|mark| fs::create_dir_all(scene.base.path().join("data").join(mark)).unwrap());
        let plan = scene.plan(&cleaner);
        let planned: Vec<&Path> = plan.objects.iter().map(|o| o.path.as_path()).collect();
        assert_eq!(planned, [ours.as_path()], "{}", reasons(&plan));
        let done = scene.apply(&mut cleaner, before, &Agent::default());
        for path in &theirs {
            assert!(path.exists(), "{}: {}", path.display(), reasons(&done));
        }
        assert!(!ours.exists(), "{}", reasons(&done));
        for said in ["marks a folder above it as a container engine's", "as the kubelet's"] {
            assert!(reasons(&done).contains(said), "{}", reasons(&done));
        }
        // Nor is any of their folders a root, nor what lies in one.
        for path in &theirs {
            let folders = path.ancestors().skip(1);
            let inside = folders.take_while(|f| f.parent() != Some(&scene.base.path().join("data")));
            for folder in inside.filter(|f| f.file_name().is_some_and(|n| n != "local")) {
                let refused = RootPolicy { patterns: harmless(kind), ..RootPolicy::of(kind, folder) };
                let policy = Policy { roots: vec![refused], ..scene.policy.clone() };
                let problems = policy.validate(Path::new("/var/spool/dogwatch-test"));
                assert!(!problems.is_empty(), "{}", folder.display());
            }
        }
    }
}

fn harmless(kind: Kind) -> Vec<String> {
    match kind {
        Kind::Custom => vec!["z.*.old".to_owned()],
        other => RootPolicy::of(other, "/x").patterns,
    }
}
