use dogwatch::record::{CleanupMode, Cut, PlannedImage, PlannedObject};
use dogwatch::wire;
use dogwatch::wire::executor_reply::Reply;
use prost::Message;

use super::super::channel::Channel;
use super::super::policy::{Policy, RootPolicy};
use super::super::specimen;
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
    Keeper::new("test", Box::new(|| Err(ExecutorError::Died(None))), child, None)
}

/// A child that has already gone, or that answers every request with `replies`, and is gone then.
fn child(replies: Option<Vec<Reply>>) -> Executor {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_socket(theirs).unwrap();
    if let Some(replies) = replies {
        std::thread::spawn(move || {
            let request = theirs.receive(None).unwrap();
            let id = wire::ExecutorRequest::decode(request.as_slice()).unwrap().id;
            for reply in replies {
                let reply = wire::ExecutorReply { id, reply: Some(reply) };
                theirs.send(&reply.encode_to_vec(), None).unwrap();
            }
        });
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
