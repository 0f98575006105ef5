//! Topics and ties: what findings of one node may have in common.
//!
//! A topic is a short text that an incident carries (`disk:/var`, `device:sda`, `memory`, `security`, `silent`, …).
//! Findings about a mount have `disk:MOUNT` whatever their rule; log rules are sorted by the words of their names, so that
//! a rule that a user adds (`app-oom-kill`) lands where its name says. Only `security`, which makes an incident hold its nodes,
//! is what a finding says of itself, where it says it.
//!
//! Some topics name nothing and meet those of their kind that do ([`meets`]): `disk` (a line that says that some disk is
//! full or broken), `io` (the node's I/O stands still, or tasks hang in it) and `memory` (the node's).
//!
//! Besides, a finding has *links*: mount, device, pod, cgroup or process by name. Two that share one are about the same
//! thing whatever their topics.

use dogwatch::record::Finding;

/// The topic of a disk that nobody named.
pub(super) const SOME_DISK: &str = "disk";
/// The topic of I/O that stands still, on a device that nobody named.
pub(super) const SOME_IO: &str = "io";
/// The topic of the node's memory.
pub(super) const MEMORY: &str = "memory";
/// Longest name within a topic or title, in characters: names come from nodes.
const MAX_NAME_CHARS: usize = 120;
/// Longest summary of a finding that is repeated whole: it may name a path, a process and a pod.
const MAX_WORDS_CHARS: usize = 1_024;
/// Mounts of one device that make links: a node of hundreds of pods mounts one disk hundreds of times.
const MAX_MOUNTS: usize = 64;
/// Further subjects that a title names; how many there are besides is said.
const MAX_NAMED: usize = 3;
/// Further subjects that an incident is told to be about, each of which is a decision; beyond it the title says so.
pub(super) const MAX_ABOUT: usize = 64;

const DISK_WORDS: [&str; 12] = [
    "disk",
    "enospc",
    "inode",
    "inodes",
    "filesystem",
    "fs",
    "ext4",
    "xfs",
    "btrfs",
    "mount",
    "readonly",
    "space",
];
const IO_WORDS: [&str; 2] = ["io", "hung"];
const MEMORY_WORDS: [&str; 3] = ["oom", "memory", "swap"];
/// The fact by which a finding says whether it is of somebody who gets in, or tries to.
const SECURITY_FACT: &str = "security";
/// By these, where a log rule does not say so itself.
const SECURITY_WORDS: [&str; 10] = [
    "login",
    "logins",
    "auth",
    "authentication",
    "ssh",
    "sshd",
    "sudo",
    "password",
    // What a user names so, e.g. `security-module-loaded`.
    "security",
    "intrusion",
];

/// What `finding` is about, as a topic.
pub(super) fn topic(finding: &Finding) -> String {
    let name = shown(&finding.subject.name);
    if is_security(finding) {
        return "security".to_owned();
    }
    match finding.subject.kind.as_str() {
        "mount" => disk(&name),
        "memory" => MEMORY.to_owned(),
        "disk" => format!("device:{name}"),
        "node" if says(&finding.rule, &["silent"]) => "silent".to_owned(),
        kind => {
            if says(&finding.rule, &MEMORY_WORDS) {
                match kind {
                    "pod" | "cgroup" => {
                        subject(finding).map_or_else(|| MEMORY.to_owned(), |s| format!("memory:{s}"))
                    }
                    _ => MEMORY.to_owned(),
                }
            } else if says(&finding.rule, &DISK_WORDS) {
                fact(finding, "mount").map_or_else(|| SOME_DISK.to_owned(), |m| disk(&shown(m)))
            } else if says(&finding.rule, &IO_WORDS) {
                SOME_IO.to_owned()
            } else {
                match kind {
                    "log" => format!("log:{}", shown(&finding.rule)),
                    "address" => format!("access:{name}"),
                    "node" => format!("node:{}", shown(&finding.rule)),
                    "pod" => format!("pod:{}", pod(finding).unwrap_or(name)),
                    other => format!("{}:{name}", shown(other)),
                }
            }
        }
    }
}

/// Whether `finding` is of somebody who gets in, or tries to. It says so itself; of log rules that do not, the name does. What
/// the detectors and the collector find by themselves is never that because of a word in its name.
fn is_security(finding: &Finding) -> bool {
    match fact(finding, SECURITY_FACT) {
        Some(said) => said == "true",
        None => finding.subject.kind == "log" && says(&finding.rule, &SECURITY_WORDS),
    }
}

/// The topic of everything about the filesystem at `mount`.
pub(super) fn disk(mount: &str) -> String {
    format!("disk:{mount}")
}

/// The link to what `finding` is about, where that is something with a name of its own: `mount /var`, `device sda`,
/// `pod shop/api-1`, `cgroup /a/b`, `process java (7)`, `interface eth0`.
pub(super) fn subject(finding: &Finding) -> Option<String> {
    let name = shown(&finding.subject.name);
    match finding.subject.kind.as_str() {
        "disk" => Some(format!("device {name}")),
        "pod" => Some(format!("pod {}", pod(finding).unwrap_or(name))),
        kind @ ("mount" | "cgroup" | "process" | "interface") => Some(format!("{kind} {name}")),
        _ => None,
    }
}

/// Everything that `finding` names: its subject, and the mount, device and pod that it tells of.
pub(super) fn links(finding: &Finding) -> Vec<String> {
    let mut links: Vec<String> = subject(finding).into_iter().collect();
    let mut add = |link: String| {
        if !links.contains(&link) {
            links.push(link);
        }
    };
    // Only a block device is one filesystem's: `tmpfs` and `overlay` are what many mounts say.
    let device = fact(finding, "device_name").map(|d| (d.strip_prefix("/dev/"), d));
    match device {
        Some((Some(name), _)) => add(format!("device {}", shown(name))),
        Some((None, name)) if finding.subject.kind == "disk" => add(format!("device {}", shown(name))),
        _ => {}
    }
    if let Some(mount) = fact(finding, "mount") {
        add(format!("mount {}", shown(mount)));
    }
    for mount in fact(finding, "mounts_name").into_iter().flat_map(|m| m.split(", ")).take(MAX_MOUNTS) {
        add(format!("mount {}", shown(mount)));
    }
    // Who tries to log in says nothing of how the pod is whose log tells it.
    if let Some(pod) = pod(finding).filter(|_| !is_security(finding)) {
        add(format!("pod {pod}"));
    }
    links
}

/// The link that a topic is about, where it names one.
pub(super) fn link_of(topic: &str) -> Option<String> {
    let (kind, name) = topic.split_once(':')?;
    match kind {
        "disk" => Some(format!("mount {name}")),
        "memory" => Some(name.to_owned()),
        "device" | "pod" | "cgroup" | "process" | "interface" => Some(format!("{kind} {name}")),
        _ => None,
    }
}

/// Whether `topic` is of a disk that is still without a name: the first that joins gives it one.
pub(super) fn is_nameless(topic: &str) -> bool {
    topic == SOME_DISK || topic == SOME_IO
}

/// Whether findings of topics `a` and `b` may share an incident.
pub(super) fn meets(a: &str, b: &str) -> bool {
    a == b || kin(a, b) || kin(b, a)
}

/// Whether `open`, which names nothing, may be about what `named` names.
pub(super) fn kin(open: &str, named: &str) -> bool {
    match open {
        SOME_DISK => named.starts_with("disk:") || named.starts_with("device:"),
        SOME_IO => named.starts_with("device:"),
        MEMORY => named.starts_with("memory:"),
        _ => false,
    }
}

/// What two findings whose topics meet have in common, in words.
pub(super) fn shared(a: &str, b: &str) -> &'static str {
    let one_is = |topic: &str| a == topic || b == topic;
    if a == b && a.starts_with("disk:") {
        "same node and mount"
    } else if a == b && a.starts_with("device:") {
        "same node and device"
    } else if one_is(SOME_DISK) {
        "same node, a disk that is not named"
    } else if one_is(SOME_IO) {
        "same node, I/O that does not get on"
    } else if one_is(MEMORY) {
        "same node, memory too"
    } else if one_is("security") {
        "same node, logins and rights too"
    } else {
        "same node and subject"
    }
}

/// An incident's title: what it was opened for, and what else has come to it since.
pub(super) fn whole_title(lead: &str, further: &[String]) -> String {
    let said = |link: &String| match link.split_once(' ') {
        Some(("mount", name)) => name.to_owned(),
        Some(("device", name)) => format!("disk {name}"),
        _ => link.clone(),
    };
    let named: Vec<String> = further.iter().take(MAX_NAMED).map(said).collect();
    match (named.split_last(), further.len().saturating_sub(MAX_NAMED)) {
        (None, _) => lead.to_owned(),
        (Some((only, [])), 0) => format!("{lead}; also {only}"),
        (Some((last, others)), 0) => format!("{lead}; also {} and {last}", others.join(", ")),
        (_, more) if further.len() >= MAX_ABOUT => {
            format!("{lead}; also {} and at least {more} more", named.join(", "))
        }
        (_, more) => format!("{lead}; also {} and {more} more", named.join(", ")),
    }
}

/// One line that says what an incident is about. It outlives the finding that it was made of, so that no figure is in it:
/// findings have theirs as of now.
pub(super) fn title(node: &str, finding: &Finding) -> String {
    let name = shown(&finding.subject.name);
    let rule = finding.rule.as_str();
    match finding.subject.kind.as_str() {
        "mount" if says(rule, &["inode", "inodes"]) => format!("inodes of {name} running out on {node}"),
        "mount" if says(rule, &["readonly", "read"]) => format!("filesystem {name} read-only on {node}"),
        "mount" if says(rule, &["disk", "space"]) => format!("disk {name} filling on {node}"),
        "memory" if !says(rule, &["oom"]) => format!("memory short on {node}"),
        "node" if says(rule, &["silent"]) => format!("{node} is silent"),
        _ if says(rule, &["oom"]) => {
            let victim = fact(finding, "victim_name").map(|v| format!(" {}", shown(v))).unwrap_or_default();
            // The pod or group whose limit it was; the node is named in any case.
            let of = subject(finding).filter(|_| matches!(finding.subject.kind.as_str(), "pod" | "cgroup"));
            let of = of.map(|link| format!(" of {link}")).unwrap_or_default();
            format!("process{victim}{of} killed for want of memory on {node}")
        }
        _ if says(rule, &["login", "logins"]) => format!("failed logins on {node}"),
        "node" => format!("{} on {node}", shown(rule).replace('-', " ")),
        _ => format!("{} on {node}: {name}", shown(rule).replace('-', " ")),
    }
}

/// A name on one line and of bounded length; characters that steer a terminal become a blank.
pub(super) fn shown(name: &str) -> String {
    one_line(name, MAX_NAME_CHARS)
}

/// The same of what a node says of its finding, whole as far as any honest node says it.
pub(super) fn told(words: &str) -> String {
    one_line(words, MAX_WORDS_CHARS)
}

fn one_line(text: &str, max_chars: usize) -> String {
    let mut out: String =
        text.chars().take(max_chars).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(max_chars).is_some() {
        out.push('…');
    }
    out
}

/// The value of fact `key`.
pub(super) fn fact<'f>(finding: &'f Finding, key: &str) -> Option<&'f str> {
    finding.facts.iter().find(|f| f.key == key).map(|f| f.value.as_str())
}

/// `namespace/name` of the pod that `finding` is about; its uid where the names are not known.
fn pod(finding: &Finding) -> Option<String> {
    if let Some(pod) = &finding.pod {
        let name = match pod.name.is_empty() {
            true => pod.uid.clone(),
            false => format!("{}/{}", pod.namespace, pod.name),
        };
        return (!name.is_empty()).then(|| shown(&name));
    }
    if finding.subject.kind != "pod" {
        return None;
    }
    let parts: Vec<&str> = finding.subject.name.splitn(3, '/').take(2).collect();
    Some(shown(&parts.join("/")))
}

/// Whether `rule` has one of `words` among its words, which `-`, `_` and `.` part.
fn says(rule: &str, words: &[&str]) -> bool {
    rule.split(['-', '_', '.', '/', ' ']).any(|part| words.iter().any(|w| part.eq_ignore_ascii_case(w)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::finding;
    use super::*;
    use dogwatch::record::{Fact, Pod};

    #[test]
    fn findings_are_sorted_into_families() {
        let with_mount = {
            let mut f = finding("f-1", "kernel-fs-error", "log", "kmsg");
            f.facts.push(Fact::new("mount", "/data"));
            f
        };
        assert_eq!(topic(&with_mount), "disk:/data");
        for (rule, kind, name, expected) in [
            ("disk-high-water", "mount", "/var", "disk:/var"),
            ("inode-high-water", "mount", "/var", "disk:/var"),
            ("disk-time-to-full", "mount", "/var", "disk:/var"),
            ("filesystem-read-only", "mount", "/", "disk:/"),
            ("no-space-left", "log", "kmsg", "disk"),
            ("memory-pressure", "memory", "node-1", "memory"),
            ("oom-kill", "log", "kmsg", "memory"),
            ("failed-login", "log", "/var/log/auth.log", "security"),
            ("sshd-intrusion", "log", "/var/log/auth.log", "security"),
            ("ssh-failed-logins", "address", "203.0.113.9", "access:203.0.113.9"),
            ("security-not-held", "incident", "inc-2026-01-01-001", "incident:inc-2026-01-01-001"),
            ("node-silent", "node", "node-1", "silent"),
            ("clock-jump", "node", "node-1", "node:clock-jump"),
            ("connection-refused", "address", "203.0.113.9", "access:203.0.113.9"),
            ("equivocation", "stream", "urgent", "stream:urgent"),
            ("panic", "log", "kmsg", "log:panic"),
            ("author-missing", "log", "x", "log:author-missing"),
            ("disk-errors", "disk", "sda", "device:sda"),
            ("io-stall", "disk", "sda", "device:sda"),
            ("io-stall", "node", "node-1", "io"),
            ("hung-tasks", "process", "tar (7)", "io"),
            ("cgroup-memory-pressure", "pod", "shop/api/web", "memory:pod shop/api"),
            ("oom-kill", "cgroup", "/a/b", "memory:cgroup /a/b"),
            ("container-crash-loop", "pod", "shop/api/web", "pod:shop/api"),
        ] {
            assert_eq!(topic(&finding("f-1", rule, kind, name)), expected, "{rule}");
        }
    }

    #[test]
    fn a_finding_is_of_security_where_it_says_so_and_not_where_it_says_that_it_is_not() {
        let said = |rule: &str, security: Option<bool>| {
            let mut f = finding("f-1", rule, "log", "/var/log/app.log");
            f.facts.extend(security.map(|s| Fact::new("security", s)));
            f.pod = Some(Pod { uid: "u".to_owned(), ..Pod::default() });
            (topic(&f), links(&f).is_empty())
        };
        assert_eq!(said("shell-in-container", Some(true)), ("security".to_owned(), true));
        assert_eq!(said("oom-kill", Some(true)).0, "security");
        assert_eq!(said("auth-cache-miss", Some(false)), ("log:auth-cache-miss".to_owned(), false));
        assert_eq!(said("auth-cache-miss", None), ("security".to_owned(), true));
        assert_eq!(said("shell-in-container", None).0, "log:shell-in-container");
    }

    #[test]
    fn what_names_nothing_meets_what_does_and_names_meet_only_themselves() {
        for (open, named) in [
            ("disk", "disk:/var"),
            ("disk", "device:sda"),
            ("io", "device:sda"),
            ("memory", "memory:pod a/b"),
        ] {
            assert!(meets(open, named) && meets(named, open), "{open} {named}");
        }
        assert!(meets("disk:/a", "disk:/a"));
        for (a, b) in [
            ("disk:/a", "disk:/b"),
            ("disk", "memory"),
            ("io", "disk:/a"),
            ("memory:pod a/b", "memory:pod a/c"),
            ("disk", "io"),
        ] {
            assert!(!meets(a, b) && !meets(b, a), "{a} {b}");
        }
    }

    #[test]
    fn links_name_the_filesystem_its_device_and_the_pod() {
        let mut f = finding("f-1", "mount-read-only", "mount", "/data");
        f.facts = vec![Fact::new("device_name", "/dev/sdb1")];
        assert_eq!(links(&f), ["mount /data", "device sdb1"]);
        f.facts = vec![Fact::new("device_name", "tmpfs")];
        assert_eq!(links(&f), ["mount /data"], "what many mounts have is no device");
        let mut f = finding("f-2", "disk-errors", "disk", "sdb");
        f.facts = vec![Fact::new("device_name", "sdb1"), Fact::new("mount", "/data")];
        assert_eq!(links(&f), ["device sdb", "device sdb1", "mount /data"]);
        f.facts = vec![Fact::new("mounts_name", "/data, /srv")];
        assert_eq!(links(&f), ["device sdb", "mount /data", "mount /srv"]);
        let f = finding("f-3", "container-crash-loop", "pod", "shop/api/web");
        assert_eq!(links(&f), ["pod shop/api"]);
        for topic in ["disk:/data", "device:sdb", "memory:pod shop/api", "pod:shop/api"] {
            let link = link_of(topic).unwrap();
            assert!(link.ends_with("/data") || link == "device sdb" || link == "pod shop/api", "{link}");
        }
        assert_eq!(link_of("security"), None);
    }

    #[test]
    fn a_title_names_a_few_of_what_came_and_counts_the_rest() {
        let further: Vec<String> =
            ["mount /b", "device sda", "pod a/b", "mount /c", "mount /d"].map(str::to_owned).to_vec();
        let told = |n: usize| whole_title("disk /a filling on n", &further[..n]);
        assert_eq!(told(0), "disk /a filling on n");
        assert_eq!(told(1), "disk /a filling on n; also /b");
        assert_eq!(told(3), "disk /a filling on n; also /b, disk sda and pod a/b");
        assert_eq!(told(5), "disk /a filling on n; also /b, disk sda, pod a/b and 2 more");
    }

    #[test]
    fn titles_are_one_line_and_age_well() {
        let mut f = finding("f-1", "disk-high-water", "mount", "/var");
        assert_eq!(title("node-1", &f), "disk /var filling on node-1");
        f.facts = vec![
            Fact::new("available_bytes", 6_000),
            Fact::new("total_bytes", 100_000),
            Fact::new("used_percent", "93.71"),
        ];
        assert_eq!(title("node-1", &f), "disk /var filling on node-1", "an hour later it is another figure");
        f.subject.name = "/a\n\u{1b}[2J".into();
        assert_eq!(title("node-1", &f), "disk /a  [2J filling on node-1");
        f.rule = "filesystem-read-only".into();
        f.subject.name = "/".into();
        assert_eq!(title("node-1", &f), "filesystem / read-only on node-1");
    }

    #[test]
    fn a_title_names_whom_the_kernel_killed_and_whose_limit_it_was() {
        let told = |kind: &str, name: &str, victim: &str| {
            let mut f = finding("f", "oom-kill", kind, name);
            f.facts.extend((!victim.is_empty()).then(|| Fact::new("victim_name", victim)));
            title("n", &f)
        };
        assert_eq!(told("log", "kmsg", ""), "process killed for want of memory on n");
        assert_eq!(
            told("memory", "n", "java (pid 7)"),
            "process java (pid 7) killed for want of memory on n"
        );
        assert_eq!(
            told("pod", "shop/pay/web", "java (pid 7)"),
            "process java (pid 7) of pod shop/pay killed for want of memory on n"
        );
        assert_eq!(
            told("cgroup", "/a/b", "x\u{1b}[2J"),
            "process x [2J of cgroup /a/b killed for want of memory on n"
        );
        let long = told("memory", "n", &"x".repeat(10_000));
        assert!(long.chars().count() < 200, "{long}");
    }
}
