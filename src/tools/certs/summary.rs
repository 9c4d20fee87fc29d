//! Summarizes a certificate: its names, the roles that a policy gives it, and its problems.

use std::time::SystemTime;

use etcd_warden_core::identity::{Identity, NameRefusal};
use etcd_warden_core::policy::{BindingStatus, Policy};
use serde::Serialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ca::time;
use super::component;
use super::inventory::{FoundCertificate, KeyState};

/// The use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A client's certificate.
    Client,
    /// A server's certificate that is not for clients.
    Server,
    /// A CA certificate.
    Ca,
}

/// One row of `certs list`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// `FILE`, `FILE#SECRET` or the server's URL.
    pub place: String,
    /// What it is used for.
    pub kind: Kind,
    /// Its common name, if that is usable.
    pub common_name: Option<String>,
    /// Its URI SANs.
    pub uris: Vec<String>,
    /// Its DNS SANs.
    pub dns: Vec<String>,
    /// The component, by the policy's binding or, without a policy, by the default formats of
    /// `certs issue`.
    pub component: Option<String>,
    /// The node in its name, determined in the same way.
    pub node: Option<String>,
    /// The roles that the policy gives it; `None` without a policy.
    pub roles: Option<Vec<String>>,
    /// Issuer, as text.
    pub issuer: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// `notAfter`, RFC 3339.
    pub not_after: String,
    /// Whole days until `notAfter`; negative after it.
    pub days_left: i64,
    /// The number of further files with the same CA certificate.
    #[serde(skip_serializing_if = "is_zero")]
    pub copies: usize,
    /// Problems, one sentence each.
    pub problems: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Summary {
    /// The name that a list shows: the common name, else the first SAN.
    #[must_use]
    pub fn name(&self) -> &str {
        let first = self.uris.first().or(self.dns.first());
        self.common_name.as_deref().or(first.map(String::as_str)).unwrap_or("(no name)")
    }
}

/// Summarizes one certificate. `ca` is the name of the client CA for bindings.
#[must_use]
pub fn summarize(
    found: &FoundCertificate,
    policy: Option<&Policy>,
    ca: &str,
    now: SystemTime,
) -> Summary {
    summarize_as(found, |kind| kind, policy, ca, now)
}

/// Summarizes a certificate that a server has presented. It may be a client's as well, so checks
/// that apply to clients only are left out.
#[must_use]
pub fn summarize_server(found: &FoundCertificate, ca: &str, now: SystemTime) -> Summary {
    let mut summary = summarize_as(
        found,
        |kind| if kind == Kind::Client { Kind::Server } else { kind },
        None,
        ca,
        now,
    );
    if summary.dns.is_empty() && !has_addresses(found.leaf()) {
        summary.problems.push(
            "it names no host (no DNS name or IP address among its SANs): clients refuse it"
                .to_owned(),
        );
    }
    summary
}

fn summarize_as(
    found: &FoundCertificate,
    taken_for: impl Fn(Kind) -> Kind,
    policy: Option<&Policy>,
    ca: &str,
    now: SystemTime,
) -> Summary {
    let identity = Identity::from_certificate(found.leaf(), ca.into());
    let mut problems = Vec::new();
    let parsed = X509Certificate::from_der(found.leaf()).ok().map(|(_, parsed)| parsed);
    let kind = taken_for(parsed.as_ref().map_or(Kind::Client, |parsed| kind(parsed, &found.key)));
    let (mut not_after, mut days_left) = ("unknown".to_owned(), 0);
    if let Some(parsed) = &parsed {
        let end = parsed.validity().not_after.timestamp();
        not_after = humantime::format_rfc3339_seconds(time(end)).to_string();
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        days_left = end.saturating_sub(seconds).div_euclid(86_400);
        check_certificate(parsed, kind, now, &mut problems);
    }
    check_names(&identity, kind, &mut problems);
    check_key(&found.key, &mut problems);
    let (mut component, mut node) = by_format(&identity);
    let mut roles = None;
    if let (Some(policy), Kind::Client) = (policy, kind) {
        (component, node) = by_policy(policy, &identity);
        let principal = policy.principal(&identity);
        match principal.binding_status {
            BindingStatus::Nameless(refusal) if refusal != NameRefusal::Missing => {}
            BindingStatus::Bound => {}
            BindingStatus::Unbound | BindingStatus::Nameless(_) => {
                problems.push("no binding of the policy matches it".to_owned());
            }
            BindingStatus::BadCapture => {
                problems.push(
                    "a binding would match, but a captured value is not a DNS-1123 subdomain \
                     (`bad_capture`)"
                        .to_owned(),
                );
            }
        }
        roles = Some(principal.roles.iter().map(ToString::to_string).collect());
    }
    Summary {
        place: found.place(),
        kind,
        common_name: identity.common_name.as_ref().ok().map(ToString::to_string),
        uris: identity.uri_sans.clone(),
        dns: identity.dns_sans.clone(),
        component: component.filter(|_| kind == Kind::Client),
        node: node.filter(|_| kind == Kind::Client),
        roles,
        issuer: identity.issuer,
        serial: identity.serial,
        not_after,
        days_left,
        copies: found.copies,
        problems,
    }
}

/// True if a certificate names an IP address.
fn has_addresses(der: &[u8]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    let names =
        parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    names.is_some_and(|names| {
        names.iter().any(|name| matches!(name, x509_parser::extensions::GeneralName::IPAddress(_)))
    })
}

fn kind(parsed: &X509Certificate<'_>, key: &KeyState) -> Kind {
    if *key == KeyState::OfCa {
        return Kind::Ca;
    }
    match parsed.extended_key_usage() {
        Ok(Some(usage)) if usage.value.server_auth && !usage.value.client_auth => Kind::Server,
        _ => Kind::Client,
    }
}

/// Problems that make TLS refuse it (`docs/certificates.md`).
fn check_certificate(
    parsed: &X509Certificate<'_>,
    kind: Kind,
    now: SystemTime,
    problems: &mut Vec<String>,
) {
    /// 1.2.840.113549.1.1.5 and 1.2.840.10045.4.1.
    const SHA_1: [&[u8]; 2] = [
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
    ];
    let (from, to) = (
        time(parsed.validity().not_before.timestamp()),
        time(parsed.validity().not_after.timestamp()),
    );
    if to < now {
        problems.push(format!("expired on {}", humantime::format_rfc3339_seconds(to)));
    } else if now < from {
        problems.push(format!("not valid before {}", humantime::format_rfc3339_seconds(from)));
    }
    if SHA_1.contains(&parsed.signature_algorithm.algorithm.as_bytes()) {
        problems.push("signed with SHA-1, which TLS refuses".to_owned());
    }
    if kind == Kind::Ca {
        return;
    }
    if parsed.is_ca() {
        problems.push("`CA:TRUE`: TLS refuses it as a client certificate".to_owned());
    }
    if parsed.version() != x509_parser::prelude::X509Version::V3 {
        problems.push("not an X.509 version 3 certificate, which TLS refuses".to_owned());
    }
    match parsed.extended_key_usage() {
        Ok(Some(usage)) if kind == Kind::Client && !usage.value.client_auth => {
            problems.push(
                "its extended key usage does not name `clientAuth`: TLS refuses it".to_owned(),
            );
        }
        Err(_) => problems.push("its extended key usage cannot be read".to_owned()),
        Ok(_) => {}
    }
}

fn has_no_other_name(identity: &Identity) -> bool {
    identity.uri_sans.is_empty()
        && identity.dns_sans.is_empty()
        && identity.organizations.is_empty()
}

fn check_names(identity: &Identity, kind: Kind, problems: &mut Vec<String>) {
    match &identity.common_name {
        Err(NameRefusal::Missing) if kind == Kind::Client && has_no_other_name(identity) => {
            problems.push("it has no name".to_owned());
        }
        Err(refusal) if *refusal != NameRefusal::Missing => {
            problems.push(format!("{refusal} (`{}`)", refusal.code()));
        }
        _ => {}
    }
}

fn check_key(key: &KeyState, problems: &mut Vec<String>) {
    match key {
        KeyState::Fits(Some(mode)) => {
            problems.push(format!("other users may read its key file (mode {mode:04o})"));
        }
        KeyState::Wrong(why) => problems.push(format!("its key: {why}")),
        KeyState::Fits(None) | KeyState::Elsewhere | KeyState::Encrypted | KeyState::OfCa => {}
    }
}

/// Component and node by the matching bindings: captures of these names, or the text of the binding
/// before its first capture.
fn by_policy(policy: &Policy, identity: &Identity) -> (Option<String>, Option<String>) {
    let summaries = policy.readings(identity);
    let capture = |wanted: &str| {
        let mut captures = summaries.iter().flat_map(|(_, captures)| captures);
        captures.find(|(name, _)| &**name == wanted).map(|(_, value)| value.to_string())
    };
    let text = || {
        let place = summaries.first()?.0;
        policy
            .bindings()
            .find(|binding| binding.index == place)
            .map(|binding| head(binding.pattern).to_owned())
    };
    (capture("component").or_else(text), capture("node"))
}

/// `calico-node` of `calico-node:{node}` and of `spiffe://cluster.local/calico-node/{node}`.
fn head(pattern: &str) -> &str {
    let before = pattern
        .split('{')
        .next()
        .unwrap_or_default()
        .trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    before.rsplit([':', '/']).next().unwrap_or_default()
}

/// Component and node by the default formats of `certs issue`.
fn by_format(identity: &Identity) -> (Option<String>, Option<String>) {
    let common_name = identity.common_name.as_deref().unwrap_or_default();
    for component in component::ALL {
        if common_name == component.cluster_name {
            return (Some(component.name.to_owned()), None);
        }
        let of_uri = identity.uri_sans.iter().find_map(|uri| {
            uri.strip_prefix(&format!("spiffe://cluster.local/{}/", component.name))
        });
        let of_name =
            common_name.strip_prefix(component.name).and_then(|rest| rest.strip_prefix(':'));
        if let Some(node) = of_name.or(of_uri) {
            return (Some(component.name.to_owned()), Some(node.to_owned()));
        }
    }
    (None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_before_a_capture_names_the_component() {
        for (pattern, component) in [
            ("calico-node:{node}", "calico-node"),
            ("spiffe://cluster.local/cni/{node}", "cni"),
            ("kube-apiserver", "kube-apiserver"),
            ("{node}.calico.example.org", ""),
        ] {
            assert_eq!(head(pattern), component, "{pattern}");
        }
    }
}
