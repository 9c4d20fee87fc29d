//! `etcd-warden bench calico`: arguments and output.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::terminal;
use etcd_warden_tools::bench::calico::cluster::Node;
use etcd_warden_tools::bench::calico::node::{CONNECTIONS, WATCHES};
use etcd_warden_tools::bench::calico::run::{self, Cluster};
use etcd_warden_tools::bench::plan::Target;
use etcd_warden_tools::bench::server_counts::MetricsUrl;
use etcd_warden_tools::bench::stop::Stop;
use tokio::task::LocalSet;

use super::credentials::{Credentials, Identities};
use super::{ReportArgs, exit, finish, plan_args, show, until_stopped};

/// Arguments of `bench calico`.
#[derive(Debug, Args)]
pub struct CalicoArgs {
    /// The etcd or proxy to test: `https://HOST:PORT`, or `http://` for plain text.
    #[arg(long, value_name = "URL")]
    endpoint: Endpoint,
    #[command(flatten)]
    credentials: Credentials,
    /// Number of nodes. Default: the number of nodes with certificates of their own.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: Option<u32>,
    /// Time over which the nodes start; `0s` starts all at once, as after an outage.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = plan_args::time)]
    ramp: Duration,
    /// How long pods are created and deleted after all nodes have started.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = plan_args::time)]
    time: Duration,
    /// Pods created per second in the whole cluster; the same number is deleted.
    #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = plan_args::rate)]
    pods_per_second: f64,
    /// Pods per node at the start. Every Felix lists all of them.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=250))]
    pods_per_node: u64,
    /// Number of NetworkPolicies at the start.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    policies: u32,
    /// Size of each value in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    value_size: u32,
    /// Threads that send. Default: the number of processors, at most 4.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Timeout of a request.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = plan_args::time)]
    timeout: Duration,
    /// Seed of all random choices: when pods are created and deleted, and on which nodes. They also
    /// depend on `--threads`.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The process whose CPU time and memory are measured.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// The metrics URLs of all etcd members (`--listen-metrics-urls`). etcd's own counts must
    /// match what was sent.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    etcd_metrics: Vec<MetricsUrl>,
    /// Run even if keys exist below `/calico/`. No key is overwritten, except that nodes and blocks
    /// with the same names are updated.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    report: ReportArgs,
}

/// Runs `bench calico`, with the exit codes of `bench`.
///
/// # Errors
/// The run could not be completed.
pub async fn run(args: CalicoArgs) -> anyhow::Result<ExitCode> {
    let cluster = match cluster(&args) {
        Ok(cluster) => Arc::new(cluster),
        Err(errors) => {
            errors.iter().for_each(|error| terminal::err(format_args!("error: {error}")));
            return Ok(ExitCode::from(exit::CONFIG));
        }
    };
    if let Some(code) = args.report.check() {
        return Ok(code);
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
        run::run(cluster, stop, settings, &mut |progress| show(&progress, quiet)).await
    };
    let report = LocalSet::new().run_until(until_stopped("/calico/", work)).await;
    finish(&args.report, report)
}

fn cluster(args: &CalicoArgs) -> Result<Cluster, Vec<String>> {
    let mut errors = Vec::new();
    if args.timeout.is_zero() {
        errors.push("`--timeout` is 0".to_owned());
    }
    if let Some(pid) =
        args.pid.filter(|pid| etcd_warden_tools::bench::process::usage(*pid).is_none())
    {
        errors.push(format!("`--pid {pid}`: there is no such process, or /proc is not available"));
    }
    let identities = args
        .credentials
        .read(std::slice::from_ref(&args.endpoint))
        .map_err(|wrong| errors.extend(wrong));
    let (default, all) = match identities {
        Ok(Identities { default, many }) if errors.is_empty() => (default, many),
        _ => return Err(errors),
    };
    let find = |node: Option<&str>, component: &str| {
        let of = |node: Option<&str>| {
            all.iter()
                .find(|one| {
                    one.node.as_deref() == node && one.component.as_deref() == Some(component)
                })
                .cloned()
        };
        of(node).or_else(|| of(None)).or_else(|| default.clone())
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
        errors.push("`--nodes` is required if no node has a certificate of its own".to_owned());
    } else if usize::try_from(wanted).is_ok_and(|wanted| wanted > named.len()) {
        let what = format!(
            "`--nodes {wanted}`, but {} nodes have certificates: issue more with `certs issue --all \
             --nodes-from FILE`",
            named.len()
        );
        errors.push(what);
    }
    let mut need = |node: Option<&str>, component: &str, purpose: &str| {
        let found = find(node, component);
        if found.is_none() {
            let place = node.map_or_else(
                || format!("cluster/{component}"),
                |node| format!("nodes/{node}/{component}"),
            );
            errors
                .push(format!("there is neither a certificate `{place}`, {purpose}, nor `--cert`"));
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
    let calicoctl = need(None, "calicoctl-full", "for calicoctl and for deleting all keys");
    let (Some(controllers), Some(calicoctl), []) = (controllers, calicoctl, errors.as_slice())
    else {
        return Err(errors);
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
        operator: default.unwrap_or_else(|| calicoctl.clone()),
        calicoctl,
        threads,
        spread: args.ramp,
        time: args.time,
        pods_per_second: args.pods_per_second,
        pods_per_node: args.pods_per_node,
        policies: args.policies,
        value_size: usize::try_from(args.value_size).unwrap_or(usize::MAX),
        request_timeout: args.timeout,
        seed: args.seed,
        etcd_metrics: args.etcd_metrics.clone(),
        force: args.force,
    })
}
