//! Reading a daemon's configuration: one YAML file, `DOGWATCH_SECTION__KEY` overrides, every mistake in one run.
//!
//! A daemon's `config` module walks its keys with [`Section`]; each getter takes its key out of the document, so what
//! is left at the end is unknown and refused. Getters never stop at a mistake: they note a [`Problem`] and hand back
//! the default, and [`read`] refuses the whole configuration at the end if any was noted.
//!
//! Values have units: sizes take `512MiB` or plain bytes, durations `10s`, `15m`, `24h`, `7d`, fractions `85%` or `0.85`.

mod keys;

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

pub use keys::Keys;

/// Largest configuration file that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// One mistake: where, what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's path, e.g. `cleanup.roots[0].min_age`, or the file.
    pub key: String,
    /// The value as it stands, cut to 80 characters; empty where the key is missing.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}; {}", self.reason, self.remedy)
    }
}

/// Every mistake of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// The file, or `environment and defaults`.
    pub origin: String,
    /// In the order in which they were met.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.list.len();
        write!(
            f,
            "{}: {n} {} in the configuration",
            self.origin,
            if n == 1 { "mistake" } else { "mistakes" }
        )?;
        self.list.iter().try_for_each(|p| write!(f, "\n  {p}"))
    }
}

/// Reads `file` (none: defaults alone) with overrides from `environment`, and lets `walk` take its keys.
///
/// # Errors
/// Every [`Problem`] that was met, unknown keys included.
pub fn read<T>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    walk: impl FnOnce(&mut Section) -> T,
) -> Result<T, Problems> {
    let origin = file.map_or_else(|| "environment and defaults".to_owned(), |f| f.display().to_string());
    let noted = Noted::default();
    let mut map = file.and_then(|f| load(f, &noted)).unwrap_or_default();
    let bare = Section::new(String::new(), map.clone(), &noted).keys().is_empty();
    for (name, text) in environment {
        if let Some(path) = override_path(&name) {
            set(&mut map, &path, &name, &text, &noted);
        }
    }
    let mut root = Section { bare, ..Section::new(String::new(), map, &noted) };
    let value = walk(&mut root);
    root.refuse_the_rest();
    let list = noted.0.take();
    if list.is_empty() { Ok(value) } else { Err(Problems { origin, list }) }
}

#[derive(Debug, Clone, Default)]
struct Noted(Rc<RefCell<Vec<Problem>>>);

impl Noted {
    fn note(&self, key: &str, value: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let value = value.chars().take(80).collect();
        self.0.borrow_mut().push(Problem {
            key: key.to_owned(),
            value,
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }
}

fn load(file: &Path, noted: &Noted) -> Option<Map<String, Value>> {
    let key = file.display().to_string();
    let remedy = "give a readable YAML file with --config, or none to run on defaults";
    match std::fs::metadata(file) {
        Err(e) => {
            noted.note(&key, "", format!("cannot be read: {e}"), remedy);
            return None;
        }
        Ok(m) if m.len() > MAX_CONFIG_BYTES => {
            noted.note(&key, "", format!("is {} bytes, over {MAX_CONFIG_BYTES}", m.len()), remedy);
            return None;
        }
        Ok(_) => {}
    }
    let text = match std::fs::read_to_string(file) {
        Ok(t) => t,
        Err(e) => {
            noted.note(&key, "", format!("cannot be read: {e}"), remedy);
            return None;
        }
    };
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Some(Map::new());
    }
    match yaml(&text) {
        Ok(Value::Object(m)) => Some(m),
        Ok(Value::Null) => Some(Map::new()),
        Ok(other) => {
            noted.note(&key, &show(&other), "is not a mapping", "write `section:` and keys beneath it");
            None
        }
        Err(e) => {
            noted.note(&key, "", format!("is not valid YAML: {e}"), "mend the line that it names");
            None
        }
    }
}

/// YAML 1.2: only `true` and `false` are booleans. By the rules of 1.1 `mode: off` would be `false`.
fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
        .map_err(|e: serde_saphyr::Error| e.render_with_formatter(&serde_saphyr::UserMessageFormatter))
}

/// `DOGWATCH_CLEANUP__MODE` → `["cleanup", "mode"]`; names without `__` belong to nobody here.
fn override_path(name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix("DOGWATCH_")?;
    let parts: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
    (parts.len() > 1 && parts.iter().all(|p| !p.is_empty())).then_some(parts)
}

fn set(map: &mut Map<String, Value>, path: &[String], name: &str, text: &str, noted: &Noted) {
    // A value that is not YAML by itself (a token, a path with a colon) is meant as text.
    let value = match yaml(text) {
        Ok(Value::Null) | Err(_) => Value::String(text.to_owned()),
        Ok(v) => v,
    };
    let Some((last, sections)) = path.split_last() else { return };
    let mut at = map;
    for part in sections {
        let next = at.entry(part.clone()).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(m) = next else {
            noted.note(name, text, format!("{part} is not a section"), "override a key of a section");
            return;
        };
        at = m;
    }
    at.insert(last.clone(), value);
}

fn show(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// A mapping whose keys are taken one by one.
#[derive(Debug)]
pub struct Section {
    path: String,
    map: Map<String, Value>,
    /// What was written, before any of it was taken.
    given: Map<String, Value>,
    /// Whether the file gives no key.
    bare: bool,
    noted: Noted,
}

impl Section {
    fn new(path: String, map: Map<String, Value>, noted: &Noted) -> Self {
        Self { path, given: map.clone(), map, bare: false, noted: noted.clone() }
    }

    /// Whether the file gives no key at all, as one that is being written does; the root's to say.
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// The full path of `key` in this section.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a mistake that only the caller can see (a rule between two keys).
    pub fn problem(&self, key: &str, value: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.noted.note(&self.path(key), value, reason, remedy);
    }

    /// Whether the key is given.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Lets `walk` take the keys of the section `key`; an absent one is empty.
    pub fn section<T>(&mut self, key: &str, walk: impl FnOnce(&mut Section) -> T) -> T {
        let path = self.path(key);
        let map = match self.map.remove(key) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(m)) => m,
            Some(other) => {
                self.noted.note(&path, &show(&other), "is not a section", "write keys beneath it");
                Map::new()
            }
        };
        let mut section = Section::new(path, map, &self.noted);
        let value = walk(&mut section);
        section.refuse_the_rest();
        value
    }

    /// Lets `walk` take the keys of each mapping in the list `key`; `None` where the key is absent.
    pub fn each<T>(&mut self, key: &str, mut walk: impl FnMut(&mut Section) -> T) -> Option<Vec<T>> {
        let path = self.path(key);
        let items = self.list(key)?;
        let mut out = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            match item {
                Value::Object(map) => {
                    let mut section = Section::new(path, map, &self.noted);
                    out.push(walk(&mut section));
                    section.refuse_the_rest();
                }
                other => {
                    self.noted.note(&path, &show(&other), "is not a mapping", "write keys beneath the dash")
                }
            }
        }
        Some(out)
    }

    /// The value of `key` as anything that parses from text.
    pub fn parse<T>(&mut self, key: &str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.optional(key).unwrap_or(default)
    }

    /// The value of `key` as anything that parses from text; `None` where absent.
    pub fn optional<T>(&mut self, key: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let text = self.text(key)?;
        match text.parse() {
            Ok(v) => Some(v),
            Err(e) => {
                self.problem(key, &text, format!("is not valid: {e}"), "give a value of that form");
                None
            }
        }
    }

    /// Text; `None` where absent.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.map.remove(key)? {
            Value::Null => None,
            v @ (Value::Array(_) | Value::Object(_)) => {
                self.problem(key, &show(&v), "is not a single value", "write one value");
                None
            }
            v => Some(show(&v)),
        }
    }

    /// A path, absolute; `None` where absent.
    pub fn path_value(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            self.problem(key, &text, "is not an absolute path", "begin it with /");
            return None;
        }
        Some(path)
    }

    /// A list of texts; `None` where absent.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let path = self.path(key);
        let items = self.list(key)?;
        let mut out = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::Array(_) | Value::Object(_) | Value::Null => {
                    self.noted.note(
                        &format!("{path}[{i}]"),
                        &show(&item),
                        "is not a text",
                        "write one text a line",
                    );
                }
                v => out.push(show(&v)),
            }
        }
        Some(out)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.map.remove(key) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(b)) => b,
            Some(v) => {
                self.problem(key, &show(&v), "is not true or false", "write true or false");
                default
            }
        }
    }

    /// A number within `range`.
    pub fn number<T>(&mut self, key: &str, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let Some(text) = self.text(key) else { return default };
        match text.parse::<T>() {
            Ok(v) if range.contains(&v) => v,
            Ok(_) => {
                self.out_of_range(key, &text, range.start(), range.end());
                default
            }
            Err(_) => {
                self.problem(key, &text, "is not a number of this kind", format!("e.g. {default}"));
                default
            }
        }
    }

    /// A size in bytes: plain, or with KiB, MiB, GiB, TiB (also K, M, G, T and KB, MB, GB, TB in powers of ten).
    pub fn bytes(&mut self, key: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let Some(text) = self.text(key) else { return default };
        match parse_bytes(&text) {
            Some(v) if range.contains(&v) => v,
            Some(_) => {
                self.out_of_range(
                    key,
                    &text,
                    &format!("{} bytes", range.start()),
                    &format!("{} bytes", range.end()),
                );
                default
            }
            None => {
                self.problem(key, &text, "is not a size", "write bytes, or e.g. 512MiB");
                default
            }
        }
    }

    /// A duration: `250ms`, `10s`, `15m`, `24h`, `7d`.
    pub fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = self.text(key) else { return default };
        match parse_duration(&text) {
            Some(v) if range.contains(&v) => v,
            Some(_) => {
                self.out_of_range(key, &text, &format!("{:?}", range.start()), &format!("{:?}", range.end()));
                default
            }
            None => {
                self.problem(
                    key,
                    &text,
                    "is not a duration",
                    "write a number with ms, s, m, h or d, e.g. 15m",
                );
                default
            }
        }
    }

    /// A fraction between 0 and 1: `85%` or `0.85`.
    pub fn fraction(&mut self, key: &str, default: f64) -> f64 {
        let Some(text) = self.text(key) else { return default };
        let parsed = match text.strip_suffix('%') {
            Some(p) => p.trim().parse::<f64>().ok().map(|v| v / 100.0),
            None => text.parse::<f64>().ok(),
        };
        match parsed {
            Some(v) if (0.0..=1.0).contains(&v) => v,
            Some(_) => {
                self.out_of_range(key, &text, "0%", "100%");
                default
            }
            None => {
                self.problem(key, &text, "is not a fraction", "write e.g. 85% or 0.85");
                default
            }
        }
    }

    fn out_of_range(
        &self,
        key: &str,
        text: &str,
        low: &(impl fmt::Display + ?Sized),
        high: &(impl fmt::Display + ?Sized),
    ) {
        self.problem(key, text, "is out of range", format!("give {low} to {high}"));
    }

    fn list(&mut self, key: &str) -> Option<Vec<Value>> {
        match self.map.remove(key)? {
            Value::Null => None,
            Value::Array(a) => Some(a),
            other => {
                self.problem(key, &show(&other), "is not a list", "write one item a line, each after a dash");
                None
            }
        }
    }

    fn refuse_the_rest(&mut self) {
        let rest: Vec<(String, Value)> = std::mem::take(&mut self.map).into_iter().collect();
        for (key, value) in rest {
            self.problem(
                &key,
                &show(&value),
                "is not a known key",
                "remove it, or look up its spelling in the example file",
            );
        }
    }
}

/// Bytes of `512MiB`, `1.5G`, `4096`; `None` if it is no size or does not fit.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "K" | "KB" | "k" | "kB" => 1000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = digits.parse::<f64>().ok()? * scale as f64;
    (value.is_finite() && value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

/// `250ms`, `10s`, `15m`, `24h`, `7d`; `None` if it is no duration or does not fit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let n: u64 = digits.parse().ok()?;
    let ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(n.checked_mul(ms)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(
        text: &str,
        env: &[(&str, &str)],
        walk: impl FnOnce(&mut Section),
    ) -> Result<(), Problems> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, text).unwrap();
        read(Some(&file), env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())), walk)
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = "a:\n  mode: maybe\n  size: 3 parsecs\n  age: 5\n  high: 140%\n  typo: 1\nb: 7\nc:\n  - x: 1\n  - 2\n";
        let err = parse(text, &[("DOGWATCH_A__N", "99")], |root| {
            root.section("a", |s| {
                s.parse("mode", crate::record::CleanupMode::Plan);
                s.bytes("size", 1, 0..=10);
                s.duration("age", Duration::ZERO, Duration::ZERO..=Duration::MAX);
                s.fraction("high", 0.5);
                s.number("n", 1u32, 1..=10);
            });
            root.section("b", |_| ());
            root.each("c", |s| s.number("x", 0u32, 0..=1));
        })
        .unwrap_err();
        let keys: Vec<&str> = err.list.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["a.mode", "a.size", "a.age", "a.high", "a.n", "a.typo", "b", "c[1]"]);
        let text = err.to_string();
        assert!(text.contains("8 mistakes"), "{text}");
        assert!(text.contains("a.high = 140%: is out of range; give 0% to 100%"), "{text}");
    }

    #[test]
    fn off_is_a_word_and_not_a_boolean() {
        use crate::record::CleanupMode;
        for env in [&[][..], &[("DOGWATCH_A__MODE", "off")][..]] {
            parse("a:\n  mode: off\n  flag: true\n", env, |root| {
                root.section("a", |s| {
                    assert_eq!(s.parse("mode", CleanupMode::Auto), CleanupMode::Off);
                    assert!(s.flag("flag", false));
                });
            })
            .unwrap();
        }
    }

    #[test]
    fn the_environment_overrides_the_file() {
        parse("a:\n  n: 1\n", &[("DOGWATCH_A__N", "2"), ("DOGWATCH_STATE", "/x")], |root| {
            root.section("a", |s| assert_eq!(s.number("n", 0u32, 0..=9), 2));
        })
        .unwrap();
    }

    #[test]
    fn broken_yaml_and_missing_files_are_mistakes() {
        assert!(parse("a: [", &[], |_| ()).is_err());
        assert!(parse("- 1\n", &[], |_| ()).is_err());
        let twice = parse("a:\n  k: 1\n  k: 2\n", &[], |_| ()).unwrap_err().list[0].to_string();
        assert!(twice.contains("duplicate mapping key: k") && twice.contains("line 3"), "{twice}");
        assert!(!twice.contains("Options"), "a programmer's remedy: {twice}");
        assert!(parse("# nothing\n", &[], |_| ()).is_ok());
        assert!(read(Some(Path::new("/nonexistent/x.yaml")), [], |_| ()).is_err());
    }

    #[test]
    fn units() {
        assert_eq!(parse_bytes("1.5GiB"), Some(1_610_612_736));
        assert_eq!(parse_bytes("2 MB"), Some(2_000_000));
        assert_eq!(parse_bytes("99999999999TiB"), None);
        assert_eq!(parse_bytes("-1"), None);
        assert_eq!(parse_duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(parse_duration("15"), None);
        assert_eq!(parse_duration("m"), None);
    }
}
