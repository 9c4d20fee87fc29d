//! What the operator asks for.

use std::collections::BTreeMap;

use etcd_warden_core::policy::name::is_subdomain;
use http::Uri;

use super::component::Component;
use super::source::{Source, trimmed};

/// What a manifest is to become.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The proxies, as `etcd_endpoints` has them.
    pub endpoints: Option<Endpoints>,
    /// Where certificates of single nodes come from; without, nodes share one Secret for each
    /// component.
    pub per_node: Option<PerNode>,
    /// Secrets under names of the operator's own.
    pub secrets: BTreeMap<Component, String>,
    /// How often kube-controllers compact etcd, as Go writes times; `0` is never.
    pub compaction_period: Option<CompactionPeriod>,
}

impl Wish {
    /// What a component's certificate is explicitly to come from.
    pub(super) fn source(&self, component: Component) -> Option<Source> {
        match &self.per_node {
            Some(PerNode { folder }) if component.is_on_nodes() => {
                Some(Source::HostPath(format!("{folder}/{component}")))
            }
            _ => self.secrets.get(&component).map(|name| Source::Secret(name.clone())),
        }
    }
}

/// URLs of proxies, with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(String);

impl Endpoints {
    /// Reads the flag.
    ///
    /// # Errors
    /// Which URL cannot be used, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').try_for_each(|url| usable(url).map_err(|why| format!("`{url}` {why}")))?;
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether Calico can reach a proxy at this URL.
pub(super) fn usable(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is no URL: write https://HOST:PORT")?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => return Err("is plain text: a certificate is shown over https only"),
        _ => return Err("is no URL: write https://HOST:PORT"),
    }
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
        return Err("needs a host and a port: write https://HOST:PORT");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('@') {
        return Err("has more than a host and a port: write https://HOST:PORT");
    }
    if url.contains(['\'', '"', '\\']) {
        return Err("has a character that no address has");
    }
    Ok(())
}

/// Files that each node has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerNode {
    folder: String,
}

impl PerNode {
    /// Reads the flag, `host-path=DIRECTORY`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((form, folder)) = text.split_once('=') else {
            return Err("write `host-path=DIRECTORY`, a directory of the nodes".to_owned());
        };
        if form != "host-path" {
            return Err(format!(
                "`{form}` is not written by this command: `host-path=DIRECTORY` is, or change the volumes by hand and use --check"
            ));
        }
        let plain = folder.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        if !folder.starts_with('/')
            || folder.trim_matches('/').is_empty()
            || !plain
            || folder.split('/').any(|part| part == "..")
        {
            return Err(format!(
                "`{folder}` has to be an absolute directory of letters, digits, `.`, `_`, `-`, and without `..`"
            ));
        }
        Ok(Self { folder: trimmed(folder).to_owned() })
    }

    /// The directory on each node.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }
}

/// `COMPONENT=NAME` of a Secret.
///
/// # Errors
/// What to write instead.
pub fn secret(text: &str) -> Result<(Component, String), String> {
    let usage =
        "write `COMPONENT=NAME`, with calico-node, cni or calico-kube-controllers for COMPONENT";
    let (component, name) = text.split_once('=').ok_or(usage)?;
    let component = Component::named(component)
        .ok_or_else(|| format!("there is no component `{component}`: {usage}"))?;
    if !is_subdomain(name) {
        return Err(format!(
            "`{name}` is no name of a Secret: lower-case letters, digits, `-` and `.`"
        ));
    }
    Ok((component, name.to_owned()))
}

/// A time as Go writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionPeriod(String);

impl CompactionPeriod {
    /// Reads the flag.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if seconds(text).is_some() {
            Ok(Self(text.to_owned()))
        } else {
            Err("write a time as Go does: `10m`, `1h30m`, or `0` for never".to_owned())
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a time of Go's is nothing at all; `None` where it is no time.
pub(super) fn is_never(text: &str) -> Option<bool> {
    seconds(text).map(|seconds| seconds == 0.0)
}

/// A time as Go's `time.ParseDuration` reads it (without a sign), roughly in seconds.
fn seconds(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    if text == "0" {
        return Some(0.0);
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_end)?;
        sum += number.parse::<f64>().ok()? * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        rest = next;
    }
    (!text.is_empty()).then_some(sum)
}
