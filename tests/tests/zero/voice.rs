//! Standard output and standard error that fail: an agent goes on without a voice.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use dogwatch_e2e::stage::{free_address, http_get, http_ok};

use super::*;

/// Ends its child with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn without_a_voice(give: impl FnOnce(&mut Command)) -> u64 {
    let stage = Stage::new(programs!());
    let health = free_address();
    // With room, whatever this machine's disk has left.
    let disk = LoopFs::memory(64 * MIB).unwrap();
    let state = disk.path().join("agent");
    let logs = stage.path().join("log");
    fs::create_dir(&logs).unwrap();
    let config = stage.path().join("agent.yaml");
    let text = format!(
        "node: {{ name: node-a }}\nhealth: {{ listen: \"{health}\" }}\nkernel: {{ enabled: false }}\n\
         state: {{ dir: {}, segment_bytes: 1MiB, urgent_bytes: 4MiB, evidence_bytes: 4MiB, recorder_bytes: 4MiB }}\n\
         sample: {{ every: 100ms }}\ncleanup: {{ roots: [{{ path: {} }}], ballast: {{ bytes: 1MiB }} }}\nlog: {{ level: debug }}\n",
        yaml(&state),
        yaml(&logs)
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(&stage.programs().agent);
    command.arg("--config").arg(&config).stdin(Stdio::null()).env_remove("DOGWATCH_LOG");
    give(&mut command);
    let mut agent = Owned(command.spawn().unwrap());
    until("it to be ready", PATIENCE, || {
        assert_eq!(agent.0.try_wait().unwrap(), None, "it ended");
        http_ok(health, "/readyz").then_some(())
    });
    let figure = |name: &str| -> u64 {
        let page = http_get(health, "/metrics").unwrap();
        let line =
            page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    };
    let began = figure("dogwatch_agent_samples_total");
    until("it to go on", PATIENCE, || (figure("dogwatch_agent_samples_total") > began + 5).then_some(()));
    assert_eq!(figure("dogwatch_agent_ballast_bytes"), MIB);
    let lost = figure("dogwatch_agent_own_log_lines_dropped_total");
    rustix::process::kill_process(Pid::from_child(&agent.0), Signal::TERM).unwrap();
    let status = until("it to end", PATIENCE, || agent.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    let last = urgent(&state.join("journal")).pop();
    assert!(matches!(&last, Some(Body::Note(n)) if n == "the agent stops"), "{last:?}");
    lost
}

#[test]
fn full_outputs_cost_lines_and_nothing_else() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let lost = without_a_voice(|c| {
        c.stdout(full()).stderr(full());
    });
    assert!(lost > 0, "what was lost is counted");
}

#[test]
fn pipes_that_nobody_reads_any_more_cost_lines_and_nothing_else() {
    let broken = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let lost = without_a_voice(|c| {
        c.stdout(broken()).stderr(broken());
    });
    assert!(lost > 0, "what was lost is counted");
}

#[test]
fn closed_outputs_cost_nothing() {
    without_a_voice(|c| {
        // SAFETY: close(2) is async-signal-safe; the numbers are the child's own, and nothing in it uses them before exec.
        unsafe {
            c.pre_exec(|| {
                libc::close(1);
                libc::close(2);
                Ok(())
            });
        }
    });
}
