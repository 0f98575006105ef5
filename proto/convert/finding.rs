//! Findings and their parts.

use super::{MAX_ITEMS, Refused, finding_state, from_owned, items, optional, required, severity, text};
use crate::record::{Fact, Finding, Subject};
use crate::wire;

impl From<&Finding> for wire::Finding {
    fn from(f: &Finding) -> Self {
        Self {
            id: f.id.clone(),
            rule: f.rule.clone(),
            severity: wire::Severity::from(f.severity).into(),
            state: wire::FindingState::from(f.state).into(),
            subject: Some((&f.subject).into()),
            summary: f.summary.clone(),
            explanation: f.explanation.clone(),
            citations: f.citations.iter().map(Into::into).collect(),
            facts: f.facts.iter().map(Into::into).collect(),
            raised_wall_ns: f.raised_wall_ns,
            pod: f.pod.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Finding> for Finding {
    type Error = Refused;
    fn try_from(f: wire::Finding) -> Result<Self, Refused> {
        Ok(Self {
            id: text("id", f.id)?,
            rule: text("rule", f.rule)?,
            severity: severity("severity", f.severity)?,
            state: finding_state("state", f.state)?,
            subject: required("subject", f.subject)?,
            summary: text("summary", f.summary)?,
            explanation: text("explanation", f.explanation)?,
            citations: items("citations", f.citations, MAX_ITEMS)?,
            facts: items("facts", f.facts, MAX_ITEMS)?,
            raised_wall_ns: f.raised_wall_ns,
            pod: optional("pod", f.pod)?,
        })
    }
}

impl From<&Subject> for wire::Subject {
    fn from(s: &Subject) -> Self {
        Self { kind: s.kind.clone(), name: s.name.clone() }
    }
}

impl TryFrom<wire::Subject> for Subject {
    type Error = Refused;
    fn try_from(s: wire::Subject) -> Result<Self, Refused> {
        Ok(Self { kind: text("kind", s.kind)?, name: text("name", s.name)? })
    }
}

impl From<&Fact> for wire::Fact {
    fn from(f: &Fact) -> Self {
        Self { key: f.key.clone(), value: f.value.clone() }
    }
}

impl TryFrom<wire::Fact> for Fact {
    type Error = Refused;
    fn try_from(f: wire::Fact) -> Result<Self, Refused> {
        Ok(Self { key: text("key", f.key)?, value: text("value", f.value)? })
    }
}

from_owned! {
    Finding => wire::Finding,
    Subject => wire::Subject,
    Fact => wire::Fact,
}
