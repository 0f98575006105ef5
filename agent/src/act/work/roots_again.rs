//! When the executor is started again for roots that it cannot use: it opens roots at its start alone, and how far its surveys
//! were ends with it.
//!
//! Invariants: a root that is lost is opened again at once, but not so a second time within the hour: whoever owns the folder
//! above one, and renames it now and then, must not have every survey begin anew. While a survey of any disk is to go on, that
//! waits longer.
//!
//! Deliberately absent: time, which comes in as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::Action;

use crate::act::executor::Ready;
use crate::act::plan::Survey;
use crate::act::quarantine::ROOT_ASTRAY;
use crate::act::remove::QUARANTINE_GONE;

/// Roots that could not be used are tried again this long after the last time, when a survey wants them: one that was not
/// there may be, one without an inode for its quarantine may have got it.
pub(super) const ROOTS_AGAIN: Duration = Duration::from_secs(60);
/// The same while a survey is to go on where the last one ended.
pub(super) const ROOTS_AGAIN_AMID: Duration = Duration::from_secs(3_600);

/// What is known of the present executor's roots besides what it said at its start.
#[derive(Debug)]
pub(super) struct RootsAgain {
    /// When roots were opened last.
    opened: Instant,
    /// Roots that were usable and are not any more, and why.
    lost: BTreeMap<PathBuf, String>,
    /// When roots were opened last while this one was lost.
    opened_for: BTreeMap<PathBuf, Instant>,
    /// Roots that could not be used at the last start, and why: that was logged.
    warned: BTreeMap<PathBuf, String>,
    /// Disks of which the last survey came to no end, so that the next one goes on there.
    unfinished: BTreeSet<u64>,
}

impl RootsAgain {
    pub(super) fn new(now: Instant) -> Self {
        let (lost, warned, opened_for) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { opened: now, lost, opened_for, warned, unfinished: BTreeSet::new() }
    }

    /// An executor was started, or should have been.
    pub(super) fn opened(&mut self, now: Instant) {
        self.opened = now;
        let lost = std::mem::take(&mut self.lost);
        self.opened_for.extend(lost.into_keys().map(|root| (root, now)));
        self.unfinished.clear();
    }

    /// The roots that an executor that says `ready` cannot use, and why, without what was the same at the start before it.
    pub(super) fn news_of(&mut self, ready: &Ready) -> Vec<(PathBuf, String)> {
        let roots = ready.unable.is_none().then(|| ready.unusable()).into_iter().flatten();
        let now: BTreeMap<PathBuf, String> = roots.map(|(r, why)| (r.to_owned(), why.to_owned())).collect();
        let before = std::mem::replace(&mut self.warned, now);
        let news = self.warned.iter().filter(|(root, why)| before.get(*root) != Some(why));
        news.map(|(root, why)| (root.clone(), why.clone())).collect()
    }

    /// What a survey of `device` says. Each looks where every root lies.
    pub(super) fn surveyed(&mut self, device: u64, survey: &Survey) {
        match &survey.partial {
            Some(_) => self.unfinished.insert(device),
            None => self.unfinished.remove(&device),
        };
        self.lost.retain(|_, why| !why.starts_with(ROOT_ASTRAY));
        let astray = survey.passed_over.iter().filter(|r| r.reason.starts_with(ROOT_ASTRAY));
        self.lost.extend(astray.filter_map(|r| Some((r.path.clone()?, r.reason.clone()))));
    }

    /// What a cleanup says beneath `roots`.
    pub(super) fn applied<'r>(&mut self, action: &Action, roots: impl Iterator<Item = &'r Path> + Clone) {
        for refusal in &action.refused {
            let reason = refusal.reason.as_str();
            let why = match reason.find(ROOT_ASTRAY) {
                Some(at) => Some(&reason[at..]),
                None => reason.contains(QUARANTINE_GONE).then_some(reason),
            };
            let (Some(why), Some(path)) = (why, &refusal.path) else { continue };
            let root = roots.clone().filter(|r| path.starts_with(r)).max_by_key(|r| r.as_os_str().len());
            if let Some(root) = root {
                self.lost.insert(root.to_owned(), why.to_owned());
            }
        }
    }

    /// Whether another executor may use what this one cannot; `lacks`: whether this one could not use a root from its start.
    pub(super) fn are_due(&self, now: Instant, lacks: bool) -> bool {
        let wait = if self.unfinished.is_empty() { ROOTS_AGAIN } else { ROOTS_AGAIN_AMID };
        let is_new = |root: &PathBuf| {
            let before = self.opened_for.get(root);
            before.is_none_or(|at| now.saturating_duration_since(*at) >= ROOTS_AGAIN_AMID)
        };
        let is_lost = !self.lost.is_empty();
        self.lost.keys().any(is_new)
            || (is_lost || lacks) && now.saturating_duration_since(self.opened) >= wait
    }

    /// What is lost, in words.
    pub(super) fn said(&self) -> Vec<String> {
        self.lost.iter().map(|(root, why)| format!("cleanup root {}: {why}", root.display())).collect()
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::Refusal;
    use proptest::prelude::*;

    use super::*;
    use crate::act::executor::RootStatus;
    use crate::act::policy::ROOT_OFF;
    use crate::act::specimen;

    fn survey(partial: bool, astray: &[&str]) -> Survey {
        let told = |path: &&str| Refusal { path: Some(path.into()), reason: format!("{ROOT_ASTRAY}: moved") };
        Survey {
            passed_over: astray.iter().map(told).collect(),
            partial: partial.then(|| "stopped".to_owned()),
            ..Survey::default()
        }
    }

    #[test]
    fn where_any_survey_is_to_go_on_a_root_that_is_never_there_waits() {
        let start = Instant::now();
        let mut roots = RootsAgain::new(start);
        assert!(!roots.are_due(start, true) && roots.are_due(start + ROOTS_AGAIN, true));
        assert!(!roots.are_due(start + ROOTS_AGAIN, false));
        roots.surveyed(1, &survey(true, &[]));
        roots.surveyed(2, &survey(false, &[]));
        assert!(!roots.are_due(start + ROOTS_AGAIN, true), "another disk's survey came to its end");
        assert!(roots.are_due(start + ROOTS_AGAIN_AMID, true));
        roots.surveyed(1, &survey(false, &[]));
        assert!(roots.are_due(start + ROOTS_AGAIN, true));
    }

    #[test]
    fn a_root_that_is_lost_is_opened_again_at_once_and_then_seldom() {
        let start = Instant::now();
        let mut roots = RootsAgain::new(start);
        roots.surveyed(1, &survey(true, &["/a"]));
        assert_eq!(roots.said(), [format!("cleanup root /a: {ROOT_ASTRAY}: moved")]);
        assert!(roots.are_due(start, false), "at once, also amid a survey");
        roots.opened(start);
        assert!(roots.said().is_empty() && !roots.are_due(start, false));
        roots.surveyed(1, &survey(false, &["/a"]));
        assert!(!roots.are_due(start, false) && roots.are_due(start + ROOTS_AGAIN, false));
        roots.surveyed(1, &survey(true, &["/a"]));
        assert!(!roots.are_due(start + ROOTS_AGAIN, false) && roots.are_due(start + ROOTS_AGAIN_AMID, false));
        roots.surveyed(1, &survey(true, &["/a", "/b"]));
        assert!(roots.are_due(start, false), "another root for the first time");
        roots.surveyed(1, &survey(true, &[]));
        assert!(!roots.are_due(start + ROOTS_AGAIN_AMID, false) && roots.said().is_empty(), "it came back");
    }

    #[test]
    fn what_a_cleanup_met_is_its_roots_until_roots_are_opened() {
        let mut roots = RootsAgain::new(Instant::now());
        let mut action = specimen::action(Vec::new());
        let why = format!("x {QUARANTINE_GONE}");
        action.refused = vec![Refusal { path: Some("/a/b/c.log.1".into()), reason: why.clone() }];
        let paths = ["/", "/a", "/a/b", "/a/bc"].map(Path::new);
        roots.applied(&action, paths.into_iter());
        roots.surveyed(1, &survey(false, &[]));
        assert_eq!(roots.said(), [format!("cleanup root /a/b: {why}")], "no survey sees that");
        roots.opened(Instant::now());
        assert!(roots.said().is_empty());
    }

    #[test]
    fn a_root_that_cannot_be_used_is_logged_once_for_each_reason() {
        let ready = |roots: &[(&str, Option<&str>)]| {
            let status = |(path, why): &(&str, Option<&str>)| RootStatus {
                path: path.into(),
                device: None,
                unusable: why.map(str::to_owned),
            };
            let mut ready = Ready::unknown(1);
            (ready.unable, ready.roots) = (None, roots.iter().map(status).collect());
            ready
        };
        let mut roots = RootsAgain::new(Instant::now());
        let mut warned = |of: &[(&str, Option<&str>)]| {
            let told = roots.news_of(&ready(of)).into_iter();
            told.map(|(root, why)| format!("{}: {why}", root.display())).collect::<Vec<_>>()
        };
        let gone = Some("it does not exist");
        assert_eq!(warned(&[("/a", gone), ("/b", None), ("/c", Some(ROOT_OFF))]), ["/a: it does not exist"]);
        assert_eq!(warned(&[("/a", gone), ("/b", gone)]), ["/b: it does not exist"]);
        assert_eq!(warned(&[("/a", Some("a link")), ("/b", None)]), ["/a: a link"]);
        assert_eq!(
            warned(&[("/a", Some("a link")), ("/b", gone)]),
            ["/b: it does not exist"],
            "it was there"
        );
        let mut off = ready(&[("/d", gone)]);
        off.unable = Some("the mode is off".to_owned());
        assert_eq!(roots.news_of(&off), [], "of a policy that cleans nothing nothing is missed");
    }

    proptest! {
        /// Whoever moves two of three roots as he likes: roots are opened for each of them once out of turn.
        #[test]
        fn no_one_has_roots_opened_before_every_survey(
            steps in prop::collection::vec((0..120u64, 0..4usize, 0..3u64, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let (mut now, mut roots) = (start, RootsAgain::new(start));
            let mut opened: Vec<Instant> = Vec::new();
            let mut met = BTreeSet::new();
            for (seconds, moved, device, partial, lacks) in steps {
                now += Duration::from_secs(seconds);
                if roots.are_due(now, lacks) {
                    roots.opened(now);
                    opened.push(now);
                }
                let astray: &[&str] = [&[][..], &["/a"], &["/b"], &["/a", "/b"]][moved];
                met.extend(astray.iter().copied());
                roots.surveyed(device, &survey(partial, astray));
            }
            let again = opened.windows(2).filter(|w| w[1].duration_since(w[0]) < ROOTS_AGAIN).count() as u64;
            let hours = 1 + now.duration_since(start).as_secs() / ROOTS_AGAIN_AMID.as_secs();
            prop_assert!(again <= hours * met.len() as u64, "{again} times, {met:?} in {hours} hours");
        }
    }
}
