//! One load under each shape, for all peers: what `etcd-warden bench --compare` reports.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use serde_json::Value;

use crate::Arguments;
use crate::peer::Peer;
use crate::stage::Stage;

/// Connections, and streams on each.
pub struct Shape {
    pub name: &'static str,
    pub connections: usize,
    pub streams: usize,
}

/// One request at a time, sixteen, and sixty-four.
pub const SHAPES: [Shape; 3] = [
    Shape { name: "1x1", connections: 1, streams: 1 },
    Shape { name: "4x4", connections: 4, streams: 4 },
    Shape { name: "8x8", connections: 8, streams: 8 },
];

/// Ten writers, and watchers spread over their connections.
const FANOUT: [Shape; 1] = [Shape { name: "10x1", connections: 10, streams: 1 }];

pub struct Load {
    pub name: &'static str,
    /// What of it is counted.
    series: &'static str,
    arguments: &'static [&'static str],
    /// Events of each request, at all watchers together.
    events: u32,
    /// Who does something else when asked for this.
    without: Option<&'static str>,
}

/// It answers serializable reads from a cache of its own, so that etcd's count shows next to none
/// of them.
const CACHES: &str = "grpc-proxy";

pub const LOADS: [Load; 6] = [
    Load {
        name: "serializable-range",
        series: "range",
        arguments: &["--mix=range", "--serializable"],
        events: 0,
        without: Some(CACHES),
    },
    Load {
        name: "linearizable-range",
        series: "range",
        arguments: &["--mix=range"],
        events: 0,
        without: None,
    },
    Load { name: "put", series: "put", arguments: &["--mix=put"], events: 0, without: None },
    Load {
        name: "guarded-txn",
        series: "txn",
        arguments: &["--mix=txn"],
        events: 0,
        without: None,
    },
    Load {
        name: "watch-fanout",
        series: "watch-put",
        arguments: &["--mix=watch-fanout", "--watchers=200"],
        events: 200,
        without: None,
    },
    Load {
        name: "watch-fanout-200-ranges",
        series: "watch-put",
        arguments: &["--mix=watch-fanout", "--watchers=200", "--own-ranges"],
        events: 200,
        without: None,
    },
];

impl Load {
    pub fn shapes(&self) -> &'static [Shape] {
        if self.events > 0 { &FANOUT } else { &SHAPES }
    }
}

/// What one peer showed under one shape.
#[derive(Default)]
pub struct Figures {
    pub p50: f64,
    pub p99: f64,
    pub rate: f64,
    /// CPU time per request, or per event, in microseconds.
    pub cpu: Option<f64>,
    /// The first peer's CPU time per request through this one's: median, and where it lies with 95
    /// %.
    pub against: Option<[f64; 3]>,
}

pub struct Table {
    pub load: &'static Load,
    pub columns: Vec<(&'static str, BTreeMap<String, Figures>)>,
    order: Vec<String>,
}

impl Table {
    pub fn of(load: &'static Load) -> Self {
        Self { load, columns: Vec::new(), order: Vec::new() }
    }

    /// Measures one shape.
    ///
    /// # Panics
    /// An answer or a count was wrong.
    pub fn add(&mut self, shape: &'static Shape, stage: &Stage, arguments: &Arguments) {
        let peers: Vec<&Peer> =
            stage.peers.iter().filter(|peer| Some(&*peer.name) != self.load.without).collect();
        let each = |of: &dyn Fn(&Peer) -> Option<String>| {
            peers.iter().copied().filter_map(of).collect::<Vec<_>>().join(",")
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        command.args([
            "bench",
            "--quiet",
            "--output=json",
            "--keys=1000",
            "--value-size=100",
            "--zipf=0",
            "--threads=1",
        ]);
        command
            .args(self.load.arguments)
            .arg(format!("--connections={}", shape.connections))
            .arg(format!("--streams={}", shape.streams));
        command
            .arg(format!("--rounds={}", arguments.rounds))
            .arg(format!("--time={}ms", arguments.slice * 1000.0 * f64::from(arguments.rounds)));
        command
            .arg("--cacert")
            .arg(&stage.files.ca)
            .arg("--cert")
            .arg(&stage.files.client.cert)
            .arg("--key")
            .arg(&stage.files.client.key);
        command.arg(format!("--etcd-metrics=http://{}", stage.metrics()));
        command
            .arg("--compare")
            .arg(each(&|peer| Some(format!("{}=https://{}", peer.name, peer.address))));
        command
            .arg("--pid")
            .arg(each(&|peer| peer.pid().map(|pid| format!("{}={pid}", peer.name))));
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert!(output.status.success(), "{}: {:#}", self.load.name, report["verification"]);
        let column = self.read(&report["steps"][0]);
        self.columns.push((shape.name, column));
    }

    fn read(&mut self, step: &Value) -> BTreeMap<String, Figures> {
        let mut column = BTreeMap::new();
        self.order.clear();
        for target in step["targets"].as_array().unwrap() {
            let name = target["name"].as_str().unwrap().to_owned();
            assert_eq!(target["failed"], 0, "{name}");
            let series = target["series"]
                .as_array()
                .unwrap()
                .iter()
                .find(|series| series["name"] == self.load.series)
                .unwrap();
            let latency = |quantile: &str| series["latency_us"][quantile].as_f64().unwrap();
            let cpu = target["cpu_us"].as_f64().map(|cpu| cpu / f64::from(self.load.events.max(1)));
            let figures = Figures {
                p50: latency("p50"),
                p99: latency("p99"),
                rate: target["rate"].as_f64().unwrap(),
                cpu,
                against: None,
            };
            column.insert(name.clone(), figures);
            self.order.push(name);
        }
        for ratio in step["ratios"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|ratio| ratio["figure"] == "CPU per request")
        {
            // Theirs through ours; ours through theirs is what is asked for.
            let [median, low, high] =
                ["median", "high", "low"].map(|which| 1.0 / ratio[which].as_f64().unwrap());
            column.get_mut(ratio["target"].as_str().unwrap()).unwrap().against =
                Some([median, low, high]);
        }
        column
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.columns.iter().map(|(shape, _)| *shape).collect::<Vec<_>>().join(" / ");
        let unit = if self.load.events > 0 { "event" } else { "request" };
        writeln!(f, "### {}\n", self.load.name)?;
        writeln!(
            f,
            "| {shapes} | CPU us/{unit} | {}'s CPU through its | p50 us | p99 us | requests/s |",
            self.order[0]
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for name in &self.order {
            let cells = |of: &dyn Fn(&Figures) -> String| {
                self.columns
                    .iter()
                    .map(|(_, column)| of(&column[name]))
                    .collect::<Vec<_>>()
                    .join(" / ")
            };
            let ratio = |figures: &Figures| {
                figures.against.map_or("-".to_owned(), |[median, low, high]| {
                    format!("{median:.2} ({low:.2}-{high:.2})")
                })
            };
            let decimals = if self.load.events > 0 { 2 } else { 1 };
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} | {} |",
                cells(&|figures| figures
                    .cpu
                    .map_or("-".to_owned(), |cpu| format!("{cpu:.decimals$}"))),
                cells(&ratio),
                cells(&|figures| format!("{:.0}", figures.p50)),
                cells(&|figures| format!("{:.0}", figures.p99)),
                cells(&|figures| format!("{:.0}", figures.rate)),
            )?;
        }
        Ok(())
    }
}
