//! Rules: which lines are worth keeping as evidence, and which words in them are secrets.
//!
//! A rules file is YAML: `rules:` (name, match, source, severity, summary, context_before, context_after, security) and
//! `masks:` (name, match). Unknown keys are refused, and every mistake of a file is reported in one go, with the rule's name,
//! the key, what is wrong and what to write instead. The file that ships with the agent is compiled in
//! ([`RuleSet::shipped`]).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use dogwatch::record::Severity;
use globset::{GlobBuilder, GlobMatcher};
use regex_syntax::hir::Hir;
use serde_json::{Map, Value};

use super::matcher::Matcher;
use super::pattern::line_pattern;

/// Most rules in a set: they share one automaton, and its size must stay bounded.
pub const MAX_RULES: usize = 500;
/// Most extra masks.
pub const MAX_MASKS: usize = 64;
/// Most lines of context on either side of a match.
pub const MAX_CONTEXT_LINES: u8 = 50;
/// Lines kept before a match unless a rule says otherwise.
pub const DEFAULT_CONTEXT_BEFORE: u8 = 3;
/// Lines kept after a match unless a rule says otherwise.
pub const DEFAULT_CONTEXT_AFTER: u8 = 5;
/// Longest name of a rule or mask, in characters.
const MAX_NAME_CHARS: usize = 64;
/// Longest summary, in characters.
const MAX_SUMMARY_CHARS: usize = 200;

const SHIPPED: &str = include_str!("../../../deploy/config/rules.yaml");

const RULE_KEYS: &[&str] =
    &["name", "match", "source", "severity", "summary", "context_before", "context_after", "security"];

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name: what a kept line cites.
    pub name: String,
    /// The regular expression, as written.
    pub pattern: String,
    /// The sources it looks at, as written; `None` for all.
    pub source: Option<String>,
    /// How bad a match is.
    pub severity: Severity,
    /// What a match means, for people.
    pub summary: String,
    /// Lines before a match that are kept with it.
    pub context_before: u8,
    /// Lines after a match that are kept with it.
    pub context_after: u8,
    /// Whether a match tells of somebody who gets in, or tries to; `None`: the file does not say.
    pub security: Option<bool>,
    hir: Hir,
    glob: Option<GlobMatcher>,
}

/// Something wrong in a rules file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which entry, e.g. `rule 3 (oom-kill)`.
    pub place: String,
    /// Which key of it; empty for the entry as such.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, problem, remedy } = self;
        let colon = if key.is_empty() { "" } else { ", " };
        write!(f, "{place}{colon}{key}: {problem}; {remedy}")
    }
}

/// Every mistake of a rules file.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{origin}: {} in the rules\n{}", count(.mistakes.len()), lines(.mistakes))]
pub struct RulesError {
    /// The file.
    pub origin: String,
    /// What is wrong with it; never empty.
    pub mistakes: Vec<Mistake>,
}

fn count(n: usize) -> String {
    if n == 1 { "1 mistake".to_owned() } else { format!("{n} mistakes") }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n")
}

/// Rules and extra masks, checked and ready.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Arc<Vec<Rule>>,
    masks: Vec<(String, String)>,
}

impl RuleSet {
    /// The set that ships with the agent.
    pub fn shipped() -> Self {
        #[expect(clippy::expect_used, reason = "compiled in, and a test reads it")]
        Self::parse("the shipped rules", SHIPPED).expect("the shipped rules are valid")
    }

    /// The text of the set that ships with the agent.
    pub fn shipped_text() -> &'static str {
        SHIPPED
    }

    /// No rules: nothing matches.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the YAML `text` of the file `origin`.
    pub fn parse(origin: &str, text: &str) -> Result<Self, RulesError> {
        let mut reading = Reading::default();
        match serde_saphyr::from_str::<Value>(text) {
            Ok(value) => reading.file(&value),
            Err(e) => {
                let why = e.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                reading.mistake("the file", "", &format!("not YAML: {why}"), "correct it there");
            }
        }
        if reading.mistakes.is_empty()
            && let Err(e) = matcher(&reading.rules, |_| true)
        {
            let remedy = "write fewer or simpler rules: counted repetitions of large classes cost most";
            reading.mistake(
                "the file",
                "rules",
                &format!("the rules make too large an automaton: {e}"),
                remedy,
            );
        }
        if reading.mistakes.is_empty() {
            Ok(Self { rules: Arc::new(reading.rules), masks: reading.masks })
        } else {
            Err(RulesError { origin: origin.to_owned(), mistakes: reading.mistakes })
        }
    }

    /// The rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The extra masks: name and pattern.
    pub fn masks(&self) -> &[(String, String)] {
        &self.masks
    }

    /// Which rules look at `source`; bit for bit the key under which a matcher can be shared.
    pub(super) fn selection(&self, source: &str) -> Vec<u16> {
        (0u16..)
            .zip(self.rules.iter())
            .filter(|(_, r)| r.glob.as_ref().is_none_or(|g| g.is_match(source)))
            .map(|(i, _)| i)
            .collect()
    }

    /// The matcher for a selection. `None` where nothing can match.
    pub(super) fn matcher(&self, selection: &[u16]) -> Option<Arc<Matcher>> {
        // The whole set built when it was read, so a part of it builds.
        matcher(&self.rules, |i| selection.binary_search(&i).is_ok()).ok().flatten().map(Arc::new)
    }
}

fn matcher(rules: &[Rule], chosen: impl Fn(u16) -> bool) -> Result<Option<Matcher>, String> {
    let (ids, patterns): (Vec<u16>, Vec<&Hir>) =
        (0u16..).zip(rules).filter(|(i, _)| chosen(*i)).map(|(i, r)| (i, &r.hir)).unzip();
    Matcher::new(&patterns, ids).map_err(|e| e.to_string())
}

/// What reading a file has found so far.
#[derive(Default)]
struct Reading {
    rules: Vec<Rule>,
    masks: Vec<(String, String)>,
    mistakes: Vec<Mistake>,
}

impl Reading {
    fn mistake(&mut self, place: &str, key: &str, problem: &str, remedy: &str) {
        self.mistakes.push(Mistake {
            place: place.to_owned(),
            key: key.to_owned(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    fn file(&mut self, value: &Value) {
        // An empty file is a way to say that nothing should match.
        let empty = Map::new();
        let Some(file) = (if value.is_null() { Some(&empty) } else { value.as_object() }) else {
            self.mistake("the file", "", "not a mapping", "begin it with `rules:`");
            return;
        };
        self.unknown_keys("the file", file, &["rules", "masks"]);
        let mut names = HashSet::new();
        for (i, entry) in self.entries(file, "rules", MAX_RULES) {
            self.rule(i, &entry, &mut names);
        }
        names.clear();
        for (i, entry) in self.entries(file, "masks", MAX_MASKS) {
            self.mask(i, &entry, &mut names);
        }
    }

    /// The entries under `key`, counted from 1.
    fn entries(
        &mut self,
        file: &Map<String, Value>,
        key: &str,
        most: usize,
    ) -> Vec<(usize, Map<String, Value>)> {
        let list = match file.get(key) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.mistake("the file", key, "not a list", "put `- ` before each entry");
                return Vec::new();
            }
        };
        if list.len() > most {
            self.mistake(
                "the file",
                key,
                &format!("{} entries, the limit is {most}", list.len()),
                "remove some",
            );
        }
        let mut out = Vec::new();
        for (i, entry) in (1..).zip(list.iter().take(most)) {
            match entry.as_object() {
                Some(map) => out.push((i, map.clone())),
                None => self.mistake(
                    &format!("{key} entry {i}"),
                    "",
                    "not a mapping",
                    "write `name:`, `match:` and so on",
                ),
            }
        }
        out
    }

    fn rule(&mut self, i: usize, entry: &Map<String, Value>, names: &mut HashSet<String>) {
        let before = self.mistakes.len();
        let place = place("rule", i, entry);
        self.unknown_keys(&place, entry, RULE_KEYS);
        let name = self.name(&place, entry, names);
        let pattern =
            self.text(&place, entry, "match", "a regular expression in single quotes").unwrap_or_default();
        let hir = self.pattern(&place, &pattern);
        let summary =
            self.text(&place, entry, "summary", "say in a few words what a match means").unwrap_or_default();
        if summary.chars().count() > MAX_SUMMARY_CHARS {
            self.mistake(&place, "summary", &format!("over {MAX_SUMMARY_CHARS} characters"), "shorten it");
        }
        let severity =
            self.text(&place, entry, "severity", "info, low, medium, high or critical").and_then(|s| {
                s.parse::<Severity>()
                    .map_err(|_| {
                        self.mistake(
                            &place,
                            "severity",
                            &format!("{s:?} is none"),
                            "write info, low, medium, high or critical",
                        )
                    })
                    .ok()
            });
        let source = match entry.get("source") {
            None | Some(Value::Null) => None,
            Some(_) => self.text(&place, entry, "source", "a path with wildcards, e.g. /var/log/auth.log*"),
        };
        let glob = source.as_deref().and_then(|s| {
            GlobBuilder::new(s)
                .literal_separator(true)
                .empty_alternates(true)
                .build()
                .map(|g| g.compile_matcher())
                .map_err(|e| {
                    self.mistake(
                        &place,
                        "source",
                        &e.to_string(),
                        "write a path with wildcards, e.g. /var/log/**/*.log",
                    )
                })
                .ok()
        });
        let context_before = self.lines(&place, entry, "context_before", DEFAULT_CONTEXT_BEFORE);
        let context_after = self.lines(&place, entry, "context_after", DEFAULT_CONTEXT_AFTER);
        let security = match entry.get("security") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(said)) => Some(*said),
            Some(other) => {
                let other: String = other.to_string().chars().take(60).collect();
                let remedy = "write true where a match tells of an intrusion or an attempt, else false";
                self.mistake(&place, "security", &format!("{other} is neither true nor false"), remedy);
                None
            }
        };
        if let (true, Some(severity), Some(hir)) = (before == self.mistakes.len(), severity, hir) {
            self.rules.push(Rule {
                name,
                pattern,
                source,
                severity,
                summary,
                context_before,
                context_after,
                security,
                hir,
                glob,
            });
        }
    }

    fn mask(&mut self, i: usize, entry: &Map<String, Value>, names: &mut HashSet<String>) {
        let before = self.mistakes.len();
        let place = place("mask", i, entry);
        self.unknown_keys(&place, entry, &["name", "match"]);
        let name = self.name(&place, entry, names);
        let pattern =
            self.text(&place, entry, "match", "a regular expression in single quotes").unwrap_or_default();
        if let Some(hir) = self.pattern(&place, &pattern)
            && hir.properties().minimum_len() == Some(0)
        {
            self.mistake(&place, "match", "matches the empty text", "make it ask for at least one character");
        }
        if before == self.mistakes.len() {
            self.masks.push((name, pattern));
        }
    }

    fn unknown_keys(&mut self, place: &str, entry: &Map<String, Value>, known: &[&str]) {
        for key in entry.keys().filter(|k| !known.contains(&k.as_str())) {
            let shown: String = key.chars().take(60).collect();
            self.mistake(place, &shown, "no such key", &format!("use one of {}", known.join(", ")));
        }
    }

    fn text(&mut self, place: &str, entry: &Map<String, Value>, key: &str, remedy: &str) -> Option<String> {
        match entry.get(key) {
            Some(Value::String(s)) if !s.is_empty() => Some(s.clone()),
            None | Some(Value::Null) => {
                self.mistake(place, key, "missing", remedy);
                None
            }
            Some(Value::String(_)) => {
                self.mistake(place, key, "empty", remedy);
                None
            }
            Some(other) => {
                let other: String = other.to_string().chars().take(60).collect();
                self.mistake(place, key, &format!("{other} is not text"), "put it in single quotes");
                None
            }
        }
    }

    fn name(&mut self, place: &str, entry: &Map<String, Value>, names: &mut HashSet<String>) -> String {
        let remedy = "a short name in lower case, e.g. disk-full";
        let Some(name) = self.text(place, entry, "name", remedy) else { return String::new() };
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.len() > MAX_NAME_CHARS || !name.chars().all(fine) {
            let rule =
                format!("must be lower-case letters, digits, '-', '_' or '.', at most {MAX_NAME_CHARS}");
            self.mistake(place, "name", &rule, remedy);
        } else if !names.insert(name.clone()) {
            self.mistake(place, "name", "used twice", "names cite rules, so each needs its own");
        }
        name
    }

    fn pattern(&mut self, place: &str, pattern: &str) -> Option<Hir> {
        // An empty one was reported as missing.
        if pattern.is_empty() {
            return None;
        }
        line_pattern(pattern).map_err(|r| self.mistake(place, "match", &r.problem, &r.remedy)).ok()
    }

    fn lines(&mut self, place: &str, entry: &Map<String, Value>, key: &str, default: u8) -> u8 {
        let Some(value) = entry.get(key) else { return default };
        match value.as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= MAX_CONTEXT_LINES) {
            Some(n) => n,
            None => {
                let value: String = value.to_string().chars().take(60).collect();
                let remedy = format!("write a whole number from 0 to {MAX_CONTEXT_LINES}");
                self.mistake(place, key, &format!("{value} is not a number of lines"), &remedy);
                default
            }
        }
    }
}

fn place(what: &str, i: usize, entry: &Map<String, Value>) -> String {
    match entry.get("name").and_then(Value::as_str) {
        Some(name) => format!("{what} {i} ({})", name.chars().take(MAX_NAME_CHARS).collect::<String>()),
        None => format!("{what} {i}"),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
