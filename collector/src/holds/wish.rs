//! What somebody wishes to hold, checked before it is decided. Pure.

use std::path::{Component, Path};

use dogwatch::record::NodeName;

use crate::store::decision::HoldTarget;

/// Longest path, as Linux has it.
const MAX_PATH_BYTES: usize = 4_096;
/// Longest reason, bytes.
const MAX_REASON_BYTES: usize = 1_000;
/// Longest name of a pod or a namespace (RFC 1123, as Kubernetes has it).
const MAX_NAME_BYTES: usize = 253;

/// A wish that makes no sense: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Mistake {
    /// The field of the request.
    pub field: &'static str,
    /// What is wrong, and the remedy.
    pub why: String,
}

fn mistake(field: &'static str, why: impl Into<String>) -> Mistake {
    Mistake { field, why: why.into() }
}

/// What somebody wishes to hold; what is empty was not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// A node's name.
    pub node: String,
    /// A file or folder.
    pub path: String,
    /// A pod's namespace.
    pub namespace: String,
    /// A pod's name.
    pub pod: String,
    /// An incident's id.
    pub incident: String,
    /// Why.
    pub reason: String,
}

impl Wish {
    /// The node, what is held and why.
    ///
    /// # Errors
    /// The first [`Mistake`].
    pub fn checked(self) -> Result<(Option<NodeName>, HoldTarget, String), Mistake> {
        let reason = checked_reason(&self.reason)?;
        let node = match self.node.as_str() {
            "" => None,
            name => Some(name.parse::<NodeName>().map_err(|e| mistake("node", e.to_string()))?),
        };
        let given = |field: &str| !field.is_empty();
        let target = match (given(&self.path), given(&self.pod), given(&self.incident)) {
            (true, false, false) => HoldTarget::Path(checked_path(self.path)?),
            (false, true, false) => {
                let namespace = match self.namespace.as_str() {
                    "" => return Err(mistake("namespace", "is missing; a pod is named with its namespace")),
                    name => checked_name("namespace", name)?,
                };
                return Ok((
                    node,
                    HoldTarget::Pod { namespace, pod: checked_name("pod", &self.pod)? },
                    reason,
                ));
            }
            (false, false, true) if node.is_some() => {
                return Err(mistake(
                    "node",
                    "an incident's hold covers all of its nodes; leave the node out",
                ));
            }
            (false, false, true) => HoldTarget::Incident(self.incident),
            (false, false, false) if node.is_some() => HoldTarget::Node,
            (false, false, false) => {
                return Err(mistake("hold", "names nothing; give a path, a pod, an incident or a node"));
            }
            _ => return Err(mistake("hold", "names several things; give one of path, pod and incident")),
        };
        if given(&self.namespace) {
            return Err(mistake("namespace", "goes with a pod"));
        }
        Ok((node, target, reason))
    }
}

/// A reason that says something.
///
/// # Errors
/// [`Mistake`].
pub(super) fn checked_reason(reason: &str) -> Result<String, Mistake> {
    let reason = reason.trim();
    if reason.is_empty() {
        Err(mistake("reason", "is missing; say why, for whoever wonders in a year"))
    } else if reason.len() > MAX_REASON_BYTES {
        Err(mistake("reason", format!("is longer than {MAX_REASON_BYTES} bytes")))
    } else if reason.chars().any(char::is_control) {
        Err(mistake("reason", "has control characters; write one line"))
    } else {
        Ok(reason.to_owned())
    }
}

/// What a hold takes of a set, in bytes.
pub(super) fn bytes_of(target: &HoldTarget, reason: &str) -> usize {
    let named = match target {
        HoldTarget::Path(path) => path.len(),
        HoldTarget::Pod { namespace, pod } => namespace.len() + pod.len(),
        HoldTarget::Incident(_) | HoldTarget::Node => 0,
    };
    named + reason.len()
}

fn checked_path(path: String) -> Result<String, Mistake> {
    if !path.starts_with('/') {
        return Err(mistake("path", format!("{path:?} is not absolute; begin it with /")));
    }
    if path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err(mistake("path", format!("no path has NUL or over {MAX_PATH_BYTES} bytes")));
    }
    if Path::new(&path).components().any(|c| c == Component::ParentDir) {
        return Err(mistake("path", format!("{path:?} has a ..; write the path itself")));
    }
    // Without doubled and trailing slashes, so that it is shown as it is compared.
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    Ok(format!("/{}", parts.join("/")))
}

fn checked_name(field: &'static str, name: &str) -> Result<String, Mistake> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.len() > MAX_NAME_BYTES || !name.bytes().all(fits) {
        let why = format!(
            "{name:?} is no name of Kubernetes: lower-case letters, digits, - and ., at most {MAX_NAME_BYTES}"
        );
        return Err(mistake(field, why));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish { reason: " the auditor asked ".to_owned(), ..Wish::default() }
    }

    fn wrong(wish: Wish) -> &'static str {
        wish.checked().unwrap_err().field
    }

    #[test]
    fn one_thing_is_held_and_a_reason_is_given() {
        let path = Wish { path: "//var/./log/app/".into(), node: "n1".into(), ..wish() };
        let held = (
            Some("n1".parse().unwrap()),
            HoldTarget::Path("/var/log/app".into()),
            "the auditor asked".into(),
        );
        assert_eq!(path.checked(), Ok(held));
        assert_eq!(Wish { path: "/".into(), ..wish() }.checked().unwrap().1, HoldTarget::Path("/".into()));
        let pod = Wish { pod: "api-1".into(), namespace: "shop".into(), ..wish() };
        assert!(matches!(pod.checked(), Ok((None, HoldTarget::Pod { .. }, _))));
        let incident = Wish { incident: "inc-2026-01-01-001".into(), ..wish() };
        assert!(matches!(incident.checked(), Ok((None, HoldTarget::Incident(_), _))));
        assert!(matches!(Wish { node: "n1".into(), ..wish() }.checked(), Ok((Some(_), HoldTarget::Node, _))));
    }

    #[test]
    fn every_mistake_names_its_field() {
        assert_eq!(wrong(Wish { node: "n1".into(), ..Wish::default() }), "reason");
        assert_eq!(wrong(Wish { node: "n1".into(), reason: "a\nb".into(), ..Wish::default() }), "reason");
        assert_eq!(wrong(wish()), "hold");
        assert_eq!(
            wrong(Wish { path: "/x".into(), pod: "p".into(), namespace: "n".into(), ..wish() }),
            "hold"
        );
        assert_eq!(wrong(Wish { path: "var/log".into(), ..wish() }), "path");
        assert_eq!(wrong(Wish { path: "/var/../etc".into(), ..wish() }), "path");
        assert_eq!(wrong(Wish { pod: "api".into(), ..wish() }), "namespace");
        assert_eq!(wrong(Wish { pod: "api/../x".into(), namespace: "n".into(), ..wish() }), "pod");
        assert_eq!(wrong(Wish { path: "/x".into(), namespace: "n".into(), ..wish() }), "namespace");
        assert_eq!(wrong(Wish { incident: "inc".into(), node: "n1".into(), ..wish() }), "node");
        assert_eq!(wrong(Wish { node: "No Node".into(), ..wish() }), "node");
    }
}
