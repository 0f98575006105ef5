//! `interface-errors`, `tcp-retransmits`, `listen-overflows` and `conntrack-exhaustion`.

use dogwatch::record::{Fact, Finding, Interface, NetStack, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, InterfaceConfig, LimitConfig, ListenConfig, RetransmitConfig};
use super::known::{Known, Scene};
use super::watch::{Detector, Verdict, Watch, Words, several_watches};
use super::window::{Window, Windows};
use super::words;

/// Rule names.
pub(super) const INTERFACE_RULE: &str = "interface-errors";
/// See [`INTERFACE_RULE`].
pub(super) const RETRANSMIT_RULE: &str = "tcp-retransmits";
/// See [`INTERFACE_RULE`].
pub(super) const LISTEN_RULE: &str = "listen-overflows";
/// See [`INTERFACE_RULE`].
pub(super) const CONNTRACK_RULE: &str = "conntrack-exhaustion";

/// Watches the host's network.
#[derive(Debug)]
pub(super) struct NetworkDetector {
    interfaces: InterfaceConfig,
    retransmits: RetransmitConfig,
    listen: ListenConfig,
    conntrack: LimitConfig,
    /// Interfaces, retransmits, listeners, connection tracking.
    watches: [Watch; 4],
    /// Packets, errors, drops.
    packets: Windows<3>,
    /// Sent, sent again.
    segments: Window<2>,
    overflows: Window<1>,
}

impl NetworkDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        Self {
            watches: [
                Watch::new(INTERFACE_RULE, config.interfaces.hold, config),
                Watch::new(RETRANSMIT_RULE, config.retransmits.hold, config),
                Watch::new(LISTEN_RULE, config.listen.hold, config),
                Watch::new(CONNTRACK_RULE, config.conntrack.hold, config).with_events(config.conntrack.quiet),
            ],
            interfaces: config.interfaces.clone(),
            retransmits: config.retransmits.clone(),
            listen: config.listen.clone(),
            conntrack: config.conntrack.clone(),
            packets: Windows::default(),
            segments: Window::default(),
            overflows: Window::default(),
        }
    }

    fn on_interface(&mut self, tick: Tick<'_>, i: &Interface, out: &mut Vec<Finding>) {
        let c = &self.interfaces;
        let errors = i.rx_errors_total.saturating_add(i.tx_errors_total);
        let drops = i.rx_dropped_total.saturating_add(i.tx_dropped_total);
        // What was dropped or failed is not always among the packets.
        let all = i
            .rx_packets_total
            .saturating_add(i.tx_packets_total)
            .saturating_add(errors)
            .saturating_add(drops);
        let span = self.packets.push(&i.name, tick.at.boot_ns, [all, errors, drops], c.window);
        let share = span.map_or(0.0, |s| s.ratio(1, 0) + s.ratio(2, 0));
        let marks = [(c.serious_share, Severity::High), (c.share, Severity::Medium)];
        let verdict = match span {
            None => Verdict::Between,
            Some(s) if s.rate(0) < c.min_packets_per_second => Verdict::Calm,
            Some(_) => Verdict::of(share, &marks, c.clear_share),
        };
        let words = || {
            let [packets, errors, drops] = span.map_or([0; 3], |s| s.delta);
            let figures = format!(
                "{} of {packets} packets in {} ({errors} errors, {drops} dropped)",
                words::percent(share),
                words::duration(c.window.as_secs_f64())
            );
            let mut facts = vec![
                Fact::new("lost_percent", format!("{:.3}", share * 100.0)),
                Fact::new("packets_number", packets),
                Fact::new("errors_number", errors),
                Fact::new("dropped_number", drops),
                Fact::new("window_seconds", c.window.as_secs()),
            ];
            facts.extend(i.speed_bytes_per_s.map(|s| Fact::new("speed_bytes_per_second", s)));
            facts.extend(i.up.map(|up| Fact::new("link_up_number", u8::from(up))));
            Words {
                over: format!("interface {} loses packets: {figures}", i.name),
                calm: format!("interface {} loses next to no packets: {figures}", i.name),
                explanation: format!(
                    "Errors and drops of both directions (/proc/net/dev) against packets. Medium from {}, high from {}, with \
                     at least {} packets a second; cleared below {}. Linux counts frames of unknown protocols as dropped, \
                     so a quiet interface says nothing.",
                    words::percent(c.share),
                    words::percent(c.serious_share),
                    c.min_packets_per_second,
                    words::percent(c.clear_share)
                ),
                facts,
                ..Words::default()
            }
        };
        self.watches[0].judge(tick, verdict, || Subject::new("interface", i.name.as_str()), words, out);
    }

    fn on_stack(&mut self, tick: Tick<'_>, net: &NetStack, out: &mut Vec<Finding>) {
        let node = || Subject::new("node", tick.identity.node.as_str());
        let now = tick.at.boot_ns;
        let c = &self.retransmits;
        let sent = [net.tcp_out_segments_total, net.tcp_retransmitted_total];
        if let Some(span) = self.segments.push(now, sent, c.window) {
            let share = span.ratio(1, 0);
            let marks = [(c.serious_share, Severity::High), (c.share, Severity::Medium)];
            let verdict = if span.delta[0] < c.min_segments {
                Verdict::Calm
            } else {
                Verdict::of(share, &marks, c.clear_share)
            };
            let words = || {
                let [sent, again] = span.delta;
                let figures = format!(
                    "{} of {sent} segments in {}",
                    words::percent(share),
                    words::duration(span.seconds)
                );
                Words {
                    over: format!("TCP sends too much again: {figures}"),
                    calm: format!("TCP sends little again: {figures}"),
                    explanation: format!(
                        "RetransSegs against OutSegs of /proc/net/snmp, host's network namespace, over {}; medium from {}, \
                         high from {}, with at least {} segments; cleared below {}. Loss on the way, a peer that is gone, or \
                         a link that is full; which peer, `ss -ti` says.",
                        words::duration(c.window.as_secs_f64()),
                        words::percent(c.share),
                        words::percent(c.serious_share),
                        c.min_segments,
                        words::percent(c.clear_share)
                    ),
                    facts: vec![
                        Fact::new("retransmitted_percent", format!("{:.2}", share * 100.0)),
                        Fact::new("retransmitted_number", again),
                        Fact::new("sent_number", sent),
                        Fact::new("established_number", net.tcp_established),
                    ],
                    ..Words::default()
                }
            };
            self.watches[1].judge(tick, verdict, node, words, out);
        }
        let c = &self.listen;
        if let Some(span) = self.overflows.push(now, [net.listen_overflows_total], c.window) {
            let rose = span.delta[0];
            let marks = [
                (c.serious_overflows.max(1) as f64, Severity::High),
                (c.overflows.max(1) as f64, Severity::Medium),
            ];
            let words = || {
                let figures = format!("{rose} connections in {}", words::duration(span.seconds));
                Words {
                    over: format!("a listener does not keep up and its queue is full: {figures} refused"),
                    calm: format!("listeners keep up again: {figures} refused"),
                    explanation: format!(
                        "ListenOverflows of /proc/net/netstat, host's network namespace, over {}: medium from {}, high from \
                         {}; cleared when there are none for {} samples. The accept queue (the smaller of listen()'s backlog \
                         and net.core.somaxconn) was full. `ss -lnt` shows whose: Recv-Q at Send-Q.",
                        words::duration(c.window.as_secs_f64()),
                        c.overflows,
                        c.serious_overflows,
                        c.hold.clear_ticks
                    ),
                    facts: vec![
                        Fact::new("overflows_number", rose),
                        Fact::new("listen_drops_since_boot_number", net.listen_drops_total),
                    ],
                    ..Words::default()
                }
            };
            self.watches[2].judge(tick, Verdict::of(rose as f64, &marks, 1.0), node, words, out);
        }
        if let (Some(entries), Some(max)) = (net.conntrack_entries, net.conntrack_max.filter(|m| *m > 0)) {
            let c = &self.conntrack;
            let used = entries as f64 / max as f64;
            let words = || {
                let figures = format!("{entries} of {max} entries ({})", words::percent(used));
                Words {
                    over: format!("the connection table is nearly full: {figures}"),
                    calm: format!("the connection table has room: {figures}"),
                    explanation: conntrack_explanation(c),
                    facts: vec![
                        Fact::new("used_percent", format!("{:.2}", used * 100.0)),
                        Fact::new("entries_number", entries),
                        Fact::new("max_number", max),
                    ],
                    ..Words::default()
                }
            };
            self.watches[3].judge(tick, c.verdict(used), node, words, out);
        }
    }
}

fn conntrack_explanation(c: &LimitConfig) -> String {
    format!(
        "nf_conntrack_count against nf_conntrack_max: medium from {}, high from {}, critical from {} or when the kernel says \
         that it drops packets for it; cleared below {}. When it is full, new connections fail although everything else \
         looks well.",
        words::percent(c.high_used),
        words::percent(c.serious_used),
        words::percent(c.critical_used),
        words::percent(c.clear_used)
    )
}

impl LimitConfig {
    /// What so much of the limit means.
    pub(super) fn verdict(&self, used: f64) -> Verdict {
        let marks = [
            (self.critical_used, Severity::Critical),
            (self.serious_used, Severity::High),
            (self.high_used, Severity::Medium),
        ];
        Verdict::of(used, &marks, self.clear_used)
    }
}

impl Detector for NetworkDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let interfaces = &scene.sample.interfaces;
        for i in interfaces {
            self.on_interface(tick, i, out);
        }
        if !interfaces.is_empty() {
            self.packets.end();
        }
        if let Some(net) = &scene.sample.net {
            self.on_stack(tick, net, out);
        }
        self.watches[0].close(tick, !interfaces.is_empty(), out);
        for watch in &mut self.watches[1..] {
            watch.close(tick, false, out);
        }
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, _known: &Known, out: &mut Vec<Finding>) -> bool {
        let text = text.strip_prefix("nf_conntrack: ").unwrap_or_default();
        let full = text.strip_prefix("nf_conntrack: ").unwrap_or(text).starts_with("table full");
        if !full || !self.watches[3].is_on() {
            return false;
        }
        let subject = Subject::new("node", tick.identity.node.as_str());
        let explanation = conntrack_explanation(&self.conntrack);
        let words = |lines: u64| Words {
            over: "the connection table is full: the kernel drops packets of new connections".to_owned(),
            explanation,
            facts: vec![Fact::new("lines_number", lines)],
            ..Words::default()
        };
        self.watches[3].hit(tick, Severity::Critical, subject, words, out);
        true
    }

    several_watches!();
}
