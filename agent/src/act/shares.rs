//! One action, two children: files are the executor's share, images the image keeper's. Pure.
//!
//! Invariants: every object of an action is in exactly one share, and comes back at its place; what both say of the mount
//! is joined so that after − before − freed still holds. In a whole that failed, those objects failed of which nobody knows
//! what became: what surely stays is skipped.

use std::path::PathBuf;

use dogwatch::record::{Action, ActionState, ObjectOutcome, PlannedObject, Refusal, Unexplained};

use super::plan::{Survey, bounded};
use super::words;

/// An action with nothing but the objects for which `mine` holds; `None` where there are none.
fn share(action: &Action, mine: impl Fn(&PlannedObject) -> bool) -> Option<Action> {
    let objects: Vec<PlannedObject> = action.objects.iter().filter(|o| mine(o)).cloned().collect();
    (!objects.is_empty()).then(|| Action { objects, refused: Vec::new(), ..action.clone() })
}

/// The files of `action`.
pub(super) fn files(action: &Action) -> Option<Action> {
    share(action, |o| o.image.is_none())
}

/// The images of `action`.
pub(super) fn images(action: &Action) -> Option<Action> {
    share(action, |o| o.image.is_some())
}

/// The outcome of `action`, of which the shares `done` were carried out one after the other.
pub(super) fn joined(action: Action, done: Vec<Action>) -> Action {
    if done.is_empty() {
        return action;
    }
    let mut whole = Action { refused: action.refused, ..done[0].clone() };
    whole.state = done.iter().map(|d| d.state).max_by_key(|s| weight(*s)).unwrap_or(action.state);
    whole.detail =
        done.iter().find(|d| d.detail != action.detail).map_or(action.detail, |d| d.detail.clone());
    whole.available_after_bytes = done.iter().rev().find_map(|d| d.available_after_bytes);
    whole.available_before_bytes = done.iter().find_map(|d| d.available_before_bytes);
    let stores = done.iter().filter_map(|d| d.image_store.clone());
    whole.image_store = stores.reduce(|mut whole, next| {
        whole.listed_bytes = whole.listed_bytes.saturating_add(next.listed_bytes);
        (whole.used_after_bytes, whole.inodes_after) = (next.used_after_bytes, next.inodes_after);
        whole
    });
    let freed: Vec<u64> = done.iter().filter_map(|d| d.freed_bytes).collect();
    whole.freed_bytes = (!freed.is_empty()).then(|| freed.iter().fold(0, |a: u64, b| a.saturating_add(*b)));
    whole.unexplained = unexplained(&whole, &done);
    let (alone, unknown) = (done.len() == 1, whole.state == ActionState::Failed);
    let (mut objects, mut refused) = (Vec::new(), whole.refused);
    for share in done {
        // A share that was refused as a whole touched none of its objects; beside another it says why for each of them.
        let untouched = share.state == ActionState::Refused;
        // What failed in a share that was carried out stays, whatever became of the other.
        let stays = unknown && share.state != ActionState::Failed;
        let why = share.refused.iter().find(|r| r.path.is_none()).map(|r| r.reason.clone());
        for mut object in share.objects {
            if untouched && object.outcome == ObjectOutcome::Pending {
                object.outcome = ObjectOutcome::Skipped;
                if !alone {
                    let reason = why.clone().unwrap_or_else(|| "refused".to_owned());
                    refused.push(Refusal { path: Some(object.path.clone()), reason });
                }
            } else if stays && object.outcome == ObjectOutcome::Failed {
                object.outcome = ObjectOutcome::Skipped;
            }
            objects.push(object);
        }
        refused.extend(share.refused.into_iter().filter(|r| alone || !untouched || r.path.is_some()));
    }
    let order: Vec<(PathBuf, Option<String>)> = action.objects.iter().map(key).collect();
    objects.sort_by_key(|o| order.iter().position(|k| *k == key(o)));
    whole.objects = objects;
    whole.refused = bounded(refused);
    whole
}

fn key(object: &PlannedObject) -> (PathBuf, Option<String>) {
    (object.path.clone(), object.image.as_ref().map(|i| i.id.clone()))
}

/// What one share says of the whole: a failure above all, then what was done.
fn weight(state: ActionState) -> u8 {
    match state {
        ActionState::Failed => 4,
        ActionState::Done => 3,
        ActionState::Refused => 2,
        ActionState::Started => 1,
        ActionState::Planned => 0,
    }
}

fn unexplained(whole: &Action, done: &[Action]) -> Option<Unexplained> {
    let (before, after) = whole.available_before_bytes.zip(whole.available_after_bytes)?;
    let rest = i128::from(after) - i128::from(before) - i128::from(whole.freed_bytes.unwrap_or(0));
    let bytes = i64::try_from(rest).unwrap_or(if rest < 0 { i64::MIN } else { i64::MAX });
    let said = done.iter().filter_map(|d| d.unexplained.as_ref()).map(|u| u.reason.as_str());
    let mut reasons: Vec<String> = said.filter(|r| !r.is_empty()).map(str::to_owned).collect();
    let ends = done.iter().filter_map(|d| d.available_before_bytes.zip(d.available_after_bytes));
    let ends: Vec<(u64, u64)> = ends.collect();
    let between: i128 = ends.windows(2).map(|two| i128::from(two[1].0) - i128::from(two[0].1)).sum();
    if between != 0 {
        let bytes = words::bytes(u64::try_from(between.unsigned_abs()).unwrap_or(u64::MAX));
        let what = if between < 0 { "were written" } else { "came free" };
        reasons.push(format!("{bytes} {what} between its parts"));
    }
    Some(Unexplained { bytes, reason: reasons.join("; ") })
}

/// How the reason begins where a child was not heard.
pub(super) const NO_SURVEY: &str = "no survey";

/// Whether the plan `action` is of a survey in which every child was heard.
pub(super) fn is_of_all(action: &Action) -> bool {
    !action.refused.iter().any(|r| r.path.is_none() && r.reason.starts_with(NO_SURVEY))
}

/// What both children found. One that found nothing to say, or could not, does not keep the other from being heard.
pub(super) fn found(
    files: Result<Survey, String>,
    images: Option<Result<Survey, String>>,
) -> Result<Survey, String> {
    let Some(images) = images else { return files };
    let unheard =
        |what: &str, why: String| Refusal { path: None, reason: format!("{NO_SURVEY} of {what}: {why}") };
    match (files, images) {
        (Err(files), Err(images)) => Err(format!("{files}; images: {images}")),
        (Ok(mut survey), Err(why)) => {
            survey.passed_over.push(unheard("images", why));
            Ok(survey)
        }
        (Err(why), Ok(survey)) if survey.candidates.is_empty() => Err(why),
        (Err(why), Ok(mut survey)) => {
            survey.passed_over.push(unheard("files", why));
            Ok(survey)
        }
        (Ok(mut survey), Ok(images)) => {
            survey.candidates.extend(images.candidates);
            survey.passed_over.extend(images.passed_over);
            survey.partial = survey.partial.or(images.partial);
            Ok(survey)
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::PlannedImage;

    use super::*;
    use crate::act::specimen;

    fn object(path: &str, image: bool) -> PlannedObject {
        let image = image.then(|| {
            Box::new(PlannedImage { id: path.to_owned(), tags: vec![], digests: vec![], inodes: 1 })
        });
        PlannedObject { image, ..specimen::object(path) }
    }

    fn action() -> Action {
        let objects = vec![object("/i1", true), object("/f1", false), object("/i2", true)];
        Action {
            refused: vec![Refusal { path: Some("/kept".into()), reason: "young".to_owned() }],
            detail: "as planned".to_owned(),
            ..specimen::action(objects)
        }
    }

    fn carried_out(mut share: Action, freed: u64, before: u64, after: u64) -> Action {
        share.state = ActionState::Done;
        share.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Removed);
        (share.freed_bytes, share.available_before_bytes) = (Some(freed), Some(before));
        share.available_after_bytes = Some(after);
        let bytes = after as i64 - before as i64 - freed as i64;
        share.unexplained = Some(Unexplained { bytes, reason: format!("{bytes} for a reason") });
        share
    }

    #[test]
    fn shares_are_whole_and_come_back_in_their_places() {
        let action = action();
        let (files, images) = (files(&action).unwrap(), images(&action).unwrap());
        assert_eq!((files.objects.len(), images.objects.len()), (1, 2));
        let done = vec![carried_out(files, 10, 100, 111), carried_out(images, 20, 112, 130)];
        let whole = joined(action.clone(), done);
        assert_eq!(whole.state, ActionState::Done);
        assert_eq!((whole.freed_bytes, whole.available_before_bytes), (Some(30), Some(100)));
        let unexplained = whole.unexplained.unwrap();
        assert_eq!(unexplained.bytes, 130 - 100 - 30);
        assert_eq!(unexplained.reason, "1 for a reason; -2 for a reason; 1 B came free between its parts");
        assert_eq!(whole.objects.iter().map(|o| o.path.clone()).collect::<Vec<_>>(), {
            action.objects.iter().map(|o| o.path.clone()).collect::<Vec<_>>()
        });
        assert_eq!(whole.refused, action.refused);
        assert_eq!(whole.detail, "as planned");
    }

    #[test]
    fn a_share_that_failed_or_was_refused_is_told_beside_the_other() {
        let action = action();
        let done = carried_out(files(&action).unwrap(), 10, 100, 110);
        let mut refused = images(&action).unwrap();
        refused.state = ActionState::Refused;
        refused.refused.push(Refusal { path: None, reason: "its mode is off".to_owned() });
        let whole = joined(action.clone(), vec![done.clone(), refused.clone()]);
        assert_eq!((whole.state, whole.freed_bytes), (ActionState::Done, Some(10)));
        let skipped = whole.objects.iter().filter(|o| o.outcome == ObjectOutcome::Skipped).count();
        let told = whole.refused.iter().filter(|r| r.reason == "its mode is off").count();
        assert_eq!((skipped, told), (2, 2));

        let mut failed = images(&action).unwrap();
        (failed.state, failed.detail) = (ActionState::Failed, "it died".to_owned());
        let whole = joined(action.clone(), vec![done, failed]);
        assert_eq!((whole.state, whole.detail.as_str()), (ActionState::Failed, "it died"));

        let whole = joined(action.clone(), vec![refused.clone()]);
        assert_eq!(whole.state, ActionState::Refused);
        assert!(whole.objects.iter().all(|o| o.outcome == ObjectOutcome::Skipped), "nothing is left open");
        assert!(whole.refused.iter().any(|r| r.path.is_none()), "{:?}", whole.refused);
    }

    #[test]
    fn what_surely_stays_is_not_unknown_because_the_other_share_is() {
        let action = action();
        let mut files = carried_out(files(&action).unwrap(), 0, 100, 100);
        files.objects[0].outcome = ObjectOutcome::Failed;
        let mut images = images(&action).unwrap();
        images.state = ActionState::Failed;
        images.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Failed);
        let outcomes = |whole: &Action| whole.objects.iter().map(|o| o.outcome).collect::<Vec<_>>();
        use ObjectOutcome::{Failed, Skipped};
        let whole = joined(action.clone(), vec![files.clone(), images.clone()]);
        assert_eq!(outcomes(&whole), [Failed, Skipped, Failed]);

        (images.state, files.state) = (ActionState::Done, ActionState::Failed);
        let whole = joined(action.clone(), vec![files.clone(), images]);
        assert_eq!(outcomes(&whole), [Skipped, Failed, Skipped]);
        files.state = ActionState::Done;
        let whole = joined(action, vec![files]);
        assert_eq!(whole.objects[0].outcome, Failed, "one that was done says how");
    }

    #[test]
    fn one_survey_is_heard_without_the_other() {
        let some = || Survey {
            candidates: vec![super::super::plan::Candidate {
                object: object("/i", true),
                root: "/".into(),
                open_elsewhere: false,
                accessed_ns: None,
                filesystem: 0,
            }],
            ..Survey::default()
        };
        let no = || Err("down".to_owned());
        assert_eq!(found(no(), None), no());
        assert_eq!(found(Ok(some()), None), Ok(some()));
        assert!(found(no(), Some(no())).unwrap_err().contains("images: down"));
        assert!(found(no(), Some(Ok(Survey::default()))).is_err());
        assert_eq!(found(no(), Some(Ok(some()))).unwrap().passed_over[0].reason, "no survey of files: down");
        let both = found(Ok(some()), Some(no())).unwrap();
        assert_eq!(both.passed_over[0].reason, "no survey of images: down");
        assert_eq!(found(Ok(some()), Some(Ok(some()))).unwrap().candidates.len(), 2);
    }
}
