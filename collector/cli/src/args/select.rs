//! What an answer is about: nodes, pods, severities, rules, and from when to when.

use clap::Args;
use dogwatch::record::{Severity, named_after};

use crate::error::CliError;
use crate::range::Range;
use crate::time::{self, Utc};

/// Everything that is given must match.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which")]
pub(crate) struct Selectors {
    /// Only of these nodes: repeat it, or put commas between them
    #[arg(long = "node", value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Only of pods in this namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only of this pod: its name, NAMESPACE/NAME, or what stands before its ReplicaSet's hash
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Only of this container
    #[arg(short = 'c', long, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// Only this bad or worse: info, low, medium, high, critical
    #[arg(long, value_name = "SEVERITY")]
    pub(crate) severity: Option<Severity>,
    /// Only by these rules: repeat it, or put commas between them
    #[arg(long = "rule", value_name = "RULE", value_delimiter = ',')]
    pub(crate) rules: Vec<String>,
}

impl Selectors {
    /// `--pod NAMESPACE/NAME` taken apart; refused where it contradicts `--namespace`, or where a value is empty.
    pub(crate) fn checked(mut self) -> Result<Self, CliError> {
        if let Some((namespace, pod)) = self.pod.as_deref().and_then(|p| p.split_once('/')) {
            if self.namespace.as_deref().is_some_and(|n| n != namespace) {
                return Err(CliError::Usage(format!(
                    "--pod {namespace}/{pod} is not in the namespace that --namespace names; give one of the two"
                )));
            }
            (self.namespace, self.pod) = (Some(namespace.to_owned()), Some(pod.to_owned()));
        }
        let empty = |flag: &str| CliError::Usage(format!("{flag} is empty; leave it out to ask for all"));
        for (flag, value) in
            [("--namespace", &self.namespace), ("--pod", &self.pod), ("--container", &self.container)]
        {
            if value.as_deref().is_some_and(|v| v.trim().is_empty()) {
                return Err(empty(flag));
            }
        }
        for (flag, values) in [("--node", &mut self.nodes), ("--rule", &mut self.rules)] {
            if values.iter().any(|v| v.trim().is_empty()) {
                return Err(empty(flag));
            }
            let mut seen = Vec::new();
            values.retain(|v| !seen.contains(v) && (seen.push(v.clone()), true).1);
        }
        Ok(self)
    }

    /// Whether one of the flags that speak of pods was given.
    pub(crate) fn of_pods(&self) -> bool {
        self.namespace.is_some() || self.pod.is_some() || self.container.is_some()
    }

    pub(crate) fn takes_node(&self, node: Option<&str>) -> bool {
        self.nodes.is_empty() || node.is_some_and(|n| self.nodes.iter().any(|w| w == n))
    }

    pub(crate) fn takes_severity(&self, severity: Option<Severity>) -> bool {
        self.severity.is_none_or(|least| severity.is_some_and(|s| s >= least))
    }

    /// By the contract's rule: a pod's name, or its owner's.
    pub(crate) fn takes_pod(&self, node: Option<&str>, namespace: &str, pod: &str, container: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
            && self.pod.as_deref().is_none_or(|p| named_after(p, pod, node))
            && self.container.as_deref().is_none_or(|c| c == container)
    }

    /// `rules` are those of a finding or a line.
    pub(crate) fn takes_rule<'r>(&self, mut rules: impl Iterator<Item = &'r str>) -> bool {
        self.rules.is_empty() || rules.any(|r| self.rules.iter().any(|w| w == r))
    }
}

/// From when to when.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "When")]
pub(crate) struct When {
    /// Not before: 1h, "1h ago", 02:10 (the last one), "2026-11-21 02:10", today, …; UTC without a zone
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) since: Option<String>,
    /// Before
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
}

impl When {
    pub(crate) fn range(&self, now_ns: i64) -> Result<Range, CliError> {
        let moment = |flag: &str, text: &Option<String>| {
            text.as_deref()
                .map(|t| time::parse(t, now_ns).map_err(|e| CliError::Usage(format!("{flag}: {e}"))))
                .transpose()
        };
        let range = Range { since: moment("--since", &self.since)?, until: moment("--until", &self.until)? };
        if let (Some(since), Some(until)) = (range.since, range.until)
            && since >= until
        {
            let [since, until] = [since, until].map(|t| Utc(t).to_the_second());
            return Err(CliError::Usage(format!(
                "--since ({since}) is not before --until ({until}), so nothing can be between them"
            )));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_may_bring_its_namespace() {
        let of = |namespace: Option<&str>, pod: &str| {
            Selectors {
                namespace: namespace.map(str::to_owned),
                pod: Some(pod.to_owned()),
                ..Selectors::default()
            }
            .checked()
        };
        let s = of(None, "shop/api").unwrap();
        assert_eq!((s.namespace.as_deref(), s.pod.as_deref()), (Some("shop"), Some("api")));
        assert!(s.takes_pod(None, "shop", "api-6d5f8-x2x", "main"));
        assert!(!s.takes_pod(None, "web", "api", "main"));
        assert!(!s.takes_pod(None, "shop", "api-node-1", "main"), "no node of it is known");
        assert!(s.takes_pod(Some("node-1"), "shop", "api-node-1", "main"), "a static pod");
        assert_eq!(of(Some("web"), "shop/api").unwrap_err().exit_code(), 2);
        assert_eq!(of(None, " ").unwrap_err().exit_code(), 2);
        let twice = Selectors { nodes: vec!["a".into(), "b".into(), "a".into()], ..Selectors::default() };
        assert_eq!(twice.checked().unwrap().nodes, ["a", "b"]);
    }
}
