//! Options of `calico segment`.

use std::collections::BTreeMap;

use etcd_warden_core::policy::name::is_subdomain;
use http::Uri;

use super::component::Component;
use super::source::{Source, trimmed};

/// The requested form of a manifest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The gateways, in the notation of `etcd_endpoints`.
    pub endpoints: Option<Endpoints>,
    /// Directory of the certificates of each node; `None`: all nodes share one Secret for each
    /// component.
    pub per_node: Option<PerNode>,
    /// Names of Secrets that differ from the default.
    pub secrets: BTreeMap<Component, String>,
    /// Interval at which kube-controllers compact etcd; `0` is never; `None`: no change.
    pub compaction_period: Option<CompactionPeriod>,
}

impl Options {
    /// The requested source of a component's certificate.
    pub(super) fn source(&self, component: Component) -> Option<Source> {
        match &self.per_node {
            Some(PerNode { directory }) if component.is_on_nodes() => {
                Some(Source::HostPath(format!("{directory}/{component}")))
            }
            _ => self.secrets.get(&component).map(|name| Source::Secret(name.clone())),
        }
    }
}

/// URLs of gateways, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(String);

impl Endpoints {
    /// Parses the flag.
    ///
    /// # Errors
    /// An unusable URL, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').try_for_each(|url| usable(url).map_err(|why| format!("`{url}` {why}")))?;
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks that Calico can connect to a gateway at this URL.
pub(super) fn usable(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL: write https://HOST:PORT")?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => return Err("is plain text: client certificates need https"),
        _ => return Err("is not a URL: write https://HOST:PORT"),
    }
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
        return Err("needs a host and a port: write https://HOST:PORT");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('@') {
        return Err("has more than a host and a port: write https://HOST:PORT");
    }
    if url.contains(['\'', '"', '\\']) {
        return Err("contains a quote or a backslash");
    }
    Ok(())
}

/// A directory with certificates for each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerNode {
    directory: String,
}

impl PerNode {
    /// Parses the flag, `host-path=DIRECTORY`.
    ///
    /// # Errors
    /// The correct notation.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((form, directory)) = text.split_once('=') else {
            return Err("write `host-path=DIRECTORY` with a directory on the nodes".to_owned());
        };
        if form != "host-path" {
            return Err(format!(
                "`{form}` is not supported: write `host-path=DIRECTORY`, or change the volumes \
                 manually and use --check"
            ));
        }
        let plain = directory.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        if !directory.starts_with('/')
            || directory.trim_matches('/').is_empty()
            || !plain
            || directory.split('/').any(|part| part == "..")
        {
            return Err(format!(
                "`{directory}` must be an absolute path of letters, digits, `.`, `_` and `-`, \
                 without `..`"
            ));
        }
        Ok(Self { directory: trimmed(directory).to_owned() })
    }

    /// The directory on each node.
    pub fn directory(&self) -> &str {
        &self.directory
    }
}

/// Parses `COMPONENT=NAME` with the name of a Secret.
///
/// # Errors
/// The correct notation.
pub fn secret(text: &str) -> Result<(Component, String), String> {
    let usage =
        "write `COMPONENT=NAME`, with calico-node, cni or calico-kube-controllers for COMPONENT";
    let (component, name) = text.split_once('=').ok_or(usage)?;
    let component = Component::named(component)
        .ok_or_else(|| format!("there is no component `{component}`: {usage}"))?;
    if !is_subdomain(name) {
        return Err(format!(
            "`{name}` is no valid name of a Secret: use lower-case letters, digits, `-` and `.`"
        ));
    }
    Ok((component, name.to_owned()))
}

/// A duration in the notation of Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionPeriod(String);

impl CompactionPeriod {
    /// Parses the flag.
    ///
    /// # Errors
    /// The correct notation.
    pub fn parse(text: &str) -> Result<Self, String> {
        if seconds(text).is_some() {
            Ok(Self(text.to_owned()))
        } else {
            Err("write a duration such as `10m` or `1h30m`, or `0` for never".to_owned())
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for a duration of zero; `None` if the text is no duration.
pub(super) fn is_never(text: &str) -> Option<bool> {
    seconds(text).map(|seconds| seconds == 0.0)
}

/// The approximate seconds of a duration in the notation of Go's `time.ParseDuration`, without a
/// sign.
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
