//! `certs issue`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};

use super::authority::CaArgs;
use super::progress::Progress;
use super::tell;
use crate::certs::ca::{Ca, certificates};
use crate::certs::component::{self, Component};
use crate::certs::issue::{Keys, Planned, make, plan};
use crate::certs::key::KeyType;
use crate::certs::layout::{self, Layout, Manifest};
use crate::certs::nodes::{self, NameFrom, Nodes};
use crate::certs::store::{Store, obstacles};
use crate::certs::subject::{Format, Naming, San};
use crate::certs::{layout::KEY_FILE, request};
use crate::policy::Diagnostics;

/// Bytes that a list of nodes may have: that of `kubectl` has some 10 KiB for each node.
const MOST: u64 = 256 << 20;

/// Arguments of `certs issue`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["component", "all"]).required(true).multiple(false))]
pub struct IssueArgs {
    #[command(flatten)]
    ca: CaArgs,
    /// A component; may be given several times. calico-node, cni and felix have a certificate for each node.
    #[arg(long, value_name = "NAME", help_heading = "Whom")]
    component: Vec<String>,
    /// All components of Calico's `calico-etcd.yaml`: calico-node, cni, calico-kube-controllers.
    #[arg(long, help_heading = "Whom")]
    all: bool,
    /// A node, as etcd has it (`calicoctl get nodes`); may be given several times.
    #[arg(long, value_name = "NAME", help_heading = "Whom")]
    node: Vec<String>,
    /// Nodes from a file, `-` for standard input: one name on each line, or the JSON of `calicoctl get nodes` or `kubectl get nodes`.
    #[arg(long, value_name = "FILE", conflicts_with = "node", help_heading = "Whom")]
    nodes_from: Option<PathBuf>,
    /// Which name of a node in kubectl's JSON is Calico's.
    #[arg(long, value_enum, default_value_t, help_heading = "Whom")]
    node_name_from: NameFrom,
    /// One certificate that all nodes share, under the names of `calico/v3.31`.
    #[arg(long, help_heading = "Whom")]
    cluster_wide: bool,
    /// The Common Name of a certificate per node.
    #[arg(long, value_name = "FORMAT", default_value = "{component}:{node}", help_heading = "Names")]
    cn_format: String,
    /// A URI for each certificate beside its Common Name. A name above 64 characters has `spiffe://cluster.local/{component}/{node}`
    /// in place of a Common Name if this is not given.
    #[arg(long, value_name = "FORMAT", help_heading = "Names")]
    uri_format: Option<String>,
    /// A further name, `dns:NAME`, `ip:ADDRESS` or `uri:URI`, with `{component}` and `{node}`; may be given several times.
    #[arg(long, value_name = "KIND:NAME", help_heading = "Names")]
    san: Vec<String>,
    /// An O of the subject; may be given several times.
    #[arg(long, value_name = "TEXT", help_heading = "Names")]
    organization: Vec<String>,
    /// What new keys are.
    #[arg(long, value_enum, default_value_t, conflicts_with = "csr", help_heading = "Certificate")]
    key_type: KeyType,
    /// Only a certificate, for the key of this request (PEM). Names come from these arguments and never from the request.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    csr: Option<PathBuf>,
    /// How long it holds; never longer than the CA.
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = lifetime, help_heading = "Certificate")]
    lifetime: Duration,
    /// Whom the components trust, written as `etcd-ca`: the CA of the proxy's server certificate. The issuing CA if not given.
    #[arg(long, value_name = "FILE", help_heading = "Certificate")]
    server_ca: Option<PathBuf>,
    /// The folder that the files go to; `-` writes the Secrets, or the certificate for a request, to standard output.
    #[arg(long, value_name = "DIR", help_heading = "Files")]
    out: PathBuf,
    /// How they are laid out; `files` for one certificate and `directories` for more, if not given.
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

/// `90d`, `8760h`, `1y`: at least a minute.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(60) && time <= Duration::from_secs(100 * 366 * 86_400) => Ok(time),
        Ok(_) => Err("a lifetime is at least a minute and at most a hundred years".to_owned()),
        Err(_) => Err("write a time with its unit, such as `90d`, `12h` or `1y`".to_owned()),
    }
}

/// Everything that was read and found good.
struct Order {
    ca: Ca,
    trust: String,
    planned: Vec<Planned>,
    keys: Keys,
    layout: Layout,
    manifest: Manifest,
}

/// Runs `certs issue`.
pub(super) fn run(args: &IssueArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Diagnostics> {
    let mut found = Diagnostics::default();
    let order = args.order(&mut found);
    let (mistakes, notes) = split(found);
    tell(Some(notes), err);
    let order = match order {
        Some(order) if !mistakes.has_mistakes() => order,
        _ => return Err(mistakes),
    };
    let (window, note) = order.ca.window(SystemTime::now(), args.lifetime);
    tell(note, err);
    if args.dry_run {
        say(&order, "would be issued", window.to, Path::new(""), out);
        return Ok(());
    }
    let progress = Progress::new(order.planned.len());
    let made = make(&order.ca, &order.planned, &order.keys, window, &order.trust, &|count| progress.done(count));
    progress.end();
    let sets: Vec<_> = order.planned.iter().map(|one| &one.holder).zip(made?).collect();
    if args.to_stdout() {
        let files = layout::lay_out(order.layout, sets, &order.manifest);
        let wanted = if order.layout == Layout::Secret { layout::SECRETS_FILE } else { layout::CERT_FILE };
        for file in files.iter().filter(|file| file.path.ends_with(wanted)) {
            let _ = write!(out, "{}", file.content.as_str());
        }
        say(&order, "issued", window.to, Path::new(""), err);
        return Ok(());
    }
    let files = layout::lay_out(order.layout, sets, &order.manifest);
    let (store, note) = Store::open(&args.out)?;
    tell(note, err);
    // Somebody may have been faster since the first look.
    let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
    let obstacles = obstacles(&args.out, &paths, args.force);
    if obstacles.has_mistakes() {
        return Err(obstacles);
    }
    store.put(&files)?;
    say(&order, "issued", window.to, &args.out, out);
    Ok(())
}

fn split(found: Diagnostics) -> (Diagnostics, Diagnostics) {
    let (mut mistakes, mut notes) = (Diagnostics::default(), Diagnostics::default());
    for one in found.iter() {
        match one.severity {
            crate::policy::diagnostics::Severity::Mistake => mistakes.push(one.clone()),
            crate::policy::diagnostics::Severity::Warning => notes.push(one.clone()),
        }
    }
    (mistakes, notes)
}

impl IssueArgs {
    fn to_stdout(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Reads everything, and notes every mistake. `None` when there is one that leaves nothing to plan.
    fn order(&self, found: &mut Diagnostics) -> Option<Order> {
        let ca = keep(self.ca.load(), found);
        let trust = self.server_ca.as_ref().map(|path| keep(certificates(path), found));
        let components = keep(self.components(), found);
        let nodes = keep(self.nodes(), found);
        let naming = self.naming(found);
        let manifest = keep(Manifest::new(&self.namespace), found);
        let keys = match &self.csr {
            None => Some(Keys::New(self.key_type)),
            Some(path) => keep(request::public_key(path), found).map(Keys::Requested),
        };
        let (nodes, naming, manifest) = (nodes?, naming?, manifest?);
        found.append(nodes.notes);
        let planned = plan(&components?, &nodes.names, self.cluster_wide, &naming);
        let (mut planned, notes) = keep(planned, found)?;
        found.append(notes);
        if self.csr.is_some() && planned.len() != 1 {
            let message = format!("a request is for one certificate, and these are {}", planned.len());
            found.append(Diagnostics::about("--csr", message, Some("name one component, and one node if it runs on nodes")));
        }
        let single = if self.to_stdout() && self.csr.is_none() { Layout::Secret } else { Layout::Files };
        let layout = self.output.unwrap_or(if planned.len() == 1 { single } else { Layout::Directories });
        self.places(layout, &mut planned, &manifest, found);
        if let (Layout::Files | Layout::Directories, true, None) = (layout, self.to_stdout(), &self.csr) {
            found.append(Diagnostics::about("--out", "keys go to standard output only within Secrets", Some("write `--output secret`")));
        }
        let ca = ca?;
        let trust = match trust {
            None => ca.trust_pem(),
            Some(certificates) => certificates?.iter().map(|der| crate::certs::ca::pem_of(der)).collect(),
        };
        Some(Order { ca, trust, planned, keys: keys?, layout, manifest })
    }

    /// Whether the files can go where they are to go. `--missing` takes out what is there.
    fn places(&self, layout: Layout, planned: &mut Vec<Planned>, manifest: &Manifest, found: &mut Diagnostics) {
        let with_key = self.csr.is_none();
        let places =
            |planned: &[Planned]| layout::places(layout, &planned.iter().map(|one| &one.holder).collect::<Vec<_>>(), with_key, manifest);
        if self.missing {
            if layout == Layout::Secret {
                let message = "`--missing` looks for folders, and Secrets are one file";
                found.append(Diagnostics::about("--missing", message, Some("leave it out, or write `--output directories`")));
            }
            planned.retain(|one| {
                places(std::slice::from_ref(one)).is_ok_and(|places| !places.iter().all(|place| self.out.join(place).exists()))
            });
        }
        if planned.is_empty() {
            return;
        }
        if let Some(places) = keep(places(planned), found)
            && !self.to_stdout()
        {
            found.append(obstacles(&self.out, &places, self.force));
            if !with_key {
                self.foreign_keys(&places, found);
            }
        }
    }

    /// A certificate for a request must not come to lie beside another key.
    fn foreign_keys(&self, places: &[PathBuf], found: &mut Diagnostics) {
        for folder in places.iter().filter_map(|place| place.parent()).collect::<std::collections::BTreeSet<_>>() {
            let key = self.out.join(folder).join(KEY_FILE);
            if key.exists() {
                let help = Some("move the key away, or give another folder");
                found.append(Diagnostics::about(
                    &key.display().to_string(),
                    "a key lies here, and the certificate is for the key of the request",
                    help,
                ));
            }
        }
    }

    fn components(&self) -> Result<Vec<&'static Component>, Diagnostics> {
        if self.all {
            return Ok(component::ALL.iter().filter(|component| component.hosted).collect());
        }
        let mut found = Diagnostics::default();
        let mut components: Vec<&'static Component> = Vec::new();
        for name in &self.component {
            match component::find(name) {
                Some(component) if components.contains(&component) => {
                    found.append(Diagnostics::about("--component", format!("`{name}` is given twice"), None));
                }
                Some(component) => components.push(component),
                None => {
                    let help = format!("there are {}", component::names());
                    found.append(Diagnostics::about("--component", format!("there is no component `{name}`"), Some(&help)));
                }
            }
        }
        if found.has_mistakes() { Err(found) } else { Ok(components) }
    }

    fn nodes(&self) -> Result<Nodes, Diagnostics> {
        let Some(path) = &self.nodes_from else { return nodes::given(&self.node) };
        let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        let mut bytes = Vec::new();
        let read = if path == Path::new("-") {
            std::io::stdin().take(MOST).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes))
        };
        if let Err(error) = read {
            return Err(Diagnostics::about(&name, format!("the list of nodes {}", crate::config::unreadable(path, &error)), None));
        }
        match String::from_utf8(bytes) {
            Ok(text) => nodes::parse(&name, &text, self.node_name_from),
            Err(_) => Err(Diagnostics::about(&name, "the list of nodes is not UTF-8", None)),
        }
    }

    fn naming(&self, found: &mut Diagnostics) -> Option<Naming> {
        let common_name = keep(Format::parse("--cn-format", &self.cn_format), found);
        let uri = self.uri_format.as_ref().map(|text| keep(Format::parse("--uri-format", text), found));
        let long_uri = keep(Format::parse("--uri-format", "spiffe://cluster.local/{component}/{node}"), found);
        let sans: Vec<Option<San>> = self.san.iter().map(|text| keep(San::parse(text), found)).collect();
        let uri = match uri {
            Some(None) => return None,
            Some(uri) => uri,
            None => None,
        };
        Some(Naming {
            common_name: common_name?,
            uri,
            long_uri: long_uri?,
            organizations: self.organization.clone(),
            sans: sans.into_iter().collect::<Option<_>>()?,
        })
    }
}

/// The value, or its mistakes among all others.
fn keep<T>(result: Result<T, Diagnostics>, found: &mut Diagnostics) -> Option<T> {
    result.map_err(|mistakes| found.append(mistakes)).ok()
}

/// What was done, and the bindings that fit.
fn say(order: &Order, done: &str, end: SystemTime, folder: &Path, out: &mut dyn Write) {
    let end = humantime::format_rfc3339_seconds(end);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in &order.planned {
        *counts.entry(one.holder.component.name).or_default() += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    let place = if folder.as_os_str().is_empty() { String::new() } else { format!(" in {}", folder.display()) };
    let _ = writeln!(out, "{done}{place}: {}, until {end}", if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") });
}
