//! `swap-storm`: memory goes out to swap and comes back at once; the node works for its swap alone.

use dogwatch::record::{Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, SwapConfig};
use super::known::Scene;
use super::watch::{Detector, Verdict, Watch, Words, one_watch};
use super::window::Window;
use super::words;

/// Rule name.
pub(super) const RULE: &str = "swap-storm";

/// Watches swap's traffic.
#[derive(Debug)]
pub(super) struct SwapDetector {
    config: SwapConfig,
    watch: Watch,
    /// In and out.
    traffic: Window<2>,
}

impl SwapDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.swap.clone();
        Self { watch: Watch::new(RULE, c.hold, config), config: c, traffic: Window::default() }
    }
}

impl Detector for SwapDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let c = &self.config;
        if let Some(memory) = &scene.sample.memory
            && let (Some(read), Some(written)) =
                (memory.swapped_in_bytes_total, memory.swapped_out_bytes_total)
            && let Some(span) = self.traffic.push(tick.at.boot_ns, [read, written], c.window)
        {
            let (inwards, outwards) = (span.rate(0), span.rate(1));
            let both = inwards.min(outwards);
            // Where the kernel has no PSI, the traffic decides alone.
            let waits = memory.pressure.map_or(c.some_avg10, |p| p.some_avg10);
            let mark = c.bytes_per_second as f64;
            let verdict = if both >= mark && waits >= c.some_avg10 {
                Verdict::Over(if waits >= c.serious_avg10 { Severity::High } else { Severity::Medium })
            } else if both < mark / 2.0 || waits < c.some_avg10 / 2.0 {
                Verdict::Calm
            } else {
                Verdict::Between
            };
            let words = || {
                let figures = format!("{}/s in, {}/s out", words::bytes(inwards), words::bytes(outwards));
                let growing = scene.known.growing_process(None).or(scene.known.growing_group());
                let mut facts = vec![
                    Fact::new("swap_in_bytes_per_second", inwards.round()),
                    Fact::new("swap_out_bytes_per_second", outwards.round()),
                    Fact::new("swap_free_bytes", memory.swap_free_bytes),
                    Fact::new("swap_total_bytes", memory.swap_total_bytes),
                    Fact::new("available_bytes", memory.available_bytes),
                ];
                facts.extend(memory.pressure.map(|p| Fact::new("pressure_some_avg10_percent", p.some_avg10)));
                facts.extend(growing.map(|g| Fact::new("growing_name", &g.name)));
                Words {
                    over: format!(
                        "the node swaps in both directions: {figures}{}",
                        growing.map_or_else(String::new, |g| format!("; {}", g.words()))
                    ),
                    calm: format!("the node does not swap in both directions any more: {figures}"),
                    explanation: format!(
                        "pswpin and pswpout of /proc/vmstat over {}: raised when both are ≥ {}/s and memory pressure some \
                         avg10 is ≥ {} %, high from {} %; cleared at half of either. Traffic in one direction is the \
                         kernel making room or a program waking up. Zram counts like a disk.",
                        words::duration(span.seconds),
                        words::bytes(mark),
                        c.some_avg10,
                        c.serious_avg10
                    ),
                    facts,
                    pod: growing.and_then(|g| g.pod.clone()),
                    ..Words::default()
                }
            };
            let subject = || Subject::new("memory", tick.identity.node.as_str());
            self.watch.judge(tick, verdict, subject, words, out);
        }
        self.watch.close(tick, false, out);
    }

    one_watch!();
}
