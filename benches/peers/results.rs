//! Runs one load with each shape on all proxies, and reads the report of `etcd-warden bench
//! --compare`.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use serde_json::Value;

use crate::Arguments;
use crate::environment::Environment;
use crate::peer::Peer;

/// Number of connections, and of streams on each.
pub struct Shape {
    pub name: &'static str,
    pub connections: usize,
    pub streams: usize,
}

/// 1, 16 and 64 concurrent requests.
pub const SHAPES: [Shape; 3] = [
    Shape { name: "1x1", connections: 1, streams: 1 },
    Shape { name: "4x4", connections: 4, streams: 4 },
    Shape { name: "8x8", connections: 8, streams: 8 },
];

/// Ten writers; the watchers are spread over their connections.
const FANOUT: [Shape; 1] = [Shape { name: "10x1", connections: 10, streams: 1 }];

pub struct Load {
    pub name: &'static str,
    /// The name of its series in the report.
    series: &'static str,
    arguments: &'static [&'static str],
    /// Watch events per request, over all watchers.
    events: u32,
    /// The proxy that this load does not compare.
    without: Option<&'static str>,
}

/// It serves serializable reads from its own cache, so that etcd counts hardly any of them.
const CACHING: &str = "grpc-proxy";

pub const LOADS: [Load; 6] = [
    Load {
        name: "serializable-range",
        series: "range",
        arguments: &["--mix=range", "--serializable"],
        events: 0,
        without: Some(CACHING),
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

/// The results of one proxy with one shape.
#[derive(Default)]
pub struct Results {
    pub p50: f64,
    pub p99: f64,
    pub rate: f64,
    /// CPU time per request or per event, in microseconds.
    pub cpu: Option<f64>,
    /// CPU time per request of the first proxy divided by that of this one: median and 95 %
    /// interval.
    pub ratio: Option<[f64; 3]>,
}

pub struct Table {
    pub load: &'static Load,
    pub columns: Vec<(&'static str, BTreeMap<String, Results>)>,
    order: Vec<String>,
}

impl Table {
    pub fn of(load: &'static Load) -> Self {
        Self { load, columns: Vec::new(), order: Vec::new() }
    }

    /// Measures one shape.
    ///
    /// # Panics
    /// A response or a count was wrong.
    pub fn add(&mut self, shape: &'static Shape, environment: &Environment, arguments: &Arguments) {
        let peers: Vec<&Peer> = environment
            .peers
            .iter()
            .filter(|peer| Some(&*peer.name) != self.load.without)
            .collect();
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
            .arg(&environment.files.ca)
            .arg("--cert")
            .arg(&environment.files.client.cert)
            .arg("--key")
            .arg(&environment.files.client.key);
        command.arg(format!("--etcd-metrics=http://{}", environment.metrics()));
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

    fn read(&mut self, step: &Value) -> BTreeMap<String, Results> {
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
            let figures = Results {
                p50: latency("p50"),
                p99: latency("p99"),
                rate: target["rate"].as_f64().unwrap(),
                cpu,
                ratio: None,
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
            // The report has theirs divided by ours; the table has the inverse.
            let [median, low, high] =
                ["median", "high", "low"].map(|which| 1.0 / ratio[which].as_f64().unwrap());
            column.get_mut(ratio["target"].as_str().unwrap()).unwrap().ratio =
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
            "| {shapes} | CPU us/{unit} | CPU of {} / its CPU | p50 us | p99 us | requests/s |",
            self.order[0]
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for name in &self.order {
            let cells = |of: &dyn Fn(&Results) -> String| {
                self.columns
                    .iter()
                    .map(|(_, column)| of(&column[name]))
                    .collect::<Vec<_>>()
                    .join(" / ")
            };
            let ratio = |figures: &Results| {
                figures.ratio.map_or("-".to_owned(), |[median, low, high]| {
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
