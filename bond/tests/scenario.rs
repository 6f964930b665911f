//! Bad days, twenty seeds each: conditions, media, run, check.

extern crate roadie_bond as bond;

mod harness;

use std::time::Duration;

use harness::{Media, Outcome, Plan, Uplink, both_ways, ms, percentile, run, seeds};
use sim::{Conditions, Loss, Rate};

/// An uplink of so many bits per second and one-way delay in milliseconds, with a little of everything.
fn uplink(rate: u64, delay: u64, loss: f64) -> Conditions {
    Conditions {
        rate: Rate::Fixed(rate),
        delay: ms(delay),
        jitter: ms(3),
        loss: Loss::Random(loss),
        ..Default::default()
    }
}

/// The three uplinks of most scenarios: 5, 4 and 3 Mb/s at 25, 35 and 15 ms.
fn three(loss: f64) -> Vec<Uplink> {
    [(5_000_000, 25), (4_000_000, 35), (3_000_000, 15)]
        .map(|(rate, delay)| both_ways(uplink(rate, delay, loss)))
        .to_vec()
}

const LIGHT: Media = Media { video: 2_500_000, audio: 100_000, seconds: 12 };

/// Collects the figures of all seeds and prints them.
#[derive(Default)]
struct Figures {
    latencies: Vec<Duration>,
    lost: usize,
    redundancy: f64,
    runs: usize,
}

impl Figures {
    fn add(&mut self, outcome: &Outcome) {
        self.latencies.extend(outcome.latencies());
        self.lost += outcome.lost();
        self.redundancy += outcome.redundancy();
        self.runs += 1;
    }

    fn print(&mut self, name: &str) {
        self.latencies.sort_unstable();
        let millis = |part| percentile(&self.latencies, part).as_micros() as f64 / 1000.0;
        println!(
            "{name}: video frame latency P50 {:.0} P95 {:.0} P99 {:.0} worst {:.0} ms, lost {}, redundancy {:.1} %",
            millis(0.5),
            millis(0.95),
            millis(0.99),
            millis(1.0),
            self.lost,
            100.0 * self.redundancy / self.runs as f64,
        );
    }
}

/// Runs a plan per seed, checks each outcome, prints the figures.
fn each_seed(name: &str, plan: impl Fn(u64) -> Plan, check: impl Fn(&Outcome)) {
    let figures = std::cell::RefCell::new(Figures::default());
    seeds(|seed| {
        let outcome = run(&plan(seed), seed);
        figures.borrow_mut().add(&outcome);
        if std::env::var("ROADIE_SEED").is_ok() {
            let lost: Vec<_> = outcome.fates.iter().filter(|f| f.latency.is_none()).collect();
            println!("{:#?}\n{:#?}\n{lost:#?}", outcome.sender, outcome.receiver);
        }
        check(&outcome);
    });
    figures.borrow_mut().print(name);
}

fn nothing_lost(outcome: &Outcome) {
    assert_eq!(outcome.lost(), 0, "frames lost");
}

#[test]
fn steady() {
    each_seed(
        "steady 5/4/3",
        |_| Plan::new(three(0.005), LIGHT),
        |outcome| {
            nothing_lost(outcome);
            let latencies = outcome.latencies();
            assert!(percentile(&latencies, 0.99) < ms(150), "P99 {:?}", percentile(&latencies, 0.99));
            let error = outcome.clock_error.expect("the clocks were compared");
            assert!(error.unsigned_abs() <= outcome.clock_bound, "{error} us off");
        },
    );
}
