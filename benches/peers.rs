//! Compares the cost of a request through the gateway with other proxies, which check less, in one
//! run.
//!
//! `benches/peers/run [--load NAME].. [--shape CxS].. [--peer NAME].. [--program NAME=PATH]..
//! [--rounds N] [--slice SECONDS] [--workers N]`
//!
//! The load is that of `etcd-warden bench --compare`: slices in turn, every response checked,
//! etcd's own counts compared with the sent requests. `peers/single.rs` has the measurements that
//! this command does not support: new connections, idle connections and huge responses.
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that meets the unexpected must fail at once, at that line"
)]

#[path = "peers/single.rs"]
mod single;
#[path = "peers/client_tls.rs"]
mod client_tls;
#[path = "peers/results.rs"]
mod results;
#[path = "peers/others.rs"]
mod others;
#[path = "peers/peer.rs"]
mod peer;
#[path = "peers/environment.rs"]
mod environment;
#[path = "peers/targets.rs"]
mod targets;

use environment::Environment;
use results::{LOADS, Table};
use targets::Targets;

/// The command line.
pub struct Arguments {
    loads: Vec<String>,
    shapes: Vec<String>,
    peers: Vec<String>,
    /// Other builds of the gateway, with names.
    programs: Vec<(String, String)>,
    rounds: u32,
    slice: f64,
    /// Threads of each proxy.
    workers: usize,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self {
            loads: Vec::new(),
            shapes: Vec::new(),
            peers: Vec::new(),
            programs: Vec::new(),
            rounds: 7,
            slice: 1.0,
            workers: 1,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--load" => parsed.loads.push(value()),
                "--shape" => parsed.shapes.push(value()),
                "--peer" => parsed.peers.push(value()),
                "--program" => {
                    let value = value();
                    let (name, path) = value.split_once('=').expect("NAME=PATH");
                    parsed.programs.push((name.to_owned(), path.to_owned()));
                }
                "--rounds" => parsed.rounds = value().parse().expect("a number"),
                "--slice" => parsed.slice = value().parse().expect("seconds"),
                "--workers" => parsed.workers = value().parse().expect("a number"),
                // Passed by cargo.
                "--bench" => {}
                other => panic!("unknown argument {other}"),
            }
        }
        parsed
    }

    fn wants(chosen: &[String], name: &str) -> bool {
        chosen.is_empty() || chosen.iter().any(|one| one == name)
    }
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let environment = runtime.block_on(Environment::start(&arguments));
    println!("{}\n", environment.description);
    let mut targets = Targets::default();
    for load in LOADS.iter().filter(|load| Arguments::wants(&arguments.loads, load.name)) {
        let mut table = Table::of(load);
        for shape in
            load.shapes().iter().filter(|shape| Arguments::wants(&arguments.shapes, shape.name))
        {
            table.add(shape, &environment, &arguments);
        }
        if !table.columns.is_empty() {
            println!("{table}");
            targets.of_table(&table);
        }
    }
    for single in
        single::ALL.iter().filter(|single| Arguments::wants(&arguments.loads, single.name))
    {
        let column = tokio::task::LocalSet::new().block_on(&runtime, single.measure(&environment));
        println!("{column}");
        targets.of_column(single.name, &column);
    }
    println!("{targets}");
}
