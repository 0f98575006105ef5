//! Which images may go, and why each of the others stays. Pure.
//!
//! Invariants, whatever the policy says: an image that a container in any state refers to, that is pinned, or that pods
//! are begun with stays. Two names that might mean the same image are taken to mean it.
//!
//! What is held is not judged here: holds come later and count until the last moment (`keeper`, `plan`).

use std::collections::{HashMap, HashSet};

use super::inventory::{Image, Inventory};
use super::names::{is_pause, repository};
use super::policy::ImageRules;
use super::seen::Seen;
use crate::act::words;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may go, having been unused for so long, and for this reason.
    MayGo {
        /// Watched time.
        unused_ns: u64,
        /// In words.
        why_safe: String,
    },
    /// It stays, and why.
    Stays(String),
}

/// When images were made, wall ns by id, as far as it was asked for and said.
pub(super) type Created = HashMap<String, i64>;

/// For each image of `inventory`, in its order, who uses it.
pub(super) fn users_of(inventory: &Inventory) -> Vec<Option<&str>> {
    let mut used: HashMap<&str, &str> = HashMap::new();
    for user in &inventory.users {
        for name in &user.images {
            used.entry(name).or_insert(&user.said);
        }
    }
    let user = |image: &Image| image.meanings().iter().find_map(|n| used.get(n.as_str()).copied());
    inventory.images.iter().map(user).collect()
}

/// The verdict on each image of `inventory`, in its order.
pub(super) fn judge(
    inventory: &Inventory,
    rules: &ImageRules,
    seen: &Seen,
    created: &Created,
) -> Vec<Verdict> {
    let users = users_of(inventory);
    let newest = newest(inventory, rules, seen, created);
    let judged = inventory.images.iter().zip(users).enumerate();
    judged
        .map(|(at, (image, user))| match stays(image, user, newest.contains(&at), inventory, rules) {
            Some(why) => Verdict::Stays(why),
            None => by_age(image, inventory.users.len(), rules, seen),
        })
        .collect()
}

fn stays(
    image: &Image,
    user: Option<&str>,
    among_newest: bool,
    inventory: &Inventory,
    rules: &ImageRules,
) -> Option<String> {
    let meanings = image.meanings();
    if let Some(odd) = &image.odd {
        return Some(odd.clone());
    }
    if let Some(user) = user {
        return Some(format!("{user} uses it"));
    }
    if image.pinned {
        return Some("the runtime has it pinned".to_owned());
    }
    if inventory.sandbox_image.as_ref().is_some_and(|s| meanings.contains(s)) {
        return Some("the runtime begins each pod with it".to_owned());
    }
    let mut repositories = image.tags.iter().chain(&image.digests).map(String::as_str);
    if repositories.any(|n| is_pause(repository(n))) {
        return Some("by its name it is the image that pods are begun with".to_owned());
    }
    if let Some(glob) = meanings.iter().find_map(|n| rules.excluded_by(n)) {
        return Some(format!("excluded by {glob:?}"));
    }
    among_newest.then(|| format!("it is among the {} newest of its repository", rules.policy.keep_newest))
}

fn by_age(image: &Image, containers: usize, rules: &ImageRules, seen: &Seen) -> Verdict {
    let unused_ns = seen.of(&image.id).map_or(0, |p| p.unused_ns);
    let (unused, min) = (unused_ns / NS_PER_SECOND, rules.policy.min_age_seconds);
    if unused < min {
        let (unused, min) = (words::seconds(unused), words::seconds(min));
        return Verdict::Stays(format!("it has been seen unused for {unused}, less than {min}"));
    }
    let why_safe = format!(
        "none of {containers} containers uses it, running or not; it is neither pinned nor the pods' own, and was seen \
         unused for {}; it can be pulled again",
        words::seconds(unused)
    );
    Verdict::MayGo { unused_ns, why_safe }
}

/// The images that stay as the newest of a repository of theirs: by when they were made, then by when they were first
/// seen. One without a name is of no repository.
fn newest(inventory: &Inventory, rules: &ImageRules, seen: &Seen, created: &Created) -> HashSet<usize> {
    let keep = rules.policy.keep_newest as usize;
    let mut repositories: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, image) in inventory.images.iter().enumerate() {
        for name in repositories_of(image) {
            repositories.entry(name).or_default().push(at);
        }
    }
    let age = |at: &usize| {
        let id = &inventory.images[*at].id;
        (created.get(id).copied(), seen.of(id).map(|p| p.order), id.clone())
    };
    let mut kept = HashSet::new();
    for mut members in repositories.into_values() {
        members.sort_by_key(|at| std::cmp::Reverse(age(at)));
        kept.extend(members.into_iter().take(keep));
    }
    kept
}

/// The repositories that an image belongs to, each once.
pub(super) fn repositories_of(image: &Image) -> HashSet<String> {
    let names = image.meanings();
    names.iter().filter(|n| !n.starts_with("sha256:")).map(|n| repository(n).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::inventory::User;
    use super::super::policy::ImagePolicy;
    use super::*;

    const DAY_NS: u64 = 86_400 * NS_PER_SECOND;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: format!("sha256:{id}"),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            digests: Vec::new(),
            size_bytes: 10,
            pinned: false,
            odd: None,
        }
    }

    fn user(state: &str, name: &str) -> User {
        User { said: format!("container c ({state})"), images: super::super::names::meanings(name) }
    }

    /// Verdicts by id, where every image has been seen unused for `looks` spans of five minutes.
    fn verdicts(inventory: &Inventory, policy: ImagePolicy, looks: u64) -> HashMap<String, Verdict> {
        let mut seen = Seen::default();
        for look in 0..=looks {
            let ids = inventory.images.iter().map(|i| (i.id.as_str(), false));
            seen.look(ids, look * super::super::seen::MAX_SPAN_NS);
        }
        let created = inventory.images.iter().enumerate().map(|(n, i)| (i.id.clone(), n as i64)).collect();
        let rules = ImageRules::new(policy).unwrap();
        let verdicts = judge(inventory, &rules, &seen, &created);
        inventory.images.iter().map(|i| i.id["sha256:".len()..].to_owned()).zip(verdicts).collect()
    }

    fn policy() -> ImagePolicy {
        ImagePolicy { keep_newest: 0, ..ImagePolicy::default() }
    }

    fn why<'v>(verdicts: &'v HashMap<String, Verdict>, id: &str) -> &'v str {
        match &verdicts[id] {
            Verdict::Stays(why) => why,
            Verdict::MayGo { .. } => "may go",
        }
    }

    #[test]
    fn what_is_used_pinned_or_the_pods_own_stays_however_it_is_named() {
        let mut pinned = image("5", &["r.test/pinned:1"]);
        pinned.pinned = true;
        let mut by_digest = image("6", &[]);
        by_digest.digests = vec!["r.test/digest@sha256:dd".to_owned()];
        let mut odd = image("9", &[]);
        odd.odd = Some("its id is none".to_owned());
        let inventory = Inventory {
            images: vec![
                image("1", &["docker.io/library/running:latest"]),
                image("2", &["r.test/created:1"]),
                image("3", &["r.test/exited:1"]),
                image("4", &["r.test/sandbox:9"]),
                pinned,
                by_digest,
                image("7", &["r.test/mirrored-pause:3"]),
                image("8", &["r.test/base/x:1"]),
                odd,
                image("a", &["r.test/free:1"]),
            ],
            users: vec![
                user("running", "running"),
                user("created", "sha256:2"),
                user("exited", "r.test/exited:1"),
                user("running", "r.test/digest:v1@sha256:dd"),
            ],
            sandbox_image: Some("r.test/sandbox:9".to_owned()),
            stores: Vec::new(),
        };
        let excludes = vec!["r.test/base/*".to_owned()];
        let found = verdicts(&inventory, ImagePolicy { excludes, ..policy() }, 300);
        for (id, words) in [
            ("1", "(running) uses it"),
            ("2", "(created) uses it"),
            ("3", "(exited) uses it"),
            ("4", "begins each pod"),
            ("5", "pinned"),
            ("6", "(running) uses it"),
            ("7", "pods are begun with"),
            ("8", "excluded by"),
            ("9", "its id is none"),
        ] {
            assert!(why(&found, id).contains(words), "{id}: {}", why(&found, id));
        }
        let Verdict::MayGo { unused_ns, why_safe } = &found["a"] else { unreachable!("{found:?}") };
        assert!(*unused_ns >= DAY_NS && why_safe.contains("none of 4 containers uses it"), "{why_safe}");
    }

    #[test]
    fn an_image_is_young_until_it_was_watched_for_its_age() {
        let inventory = Inventory { images: vec![image("1", &["r.test/a:1"])], ..Inventory::default() };
        assert!(why(&verdicts(&inventory, policy(), 287), "1").contains("less than 1 d"));
        assert_eq!(why(&verdicts(&inventory, policy(), 288), "1"), "may go");
    }

    #[test]
    fn the_newest_of_each_repository_stay() {
        let images = vec![
            image("1", &["r.test/a:1"]),
            image("2", &["r.test/a:2"]),
            image("3", &["r.test/a:3", "r.test/b:1"]),
            image("4", &["r.test/b:2"]),
            image("5", &[]),
        ];
        let inventory = Inventory { images, ..Inventory::default() };
        let going = |keep_newest| {
            let found = verdicts(&inventory, ImagePolicy { keep_newest, ..policy() }, 300);
            let mut going: Vec<String> =
                found.keys().filter(|id| why(&found, id) == "may go").cloned().collect();
            going.sort();
            going
        };
        assert_eq!(going(0), ["1", "2", "3", "4", "5"]);
        assert_eq!(going(1), ["1", "2", "5"]);
        assert_eq!(going(2), ["1", "5"]);
        assert_eq!(going(9), ["5"]);
    }
}
