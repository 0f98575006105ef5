use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;

use dogwatch::record::{FileSeen, MAX_PIECE_BYTES};
use sha2::{Digest, Sha256};

use super::*;
use crate::act::cleaner::{News, Parent};
use crate::act::hold::HeldThing;
use crate::act::policy::RootPolicy;
use crate::act::witness::Verdict;

const ID: &str = "hold-0badcafe";
/// Far more steps than any of these sweeps may take.
const MAX_STEPS: usize = 10_000;

/// An agent that remembers what it was shown, and keeps it or not.
#[derive(Default)]
struct Agent {
    seen: RefCell<Vec<FileSeen>>,
    refuses: Option<&'static str>,
}

impl Parent for Agent {
    fn news(&self) -> News {
        News::default()
    }

    fn witness(&self, seen: FileSeen) -> Result<Verdict, String> {
        match self.refuses {
            Some(why) => Err(why.to_owned()),
            None => {
                self.seen.borrow_mut().push(seen);
                Ok(Verdict::Kept)
            }
        }
    }
}

/// A root with a folder of its own.
struct Ground {
    folder: tempfile::TempDir,
    roots: Vec<Option<Root>>,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = vec![Some(Root::open(&RootPolicy::new(folder.path())).unwrap())];
        Self { folder, roots }
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn links(&self) -> usize {
        std::fs::read_dir(self.folder.path().join(HELD)).unwrap().count()
    }

    fn step(&self, sweeps: &mut Sweeps, holds: &[NodeHold], agent: &Agent) -> Step {
        let place = |h: &NodeHold| Hold {
            id: h.id.clone(),
            place: HeldPlace::Beneath(self.folder.path().to_owned()),
            reason: h.reason.clone(),
        };
        let places: Vec<Hold> = holds.iter().map(place).collect();
        sweeps.step(&self.roots, (holds, &places), true, agent)
    }

    /// Steps to the end; what that says, and how many there were.
    fn sweep(&self, sweeps: &mut Sweeps, holds: &[NodeHold], agent: &Agent) -> (Vec<HeldAside>, usize) {
        for steps in 1..MAX_STEPS {
            let step = self.step(sweeps, holds, agent);
            if !step.more {
                return (step.holds, steps);
            }
        }
        panic!("the sweep never ends");
    }
}

fn all_of(ground: &Ground) -> Vec<NodeHold> {
    let what = HeldThing::Path(ground.folder.path().to_owned());
    vec![NodeHold { id: ID.to_owned(), what, reason: "court".to_owned() }]
}

fn in_steps_of(entries: u64, bytes: u64) -> Sweeps {
    let budget = Budget { entries, bytes, time: Duration::from_secs(3_600) };
    Sweeps { budget, ..Sweeps::default() }
}

#[test]
fn a_sweep_goes_on_where_it_was_and_looks_at_everything_once() {
    let ground = Ground::new();
    let mut files = 0;
    for folder in 0..12 {
        for log in 0..20 {
            ground.write(&format!("{folder:02}/deep/er/{log}.log"), b"x");
            files += 1;
        }
    }
    for log in 0..300 {
        ground.write(&format!("05/many/{log}.log"), b"x");
        files += 1;
    }
    let folders = 1 + 12 * 3 + 1;
    let mut sweeps = in_steps_of(7, u64::MAX);
    let (told, steps) = ground.sweep(&mut sweeps, &all_of(&ground), &Agent::default());
    assert_eq!((told[0].files, told[0].lacks.as_str()), (files, ""));
    assert_eq!(ground.links() as u64, files);
    // Each folder has `.`, `..` and its own name besides, the root two of ours; none of it is looked at twice.
    let entries = files as usize + 3 * folders + 2;
    let most = entries.div_ceil(7) + 1;
    assert!(steps > files as usize / 7 && steps <= most, "{steps} steps, {most} suffice");
    for folder in 0..12 {
        let log = ground.folder.path().join(format!("{folder:02}/deep/er/19.log"));
        assert_eq!(std::fs::metadata(log).unwrap().nlink(), 2);
    }
    let (_, again) = ground.sweep(&mut sweeps, &all_of(&ground), &Agent::default());
    assert_eq!(again, steps, "the next sweep begins anew");
}

#[test]
fn a_sweep_of_slow_folders_gets_on_by_many_entries_a_step() {
    let ground = Ground::new();
    for folder in 0..5 {
        for log in 0..300 {
            ground.write(&format!("{folder}/{log}.log"), b"x");
        }
    }
    // As where the look at a single entry takes longer than a step may.
    let slow = || Sweeps { budget: Budget { time: Duration::ZERO, ..STEP }, ..Sweeps::default() };
    let (told, steps) = ground.sweep(&mut slow(), &all_of(&ground), &Agent::default());
    assert_eq!((told[0].files, told[0].lacks.as_str(), ground.links()), (1_500, "", 1_500));
    assert!(steps > 1, "each step is bounded all the same");
    assert!(steps <= 1_530 / 256 + 1, "{steps} steps");
    let (told, steps) = ground.sweep(&mut slow(), &[], &Agent::default());
    assert_eq!((told[0].files, ground.links()), (1_500, 0), "so does letting go, batch by batch");
    assert!(steps <= 1_500 / 48 + 2, "{steps} steps");
    // What is read is no entry: a piece a step.
    copied_and_truncated(&ground, &noise(1_300_000));
    let (_, steps) = ground.sweep(&mut slow(), &all_of(&ground), &Agent::default());
    assert!(steps >= 1_300_000 / MAX_PIECE_BYTES, "{steps} steps");
}

#[test]
fn finding_the_place_where_the_last_step_ended_takes_nothing_of_the_next() {
    let mut spent = Spent::new(Budget { time: Duration::ZERO, ..STEP });
    assert!(!spent.is_over() && !spent.is_over_for_entries());
    spent.begin();
    assert!(spent.is_over() && !spent.is_over_for_entries());
    spent.entries = LEAST_ENTRIES;
    assert!(spent.is_over_for_entries());
    let full = |entries, bytes| Spent { entries, bytes, ..Spent::new(STEP) };
    assert!(full(STEP.entries, 0).is_over_for_entries() && full(0, STEP.bytes).is_over_for_entries());
}

#[test]
fn a_sweep_ends_although_the_folder_that_it_is_in_goes_away_and_others_come() {
    let ground = Ground::new();
    for folder in 0..6 {
        for log in 0..10 {
            ground.write(&format!("{folder}/{log}.log"), b"x");
        }
    }
    let (mut sweeps, agent, holds) = (in_steps_of(4, u64::MAX), Agent::default(), all_of(&ground));
    let is_in = |sweeps: &Sweeps, folder: &str| {
        let at = sweeps.pass.as_ref().and_then(|p| p.at.as_ref());
        at.is_some_and(|at| at.folder == Path::new(folder))
    };
    while !is_in(&sweeps, "2") {
        assert!(ground.step(&mut sweeps, &holds, &agent).more);
    }
    std::fs::remove_dir_all(ground.folder.path().join("2")).unwrap();
    ground.write("0/late.log", b"before where it is");
    ground.write("4/late.log", b"behind it");
    let linked = |name: &str| std::fs::metadata(ground.folder.path().join(name)).unwrap().nlink() == 2;
    ground.sweep(&mut sweeps, &holds, &agent);
    assert!((3..6).all(|f| (0..10).all(|l| linked(&format!("{f}/{l}.log")))));
    assert!(linked("4/late.log") && !linked("0/late.log"));
    ground.sweep(&mut sweeps, &holds, &agent);
    assert!(linked("0/late.log"), "it is the next sweep's");
}

#[test]
fn a_release_goes_in_steps_each_of_which_stands() {
    let ground = Ground::new();
    for log in 0..200 {
        ground.write(&format!("{log}.log"), &[b'x'; 5_000]);
    }
    let agent = Agent::default();
    ground.sweep(&mut Sweeps::default(), &all_of(&ground), &agent);
    assert_eq!(ground.links(), 200);
    for log in 0..150 {
        std::fs::remove_file(ground.folder.path().join(format!("{log}.log"))).unwrap();
    }
    // Ten files a step.
    let mut sweeps = in_steps_of(u64::MAX, 50_000);
    let mut so_far = 0;
    for _ in 0..5 {
        let step = ground.step(&mut sweeps, &[], &agent);
        assert!(step.more && step.holds[0].released && step.holds[0].files > so_far, "{step:?}");
        so_far = step.holds[0].files;
        assert_eq!(ground.links() as u64, 200 - so_far, "what a step says went");
    }
    assert_eq!(so_far, 50);
    // Another executor takes over: it goes on with what is left.
    let (told, steps) = ground.sweep(&mut in_steps_of(u64::MAX, 50_000), &[], &agent);
    assert_eq!((told[0].files, steps), (150, 15), "{told:?}");
    assert_eq!(ground.links(), 0);
    let seen = agent.seen.borrow();
    let names: HashSet<&Path> = seen.iter().flat_map(|s| &s.objects).map(|o| o.path.as_path()).collect();
    assert_eq!((names.len(), seen.iter().map(|s| s.objects.len()).sum::<usize>()), (200, 200));
}

#[test]
fn what_cannot_be_let_go_of_is_said_and_holds_nothing_up() {
    let ground = Ground::new();
    for log in 0..30 {
        ground.write(&format!("{log}.log"), b"x");
    }
    ground.sweep(&mut Sweeps::default(), &all_of(&ground), &Agent::default());
    let refusing = Agent { refuses: Some("the disk is gone"), ..Agent::default() };
    let mut sweeps = in_steps_of(10, u64::MAX);
    let (told, _) = ground.sweep(&mut sweeps, &[], &refusing);
    assert_eq!((ground.links(), told[0].files), (30, 0));
    assert!(
        told[0].lacks.contains("its links stay") && told[0].lacks.contains("the disk is gone"),
        "{told:?}"
    );
    ground.sweep(&mut sweeps, &[], &Agent::default());
    assert_eq!(ground.links(), 0, "the next sweep tries again");
}

#[test]
fn a_log_that_is_written_to_all_the_time_is_let_go_of() {
    let ground = Ground::new();
    let log = ground.write("busy.log", b"x");
    ground.sweep(&mut Sweeps::default(), &all_of(&ground), &Agent::default());
    assert_eq!(std::fs::metadata(&log).unwrap().nlink(), 2);
    // As if a line came while it was digested.
    struct Busy(PathBuf);
    impl Parent for Busy {
        fn news(&self) -> News {
            News::default()
        }
        fn witness(&self, _: FileSeen) -> Result<Verdict, String> {
            std::fs::write(&self.0, "another line").map_err(|e| e.to_string())?;
            Ok(Verdict::Kept)
        }
    }
    let step = Sweeps::default().step(&ground.roots, (&[], &[]), true, &Busy(log.clone()));
    assert_eq!((step.holds[0].files, step.holds[0].kept_bytes), (1, 0), "{step:?}");
    assert_eq!((ground.links(), std::fs::metadata(&log).unwrap().nlink()), (0, 1));
    // One that nobody else has a name for is not: what goes would not be what was recorded.
    ground.sweep(&mut Sweeps::default(), &all_of(&ground), &Agent::default());
    let aside = std::fs::read_dir(ground.folder.path().join(HELD)).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&log).unwrap();
    let step = Sweeps::default().step(&ground.roots, (&[], &[]), true, &Busy(aside.clone()));
    assert!(aside.exists() && step.holds[0].lacks.contains("still written to"), "{step:?}");
}

/// A log beside which a younger copy lies, as a rotation by copying and truncating leaves them.
fn copied_and_truncated(ground: &Ground, content: &[u8]) -> PathBuf {
    let log = ground.write("app.log", content);
    let born = |path: &Path| {
        let birth = std::fs::metadata(path).unwrap().created();
        birth.expect("the temporary folder must lie on a filesystem that keeps times of birth")
    };
    loop {
        let copy = ground.write("app.log.1", b"older lines");
        if born(&copy) > born(&log) {
            return log;
        }
        std::fs::remove_file(copy).unwrap();
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_long_copy_goes_on_piece_by_piece_and_is_whole() {
    let ground = Ground::new();
    let content = noise(1_300_000);
    copied_and_truncated(&ground, &content);
    let (mut sweeps, agent) = (in_steps_of(u64::MAX, 1), Agent::default());
    let (told, steps) = ground.sweep(&mut sweeps, &all_of(&ground), &agent);
    assert!(steps >= 5, "a piece a step: {steps}");
    assert!(told[0].lacks.contains("its content until then is in the evidence"), "{told:?}");
    let seen = agent.seen.borrow();
    let mut whole = Vec::new();
    for piece in seen.iter().filter_map(|s| s.content.as_ref()) {
        assert_eq!(piece.offset, whole.len() as u64, "each piece once, in order");
        whole.extend(piece.decompress().unwrap());
    }
    assert!(whole == content);
    let object = seen.iter().flat_map(|s| &s.objects).next_back().unwrap();
    assert_eq!(object.sha256.unwrap().0, <[u8; 32]>::from(Sha256::digest(&content)));
    assert_eq!(object.preserved_bytes, Some(1_300_000));
    drop(seen);
    let before = agent.seen.borrow().len();
    let (told, _) = ground.sweep(&mut sweeps, &all_of(&ground), &agent);
    assert_eq!(agent.seen.borrow().len(), before, "once a run");
    assert!(told[0].lacks.contains("in the evidence"), "{told:?}");
}

#[test]
fn a_copy_that_was_cut_in_the_midst_is_not_put_together_from_two() {
    let ground = Ground::new();
    let log = copied_and_truncated(&ground, &noise(1_000_000));
    let (mut sweeps, agent) = (in_steps_of(u64::MAX, 1), Agent::default());
    assert!(ground.step(&mut sweeps, &all_of(&ground), &agent).more);
    while agent.seen.borrow().is_empty() {
        assert!(ground.step(&mut sweeps, &all_of(&ground), &agent).more);
    }
    // Truncated, and as long again by now.
    std::fs::write(&log, vec![b'n'; 1_500_000]).unwrap();
    let (told, _) = ground.sweep(&mut sweeps, &all_of(&ground), &agent);
    assert!(told[0].lacks.contains("was written anew while it was read"), "{told:?}");
    assert!(agent.seen.borrow().iter().all(|s| s.objects.is_empty()), "no digest says that it is whole");
}

#[test]
fn another_set_of_holds_begins_anew_and_forgets_nothing_that_went() {
    let ground = Ground::new();
    for log in 0..100 {
        ground.write(&format!("{log:03}.log"), b"x");
    }
    let agent = Agent::default();
    ground.sweep(&mut Sweeps::default(), &all_of(&ground), &agent);
    let mut sweeps = in_steps_of(1, 1);
    for _ in 0..20 {
        assert!(ground.step(&mut sweeps, &[], &agent).more);
    }
    let went = 100 - ground.links() as u64;
    assert!(went > 0 && went < 100, "{went}");
    let another = vec![NodeHold { id: "hold-00000002".to_owned(), ..all_of(&ground).remove(0) }];
    let (told, _) = ground.sweep(&mut sweeps, &another, &agent);
    let of = |id: &str| told.iter().find(|t| t.hold == id).unwrap();
    assert_eq!((of(ID).released, of(ID).files), (true, 100), "{told:?}");
    assert_eq!((of("hold-00000002").released, of("hold-00000002").files), (false, 100), "{told:?}");
}
