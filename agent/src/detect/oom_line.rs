//! What the kernel prints when it kills for memory (`mm/oom_kill.c`), of 3.10 to 6.x.
//!
//! Names of processes are theirs to choose (15 bytes, with parentheses, commas, colons), and paths of groups may have
//! commas: lines are anchored at their fixed text, and names are bounded by what follows them, not by what precedes.

/// Bytes of a `comm` at most (`TASK_COMM_LEN` without its NUL).
const COMM_BYTES: usize = 15;

/// One of the lines about a kill.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OomLine<'a> {
    /// `NAME invoked oom-killer: gfp_mask=…`: whose allocation failed.
    Invoked { by: &'a str },
    /// `oom-kill:constraint=…` (since 5.0), or `Task in GROUP killed as a result of limit of GROUP` (before).
    Chosen { constraint: &'a str, limited: Option<&'a str>, group: &'a str },
    /// `… Killed process PID (NAME) total-vm:…`: the deed.
    Killed {
        in_group: bool,
        pid: u32,
        name: &'a str,
        anon_rss_bytes: Option<u64>,
        total_vm_bytes: Option<u64>,
    },
    /// `Tasks in GROUP are going to be killed due to memory.oom.group set`.
    Group { group: &'a str },
    /// Anything else that belongs to the report.
    Other,
}

/// What `text` says about a kill; `None` where it speaks of something else.
pub(super) fn parse(text: &str) -> Option<OomLine<'_>> {
    if let Some(rest) = text.strip_prefix("oom-kill:constraint=") {
        return chosen(rest);
    }
    if let Some(line) = killed(text) {
        return Some(line);
    }
    if let Some((by, _)) = text.split_once(" invoked oom-killer: ")
        && by.len() <= COMM_BYTES
    {
        return Some(OomLine::Invoked { by });
    }
    if let Some(rest) = text.strip_prefix("Task in ") {
        // The group's path may hold anything, so the fixed text is sought from the end.
        let (group, limited) = rest.rsplit_once(" killed as a result of limit of ")?;
        return Some(OomLine::Chosen { constraint: "CONSTRAINT_MEMCG", limited: Some(limited), group });
    }
    if let Some(rest) = text.strip_prefix("Tasks in ") {
        let group = rest.strip_suffix(" are going to be killed due to memory.oom.group set")?;
        return Some(OomLine::Group { group });
    }
    let other = [
        "Out of memory: Kill process ",
        "Memory cgroup out of memory: Kill process ",
        "oom_reaper: reaped process ",
    ];
    other.iter().any(|o| text.starts_with(o)).then_some(OomLine::Other)
}

/// `CONSTRAINT_MEMCG,nodemask=(null),cpuset=…,oom_memcg=/a,task_memcg=/a/b,task=NAME,pid=1,uid=0`
fn chosen(rest: &str) -> Option<OomLine<'_>> {
    let (constraint, rest) = rest.split_once(',')?;
    let (before, _uid) = rest.rsplit_once(",uid=")?;
    let (before, _pid) = before.rsplit_once(",pid=")?;
    // The leftmost mark that leaves no more than a name behind it.
    let mark = ",task=";
    let at = before
        .match_indices(mark)
        .map(|(at, _)| at)
        .find(|at| before.len() - at - mark.len() <= COMM_BYTES)?;
    let (_, group) = before[..at].split_once(",task_memcg=")?;
    let limited = before[..at]
        .split_once(",oom_memcg=")
        .and_then(|(_, l)| l.split_once(",task_memcg="))
        .map(|(limited, _)| limited);
    Some(OomLine::Chosen { constraint, limited, group })
}

/// `Out of memory: Killed process 7 (NAME) total-vm:1kB, anon-rss:1kB, …`; before 5.x without what stands before
/// `Killed`; with `, UID 0,` after the name in some kernels.
fn killed(text: &str) -> Option<OomLine<'_>> {
    let (head, rest) = text.split_once("Killed process ")?;
    let in_group = head.starts_with("Memory cgroup out of memory");
    if !(head.is_empty() || in_group || head.starts_with("Out of memory"))
        || !(head.is_empty() || head.ends_with(": "))
    {
        return None;
    }
    let (pid, rest) = rest.split_once(" (")?;
    let pid = pid.parse().ok()?;
    // Names are short, so the last one of these is the kernel's own.
    let (name, figures) = rest.rsplit_once(" total-vm:")?;
    let name = &name[..name.rfind(')')?];
    let kib = |key: &str| {
        let (_, after) = figures.split_once(key)?;
        let digits = &after[..after.find("kB")?];
        digits.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = figures.split_once("kB").and_then(|(n, _)| n.parse::<u64>().ok()?.checked_mul(1024));
    Some(OomLine::Killed { in_group, pid, name, anon_rss_bytes: kib("anon-rss:"), total_vm_bytes: total })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(text: &str) -> (bool, u32, &str, Option<u64>) {
        match parse(text) {
            Some(OomLine::Killed { in_group, pid, name, anon_rss_bytes, .. }) => {
                (in_group, pid, name, anon_rss_bytes)
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn kernels_of_ten_years_are_understood() {
        // 6.x
        assert_eq!(
            kill(
                "Memory cgroup out of memory: Killed process 4242 (stress) total-vm:210832kB, anon-rss:102000kB, file-rss:256kB, shmem-rss:0kB, UID:0 pgtables:248kB oom_score_adj:1000"
            ),
            (true, 4242, "stress", Some(102_000 * 1024))
        );
        assert_eq!(
            kill(
                "Out of memory: Killed process 7 (a) total-vm:1kB, anon-rss:2kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0"
            ),
            (false, 7, "a", Some(2048))
        );
        assert_eq!(
            kill("Out of memory (oom_kill_allocating_task): Killed process 7 (a) total-vm:1kB, anon-rss:2kB"),
            (false, 7, "a", Some(2048))
        );
        // 4.x: the deed has a line of its own, without a word of why.
        assert_eq!(
            kill("Killed process 23 (java) total-vm:1kB, anon-rss:3kB, file-rss:0kB, shmem-rss:0kB"),
            (false, 23, "java", Some(3072))
        );
        // 3.10 and 4.18 of a distribution.
        assert_eq!(
            kill("Killed process 23 (java), UID 0, total-vm:1kB, anon-rss:3kB, file-rss:0kB"),
            (false, 23, "java", Some(3072))
        );
        assert_eq!(
            parse("Memory cgroup out of memory: Kill process 23 (java) score 1973 or sacrifice child"),
            Some(OomLine::Other)
        );
        assert_eq!(
            parse("Task in /docker/ab killed as a result of limit of /docker"),
            Some(OomLine::Chosen {
                constraint: "CONSTRAINT_MEMCG",
                limited: Some("/docker"),
                group: "/docker/ab"
            })
        );
        assert_eq!(
            parse(
                "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=s,pid=1,uid=0"
            ),
            Some(OomLine::Chosen { constraint: "CONSTRAINT_MEMCG", limited: Some("/a"), group: "/a/b" })
        );
        assert_eq!(
            parse(
                "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/user.slice,task=s,pid=1,uid=0"
            ),
            Some(OomLine::Chosen { constraint: "CONSTRAINT_NONE", limited: None, group: "/user.slice" })
        );
        assert_eq!(
            parse("stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=1000"),
            Some(OomLine::Invoked { by: "stress" })
        );
    }

    #[test]
    fn names_and_paths_are_hostile() {
        assert_eq!(kill("Killed process 1 (a) total-vm:9k) total-vm:5kB, anon-rss:2kB").2, "a) total-vm:9k");
        assert_eq!(kill("Killed process 1 ((sd-pam)) total-vm:5kB, anon-rss:2kB").2, "(sd-pam)");
        assert_eq!(kill("Killed process 1 () total-vm:5kB, anon-rss:2kB").2, "");
        for (task, group) in
            [("a,task=b", "/g"), ("x,pid=1,uid=2", "/g"), ("n", "/a,task=b,c,task_memcgs/dddddddddd")]
        {
            let text = format!(
                "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/,task_memcg={group},task={task},pid=9,uid=0"
            );
            assert_eq!(
                parse(&text),
                Some(OomLine::Chosen { constraint: "CONSTRAINT_MEMCG", limited: Some("/"), group }),
                "{text}"
            );
        }
        // A process that names itself after the report.
        assert_eq!(
            parse("Killed process  invoked oom-killer: gfp_mask=0"),
            Some(OomLine::Invoked { by: "Killed process " })
        );
        for nothing in [
            "",
            "Killed process",
            "Killed process x (y) total-vm:",
            "Killed process 99999999999 (y) total-vm:1kB",
            "evil: Killed process 1 (y) total-vm:1kB",
            "oom-kill:constraint=",
            "oom-kill:constraint=,task=a,pid=,uid=",
            "a process with a long name invoked oom-killer: x",
        ] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(Killed process |oom-kill:constraint=|,task=|,pid=|,uid=|total-vm:|kB|[(), é0-9])*") {
            let _ = parse(&text);
            let _ = parse(&format!("Killed process 1 ({text}) total-vm:1kB"));
        }
    }
}
