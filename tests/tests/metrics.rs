//! What both daemons serve at `/metrics` is what Prometheus' own checker finds no fault with, in the format that is asked
//! for.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Stage, free_address, http_get};
use dogwatch_e2e::wait::until;

/// Every mount that is in use is above this.
const FILLED: &str = "cleanup: { mode: \"off\" }\ndetect: { space: { low_used: 0%, high_used: 0%, serious_used: 99%, critical_used: 100% } }\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// `promtool check metrics` of `page`: its complaints.
fn complaints(page: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus, is installed");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() || !said.trim().is_empty(), "{out:?}");
    said
}

fn page(address: SocketAddr) -> String {
    let answer = http_get(address, "/metrics").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    // The server may send it in parts, each under its length in hex.
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        let is_length = |l: &str| !l.is_empty() && l.len() <= 8 && l.chars().all(|c| c.is_ascii_hexdigit());
        return body.split("\r\n").filter(|l| !is_length(l)).collect();
    }
    body.to_owned()
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|l| l.strip_prefix(series).is_some_and(|r| r.starts_with(' ')));
    let line = line.unwrap_or_else(|| unreachable!("no {series} in:\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Every series that the shipped rules and dashboards name, with the labels that they select by.
fn named() -> BTreeSet<(String, Vec<String>)> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut open = vec![deploy.join("kustomize"), deploy.join("helm")];
    let mut found = BTreeSet::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap().replace("\\\"", "\"");
            for prefix in ["dogwatch_agent_", "dogwatch_collector_"] {
                for (at, _) in text.match_indices(prefix) {
                    let rest = &text[at..];
                    let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
                    let labels = rest[end..].strip_prefix('{').and_then(|l| l.split_once('}'));
                    let labels =
                        labels.map_or("", |(l, _)| l).split(',').filter_map(|l| l.split_once(['=', '!']));
                    let labels = labels.map(|(key, _)| key.trim().to_owned());
                    // The node is a label that the scrape adds.
                    found.insert((rest[..end].to_owned(), labels.filter(|l| l != "node").collect()));
                }
            }
        }
    }
    found
}

/// The pages serve what the rules and dashboards name.
fn assert_served(of_agent: &str, of_collector: &str) {
    let named = named();
    assert!(named.len() >= 30, "the rules are elsewhere now: {named:?}");
    let mut lacking = Vec::new();
    for (name, labels) in &named {
        let page = if name.starts_with("dogwatch_agent_") { of_agent } else { of_collector };
        let typed = page
            .lines()
            .any(|l| l.strip_prefix("# TYPE ").is_some_and(|l| l.starts_with(&format!("{name} "))));
        let series: Vec<&str> = page
            .lines()
            .filter(|l| l.strip_prefix(name.as_str()).is_some_and(|l| l.starts_with(['{', ' '])))
            .collect();
        let labelled = labels.iter().all(|l| series.iter().all(|s| s.contains(&format!("{l}=\""))));
        // Findings are told only while there are some: the agent of this test is given one.
        if !typed || !labelled || (series.is_empty() && name != "dogwatch_collector_active_findings") {
            lacking.push((name, labels));
        }
    }
    assert!(lacking.is_empty(), "named in deploy/ and not served: {lacking:?}");
}

#[test]
fn prometheus_finds_no_fault_with_the_metrics_of_either_daemon() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let health = std::fs::read_to_string(house.config()).unwrap();
    let health = health.split("health: { listen: \"").nth(1).unwrap().split('"').next().unwrap();
    let (collector, agent): (SocketAddr, SocketAddr) = (health.parse().unwrap(), free_address());
    let state = stage.path().join("agent");
    let mut post = stage.post("node-a", &state, Some(&house), FILLED);
    let config = std::fs::read_to_string(post.config()).unwrap();
    let config = config.replace("health: { listen: \"off\" }", &format!("health: {{ listen: \"{agent}\" }}"));
    std::fs::write(post.config(), config).unwrap();
    post.start();
    let viewer = house.person("vera", "viewer");
    until("the node to be connected", PATIENCE, || {
        let page = page(collector);
        (value(&page, "dogwatch_collector_nodes{state=\"connected\"}") == 1.0
            && value(&page, "dogwatch_collector_ingested_bytes_total{stream=\"evidence\"}") > 0.0)
            .then_some(())
    });
    viewer.rows(&["get", "incidents"]);
    assert!(!viewer.dogwatch(&["get", "findings", "--node", "node-z"]).status.success());

    let of_collector = page(collector);
    assert_eq!(complaints(&of_collector), "", "of the collector:\n{of_collector}");
    let asked = |verb: &str, outcome: &str| {
        let series = "dogwatch_collector_desk_requests_total";
        value(&of_collector, &format!("{series}{{verb=\"{verb}\",outcome=\"{outcome}\"}}"))
    };
    assert!(asked("get_incidents", "ok") >= 1.0 && asked("get_findings", "not_found") >= 1.0);
    assert_eq!(value(&of_collector, "dogwatch_collector_uplinks{stream=\"urgent\"}"), 1.0);
    assert_eq!(value(&of_collector, "dogwatch_collector_index_ready"), 1.0);
    let now = jiff::Timestamp::now().as_second() as f64;
    for certificate in ["server", "ca"] {
        let series = "dogwatch_collector_certificate_expiry_timestamp_seconds";
        assert!(value(&of_collector, &format!("{series}{{certificate=\"{certificate}\"}}")) > now);
    }

    // The recorder stream's first block is sealed last.
    until("a block of each stream", PATIENCE, || {
        let page = page(agent);
        let used =
            |stream| value(&page, &format!("dogwatch_agent_journal_used_bytes{{stream=\"{stream}\"}}"));
        ["urgent", "evidence", "recorder"].into_iter().all(|s| used(s) > 0.0).then_some(())
    });
    let of_agent = page(agent);
    assert_eq!(complaints(&of_agent), "", "of the agent:\n{of_agent}");
    assert!(value(&of_agent, "dogwatch_agent_samples_total") >= 1.0);
    let mounts = "dogwatch_agent_active_findings{rule=\"disk-high-water\",severity=\"medium\"}";
    assert!(value(&of_agent, mounts) >= 1.0);
    for stream in ["urgent", "evidence", "recorder"] {
        let of = |name: &str| value(&of_agent, &format!("dogwatch_agent_{name}{{stream=\"{stream}\"}}"));
        let limit = if stream == "urgent" { 4.0 } else { 16.0 } * 1_048_576.0;
        assert_eq!(of("journal_limit_bytes"), limit);
        assert!(of("journal_used_bytes") > 0.0 && of("journal_used_bytes") < limit);
        assert!(of("queue_bytes") >= 0.0);
    }
    let since = "dogwatch_agent_uplink_since_acknowledgement_seconds{stream=\"evidence\"}";
    assert!(value(&of_agent, since) < 60.0);
    let version = format!("dogwatch_agent_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&of_agent, &version), 1.0);

    assert_served(&of_agent, &of_collector);

    // Whoever asks for the newer format gets it.
    let mut stream = TcpStream::connect(agent).unwrap();
    let ask = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\nConnection: close\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("application/openmetrics-text") && answer.trim_end().ends_with("# EOF"),
        "{answer}"
    );
    post.stop();
    house.stop();
}

#[test]
fn the_checker_complains_where_there_is_something_to_complain_of() {
    let wrong = "# HELP a_samples_total Taken.\n# TYPE a_samples_total gauge\na_samples_total 5\n";
    assert!(complaints(wrong).contains("_total"), "{}", complaints(wrong));
}
