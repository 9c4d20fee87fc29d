//! What a request costs through the proxy, beside etcd alone and beside HAProxy, in one run.
//!
//! Every peer gets slices of the same load in turn, so that whatever else the machine does meets all of them. CPU time is the
//! figure that holds (all threads of the peer, from `/proc/PID/task/*/schedstat`); latency is what one client saw. At the end
//! etcd's own count of handled requests must equal what was sent.
//!
//! `cargo bench --bench end_to_end -- [--program PATH].. [--requests N] [--rounds N] [--peer NAME]..`
#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that meets the unexpected is to end at once, and at that place"
)]

#[path = "end_to_end/load.rs"]
mod load;
#[path = "end_to_end/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::time::Duration;

use load::{Load, Target};
use peers::{Peer, Stage};

/// Connections and streams on each.
const SHAPES: [(usize, usize); 3] = [(1, 1), (4, 4), (8, 8)];

struct Arguments {
    programs: Vec<String>,
    requests: usize,
    rounds: usize,
    peers: Vec<String>,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { programs: Vec::new(), requests: 20_000, rounds: 5, peers: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--program" => parsed.programs.push(value()),
                "--requests" => parsed.requests = value().parse().expect("a number"),
                "--rounds" => parsed.rounds = value().parse().expect("a number"),
                "--peer" => parsed.peers.push(value()),
                // What cargo itself passes.
                "--bench" => {}
                other => panic!("unknown argument {other}"),
            }
        }
        parsed
    }
}

/// All slices of one peer under one shape.
#[derive(Default)]
struct Figures {
    cpu: Vec<f64>,
    p50: Vec<Duration>,
    p99: Vec<Duration>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    let stage = Stage::set(&arguments.programs).await;
    let peers: Vec<&Peer> =
        stage.peers.iter().filter(|peer| arguments.peers.is_empty() || arguments.peers.contains(&peer.name)).collect();
    println!("{}", stage.description);
    let targets: Vec<Target> = peers.iter().map(|peer| stage.target(peer)).collect();
    let loads = [Load::range(stage.key()), Load::put(stage.key()), Load::guarded_txn(stage.key())];
    for load in &loads {
        let handled = stage.handled(load.rpc).await;
        let mut sent = 0;
        let mut figures: BTreeMap<(usize, usize), Figures> = BTreeMap::new();
        for (shape, &(connections, streams)) in SHAPES.iter().enumerate() {
            // One connection cannot hurry; the slices are to last about equally long.
            let requests = if connections == 1 { arguments.requests / 4 } else { arguments.requests };
            for round in 0..=arguments.rounds {
                for (number, (peer, target)) in peers.iter().zip(&targets).enumerate() {
                    let before = peer.cpu();
                    let slice = load.run(target, connections, streams, requests).await;
                    sent += slice.latencies.len();
                    // The first round warms up.
                    if round > 0 {
                        let figures = figures.entry((shape, number)).or_default();
                        figures.cpu.push((peer.cpu() - before).as_secs_f64() * 1e6 / slice.latencies.len() as f64);
                        figures.p50.push(slice.quantile(0.5));
                        figures.p99.push(slice.quantile(0.99));
                    }
                }
            }
        }
        report(load, &peers, &figures);
        let counted = stage.handled(load.rpc).await - handled;
        assert!(counted as usize == sent, "etcd handled {counted} requests of {}, {sent} were sent", load.rpc);
        println!("  etcd handled all {sent} of them\n");
    }
}

fn report(load: &Load, peers: &[&Peer], figures: &BTreeMap<(usize, usize), Figures>) {
    println!("{}", load.name);
    println!("  {:<14} {:>30} {:>36}", "", "CPU us/request c1 c16 c64", "p50 / p99 us c1, c16, c64");
    for (number, peer) in peers.iter().enumerate() {
        let columns: Vec<&Figures> = (0..SHAPES.len()).map(|shape| &figures[&(shape, number)]).collect();
        let cpu: Vec<String> = columns.iter().map(|column| format!("{:>8.1}", median(&column.cpu))).collect();
        let latency: Vec<String> = columns
            .iter()
            .map(|column| format!("{:>6} /{:>6}", median(&micros(&column.p50)) as u64, median(&micros(&column.p99)) as u64))
            .collect();
        println!("  {:<14} {:>30}   {}", peer.name, cpu.join(" "), latency.join("  "));
    }
    // Slice by slice, because only neighbours in time compare.
    let against = |ours: usize, theirs: usize| -> String {
        let ratios = (0..SHAPES.len()).map(|shape| {
            let pairs = figures[&(shape, ours)].cpu.iter().zip(&figures[&(shape, theirs)].cpu);
            let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
            ratios.sort_by(f64::total_cmp);
            format!("{:.2} ({:.2}-{:.2})", median(&ratios), ratios[0], ratios[ratios.len() - 1])
        });
        ratios.collect::<Vec<_>>().join("   ")
    };
    let proxies = peers.iter().enumerate().filter(|(_, peer)| peer.name != "direct");
    if let Some((last, base)) = proxies.clone().next_back() {
        for (number, peer) in proxies.filter(|(number, _)| *number != last) {
            println!("  CPU of {} against {}: {}", peer.name, base.name, against(number, last));
        }
    }
}

fn micros(durations: &[Duration]) -> Vec<f64> {
    durations.iter().map(|duration| duration.as_secs_f64() * 1e6).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
