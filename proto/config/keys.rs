//! What was written: every key by its path, and values that must rise from key to key.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{Section, show};

/// Every key that is given, by its path, and what is written there.
pub type Keys = BTreeMap<String, String>;

impl Section {
    /// Every key that is given beneath this section, taken or not. Lists of mappings count as sections `[0]`, `[1]`, …
    pub fn keys(&self) -> Keys {
        let mut keys = Keys::new();
        for (key, value) in &self.given {
            gather(self.path(key), value, &mut keys);
        }
        keys
    }

    /// Notes it where values that are to rise do not, under a key of the first two that fall which somebody wrote.
    pub fn rising<T: PartialOrd + fmt::Debug>(&self, values: &[(&str, T)]) {
        let Some([low, high]) = values.array_windows().find(|[low, high]| low.1 > high.1) else { return };
        let written = |key: &str| self.given.get(key).map(show);
        let as_is = |(key, value): &(&str, T)| match written(key) {
            Some(text) => format!("{key} ({text})"),
            None => format!("{key} ({value:?}, its default)"),
        };
        let (key, text, reason) = match (written(high.0), written(low.0)) {
            (Some(text), _) => (high.0, text, format!("is less than {}", as_is(low))),
            (None, Some(text)) => (low.0, text, format!("is more than {}", as_is(high))),
            (None, None) => (high.0, format!("{:?}", high.1), format!("is less than {}", as_is(low))),
        };
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        self.problem(key, &text, reason, format!("let {} rise in this order", names.join(", ")));
    }
}

fn gather(path: String, value: &Value, keys: &mut Keys) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                gather(format!("{path}.{key}"), value, keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, item) in items.iter().enumerate() {
                gather(format!("{path}[{i}]"), item, keys);
            }
        }
        Value::Null => {}
        other => drop(keys.insert(path, show(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn what_falls_is_told_under_a_key_that_was_written() {
        let mistake = |yaml: &str| {
            let marks = |s: &mut Section| {
                let (low, high, top) =
                    (s.fraction("low", 0.8), s.fraction("high", 0.85), s.fraction("top", 0.95));
                s.rising(&[("low", low), ("high", high), ("top", top)]);
            };
            parse(yaml, &[], |root| root.section("a", marks)).map_err(|e| e.list[0].to_string())
        };
        assert_eq!(mistake("a: { low: 70% }"), Ok(()));
        let order = "let low, high, top rise in this order";
        let told = mistake("a: { low: 90% }").unwrap_err();
        assert_eq!(told, format!("a.low = 90%: is more than high (0.85, its default); {order}"));
        let told = mistake("a: { high: 20% }").unwrap_err();
        assert_eq!(told, format!("a.high = 20%: is less than low (0.8, its default); {order}"));
        let told = mistake("a: { low: 0.9, high: 50% }").unwrap_err();
        assert_eq!(told, format!("a.high = 50%: is less than low (0.9); {order}"));
    }

    #[test]
    fn keys_are_told_by_their_paths() {
        let yaml = "a:\n  n: 1\n  l: [x, y]\n  r:\n    - { p: /x }\n    - { p: /y }\nb:\n";
        let mut keys = Keys::new();
        let take_all = |root: &mut Section| {
            keys = root.keys();
            root.map.clear();
        };
        parse(yaml, &[("DOGWATCH_A__N", "2")], take_all).unwrap();
        let keys: Vec<(&str, &str)> = keys.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [("a.l", "[\"x\",\"y\"]"), ("a.n", "2"), ("a.r[0].p", "/x"), ("a.r[1].p", "/y")];
        assert_eq!(keys, expected);
    }
}
