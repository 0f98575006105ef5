//! Tables of mounts as they are written, and real mounts in namespaces of other processes.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::act::plan::Candidate;
use crate::act::specimen::object;
use crate::own_mounts::in_own_mounts;

const OWN: &str = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
    2 1 0:40 /@/log /var/log rw - btrfs /dev/b rw\n\
    3 2 0:41 / /var/log/other rw - tmpfs t rw\n";

/// What the table of another namespace says of these.
fn told(theirs: &str) -> Vec<(usize, String)> {
    let paths = ["/srv/a b.log.1", "/var/log/app/x.log.1", "/var/log/other/y.log.1"];
    let own = parse(OWN.as_bytes());
    let sought = Sought::new(paths.iter().map(Path::new).enumerate(), &own);
    sought.in_table(&parse(theirs.as_bytes()))
}

#[test]
fn the_very_file_is_known_by_its_place_and_no_folder_above_it() {
    let said = |nth: usize, why: &str| vec![(nth, why.to_owned())];
    let root = "50 40 0:60 / / rw - overlay overlay rw\n";
    for (theirs, want) in [
        // Source, in words of the table; on btrfs with the subvolume before it.
        (r"51 50 8:1 /srv/a\040b.log.1 /logs/a rw - ext4 /dev/a rw", said(0, "mounted at /logs/a")),
        ("51 50 0:40 /@/log/app/x.log.1 /x rw - btrfs /dev/b rw", said(1, "mounted at /x")),
        ("51 50 0:41 /y.log.1 /y rw - tmpfs t rw", said(2, "mounted at /y")),
        // Folders above them, another filesystem's, another name, one that is gone.
        ("51 50 0:40 /@/log /var/log rw - btrfs /dev/b rw", vec![]),
        ("51 50 0:40 /@/log/app /x rw - btrfs /dev/b rw", vec![]),
        ("51 50 8:2 /srv/a\\040b.log.1 /x rw - ext4 /dev/c rw", vec![]),
        ("51 50 0:40 /@/log/app/x.log.10 /x rw - btrfs /dev/b rw", vec![]),
        ("51 50 0:40 /@/log/app/x.log.1//deleted /x rw - btrfs /dev/b rw", vec![]),
        // Where something is mounted on it: in the folder of it that they see.
        (
            "51 50 0:40 /@/log/app /in rw - btrfs /dev/b rw\n52 51 0:70 / /in/x.log.1 rw - tmpfs t rw",
            said(1, MOUNTED_ON),
        ),
        ("51 50 0:40 /@/log /in rw - btrfs /dev/b rw\n52 51 0:70 / /in/x.log.1 rw - tmpfs t rw", vec![]),
    ] {
        assert_eq!(told(&format!("{root}{theirs}\n")), want, "{theirs}");
    }
}

/// A process in a mount namespace of its own, in which `script` ran; it ends with this.
struct Apart(Child);

impl Apart {
    fn run(script: &str) -> Self {
        Self::unshared(&["-m"], script)
    }

    /// As anybody may who is not root: in a user namespace of his own.
    fn of_a_user(script: &str) -> Self {
        Self::unshared(&["-U", "-r", "-m"], script)
    }

    fn unshared(what: &[&str], script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(what).args(["--propagation", "private", "sh", "-ec"]);
        command.arg(format!("{script}\necho ready\nread _ || true"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).arg0("unshare");
        let mut child = command.spawn().expect("these tests need unshare and root");
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).expect("its mounts failed");
        Self(child)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn candidate(path: &Path) -> Candidate {
    let object = PlannedObject { path: path.to_owned(), ..object("x") };
    let (filesystem, root) = (object.device, path.parent().unwrap().to_owned());
    Candidate { object, root, open_elsewhere: false, accessed_ns: None, filesystem }
}

#[test]
fn a_file_that_a_container_has_mounted_stays() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(base.join("log/app")).unwrap();
    let files = ["a b.log.1", "b.log.1", "app/c.log.1"].map(|name| base.join("log").join(name));
    files.iter().for_each(|file| std::fs::write(file, "x").unwrap());
    let log = base.join("log").display().to_string();
    let apart = Apart::run(&format!(
        "mount -t tmpfs t /mnt; touch /mnt/at; mkdir /mnt/log\n\
         mount --bind '{log}/a b.log.1' /mnt/at; mount --bind '{log}' /mnt/log\n\
         mount --bind /mnt/at /mnt/log/app/c.log.1"
    ));
    let mut survey = Survey { candidates: files.iter().map(|f| candidate(f)).collect(), ..Survey::default() };
    let objects: Vec<PlannedObject> = survey.candidates.iter().map(|c| c.object.clone()).collect();
    pass_over(&mut survey);
    let left: Vec<&Path> = survey.candidates.iter().map(|c| c.object.path.as_path()).collect();
    assert_eq!(left, [files[1].as_path()], "the folder is mounted too, which is no reason");
    let process = format!("of process {} (sh)", apart.0.id());
    let said: Vec<&str> = survey.passed_over.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(said, [format!("mounted at /mnt/at {process}"), format!("{MOUNTED_ON} {process}")]);
    let stay: Vec<usize> = which_stay(&objects).iter().map(|(nth, _)| *nth).collect();
    assert_eq!(stay, [0, 2]);
    drop(apart);
    assert_eq!(which_stay(&objects), [], "nobody has them mounted any more");
}

#[test]
fn what_is_more_than_a_look_takes_keeps_every_file() {
    in_own_mounts(|base| {
        let file = base.join("a.log.1");
        std::fs::write(&file, "x").unwrap();
        let _apart = [Apart::run(""), Apart::run("")];
        let objects = [candidate(&file).object];
        let proc = Path::new("/proc");
        assert_eq!(which_stay_within(&objects, proc, [LIMITS, FOREIGN]), []);
        for limits in [
            Limits { namespaces: 1, ..LIMITS },
            Limits { bytes: 1, ..LIMITS },
            Limits { time: Duration::ZERO, ..LIMITS },
        ] {
            let stay = which_stay_within(&objects, proc, [limits, FOREIGN]);
            assert!(stay[0].1.contains("nobody can tell whether it is mounted"), "{limits:?}: {stay:?}");
        }
        // Where no process can be looked at, our own mounts tell.
        assert_eq!(which_stay_within(&objects, Path::new("/nowhere"), [LIMITS, FOREIGN]), []);
        let at = base.join("at");
        std::fs::write(&at, "").unwrap();
        rustix::mount::mount_bind(&file, &at).unwrap();
        let stay = which_stay_within(&objects, Path::new("/nowhere"), [LIMITS, FOREIGN]);
        assert_eq!(stay[0].1, format!("mounted at {}", at.display()));
    });
}

#[test]
fn what_a_user_has_mounted_is_known_and_how_much_that_is_keeps_no_file_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let (mine, other) = (base.join("mine.log.1"), base.join("other.log.1"));
    [&mine, &other].into_iter().for_each(|file| std::fs::write(file, "x").unwrap());
    let script = format!("mount -t tmpfs t /mnt; touch /mnt/at; mount --bind '{}' /mnt/at", mine.display());
    let apart = [Apart::of_a_user(&script), Apart::of_a_user(&script)];
    let left_and_said = |limits| {
        let candidates = [&mine, &other].into_iter().map(|file| candidate(file)).collect();
        let mut survey = Survey { candidates, ..Survey::default() };
        pass_over_within(&mut survey, Path::new("/proc"), [LIMITS, limits]);
        let left: Vec<PathBuf> = survey.candidates.into_iter().map(|c| c.object.path).collect();
        (left, survey.passed_over.iter().map(|r| r.reason.as_str()).collect::<String>())
    };
    let (left, said) = left_and_said(FOREIGN);
    assert_eq!(left, std::slice::from_ref(&other), "{said}");
    assert!(said.starts_with("mounted at /mnt/at of process"), "{said}");
    for limits in [
        Limits { namespaces: 0, ..FOREIGN },
        Limits { bytes: 0, ..FOREIGN },
        Limits { time: Duration::ZERO, ..FOREIGN },
    ] {
        let (left, said) = left_and_said(limits);
        assert_eq!(left, [mine.clone(), other.clone()], "{limits:?}: {said}");
        assert!(said.contains("mount namespaces in users' own user namespaces were not looked at"), "{said}");
    }
    // Where a process of the system is in one as well, that is the system's.
    let theirs = format!("--mount=/proc/{}/ns/mnt", apart[0].0.id());
    let mut guest = Command::new("nsenter").args([&theirs, "sleep", "600"]).spawn().unwrap();
    let mounts = |pid| std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap();
    while mounts(guest.id()) != mounts(apart[0].0.id()) {
        assert!(guest.try_wait().unwrap().is_none(), "nsenter failed");
        std::thread::yield_now();
    }
    let (left, said) = left_and_said(Limits { namespaces: 0, ..FOREIGN });
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert_eq!(left, [other], "{said}");
}
