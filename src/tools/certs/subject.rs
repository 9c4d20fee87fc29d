//! What a certificate calls its holder: from the operator's formats to a DER name and subject
//! alternative names.

use std::net::IpAddr;

use etcd_warden_core::diagnostics::Diagnostics;
use rustls_pki_types::DnsName;

use super::certificate::Extension;
use super::component::{Component, Scope};
use super::{der, mistake};

/// `ub-common-name` of RFC 5280, appendix A.1: characters that a Common Name may have. OpenSSL
/// makes and takes no longer one.
pub const LONGEST_COMMON_NAME: usize = 64;

/// For whom a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What it is.
    pub component: &'static Component,
    /// Where it is; `None` for one certificate for the whole cluster.
    pub node: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{} of node `{node}`", self.component.name),
            None => f.write_str(self.component.name),
        }
    }
}

/// A text with `{component}` and `{node}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(String);

impl Format {
    /// Reads a format that was given as `flag`.
    ///
    /// # Errors
    /// An unknown placeholder, or a character that no name may have.
    pub fn parse(flag: &str, text: &str) -> Result<Self, Diagnostics> {
        let literal = text.replace("{component}", "").replace("{node}", "");
        if text.is_empty() || literal.contains(['{', '}']) {
            return super::refuse(
                flag,
                format!("`{text}` is no format for names"),
                "write text with `{component}` and `{node}` in it",
            );
        }
        if !literal.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return super::refuse(
                flag,
                format!("`{}` holds a character that is not printable ASCII", text.escape_debug()),
                "",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether each node gets a text of its own.
    #[must_use]
    pub fn names_nodes(&self) -> bool {
        self.0.contains("{node}")
    }

    /// As a binding of the policy writes it, for one component.
    #[must_use]
    pub fn for_component(&self, component: &str) -> String {
        self.0.replace("{component}", component)
    }

    fn fill(&self, holder: &Holder) -> String {
        let text = self.for_component(holder.component.name);
        holder.node.as_ref().map_or(text.clone(), |node| text.replace("{node}", node))
    }
}

/// A subject alternative name, before `{component}` and `{node}` are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct San {
    kind: SanKind,
    value: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SanKind {
    Dns,
    Ip,
    Uri,
}

impl San {
    /// Reads `dns:NAME`, `ip:ADDRESS` or `uri:URI`.
    ///
    /// # Errors
    /// Another kind, or a value that no holder could make right.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        let (kind, value) = match text.split_once(':') {
            Some(("dns", value)) => (SanKind::Dns, value),
            Some(("ip", value)) => (SanKind::Ip, value),
            Some(("uri", value)) => (SanKind::Uri, value),
            _ => {
                return super::refuse(
                    "--san",
                    format!("`{text}` is no name"),
                    "write `dns:NAME`, `ip:ADDRESS` or `uri:URI`",
                );
            }
        };
        Ok(Self { kind, value: Format::parse("--san", value)? })
    }

    fn general_name(&self, holder: &Holder) -> Result<Vec<u8>, String> {
        let value = self.value.fill(holder);
        match self.kind {
            SanKind::Dns => match DnsName::try_from(value.as_str()) {
                Ok(_) => Ok(der::element(0x82, value.as_bytes())),
                Err(_) => Err(format!("`{value}` is no DNS name")),
            },
            SanKind::Ip => match value.parse() {
                Ok(IpAddr::V4(address)) => Ok(der::element(0x87, &address.octets())),
                Ok(IpAddr::V6(address)) => Ok(der::element(0x87, &address.octets())),
                Err(_) => Err(format!("`{value}` is no IP address")),
            },
            SanKind::Uri => uri(&value),
        }
    }
}

/// How certificates are called.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The Common Name of a certificate per node.
    pub common_name: Format,
    /// A URI that each certificate carries beside it.
    pub uri: Option<Format>,
    /// The URI of a name that is too long for a Common Name, where `uri` gives none.
    pub long_uri: Format,
    /// O of the subject.
    pub organizations: Vec<String>,
    /// Further names.
    pub sans: Vec<San>,
}

/// What one certificate calls its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its Common Name; `None` where it would be too long.
    pub common_name: Option<String>,
    /// Its URI.
    pub uri: Option<String>,
    organizations: Vec<String>,
    general_names: Vec<Vec<u8>>,
}

impl Naming {
    /// The names of one holder.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate, in words.
    pub fn of(&self, holder: &Holder) -> Result<Subject, Diagnostics> {
        let mut found = Diagnostics::default();
        let mut say = |flag: &str, message: String| {
            found.push(mistake(flag, format!("{holder}: {message}"), ""))
        };
        let full = self.full_name(holder);
        let fits = full.chars().count() <= LONGEST_COMMON_NAME;
        // The URI goes with a node; what serves the whole cluster has a name of this program's or
        // of the operator's own making.
        let uri = match (&self.uri, fits) {
            (Some(format), _) if holder.node.is_some() || !format.names_nodes() => {
                Some(format.fill(holder))
            }
            (None, false) if holder.node.is_some() => Some(self.long_uri.fill(holder)),
            _ => None,
        };
        if !fits && uri.is_none() {
            say(
                "--cn-format",
                format!(
                    "`{full}` is longer than the {LONGEST_COMMON_NAME} characters of a Common Name"
                ),
            );
        }
        let mut general_names = Vec::new();
        for name in uri
            .iter()
            .map(|text| ("--uri-format", self::uri(text)))
            .chain(self.sans.iter().map(|san| ("--san", san.general_name(holder))))
        {
            match name {
                (_, Ok(name)) => general_names.push(name),
                (flag, Err(message)) => say(flag, message),
            }
        }
        for organization in &self.organizations {
            let length = organization.chars().count();
            if length == 0
                || length > LONGEST_COMMON_NAME
                || organization.chars().any(char::is_control)
            {
                say(
                    "--organization",
                    format!(
                        "`{}` is no O: 1 to 64 characters, none of them a control character",
                        organization.escape_debug()
                    ),
                );
            }
        }
        if found.has_errors() {
            return Err(found);
        }
        Ok(Subject {
            common_name: fits.then_some(full),
            uri,
            organizations: self.organizations.clone(),
            general_names,
        })
    }

    fn full_name(&self, holder: &Holder) -> String {
        match (&holder.node, holder.component.scope) {
            (Some(_), _) => self.common_name.fill(holder),
            (None, _) if !self.common_name.names_nodes() => self.common_name.fill(holder),
            (None, Scope::Node | Scope::Cluster) => holder.component.cluster_name.to_owned(),
        }
    }
}

impl Subject {
    /// The name that tells this certificate from others.
    #[must_use]
    pub fn name(&self) -> &str {
        self.common_name.as_deref().or(self.uri.as_deref()).unwrap_or_default()
    }

    /// The DER `Name`: O before CN, as most CAs have it.
    pub(super) fn der(&self) -> Vec<u8> {
        let organizations =
            self.organizations.iter().map(|value| der::attribute(der::ORGANIZATION, value));
        let parts: Vec<Vec<u8>> = organizations
            .chain(self.common_name.iter().map(|value| der::attribute(der::COMMON_NAME, value)))
            .collect();
        der::element(0x30, &parts.concat())
    }

    /// The extension, if there is any name for it; critical where the subject is empty (RFC 5280,
    /// 4.2.1.6).
    pub(super) fn alternative_names(&self) -> Option<Extension> {
        let critical = self.common_name.is_none() && self.organizations.is_empty();
        let value = der::element(0x30, &self.general_names.concat());
        (!self.general_names.is_empty()).then(|| Extension {
            oid: der::SUBJECT_ALT_NAME.to_vec(),
            critical,
            value,
        })
    }
}

/// A URI as a general name. Go refuses to load a certificate whose URI has a host that is no domain
/// name (`crypto/x509`), and so would every Calico component.
fn uri(text: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| Err(format!("`{text}` is no URI: {why}"));
    let Some((scheme, rest)) = text.split_once(':') else {
        return wrong("write one such as `spiffe://cluster.local/{component}/{node}`");
    };
    let mut letters = scheme.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return wrong("its scheme is letters and digits");
    }
    if rest.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b))
    {
        return wrong("it holds a character that a URI writes as `%NN`");
    }
    if let Some(authority) = rest.strip_prefix("//") {
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        if DnsName::try_from(host).is_err() {
            return wrong("its host is no DNS name");
        }
    }
    Ok(der::element(0x86, text.as_bytes()))
}

#[cfg(test)]
mod tests;
