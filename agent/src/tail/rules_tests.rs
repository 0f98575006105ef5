use super::*;

fn names(set: &RuleSet, line: &str) -> Vec<String> {
    let selection = set.selection("/var/log/syslog");
    let matcher = set.matcher(&selection).unwrap();
    matcher
        .rules_of_line(line.as_bytes(), 16384)
        .iter()
        .map(|i| set.rules()[*i as usize].name.clone())
        .collect()
}

#[test]
fn the_shipped_rules_know_what_the_kernel_and_the_daemons_print() {
    let set = RuleSet::shipped();
    assert!(set.rules().len() >= 8);
    let of_security: Vec<_> = set.rules().iter().filter(|r| r.security.is_some()).collect();
    assert!(matches!(of_security[..], [rule] if rule.name == "failed-login" && rule.security == Some(true)));
    for (rule, line) in [
        (
            "oom-kill",
            "kernel: Out of memory: Killed process 4242 (java) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
        ),
        ("oom-kill", "kernel: oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0"),
        ("oom-kill", "kernel: java invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0"),
        ("container-oom", "kernel: Memory cgroup out of memory: Killed process 991 (python3) total-vm:1kB"),
        ("container-oom", "kernel: oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x"),
        ("container-oom", "kubelet[1]: event: Killed container \"web\" OOMKilled"),
        (
            "filesystem-error",
            "kernel: EXT4-fs error (device sda1): ext4_lookup:1855: inode #2: comm ls: deleted inode",
        ),
        ("filesystem-error", "kernel: XFS (dm-0): Metadata corruption detected at xfs_agf_read_verify"),
        (
            "filesystem-error",
            "kernel: XFS (dm-0): Corruption of in-memory data (0x8) detected at xfs_defer_finish",
        ),
        ("filesystem-error", "kernel: XFS (sdb): log I/O error -5"),
        ("filesystem-error", "kernel: BTRFS error (device sdb1): bdev /dev/sdb1 errs: wr 1, rd 0, flush 0"),
        ("filesystem-error", "kernel: BTRFS critical (device sda2): corrupt leaf"),
        ("disk-io-error", "kernel: blk_update_request: I/O error, dev sda, sector 1234"),
        ("disk-io-error", "kernel: Buffer I/O error on dev dm-0, logical block 1, lost async page write"),
        ("disk-io-error", "kernel: nvme0n1: critical medium error, dev nvme0n1, sector 99"),
        ("read-only-remount", "kernel: EXT4-fs (sda1): Remounting filesystem read-only"),
        ("read-only-remount", "kernel: BTRFS info (device sdb1): forced readonly"),
        ("read-only-remount", "kernel: F2FS-fs (sda): Remounting filesystem read-only"),
        ("failed-login", "sshd[99]: Failed password for invalid user admin from 10.0.0.9 port 4711 ssh2"),
        ("failed-login", "sshd[99]: Invalid user test from 10.0.0.9 port 4711"),
        ("failed-login", "su: pam_unix(su:auth): authentication failure; logname= uid=1000 euid=0 tty=pts/0"),
        ("failed-login", "sudo: bob : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root"),
        ("kernel-panic", "kernel: Kernel panic - not syncing: Attempted to kill init!"),
        ("kernel-oops", "kernel: BUG: unable to handle page fault for address: ffffc90000"),
        ("kernel-oops", "kernel: BUG: kernel NULL pointer dereference, address: 0000000000000008"),
        ("kernel-oops", "kernel: Oops: 0002 [#1] SMP PTI"),
        ("kernel-oops", "kernel: kernel BUG at mm/slub.c:305!"),
        (
            "kernel-oops",
            "kernel: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        ),
        ("kernel-lockup", "kernel: watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:1:33]"),
        ("kernel-lockup", "kernel: rcu: INFO: rcu_sched self-detected stall on CPU"),
        ("hung-task", "kernel: INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds."),
        ("segfault", "kernel: nginx[312]: segfault at 0 ip 000055d0 sp 00007ffe error 4 in nginx[55d0]"),
        ("segfault", "systemd-coredump[9]: Process 77 (a.out) of user 0 dumped core."),
        ("disk-full", "app: write /data/x: no space left on device"),
        ("disk-full", "rsyslogd: file '/var/log/x': No space left on device"),
        ("disk-full", "touch: cannot touch 'x': Disk quota exceeded"),
        ("hardware-error", "kernel: mce: [Hardware Error]: Machine check events logged"),
        ("conntrack-full", "kernel: nf_conntrack: nf_conntrack: table full, dropping packet"),
    ] {
        let found = names(&set, line);
        assert!(found.iter().any(|n| n == rule), "{rule} does not match {line:?}, only {found:?} do");
    }
}

#[test]
fn the_kernels_words_are_the_kernels_only_where_it_or_its_host_wrote_them() {
    let set = RuleSet::shipped();
    let looked_at = |source: &str| -> Vec<&str> {
        set.selection(source).iter().map(|i| set.rules()[usize::from(*i)].name.as_str()).collect()
    };
    for source in ["kmsg", "/var/log/syslog", "/var/log/kern.log"] {
        assert_eq!(looked_at(source).len(), set.rules().len(), "{source}");
    }
    // What is left is what any program may say of itself.
    for source in ["/var/log/pods/shop_api-0_0c1d/app/0.log", "/var/log/containers/api-0_shop_app-1.log"] {
        assert_eq!(looked_at(source), ["failed-login", "segfault", "disk-full"], "{source}");
    }
}

#[test]
fn the_shipped_rules_leave_ordinary_lines_alone() {
    let set = RuleSet::shipped();
    for line in [
        "sshd[1]: Accepted publickey for root from 10.0.0.1 port 22 ssh2: ED25519 SHA256:abc",
        "kernel: EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: (null)",
        "kernel: XFS (dm-0): Mounting V5 Filesystem",
        "kernel: BTRFS info (device sda): disk space caching is enabled",
        "systemd[1]: Started Session 4 of user root.",
        "GET /healthz 200 0.3ms error=0",
        "CRON[1]: pam_unix(cron:session): session opened for user root",
    ] {
        assert_eq!(names(&set, line), Vec::<String>::new(), "{line}");
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once_with_place_key_and_remedy() {
    let text = r#"
rulez: []
rules:
  - name: bad-regex
    match: 'abc(def'
    severity: high
    summary: "x"
  - name: bad-regex
    match: 12
    severity: severe
    summary: ""
    colour: red
  - match: 'a\nb'
    severity: low
    summary: "y"
    source: '/var/[log'
    context_after: 51
    context_before: -1
    security: maybe
  - just text
masks:
  - name: empty
    match: 'a*'
"#;
    let error = RuleSet::parse("rules.yaml", text).unwrap_err();
    let said = error.to_string();
    for needle in [
        "rules.yaml: 15 mistakes",
        "the file, rulez: no such key",
        "rule 1 (bad-regex), match: not a regular expression: unclosed group at character 4",
        "rule 2 (bad-regex), colour: no such key; use one of name, match,",
        "rule 2 (bad-regex), name: used twice",
        "rule 2 (bad-regex), match: 12 is not text",
        "rule 2 (bad-regex), severity: \"severe\" is none",
        "rule 2 (bad-regex), summary: empty",
        "rule 3, name: missing",
        "rule 3, match: asks for a newline",
        "rule 3, source: ",
        "rule 3, context_after: 51 is not a number of lines; write a whole number from 0 to 50",
        "rule 3, context_before: -1 is not",
        "rule 3, security: \"maybe\" is neither true nor false",
        "rules entry 4: not a mapping",
        "mask 1 (empty), match: matches the empty text",
    ] {
        assert!(said.contains(needle), "{needle:?} is not in\n{said}");
    }
}

#[test]
fn what_is_not_yaml_says_where() {
    let error = RuleSet::parse("rules.yaml", "rules:\n  - name: [a\n").unwrap_err();
    assert!(error.to_string().contains("not YAML"), "{error}");
    assert_eq!(RuleSet::parse("rules.yaml", "").unwrap().rules().len(), 0);
    let twice = "rules:\n  - name: a\n    name: b\n    match: x\n    severity: low\n    summary: s\n";
    assert!(RuleSet::parse("rules.yaml", twice).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn an_automaton_that_would_be_too_large_is_refused() {
    let text =
        "rules:\n  - name: big\n    match: '((a{0,100}){0,100}){0,100}'\n    severity: low\n    summary: s\n";
    let error = RuleSet::parse("rules.yaml", text).unwrap_err();
    assert!(error.to_string().contains("too large an automaton"), "{error}");
}

#[test]
fn a_rule_looks_only_at_its_sources() {
    let text = "rules:\n  - name: a\n    match: x\n    source: '/var/log/auth*'\n    severity: low\n    summary: s\n";
    let set = RuleSet::parse("rules.yaml", text).unwrap();
    assert_eq!(set.selection("/var/log/auth.log"), [0]);
    assert_eq!(set.selection("/var/log/x/auth.log"), Vec::<u16>::new());
    assert!(set.matcher(&[]).is_none());
}

#[test]
fn an_alternative_that_names_nothing_is_a_source_too() {
    let text = "rules:\n  - name: a\n    match: x\n    source: '/var/log/auth.log{,.1}'\n    severity: low\n    summary: s\n";
    let set = RuleSet::parse("rules.yaml", text).unwrap();
    for source in ["/var/log/auth.log", "/var/log/auth.log.1"] {
        assert_eq!(set.selection(source), [0], "{source}");
    }
    assert_eq!(set.selection("/var/log/auth.log.2"), Vec::<u16>::new());
}
