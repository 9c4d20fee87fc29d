//! `certs issue`.

mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};
use etcd_warden_core::diagnostics::{Diagnostics, Severity};
use etcd_warden_core::printable::Printable;
use etcd_warden_tools::certs::issue::{Planned, make};
use etcd_warden_tools::certs::key::KeyType;
use etcd_warden_tools::certs::layout::{self, Layout};
use etcd_warden_tools::certs::nodes::NameFrom;
use etcd_warden_tools::certs::store::{Store, obstacles};
use etcd_warden_tools::certs::subject::Naming;

use super::authority::CaArgs;
use super::progress::Progress;
use super::tell;
use order::Order;

/// Arguments of `certs issue`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["component", "all"]).required(true).multiple(false))]
pub struct IssueArgs {
    #[command(flatten)]
    ca: CaArgs,
    /// A component; may be given several times. calico-node, cni and felix have a certificate for
    /// each node.
    #[arg(long, value_name = "NAME", help_heading = "Whom")]
    component: Vec<String>,
    /// All components of Calico's `calico-etcd.yaml`: calico-node, cni, calico-kube-controllers.
    #[arg(long, help_heading = "Whom")]
    all: bool,
    /// A node, as etcd has it (`calicoctl get nodes`); may be given several times.
    #[arg(long, value_name = "NAME", help_heading = "Whom")]
    node: Vec<String>,
    /// Nodes from a file, `-` for standard input: one name on each line, or the JSON of `calicoctl
    /// get nodes` or `kubectl get nodes`.
    #[arg(long, value_name = "FILE", conflicts_with = "node", help_heading = "Whom")]
    nodes_from: Option<PathBuf>,
    /// Which name of a node in kubectl's JSON is Calico's.
    #[arg(long, value_enum, default_value_t, help_heading = "Whom")]
    node_name_from: NameFrom,
    /// One certificate that all nodes share, under the names of `calico/v3.31`.
    #[arg(long, help_heading = "Whom")]
    cluster_wide: bool,
    /// The Common Name of a certificate per node.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "{component}:{node}",
        help_heading = "Names"
    )]
    cn_format: String,
    /// A URI for each certificate beside its Common Name. A name above 64 characters has
    /// `spiffe://cluster.local/{component}/{node}` in place of a Common Name if this is not
    /// given.
    #[arg(long, value_name = "FORMAT", help_heading = "Names")]
    uri_format: Option<String>,
    /// A further name, `dns:NAME`, `ip:ADDRESS` or `uri:URI`, with `{component}` and `{node}`; may
    /// be given several times.
    #[arg(long, value_name = "KIND:NAME", help_heading = "Names")]
    san: Vec<String>,
    /// An O of the subject; may be given several times.
    #[arg(long, value_name = "TEXT", help_heading = "Names")]
    organization: Vec<String>,
    /// What new keys are.
    #[arg(long, value_enum, default_value_t, conflicts_with = "csr", help_heading = "Certificate")]
    key_type: KeyType,
    /// Only a certificate, for the key of this request (PEM). Names come from these arguments and
    /// never from the request.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    csr: Option<PathBuf>,
    /// How long it holds; never longer than the CA.
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime, help_heading = "Certificate")]
    lifetime: Duration,
    /// Whom the components trust, written as `etcd-ca`: the CA of the proxy's server certificate.
    /// The issuing CA if not given.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    server_ca: Option<PathBuf>,
    /// The folder that the files go to; `-` writes the Secrets, or the certificate for a request,
    /// to standard output.
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    out: PathBuf,
    /// How they are laid out; `files` for one certificate and `directories` for more, if not
    /// given.
    #[arg(short, long, value_enum, help_heading = "Files")]
    output: Option<Layout>,
    /// The namespace of Secrets.
    #[arg(long, value_name = "NAME", default_value = "kube-system", help_heading = "Files")]
    namespace: String,
    /// Replace what is there.
    #[arg(long, conflicts_with = "missing", help_heading = "Files")]
    force: bool,
    /// Issue only what is not there yet: for new nodes, and after a run that was cut.
    #[arg(long, help_heading = "Files")]
    missing: bool,
    /// Check everything and say what would be issued, and write nothing.
    #[arg(long, help_heading = "Files")]
    dry_run: bool,
}

impl IssueArgs {
    /// The folder that is written to, if it is there. A new one is made only when there is
    /// something to write.
    fn existing_store(&self, found: &mut Diagnostics, err: &mut dyn Write) -> Option<Store> {
        let writes = !self.dry_run && !self.to_stdout() && self.out.is_dir();
        writes
            .then(|| open(&self.out, err).map_err(|mistakes| found.append(mistakes)).ok())
            .flatten()
    }
}

/// `90d`, `8760h`, `1y`: at least a minute.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time)
            if time >= Duration::from_secs(60)
                && time <= Duration::from_secs(100 * 366 * 86_400) =>
        {
            Ok(time)
        }
        Ok(_) => Err("a lifetime is at least a minute and at most a hundred years".to_owned()),
        Err(_) => Err("write a time with its unit, such as `90d`, `12h` or `1y`".to_owned()),
    }
}

/// Runs `certs issue`.
pub(super) fn run(
    args: &IssueArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Diagnostics> {
    let mut found = Diagnostics::default();
    // First of all, so that what a cut run left is in place before anybody looks for what is
    // missing.
    let store = args.existing_store(&mut found, err);
    let order = args.order(&mut found);
    let (mistakes, notes) = split(found);
    tell(Some(notes), err);
    let order = match order {
        Some(order) if !mistakes.has_errors() => order,
        _ => return Err(mistakes),
    };
    let (window, note) = order.ca.window(SystemTime::now(), args.lifetime);
    tell(note, err);
    if args.dry_run {
        say(&order, "would be issued", window.to, Path::new(""), out);
        return Ok(());
    }
    let progress = Progress::new(order.planned.len());
    let made = make(&order.ca, &order.planned, &order.keys, window, &order.trust, &|count| {
        progress.done(count)
    });
    progress.end();
    let sets: Vec<_> = order.planned.iter().map(|one| &one.holder).zip(made?).collect();
    if args.to_stdout() {
        let files = layout::lay_out(order.layout, sets, &order.manifest);
        let wanted =
            if order.layout == Layout::Secret { layout::SECRETS_FILE } else { layout::CERT_FILE };
        for file in files.iter().filter(|file| file.path.ends_with(wanted)) {
            let _ = write!(out, "{}", file.content.as_str());
        }
        say(&order, "issued", window.to, Path::new(""), err);
        return Ok(());
    }
    let files = layout::lay_out(order.layout, sets, &order.manifest);
    let store = match store {
        Some(store) => store,
        None => open(&args.out, err)?,
    };
    // Somebody may have been faster since the first look.
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let obstacles = obstacles(&args.out, &paths, args.force);
    if obstacles.has_errors() {
        return Err(obstacles);
    }
    store.put(&files)?;
    say(&order, "issued", window.to, &args.out, out);
    Ok(())
}

/// Takes the folder, and tells what had to be finished there.
fn open(folder: &Path, err: &mut dyn Write) -> Result<Store, Diagnostics> {
    let (store, note) = Store::open(folder)?;
    tell(note, err);
    Ok(store)
}

fn split(found: Diagnostics) -> (Diagnostics, Diagnostics) {
    let (mut mistakes, mut notes) = (Diagnostics::default(), Diagnostics::default());
    for one in found.iter() {
        match one.severity {
            Severity::Error => mistakes.push(one.clone()),
            Severity::Warning => notes.push(one.clone()),
        }
    }
    (mistakes, notes)
}

/// What was done, and the bindings that fit.
fn say(order: &Order, done: &str, end: SystemTime, folder: &Path, out: &mut dyn Write) {
    let end = humantime::format_rfc3339_seconds(end);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bindings: BTreeSet<String> = BTreeSet::new();
    for one in &order.planned {
        *counts.entry(one.holder.component.name).or_default() += 1;
        bindings.insert(binding(one, &order.naming));
    }
    let counts: Vec<String> =
        counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let place = if folder.as_os_str().is_empty() {
        String::new()
    } else {
        format!(" in {}", Printable(&folder.display().to_string()))
    };
    if counts.is_empty() {
        let _ = writeln!(out, "{done}{place}: nothing, all of it is there");
        return;
    }
    let _ = writeln!(
        out,
        "{done}{place}: {}, until {end}\nbindings of a policy that fit:",
        counts.join(", ")
    );
    for binding in bindings {
        let _ = writeln!(out, "{binding}");
    }
}

/// A line for `bindings`.
fn binding(one: &Planned, naming: &Naming) -> String {
    let component = one.holder.component;
    let role = if one.holder.node.is_some() { component.role } else { component.shared_role };
    let (field, name) = match (&one.subject.common_name, &one.holder.node) {
        (Some(_), Some(_)) => ("cn", naming.common_name.for_component(component.name)),
        (None, Some(_)) => {
            ("uri", naming.uri.as_ref().unwrap_or(&naming.long_uri).for_component(component.name))
        }
        (_, None) => ("cn", one.subject.name().to_owned()),
    };
    // What a policy takes for itself, and a format does not, is escaped. What JSON quotes, YAML
    // reads as the same text.
    let name = name.replace('\\', r"\\").replace('*', r"\x2a");
    format!("  - {{ {field}: {}, roles: [{role}] }}", serde_json::Value::from(name))
}
