//! The allowance: how much of what one node says is put to incidents, and what was left out.
//!
//! Incidents are decisions, and decisions never expire: a node that says tens of thousands of findings (a rule gone wild, a
//! stolen certificate) must not fill their journal, nor keep whoever decides from everybody else's. So each node has
//! [`PER_HOUR`] decisions an hour. Beyond it the first [`OF_EACH_RULE`] of each rule pass all the same, so that a source
//! that floods one rule hides no other: a login is not missed, nor a disk, because a pod crashes a thousand times.
//!
//! What is left out stays in the store as the finding it is. How much that is, and why, is to be said ([`Allowance::due`]).
//! A pure account: time comes in as an argument.
//!
//! Bounds: [`MAX_RULES`] rules of a node are counted apart; accounts of nodes that were quiet for an hour go.

use std::collections::BTreeMap;

use dogwatch::record::NodeName;

use super::topic::shown;
use super::{SECOND_NS, span};

/// Decisions that may follow from what a node says within an hour: a node of 250 pods all of which crash and run out of memory
/// has a thousand. At some 400 bytes each that is a megabyte an hour at most.
pub const PER_HOUR: u64 = 2_000;
/// Findings of each rule within an hour that pass in any case.
pub const OF_EACH_RULE: u64 = 16;
/// Rules of one node that are counted apart: more than an agent has.
pub const MAX_RULES: usize = 64;
/// Longest id, and longest rule, of what is put to an incident, in bytes: agents' have some 20. An incident repeats both.
pub const MAX_NAME_BYTES: usize = 256;
/// Between two times that it is said how much was left out: seldom enough not to be a flood itself, and often enough that it
/// is not taken for over.
const SAID_EVERY_NS: i64 = 600 * SECOND_NS;
/// It is said once nothing more was left out for so long, so that the first count is whole.
const SETTLED_NS: i64 = 2 * SECOND_NS;
/// Of a flood that does not end it is said after so long.
const ENDLESS_NS: i64 = 30 * SECOND_NS;
const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// What was left out of incidents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// When the first of it was told.
    pub since_ns: i64,
    /// Whether that was said before; then it is more now.
    pub again: bool,
    /// Reports of findings since then.
    pub findings: u64,
    /// Reports of cleanups since then.
    pub actions: u64,
    /// Of both: those whose id or rule is longer than [`MAX_NAME_BYTES`].
    pub overlong: u64,
}

/// The accounts of all nodes.
#[derive(Debug, Default)]
pub struct Allowance {
    nodes: BTreeMap<NodeName, Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// When this hour began.
    began_ns: i64,
    spent: u64,
    rules: BTreeMap<String, u64>,
    left: Option<Left>,
}

#[derive(Debug, Default)]
struct Left {
    out: LeftOut,
    unsaid: bool,
    last_ns: i64,
    said_ns: Option<i64>,
}

impl Allowance {
    /// Whether a report of `rule` that has `id` may be put to an incident; where not, it is noted as left out.
    pub fn admits(&mut self, node: &NodeName, rule: Option<&str>, id: &str, now_ns: i64) -> bool {
        let account = self.account(node, now_ns);
        let overlong = id.len().max(rule.map_or(0, str::len)) > MAX_NAME_BYTES;
        if !overlong {
            let name = rule.map(shown);
            let key = name.unwrap_or_default();
            let apart = account.rules.contains_key(&key) || account.rules.len() < MAX_RULES;
            let of_rule = account.rules.get(&key).copied().unwrap_or(0);
            if account.spent < PER_HOUR || (apart && of_rule < OF_EACH_RULE) {
                if apart {
                    account.rules.insert(key, of_rule + 1);
                }
                account.spent += 1;
                return true;
            }
        }
        let left = account.left.get_or_insert_with(Left::default);
        if left.out.findings + left.out.actions == 0 {
            left.out.since_ns = now_ns;
        }
        left.out.findings += u64::from(rule.is_some());
        left.out.actions += u64::from(rule.is_none());
        left.out.overlong += u64::from(overlong);
        (left.unsaid, left.last_ns) = (true, now_ns);
        false
    }

    /// `decisions` followed from what `node` said; one of each report that was admitted is counted already.
    pub fn charge(&mut self, node: &NodeName, decisions: usize, now_ns: i64) {
        let further = (decisions as u64).saturating_sub(1);
        if further > 0 {
            self.account(node, now_ns).spent += further;
        }
    }

    /// Nodes of which something was left out that is to be said now, at most `most`, and how much in all.
    pub fn due(&mut self, most: usize, now_ns: i64) -> Vec<(NodeName, LeftOut)> {
        self.nodes.retain(|_, account| {
            // What was left out so long ago is told anew when it begins anew.
            let over =
                |l: &Left| !l.unsaid && now_ns.abs_diff(l.last_ns) >= (2 * SAID_EVERY_NS).unsigned_abs();
            if account.left.as_ref().is_some_and(over) {
                account.left = None;
            }
            account.left.is_some() || now_ns.abs_diff(account.began_ns) < HOUR_NS.unsigned_abs()
        });
        let mut due = Vec::new();
        for (node, account) in &mut self.nodes {
            let Some(left) = &mut account.left else { continue };
            let since = |at: i64, ns: i64| now_ns.abs_diff(at) >= ns.unsigned_abs();
            let whole = since(left.last_ns, SETTLED_NS) || since(left.out.since_ns, ENDLESS_NS);
            let waited = left.said_ns.is_none_or(|at| since(at, SAID_EVERY_NS));
            if due.len() < most && left.unsaid && whole && waited {
                left.out.again = left.said_ns.replace(now_ns).is_some();
                left.unsaid = false;
                due.push((node.clone(), left.out));
            }
        }
        due
    }

    fn account(&mut self, node: &NodeName, now_ns: i64) -> &mut Account {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.clone(), Account { began_ns: now_ns, ..Account::default() });
        }
        let account = self.nodes.entry(node.clone()).or_default();
        // A clock that was set back begins another hour, too.
        if now_ns.abs_diff(account.began_ns) >= HOUR_NS.unsigned_abs() {
            (account.began_ns, account.spent) = (now_ns, 0);
            account.rules.clear();
        }
        account
    }
}

impl LeftOut {
    /// One line that says what was left out of `node`'s.
    pub fn summary(&self, node: &NodeName, now_ns: i64) -> String {
        let counted = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        let mut what = vec![counted(self.findings, "report")];
        what[0].push_str(" of findings");
        if self.actions > 0 {
            what.push(counted(self.actions, "report") + " of cleanups");
        }
        let over = span(now_ns.saturating_sub(self.since_ns).max(SECOND_NS));
        format!("{} of node {node} are in no incident: it said too many within {over}", what.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_795_227_000 * SECOND_NS;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn admitted(a: &mut Allowance, who: &str, rule: &str, count: usize, now_ns: i64) -> usize {
        let mut passed = 0;
        for _ in 0..count {
            if a.admits(&node(who), Some(rule), "f-0123456789abcdef", now_ns) {
                a.charge(&node(who), 2, now_ns);
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn a_flood_passes_up_to_the_hours_measure_and_hides_no_other_rule_and_no_other_node() {
        let mut a = Allowance::default();
        assert_eq!(admitted(&mut a, "loud", "container-crash-loop", 50_000, T0), PER_HOUR as usize / 2);
        assert_eq!(admitted(&mut a, "loud", "disk-high-water", 50, T0), OF_EACH_RULE as usize);
        assert_eq!(admitted(&mut a, "quiet", "container-crash-loop", 100, T0), 100);
        // Whoever makes rules up gains little.
        let made_up: usize = (0..5_000).map(|n| admitted(&mut a, "loud", &format!("rule-{n}"), 20, T0)).sum();
        assert_eq!(made_up, (MAX_RULES - 2) * OF_EACH_RULE as usize);
        let due = a.due(10, T0 + 9 * SECOND_NS);
        assert_eq!(due.len(), 1, "{due:?}");
        let left = 50_000 - PER_HOUR / 2 + 50 - OF_EACH_RULE + 100_000 - made_up as u64;
        assert_eq!((due[0].0.as_str(), due[0].1.findings, due[0].1.actions), ("loud", left, 0));
        let said = due[0].1.summary(&due[0].0, T0 + 9 * SECOND_NS);
        assert_eq!(
            said,
            format!(
                "{left} reports of findings of node loud are in no incident: it said too many within 9 s"
            )
        );
        assert_eq!(admitted(&mut a, "loud", "disk-high-water", 50, T0 + HOUR_NS), 50, "another hour");
        assert_eq!(admitted(&mut a, "loud", "disk-high-water", 50, T0 - HOUR_NS), 50, "a clock set back");
    }

    #[test]
    fn it_is_said_at_once_and_then_seldom_and_no_count_is_lost() {
        let mut a = Allowance::default();
        let flood = PER_HOUR as usize / 2 + 10;
        let count = |due: Vec<(NodeName, LeftOut)>| due.first().map(|(_, left)| (left.findings, left.again));
        admitted(&mut a, "n", "r", flood, T0);
        assert_eq!(count(a.due(10, T0)), None, "more may come");
        let settled = T0 + SETTLED_NS;
        assert_eq!(count(a.due(10, settled)), Some((10, false)));
        admitted(&mut a, "n", "r", 5, settled);
        assert_eq!(count(a.due(10, settled + SETTLED_NS)), None, "too soon");
        assert_eq!(count(a.due(10, settled + SAID_EVERY_NS)), Some((15, true)));
        assert_eq!(count(a.due(10, settled + 2 * SAID_EVERY_NS)), None, "nothing new");
        a.due(10, T0 + 9 * SAID_EVERY_NS);
        assert!(a.nodes.is_empty(), "a quiet node costs nothing");
        let later = T0 + 9 * SAID_EVERY_NS;
        for s in 0..30 {
            admitted(&mut a, "n", "r", flood, later + s * SECOND_NS);
            assert_eq!(count(a.due(10, later + s * SECOND_NS)), None, "second {s}");
        }
        let all = 10 + 29 * flood as u64;
        assert_eq!(count(a.due(10, later + ENDLESS_NS)), Some((all, false)), "another story, without end");
        let later = later + 2 * HOUR_NS;
        for n in 0..30 {
            admitted(&mut a, &format!("n-{n}"), "r", flood, later);
        }
        let mut told = || a.due(20, later + SETTLED_NS).len();
        assert_eq!((told(), told(), told()), (20, 10, 0));
    }

    #[test]
    fn what_no_agent_would_call_anything_is_left_out() {
        let mut a = Allowance::default();
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert!(a.admits(&node("n"), None, &long[1..], T0));
        assert!(!a.admits(&node("n"), None, &long, T0));
        assert!(!a.admits(&node("n"), Some(&long), "f-1", T0));
        let left = a.due(1, T0 + SETTLED_NS).remove(0).1;
        assert_eq!((left.findings, left.actions, left.overlong), (1, 1, 2));
    }
}
