//! The names in a certificate: from the operator's formats to a DER `Name` and subject alternative
//! names.

use std::net::IpAddr;

use etcd_warden_core::diagnostics::Diagnostics;
use rustls_pki_types::DnsName;

use super::certificate::Extension;
use super::component::{Component, Scope};
use super::{der, error};

/// `ub-common-name` of RFC 5280, appendix A.1: the maximum length in characters, which OpenSSL
/// enforces.
pub const LONGEST_COMMON_NAME: usize = 64;

/// The component, and its node, that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The component.
    pub component: &'static Component,
    /// The node; `None` for a certificate that is for the whole cluster.
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

/// A text with the placeholders `{component}` and `{node}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(String);

impl Format {
    /// Parses the format given for `flag`.
    ///
    /// # Errors
    /// An unknown placeholder, or a character that names may not have.
    pub fn parse(flag: &str, text: &str) -> Result<Self, Diagnostics> {
        let literal = text.replace("{component}", "").replace("{node}", "");
        if text.is_empty() || literal.contains(['{', '}']) {
            return super::refuse(
                flag,
                format!("`{text}` is not a format for names"),
                "use text with the placeholders `{component}` and `{node}`",
            );
        }
        if !literal.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return super::refuse(
                flag,
                format!("`{}` has a character that is not printable ASCII", text.escape_debug()),
                "",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// True if each node gets a different text.
    #[must_use]
    pub fn names_nodes(&self) -> bool {
        self.0.contains("{node}")
    }

    /// The pattern of a binding for one component: `{node}` is kept.
    #[must_use]
    pub fn for_component(&self, component: &str) -> String {
        self.0.replace("{component}", component)
    }

    fn fill(&self, holder: &Holder) -> String {
        let text = self.for_component(holder.component.name);
        holder.node.as_ref().map_or(text.clone(), |node| text.replace("{node}", node))
    }
}

/// A subject alternative name with placeholders.
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
    /// Parses `dns:NAME`, `ip:ADDRESS` or `uri:URI`.
    ///
    /// # Errors
    /// Another kind, or an invalid format.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        let (kind, value) = match text.split_once(':') {
            Some(("dns", value)) => (SanKind::Dns, value),
            Some(("ip", value)) => (SanKind::Ip, value),
            Some(("uri", value)) => (SanKind::Uri, value),
            _ => {
                return super::refuse(
                    "--san",
                    format!("`{text}` is not a name"),
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
                Err(_) => Err(format!("`{value}` is not a DNS name")),
            },
            SanKind::Ip => match value.parse() {
                Ok(IpAddr::V4(address)) => Ok(der::element(0x87, &address.octets())),
                Ok(IpAddr::V6(address)) => Ok(der::element(0x87, &address.octets())),
                Err(_) => Err(format!("`{value}` is not an IP address")),
            },
            SanKind::Uri => uri(&value),
        }
    }
}

/// The naming rules of an order.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The common name of a certificate per node.
    pub common_name: Format,
    /// A URI SAN for each certificate.
    pub uri: Option<Format>,
    /// The URI SAN if the name is too long for a common name and `uri` is `None`.
    pub long_uri: Format,
    /// The organizations (O) of the subject.
    pub organizations: Vec<String>,
    /// Further SANs.
    pub sans: Vec<San>,
}

/// The names in one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its common name; `None` if that would be too long.
    pub common_name: Option<String>,
    /// Its URI SAN.
    pub uri: Option<String>,
    organizations: Vec<String>,
    general_names: Vec<Vec<u8>>,
}

impl Naming {
    /// The names of one holder's certificate.
    ///
    /// # Errors
    /// Each name that is not allowed in a certificate.
    pub fn of(&self, holder: &Holder) -> Result<Subject, Diagnostics> {
        let mut found = Diagnostics::default();
        let mut report = |flag: &str, message: String| {
            found.push(error(flag, format!("{holder}: {message}"), ""));
        };
        let full = self.full_name(holder);
        let fits = full.chars().count() <= LONGEST_COMMON_NAME;
        // The URI is for holders with a node. A holder for the whole cluster has a short built-in
        // name, or one that the operator chose.
        let uri = match (&self.uri, fits) {
            (Some(format), _) if holder.node.is_some() || !format.names_nodes() => {
                Some(format.fill(holder))
            }
            (None, false) if holder.node.is_some() => Some(self.long_uri.fill(holder)),
            _ => None,
        };
        if !fits && uri.is_none() {
            report(
                "--cn-format",
                format!("`{full}` exceeds the {LONGEST_COMMON_NAME} characters of a common name"),
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
                (flag, Err(message)) => report(flag, message),
            }
        }
        for organization in &self.organizations {
            let length = organization.chars().count();
            if length == 0
                || length > LONGEST_COMMON_NAME
                || organization.chars().any(char::is_control)
            {
                report(
                    "--organization",
                    format!(
                        "`{}` is not a valid O: 1 to 64 characters without control characters",
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
    /// The name that distinguishes this certificate from others.
    #[must_use]
    pub fn name(&self) -> &str {
        self.common_name.as_deref().or(self.uri.as_deref()).unwrap_or_default()
    }

    /// The DER `Name`: O before CN, the usual order.
    pub(super) fn der(&self) -> Vec<u8> {
        let organizations =
            self.organizations.iter().map(|value| der::attribute(der::ORGANIZATION, value));
        let parts: Vec<Vec<u8>> = organizations
            .chain(self.common_name.iter().map(|value| der::attribute(der::COMMON_NAME, value)))
            .collect();
        der::element(0x30, &parts.concat())
    }

    /// The extension with all SANs, if there are any; critical if the subject is empty (RFC 5280,
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

/// A URI as a general name. Go refuses to load a certificate with a URI whose host is not a domain
/// name (`crypto/x509`), and with it every Calico component would.
fn uri(text: &str) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| Err(format!("`{text}` is not a URI: {why}"));
    let Some((scheme, rest)) = text.split_once(':') else {
        return wrong("write one such as `spiffe://cluster.local/{component}/{node}`");
    };
    let mut letters = scheme.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_alphabetic())
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return wrong("its scheme must be letters, digits, `+`, `-` and `.`");
    }
    if rest.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b))
    {
        return wrong("it has a character that a URI encodes as `%NN`");
    }
    if let Some(authority) = rest.strip_prefix("//") {
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        if DnsName::try_from(host).is_err() {
            return wrong("its host is not a DNS name");
        }
    }
    Ok(der::element(0x86, text.as_bytes()))
}

#[cfg(test)]
mod tests;
