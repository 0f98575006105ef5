//! What a crash left in a quarantine that several roots have in common.

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use super::*;
use crate::act::policy::QUARANTINE;
use crate::act::quarantine::entry_name;

impl Scene {
    /// Moves `relative` to where a removal that is cut short leaves it.
    fn cut_short(&self, root: &str, relative: &str) -> PathBuf {
        let path = self.file(&format!("{root}/{relative}"), b"precious");
        let folder = Path::new(relative).parent().unwrap();
        let (file, inside) = (fs::metadata(&path).unwrap(), fs::metadata(path.parent().unwrap()).unwrap());
        let entry = entry_name(inside.ino(), folder, file.ino(), path.file_name().unwrap()).unwrap();
        fs::rename(&path, self.path(root).join(QUARANTINE).join(entry)).unwrap();
        path
    }
}

fn in_quarantine(folder: &Path) -> usize {
    fs::read_dir(folder.join(QUARANTINE)).unwrap().count()
}

#[test]
fn what_lies_in_the_quarantine_of_two_cleaners_at_one_place_is_put_back_and_told_once() {
    let mut scene = Scene::new(CleanupMode::Auto);
    // The first one does not go as deep as the file came from.
    scene.root(Cleaner::RotatedLogs, "logs").max_depth = 1;
    let custom = scene.root(Cleaner::Custom, "logs");
    (custom.patterns, custom.max_depth) = (vec!["*.trace".to_owned()], 6);
    drop(scene.executor());
    let deep = scene.cut_short("logs", "a/b/c/app.trace");
    fs::write(scene.path("logs").join(QUARANTINE).join("stranger"), "").unwrap();

    let told = scene.executor().restore_leftovers();
    assert_eq!(told.len(), 2, "each once: {told:#?}");
    let back = told.iter().find(|l| l.restored).unwrap();
    assert_eq!(back.original, Some(deep.display().to_string()), "{told:#?}");
    assert_eq!(fs::read(&deep).unwrap()[..8], *b"precious");
    assert_eq!(in_quarantine(&scene.path("logs")), 1, "the stranger stays");
    assert_eq!(scene.executor().restore_leftovers().len(), 1);
}

#[test]
fn what_lies_in_the_quarantine_of_a_folder_that_is_mounted_twice_is_put_back_and_told_once() {
    // In a thread with mounts of its own, so that nothing is left behind.
    std::thread::spawn(mounted_twice).join().unwrap();
}

fn mounted_twice() {
    // SAFETY: only the mount namespace (and with it the working directory) of this thread is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .expect("a mount namespace needs root (CAP_SYS_ADMIN): run the tests as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let mut scene = Scene::new(CleanupMode::Auto);
    scene.root(Cleaner::RotatedLogs, "one");
    scene.root(Cleaner::RotatedLogs, "two");
    mount_bind(scene.path("one"), scene.path("two")).unwrap();
    drop(scene.executor());
    let log = scene.cut_short("one", "app/app.log.1");
    let told = scene.executor().restore_leftovers();
    rustix::mount::unmount(scene.path("two"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!((told.len(), told[0].restored), (1, true), "{told:#?}");
    assert!(log.exists());
}
