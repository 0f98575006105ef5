//! What of the images may go, and how much of it. Handed to the image keeper when it starts, and obeyed there whatever
//! the parent says later.
//!
//! Deliberately absent: what no setting may change (running, pinned, pods' own images stay: `judge`).

use std::path::{Component, Path, PathBuf};

use dogwatch::record::CleanupMode;
use serde::{Deserialize, Serialize};

use super::names::repository;
use crate::act::policy::{Budgets, GlobError, Kept, MAX_PATTERNS, Problem, can_match};

/// Where runtimes listen, as a kubelet finds them: containerd, k3s and RKE2, CRI-O.
pub const KNOWN_SOCKETS: &[&str] = &[
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
];
/// Shortest that an image must have been seen unused, whatever is configured: a kubelet that pulls one for a pod makes the
/// container after the pull, and until then nothing uses it. Five times the kubelet's own imageMinimumGCAge of 2 min, for
/// pulls that are queued behind others.
pub const MIN_AGE_SECONDS: u64 = 600;
/// Most images in one action: each is checked anew by two calls, and a runtime takes seconds to remove a large one.
pub const MAX_IMAGES_AN_ACTION: u32 = 100;

/// What a node's cleanup may do with images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagePolicy {
    /// The tighter of this and the node's mode counts. `off`: the runtime is never asked anything.
    pub mode: CleanupMode,
    /// The runtime's socket on the host; `None`: the first of [`KNOWN_SOCKETS`] that is there.
    pub socket: Option<PathBuf>,
    /// Tiers are emptied in ascending order; 1 is the most harmless.
    pub tier: u32,
    /// So long must an image have been seen unused; at least [`MIN_AGE_SECONDS`]. The kubelet's imageMinimumGCAge is 2 min, since the image was first
    /// seen; a day is for what is rolled back in the evening or runs each night.
    pub min_age_seconds: u64,
    /// So many of the newest images of each repository stay, used or not.
    pub keep_newest: u32,
    /// Globs on repositories, such as `registry.example/base/*`, that stay.
    pub excludes: Vec<String>,
    /// How much, beside the node's own budgets.
    pub budgets: Budgets,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            mode: CleanupMode::Off,
            socket: None,
            tier: 2,
            min_age_seconds: 24 * 3_600,
            keep_newest: 1,
            excludes: Vec::new(),
            budgets: Budgets {
                max_objects: 50,
                max_bytes: 64 * GIB,
                max_objects_per_hour: 200,
                max_bytes_per_hour: 256 * GIB,
            },
        }
    }
}

impl ImagePolicy {
    /// Every mistake, with keys relative to the policy; none if it may be used. Looks at nothing on disk.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |key: String, value: String, reason: String, remedy: &str| {
            problems.push(Problem { key, value, reason, remedy: remedy.to_owned() });
        };
        if let Some(socket) = &self.socket {
            let plain = socket.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
            if !socket.is_absolute() || !plain || socket.file_name().is_none() {
                say(
                    "socket".to_owned(),
                    socket.display().to_string(),
                    "it is no plain absolute path".to_owned(),
                    "name the runtime's socket on the host, without unix://",
                );
            }
        }
        if self.min_age_seconds < MIN_AGE_SECONDS {
            say(
                "min_age".to_owned(),
                format!("{} s", self.min_age_seconds),
                "an image that was pulled a moment ago for a pod that starts would go".to_owned(),
                "use 10m or more; the kubelet's own age for that is imageMinimumGCAge, 2m",
            );
        }
        if self.tier == 0 {
            say("tier".to_owned(), "0".to_owned(), "tiers begin at 1".to_owned(), "use 2, as shipped");
        }
        if self.excludes.len() > MAX_PATTERNS {
            let reason = format!("at most {MAX_PATTERNS} are matched");
            say(
                "excludes".to_owned(),
                format!("{} patterns", self.excludes.len()),
                reason,
                "merge them with {a,b}",
            );
        }
        for (i, glob) in self.excludes.iter().enumerate() {
            let key = format!("excludes[{i}]");
            match Kept::new(std::slice::from_ref(glob)) {
                Err(error) => {
                    say(
                        key,
                        glob.clone(),
                        format!("it is no glob: {error}"),
                        "use *, **, ?, [a-z] and {a,b}",
                    );
                }
                Ok(_) if glob.contains('@') || tagged(glob) => {
                    let reason = "it is matched against repositories, without tag and digest".to_owned();
                    say(key, glob.clone(), reason, "leave out what follows the last : or @");
                }
                Ok(_) if !can_match(glob) || !glob.is_ascii() => {
                    let reason = "no repository is written so".to_owned();
                    say(
                        key,
                        glob.clone(),
                        reason,
                        "write it as registry.example/base/*: without blanks, '://', '..' and a '/' at its end",
                    );
                }
                Ok(_) => {}
            }
        }
        problems.extend(self.budgets.problems().into_iter().filter(|p| p.key != "budgets.max_objects"));
        let objects = self.budgets.max_objects;
        if objects == 0 || objects > MAX_IMAGES_AN_ACTION {
            problems.push(Problem {
                key: "budgets.max_objects".to_owned(),
                value: objects.to_string(),
                reason: format!("an action takes 1 to {MAX_IMAGES_AN_ACTION} images"),
                remedy: "set mode: off to forbid it; what is left goes with the next action".to_owned(),
            });
        }
        problems
    }
}

fn tagged(glob: &str) -> bool {
    glob.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// A policy whose globs are compiled.
#[derive(Debug)]
pub(super) struct ImageRules {
    /// What it was compiled from.
    pub(super) policy: ImagePolicy,
    excludes: Kept,
}

impl ImageRules {
    /// Compiles `policy`; [`ImagePolicy::validate`] finds what does not compile first.
    pub(super) fn new(policy: ImagePolicy) -> Result<Self, GlobError> {
        Ok(Self { excludes: Kept::new(&policy.excludes)?, policy })
    }

    /// The glob that keeps an image of the canonical name `name`, if one does.
    pub(super) fn excluded_by(&self, name: &str) -> Option<&str> {
        let repository = repository(name);
        // `docker.io/library/x` is what people write as `x`.
        let short = repository.strip_prefix("docker.io/library/").or(repository.strip_prefix("docker.io/"));
        [Some(repository), short].into_iter().flatten().find_map(|r| {
            let at = self.excludes.first(Path::new(r))?;
            Some(self.policy.excludes[at].as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_policy_is_off_and_without_mistakes() {
        assert_eq!(ImagePolicy::default().validate(), Vec::new());
        assert_eq!(ImagePolicy::default().mode, CleanupMode::Off);
    }

    #[test]
    fn every_mistake_is_named() {
        let policy = ImagePolicy {
            socket: Some("unix:///run/x.sock".into()),
            tier: 0,
            min_age_seconds: MIN_AGE_SECONDS - 1,
            excludes: [
                "[",
                "a/b:1",
                "a/b@sha256:00",
                "/a",
                "a/",
                "",
                "https://a/b",
                "r.test/k[äö]se",
                "busybox:1",
            ]
            .map(str::to_owned)
            .to_vec(),
            budgets: Budgets { max_objects: 1_000, max_bytes: 0, ..ImagePolicy::default().budgets },
            ..ImagePolicy::default()
        };
        let keys: Vec<String> = policy.validate().into_iter().map(|p| p.key).collect();
        let expected = [
            "socket",
            "min_age",
            "tier",
            "excludes[0]",
            "excludes[1]",
            "excludes[2]",
            "excludes[3]",
            "excludes[4]",
            "excludes[5]",
            "excludes[6]",
            "excludes[7]",
            "excludes[8]",
            "budgets.max_bytes",
            "budgets.max_objects",
        ];
        assert_eq!(keys, expected);
    }

    /// What is judged and what is obeyed are one.
    #[test]
    fn an_alternative_that_names_nothing_keeps_what_stands_beside_it() {
        let excludes = vec!["r.test/app{,-debug}".to_owned()];
        let policy = ImagePolicy { excludes, ..ImagePolicy::default() };
        assert_eq!(policy.validate(), Vec::new());
        let rules = ImageRules::new(policy).unwrap();
        for kept in ["r.test/app:1", "r.test/app-debug:1"] {
            assert!(rules.excluded_by(kept).is_some(), "{kept}");
        }
        assert_eq!(rules.excluded_by("r.test/app-other:1"), None);
    }

    #[test]
    fn excludes_name_repositories_short_or_long() {
        let excludes = ["busybox", "registry.test:5000/base/*", "quay.io/**"].map(str::to_owned).to_vec();
        let rules = ImageRules::new(ImagePolicy { excludes, ..ImagePolicy::default() }).unwrap();
        for kept in ["docker.io/library/busybox:1", "registry.test:5000/base/a@sha256:00", "quay.io/a/b/c:1"]
        {
            assert!(rules.excluded_by(kept).is_some(), "{kept}");
        }
        for free in ["docker.io/other/busybox:1", "registry.test:5000/base/a/b:1", "quay.example/a:1"] {
            assert_eq!(rules.excluded_by(free), None, "{free}");
        }
    }
}
