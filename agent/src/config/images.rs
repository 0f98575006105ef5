//! The section `cleanup.images`.

use std::time::Duration;

use dogwatch::config::Section;

use crate::act::images::policy::{ImagePolicy, MAX_IMAGES_AN_ACTION};
use crate::act::policy::Budgets;

/// Ten years: longer than any node.
const MAX_AGE: Duration = Duration::from_secs(86_400 * 3650);

pub(super) fn images(s: &mut Section) -> ImagePolicy {
    let d = ImagePolicy::default();
    let policy = ImagePolicy {
        mode: s.parse("mode", d.mode),
        socket: s.path_value("socket"),
        tier: s.number("tier", d.tier, 1..=9),
        min_age_seconds: s
            .duration("min_age", Duration::from_secs(d.min_age_seconds), Duration::ZERO..=MAX_AGE)
            .as_secs(),
        keep_newest: s.number("keep_newest", d.keep_newest, 0..=10_000),
        excludes: s.texts("excludes").unwrap_or(d.excludes),
        budgets: s.section("budgets", |b| Budgets {
            max_objects: b.number("max_objects", d.budgets.max_objects, 1..=MAX_IMAGES_AN_ACTION),
            max_bytes: b.bytes("max_bytes", d.budgets.max_bytes, 1..=u64::MAX),
            max_objects_per_hour: b.number(
                "max_objects_per_hour",
                d.budgets.max_objects_per_hour,
                1..=u32::MAX,
            ),
            max_bytes_per_hour: b.bytes("max_bytes_per_hour", d.budgets.max_bytes_per_hour, 1..=u64::MAX),
        }),
    };
    for p in policy.validate() {
        s.problem(&p.key, &p.value, p.reason, &p.remedy);
    }
    policy
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn every_mistake_is_told_with_its_key() {
        let environment = [
            ("NODE_NAME", "n1"),
            ("DOGWATCH_CLEANUP__IMAGES__MODE", "maybe"),
            ("DOGWATCH_CLEANUP__IMAGES__SOCKET", "/run/../x.sock"),
            ("DOGWATCH_CLEANUP__IMAGES__EXCLUDES", "['r.test/x:1']"),
            ("DOGWATCH_CLEANUP__IMAGES__BUDGETS__MAX_OBJECTS", "1000"),
            ("DOGWATCH_CLEANUP__IMAGES__MIN_AGE", "0s"),
            ("DOGWATCH_CLEANUP__IMAGES__KEEP", "1"),
        ];
        let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let text = Config::load(None, environment).unwrap_err().to_string();
        for key in ["mode", "socket", "min_age", "excludes[0]", "budgets.max_objects", "keep"] {
            assert!(text.contains(&format!("cleanup.images.{key}")), "{key} in {text}");
        }
    }
}
