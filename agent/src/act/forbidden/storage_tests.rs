//! Folders as engines, the kubelet and provisioners lay them out, and those that only look so.

use std::fs::{create_dir_all, write};

use super::*;

const UID: &str = "0b2e4a52-3c0f-4a0e-9d0c-1f1f1f1f1f1f";

#[test]
fn what_lies_side_by_side_tells_whose_a_folder_is() {
    // (what lies in it; a name with a dot is a file), and whose it is.
    let layouts: [(&[&str], Option<&str>); 16] = [
        (&["overlay2", "image", "containers", "volumes"], Some(ENGINES)),
        (&["overlay2", "containers"], Some(ENGINES)),
        (&["engine-id", "containers", "rootfs"], Some(ENGINES)),
        (&["volumes/metadata.db", "containers"], Some(ENGINES)),
        (&["io.containerd.content.v1.content", "tmpmounts"], Some(ENGINES)),
        (&["io.containerd.metadata.v1.bolt"], Some(ENGINES)),
        (&["snapshots", "metadata.db"], Some(ENGINES)),
        (&["overlay", "overlay-layers", "storage.lock"], Some(ENGINES)),
        (&["overlay", "overlay-images"], Some(ENGINES)),
        (&["vfs", "vfs-layers"], Some(ENGINES)),
        (&["pods", "plugins", "plugins_registry"], Some("the kubelet's")),
        // Somebody's folders.
        (&["containers", "volumes", "logs"], None),
        (&["image", "containers"], None),
        (&["overlay", "pods"], None),
        (&["snapshots", "volumes"], None),
        (&["overlay2"], None),
    ];
    let temp = tempfile::tempdir().unwrap();
    for (at, (names, whose)) in layouts.into_iter().enumerate() {
        let folder = temp.path().join(at.to_string());
        create_dir_all(folder.join("deep/logs")).unwrap();
        for name in names {
            let path = folder.join(name);
            create_dir_all(path.parent().unwrap()).unwrap();
            if name.ends_with(".db") {
                write(path, "x").unwrap();
            } else {
                create_dir_all(path).unwrap();
            }
        }
        let opened = beneath::open_folder(std::fs::File::open(&folder).unwrap(), Path::new("")).unwrap();
        assert_eq!(storage_marker_in(&opened).map(|m| m.whose), whose, "{names:?}");
        for place in [folder.clone(), folder.join("deep/logs")] {
            let why = why_in_storage(&place);
            assert_eq!(why.is_some(), whose.is_some(), "{names:?}: {why:?}");
            let said = format!("marks {} as {}", folder.display(), whose.unwrap_or_default());
            assert!(why.is_none_or(|why| why.ends_with(&said)), "{said}");
        }
    }
}

#[test]
fn a_volume_is_known_by_its_name() {
    for (path, what) in [
        (format!("/opt/local-path-provisioner/pvc-{UID}_shop_data/x"), "a claim's volume"),
        (format!("/var/openebs/local/pvc-{UID}"), "a claim's volume"),
        (format!("/srv/nfs/shop-data-pvc-{UID}/logs"), "a claim's volume"),
        ("/data/docker/volumes/pg/_data/log".to_owned(), "a container's volume"),
        (format!("/data/kubelet/pods/{UID}/volumes/x"), "a pod's volume"),
        (format!("/x/pods/{UID}/volumeDevices"), "a pod's volume"),
        ("/x/pods/0123456789abcdef0123456789abcdef/volumes".to_owned(), "a pod's volume"),
        ("/x/kubernetes.io~csi/y".to_owned(), "a pod's volume"),
        ("/data/c/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs".to_owned(), "the runtime's own"),
    ] {
        let part = storage_part(Path::new(&path));
        assert!(part.as_ref().is_some_and(|part| part.contains(what)), "{path}: {part:?}");
    }
    for path in [
        // The logs of pods that serve a claim.
        format!("/var/log/pods/longhorn-system_share-manager-pvc-{UID}_{UID}/share-manager"),
        format!("/var/log/pods/local-path-storage_helper-pod-create-pvc-{UID}_{UID}/helper-pod"),
        // Those of containers that are called like a kubelet's folder.
        format!("/var/log/pods/shop_web-0_{UID}/volumes/0.log.20251121-010203.gz"),
        format!("/var/log/pods/shop_web-0_{UID}/plugins"),
        format!("/var/log/pods/shop_web-0_{UID}/volume-subpaths"),
        "/srv/pvc-logs".to_owned(),
        "/srv/pvc-0b2e4a52/logs".to_owned(),
        "/data/volumes/app/logs".to_owned(),
        format!("/srv/{UID}/logs"),
    ] {
        assert_eq!(storage_part(Path::new(&path)), None, "{path}");
    }
}
