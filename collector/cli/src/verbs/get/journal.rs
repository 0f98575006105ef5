//! Lists from a node's own journal. What a collector would choose by its selector is chosen here.

use std::path::Path;

use dogwatch::record::{Kind, Kinds};

use super::{Ask, Events, write_all};
use crate::args::{Resource, Selectors};
use crate::error::CliError;
use crate::journal::Folder;
use crate::output::Io;
use crate::view::{Event, Finding};

/// Largest automaton that a `--grep` may become, in bytes: far more than anybody types.
const MAX_PATTERN_BYTES: usize = 8 * 1024 * 1024;

/// A regular expression of the syntax that collectors take.
#[derive(Debug, Clone)]
pub(in crate::verbs) struct Pattern(regex_automata::meta::Regex);

impl Pattern {
    pub(in crate::verbs) fn new(text: &str) -> Result<Self, CliError> {
        let bounded = regex_automata::meta::Config::new().nfa_size_limit(Some(MAX_PATTERN_BYTES));
        regex_automata::meta::Builder::new().configure(bounded).build(text).map(Self).map_err(|e| {
            CliError::Usage(format!(
                "--grep {text:?} is no regular expression: {}\n  try: a backslash before . * + ? ( ) [ ] {{ }} | ^ $ \
                 that mean themselves",
                crate::error::chain(&e)
            ))
        })
    }

    pub(in crate::verbs) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

pub(super) fn list(dir: &Path, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    let folder = Folder::open(dir)?;
    let mut remarks = Vec::new();
    match ask.resource {
        Resource::Incidents => {
            return Err(CliError::Failed(format!(
                "the journal {} holds no incidents: a collector makes them of findings\n  try: get findings, or a \
                 collector",
                dir.display()
            )));
        }
        Resource::Holds => {
            return Err(CliError::Failed(format!(
                "the journal {} lists no holds: the collector keeps them\n  try: a collector",
                dir.display()
            )));
        }
        Resource::Nodes => {
            let mut nodes = folder.nodes(&mut remarks)?;
            nodes.retain(|n| ask.named(&n.name) && ask.of_node(Some(&n.name)));
            write_all(io, ask, nodes)?;
        }
        Resource::Findings => {
            let mut found = folder.findings(&mut remarks)?;
            found.retain(|f| {
                of(&ask.which, f)
                    && f.time.is_some_and(|t| ask.range.holds(t.0))
                    && ask.named(&f.id)
                    && ask.in_state(f.state)
                    && !(ask.args.active && f.cleared_at.is_some())
            });
            write_all(io, ask, found)?;
        }
        Resource::Actions => {
            let mut found = folder.actions(&mut remarks)?;
            found.retain(|a| {
                ask.of_node(Some(&a.node))
                    && a.time.is_some_and(|t| ask.range.holds(t.0))
                    && ask.named(&a.id)
                    && ask.in_state(a.state)
            });
            write_all(io, ask, found)?;
        }
        Resource::Events => {
            let asked = if ask.args.kind.is_empty() { &Kind::ALL[..] } else { &ask.args.kind[..] };
            let kinds = asked.iter().fold(Kinds::default(), |set, k| set.with(*k));
            let pattern = ask.args.grep.as_deref().map(Pattern::new).transpose()?;
            let mut events = Events::begin(io, ask)?;
            folder.events(kinds, ask.range, false, &mut remarks, |e| {
                if takes(&ask.which, ask.args.source.as_deref(), pattern.as_ref(), &e) {
                    events.take(io, ask, e)?;
                }
                Ok(true)
            })?;
            events.finish(io, ask)?;
        }
    }
    for remark in remarks {
        io.say(&remark)?;
    }
    Ok(())
}

fn of(which: &Selectors, f: &Finding) -> bool {
    let pod = f.pod.clone().unwrap_or_default();
    which.takes_node(f.node.as_deref())
        && which.takes_severity(f.severity)
        && which.takes_rule(std::iter::once(f.rule.as_str()))
        && (!which.of_pods() || which.takes_pod(f.node.as_deref(), &pod.namespace, &pod.name, &pod.container))
}

/// Whether a collector would give `event` to whoever asks this: for records that no collector chose.
pub(in crate::verbs) fn takes(
    which: &Selectors,
    source: Option<&str>,
    pattern: Option<&Pattern>,
    event: &Event,
) -> bool {
    let node = event.node.as_deref();
    let field = |key: &str| event.fields.get(key).map_or("", String::as_str);
    let rules = field("rules").split(',').chain(std::iter::once(field("rule")));
    which.takes_node(node)
        && which.takes_severity(event.severity)
        && which.takes_rule(rules)
        && (!which.of_pods() || which.takes_pod(node, field("namespace"), field("pod"), field("container")))
        && source.is_none_or(|s| within(s, &event.source))
        && pattern.is_none_or(|p| p.matches(&event.message))
}

/// Whether `source` is `asked`, or lies beneath it.
pub(in crate::verbs) fn within(asked: &str, source: &str) -> bool {
    source
        .strip_prefix(asked)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || asked.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_begin_at_a_folder() {
        assert!(within("/var/log", "/var/log/syslog") && within("/var/log/", "/var/log/syslog"));
        assert!(within("kmsg", "kmsg") && !within("/var/log/sys", "/var/log/syslog"));
    }

    #[test]
    fn patterns_are_checked_before_anyone_is_asked() {
        assert!(Pattern::new("OOM|oom").unwrap().matches("an oom kill"));
        let error = Pattern::new("(").unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("backslash"), "{error}");
        assert_eq!(Pattern::new("(\\pL{1000}){1000}").unwrap_err().exit_code(), 2);
    }
}
