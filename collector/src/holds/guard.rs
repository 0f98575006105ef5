//! An open security incident holds its nodes by itself, from a severity on that the configuration gives.
//!
//! Whoever gets in cleans up behind them, and a cleanup that is due would do it for them: what a node has on disk when an
//! incident of the topic `security` opens stays until the incident is resolved. The hold is one like any other, added and
//! released by the collector as decisions; a person can release it before, and then it is not added again until the
//! incident was resolved and is opened anew.
//!
//! [`due`] is pure: what is to be done about one incident, from how it stands and from the holds that there were.

use dogwatch::record::Severity;

use super::{Active, Keeper, Wish};
use crate::incident::{COLLECTOR, Incident, IncidentState};
use crate::store::decision::{HoldTarget, What};
use crate::store::row::HoldRow;
use crate::store::{IncidentFilter, QueryError};

/// How often it is tried to hold an incident's nodes, a fifth of a second apart: the index may be half a minute behind.
const MAX_TRIES: u32 = 300;

/// The topic of incidents that hold their nodes.
pub(super) const SECURITY: &str = "security";

/// What is to be done about an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// Hold its nodes, for this reason.
    Hold(String),
    /// Release this hold, for this reason.
    Release(String, String),
}

/// What is to be done about `incident`, where `holds` are all that there are and were. `from`: the severity from which
/// incidents hold by themselves; `None`: never.
pub(super) fn due(incident: &Incident, holds: &[HoldRow], from: Option<Severity>) -> Due {
    let ours = |h: &&HoldRow| {
        h.actor == COLLECTOR && matches!(&h.target, HoldTarget::Incident(id) if *id == incident.id)
    };
    let in_force = holds.iter().filter(ours).find(|h| h.released.is_none());
    let is_over = incident.state == IncidentState::Resolved;
    match in_force {
        Some(hold) if is_over => Due::Release(hold.id.clone(), format!("{} was resolved", incident.id)),
        Some(_) => Due::Nothing,
        None if is_over || incident.topic != SECURITY => Due::Nothing,
        // A wrong password a minute would keep a disk from ever being cleaned.
        None if from.is_none_or(|from| incident.severity < from) => Due::Nothing,
        None => {
            let ended = holds.iter().filter(ours).filter_map(|h| h.released.as_ref());
            let last = ended.max_by_key(|r| r.wall_ns);
            if last.is_some_and(|r| r.by != COLLECTOR) {
                return Due::Nothing;
            }
            Due::Hold(format!("security incident {} is open", incident.id))
        }
    }
}

/// The incident that a decision may make hold its nodes, or let go of them.
pub(super) fn concerned(what: &What) -> Option<&str> {
    match what {
        What::IncidentOpened { id, topic, .. } => (topic == SECURITY).then_some(id),
        What::IncidentRetitled { id, .. }
        | What::IncidentMoved { id, .. }
        | What::IncidentSeverity { id, .. } => Some(id),
        _ => None,
    }
}

impl Keeper {
    /// Adds and releases the holds of security incidents.
    pub(super) async fn guard(&mut self) {
        if self.unguarded.is_empty() {
            return;
        }
        for (id, tries) in std::mem::take(&mut self.unguarded) {
            if let Err(why) = self.guard_one(&id).await {
                if tries == 0 {
                    tracing::debug!(incident = id, why, "whether a security incident holds its nodes waits");
                }
                if tries + 1 == MAX_TRIES {
                    tracing::error!(
                        incident = id,
                        why,
                        "a security incident cannot hold its nodes; hold it with `dogwatch hold add`"
                    );
                    self.say.unguarded(&id, &why);
                } else {
                    self.unguarded.entry(id).or_insert(tries + 1);
                }
            }
        }
    }

    async fn guard_one(&mut self, id: &str) -> Result<(), String> {
        let incident = self.store.incident(id).await.map_err(|e| e.to_string())?;
        // A decision is folded into the index a moment after it is told.
        let incident = incident.ok_or("the index does not have it yet")?;
        let known = self.store.holds(true).await.map_err(|e| e.to_string())?;
        let known: Vec<HoldRow> = known.into_iter().map(|(row, _)| row).collect();
        match due(&incident, &known, self.guards) {
            Due::Hold(reason) => {
                let unfolded = |a: &Active| a.holds_incident(id) && a.row.actor == COLLECTOR;
                if self.active.values().any(unfolded) {
                    return Ok(());
                }
                let wish = Wish { incident: id.to_owned(), reason, ..Wish::default() };
                self.add(wish, COLLECTOR.to_owned()).await.map(drop).map_err(|e| e.to_string())
            }
            Due::Release(hold, reason) if self.active.contains_key(&hold) => {
                self.release(&hold, reason, COLLECTOR.to_owned()).await.map(drop).map_err(|e| e.to_string())
            }
            Due::Release(..) | Due::Nothing => Ok(()),
        }
    }

    /// Decisions were made while nobody looked: every security incident, and every hold of one, is to be looked at.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(super) async fn look_for_unguarded(&mut self) -> Result<(), QueryError> {
        let live = vec![IncidentState::Open, IncidentState::Acknowledged];
        let live = self.store.incidents(IncidentFilter { states: live, ..IncidentFilter::default() }).await?;
        let held = self.active.values().filter(|a| a.row.actor == COLLECTOR);
        let held = held.filter_map(|a| match &a.row.target {
            HoldTarget::Incident(id) => Some(id.clone()),
            _ => None,
        });
        let live = live.into_iter().filter(|i| i.topic == SECURITY).map(|i| i.id);
        self.unguarded.extend(held.chain(live).map(|id| (id, 0)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::Severity;

    use super::*;
    use crate::store::decision::Decision;
    use crate::store::row::Released;

    fn incident(topic: &str) -> Incident {
        let what = What::IncidentOpened {
            id: "inc-2026-11-21-001".into(),
            title: "t".into(),
            severity: Severity::High,
            node: "a".parse().unwrap(),
            topic: topic.into(),
            reason: "r".into(),
        };
        Incident::open(&Decision { wall_ns: 1, actor: COLLECTOR.to_owned(), what }).unwrap()
    }

    fn hold(actor: &str, released: Option<(i64, &str)>) -> HoldRow {
        HoldRow {
            id: "hold-00000001".to_owned(),
            node: None,
            target: HoldTarget::Incident("inc-2026-11-21-001".to_owned()),
            reason: "r".to_owned(),
            actor: actor.to_owned(),
            added_wall_ns: 1,
            released: released.map(|(wall_ns, by)| Released {
                wall_ns,
                by: by.to_owned(),
                reason: "r".to_owned(),
            }),
        }
    }

    #[test]
    fn a_security_incident_holds_while_it_is_open_and_a_person_has_the_last_word() {
        let mut open = incident(SECURITY);
        assert!(
            matches!(due(&open, &[], Some(Severity::High)), Due::Hold(why) if why.contains("inc-2026-11-21-001"))
        );
        assert_eq!(due(&open, &[], None), Due::Nothing);
        assert_eq!(due(&open, &[], Some(Severity::Critical)), Due::Nothing, "a wrong password is not enough");
        assert_eq!(due(&incident("disk:/var"), &[], Some(Severity::High)), Due::Nothing);
        let ours = hold(COLLECTOR, None);
        assert_eq!(due(&open, std::slice::from_ref(&ours), Some(Severity::High)), Due::Nothing);
        // A person's own hold is another, and outlives the incident.
        assert!(matches!(due(&open, &[hold("rita", None)], Some(Severity::High)), Due::Hold(_)));
        let by_person = hold(COLLECTOR, Some((5, "rita")));
        assert_eq!(due(&open, std::slice::from_ref(&by_person), Some(Severity::High)), Due::Nothing);
        assert!(open.apply(&open.resolve("rita", "", 6).unwrap()));
        assert!(
            matches!(due(&open, std::slice::from_ref(&ours), Some(Severity::High)), Due::Release(id, _) if id == ours.id)
        );
        assert!(matches!(due(&open, std::slice::from_ref(&ours), None), Due::Release(..)), "also once off");
        assert_eq!(due(&open, &[hold("rita", None)], Some(Severity::High)), Due::Nothing);
        // Opened again: held again, unless a person released it last.
        assert!(open.apply(&open.reopen("rita", "again", 7).unwrap()));
        assert!(matches!(
            due(&open, &[hold(COLLECTOR, Some((6, COLLECTOR)))], Some(Severity::High)),
            Due::Hold(_)
        ));
        assert!(matches!(
            due(&open, &[by_person, hold(COLLECTOR, Some((8, COLLECTOR)))], Some(Severity::High)),
            Due::Hold(_)
        ));
    }

    #[test]
    fn what_opens_ends_or_turns_to_security_is_looked_at() {
        let moved = |state| What::IncidentMoved { id: "i".into(), state, reason: String::new() };
        assert_eq!(concerned(&moved(IncidentState::Resolved)), Some("i"));
        assert_eq!(concerned(&What::NoteAdded { id: "i".into(), text: "x".into() }), None);
    }
}
