//! `certs issue`: arguments and output.

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
use super::print_notes;
use super::progress::Progress;
use order::Order;

/// Arguments of `certs issue`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["component", "all"]).required(true).multiple(false))]
pub struct IssueArgs {
    #[command(flatten)]
    ca: CaArgs,
    /// A component. May be repeated. calico-node, cni and felix have one certificate per node.
    #[arg(long, value_name = "NAME", help_heading = "Components and nodes")]
    component: Vec<String>,
    /// All components of Calico's `calico-etcd.yaml`: calico-node, cni, calico-kube-controllers.
    #[arg(long, help_heading = "Components and nodes")]
    all: bool,
    /// A node, named as in etcd (`calicoctl get nodes`). May be repeated.
    #[arg(long, value_name = "NAME", help_heading = "Components and nodes")]
    node: Vec<String>,
    /// A file with the nodes, or `-` for standard input: one name per line, or the JSON or table of
    /// `calicoctl get nodes` or `kubectl get nodes`.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "node",
        help_heading = "Components and nodes"
    )]
    nodes_from: Option<PathBuf>,
    /// Which name in kubectl's JSON is the name that Calico uses.
    #[arg(long, value_enum, default_value_t, help_heading = "Components and nodes")]
    node_name_from: NameFrom,
    /// Issue one certificate per component that all nodes share, named `calico-node`, `calico-cni`
    /// or `felix`.
    #[arg(long, help_heading = "Components and nodes")]
    cluster_wide: bool,
    /// The common name of a certificate per node.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "{component}:{node}",
        help_heading = "Names"
    )]
    cn_format: String,
    /// A URI SAN for each certificate. Without it, a name of more than 64 characters becomes the
    /// URI `spiffe://cluster.local/{component}/{node}`, and there is no common name.
    #[arg(long, value_name = "FORMAT", help_heading = "Names")]
    uri_format: Option<String>,
    /// A further SAN: `dns:NAME`, `ip:ADDRESS` or `uri:URI`, with the placeholders `{component}`
    /// and `{node}`. May be repeated.
    #[arg(long, value_name = "KIND:NAME", help_heading = "Names")]
    san: Vec<String>,
    /// An organization (O) of the subject. May be repeated.
    #[arg(long, value_name = "TEXT", help_heading = "Names")]
    organization: Vec<String>,
    /// The type of new keys.
    #[arg(long, value_enum, default_value_t, conflicts_with = "csr", help_heading = "Certificate")]
    key_type: KeyType,
    /// Issue one certificate for the public key of this certificate signing request (PEM). Names
    /// come from the arguments, never from the request.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    csr: Option<PathBuf>,
    /// The lifetime of the certificates. They never outlive the CA.
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime, help_heading = "Certificate")]
    lifetime: Duration,
    /// The CA of the gateway's server certificate, written as `etcd-ca` for the components.
    /// Default: the issuing CA.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    server_ca: Option<PathBuf>,
    /// The output directory. `-` writes the Secrets, or the certificate for a request, to standard
    /// output.
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    out: PathBuf,
    /// The layout of the files. Default: `files` for one certificate, `directories` for more.
    #[arg(short, long, value_enum, help_heading = "Files")]
    output: Option<Layout>,
    /// The namespace of Secrets.
    #[arg(long, value_name = "NAME", default_value = "kube-system", help_heading = "Files")]
    namespace: String,
    /// Replace existing files.
    #[arg(long, conflicts_with = "missing", help_heading = "Files")]
    force: bool,
    /// Issue only missing certificates: for new nodes, or after an interrupted run.
    #[arg(long, help_heading = "Files")]
    missing: bool,
    /// Check everything and print what would be issued. Writes nothing.
    #[arg(long, help_heading = "Files")]
    dry_run: bool,
}

impl IssueArgs {
    /// Opens the output directory if it exists and will be written to. A new directory is created
    /// only when the files are complete.
    fn existing_store(&self, found: &mut Diagnostics, err: &mut dyn Write) -> Option<Store> {
        let writes = !self.dry_run && !self.to_stdout() && self.out.is_dir();
        writes.then(|| open(&self.out, err).map_err(|errors| found.append(errors)).ok()).flatten()
    }
}

/// A lifetime from one minute to 100 years, such as `90d`, `8760h` or `1y`.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time)
            if time >= Duration::from_secs(60)
                && time <= Duration::from_secs(100 * 366 * 86_400) =>
        {
            Ok(time)
        }
        Ok(_) => Err("a lifetime is at least one minute and at most 100 years".to_owned()),
        Err(_) => Err("write a duration with its unit, such as `90d`, `12h` or `1y`".to_owned()),
    }
}

/// Runs `certs issue`.
pub(super) fn run(
    args: &IssueArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Diagnostics> {
    let mut found = Diagnostics::default();
    // Open the directory first: this completes an interrupted run, whose files are then not
    // missing.
    let store = args.existing_store(&mut found, err);
    let order = args.order(&mut found);
    let (errors, notes) = split(found);
    print_notes(Some(notes), err);
    let order = match order {
        Some(order) if !errors.has_errors() => order,
        _ => return Err(errors),
    };
    let (window, note) = order.ca.window(SystemTime::now(), args.lifetime);
    print_notes(note, err);
    if args.dry_run {
        print_summary(&order, "would be issued", window.to, Path::new(""), out);
        return Ok(());
    }
    let progress = Progress::new(order.planned.len());
    let made = make(&order.ca, &order.planned, &order.keys, window, &order.trust, &|count| {
        progress.done(count);
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
        print_summary(&order, "issued", window.to, Path::new(""), err);
        return Ok(());
    }
    let files = layout::lay_out(order.layout, sets, &order.manifest);
    let store = match store {
        Some(store) => store,
        None => open(&args.out, err)?,
    };
    // Another process may have written files since the first check.
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let obstacles = obstacles(&args.out, &paths, args.force);
    if obstacles.has_errors() {
        return Err(obstacles);
    }
    store.put(&files)?;
    print_summary(&order, "issued", window.to, &args.out, out);
    Ok(())
}

/// Opens the output directory, and reports an interrupted run that was completed.
fn open(folder: &Path, err: &mut dyn Write) -> Result<Store, Diagnostics> {
    let (store, note) = Store::open(folder)?;
    print_notes(note, err);
    Ok(store)
}

fn split(found: Diagnostics) -> (Diagnostics, Diagnostics) {
    let (mut errors, mut notes) = (Diagnostics::default(), Diagnostics::default());
    for one in found.iter() {
        match one.severity {
            Severity::Error => errors.push(one.clone()),
            Severity::Warning => notes.push(one.clone()),
        }
    }
    (errors, notes)
}

/// Prints what was issued, and the bindings for it.
fn print_summary(order: &Order, done: &str, end: SystemTime, folder: &Path, out: &mut dyn Write) {
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
        let _ = writeln!(out, "{done}{place}: nothing, all files exist");
        return;
    }
    let _ = writeln!(
        out,
        "{done}{place}: {}, valid until {end}\nbindings for the policy:",
        counts.join(", ")
    );
    for binding in bindings {
        let _ = writeln!(out, "{binding}");
    }
}

/// A line for `bindings` of a policy.
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
    // Escape what is special in a policy and not in a format. A JSON string is valid YAML.
    let name = name.replace('\\', r"\\").replace('*', r"\x2a");
    format!("  - {{ {field}: {}, roles: [{role}] }}", serde_json::Value::from(name))
}
