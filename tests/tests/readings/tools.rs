//! The tools of every system as sources: python3 with a reader of its own, df, free, ip, ss, nstat, iostat, sar, ps.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value as Json;

use super::table::{Reading, Rule, Value};

/// A program in Python, which reads when told to.
pub(super) struct Script {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Script {
    /// `source.py`; the process whose own cost is compared is this one.
    pub(super) fn of_everything() -> Self {
        Self::start(include_str!("source.py"), &[std::process::id().to_string()])
    }

    /// Starts `program`.
    pub(super) fn start(program: &str, arguments: &[String]) -> Self {
        let mut command = Command::new("python3");
        command.args(["-u", "-c", program]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 can be started");
        let ask = child.stdin.take().expect("its input is a pipe");
        let answer = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { child, ask, answer }
    }

    pub(super) fn read(&mut self) -> Vec<Reading> {
        self.ask.write_all(b"\n").expect("the script reads on");
        let mut readings = Vec::new();
        loop {
            let mut line = String::new();
            assert!(
                self.answer.read_line(&mut line).expect("the script writes text") > 0,
                "the script ended"
            );
            match line.trim_end() {
                "." => return readings,
                line => readings.push(understand(line)),
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn understand(line: &str) -> Reading {
    let mut words = line.splitn(4, ' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("four words: {line}"));
    let (rule, grain, figure, value) = (next(), next(), next(), next());
    let grain = grain.parse().expect("a number");
    let rule = match rule {
        "=" => Rule::Same,
        "+" => Rule::Grows(grain),
        "~" => Rule::Moves(grain),
        "t" => return Reading { figure: figure.into(), value: Value::Text(value.into()), rule: Rule::Same },
        other => panic!("rule {other}"),
    };
    Reading::new(figure, value.parse().unwrap_or_else(|e| panic!("{line}: {e}")), rule)
}

/// What `program` prints; its failure is the test's, as its package is missing.
fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).env("LC_ALL", "C").env("S_TIME_FORMAT", "ISO").output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(program: &str, arguments: &[&str]) -> Json {
    let text = run(program, arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{program} {arguments:?} said {text}: {e}"))
}

pub(super) fn df() -> Vec<Reading> {
    let mut readings = Vec::new();
    let columns = "--output=size,avail,itotal,iavail,fstype,source,target";
    for line in run("df", &["-B1", "-a", columns]).lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [size, available, inodes, inodes_free, fs, device, path] = words[..] else { continue };
        let mut put = |figure: &str, value: &str, rule| {
            if let Ok(value) = value.parse() {
                readings.push(Reading::new(format!("mounts.{path}.{figure}"), value, rule));
            }
        };
        if matches!(size, "0" | "-") {
            continue;
        }
        put("total_bytes", size, Rule::Same);
        put("available_bytes", available, Rule::Moves(0.0));
        put("inodes_total", inodes, Rule::Same);
        put("inodes_free", inodes_free, Rule::Moves(0.0));
        for (figure, text) in [("fs", fs), ("device", device)] {
            let value = Value::Text(text.to_owned());
            readings.push(Reading { figure: format!("mounts.{path}.{figure}"), value, rule: Rule::Same });
        }
    }
    readings
}

pub(super) fn free() -> Vec<Reading> {
    let mut readings = Vec::new();
    for line in run("free", &["-b", "-w"]).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut put = |figure: &str, column: usize, rule| {
            let value = words[column].parse().expect("free prints numbers");
            readings.push(Reading::new(format!("memory.{figure}_bytes"), value, rule));
        };
        match words.first() {
            // total used free shared buffers cache available; its cache is Cached and SReclaimable together.
            Some(&"Mem:") => {
                put("total", 1, Rule::Same);
                put("free", 3, Rule::Moves(0.0));
                put("shmem", 4, Rule::Moves(0.0));
                put("buffers", 5, Rule::Moves(0.0));
                put("available", 7, Rule::Moves(0.0));
            }
            Some(&"Swap:") => {
                put("swap_total", 1, Rule::Same);
                put("swap_free", 3, Rule::Moves(0.0));
            }
            _ => {}
        }
    }
    readings
}

pub(super) fn ip() -> Vec<Reading> {
    let mut readings = Vec::new();
    let links = json("ip", &["-s", "-s", "-j", "link"]);
    for link in links.as_array().expect("a list of links") {
        let name = link["ifname"].as_str().expect("a link has a name");
        let at = |figure: &str| format!("interfaces.{name}.{figure}");
        for way in ["rx", "tx"] {
            let figure = |key: &str| link["stats64"][way][key].as_f64().unwrap_or(0.0);
            // It tells apart what the kernel sums in net/dev.
            let dropped = figure("dropped") + figure("missed_errors");
            for (key, value) in [
                ("bytes", figure("bytes")),
                ("packets", figure("packets")),
                ("errors", figure("errors")),
                ("dropped", dropped),
            ] {
                readings.push(Reading::new(at(&format!("{way}_{key}_total")), value, Rule::Grows(0.0)));
            }
        }
        match link["operstate"].as_str() {
            Some("UP") => readings.push(Reading::new(at("up"), 1.0, Rule::Same)),
            Some("DOWN" | "LOWERLAYERDOWN") => readings.push(Reading::new(at("up"), 0.0, Rule::Same)),
            _ => {}
        }
    }
    readings
}

/// `ss -s`: `TCP: 6 (estab 2, closed 3, orphaned 0, timewait 3)`, then a table of which the second column is the total.
pub(super) fn ss() -> Vec<Reading> {
    let text = run("ss", &["-s"]);
    let behind = |word: &str| -> f64 {
        let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{word} in {text}"));
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|e| panic!("{word} in {text}: {e}"))
    };
    [
        ("net.tcp_established", behind("(estab")),
        ("net.tcp_orphans", behind("orphaned")),
        ("net.tcp_time_wait", behind("timewait")),
        ("net.tcp_in_use", behind("\nTCP\t")),
        ("net.udp_in_use", behind("\nUDP\t")),
    ]
    .map(|(figure, value)| Reading::new(figure, value, Rule::Moves(0.0)))
    .into()
}

pub(super) fn nstat() -> Vec<Reading> {
    let all = json("nstat", &["-asz", "-j"]);
    let of = |names: &[&str]| names.iter().filter_map(|n| all["kernel"][n].as_f64()).sum::<f64>();
    [
        ("tcp_in_segments", &["TcpInSegs"][..]),
        ("tcp_out_segments", &["TcpOutSegs"]),
        ("tcp_retransmitted", &["TcpRetransSegs"]),
        ("tcp_in_errors", &["TcpInErrs"]),
        ("tcp_resets_sent", &["TcpOutRsts"]),
        ("listen_overflows", &["TcpExtListenOverflows"]),
        ("listen_drops", &["TcpExtListenDrops"]),
        ("udp_in_errors", &["UdpInErrors", "Udp6InErrors"]),
        ("udp_receive_buffer_errors", &["UdpRcvbufErrors", "Udp6RcvbufErrors"]),
    ]
    .map(|(figure, names)| Reading::new(format!("net.{figure}_total"), of(names), Rule::Grows(0.0)))
    .into()
}

/// Totals of `iostat`, which it rounds down to KiB.
pub(super) fn iostat() -> Vec<Reading> {
    let all = json("iostat", &["-d", "-k", "-o", "JSON"]);
    let disks = all["sysstat"]["hosts"][0]["statistics"][0]["disk"].as_array().cloned().unwrap_or_default();
    let mut readings = Vec::new();
    for disk in disks {
        let name = disk["disk_device"].as_str().expect("a disk has a name");
        for (key, figure) in [("kB_read", "read_bytes_total"), ("kB_wrtn", "written_bytes_total")] {
            let bytes = disk[key].as_f64().expect("iostat prints numbers") * 1024.0;
            readings.push(Reading::new(format!("disks.{name}.{figure}"), bytes, Rule::Grows(1024.0)));
        }
    }
    readings
}

/// The state at the end of a second of `sar`.
pub(super) fn sar() -> Vec<Reading> {
    let mut readings = Vec::new();
    let text = run("sar", &["-q", "-v", "-r", "ALL", "1", "1"]);
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A heading, with the time or with `Average:` before it, and figures likewise.
        match words.get(1) {
            Some(word) if word.parse::<f64>().is_err() => names = words.clone(),
            Some(_) if line.starts_with("Average:") => {}
            _ => continue,
        }
        if !line.starts_with("Average:") || names == words {
            continue;
        }
        for (name, value) in names.iter().skip(1).zip(&words[1..]) {
            let (figure, unit) = match *name {
                "plist-sz" => ("limits.tasks", 1.0),
                "ldavg-1" => ("cpu.load1", 1.0),
                "ldavg-5" => ("cpu.load5", 1.0),
                "ldavg-15" => ("cpu.load15", 1.0),
                "file-nr" => ("limits.open_files", 1.0),
                "kbmemfree" => ("memory.free_bytes", 1024.0),
                "kbavail" => ("memory.available_bytes", 1024.0),
                "kbbuffers" => ("memory.buffers_bytes", 1024.0),
                "kbcached" => ("memory.cached_bytes", 1024.0),
                "kbdirty" => ("memory.dirty_bytes", 1024.0),
                "kbslab" => ("memory.slab_bytes", 1024.0),
                _ => continue,
            };
            let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            // What sar and its collector are themselves while they look, and what they have open.
            let own = match figure {
                "limits.tasks" => 3.0,
                "limits.open_files" => 32.0,
                _ => 0.0,
            };
            readings.push(Reading::new(figure, value * unit, Rule::Moves(own)));
        }
    }
    assert!(readings.len() >= 11, "sar said {text}");
    readings
}

/// Resident sets by `ps`, in KiB. It asks `/proc/PID/status`, for which newer kernels sum their counters exactly; what
/// stands in `/proc/PID/stat`, as proc_pid_stat(5) warns, may lack what each CPU has not handed in yet: of pages of
/// files, anonymous and shared ones a batch each (lib/percpu_counter.c).
pub(super) fn ps() -> Vec<Reading> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let batch = (2.0 * cpus).max(32.0);
    let not_handed_in = 3.0 * batch * cpus * rustix::param::page_size() as f64;
    let mut readings = Vec::new();
    for line in run("ps", &["-e", "-o", "pid=,rss=,comm="]).lines() {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(rss), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
        let rss: f64 = rss.parse().expect("ps prints numbers");
        readings.push(Reading::new(
            format!("processes.{pid}.resident_bytes"),
            rss * 1024.0,
            Rule::Moves(not_handed_in),
        ));
        if words.next().is_none() && name.len() < 15 {
            let value = Value::Text(name.to_owned());
            readings.push(Reading { figure: format!("processes.{pid}.name"), value, rule: Rule::Same });
        }
    }
    readings
}

/// Who is in which state, by `ps` of every thread, itself left out.
pub(super) fn ps_threads() -> Vec<Reading> {
    let text = run("ps", &["-eL", "-o", "pid=,lwp=,stat=,comm="]);
    let mut threads: Vec<(bool, char, &str)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [pid, thread, state, name, ..] = words[..] else { panic!("ps said {line}") };
        threads.push((pid == thread, state.chars().next().unwrap_or('?'), name));
    }
    let own = threads.iter().position(|(_, _, name)| *name == "ps");
    threads.swap_remove(own.unwrap_or_else(|| panic!("ps does not see itself in {text}")));
    let count =
        |which: &dyn Fn(&(bool, char, &str)) -> bool| threads.iter().filter(|t| which(t)).count() as f64;
    [
        ("limits.tasks", count(&|_| true)),
        ("tasks.processes", count(&|t| t.0)),
        ("tasks.zombies", count(&|t| t.0 && t.1 == 'Z')),
        ("tasks.uninterruptible", count(&|t| t.0 && t.1 == 'D')),
    ]
    .map(|(figure, value)| Reading::new(figure, value, Rule::Moves(0.0)))
    .into()
}
