//! Selections: what an answer is about. Pure.
//!
//! A [`Select`] is a person's choice of nodes, pods, severity and rules; everything that is given must match. A pod is
//! known from what a record says, and where it says nothing from the path of its log: the kubelet keeps a container's
//! logs in `/var/log/pods/<namespace>_<pod>_<uid>/<container>/` (kubelet, `pkg/kubelet/container/helpers.go`:
//! `BuildPodLogsDirectory`), whatever stands before `pods`.
//!
//! Limits: pods are matched by their names alone, since a node knows no owners; how a name betrays its owner is said at
//! [`named_after`]. Volumes of a pod lie in a folder that only its uid names, so an object there is found through the
//! finding that asked for the cleanup.
//!
//! Deliberately absent: the wire, the store, and regular expressions ([`crate::sieve`]).

use std::path::{Component, Path};

use dogwatch::record::{Action, Body, Finding, LogLine, NodeName, Pod, Record, Severity, named_after};

/// What an answer is about; what is empty matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Select {
    /// Any of these.
    pub nodes: Vec<NodeName>,
    /// A pod's namespace, exact.
    pub namespace: String,
    /// A pod's name, or its owner's.
    pub pod: String,
    /// A container's name, exact.
    pub container: String,
    /// At least this bad.
    pub severity: Option<Severity>,
    /// Any of these: a finding's rule, a line's matched rule.
    pub rules: Vec<String>,
}

/// A pod as a path or a record names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
    container: &'a str,
}

impl<'a> From<&'a Pod> for Named<'a> {
    fn from(p: &'a Pod) -> Self {
        Self { namespace: &p.namespace, name: &p.name, container: &p.container }
    }
}

impl Select {
    /// Whether it matches everything.
    pub fn is_all(&self) -> bool {
        self.nodes.is_empty() && self.is_about_nodes_alone() && self.severity.is_none()
    }

    /// Whether nothing but nodes and severity is chosen: what a row tells without its record.
    pub fn is_about_nodes_alone(&self) -> bool {
        !self.is_about_pods() && self.rules.is_empty()
    }

    fn is_about_pods(&self) -> bool {
        !(self.namespace.is_empty() && self.pod.is_empty() && self.container.is_empty())
    }

    /// Whether `node` is among the chosen.
    pub fn has_node(&self, node: Option<&NodeName>) -> bool {
        self.nodes.is_empty() || node.is_some_and(|n| self.nodes.contains(n))
    }

    /// Whether `severity` is bad enough.
    pub fn has_severity(&self, severity: Severity) -> bool {
        self.severity.is_none_or(|least| severity >= least)
    }

    fn has_rule<'r>(&self, mut rules: impl Iterator<Item = &'r str>) -> bool {
        self.rules.is_empty() || rules.any(|r| self.rules.iter().any(|wanted| wanted == r))
    }

    fn has_pod(&self, node: Option<&NodeName>, pod: Option<Named<'_>>) -> bool {
        if !self.is_about_pods() {
            return true;
        }
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        pod.is_some_and(|p| {
            fits(&self.namespace, p.namespace)
                && fits(&self.container, p.container)
                && (self.pod.is_empty() || named_after(&self.pod, p.name, node.map(NodeName::as_str)))
        })
    }

    /// Whether a finding about `node` is chosen.
    pub fn finding(&self, node: Option<&NodeName>, finding: &Finding) -> bool {
        let of_path = || pod_of_path(Path::new(&finding.subject.name));
        self.has_node(node)
            && self.has_severity(finding.severity)
            && self.has_rule(std::iter::once(finding.rule.as_str()))
            && self.has_pod(node, finding.pod.as_ref().map(Named::from).or_else(of_path))
    }

    /// Whether an action of `node` is chosen: its severity and rule are those of the finding that asked for it, its pods
    /// those of that finding and of the logs that it would remove.
    pub fn action(&self, node: &NodeName, action: &Action, finding: Option<&Finding>) -> bool {
        let named = |p: &Path| self.has_pod(Some(node), pod_of_path(p));
        let pod = || {
            finding.is_some_and(|f| self.has_pod(Some(node), f.pod.as_ref().map(Named::from)))
                || action.objects.iter().any(|o| named(&o.path))
                || action.refused.iter().filter_map(|r| r.path.as_deref()).any(named)
        };
        self.has_node(Some(node))
            && (self.severity.is_none() || finding.is_some_and(|f| self.has_severity(f.severity)))
            && self.has_rule(finding.iter().map(|f| f.rule.as_str()))
            && (!self.is_about_pods() || pod())
    }

    /// Whether a record of `node` is chosen as an event of `severity`. `finding` is looked up for actions alone. Samples
    /// and notes are of a node, never of a pod or rule.
    pub fn record(
        &self,
        node: &NodeName,
        record: &Record,
        severity: Severity,
        finding: &dyn Fn(&str) -> Option<Finding>,
    ) -> bool {
        if self.is_all() {
            return true;
        }
        let pod_alone = |pod| self.rules.is_empty() && self.has_pod(Some(node), pod);
        let chosen = match &record.body {
            Body::Finding(f) => return self.finding(Some(node), f),
            Body::Action(a) if !self.is_about_nodes_alone() || self.severity.is_some() => {
                let asked_by = a.finding_id.as_deref().and_then(finding);
                return self.action(node, a, asked_by.as_ref());
            }
            Body::Log(l) => {
                self.has_rule(l.rules.iter().map(String::as_str)) && self.has_pod(Some(node), pod_of_line(l))
            }
            Body::Gap(g) => pod_alone(pod_of_path(Path::new(&g.source))),
            Body::Action(_) | Body::Sample(_) | Body::Note(_) | Body::File(_) => pod_alone(None),
        };
        chosen && self.has_node(Some(node)) && self.has_severity(severity)
    }
}

/// Whose container wrote a line: as it says, else as its path says. Namespace, pod, container.
pub fn pod_names_of_line(line: &LogLine) -> Option<(&str, &str, &str)> {
    pod_of_line(line).map(|p| (p.namespace, p.name, p.container))
}

fn pod_of_line(line: &LogLine) -> Option<Named<'_>> {
    line.pod.as_ref().map(Named::from).or_else(|| pod_of_path(Path::new(&line.source)))
}

/// The pod in whose log folder `path` lies.
fn pod_of_path(path: &Path) -> Option<Named<'_>> {
    let mut parts = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_str().unwrap_or_default()),
        _ => None,
    });
    parts.find(|p| *p == "pods")?;
    let mut folder = parts.next()?.split('_');
    // None of the three may hold an underscore.
    let (Some(namespace), Some(name), Some(_uid), None) =
        (folder.next(), folder.next(), folder.next(), folder.next())
    else {
        return None;
    };
    let container = parts.next().unwrap_or_default();
    Some(Named { namespace, name, container })
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{FindingState, Moment, Subject};

    use super::*;

    fn node() -> NodeName {
        "node-a".parse().unwrap()
    }

    fn line(source: &str, pod: Option<(&str, &str, &str)>) -> Record {
        let pod = pod.map(|(namespace, name, container)| Pod {
            namespace: namespace.into(),
            name: name.into(),
            container: container.into(),
            ..Pod::default()
        });
        let line = LogLine { source: source.into(), rules: vec!["error".into()], pod, ..LogLine::default() };
        Record { seq: 1, at: Moment::default(), body: Body::Log(line) }
    }

    fn takes(select: &Select, record: &Record) -> bool {
        select.record(&node(), record, Severity::Info, &|_| None)
    }

    #[test]
    fn a_line_tells_its_pod_itself_or_by_its_path() {
        let path = "/host/var/log/pods/shop_api-6d5f8b7c9d-x2xzz_0c1d/app/0.log";
        let select = |namespace: &str, pod: &str, container: &str| Select {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
            ..Select::default()
        };
        let by_path = line(path, None);
        let told = line("/x.log", Some(("shop", "api-0", "app")));
        for record in [&by_path, &told] {
            assert!(takes(&select("shop", "api", "app"), record));
            assert!(takes(&select("", "", "app"), record));
            assert!(!takes(&select("other", "api", ""), record));
            assert!(!takes(&select("", "", "sidecar"), record));
        }
        // What it says goes before its path.
        assert!(!takes(&select("", "api", ""), &line(path, Some(("shop", "web-0", "app")))));
        assert!(!takes(&select("shop", "", ""), &line("/var/log/pods/a_b/0.log", None)));
        assert!(!takes(&select("shop", "", ""), &line("/var/log/syslog", None)));
        assert!(takes(&Select::default(), &line("/var/log/syslog", None)));
    }

    #[test]
    fn everything_that_is_given_must_match() {
        let record = line("/x.log", Some(("shop", "api-0", "app")));
        let rules = Select { rules: vec!["oom".into(), "error".into()], ..Select::default() };
        assert!(takes(&rules, &record));
        assert!(!takes(&Select { rules: vec!["oom".into()], ..Select::default() }, &record));
        assert!(!takes(&Select { nodes: vec!["node-b".parse().unwrap()], ..rules.clone() }, &record));
        assert!(takes(&Select { nodes: vec![node()], ..rules.clone() }, &record));
        assert!(!takes(&Select { severity: Some(Severity::High), ..rules }, &record));
        let note = Record { body: Body::Note("n".into()), ..record };
        assert!(takes(&Select { nodes: vec![node()], ..Select::default() }, &note));
        assert!(!takes(&Select { namespace: "shop".into(), ..Select::default() }, &note));
        assert!(!takes(&Select { rules: vec!["error".into()], ..Select::default() }, &note));
    }

    fn finding(severity: Severity, pod: Option<Pod>) -> Finding {
        Finding {
            id: "f-1".into(),
            rule: "disk-high-water".into(),
            severity,
            state: FindingState::Raised,
            subject: Subject::new("mount", "/var"),
            summary: String::new(),
            explanation: String::new(),
            citations: Vec::new(),
            facts: Vec::new(),
            raised_wall_ns: 0,
            pod,
        }
    }

    #[test]
    fn an_action_is_chosen_by_what_it_removes_and_by_what_asked_for_it() {
        let object = dogwatch::record::Refusal {
            path: Some("/var/log/pods/shop_api-0_u/app/0.log.1".into()),
            reason: "young".into(),
        };
        let action = Action {
            id: "a-1".into(),
            mount: "/var".into(),
            mode: dogwatch::record::CleanupMode::Plan,
            state: dogwatch::record::ActionState::Refused,
            reason: String::new(),
            finding_id: Some("f-1".into()),
            actor: "node".into(),
            planned_bytes: 0,
            freed_bytes: None,
            available_before_bytes: None,
            available_after_bytes: None,
            unexplained: None,
            target_available_bytes: 0,
            objects: Vec::new(),
            refused: vec![object],
            expires_wall_ns: 0,
            image_store: None,
            detail: String::new(),
        };
        let of_api = Select { pod: "api".into(), ..Select::default() };
        assert!(of_api.action(&node(), &action, None));
        let of_web = Select { pod: "web".into(), ..Select::default() };
        assert!(!of_web.action(&node(), &action, None));
        let web = Pod { name: "web-0".into(), ..Pod::default() };
        assert!(of_web.action(&node(), &action, Some(&finding(Severity::High, Some(web)))));
        let bad = Select { severity: Some(Severity::High), ..Select::default() };
        assert!(!bad.action(&node(), &action, None));
        assert!(!bad.action(&node(), &action, Some(&finding(Severity::Low, None))));
        let record = Record { seq: 1, at: Moment::default(), body: Body::Action(Box::new(action)) };
        assert!(bad.record(&node(), &record, Severity::Info, &|_| Some(finding(Severity::Critical, None))));
    }
}
