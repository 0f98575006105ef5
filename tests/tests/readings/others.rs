//! `others.py` on the run, and the readings of what it does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch_e2e::wait::until;

use super::table::{Reading, Rule};
use super::tools::Script;

/// Whom the figures of single processes are judged of.
pub(super) struct Known([u32; 3]);

impl Known {
    /// Whether `figure` is of something that this test can speak of: who else hangs, or starts others, does so by chance,
    /// and in which state a process is that does anything at all, is another thing in the next moment.
    pub(super) fn is_ours_to_judge(&self, figure: &str) -> bool {
        let Self([spawner, hung, holder]) = self;
        let of_task = |kind: &str, pid: &u32| {
            figure.strip_prefix(kind).map(|rest| rest.split('.').next() == Some(&pid.to_string()))
        };
        let listed = || {
            let of_state = figure.starts_with("processes.") && figure.ends_with(".state");
            of_state.then(|| figure == format!("processes.{hung}.state"))
        };
        of_task("tasks.spawners.", spawner)
            .or_else(|| of_task("tasks.stuck.", hung))
            .or_else(|| of_task("tasks.descriptors.", holder))
            .or_else(listed)
            .unwrap_or(true)
    }
}

/// Processes in rare states, and their reader.
pub(super) struct Others {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
    hung: u32,
    holder: u32,
    script: Script,
    is_before: bool,
    /// When the first sample began that saw the one that hangs, and when it was taken.
    first: Option<(Instant, Instant)>,
}

impl Others {
    /// Starts them, and waits until each is in its state.
    pub(super) fn start() -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-c", include_str!("others.py"), &libc::SYS_clone.to_string()]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 can be started");
        let ask = child.stdin.take().expect("its input is a pipe");
        let mut answer = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut line = String::new();
        answer.read_line(&mut line).expect("it writes text");
        let mut ids = line.split_whitespace().map(|n| n.parse::<u32>().expect("it prints ids"));
        let (hung, holder) = (ids.next().expect("who hangs"), ids.next().expect("who holds"));
        until("a process to hang and another to have its descriptors", Duration::from_secs(20), || {
            let stat = std::fs::read_to_string(format!("/proc/{hung}/stat")).ok()?;
            let hangs = stat.rsplit_once(") ")?.1.starts_with('D');
            let open = std::fs::read_dir(format!("/proc/{holder}/fd")).ok()?.count();
            (hangs && open > 48).then_some(())
        });
        let ids = [child.id(), hung, holder].map(|id| id.to_string());
        let script = Script::start(include_str!("tasks.py"), &ids);
        Self { child, ask, answer, hung, holder, script, is_before: true, first: None }
    }

    /// That a sample was taken between the two, the first since they were started.
    pub(super) fn were_seen(&mut self, began: Instant, ended: Instant) {
        self.first.get_or_insert((began, ended));
    }

    /// Who they are.
    pub(super) fn known(&self) -> Known {
        Known([self.child.id(), self.hung, self.holder])
    }

    /// Reads in turns before and after a sample, and starts children before.
    pub(super) fn read(&mut self) -> Vec<Reading> {
        if self.is_before {
            self.ask.write_all(b"\n").expect("it reads on");
            let mut line = String::new();
            self.answer.read_line(&mut line).expect("it writes text");
            assert_eq!(line.trim_end(), ".", "its children were started");
        }
        self.is_before = !self.is_before;
        let mut readings = self.script.read();
        let (began, ended) = self.first.expect("a sample was taken before any is compared");
        // Its tick lies somewhere between the two.
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let grain = ms(ended - began) + 1.0;
        readings.push(Reading::new(
            format!("tasks.stuck.{}.stuck_ms", self.hung),
            ms(ended.elapsed()),
            Rule::Grows(grain),
        ));
        readings
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // Whom it started goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
