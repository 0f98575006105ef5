//! Which folders of a mount grow, as the node's own walks saw it: asked for when a finding says that it fills, and told with
//! that finding from then on, also where no writer is seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, Moment};

use super::Core;
use super::causes::{bounded, is_about_filling};
use crate::act::respond::TRIGGERS;
use crate::detect::words::bytes;
use crate::usage::growth::Growth;
use crate::usage::layout::Owner;
use crate::usage::rounds::Grown;
use crate::usage::show::named;

/// Folders that a finding names.
const MAX_NAMED: usize = 3;
/// The fact that names the first of them.
const FIRST: &str = "growing_folder_1";
/// Mounts of which it is kept: as many as are walked.
const MAX_MOUNTS: usize = 64;
/// A walk that ended longer ago accuses no pod: others may have written since.
const FRESH_NS: u64 = 10 * 60 * 1_000_000_000;
/// A folder with this part of the mount's growth is the cause as far as folders go.
const MOST: f64 = 0.8;

/// The newest of each mount.
pub(super) type Grows = BTreeMap<String, Walked>;

/// A walk that came to its end.
#[derive(Debug, Clone)]
pub(super) struct Walked {
    /// CLOCK_BOOTTIME then.
    boot_ns: u64,
    grown: Arc<Grown>,
}

impl Core {
    /// Has the mount of a finding walked that was raised or said again.
    pub(super) fn ask_for_growth(&self, finding: &Finding) {
        let is_asked = finding.subject.kind == "mount"
            && TRIGGERS.contains(&finding.rule.as_str())
            && finding.state != FindingState::Cleared;
        if let Some(nudge) = self.wires.lookouts.rounds.as_ref().filter(|_| is_asked) {
            // With too many questions waiting it is walked in its turn.
            let _ = nudge.ask(&finding.subject.name);
        }
    }

    /// A mount was walked. Its findings are told again where that names another folder than they did.
    pub(super) fn on_grown(&mut self, grown: Arc<Grown>) {
        let mount = grown.mount.clone();
        let lead = |g: &Grown| first(g).map(|(growth, _)| growth.path.clone());
        let before = self.grows.get(&mount).and_then(|w| lead(&w.grown));
        let now_leads = lead(&grown);
        if self.grows.len() >= MAX_MOUNTS && !self.grows.contains_key(&mount) {
            return;
        }
        self.grows.insert(mount.clone(), Walked { boot_ns: clock::now().boot_ns, grown });
        if now_leads.is_none() || now_leads == before {
            return;
        }
        self.tell_again(&mount);
    }

    /// Adds to a mount's finding which of its folders grow.
    pub(super) fn tell_growth(&self, at: Moment, finding: &mut Finding) {
        if !is_about_filling(finding)
            || finding.state == FindingState::Cleared
            || finding.facts.iter().any(|f| f.key == FIRST)
        {
            return;
        }
        let Some(Walked { boot_ns, grown }) = self.grows.get(&finding.subject.name) else { return };
        tell(grown, at.boot_ns.saturating_sub(*boot_ns) <= FRESH_NS, finding);
    }
}

fn first(grown: &Grown) -> Option<&(Growth, Option<Owner>)> {
    grown.folders.as_ref().and_then(|f| f.first())
}

fn tell(grown: &Grown, is_fresh: bool, finding: &mut Finding) {
    let Some((growth, owner)) = first(grown) else { return };
    let named = grown.folders.iter().flatten().take(MAX_NAMED).enumerate();
    let facts = named.map(|(n, (g, o))| Fact::new(format!("growing_folder_{}", n + 1), said(g, o.as_ref())));
    finding.facts.extend(facts);
    let of_all =
        grown.whole.as_ref().map(|whole| growth.grown_bytes as f64 / whole.grown_bytes.max(1) as f64);
    let walked = minute(grown.walked_wall_ns);
    finding.explanation = format!(
        "{} Of its folders grew most: {} (walked {walked}).",
        finding.explanation.trim_end(),
        said(growth, owner.as_ref())
    );
    // Where nobody is seen to write, the folder is what people look for.
    let nobody_is_named = !finding.facts.iter().any(|f| f.key == "writer_1" || f.key == "earlier_writer_1");
    if nobody_is_named {
        finding.summary =
            format!("{}; {}", finding.summary.trim_end_matches('.'), said(growth, owner.as_ref()));
    }
    // A folder that is one pod's by the node's own layout, with most of the growth, is that pod's doing as long as it grows:
    // nobody else is given it.
    let grows = is_fresh && growth.bytes_per_second >= 1.0;
    if grows && finding.pod.is_none() && nobody_is_named && of_all.is_some_and(|share| share >= MOST) {
        finding.pod = owner.as_ref().filter(|o| o.is_alone).map(|o| o.pod.clone());
    }
}

fn said(growth: &Growth, owner: Option<&Owner>) -> String {
    let least = if growth.at_least { "at least " } else { "" };
    let rate = if growth.bytes_per_second >= 1.0 {
        format!(", {}/s of late", bytes(growth.bytes_per_second))
    } else {
        String::new()
    };
    let of = owner.map(|o| format!(" ({} of {})", o.part, named(&o.pod))).unwrap_or_default();
    format!(
        "{}{of} +{least}{} since {}{rate}",
        bounded(&growth.path),
        bytes(growth.grown_bytes as f64),
        minute(growth.since_wall_ns)
    )
}

/// A time as a reader at night wants it: to the minute, with its day.
fn minute(wall_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(wall_ns.into())
        .map(|t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{Pod, Severity, Subject};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn finding() -> Finding {
        Finding {
            id: "f-1".into(),
            rule: "disk-high-water".into(),
            severity: Severity::High,
            state: FindingState::Raised,
            subject: Subject::new("mount", "/"),
            summary: "/ is 86 % full.".into(),
            explanation: "It is.".into(),
            citations: Vec::new(),
            facts: Vec::new(),
            raised_wall_ns: 0,
            pod: None,
        }
    }

    fn growth(path: &str, grown_bytes: u64) -> Growth {
        Growth {
            path: path.into(),
            grown_bytes,
            at_least: false,
            since_wall_ns: 1_795_226_640_000_000_000,
            bytes_per_second: 42.0 * 1024.0 * 1024.0,
            bytes: 4 * GIB,
        }
    }

    fn grown(of_whole: u64, owner: Option<Owner>) -> Grown {
        Grown {
            mount: "/".into(),
            walked_wall_ns: 1_795_226_700_000_000_000,
            whole: Some(growth("/", of_whole)),
            folders: Some(vec![(growth("/srv/app/tmp", 3 * GIB), owner)]),
        }
    }

    #[test]
    fn a_folder_is_told_where_no_writer_is_seen() {
        let mut told = finding();
        tell(&grown(3 * GIB, None), true, &mut told);
        assert_eq!(
            told.summary,
            "/ is 86 % full; /srv/app/tmp +3.0 GiB since 2026-11-21 02:04 UTC, 42.0 MiB/s of late"
        );
        assert!(told.explanation.ends_with("(walked 2026-11-21 02:05 UTC)."), "{}", told.explanation);
        assert_eq!((told.facts[0].key.as_str(), told.pod), (FIRST, None));
        let mut with_writer = finding();
        with_writer.facts.push(Fact::new("writer_1", "x"));
        tell(&grown(3 * GIB, None), true, &mut with_writer);
        assert_eq!(with_writer.summary, "/ is 86 % full.", "the writer is what the summary names");
    }

    #[test]
    fn a_pod_is_named_only_by_its_own_folder_with_most_of_the_growth() {
        let pod = Pod { namespace: "shop".into(), name: "web-1".into(), uid: "u".into(), ..Pod::default() };
        let owner = || Some(Owner { pod: pod.clone(), part: "emptyDir cache".into(), is_alone: true });
        let mut told = finding();
        tell(&grown(3 * GIB, owner()), true, &mut told);
        assert_eq!(told.pod.as_ref(), Some(&pod));
        assert!(
            told.summary.contains("/srv/app/tmp (emptyDir cache of pod shop/web-1) +3.0 GiB"),
            "{}",
            told.summary
        );
        let mut part = finding();
        tell(&grown(8 * GIB, owner()), true, &mut part);
        assert_eq!(part.pod, None, "three of eight is not most");
        // Others may write there too, or have written since.
        let mut stale = finding();
        tell(&grown(3 * GIB, owner()), false, &mut stale);
        let shared = owner().map(|o| Owner { is_alone: false, ..o });
        let mut volume = finding();
        tell(&grown(3 * GIB, shared), true, &mut volume);
        let mut over = grown(3 * GIB, owner());
        over.folders.iter_mut().flatten().for_each(|(g, _)| g.bytes_per_second = 0.0);
        let mut calm = finding();
        tell(&over, true, &mut calm);
        assert_eq!((stale.pod, volume.pod, calm.pod), (None, None, None));
        let mut nothing = finding();
        tell(&Grown { folders: Some(Vec::new()), ..grown(0, None) }, true, &mut nothing);
        assert_eq!(nothing, finding());
    }
}
