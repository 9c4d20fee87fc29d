//! What a request costs through the proxy, beside the proxies that look at less, in one run.
//!
//! `benches/peers/run [--load NAME].. [--shape CxS].. [--peer NAME].. [--program NAME=PATH]..
//! [--rounds N] [--slice SECONDS] [--workers N]`
//!
//! The load and its checks are `etcd-warden bench --compare`: slices in turn, every answer looked
//! at, etcd's own count of requests compared with what was sent. What that has no word for (new and
//! idle connections, one huge answer) is in `peers/alone.rs`.
#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that meets the unexpected is to end at once, and at that place"
)]

#[path = "peers/alone.rs"]
mod alone;
#[path = "peers/client_tls.rs"]
mod client_tls;
#[path = "peers/figures.rs"]
mod figures;
#[path = "peers/others.rs"]
mod others;
#[path = "peers/peer.rs"]
mod peer;
#[path = "peers/stage.rs"]
mod stage;
#[path = "peers/targets.rs"]
mod targets;

use figures::{LOADS, Table};
use stage::Stage;
use targets::Targets;

/// What is asked for on the command line.
pub struct Arguments {
    loads: Vec<String>,
    shapes: Vec<String>,
    peers: Vec<String>,
    /// Other builds of the proxy, with their names.
    programs: Vec<(String, String)>,
    rounds: u32,
    slice: f64,
    /// Threads of each peer.
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
                // What cargo itself passes.
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
    let stage = runtime.block_on(Stage::set(&arguments));
    println!("{}\n", stage.description);
    let mut targets = Targets::default();
    for load in LOADS.iter().filter(|load| Arguments::wants(&arguments.loads, load.name)) {
        let mut table = Table::of(load);
        for shape in
            load.shapes().iter().filter(|shape| Arguments::wants(&arguments.shapes, shape.name))
        {
            table.add(shape, &stage, &arguments);
        }
        if !table.columns.is_empty() {
            println!("{table}");
            targets.of_table(&table);
        }
    }
    for alone in alone::ALL.iter().filter(|alone| Arguments::wants(&arguments.loads, alone.name)) {
        let column = tokio::task::LocalSet::new().block_on(&runtime, alone.measure(&stage));
        println!("{column}");
        targets.of_column(alone.name, &column);
    }
    println!("{targets}");
}
