use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use dogwatch::record::{
    CleanupMode, Cut, FileSeen, LEASE_GRACE, PlannedImage, PlannedObject, SHORTEST_LEASE,
};
use dogwatch::wire;
use dogwatch::wire::executor_reply::Reply;
use dogwatch::wire::executor_request::Request;
use prost::Message;

use super::super::at_work::AtWork;
use super::super::channel::Channel;
use super::super::hold_line::HoldLine;
use super::super::policy::{Policy, QUARANTINE, RootPolicy};
use super::super::quarantine::entry_name;
use super::super::specimen;
use super::super::survey::LONGEST as LONGEST_SURVEY;
use super::super::unfinished::Open;
use super::super::witness::Verdict;
use super::*;

/// A cut and an image: what was to become of them nobody can see afterwards.
fn action() -> Action {
    let cut = Some(Cut { from: 0, to: 10, tail: Vec::new() });
    let image = PlannedImage { id: "i".to_owned(), tags: Vec::new(), digests: Vec::new(), inodes: 1 };
    let image = PlannedObject { image: Some(Box::new(image)), ..specimen::object("/container-images/x") };
    specimen::action(vec![PlannedObject { cut, ..specimen::object("/a/app.log") }, image])
}

/// What `files` and `images` make of the action, and what that has spent of the hour.
fn outcome(files: &mut Keeper<'_>, images: &mut Keeper<'_>) -> (Action, (u64, u64)) {
    let action = action();
    let of_files = files.apply(shares::files(&action).unwrap(), &|_, _| ());
    let of_images = images.apply_images(shares::images(&action).unwrap());
    let applied = shares::joined(action, vec![of_files, of_images]);
    let policy = Policy { mode: CleanupMode::Auto, roots: vec![RootPolicy::new("/a")], ..Policy::off() };
    let mut ledger = Ledger::default();
    ledger.note_action(&applied, &Rules::new(policy).unwrap(), 0);
    (applied, ledger.spent(0, |_| true))
}

fn keeper(child: Result<Executor, ExecutorError>) -> Keeper<'static> {
    Keeper::new("test", Box::new(|| Err(ExecutorError::Died(None))), child, None, &Aside::new(SOON))
}

/// A child that has already gone, or that answers every request with `replies`, and is gone then.
fn child(replies: Option<Vec<Reply>>) -> Executor {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_socket(theirs).unwrap();
    match replies {
        Some(replies) => drop(std::thread::spawn(move || {
            let request = theirs.receive(None).unwrap();
            let id = wire::ExecutorRequest::decode(request.as_slice()).unwrap().id;
            for reply in replies {
                let reply = wire::ExecutorReply { id, reply: Some(reply) };
                theirs.send(&reply.encode_to_vec(), None).unwrap();
            }
        })),
        None => {
            drop(theirs);
            // A process that another test is just starting may hold a copy until its exec.
            while !ours.is_closed() {
                std::thread::yield_now();
            }
        }
    }
    Executor::spoken_for(ours)
}

#[test]
fn an_action_that_reached_no_child_or_was_refused_has_spent_nothing() {
    let refused = || Some(vec![Reply::Error("its policy is wrong".to_owned())]);
    let died = || Err(ExecutorError::Died(None));
    let all = [
        ("not running", died(), died()),
        ("ended", Ok(child(None)), Ok(child(None))),
        ("its policy is wrong", Ok(child(refused())), Ok(child(refused()))),
    ];
    for (why, files, images) in all {
        let (applied, spent) = outcome(&mut keeper(files), &mut keeper(images));
        assert_eq!((applied.state, spent), (ActionState::Refused, (0, 0)), "{why}: {applied:?}");
        for object in &applied.objects {
            assert_eq!(object.outcome, ObjectOutcome::Skipped, "{why}");
            let said = applied.refused.iter().find(|r| r.path.as_ref() == Some(&object.path)).unwrap();
            assert!(said.reason.contains(why), "{}", said.reason);
        }
    }
}

/// Keeps whatever it is told.
#[derive(Debug)]
struct Keeps;

impl Witness for Keeps {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        Ok(Verdict::Kept)
    }
}

/// A cleanup that was cut short while one file was in quarantine, and what puts that file back.
fn cut_short(folder: &Path) -> (Unfinished, impl Fn() + Send + 'static) {
    let (file, quarantine) = (folder.join("app.log.1"), folder.join(QUARANTINE));
    fs::create_dir(&quarantine).unwrap();
    fs::write(&file, "lines").unwrap();
    let (own, its) = (fs::metadata(&file).unwrap(), fs::metadata(folder).unwrap());
    let object = PlannedObject {
        device: own.dev(),
        inode: own.ino(),
        size_bytes: own.size(),
        mtime_ns: own.mtime() * 1_000_000_000 + own.mtime_nsec(),
        btime_ns: None,
        ..specimen::object(&file)
    };
    let name = file.file_name().unwrap();
    let entry = entry_name(its.ino(), Path::new(""), own.ino(), name).unwrap();
    let aside = quarantine.join(entry);
    fs::rename(&file, &aside).unwrap();
    let mut open = Open::default();
    let started = Action { state: ActionState::Started, ..specimen::action(vec![object]) };
    open.take(&Body::Action(Box::new(started)));
    (open.unfinished().remove(0), move || fs::rename(&aside, &file).unwrap())
}

fn launch(folder: &Path) -> Launch {
    Launch {
        program: "/bin/false".into(),
        args: Vec::new(),
        policy: Policy::off(),
        state_dir: folder.to_owned(),
        holds: HoldLine::open(folder, Path::new("/")),
        at_work: AtWork::default(),
        masks: Vec::new(),
        images: None,
    }
}

/// The thread that takes jobs, over a child that says there is more to put back until `is_back`.
fn with_leftovers(scene: impl FnOnce(&dyn Fn(Job), &Receiver<Done>, &AtomicBool, Unfinished)) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap();
    let (unfinished, put_back) = cut_short(&folder);
    let launch = launch(&folder);
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_socket(theirs).unwrap();
    let is_back = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_back);
    let child = std::thread::spawn(move || {
        while let Ok(request) = theirs.receive(None) {
            let request = wire::ExecutorRequest::decode(request.as_slice()).unwrap();
            let reply = match request.request.unwrap() {
                Request::Restore(_) if flag.load(Ordering::Acquire) => {
                    put_back();
                    Reply::Restored(wire::Restored::default())
                }
                Request::Restore(_) => {
                    Reply::Restored(wire::Restored { more: true, ..wire::Restored::default() })
                }
                Request::Survey(_) => {
                    Reply::Part(wire::SurveyPart { last: true, ..wire::SurveyPart::default() })
                }
                Request::Apply(_) => Reply::Error("not in this test".to_owned()),
                _ => continue,
            };
            let reply = wire::ExecutorReply { id: request.id, reply: Some(reply) };
            theirs.send(&reply.encode_to_vec(), None).unwrap();
        }
    });
    let first = Children { executor: Ok(Executor::spoken_for(ours)), images: None };
    let ((jobs, taken), (tell, done)) = (channel(), channel());
    let thread = std::thread::spawn(move || {
        let tell = move |word| drop(tell.send(word));
        run(&launch, first, Ledger::default(), &taken, Arc::new(Keeps), tell, |_| ());
    });
    scene(&|job| jobs.send(job).unwrap(), &done, &is_back, unfinished);
    drop(jobs);
    thread.join().unwrap();
    child.join().unwrap();
}

const SOON: Duration = Duration::from_secs(60);

#[test]
fn what_the_thread_is_at_is_told_until_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let launch = launch(dir.path());
    let at_work = launch.at_work.clone();
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_socket(theirs).unwrap();
    let first = Children { executor: Ok(Executor::spoken_for(ours)), images: None };
    let ((jobs, taken), (tell, done)) = (channel(), channel());
    // Before anything else is due.
    jobs.send(Job::Survey { mount: "/data".to_owned(), device: 1 }).unwrap();
    let thread = std::thread::spawn(move || {
        let tell = move |word| drop(tell.send(word));
        run(&launch, first, Ledger::default(), &taken, Arc::new(Keeps), tell, |_| ());
    });
    // The child has the question, and says nothing.
    let asked = loop {
        let request = wire::ExecutorRequest::decode(theirs.receive(None).unwrap().as_slice()).unwrap();
        if matches!(request.request, Some(Request::Survey(_))) {
            break request.id;
        }
    };
    let now = at_work.now().unwrap();
    assert_eq!(now.what, "the look at what may go on /data");
    assert!(now.since_boot_ns <= clock::now().boot_ns);
    let part = wire::SurveyPart { last: true, ..wire::SurveyPart::default() };
    let reply = wire::ExecutorReply { id: asked, reply: Some(Reply::Part(part)) };
    theirs.send(&reply.encode_to_vec(), None).unwrap();
    while !matches!(done.recv_timeout(SOON).unwrap(), Done::Surveyed { .. }) {}
    // What follows the jobs goes unanswered.
    drop(theirs);
    drop(jobs);
    thread.join().unwrap();
    assert_eq!(at_work.now(), None);
}

#[test]
fn a_cleanup_that_was_cut_short_gets_its_end_once_its_files_are_back_and_keeps_no_survey_waiting() {
    with_leftovers(|send, done, is_back, unfinished| {
        send(Job::Close(Box::new(unfinished)));
        send(Job::Survey { mount: "/".to_owned(), device: 1 });
        assert!(matches!(done.recv_timeout(SOON).unwrap(), Done::Surveyed { .. }));
        is_back.store(true, Ordering::Release);
        let Done::Closed(closed) = done.recv_timeout(SOON).unwrap() else { unreachable!("no end") };
        assert_eq!(closed.objects[0].outcome, ObjectOutcome::Skipped, "{closed:?}");
        assert!(closed.refused[0].reason.contains("still there"), "{:?}", closed.refused);
    });
}

#[test]
fn a_cleanup_that_was_cut_short_gets_its_end_before_another_is_carried_out() {
    with_leftovers(|send, done, _, unfinished| {
        send(Job::Close(Box::new(unfinished)));
        send(Job::Apply(Box::new(action())));
        let Done::Closed(closed) = done.recv_timeout(SOON).unwrap() else { unreachable!("no end") };
        assert!(closed.refused[0].reason.contains("lies in quarantine"), "{:?}", closed.refused);
        assert!(matches!(done.recv_timeout(SOON).unwrap(), Done::Applied(_)));
    });
}

#[test]
fn a_cleanup_that_was_cut_short_gets_its_end_before_the_collector_stops_all_others() {
    // A survey may just have begun.
    assert!(closing::LATEST + LONGEST_SURVEY + OUTCOME_WAIT < SHORTEST_LEASE + LEASE_GRACE);
    let (now, mut closing) = (Instant::now(), Closing::default());
    assert_eq!(closing.wait(now), Duration::MAX);
    let dir = tempfile::tempdir().unwrap();
    let (unfinished, _put_back) = cut_short(dir.path());
    assert!(closing.take(unfinished.clone(), now));
    assert!(!closing.take(unfinished, now + closing::LATEST), "quarantines are emptied first but once");
    assert_eq!(closing.wait(now), closing::LATEST);
    assert!(closing.wait(now + closing::LATEST).is_zero());
    assert_eq!((closing.all().len(), closing.wait(now)), (2, Duration::MAX));
}

#[test]
fn what_a_child_may_have_begun_has_spent_what_was_planned() {
    let dies = || Ok(child(Some(Vec::new())));
    let (applied, spent) = outcome(&mut keeper(dies()), &mut keeper(dies()));
    assert_eq!((applied.state, spent), (ActionState::Failed, (2, 20)), "{applied:?}");
    // Each share for itself.
    let (applied, spent) = outcome(&mut keeper(Err(ExecutorError::Died(None))), &mut keeper(dies()));
    assert_eq!((applied.state, spent), (ActionState::Failed, (1, 10)), "{applied:?}");
    assert_eq!(applied.objects[0].outcome, ObjectOutcome::Skipped);
}
