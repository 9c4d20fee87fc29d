//! Plans and checks all certificates of an order, then issues them on all processors.

use std::collections::HashMap;

use etcd_warden_core::diagnostics::Diagnostics;
use zeroize::Zeroizing;

use super::ca::{Ca, Window};
use super::certificate::{CertificateTemplate, client_auth, digital_signature};
use super::component::{Component, Scope};
use super::key::KeyType;
use super::subject::{Holder, Naming, Subject};
use super::{error, note};

/// One certificate to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The component, and its node if it has one.
    pub holder: Holder,
    /// Its names.
    pub subject: Subject,
}

/// The three files that a Calico component mounts.
pub struct Credentials {
    /// `etcd-ca`: the CAs that the component trusts, PEM.
    pub ca: String,
    /// `etcd-cert`: its certificate and the intermediates below the root, PEM.
    pub certificate: String,
    /// `etcd-key`, PEM; `None` if the key was made elsewhere.
    pub key: Option<Zeroizing<String>>,
}

/// The source of public keys.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Generate a key for each certificate.
    New(KeyType),
    /// Use this key for the only certificate: DER `SubjectPublicKeyInfo` of a verified request.
    Requested(Vec<u8>),
}

/// Determines which certificates these components need on these nodes, and their names. The second
/// value has notes about unexpected names.
///
/// # Errors
/// Each name that is not allowed in a certificate, or that two certificates would have.
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
        let help = "name nodes with `--node` or `--nodes-from`, or issue one shared certificate \
                    with `--cluster-wide`";
        found.push(error(
            "--component",
            format!("each node has its own {}, but no node is named", names.join(" and ")),
            help,
        ));
    }
    if !nodes.is_empty() && !components.iter().any(|component| per_node(component)) {
        let what = if cluster_wide {
            "`--cluster-wide` issues one certificate for all nodes"
        } else {
            "these components have one certificate for the cluster"
        };
        found.push(error(
            "--node",
            format!("{what}, but nodes are named"),
            "leave out one of the two",
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
            Err(errors) => found.append(errors),
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
            found.push(error(
                "--cn-format",
                message,
                "use `{component}` and `{node}` in the format",
            ));
        }
    }
    let long: Vec<&Planned> =
        planned.iter().filter(|one| one.subject.common_name.is_none()).collect();
    if let Some(first) = long.first() {
        let uri = first.subject.name();
        let message = format!(
            "{} of {} names exceed the 64 characters of a common name (RFC 5280), the first for {}: \
             these certificates have no common name but the URI `{uri}`",
            long.len(),
            planned.len(),
            first.holder
        );
        found.push(note(
            "--cn-format",
            message,
            "the policy needs a binding on `uri` besides the one on `cn`",
        ));
    }
}

/// Issues all certificates. `progress` receives the number done so far, from several threads.
///
/// # Errors
/// The first certificate that could not be issued.
pub fn make(
    ca: &Ca,
    planned: &[Planned],
    keys: &Keys,
    window: Window,
    trust: &str,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Credentials>, Diagnostics> {
    super::parallel::map(planned, progress, |one| make_one(ca, one, keys, window, trust))
        .into_iter()
        .collect()
}

fn make_one(
    ca: &Ca,
    planned: &Planned,
    keys: &Keys,
    window: Window,
    trust: &str,
) -> Result<Credentials, Diagnostics> {
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
    let template = CertificateTemplate {
        subject: planned.subject.der(),
        public_key,
        extensions,
        not_before: window.from,
        not_after: window.to,
    };
    match ca.issue(&template) {
        Ok(der) => Ok(Credentials { ca: trust.to_owned(), certificate: ca.chain_pem(&der), key }),
        Err(message) => wrong(message),
    }
}
