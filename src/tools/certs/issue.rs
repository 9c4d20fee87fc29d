//! From an order to certificates: planned and checked as a whole first, then made, on all
//! processors.

use std::collections::HashMap;

use etcd_warden_core::diagnostics::Diagnostics;
use zeroize::Zeroizing;

use super::ca::{Ca, Window};
use super::certificate::{Contents, client_auth, digital_signature};
use super::component::{Component, Scope};
use super::key::KeyType;
use super::subject::{Holder, Naming, Subject};
use super::{mistake, note};

/// One certificate that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// For whom.
    pub holder: Holder,
    /// Its names.
    pub subject: Subject,
}

/// What one component mounts: Calico's three files.
pub struct Set {
    /// `etcd-ca`: whom the component trusts.
    pub ca: String,
    /// `etcd-cert`: its certificate, with those between it and the root.
    pub certificate: String,
    /// `etcd-key`; none when it was made elsewhere.
    pub key: Option<Zeroizing<String>>,
}

/// Where public keys come from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Each certificate has a new key.
    New(KeyType),
    /// The one certificate has this key: DER `SubjectPublicKeyInfo` of a proven request.
    Requested(Vec<u8>),
}

/// Which certificates these components on these nodes need, and what they are called; notes where
/// that is not what one may expect.
///
/// # Errors
/// Every name that cannot stand in a certificate, or stands in two.
pub fn plan(
    components: &[&'static Component],
    nodes: &[String],
    cluster_wide: bool,
    naming: &Naming,
) -> Result<(Vec<Planned>, Diagnostics), Diagnostics> {
    let mut found = Diagnostics::default();
    let mut planned = Vec::new();
    let per_node = |component: &Component| component.scope == Scope::Node && !cluster_wide;
    if nodes.is_empty() && components.iter().any(|component| per_node(component)) {
        let names: Vec<&str> = components
            .iter()
            .filter(|component| per_node(component))
            .map(|component| component.name)
            .collect();
        let help = "name nodes by `--node` or `--nodes-from`; `--cluster-wide` makes one certificate that all nodes share";
        found.push(mistake(
            "--component",
            format!("each node has its own {}, and no node is named", names.join(" and ")),
            help,
        ));
    }
    if !nodes.is_empty() && !components.iter().any(|component| per_node(component)) {
        let what = if cluster_wide {
            "`--cluster-wide` makes one certificate for all nodes"
        } else {
            "these components have one certificate for the cluster"
        };
        found.push(mistake(
            "--node",
            format!("{what}, and nodes are named"),
            "leave one of the two out",
        ));
    }
    let on_nodes = nodes.iter().flat_map(|node| {
        components.iter().filter(|component| per_node(component)).map(move |c| (*c, Some(node)))
    });
    let in_cluster = components
        .iter()
        .filter(|component| !per_node(component))
        .map(|component| (*component, None));
    for (component, node) in on_nodes.chain(in_cluster) {
        let holder = Holder { component, node: node.cloned() };
        match naming.of(&holder) {
            Ok(subject) => planned.push(Planned { holder, subject }),
            Err(mistakes) => found.append(mistakes),
        }
    }
    unique(&planned, &mut found);
    if found.has_errors() { Err(found) } else { Ok((planned, found)) }
}

fn unique(planned: &[Planned], found: &mut Diagnostics) {
    let mut names: HashMap<&str, &Planned> = HashMap::new();
    for one in planned {
        if let Some(other) = names.insert(one.subject.name(), one) {
            let message = format!(
                "`{}` would be the name of {} and of {}",
                one.subject.name(),
                other.holder,
                one.holder
            );
            found.push(mistake(
                "--cn-format",
                message,
                "put `{component}` and `{node}` into the format",
            ));
        }
    }
    let long: Vec<&Planned> =
        planned.iter().filter(|one| one.subject.common_name.is_none()).collect();
    if let Some(first) = long.first() {
        let uri = first.subject.name();
        let message = format!(
            "{} of {} names are longer than the 64 characters of a Common Name (RFC 5280), such as that of {}: these certificates have none, and the URI `{uri}` instead",
            long.len(),
            planned.len(),
            first.holder
        );
        found.push(note(
            "--cn-format",
            message,
            "the policy needs a binding on `uri` beside that on `cn`",
        ));
    }
}

/// Makes all certificates. `progress` is told how many are done, from several threads.
///
/// # Errors
/// The first certificate that could not be made.
pub fn make(
    ca: &Ca,
    planned: &[Planned],
    keys: &Keys,
    window: Window,
    trust: &str,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Set>, Diagnostics> {
    super::threads::each(planned, progress, |one| make_one(ca, one, keys, window, trust))
        .into_iter()
        .collect()
}

fn make_one(
    ca: &Ca,
    planned: &Planned,
    keys: &Keys,
    window: Window,
    trust: &str,
) -> Result<Set, Diagnostics> {
    let wrong = |message: String| super::refuse(&planned.holder.to_string(), message, "");
    let (key, public_key) = match keys {
        Keys::Requested(public_key) => (None, public_key.clone()),
        Keys::New(kind) => match kind.generate() {
            Ok(new) => (Some(new.pem), new.public_key),
            Err(message) => return wrong(message),
        },
    };
    let extensions = [digital_signature(), client_auth()]
        .into_iter()
        .chain(planned.subject.alternative_names())
        .collect();
    let contents = Contents {
        subject: planned.subject.der(),
        public_key,
        extensions,
        not_before: window.from,
        not_after: window.to,
    };
    match ca.issue(&contents) {
        Ok(der) => Ok(Set { ca: trust.to_owned(), certificate: ca.chain_pem(&der), key }),
        Err(message) => wrong(message),
    }
}
