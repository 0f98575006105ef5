//! Words: what a record says, in one line for people. Pure.
//!
//! The line that an event shows is the line that a search looks at ([`crate::sieve`]), so both come from here.
//!
//! Deliberately absent: the wire, and times (whoever shows a record shows when).

use std::borrow::Cow;

use dogwatch::record::{Action, ActionState, Body, Cpu, Gap, Record, Sample, Severity};

/// Refusals of objects that an action's line tells; the rest is counted.
const REFUSALS_TOLD: usize = 2;

/// How bad what a record says is.
pub fn severity(record: &Record) -> Severity {
    match &record.body {
        Body::Finding(f) => f.severity,
        Body::Gap(_) => Severity::Low,
        Body::Action(a) if matches!(a.state, ActionState::Failed) => Severity::Medium,
        _ => Severity::Info,
    }
}

/// What a record is about or came from: a log's path, `sampler`, a finding's subject, `mount /var`, a gap's source.
pub fn source(record: &Record) -> Cow<'_, str> {
    match &record.body {
        Body::Sample(_) => "sampler".into(),
        Body::Log(l) => l.source.as_str().into(),
        Body::Finding(f) => f.subject.to_string().into(),
        Body::Action(a) => format!("mount {}", a.mount).into(),
        Body::Gap(g) => g.source.as_str().into(),
        Body::Note(_) => "agent".into(),
        Body::File(_) => "executor".into(),
    }
}

/// What a record says in one line; a log line as it is, with what is not UTF-8 replaced.
pub fn message(record: &Record) -> Cow<'_, str> {
    match &record.body {
        Body::Sample(s) => sample(s).into(),
        Body::Log(l) => String::from_utf8_lossy(&l.line),
        Body::Finding(f) => f.summary.as_str().into(),
        Body::Action(a) => action(a).into(),
        Body::Gap(g) => gap(g).into(),
        Body::Note(n) => n.as_str().into(),
        Body::File(f) => f.to_string().into(),
    }
}

/// The state of an action, what asked for it, and where it did not come to pass, why.
pub fn action(a: &Action) -> String {
    let mut text = format!("cleanup {}: {}", a.state.as_str(), a.reason);
    let whys: Vec<&str> = whys(a).collect();
    if !whys.is_empty() {
        text = format!("{text}; {}", whys.join("; "));
    }
    let refused = a.refused.iter().filter(|r| r.path.is_some()).count();
    if a.objects.is_empty() && refused > 0 {
        let told =
            a.refused.iter().filter_map(|r| r.path.as_ref().map(|p| (p, &r.reason))).take(REFUSALS_TOLD);
        let told: Vec<String> = told.map(|(p, why)| format!("{}: {why}", p.display())).collect();
        text = format!("{text}; passed over {refused}, e.g. {}", told.join(", "));
    }
    text
}

/// Why an action as a whole did not come to pass, or what its plan comes to: the refusals that name no object, and its
/// own words.
fn whys(a: &Action) -> impl Iterator<Item = &str> {
    let whole = a.refused.iter().filter(|r| r.path.is_none()).map(|r| r.reason.as_str());
    // The words of a refusal that has its reason in `refused` say it once more.
    let detail = Some(a.detail.as_str()).filter(|d| !d.is_empty());
    let repeated = move |d: &&str| !a.refused.iter().any(|r| r.path.is_none() && d.contains(&r.reason));
    whole.chain(detail.filter(repeated))
}

/// Why an action was refused: in its plan's own words where nothing was chosen, else in those of whoever refused it whole.
pub fn refusal(a: &Action) -> String {
    let whole: Vec<&str> = a.refused.iter().filter(|r| r.path.is_none()).map(|r| r.reason.as_str()).collect();
    if whole.is_empty() || (a.objects.is_empty() && !a.detail.is_empty()) {
        a.detail.clone()
    } else {
        whole.join("; ")
    }
}

fn gap(g: &Gap) -> String {
    match g.count {
        Some(n) => format!("{n} {} records lost: {}", g.stream, g.reason),
        None => format!("{} records lost, nobody knows how many: {}", g.stream, g.reason),
    }
}

fn sample(s: &Sample) -> String {
    let mut parts = Vec::new();
    if let Some(c) = &s.cpu {
        parts.push(format!("load {:.2} on {} CPUs", c.load1, c.online));
    }
    if let Some(m) = &s.memory {
        let used = percent(m.total_bytes.saturating_sub(m.available_bytes), m.total_bytes);
        parts.push(format!("memory {used} used, {} available", bytes(m.available_bytes)));
    }
    let fullest = s
        .mounts
        .iter()
        .filter(|m| m.total_bytes > 0 && !m.read_only)
        .min_by(|a, b| a.available_fraction().total_cmp(&b.available_fraction()));
    if let Some(m) = fullest {
        let free = format!("{} available", bytes(m.available_bytes));
        let used = percent(m.total_bytes - m.available_bytes.min(m.total_bytes), m.total_bytes);
        parts.push(format!("fullest mount {} at {used}, {free}", m.path));
    }
    if let Some(p) = s.processes.iter().max_by(|a, b| a.cpu_percent.total_cmp(&b.cpu_percent))
        && p.cpu_percent >= 1.0
    {
        parts.push(format!("busiest process {} ({}) at {:.0} %", p.name, p.pid, p.cpu_percent));
    }
    if !s.failed.is_empty() {
        parts.push(format!("{} probes failed, e.g. {}", s.failed.len(), s.failed[0]));
    }
    if parts.is_empty() { "nothing could be read".to_owned() } else { parts.join(", ") }
}

/// Per cent of the CPUs' time between two samples in which they were busy, waiting for I/O not included; `None` where
/// the later one is of another boot.
pub fn busy_percent(earlier: &Cpu, later: &Cpu) -> Option<f64> {
    let sum = |c: &Cpu| {
        let busy = c.user_us + c.nice_us + c.system_us + c.irq_us + c.softirq_us + c.steal_us;
        (busy, busy + c.idle_us + c.iowait_us)
    };
    let ((busy0, all0), (busy1, all1)) = (sum(earlier), sum(later));
    let (busy, all) = (busy1.checked_sub(busy0)?, all1.checked_sub(all0)?);
    (all > 0).then(|| (busy as f64 / all as f64 * 100.0).min(100.0))
}

/// Bytes in the unit that suits them, as the tables of `dogwatch` show them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A length of time in the unit that suits it.
pub fn span(seconds: i64) -> String {
    match seconds {
        s @ ..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "0 %".to_owned() } else { format!("{:.0} %", part as f64 / whole as f64 * 100.0) }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{CleanupMode, Memory, Mount, Refusal};

    use super::*;

    fn refused(detail: &str, refused: Vec<Refusal>) -> Action {
        Action {
            id: "a-1".into(),
            mount: "/var".into(),
            mode: CleanupMode::Plan,
            state: ActionState::Refused,
            reason: "/var is full".into(),
            finding_id: None,
            actor: "node".into(),
            planned_bytes: 0,
            freed_bytes: None,
            available_before_bytes: None,
            available_after_bytes: None,
            unexplained: None,
            target_available_bytes: 0,
            objects: Vec::new(),
            refused,
            expires_wall_ns: 0,
            image_store: None,
            detail: detail.into(),
        }
    }

    #[test]
    fn a_refused_action_says_why() {
        let whole = |why: &str| Refusal { path: None, reason: why.into() };
        let said = action(&refused("nothing could be planned: no root", vec![whole("no survey: no root")]));
        assert_eq!(
            said,
            "cleanup refused: /var is full; no survey: no root; nothing could be planned: no root"
        );
        let twice = action(&refused("over the budget", vec![whole("over the budget")]));
        assert_eq!(twice, "cleanup refused: /var is full; over the budget");
        let young = Refusal { path: Some("/var/log/a.log.1".into()), reason: "younger than 1 h".into() };
        let said = action(&refused("1.0 GiB are wanted and nothing may go", vec![young]));
        assert!(said.ends_with("passed over 1, e.g. /var/log/a.log.1: younger than 1 h"), "{said}");
    }

    #[test]
    fn the_cause_of_a_refusal_is_no_file_that_stays() {
        let young = Refusal { path: Some("/var/log/a.log.1".into()), reason: "younger than 1 h".into() };
        let more = Refusal { path: None, reason: "7 more stay, for reasons like these".into() };
        let planned = refused("nothing needs to go: 29.5 MiB are available", vec![young.clone(), more]);
        assert_eq!(refusal(&planned), "nothing needs to go: 29.5 MiB are available");
        let late = Refusal { path: None, reason: "the plan has expired: make a new one".into() };
        let only = refused("", vec![young, late]);
        assert_eq!(refusal(&only), "the plan has expired: make a new one");
    }

    #[test]
    fn a_sample_tells_load_memory_and_the_fullest_mount() {
        let mount = |path: &str, available_bytes| Mount {
            path: path.into(),
            total_bytes: 100 << 30,
            available_bytes,
            ..Mount::default()
        };
        let s = Sample {
            mounts: vec![mount("/", 50 << 30), mount("/var", 9 << 30)],
            memory: Some(Memory { total_bytes: 8 << 30, available_bytes: 2 << 30, ..Memory::default() }),
            cpu: Some(Cpu { online: 2, load1: 1.5, ..Cpu::default() }),
            ..Sample::default()
        };
        assert_eq!(
            sample(&s),
            "load 1.50 on 2 CPUs, memory 75 % used, 2.0 GiB available, fullest mount /var at 91 %, 9.0 GiB available"
        );
        assert_eq!(sample(&Sample::default()), "nothing could be read");
    }

    #[test]
    fn time_of_the_cpus_between_two_samples_is_a_percentage() {
        let at = |user_us, idle_us| Cpu { user_us, idle_us, ..Cpu::default() };
        assert_eq!(busy_percent(&at(100, 100), &at(125, 175)), Some(25.0));
        assert_eq!(busy_percent(&at(100, 100), &at(100, 100)), None);
        assert_eq!(busy_percent(&at(100, 100), &at(5, 5)), None, "another boot");
    }
}
