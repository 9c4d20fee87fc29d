//! The performance targets of the project (docs/performance.md), and whether this run meets them.

use std::fmt;

use crate::results::Table;
use crate::single::{Column, IDLE};

#[derive(Default)]
pub struct Targets(Vec<Target>);

struct Target {
    what: String,
    measured: f64,
    must: f64,
    aim: f64,
}

impl Targets {
    fn push(&mut self, what: String, measured: Option<f64>, must: f64, aim: f64) {
        self.0.extend(measured.map(|measured| Target { what, measured, must, aim }));
    }

    pub fn of_table(&mut self, table: &Table) {
        let load = table.load.name;
        for (shape, column) in &table.columns {
            let against = |peer: &str| Some(column.get(peer)?.ratio?[0]);
            let (must, aim) = match *shape {
                "1x1" => (0.75, 0.6),
                "4x4" => (0.9, 0.7),
                "8x8" => (1.0, 0.8),
                // watch-fanout
                _ => (1.0, 0.5),
            };
            self.push(
                format!("{load} {shape}: CPU against HAProxy"),
                against("haproxy"),
                must,
                aim,
            );
            if *shape != "10x1" {
                self.push(
                    format!("{load} {shape}: CPU against Envoy"),
                    against("envoy"),
                    0.5,
                    0.35,
                );
            }
            if *shape == "1x1" {
                let added = || {
                    let p50 = |peer: &str| column.get(peer).map(|figures| figures.p50);
                    let direct = p50("direct")?;
                    Some((p50("etcd-warden")? - direct) / (p50("haproxy")? - direct))
                };
                self.push(
                    format!("{load} {shape}: p50 added, against HAProxy's"),
                    added(),
                    1.0,
                    0.7,
                );
            }
        }
    }

    pub fn of_column(&mut self, name: &str, column: &Column) {
        let Some((_, ours)) = column.rows.iter().find(|(peer, _)| peer == "etcd-warden") else {
            return;
        };
        match name {
            "idle-connections" => {
                self.push("memory at its start, MB".to_owned(), Some(ours[0]), 15.0, 10.0);
                self.push(
                    "memory of 10,000 idle connections, MB".to_owned(),
                    Some(ours[1] * 10_000.0 / IDLE as f64),
                    400.0,
                    200.0,
                );
            }
            "huge-responses" => {
                self.push("a Range of 100 MB: MB more".to_owned(), Some(ours[1]), 4.0, 1.0);
                self.push("a snapshot: MB more".to_owned(), Some(ours[3]), 4.0, 1.0);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### Targets\n\n| | measured | must | aim | |\n|---|---|---|---|---|")?;
        for Target { what, measured, must, aim } in &self.0 {
            let verdict = match measured {
                measured if measured <= aim => "better than the aim",
                measured if measured <= must => "met",
                _ => "**missed**",
            };
            writeln!(f, "| {what} | {measured:.2} | {must} | {aim} | {verdict} |")?;
        }
        Ok(())
    }
}
