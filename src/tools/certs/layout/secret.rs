//! Writes Secrets as a Kubernetes manifest.

use std::fmt::Write as _;

use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::policy::name::is_subdomain;
use zeroize::Zeroizing;

use super::{CA_FILE, CERT_FILE, KEY_FILE};
use crate::certs::issue::Credentials;
use crate::certs::subject::Holder;
use crate::certs::{error, refuse};

/// A manifest of Secrets in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretManifest {
    namespace: String,
}

impl SecretManifest {
    /// A manifest for this namespace.
    ///
    /// # Errors
    /// The name is not a DNS-1123 label.
    pub fn new(namespace: &str) -> Result<Self, Diagnostics> {
        if is_subdomain(namespace) && namespace.len() <= 63 && !namespace.contains('.') {
            return Ok(Self { namespace: namespace.to_owned() });
        }
        refuse(
            "--namespace",
            format!("`{}` is not a namespace", namespace.escape_debug()),
            "use lower-case letters, digits and `-`, at most 63",
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
                    "{holder}: the Secret's name `{name}` has {} characters; the limit is 253",
                    name.len()
                );
                found.push(error("--output", message, "write `--output directories`"));
            }
        }
        if found.has_errors() { Err(found) } else { Ok(()) }
    }

    pub(super) fn text(&self, sets: &[(&Holder, Credentials)]) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for (holder, set) in sets {
            self.one(&Self::name(holder), set, &mut text);
        }
        text
    }

    /// Writes one Secret. PEM is plain text in `stringData`; the API server encodes it.
    fn one(&self, name: &str, set: &Credentials, text: &mut String) {
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
