//! What of an edit applies, what is held back by it, and what is a mistake.

use proptest::prelude::*;

use super::*;

fn load(file: &std::path::Path, text: &str) -> Read {
    std::fs::write(file, text).unwrap();
    Config::read(Some(file), [("NODE_NAME".to_owned(), "n".to_owned())])
}

#[test]
fn a_tighter_mode_applies_whatever_else_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let Read { config, keys, .. } = load(&file, "cleanup: { mode: auto }\n");
    let mut state = State::new(config, keys);
    let (inbox, _held) = std::sync::mpsc::sync_channel(1);
    let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Auto), outcome: Outcome::default() };
    let mut take = |text: &str| {
        let reload = state.take(load(&file, text), &told);
        (reload.told, reload.live.map(|live| live.mode), *told.mode.borrow())
    };
    let wrong = "sample: { every: never }\n";
    for text in ["cleanup: { mode: palm }\n", "cleanup: [\n", &format!("cleanup: {{}}\n{wrong}")] {
        let (said, live, mode) = take(text);
        assert!(said.starts_with("the new configuration is not used"), "{said}");
        assert_eq!((live, mode), (None, CleanupMode::Auto), "{text}");
    }
    let (said, live, mode) = take(&format!("cleanup: {{ mode: plan, rooots: [] }}\n{wrong}"));
    assert!(said.starts_with("cleanup.mode is plan from now on"), "{said}");
    assert!(said.contains("sample.every") && said.contains("cleanup.rooots"), "{said}");
    assert_eq!((live, mode), (Some(CleanupMode::Plan), CleanupMode::Plan));
    let (said, live, mode) = take(&format!("cleanup: {{ mode: auto }}\n{wrong}"));
    assert_eq!((live, mode), (None, CleanupMode::Plan), "looser waits until all is right: {said}");
    let (said, _, mode) = take("cleanup: { mode: auto }\n");
    assert!(said.contains("applied: cleanup.mode"), "{said}");
    assert_eq!(mode, CleanupMode::Auto);
    let (_, live, mode) = take(&format!("cleanup: {{ mode: off }}\n{wrong}"));
    assert_eq!((live, mode), (Some(CleanupMode::Off), CleanupMode::Off));
}

#[test]
fn what_lies_at_a_root_keeps_nobody_from_a_tighter_mode() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let out = dir.path().join("app/out");
    std::fs::create_dir_all(&out).unwrap();
    let text = |mode: &str| {
        format!("cleanup: {{ mode: {mode}, roots: [{{ path: {}, min_age: 1h }}] }}\n", out.display())
    };
    let Read { config, keys, .. } = load(&file, &text("auto"));
    let mut state = State::new(config, keys);
    let (inbox, _held) = std::sync::mpsc::sync_channel(1);
    let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Auto), outcome: Outcome::default() };
    std::fs::remove_dir(&out).unwrap();
    std::os::unix::fs::symlink("/nowhere", &out).unwrap();
    std::fs::write(dir.path().join("app/dump.rdb"), "").unwrap();
    let reload = state.take(load(&file, &text("plan")), &told);
    assert!(reload.told.ends_with("applied: cleanup.mode"), "{}", reload.told);
    assert_eq!(*told.mode.borrow(), CleanupMode::Plan);
}

#[test]
fn what_applies_is_told_apart_from_what_needs_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let Read { config, keys, .. } = load(&file, "cleanup: { mode: plan }\n");
    let mut state = State::new(config, keys);
    let (inbox, _held) = std::sync::mpsc::sync_channel(1);
    let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Plan), outcome: Outcome::default() };

    let text = "cleanup: { mode: auto }\ndetect: { space: { high_used: 90%, serious_used: 92% } }\ncaps: { cpu: 7% }\n";
    let reload = state.take(load(&file, text), &told);
    assert_eq!(
        reload.told,
        "the configuration was read again; applied: cleanup.mode, detect.space.high_used, \
         detect.space.serious_used; restart to apply: caps.cpu"
    );
    let live = reload.live.unwrap();
    assert_eq!((live.mode, *told.mode.borrow()), (CleanupMode::Auto, CleanupMode::Auto));
    assert_eq!(live.detect.unwrap().disk.space.high_used, 0.9);

    let reload = state.take(load(&file, "detect: { space: { high_used: 140% } }\n"), &told);
    assert!(reload.told.contains("detect.space.high_used = 140%"), "{}", reload.told);
    assert!(reload.live.is_none());

    // Thresholds that did not change are left alone, and a default that is written out is no change.
    let reload = state.take(load(&file, &text.replace("caps: { cpu: 7% }", "")), &told);
    assert_eq!(reload.told, "the configuration was read again; nothing changed");
    assert!(reload.live.unwrap().detect.is_none());
}

#[test]
fn an_executor_that_is_off_is_not_switched_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let Read { config, keys, .. } = load(&file, "cleanup: { mode: off }\n");
    let mut state = State::new(config, keys);
    let (inbox, _held) = std::sync::mpsc::sync_channel(1);
    let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Off), outcome: Outcome::default() };
    let reload = state.take(load(&file, "cleanup: { mode: auto }\n"), &told);
    assert!(reload.told.ends_with("restart to apply: cleanup.mode"), "{}", reload.told);
    assert_eq!(reload.live.unwrap().mode, CleanupMode::Off);
}

/// A file that is read again and again, and what of it counts.
struct Bench {
    dir: tempfile::TempDir,
    state: State,
    told: Told,
}

impl Bench {
    fn started_with(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let Read { config, keys, problems, .. } = load(&dir.path().join("agent.yaml"), text);
        assert_eq!(problems, None);
        let (inbox, _) = std::sync::mpsc::sync_channel(1);
        let mode = watch::Sender::new(config.policy.mode);
        let told = Told { inbox, mode, outcome: Outcome::default() };
        Self { dir, state: State::new(config, keys), told }
    }

    /// What is said of `text`, and what goes to the core, if anything does.
    fn take(&mut self, text: &str) -> (String, Option<Live>) {
        let Reload { told, live } =
            self.state.take(load(&self.dir.path().join("agent.yaml"), text), &self.told);
        assert_eq!(self.state.mode(), *self.told.mode.borrow(), "the collector is told the same");
        (told, live)
    }

    /// The same of one that something came of.
    fn taken(&mut self, text: &str) -> (String, Live) {
        let (said, live) = self.take(text);
        let live = live.unwrap_or_else(|| unreachable!("nothing came of {text}: {said}"));
        (said, live)
    }
}

fn one_root(mode: &str, more: &str) -> String {
    format!("cleanup: {{ mode: {mode}, roots: [{{ path: /var/log, min_age: 2s{more} }}] }}\n")
}

const EXCLUDES_WAIT: &str =
    "cleanup.roots[0].excludes waits for a restart of the agent; until then cleanups are only planned";

#[test]
fn auto_waits_with_what_bounds_it_and_goes_on_when_that_is_taken_back() {
    let mut bench = Bench::started_with(&one_root("plan", ""));
    let (said, live) = bench.taken(&one_root("plan", ", excludes: [audit]"));
    assert!(
        said.ends_with(&format!("restart to apply: cleanup.roots[0].excludes; {EXCLUDES_WAIT}")),
        "{said}"
    );
    assert_eq!((live.mode, live.pending_keys), (CleanupMode::Plan, 1));
    assert_eq!(live.unapplied.as_deref(), Some(EXCLUDES_WAIT));
    for _ in 0..2 {
        let (said, live) = bench.taken(&one_root("auto", ", excludes: [audit]"));
        let keys = "; restart to apply: cleanup.mode, cleanup.roots[0].excludes; ";
        assert!(said.contains(keys) && said.ends_with(EXCLUDES_WAIT), "{said}");
        assert_eq!((live.mode, live.pending_keys), (CleanupMode::Plan, 2));
        assert_eq!(live.unapplied.as_deref(), Some(EXCLUDES_WAIT));
    }
    let (said, live) = bench.taken(&one_root("auto", ""));
    let applied = "applied: cleanup.mode; nothing that bears on cleanups is held back any more";
    assert!(said.ends_with(applied), "{said}");
    assert_eq!((live.mode, live.unapplied, live.pending_keys), (CleanupMode::Auto, None, 0));
    // A default that is written out is no edit.
    let excludes = format!("{:?}", crate::act::policy::RootPolicy::new("/var/log").excludes);
    let (_, live) = bench.taken(&one_root("auto", &format!(", keep_newest: 1, excludes: {excludes}")));
    assert_eq!((live.mode, live.unapplied), (CleanupMode::Auto, None));
}

#[test]
fn whatever_bears_on_what_goes_holds_auto_back() {
    let base = one_root("auto", "");
    let other = |more: &str| one_root("auto", more);
    let cleanup = |more: &str| base.replacen("cleanup: {", &format!("cleanup: {{ {more},"), 1);
    for (text, key) in [
        (other(", mode: \"off\""), "cleanup.roots[0].mode"),
        (other(", keep_newest: 5"), "cleanup.roots[0].keep_newest"),
        (base.replace("2s", "2d"), "cleanup.roots[0].min_age"),
        ("cleanup: { mode: auto, roots: [] }\n".to_owned(), "cleanup.roots"),
        (cleanup("budgets: { max_objects: 5 }"), "cleanup.budgets.max_objects"),
        (cleanup("images: { keep_newest: 9 }"), "cleanup.images.keep_newest"),
        (cleanup("without_collector: wait"), "cleanup.without_collector"),
        (cleanup("preserve: { max_bytes_per_object: 5 }"), "cleanup.preserve.max_bytes_per_object"),
        (cleanup("breaker: { cooldown: 1h }"), "cleanup.breaker.cooldown"),
        (format!("{base}state: {{ dir: /var/log/own }}\n"), "state.dir"),
        (format!("{base}node: {{ host_root: /host }}\n"), "node.host_root"),
        (format!("{base}uplink: {{ collector: \"c.test:7443\" }}\n"), "uplink.collector"),
    ] {
        let mut bench = Bench::started_with(&base);
        let (said, live) = bench.taken(&text);
        assert_eq!(live.mode, CleanupMode::Plan, "{text}: {said}");
        let why = live.unapplied.unwrap_or_default();
        assert!(why.contains(key) && said.contains(&why), "{key}: {why}: {said}");
        let (said, live) = bench.taken(&base);
        assert_eq!((live.mode, live.unapplied, live.pending_keys), (CleanupMode::Auto, None, 0), "{said}");
    }
    for more in ["caps: { cpu: 7% }", "cleanup: { ballast: { inodes: 7 } }"] {
        let mut bench = Bench::started_with("cleanup: { mode: auto }\n");
        let text = match more.strip_prefix("cleanup: {") {
            Some(rest) => format!("cleanup: {{ mode: auto, {rest}\n"),
            None => format!("cleanup: {{ mode: auto }}\n{more}\n"),
        };
        let (said, live) = bench.taken(&text);
        assert_eq!((live.mode, live.unapplied, live.pending_keys), (CleanupMode::Auto, None, 1), "{said}");
    }
}

#[test]
fn of_many_keys_that_wait_some_are_named_and_the_rest_counted() {
    let mut bench = Bench::started_with(&one_root("auto", ""));
    let more = ", tier: 2, keep_newest: 4, max_depth: 3, min_size: 1KiB, preserve: true, excludes: [a]";
    let (_, live) = bench.taken(&one_root("auto", more));
    let why = live.unapplied.unwrap();
    assert!(why.contains(" and 2 more wait for a restart"), "{why}");
}

#[test]
fn a_mistake_elsewhere_does_not_let_auto_go_by_roots_that_the_file_does_not_have() {
    let mut bench = Bench::started_with(&one_root("auto", ""));
    let wrong = "sample: { every: never }\n";
    let (said, live) = bench.take(&format!("{}{wrong}", one_root("auto", "")));
    assert!(live.is_none(), "{said}");
    for excludes in
        [format!("{}{wrong}", one_root("auto", ", excludes: [audit]")), one_root("auto", ", excludes: audit")]
    {
        let mut bench = Bench::started_with(&one_root("auto", ""));
        let (said, live) = bench.taken(&excludes);
        let why = "cleanup.roots[0].excludes waits until the configuration's mistakes are mended";
        assert!(said.starts_with(why) && said.contains("the old one stays in force"), "{said}");
        assert_eq!(live.mode, CleanupMode::Plan);
        assert!(live.unapplied.unwrap().starts_with(why));
        // What ends it is a file without mistakes.
        let (_, live) = bench.take(&format!("{}{wrong}", one_root("auto", "")));
        assert!(live.is_none());
        assert_eq!(*bench.told.mode.borrow(), CleanupMode::Plan);
        let (_, live) = bench.taken(&one_root("auto", ", excludes: [audit]"));
        assert_eq!(live.unapplied.as_deref(), Some(EXCLUDES_WAIT));
        let (_, live) = bench.taken(&one_root("auto", ""));
        assert_eq!((live.mode, live.unapplied), (CleanupMode::Auto, None));
    }
}

#[test]
fn a_file_without_a_key_is_one_that_is_being_written() {
    let mut bench = Bench::started_with("cleanup: { mode: plan }\n");
    bench.taken("cleanup: { mode: \"off\" }\n");
    for text in ["", "\n \n", "# soon\n", "---\n", "cleanup:\n", "cleanup: {}\n"] {
        let (said, live) = bench.take(text);
        assert!(said.starts_with("the new configuration is not used"), "{text:?}: {said}");
        assert!(said.contains("gives no key at all"), "{said}");
        assert!(live.is_none());
        assert_eq!(*bench.told.mode.borrow(), CleanupMode::Off, "{text:?}");
    }
    bench.taken("cleanup: { mode: plan }\n");
    assert_eq!(*bench.told.mode.borrow(), CleanupMode::Plan);
    // An agent that runs on defaults is not told of a mistake.
    let (said, _) = Bench::started_with("# all defaults\n").taken("");
    assert!(said.ends_with("nothing changed"), "{said}");
}

proptest! {
    // Each reads some files.
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is written after whatever: in `auto` the roots are those that the file has.
    #[test]
    fn what_counts_is_never_looser_than_the_file(
        edits in prop::collection::vec((0usize..4, any::<bool>(), 0u8..8), 1..12)
    ) {
        let modes = ["", "\"off\"", "plan", "auto"];
        let mut bench = Bench::started_with(&one_root("auto", ""));
        for (mode, excludes, wrong) in edits {
            let more = if excludes { ", excludes: [audit]" } else { "" };
            let text = one_root(modes[mode], more).replace("mode: ,", "");
            let text = match wrong {
                0 => String::new(),
                1 => format!("{text}sample: {{ every: never }}\n"),
                _ => text,
            };
            bench.take(&text);
            let counts = *bench.told.mode.borrow();
            if wrong > 1 {
                let written = [CleanupMode::Plan, CleanupMode::Off, CleanupMode::Plan, CleanupMode::Auto][mode];
                let held = excludes && written == CleanupMode::Auto;
                prop_assert_eq!(counts, if held { CleanupMode::Plan } else { written }, "{}", text);
            } else if wrong == 1 {
                let written = [CleanupMode::Auto, CleanupMode::Off, CleanupMode::Plan, CleanupMode::Auto][mode];
                let looser = counts == CleanupMode::Auto && (excludes || written != CleanupMode::Auto);
                prop_assert!(!looser, "{}", text);
                prop_assert!(written != CleanupMode::Off || counts == CleanupMode::Off);
            }
        }
    }
}
