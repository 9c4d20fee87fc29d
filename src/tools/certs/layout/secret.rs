//! Secrets as a Kubernetes manifest.

use std::fmt::Write as _;

use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::policy::name::is_subdomain;
use zeroize::Zeroizing;

use super::{CA_FILE, CERT_FILE, KEY_FILE};
use crate::certs::issue::Set;
use crate::certs::subject::Holder;
use crate::certs::{mistake, refuse};

/// Where the Secrets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    namespace: String,
}

impl Manifest {
    /// In this namespace.
    ///
    /// # Errors
    /// No namespace can be called so (a DNS-1123 label).
    pub fn new(namespace: &str) -> Result<Self, Diagnostics> {
        if is_subdomain(namespace) && namespace.len() <= 63 && !namespace.contains('.') {
            return Ok(Self { namespace: namespace.to_owned() });
        }
        refuse(
            "--namespace",
            format!("`{}` is no namespace", namespace.escape_debug()),
            "lower-case letters, digits and `-`, at most 63",
        )
    }

    /// The name of a holder's Secret: `SECRET`, or `SECRET.NODE`.
    #[must_use]
    pub fn name(holder: &Holder) -> String {
        let secret = holder.component.secret;
        holder.node.as_ref().map_or_else(|| secret.to_owned(), |node| format!("{secret}.{node}"))
    }

    pub(super) fn check(&self, holders: &[&Holder]) -> Result<(), Diagnostics> {
        let mut found = Diagnostics::default();
        for holder in holders {
            let name = Self::name(holder);
            if !is_subdomain(&name) {
                let message = format!(
                    "{holder}: a Secret cannot be called `{name}`, which has {} characters and may have 253",
                    name.len()
                );
                found.push(mistake("--output", message, "write `--output directories`"));
            }
        }
        if found.has_errors() { Err(found) } else { Ok(()) }
    }

    pub(super) fn text(&self, sets: &[(&Holder, Set)]) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for (holder, set) in sets {
            self.one(&Self::name(holder), set, &mut text);
        }
        text
    }

    /// One Secret. PEM stands in it as it is: `stringData` becomes `data` when it is applied.
    fn one(&self, name: &str, set: &Set, text: &mut String) {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: {}\ntype: Opaque\nstringData:\n",
            self.namespace
        );
        let key = set.key.as_deref().map(|key| (KEY_FILE, key.as_str()));
        for (name, content) in [(CA_FILE, set.ca.as_str()), (CERT_FILE, set.certificate.as_str())]
            .into_iter()
            .chain(key)
        {
            let _ = writeln!(text, "  {name}: |");
            for line in content.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
}
