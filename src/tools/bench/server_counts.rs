//! Counts of etcd itself: `grpc_server_handled_total` of each member, which neither a client nor a
//! proxy can falsify.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Endpoint;

use super::report::Verification;
use super::tally::Sent;
use etcd_warden_gateway::http_client as http;

/// For the metrics page of one member.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A metrics URL of a member (`--listen-metrics-urls`), in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    endpoint: Endpoint,
    path: String,
}

impl FromStr for MetricsUrl {
    type Err = String;

    /// `http://HOST:PORT`, with or without `/metrics`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (base, path) = match text
            .find("://")
            .and_then(|at| text.get(at + 3..))
            .and_then(|rest| rest.find('/'))
        {
            None => (text, "/metrics"),
            Some(length) => text.split_at(text.find("://").unwrap_or(0) + 3 + length),
        };
        let endpoint: Endpoint = base.parse()?;
        if endpoint.tls {
            return Err(format!(
                "`{text}` is not plain text: start etcd with `--listen-metrics-urls=http://127.0.0.1:2381` \
                 and give that URL"
            ));
        }
        Ok(Self {
            endpoint,
            path: if path == "/" { "/metrics".to_owned() } else { path.to_owned() },
        })
    }
}

impl std::fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.endpoint, self.path)
    }
}

/// Successful calls of each method since the start of each member, summed over all members, and the
/// time of the request.
///
/// # Errors
/// A member's metrics cannot be read.
pub async fn handled(members: &[MetricsUrl]) -> Result<(Instant, BTreeMap<Method, u64>), String> {
    let requested = Instant::now();
    let mut sum = BTreeMap::new();
    for member in members {
        let failed = |why: String| format!("{member}: {why}");
        let (status, text) = page(member, TIMEOUT).await.map_err(failed)?;
        if status != 200 || !text.contains("grpc_server_handled_total") {
            return Err(failed(format!(
                "HTTP status {status} without the metric `grpc_server_handled_total`"
            )));
        }
        count(&text, &mut sum);
    }
    Ok((requested, sum))
}

async fn page(member: &MetricsUrl, request_timeout: Duration) -> Result<(u16, String), String> {
    let requested = async {
        let host = (&*member.endpoint.host, member.endpoint.port);
        let mut addresses =
            tokio::net::lookup_host(host).await.map_err(|error| error.to_string())?;
        let address = addresses.next().ok_or("no address")?;
        http::get(address, &member.path).await.map_err(|error| error.to_string())
    };
    tokio::time::timeout(request_timeout, requested)
        .await
        .unwrap_or_else(|_| Err(format!("no response within {request_timeout:?}")))
}

/// After a run: compares what was sent with what the members have counted since `before`. If a
/// member does not respond any more, that is an error in the report.
pub async fn verify(
    members: &[MetricsUrl],
    (began, before): &(Instant, BTreeMap<Method, u64>),
    sent: &BTreeMap<Method, Sent>,
    verification: &mut Verification,
) {
    if members.is_empty() {
        return;
    }
    match handled(members).await {
        Ok((_, after)) => {
            verification.etcd_counts =
                compare(sent, before, &after, checks(members.len(), began.elapsed()));
        }
        Err(why) => verification.errors.push(format!("etcd's counts are not known: {why}")),
    }
}

fn count(text: &str, sum: &mut BTreeMap<Method, u64>) {
    for line in text.lines() {
        let Some((labels, value)) =
            line.strip_prefix("grpc_server_handled_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            labels
                .split(',')
                .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
        };
        let (Some("OK"), Some(service), Some(rpc)) =
            (label("grpc_code"), label("grpc_service"), label("grpc_method"))
        else {
            continue;
        };
        if let Some(method) = Method::from_path(&format!("/{service}/{rpc}")) {
            // Prometheus writes large counts as 1.2e+06.
            *sum.entry(method).or_default() +=
                value.trim().parse().map_or(0, super::convert::whole);
        }
    }
}

/// The counts of one method.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MethodCount {
    /// The RPC.
    pub rpc: &'static str,
    /// Requests with status OK.
    pub ok: u64,
    /// Requests without a response: etcd may or may not have counted them.
    pub uncertain: u64,
    /// Requests that etcd counted.
    pub counted: u64,
    /// True if the counts agree.
    pub agrees: bool,
}

/// The largest number of health checks that a proxy in between may have sent: one Range per member
/// (`upstream/health.rs`), at an interval that is rarely below one second.
fn checks(members: usize, time: Duration) -> u64 {
    u64::try_from(members).unwrap_or(u64::MAX).saturating_mul(time.as_secs().saturating_add(2))
}

/// Compares sent and counted requests. Watches are left out, because etcd counts a Watch when it
/// ends. `checks`: Ranges that a proxy may have sent itself.
#[must_use]
pub fn compare(
    sent: &BTreeMap<Method, Sent>,
    before: &BTreeMap<Method, u64>,
    after: &BTreeMap<Method, u64>,
    checks: u64,
) -> Vec<MethodCount> {
    let of =
        |counts: &BTreeMap<Method, u64>, method| counts.get(&method).copied().unwrap_or_default();
    let row = |(&method, sent): (&Method, &Sent)| {
        let counted = of(after, method).saturating_sub(of(before, method));
        let own = if method == Method::Range { checks } else { 0 };
        let agrees = (sent.ok..=sent.ok.saturating_add(sent.uncertain).saturating_add(own))
            .contains(&counted);
        MethodCount { rpc: method.rpc(), ok: sent.ok, uncertain: sent.uncertain, counted, agrees }
    };
    sent.iter().filter(|(method, _)| **method != Method::Watch).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE grpc_server_handled_total counter\n\
        grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1.5e+03\n\
        grpc_server_handled_total{grpc_code=\"Unavailable\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 7\n\
        grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Watch\",grpc_service=\"grpc.health.v1.Health\",grpc_type=\"x\"} 4\n\
        grpc_server_msg_received_total{grpc_method=\"Range\"} 9\n";

    #[test]
    fn successful_calls_are_counted_per_service_and_method() {
        let mut sum = BTreeMap::new();
        count(PAGE, &mut sum);
        count(PAGE, &mut sum);
        assert_eq!(sum, BTreeMap::from([(Method::Range, 3000), (Method::HealthWatch, 8)]));
    }

    #[test]
    fn requests_without_a_response_may_be_counted_or_not() {
        let sent = BTreeMap::from([(Method::Range, Sent { ok: 10, uncertain: 2 })]);
        let after = BTreeMap::from([(Method::Range, 114)]);
        assert!(
            compare(&sent, &BTreeMap::from([(Method::Range, 100)]), &after, 2).remove(0).agrees,
            "two health checks of a proxy"
        );
        for (counted, agrees) in [(109, false), (110, true), (112, true), (113, false)] {
            let row = compare(
                &sent,
                &BTreeMap::from([(Method::Range, 100)]),
                &BTreeMap::from([(Method::Range, counted)]),
                0,
            )
            .remove(0);
            assert_eq!((row.agrees, row.counted), (agrees, counted - 100));
        }
    }

    #[test]
    fn metrics_urls_may_have_a_path() {
        for (text, result) in [
            ("http://127.0.0.1:2381", "http://127.0.0.1:2381/metrics"),
            ("http://127.0.0.1:2381/", "http://127.0.0.1:2381/metrics"),
            ("http://[::1]:2381/metrics", "http://[::1]:2381/metrics"),
        ] {
            assert_eq!(text.parse::<MetricsUrl>().unwrap().to_string(), result);
        }
        for text in ["https://127.0.0.1:2379", "127.0.0.1:2381", "http://127.0.0.1"] {
            assert!(text.parse::<MetricsUrl>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_member_that_does_not_respond_times_out() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let member = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        assert_eq!(
            page(&member, Duration::from_millis(20)).await,
            Err("no response within 20ms".to_owned())
        );
    }
}
