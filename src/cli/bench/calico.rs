//! `etcd-warden bench calico`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::terminal;
use etcd_warden_tools::bench::calico::cluster::Node;
use etcd_warden_tools::bench::calico::node::{CONNECTIONS, WATCHES};
use etcd_warden_tools::bench::calico::scene::{self, Cluster};
use etcd_warden_tools::bench::plan::Target;
use etcd_warden_tools::bench::stop::Stop;
use etcd_warden_tools::bench::witness::MetricsUrl;
use tokio::task::LocalSet;

use super::credentials::{Credentials, People};
use super::{ReportArgs, exit, finish, given, show, until_stopped};

/// Arguments of `bench calico`.
#[derive(Debug, Args)]
pub struct CalicoArgs {
    /// An etcd or a proxy: `https://HOST:PORT`, or `http://` for plain text.
    #[arg(long, value_name = "URL")]
    endpoint: Endpoint,
    #[command(flatten)]
    credentials: Credentials,
    /// How many nodes; by default as many as have certificates of their own.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: Option<u32>,
    /// Over which time the nodes start; 0s: all at once, as after an outage.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = given::time)]
    ramp: Duration,
    /// How long pods come and go when all nodes are up.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = given::time)]
    time: Duration,
    /// Pods that come in the whole cluster, and as many that go, per second.
    #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = given::rate)]
    pods_per_second: f64,
    /// Pods that run on each node before. Each Felix lists all of them.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=250))]
    pods_per_node: u64,
    /// NetworkPolicies that are there before.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    policies: u32,
    /// Bytes of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    value_size: u32,
    /// Threads that send; by default as many as there are processors, and 4 at most.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// How long an answer may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = given::time)]
    timeout: Duration,
    /// Of all chance: when pods come and go, and on which nodes. `--threads` has a part in it.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The process whose CPU time and memory is looked at.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Where etcd's members tell what they have counted (`--listen-metrics-urls`), all of them: it
    /// must be what was sent.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_metrics: Vec<MetricsUrl>,
    /// Go on where there are keys below `/calico/` already. None is written over; those of nodes
    /// and blocks with the same names are updated.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    report: ReportArgs,
}

/// Runs it, with the exit codes of `bench`.
///
/// # Errors
/// It could not be done.
pub async fn run(args: CalicoArgs) -> anyhow::Result<ExitCode> {
    let cluster = match cluster(&args) {
        Ok(cluster) => Arc::new(cluster),
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| terminal::err(format_args!("error: {mistake}")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    if let Some(mistakes) = args.report.mistakes() {
        return Ok(mistakes);
    }
    let nodes = cluster.nodes.len();
    let settings = BTreeMap::from([
        ("nodes", nodes.to_string()),
        ("connections", format!("{nodes} x {CONNECTIONS}")),
        ("watches", format!("{nodes} x {WATCHES}")),
        ("ramp", format!("{:?}", args.ramp)),
        ("time", format!("{:?}", args.time)),
        ("pods-per-second", args.pods_per_second.to_string()),
        ("pods-per-node", args.pods_per_node.to_string()),
        ("policies", args.policies.to_string()),
        ("value-size", args.value_size.to_string()),
        ("threads", cluster.threads.to_string()),
        ("seed", args.seed.to_string()),
    ]);
    let quiet = args.report.quiet;
    let work = async |stop: &Arc<Stop>| {
        scene::run(cluster, stop, settings, &mut |progress| show(&progress, quiet)).await
    };
    let report = LocalSet::new().run_until(until_stopped("/calico/", work)).await;
    finish(&args.report, report)
}

fn cluster(args: &CalicoArgs) -> Result<Cluster, Vec<String>> {
    let mut mistakes = Vec::new();
    if args.timeout.is_zero() {
        mistakes.push("`--timeout` is 0".to_owned());
    }
    if let Some(pid) =
        args.pid.filter(|pid| etcd_warden_tools::bench::process::usage(*pid).is_none())
    {
        mistakes.push(format!("`--pid {pid}`: there is no such process, or no /proc to see it"));
    }
    let people = args
        .credentials
        .read(std::slice::from_ref(&args.endpoint))
        .map_err(|wrong| mistakes.extend(wrong));
    let (alone, all) = match people {
        Ok(People { alone, many }) if mistakes.is_empty() => (alone, many),
        _ => return Err(mistakes),
    };
    let find = |node: Option<&str>, component: &str| {
        let of = |node: Option<&str>| {
            all.iter()
                .find(|one| {
                    one.node.as_deref() == node && one.component.as_deref() == Some(component)
                })
                .cloned()
        };
        of(node).or_else(|| of(None)).or_else(|| alone.clone())
    };
    let mut named: Vec<&str> = all
        .iter()
        .filter(|one| one.component.as_deref() == Some("calico-node"))
        .filter_map(|one| one.node.as_deref())
        .collect();
    let wanted = args.nodes.unwrap_or(u32::try_from(named.len()).unwrap_or(u32::MAX));
    let invented: Vec<String> = if named.is_empty() {
        (0..wanted).map(|number| format!("bench-node-{number:05}")).collect()
    } else {
        Vec::new()
    };
    named.extend(invented.iter().map(String::as_str));
    if wanted == 0 {
        mistakes.push("`--nodes` is needed where no node has a certificate of its own".to_owned());
    } else if usize::try_from(wanted).is_ok_and(|wanted| wanted > named.len()) {
        let what = format!(
            "`--nodes {wanted}`, and {} nodes have certificates: `certs issue --all --nodes-from FILE` makes more",
            named.len()
        );
        mistakes.push(what);
    }
    let mut need = |node: Option<&str>, component: &str, purpose: &str| {
        let found = find(node, component);
        if found.is_none() {
            let place = node.map_or_else(
                || format!("cluster/{component}"),
                |node| format!("nodes/{node}/{component}"),
            );
            mistakes.push(format!("there is no certificate `{place}`, {purpose}, and no `--cert`"));
        }
        found
    };
    let nodes = (0..wanted).zip(&named).filter_map(|(number, name)| {
        let (node, cni) = (
            need(Some(name), "calico-node", "for its node"),
            need(Some(name), "cni", "for its pods"),
        );
        Some(Node { number, name: (*name).to_owned(), node: node?, cni: cni? })
    });
    let nodes: Vec<Node> = nodes.collect();
    let controllers = need(None, "calico-kube-controllers", "for kube-controllers");
    let calicoctl = need(None, "calicoctl-full", "for calicoctl, and who removes all keys");
    let (Some(controllers), Some(calicoctl), []) = (controllers, calicoctl, mistakes.as_slice())
    else {
        return Err(mistakes);
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args
        .threads
        .map_or(processors.min(4), |threads| usize::try_from(threads).unwrap_or(1))
        .min(nodes.len());
    Ok(Cluster {
        target: Target {
            name: "target".to_owned(),
            endpoint: args.endpoint.clone(),
            pid: args.pid,
        },
        nodes,
        controllers,
        operator: alone.unwrap_or_else(|| calicoctl.clone()),
        calicoctl,
        threads,
        spread: args.ramp,
        time: args.time,
        pods_per_second: args.pods_per_second,
        pods_per_node: args.pods_per_node,
        policies: args.policies,
        value_size: usize::try_from(args.value_size).unwrap_or(usize::MAX),
        patience: args.timeout,
        seed: args.seed,
        etcd_metrics: args.etcd_metrics.clone(),
        force: args.force,
    })
}
