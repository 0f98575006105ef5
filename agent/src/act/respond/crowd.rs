//! Several mounts that fill at once share one executor: who goes first, and how much is one turn.
//!
//! A cleanup that aims for a whole cooldown beyond the low-water mark, as a mount by itself deserves, keeps the executor
//! while the others fill. While another mount would be full within its cooldown, each takes a turn that lasts until about
//! the next one instead: it goes on in the hurried way of a mount that does not outlast its cooldown.

use std::path::Path;

use super::again::Made;
use super::{Respond, SETTLE_NS, Site};

/// For how long a turn is to last beyond the low-water mark: the pause behind it; what the low-water mark leaves lasts until
/// the others had theirs. Nearly all of a turn is digesting what goes (77 % of the executor's CPU time with files of 8 MiB),
/// so that half as much to remove is half as long.
const TURN_NS: u64 = SETTLE_NS;

impl Respond {
    /// For how long a cleanup of `mount` that begins by itself is to last, ns.
    pub(super) fn reach_ns(&self, mount: &str) -> u64 {
        let cooldown_ns = self.settings.cooldown_ns;
        let presses = |(path, site): (&String, &Site)| {
            path != mount
                && self.has_roots(path)
                && !site.findings.is_empty()
                && site.full_in_ns().is_some_and(|ns| ns <= cooldown_ns)
        };
        if self.mounts.iter().any(presses) { cooldown_ns.min(TURN_NS) } else { cooldown_ns }
    }

    /// Whether a root lies on `mount`, by its path. Another mount presses nobody: nothing can be cleaned there.
    fn has_roots(&self, mount: &str) -> bool {
        let of = |path: &Path| self.mounts.keys().filter(|m| path.starts_with(m)).max_by_key(|m| m.len());
        self.rules.policy.roots.iter().any(|root| of(&root.path).is_some_and(|m| m == mount))
    }

    /// The mounts with findings: those first where there are roots, of them those of which nobody knows that nothing may go,
    /// and of them those that are full soonest.
    pub(super) fn by_urgency(&self) -> Vec<String> {
        let in_vain = |s: &Site| s.last_plan.as_ref().is_some_and(Made::in_vain);
        let mut mounts: Vec<(bool, bool, u64, &String)> = self
            .mounts
            .iter()
            .filter(|(_, s)| !s.findings.is_empty())
            .map(|(path, s)| (!self.has_roots(path), in_vain(s), s.full_in_ns().unwrap_or(u64::MAX), path))
            .collect();
        mounts.sort();
        mounts.into_iter().map(|(_, _, _, path)| path.clone()).collect()
    }
}

impl Site {
    /// When it is full at the rate of the last seconds, ns from now; `None` where it does not fill.
    fn full_in_ns(&self) -> Option<u64> {
        let rate = self.fall.bytes_per_second();
        let available = u128::from(self.figures.as_ref()?.available_bytes);
        (rate > 0).then(|| u64::try_from(available * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{CleanupMode, Finding, FindingState, Hash, Moment, Mount, Severity, Subject};

    use super::super::{DISK_HIGH_WATER, Settings, Step};
    use super::*;
    use crate::act::permit::Gate;
    use crate::act::policy::{Budgets, Policy, RootPolicy, Rules};

    const SECOND: u64 = 1_000_000_000;
    const GIB: u64 = 1 << 30;

    fn at(seconds: u64) -> Moment {
        Moment { wall_ns: (seconds * SECOND) as i64, boot_ns: seconds * SECOND }
    }

    fn mount(path: &str, available_bytes: u64) -> Mount {
        Mount {
            path: path.to_owned(),
            dev_major: 8,
            dev_minor: path.len() as u32,
            total_bytes: 100 * GIB,
            available_bytes,
            inodes_total: 1_000,
            inodes_free: 900,
            ..Mount::default()
        }
    }

    fn finding(path: &str) -> Finding {
        Finding {
            id: path.to_owned(),
            rule: DISK_HIGH_WATER.to_owned(),
            severity: Severity::High,
            state: FindingState::Raised,
            subject: Subject::new("mount", path),
            summary: "it fills".to_owned(),
            explanation: String::new(),
            citations: Vec::new(),
            facts: Vec::new(),
            raised_wall_ns: 0,
            pod: None,
        }
    }

    /// `/a` and `/bb` fall by so many GiB a second, down to 15 and 12 GiB at second 5.
    fn falling(a: u64, b: u64) -> Respond {
        let roots = vec![RootPolicy::new("/a/logs"), RootPolicy::new("/bb/logs")];
        let policy = Policy { mode: CleanupMode::Auto, roots, budgets: Budgets::default() };
        let gate = Gate::open("n1".parse().unwrap(), Hash::ZERO);
        let mut machine =
            Respond::new(Rules::new(policy).unwrap(), Settings::default(), gate, Box::new(|| 1));
        for second in 1..=5 {
            let mounts =
                [mount("/a", (15 + a * (5 - second)) * GIB), mount("/bb", (12 + b * (5 - second)) * GIB)];
            machine.on_sample(&mounts, at(second));
        }
        machine
    }

    fn reach(machine: &Respond, mount: &str) -> u64 {
        machine.reach_ns(mount) / SECOND
    }

    #[test]
    fn a_mount_that_fills_by_itself_is_cleaned_for_a_whole_cooldown_and_two_take_turns() {
        let mut machine = falling(1, 2);
        machine.on_finding(&finding("/a"), at(5));
        assert_eq!((reach(&machine, "/a"), reach(&machine, "/bb")), (60, TURN_NS / SECOND));
        machine.on_finding(&finding("/bb"), at(5));
        assert_eq!((reach(&machine, "/a"), reach(&machine, "/bb")), (TURN_NS / SECOND, TURN_NS / SECOND));

        // One that has a finding and stands still presses nobody.
        let mut machine = falling(1, 0);
        machine.on_finding(&finding("/a"), at(5));
        machine.on_finding(&finding("/bb"), at(5));
        assert_eq!((reach(&machine, "/a"), reach(&machine, "/bb")), (60, TURN_NS / SECOND));
    }

    #[test]
    fn a_mount_where_nothing_can_be_cleaned_presses_nobody() {
        let mut machine = falling(1, 2);
        machine.rules.policy.roots.pop();
        machine.on_finding(&finding("/a"), at(5));
        machine.on_finding(&finding("/bb"), at(5));
        assert_eq!(reach(&machine, "/a"), 60);
        for path in ["/a", "/bb"] {
            machine.mounts.get_mut(path).unwrap().findings.insert(String::new(), finding(path));
        }
        assert_eq!(machine.by_urgency(), ["/a", "/bb"], "nor does it go first");
    }

    #[test]
    fn who_is_full_soonest_goes_first() {
        for (a, b, first) in [(1, 2, "/bb"), (9, 1, "/a"), (0, 1, "/bb"), (0, 0, "/a")] {
            let mut machine = falling(a, b);
            for path in ["/a", "/bb"] {
                // Both are known; neither is begun before the tick.
                machine.mounts.get_mut(path).unwrap().findings.insert(String::new(), finding(path));
            }
            let steps = machine.on_tick(at(5));
            let order: Vec<&str> = steps
                .iter()
                .filter_map(|s| if let Step::Survey { mount, .. } = s { Some(mount.as_str()) } else { None })
                .collect();
            assert_eq!(order.first().copied(), Some(first), "{a} {b}: {steps:?}");
            assert_eq!(order.len(), 2);
        }
    }

    #[test]
    fn a_mount_that_was_filled_to_the_last_byte_meanwhile_does_not_rest() {
        for (left, rests) in [(0, false), (15, true)] {
            let mut machine = falling(0, 0);
            for second in 6..=8 {
                machine.on_sample(&[mount("/a", left * GIB)], at(second));
            }
            // A cleanup ended before that; at a level that does not fall nothing hurries.
            machine.mounts.get_mut("/a").unwrap().cleaned_boot_ns = Some(5 * SECOND);
            machine.mounts.get_mut("/a").unwrap().fall = Default::default();
            let steps = machine.on_finding(&finding("/a"), at(8));
            assert_eq!(steps.is_empty(), rests, "{left} GiB: {steps:?}");
        }
    }
}
