//! Agents that cost this or that, minute by minute.

use proptest::prelude::*;

use super::*;

/// An agent whose samples cost `sample` seconds of CPU time each and everything else `fixed` of a CPU.
struct Agent {
    thrift: Thrift,
    now: f64,
    cpu: f64,
    sample: f64,
    fixed: f64,
    resident: u64,
    /// (time, CPU seconds) at each sample.
    history: Vec<(f64, f64)>,
    paces: Vec<Pace>,
}

impl Agent {
    fn new(sample: f64, fixed: f64) -> Self {
        let thrift = Thrift::new(Caps::default(), Duration::from_secs(1));
        let (history, paces) = (vec![(1_000.0, 0.0)], Vec::new());
        Self { thrift, now: 1_000.0, cpu: 0.0, sample, fixed, resident: 20 << 20, history, paces }
    }

    fn run(&mut self, seconds: f64) {
        let until = self.now + seconds;
        while self.now < until {
            let every = self.thrift.every().as_secs_f64();
            self.now += every;
            self.cpu += self.sample + self.fixed * every;
            self.history.push((self.now, self.cpu));
            let (ns, us) = ((self.now * 1e9) as u64, (self.cpu * 1e6) as u64);
            self.paces.extend(self.thrift.on_cost(ns, us, self.resident));
        }
    }

    /// The highest mean over a minute, of the minutes that began after `since`.
    fn worst_minute(&self, since: f64) -> f64 {
        let mut worst: f64 = 0.0;
        for (i, (from, before)) in self.history.iter().enumerate() {
            if *from < since {
                continue;
            }
            let end = self.history[i..].iter().find(|(t, _)| t - from >= 60.0);
            if let Some((to, after)) = end {
                worst = worst.max((after - before) / (to - from));
            }
        }
        worst
    }
}

#[test]
fn an_ordinary_node_is_never_slowed() {
    let mut agent = Agent::new(0.003, 0.004);
    agent.run(3_600.0);
    assert_eq!(agent.paces, []);
    assert_eq!(agent.thrift.every(), Duration::from_secs(1));
}

#[test]
fn a_dear_node_is_slowed_before_the_cap_is_broken_and_says_why() {
    let mut agent = Agent::new(0.2, 0.0);
    agent.run(600.0);
    assert!(agent.thrift.is_saving());
    assert!(agent.worst_minute(0.0) <= 0.05, "{}", agent.worst_minute(0.0));
    let first = &agent.paces[0];
    assert!(
        first.saving && first.why.contains("% of a CPU") && first.why.contains("5.0 % allowed"),
        "{}",
        first.why
    );
}

#[test]
fn it_returns_step_by_step_when_the_cause_is_gone() {
    let mut agent = Agent::new(0.2, 0.0);
    agent.run(300.0);
    assert!(agent.thrift.is_saving());
    agent.sample = 0.003;
    agent.run(600.0);
    assert!(!agent.thrift.is_saving());
    assert!(!agent.paces.last().unwrap().saving);
}

#[test]
fn a_cost_that_is_not_the_samples_leads_to_the_slowest_and_is_tried_again_seldom() {
    let mut agent = Agent::new(0.001, 0.2);
    agent.run(600.0);
    assert_eq!(agent.thrift.every(), Duration::from_secs(10));
    agent.fixed = 0.02;
    let changes = agent.paces.len();
    agent.run(3.0 * 3_600.0);
    assert!(
        agent.thrift.every() <= Duration::from_secs(1),
        "2 % at 1 s is within the cap: {:?}",
        agent.thrift.every()
    );
    assert!(agent.paces.len() - changes < 10, "{:?}", agent.paces);
}

#[test]
fn memory_near_its_cap_slows_too() {
    let mut agent = Agent::new(0.003, 0.0);
    agent.resident = 60 << 20;
    agent.run(120.0);
    assert!(agent.thrift.is_saving());
    agent.resident = 20 << 20;
    agent.run(900.0);
    assert!(!agent.thrift.is_saving());
}

proptest! {
    #[test]
    fn whatever_can_be_kept_below_the_cap_is(sample in 0.0..0.3f64, fixed in 0.0..0.02f64) {
        let mut agent = Agent::new(sample, fixed);
        agent.run(1_800.0);
        // At the slowest it would cost this; what cannot be kept is not promised.
        prop_assume!(sample / 10.0 + fixed <= 0.035);
        let settled = agent.worst_minute(1_000.0 + 60.0);
        prop_assert!(settled <= 0.05 * 1.05, "{settled}");
    }

    #[test]
    fn what_is_cheap_is_never_slowed_and_what_becomes_cheap_is_not_for_long(
        dear in 0.05..0.3f64, cheap in 0.0..0.02f64
    ) {
        let mut agent = Agent::new(cheap, 0.0);
        agent.run(600.0);
        prop_assert!(agent.paces.is_empty());
        agent.sample = dear;
        agent.run(300.0);
        agent.sample = cheap;
        agent.run(2_400.0);
        prop_assert!(!agent.thrift.is_saving());
    }

    #[test]
    fn any_figures_keep_the_pace_on_the_ladder(
        costs in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..200),
        caps in (0.0..1.0f64, any::<u64>()),
    ) {
        let mut thrift = Thrift::new(Caps { cpu: caps.0, memory_bytes: caps.1 }, Duration::from_secs(1));
        for (ns, us, resident) in costs {
            let before = thrift.every();
            let pace = thrift.on_cost(ns, us, resident);
            prop_assert!([1, 2, 5, 10].contains(&thrift.every().as_secs()));
            prop_assert_eq!(pace.as_ref().map_or(before, |p| p.every), thrift.every());
            prop_assert_eq!(thrift.is_saving(), thrift.every() > Duration::from_secs(1));
            prop_assert!(thrift.costs.len() <= REMEMBERED + 1);
        }
    }
}
