//! Turns the arguments of `certs issue` into an order, and collects every error.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_gateway::files::{self, ReadError};
use etcd_warden_tools::certs::ca::{Ca, certificates, pem_of};
use etcd_warden_tools::certs::component::{self, Component};
use etcd_warden_tools::certs::issue::{Keys, Planned, plan};
use etcd_warden_tools::certs::layout::{self, KEY_FILE, Layout, SecretManifest};
use etcd_warden_tools::certs::nodes::{self, Nodes};
use etcd_warden_tools::certs::request;
use etcd_warden_tools::certs::store::obstacles;
use etcd_warden_tools::certs::subject::{Format, Naming, San};

use super::IssueArgs;

/// Bytes that a list of nodes may have: `kubectl` writes some 10 KiB per node.
const MOST: u64 = 256 << 20;

/// The checked inputs of `certs issue`.
pub(super) struct Order {
    pub(super) ca: Ca,
    pub(super) trust: String,
    pub(super) planned: Vec<Planned>,
    pub(super) naming: Naming,
    pub(super) keys: Keys,
    pub(super) layout: Layout,
    pub(super) manifest: SecretManifest,
}

impl IssueArgs {
    pub(super) fn to_stdout(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Reads all inputs and collects every error. `None` if an error leaves nothing to plan.
    pub(super) fn order(&self, found: &mut Diagnostics) -> Option<Order> {
        let ca = keep(self.ca.load(), found);
        let trust = self.server_ca.as_ref().map(|path| keep(certificates(path), found));
        let components = keep(self.components(), found);
        let nodes = keep(self.nodes(), found);
        let naming = self.naming(found);
        let manifest = keep(SecretManifest::new(&self.namespace), found);
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
            let message =
                format!("a request is for one certificate, but {} are planned", planned.len());
            found.append(Diagnostics::about(
                "--csr",
                message,
                Some("name one component, and one node if it runs on nodes"),
            ));
        }
        let single =
            if self.to_stdout() && self.csr.is_none() { Layout::Secret } else { Layout::Files };
        let layout =
            self.output.unwrap_or(if planned.len() == 1 { single } else { Layout::Directories });
        self.places(layout, &mut planned, &manifest, found);
        if let (Layout::Files | Layout::Directories, true, None) =
            (layout, self.to_stdout(), &self.csr)
        {
            found.append(Diagnostics::about(
                "--out",
                "keys are written to standard output within Secrets only",
                Some("use `--output secret`"),
            ));
        }
        let ca = ca?;
        let trust = match trust {
            None => ca.trust_pem(),
            Some(certificates) => certificates?.iter().map(|der| pem_of(der)).collect(),
        };
        Some(Order { ca, trust, planned, naming, keys: keys?, layout, manifest })
    }

    /// Checks that the files can be written. With `--missing`, removes what exists from the plan.
    fn places(
        &self,
        layout: Layout,
        planned: &mut Vec<Planned>,
        manifest: &SecretManifest,
        found: &mut Diagnostics,
    ) {
        let with_key = self.csr.is_none();
        let places = |planned: &[Planned]| {
            layout::places(
                layout,
                &planned.iter().map(|one| &one.holder).collect::<Vec<_>>(),
                with_key,
                manifest,
            )
        };
        if self.missing {
            if layout == Layout::Secret {
                let message = "`--missing` looks for directories, but all Secrets are in one file";
                found.append(Diagnostics::about(
                    "--missing",
                    message,
                    Some("leave it out, or use `--output directories`"),
                ));
            }
            planned.retain(|one| {
                places(std::slice::from_ref(one))
                    .is_ok_and(|places| !places.iter().all(|place| self.out.join(place).exists()))
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

    /// A certificate for a request must not be written beside another key.
    fn foreign_keys(&self, places: &[PathBuf], found: &mut Diagnostics) {
        for folder in places
            .iter()
            .filter_map(|place| place.parent())
            .collect::<std::collections::BTreeSet<_>>()
        {
            let key = self.out.join(folder).join(KEY_FILE);
            if key.exists() {
                let help = Some("move the key away, or choose another directory");
                found.append(Diagnostics::about(
                    &key.display().to_string(),
                    "this key would not match: the certificate is for the key of the request",
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
                    found.append(Diagnostics::about(
                        "--component",
                        format!("`{name}` is given twice"),
                        None,
                    ));
                }
                Some(component) => components.push(component),
                None => {
                    let help = format!("the components are {}", component::names());
                    found.append(Diagnostics::about(
                        "--component",
                        format!("there is no component `{name}`"),
                        Some(&help),
                    ));
                }
            }
        }
        if found.has_errors() { Err(found) } else { Ok(components) }
    }

    fn nodes(&self) -> Result<Nodes, Diagnostics> {
        let Some(path) = &self.nodes_from else { return nodes::from_arguments(&self.node) };
        let name = if path == Path::new("-") {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        };
        let read = if path == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::stdin()
                .take(MOST)
                .read_to_end(&mut bytes)
                .map(|_| bytes)
                .map_err(ReadError::from)
        } else {
            files::read(path, MOST)
        };
        let help =
            matches!(read, Err(ReadError::Special("pipe"))).then_some("use `-` for standard input");
        let bytes = read
            .map_err(|why| Diagnostics::about(&name, format!("the list of nodes {why}"), help))?;
        match String::from_utf8(bytes) {
            Ok(text) => nodes::parse(&name, &text, self.node_name_from),
            Err(_) => Err(Diagnostics::about(&name, "the list of nodes is not UTF-8", None)),
        }
    }

    fn naming(&self, found: &mut Diagnostics) -> Option<Naming> {
        let common_name = keep(Format::parse("--cn-format", &self.cn_format), found);
        let uri =
            self.uri_format.as_ref().map(|text| keep(Format::parse("--uri-format", text), found));
        let long_uri =
            keep(Format::parse("--uri-format", "spiffe://cluster.local/{component}/{node}"), found);
        let sans: Vec<Option<San>> =
            self.san.iter().map(|text| keep(San::parse(text), found)).collect();
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

/// The value, or `None` after adding its errors to the others.
fn keep<T>(result: Result<T, Diagnostics>, found: &mut Diagnostics) -> Option<T> {
    result.map_err(|errors| found.append(errors)).ok()
}
