//! The program on a real terminal (tmux's), against a desk over mutual TLS.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::tls::configured;

/// Longer than any machine needs that is at work at all.
const PATIENCE: Duration = Duration::from_secs(90);

/// A tmux server of this test's own; it ends with it.
struct Tmux(String);

impl Tmux {
    fn start(name: &str, columns: &str, program: &str) -> Self {
        let tmux = Self(format!("dogwatch-{name}-{}", std::process::id()));
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", "24", program]);
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        let ended = Command::new("tmux").arg("-u").args(["-L", &self.0]).args(args).output();
        let ended = ended.expect("this test needs tmux (Debian package tmux)");
        assert!(ended.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    async fn shows(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.contains(words) {
                return screen;
            }
            assert!(Instant::now() < end, "{words:?} never came:\n{screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.0, "kill-server"]).output();
    }
}

fn program(config: &str, env: &str, args: &str) -> String {
    let dogwatch = env!("CARGO_BIN_EXE_dogwatch");
    format!(
        "env {env} {dogwatch} --config {config} {args}; echo ended with $?; stty -a | grep -c ' echo '; cat"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_is_alive_answers_keys_and_gives_the_terminal_back() {
    let (_dir, config) = configured().await;
    let tmux = Tmux::start("top", "100", &program(&config, "LANG=C.UTF-8", "top"));
    let screen = tmux.shows("node-1").await;
    assert!(
        screen.contains("dogwatch top · nodes") && screen.contains("3 nodes, 2 not connected"),
        "{screen}"
    );
    tmux.press("2");
    tmux.shows("/mnt/データ").await;
    tmux.press("3");
    tmux.shows("shop/api-6d5f8-x2x7k").await;
    tmux.press("s");
    tmux.shows("by memory").await;
    tmux.press("?");
    tmux.shows("sort by the next or the previous column").await;
    tmux.press("q");
    let screen = tmux.shows("ended with 0").await;
    assert!(!screen.contains("shop/api"), "the other screen is gone: {screen}");
    tmux.shows("\n1\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_gives_the_terminal_back_and_plain_terminals_get_ascii() {
    let (_dir, config) = configured().await;
    let tmux = Tmux::start(
        "ascii",
        "60",
        &program(&config, "-u LC_ALL -u LC_CTYPE LANG=C NO_COLOR=1", "top mounts"),
    );
    let screen = tmux.shows("/mnt/").await;
    assert!(screen.is_ascii(), "{screen}");
    tmux.run(&["resize-window", "-x", "40", "-y", "12"]);
    let pid = tmux.run(&["list-panes", "-F", "#{pane_pid}"]);
    let child = Command::new("pgrep").args(["-P", pid.trim(), "-f", "top mounts"]).output().unwrap();
    let child = String::from_utf8(child.stdout).unwrap();
    let told = Command::new("kill").args(["-TERM", child.trim()]).status().unwrap();
    assert!(told.success(), "kill {child:?}");
    tmux.shows("ended with 0").await;
    tmux.shows("\n1\n").await;
}

/// Ends the terminal under a program and tells with which code the program ended.
async fn hung_up(name: &str, how: &str) -> String {
    let (dir, config) = configured().await;
    let ended = dir.path().join("ended");
    let dogwatch = env!("CARGO_BIN_EXE_dogwatch");
    // The shell outlives its terminal, and tells how the program took it.
    let program = format!(
        "trap '' HUP; {how} sh -c 'echo $$ >{0}.pid; LANG=C.UTF-8 exec {dogwatch} --config {config} top'; \
         echo $? >{0}.new; mv {0}.new {0}",
        ended.display()
    );
    let tmux = Tmux::start(name, "100", &program);
    tmux.shows("3 nodes, 2 not connected").await;
    drop(tmux);
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(code) = std::fs::read_to_string(&ended) {
            return code.trim().to_owned();
        }
        if Instant::now() >= end {
            // What goes on for ever is not left behind.
            let pid = std::fs::read_to_string(ended.with_extension("pid")).unwrap();
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
            panic!("it goes on without a terminal");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ends_when_its_terminal_hangs_up() {
    assert_eq!(hung_up("hangup", "").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_ends_with_its_terminal_also_where_no_signal_tells() {
    // In a session of its own the terminal is not its controlling one: only the descriptor tells.
    assert_eq!(hung_up("no-signal", "setsid --wait").await, "0");
}
