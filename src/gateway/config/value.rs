//! Parses the text of settings. Each error is a sentence that says what to write instead.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;

use super::settings::{Bytes, GIB, KIB, Kind, MIB};
use super::{Endpoint, Network};

/// Reads `IP:PORT`, or `:PORT` for all addresses, as in Go.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse().map_err(|_| {
        format!("`{}` is not `IP:PORT`, such as `127.0.0.1:23790` or `[::1]:23790`", shown(text))
    })
}

/// Reads `IP:PORT` or `none`.
pub(super) fn address_or_none(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" {
        Ok(None)
    } else {
        address(text).map(Some).map_err(|sentence| format!("{sentence}, or `none`"))
    }
}

/// Reads `ADDRESS/PREFIX-LENGTH`, or an address alone. Bits after the prefix must be zero:
/// otherwise, the address or the prefix is probably wrong.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let wrong = || {
        format!(
            "`{}` is not `ADDRESS/PREFIX-LENGTH`, such as `10.0.0.0/8` or `fd00::/8`",
            shown(text)
        )
    };
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| wrong()))?;
    let network = Network { address, prefix };
    match network.first() {
        Some(first) if first == address => Ok(network),
        Some(first) => Err(format!(
            "`{}` has address bits after its prefix: write `{first}/{prefix}`, or the address alone",
            shown(text)
        )),
        None => Err(format!("`{}` has a prefix longer than {bits} bits", shown(text))),
    }
}

/// Reads `https://HOST:PORT`, `http://HOST:PORT`, or `HOST:PORT`, which means `https`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let (tls, authority) = match text.split_once("://") {
        None => (true, text),
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some((scheme, _)) => {
            return Err(format!(
                "`{}` has the scheme `{}`: write `https://HOST:PORT`",
                shown(text),
                shown(scheme)
            ));
        }
    };
    let wrong = |what: &str| format!("`{}` {what}: write `https://HOST:PORT`", shown(text));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains(['/', '?', '#', '@']) {
        return Err(wrong("is more than a host and a port"));
    }
    let (host, port) = authority
        .rsplit_once(':')
        .filter(|(host, _)| !host.contains(':') || host.ends_with(']'))
        .ok_or_else(|| wrong("has no port"))?;
    let port = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| wrong("has no port from 1 to 65535"))?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    let known = match bracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok(),
        None => ServerName::try_from(host).is_ok(),
    };
    if known {
        Ok(Endpoint { tls, host: Arc::from(host.to_ascii_lowercase()), port })
    } else {
        Err(wrong("has no valid host"))
    }
}

/// Reads the URL of a gateway. The listener accepts TLS only.
pub(super) fn client_url(text: &str) -> Result<String, String> {
    let url = endpoint(text)?;
    if url.tls {
        Ok(url.to_string())
    } else {
        Err(format!(
            "`{}` is plain text, and the gateway accepts TLS only: write `https://HOST:PORT`",
            shown(text)
        ))
    }
}

/// Reads `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{}` is neither `true` nor `false`", shown(text)))
}

/// The index of a word among those that `kind` allows.
pub(super) fn choice(kind: Kind, text: &str) -> Result<usize, String> {
    let Kind::Choice(words) = kind else { return Err("is not a choice".into()) };
    words
        .iter()
        .position(|word| *word == text)
        .ok_or_else(|| format!("`{}` is none of `{}`", shown(text), words.join("`, `")))
}

/// Reads a duration within the bounds of `kind`.
pub(super) fn duration(kind: Kind, text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("`{}` is not a time with its unit, such as `10s`, `500ms` or `1h`", shown(text))
    })?;
    match kind {
        Kind::Duration(min, max) if (min..=max).contains(&duration) => Ok(duration),
        _ => Err(format!("`{}` is not {kind}", shown(text))),
    }
}

/// Reads a number, or a size in bytes, within the bounds of `kind`.
pub(super) fn number<T: TryFrom<u64>>(kind: Kind, text: &str) -> Result<T, String> {
    let wrong = || format!("`{}` is not {kind}", shown(text));
    let (number, min, max) = match kind {
        Kind::Bytes(min, max) => {
            (bytes(text).ok_or_else(|| format!("{}, such as `{}`", wrong(), Bytes(min)))?, min, max)
        }
        Kind::Count(min, max) | Kind::CountOrAuto(min, max) => {
            (decimal(text).ok_or_else(wrong)?, min, max)
        }
        _ => return Err(wrong()),
    };
    let number = Some(number).filter(|number| (min..=max).contains(number)).ok_or_else(wrong)?;
    T::try_from(number).map_err(|_| wrong())
}

/// Reads a decimal from 0 to 1.
pub(super) fn fraction(text: &str) -> Result<f64, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = text.parse().ok().filter(|number| plain && (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("`{}` is not a number from 0 to 1, such as `0.1`", shown(text)))
}

/// Reads directives of `EnvFilter`.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "`{}` is not a log filter, such as `info` or `info,etcd_warden=debug`: {error}",
            shown(text)
        )),
    }
}

/// Reads the name of a client CA. Bindings refer to it, and identities in the audit log begin with
/// it.
pub(super) fn ca_name(text: &str) -> Result<Arc<str>, String> {
    let letter =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= 63 && text.bytes().all(letter) {
        Ok(Arc::from(text))
    } else {
        Err(format!(
            "`{}` is not a valid name of a CA: write 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`",
            shown(text)
        ))
    }
}

/// Text in a message: on one line, and at most 100 characters of it.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(100).collect();
    cut.escape_debug().to_string() + if cut.len() < text.len() { "..." } else { "" }
}

fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    decimal(number.trim_end())?.checked_mul(unit)
}

/// Reads digits only: `parse` would accept a plus sign too.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> String {
        endpoint(text).map_or_else(|sentence| sentence, |endpoint| endpoint.to_string())
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_tls() {
        assert_eq!(url("127.0.0.1:2379"), "https://127.0.0.1:2379");
        assert_eq!(url("etcd-0.etcd:2379"), "https://etcd-0.etcd:2379");
        assert_eq!(url("https://[::1]:2379/"), "https://[::1]:2379");
        assert_eq!(url("http://ETCD:2379"), "http://etcd:2379");
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port_only() {
        for text in [
            "",
            "https://",
            "etcd",
            "https://etcd",
            "etcd:0",
            "etcd:65536",
            "etcd:port",
            "unix:///run/etcd",
            "https://u@etcd:1",
            "https://etcd:1/x",
            "::1:2379",
            "[::1]",
            "[etcd]:1",
            "https://a b:1",
            "https://etcd:1?x",
            ":2379",
        ] {
            let answer = endpoint(text);
            assert!(
                answer
                    .as_ref()
                    .is_err_and(|sentence| sentence.contains("write `https://HOST:PORT`")),
                "{text}: {answer:?}"
            );
        }
    }

    #[test]
    fn a_network_is_written_with_its_first_address() {
        assert!(network("10.0.0.0/8").unwrap().contains("10.255.0.1".parse().unwrap()));
        assert_eq!(
            network("10.0.0.7").unwrap(),
            Network { address: "10.0.0.7".parse().unwrap(), prefix: 32 }
        );
        assert_eq!(
            network("10.0.0.7/8").unwrap_err(),
            "`10.0.0.7/8` has address bits after its prefix: write `10.0.0.0/8`, or the address alone"
        );
        for text in ["10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "ten/8", "", "/8"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_digits_within_their_bounds() {
        let kind = Kind::Bytes(KIB, MIB);
        assert_eq!(number::<u32>(kind, "16 KiB"), Ok(16 * 1024));
        assert_eq!(number::<u32>(kind, "1024"), Ok(1024));
        for text in [
            "1023",
            "2MiB",
            "16KB",
            "-1",
            "+2048",
            "0x800",
            "",
            "KiB",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(number::<u32>(kind, text).is_err(), "{text}");
        }
        assert_eq!(
            number::<u64>(Kind::Count(1, 9), "10"),
            Err("`10` is not a number from 1 to 9".into())
        );
    }

    #[test]
    fn times_have_units_and_bounds() {
        let kind = Kind::Duration(Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(duration(kind, "1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration(kind, "61s"), Err("`61s` is not a time from 1s to 1m".into()));
        assert!(duration(kind, "30").unwrap_err().contains("with its unit"));
    }

    #[test]
    fn a_fraction_is_a_finite_number() {
        assert_eq!(fraction("0.25"), Ok(0.25));
        for text in ["nan", "inf", "-0", "1.1", "1e-1", ""] {
            assert!(fraction(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_alone_means_all_addresses() {
        assert_eq!(address(":23790").unwrap().to_string(), "[::]:23790");
        assert!(address("localhost:23790").is_err());
        assert_eq!(address_or_none("none"), Ok(None));
    }
}
