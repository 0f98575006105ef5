//! Placing: to which incident a finding or an action belongs, and why; which one opens, reopens or gets worse.

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{Finding, NodeName};

use super::known::{Said, meeting};
use super::topic::{self, disk, is_nameless, link_of, meets, shared, shown, title, told, whole_title};
use super::waiting::LooseAction;
use super::{Correlator, Key, MAX_LIVE_PER_NODE, SECOND_NS, Seen, span};
use crate::incident::{Incident, IncidentState, MAX_PIECES};
use crate::store::decision::{Decision, Piece, What};

/// Why a finding belongs to an incident, the weakest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Tie {
    /// Their topics meet, and one of them names nothing.
    Kin,
    /// They name the same thing.
    Link(String),
    /// They have the same topic.
    Topic,
}

impl Tie {
    fn rank(&self) -> u8 {
        match self {
            Self::Kin => 0,
            Self::Link(_) => 1,
            Self::Topic => 2,
        }
    }
}

impl Correlator {
    /// A finding that belongs to an incident moved on.
    pub(super) fn observe_member(
        &mut self,
        id: &str,
        node: &NodeName,
        finding: &Finding,
        before: Option<&Seen>,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) {
        let Some(incident) = self.incidents.get(id) else { return };
        let re_raised = before.is_some_and(|b| !b.active);
        let worse = finding.severity > incident.severity
            && before.is_none_or(|b| finding.severity > b.severity || !b.active);
        if incident.state == IncidentState::Resolved {
            let since = now_ns.saturating_sub(incident.resolved_wall_ns.unwrap_or(now_ns));
            if worse && finding.severity >= self.policy.opens_at {
                self.reopen(
                    id,
                    format!("{} got worse: {}", finding.rule, told(&finding.summary)),
                    now_ns,
                    out,
                );
            } else if re_raised && finding.severity >= self.policy.opens_at {
                if since <= self.policy.rejoin_ns || self.has_active_but(id, node, &finding.id) {
                    let reason = format!("{} is back, {} after the end", finding.rule, span(since));
                    self.reopen(id, reason, now_ns, out);
                } else {
                    self.remember((node.clone(), finding.id.clone()), finding, None);
                    return self.place(node, finding, now_ns, out);
                }
            }
        }
        if worse {
            self.raise_severity(id, finding, now_ns, out);
        }
    }

    /// Finds the incident that an unattached finding belongs to, or opens one, or leaves it loose.
    pub(super) fn place(&mut self, node: &NodeName, finding: &Finding, now_ns: i64, out: &mut Vec<Decision>) {
        let topic = topic::topic(finding);
        let opens = finding.severity >= self.policy.opens_at;
        let crowded = opens && self.live_of(node) >= MAX_LIVE_PER_NODE;
        if let Some((id, reason)) = self.home_for(node, finding, &topic, opens, now_ns) {
            self.join(&id, node, finding, reason, now_ns, out);
        } else if crowded && let Some(id) = self.newest_live(node) {
            let reason =
                format!("{node} has {MAX_LIVE_PER_NODE} live incidents, so this one takes what comes");
            self.join(&id, node, finding, reason, now_ns, out);
        } else if opens && !crowded {
            self.open(node, finding, topic, now_ns, out);
        } else {
            self.findings.trim(node);
        }
    }

    /// The incident of the node that takes `finding`, and why: live before resolved, the stronger tie before the weaker,
    /// newest first.
    fn home_for(
        &self,
        node: &NodeName,
        finding: &Finding,
        topic: &str,
        reopens: bool,
        now_ns: i64,
    ) -> Option<(String, String)> {
        let key = (node.clone(), finding.id.clone());
        let ties = self.ties(&key, topic, &topic::links(finding));
        let (incident, tie) = self
            .of(node)
            .filter(|i| i.pieces.len() < MAX_PIECES)
            .filter_map(|i| Some((i, ties.get(i.id.as_str())?)))
            .filter(|(i, _)| i.state != IncidentState::Resolved || (reopens && self.rejoinable(i, now_ns)))
            .max_by_key(|(i, tie)| {
                (i.state != IncidentState::Resolved, tie.rank(), i.opened_wall_ns, &i.id)
            })?;
        let alike = match tie {
            Tie::Link(link) => vec![Said::Link(link.clone())],
            _ => meeting(topic),
        };
        let other = self.findings.newest(node, &incident.id, &alike, &key);
        let what = match tie {
            Tie::Link(link) => format!("same node and {link}"),
            Tie::Topic => shared(topic, topic).to_owned(),
            Tie::Kin => shared(other.map_or(&incident.topic, |o| &o.topic), topic).to_owned(),
        };
        let reason = match other {
            Some(other) => format!("{what} as {}{}", other.rule, later(other.raised_wall_ns, finding)),
            None => format!("{what} as {}", incident.topic),
        };
        Some((incident.id.clone(), reason))
    }

    /// What ties a finding of `topic` that names `links` to each incident of its node.
    fn ties(&self, key: &Key, topic: &str, links: &[String]) -> BTreeMap<&str, Tie> {
        let mut ties: BTreeMap<&str, Tie> = BTreeMap::new();
        let mut tied = |id, tie: Tie| {
            let known = ties.entry(id).or_insert_with(|| tie.clone());
            if known.rank() < tie.rank() {
                *known = tie;
            }
        };
        let named: BTreeSet<&String> = links.iter().collect();
        for incident in self.of(&key.0) {
            let own = link_of(&incident.topic);
            if incident.topic == topic {
                tied(incident.id.as_str(), Tie::Topic);
            } else if let Some(link) = incident.about.iter().chain(&own).find(|l| named.contains(l)) {
                tied(incident.id.as_str(), Tie::Link(link.clone()));
            } else if meets(&incident.topic, topic) {
                tied(incident.id.as_str(), Tie::Kin);
            }
        }
        for link in links {
            for id in self.findings.incidents_where(&key.0, &Said::Link(link.clone()), key) {
                tied(id, Tie::Link(link.clone()));
            }
        }
        if meets(topic::MEMORY, topic) {
            // The node's own want of memory is what makes the kernel kill in any of its pods.
            for id in self.findings.incidents_where(&key.0, &Said::NodeMemory, key) {
                tied(id, Tie::Kin);
            }
        }
        ties
    }

    fn join(
        &mut self,
        id: &str,
        node: &NodeName,
        finding: &Finding,
        reason: String,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) {
        let Some(incident) = self.incidents.get(id) else { return };
        if incident.pieces.len() >= MAX_PIECES {
            return;
        }
        let (worse, resolved) =
            (finding.severity > incident.severity, incident.state == IncidentState::Resolved);
        let piece = Piece::Finding(finding.id.clone());
        if incident.holds(&piece, node) {
            // It was there before it went to another that is long over: there is nothing to decide anew.
            self.remember((node.clone(), finding.id.clone()), finding, Some(id.to_owned()));
        } else {
            self.put(id, piece, node, reason, now_ns, out);
            self.retitle(id, (node.clone(), finding.id.clone()), now_ns, out);
        }
        if resolved {
            let reason = format!("{} raised: {}", finding.rule, told(&finding.summary));
            self.reopen(id, reason, now_ns, out);
        }
        if worse {
            self.raise_severity(id, finding, now_ns, out);
        }
    }

    fn open(
        &mut self,
        node: &NodeName,
        finding: &Finding,
        topic: String,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) {
        let day = utc_day(now_ns);
        let number = self.numbers.entry(day.clone()).or_insert(0);
        *number += 1;
        let id = format!("inc-{day}-{number:03}");
        let full = self
            .of(node)
            .filter(|i| i.topic == topic && i.pieces.len() >= MAX_PIECES)
            .max_by_key(|i| i.opened_wall_ns);
        let continues = full.map_or_else(String::new, |i| format!("; continues {}, which is full", i.id));
        let reason = format!(
            "{} on {} was raised at severity {}: {}{continues}",
            shown(&finding.rule),
            shown(&finding.subject.name),
            finding.severity,
            told(&finding.summary)
        );
        let opened = What::IncidentOpened {
            id: id.clone(),
            title: title(node.as_str(), finding),
            severity: finding.severity,
            node: node.clone(),
            topic: topic.clone(),
            reason,
        };
        self.decide(now_ns, opened, out);
        let opener = "the finding that opened it".to_owned();
        self.put(&id, Piece::Finding(finding.id.clone()), node, opener, now_ns, out);
        self.gather(&id, node, finding, &topic, now_ns, out);
    }

    /// Takes along what came before an incident opened: lesser findings of its topic that still hold, and actions.
    fn gather(
        &mut self,
        id: &str,
        node: &NodeName,
        opener: &Finding,
        topic: &str,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) {
        let links = topic::links(opener);
        let mut alike = meeting(topic);
        alike.extend(links.iter().cloned().map(Said::Link));
        let earlier: Vec<(Key, String)> = self
            .findings
            .loose_where(node, &alike)
            .into_iter()
            .filter_map(|(k, s)| Some((k.clone(), common(s, topic, &links)?)))
            .map(|(k, what)| (k, format!("{what} as {}, held before it", opener.rule)))
            .collect();
        for (key, reason) in earlier {
            // What named a disk that nobody had named before parts those of other disks from it.
            let tied = self.findings.get(&key).zip(self.incidents.get(id)).is_some_and(|(seen, incident)| {
                meets(&incident.topic, &seen.topic) || seen.links.iter().any(|l| links.contains(l))
            });
            if tied {
                self.put(id, Piece::Finding(key.1.clone()), node, reason, now_ns, out);
                self.retitle(id, key, now_ns, out);
            }
        }
        for action in self.loose_actions.take(node) {
            if !self.place_action(&action, now_ns, out) {
                self.loose_actions.put(action);
            }
        }
    }

    /// Puts an action where its finding is, else where its mount is.
    pub(super) fn place_action(
        &mut self,
        action: &LooseAction,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) -> bool {
        let by_finding = action.finding_id.as_ref().and_then(|f| {
            let id = self.findings.get(&(action.node.clone(), f.clone()))?.incident.clone()?;
            self.incidents.contains_key(&id).then(|| (id, format!("triggered by finding {}", shown(f))))
        });
        let topic = disk(&shown(&action.mount));
        let mount = format!("mount {}", shown(&action.mount));
        let named = |i: &Incident| i.topic == topic || i.about.contains(&mount);
        let found = by_finding.or_else(|| {
            let recent = now_ns.saturating_sub(action.seen_ns) <= self.policy.rejoin_ns;
            let incident = self
                .of(&action.node)
                .filter(|i| recent && i.pieces.len() < MAX_PIECES)
                .filter(|i| named(i) || meets(&i.topic, &topic))
                .filter(|i| i.state != IncidentState::Resolved || self.rejoinable(i, now_ns))
                .max_by_key(|i| (i.state != IncidentState::Resolved, named(i), i.opened_wall_ns))?;
            let who = match action.actor.as_str() {
                "node" => "planned by the node itself".to_owned(),
                person => format!("asked by {}", shown(person)),
            };
            let what = if named(incident) { "same mount" } else { "same node, a disk that is not named" };
            Some((incident.id.clone(), format!("{what}, {who}")))
        });
        let Some((id, reason)) = found else { return false };
        self.put(&id, Piece::Action(action.id.clone()), &action.node, reason, now_ns, out);
        true
    }

    fn put(
        &mut self,
        id: &str,
        piece: Piece,
        node: &NodeName,
        reason: String,
        now_ns: i64,
        out: &mut Vec<Decision>,
    ) {
        if self.incidents.get(id).is_some_and(|i| i.pieces.len() < MAX_PIECES) {
            let joined = What::IncidentJoined { id: id.to_owned(), piece, node: node.clone(), reason };
            self.decide(now_ns, joined, out);
        }
    }

    /// Lets the title of an incident follow a finding that joined it and is about something that the title does not
    /// name; a disk that nobody had named gets its name from it.
    fn retitle(&mut self, id: &str, key: Key, now_ns: i64, out: &mut Vec<Decision>) {
        let (Some(incident), Some(seen)) = (self.incidents.get(id), self.findings.get(&key)) else { return };
        let Some(subject) =
            seen.subject.clone().filter(|_| incident.holds(&Piece::Finding(key.1.clone()), &key.0))
        else {
            return;
        };
        let same = [Said::Subject(subject.clone())];
        if link_of(&incident.topic).as_ref() == Some(&subject)
            || incident.about.contains(&subject)
            || self.findings.newest(&key.0, id, &same, &key).is_some()
        {
            return;
        }
        let names_it = is_nameless(&incident.topic)
            && incident.topic != seen.topic
            && meets(&incident.topic, &seen.topic);
        if !names_it && incident.about.len() >= topic::MAX_ABOUT {
            return;
        }
        let what = if names_it {
            What::IncidentRetitled {
                id: id.to_owned(),
                title: whole_title(&seen.title, &incident.about),
                lead: seen.title.clone(),
                topic: seen.topic.clone(),
                subject: None,
            }
        } else {
            let lead = if incident.lead.is_empty() { &incident.title } else { &incident.lead };
            let mut about = incident.about.clone();
            about.push(subject.clone());
            What::IncidentRetitled {
                id: id.to_owned(),
                title: whole_title(lead, &about),
                lead: lead.clone(),
                topic: incident.topic.clone(),
                subject: Some(subject),
            }
        };
        self.decide(now_ns, what, out);
    }

    fn reopen(&mut self, id: &str, reason: String, now_ns: i64, out: &mut Vec<Decision>) {
        let moved = What::IncidentMoved { id: id.to_owned(), state: IncidentState::Open, reason };
        self.decide(now_ns, moved, out);
    }

    fn raise_severity(&mut self, id: &str, finding: &Finding, now_ns: i64, out: &mut Vec<Decision>) {
        let reason = format!("{} is {}: {}", finding.rule, finding.severity, told(&finding.summary));
        let raised = What::IncidentSeverity { id: id.to_owned(), severity: finding.severity, reason };
        self.decide(now_ns, raised, out);
    }

    /// Whether a resolved incident may still take a finding: one of its own holds on, or it ended lately.
    pub(super) fn rejoinable(&self, incident: &Incident, now_ns: i64) -> bool {
        let ended = incident.resolved_wall_ns.unwrap_or(now_ns);
        now_ns.saturating_sub(ended) <= self.policy.rejoin_ns || self.findings.active_of(&incident.id) > 0
    }

    fn has_active_but(&self, id: &str, node: &NodeName, finding: &str) -> bool {
        let own = self.findings.get(&(node.clone(), finding.to_owned()));
        let own = own.is_some_and(|s| s.active && s.incident.as_deref() == Some(id));
        self.findings.active_of(id) > usize::from(own)
    }

    fn live_of(&self, node: &NodeName) -> usize {
        self.of(node).filter(|i| i.state != IncidentState::Resolved).count()
    }

    fn newest_live(&self, node: &NodeName) -> Option<String> {
        self.of(node)
            .filter(|i| i.state != IncidentState::Resolved)
            .filter(|i| i.pieces.len() < MAX_PIECES)
            .max_by_key(|i| (i.opened_wall_ns, &i.id))
            .map(|i| i.id.clone())
    }
}

/// What a finding that was seen has in common with one of `topic` that names `links`, in words.
fn common(seen: &Seen, topic: &str, links: &[String]) -> Option<String> {
    if let Some(link) = seen.links.iter().find(|l| links.contains(l)).filter(|_| seen.topic != topic) {
        return Some(format!("same node and {link}"));
    }
    meets(&seen.topic, topic).then(|| shared(&seen.topic, topic).to_owned())
}

/// `, 42 s later`: both times are the node's.
fn later(other_raised_ns: i64, finding: &Finding) -> String {
    if other_raised_ns <= 0 || finding.raised_wall_ns <= 0 {
        return String::new();
    }
    match finding.raised_wall_ns.saturating_sub(other_raised_ns) {
        d if d.abs() < SECOND_NS => ", at the same time".to_owned(),
        d if d < 0 => format!(", {} earlier", span(d.saturating_neg())),
        d => format!(", {} later", span(d)),
    }
}

/// `YYYY-MM-DD` in UTC.
fn utc_day(wall_ns: i64) -> String {
    jiff::Timestamp::from_second(wall_ns.div_euclid(SECOND_NS))
        .map_or_else(|_| "0000-00-00".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
}
