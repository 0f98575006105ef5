//! Topics: what findings of one node may have in common.
//!
//! A topic is a short text that an incident carries (`disk:/var`, `memory`, `security`, `silent`, …). Findings about a
//! mount share `disk:MOUNT` whatever their rule; log rules are sorted by the words of their names, so that a rule that a
//! user adds (`app-oom-kill`) lands where its name says. A log line that speaks of a full disk without naming a mount
//! has the topic `disk`, which meets any mount's.

use dogwatch::record::Finding;

/// The topic of a disk that nobody named.
pub(super) const SOME_DISK: &str = "disk";
/// Longest name within a topic or title, in characters: names come from nodes.
const MAX_NAME_CHARS: usize = 120;

const DISK_WORDS: [&str; 13] = [
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
    "io",
    "space",
];
const MEMORY_WORDS: [&str; 3] = ["oom", "memory", "swap"];
const SECURITY_WORDS: [&str; 8] =
    ["login", "logins", "auth", "authentication", "ssh", "sshd", "sudo", "password"];

/// What `finding` is about, as a topic.
pub(super) fn topic(finding: &Finding) -> String {
    let name = shown(&finding.subject.name);
    match finding.subject.kind.as_str() {
        "mount" => disk(&name),
        "memory" => "memory".to_owned(),
        "node" if says(&finding.rule, &["silent"]) => "silent".to_owned(),
        kind => {
            if says(&finding.rule, &SECURITY_WORDS) {
                "security".to_owned()
            } else if says(&finding.rule, &MEMORY_WORDS) {
                "memory".to_owned()
            } else if says(&finding.rule, &DISK_WORDS) {
                fact(finding, "mount").map_or_else(|| SOME_DISK.to_owned(), |m| disk(&shown(m)))
            } else {
                match kind {
                    "log" => format!("log:{}", shown(&finding.rule)),
                    "address" => format!("access:{name}"),
                    "node" => format!("node:{}", shown(&finding.rule)),
                    other => format!("{}:{name}", shown(other)),
                }
            }
        }
    }
}

/// The topic of everything about the filesystem at `mount`.
pub(super) fn disk(mount: &str) -> String {
    format!("disk:{mount}")
}

/// Whether findings of topics `a` and `b` may share an incident.
pub(super) fn meets(a: &str, b: &str) -> bool {
    let any_disk = |one: &str, other: &str| one == SOME_DISK && other.starts_with("disk:");
    a == b || any_disk(a, b) || any_disk(b, a)
}

/// What two findings of `topic` have in common, in words.
pub(super) fn shared(topic: &str) -> &'static str {
    if topic.starts_with("disk:") {
        "same node and mount"
    } else if topic == SOME_DISK {
        "same node, a disk too"
    } else if topic == "memory" {
        "same node, memory too"
    } else if topic == "security" {
        "same node, logins and rights too"
    } else {
        "same node and subject"
    }
}

/// One line that says what an incident is about, with the figure that is known when it opens.
pub(super) fn title(node: &str, finding: &Finding) -> String {
    let name = shown(&finding.subject.name);
    let rule = finding.rule.as_str();
    let mut title = match finding.subject.kind.as_str() {
        "mount" if says(rule, &["inode", "inodes"]) => format!("inodes of {name} running out on {node}"),
        "mount" if says(rule, &["readonly", "read"]) => format!("filesystem {name} read-only on {node}"),
        "mount" if says(rule, &["disk", "space"]) => format!("disk {name} filling on {node}"),
        "memory" if !says(rule, &["oom"]) => format!("memory short on {node}"),
        "node" if says(rule, &["silent"]) => format!("{node} is silent"),
        _ if says(rule, &["oom"]) => format!("process killed for want of memory on {node}"),
        _ if says(rule, &["login", "logins"]) => format!("failed logins on {node}"),
        "node" => format!("{} on {node}", shown(rule).replace('-', " ")),
        _ => format!("{} on {node}: {name}", shown(rule).replace('-', " ")),
    };
    if let Some(figure) = figure(finding) {
        title.push_str(": ");
        title.push_str(&figure);
    }
    title
}

/// `text` on one line and of bounded length; characters that steer a terminal become a blank.
pub(super) fn shown(text: &str) -> String {
    let mut out: String =
        text.chars().take(MAX_NAME_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_NAME_CHARS).is_some() {
        out.push('…');
    }
    out
}

/// The value of fact `key`.
pub(super) fn fact<'f>(finding: &'f Finding, key: &str) -> Option<&'f str> {
    finding.facts.iter().find(|f| f.key == key).map(|f| f.value.as_str())
}

/// How much is used or left, where the facts tell.
fn figure(finding: &Finding) -> Option<String> {
    let number = |key: &str| fact(finding, key)?.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
    if let Some(used) = number("used_percent").filter(|u| *u <= 100.0) {
        return Some(format!("{used:.0} % used"));
    }
    let (left, all) = if says(&finding.rule, &["inode", "inodes"]) {
        (number("free_inodes")?, number("total_inodes")?)
    } else {
        (number("available_bytes")?, number("total_bytes")?)
    };
    (all > 0.0 && left <= all).then(|| format!("{:.0} % left", left / all * 100.0))
}

/// Whether `rule` has one of `words` among its words, which `-`, `_` and `.` part.
fn says(rule: &str, words: &[&str]) -> bool {
    rule.split(['-', '_', '.', '/', ' ']).any(|part| words.iter().any(|w| part.eq_ignore_ascii_case(w)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::finding;
    use super::*;
    use dogwatch::record::Fact;

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
            ("ssh-failed-logins", "address", "203.0.113.9", "security"),
            ("node-silent", "node", "node-1", "silent"),
            ("clock-jump", "node", "node-1", "node:clock-jump"),
            ("connection-refused", "address", "203.0.113.9", "access:203.0.113.9"),
            ("equivocation", "stream", "urgent", "stream:urgent"),
            ("panic", "log", "kmsg", "log:panic"),
            ("author-missing", "log", "x", "log:author-missing"),
        ] {
            assert_eq!(topic(&finding("f-1", rule, kind, name)), expected, "{rule}");
        }
    }

    #[test]
    fn a_disk_without_a_name_meets_every_mount_and_nothing_else() {
        assert!(meets("disk", "disk:/var") && meets("disk:/var", "disk") && meets("disk:/a", "disk:/a"));
        assert!(!meets("disk:/a", "disk:/b") && !meets("disk", "memory"));
    }

    #[test]
    fn titles_are_one_line_with_the_figure_at_hand() {
        let mut f = finding("f-1", "disk-high-water", "mount", "/var");
        assert_eq!(title("node-1", &f), "disk /var filling on node-1");
        f.facts = vec![Fact::new("available_bytes", 6_000), Fact::new("total_bytes", 100_000)];
        assert_eq!(title("node-1", &f), "disk /var filling on node-1: 6 % left");
        f.facts.push(Fact::new("used_percent", "93.71"));
        assert_eq!(title("node-1", &f), "disk /var filling on node-1: 94 % used");
        f.facts.pop();
        f.facts[1].value = "0".into();
        f.subject.name = "/a\n\u{1b}[2J".into();
        assert_eq!(title("node-1", &f), "disk /a  [2J filling on node-1");
        f.rule = "filesystem-read-only".into();
        f.subject.name = "/".into();
        assert_eq!(title("node-1", &f), "filesystem / read-only on node-1");
        assert_eq!(
            title("n", &finding("f", "oom-kill", "log", "kmsg")),
            "process killed for want of memory on n"
        );
    }
}
