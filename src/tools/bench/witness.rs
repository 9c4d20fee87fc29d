//! What etcd itself has counted: `grpc_server_handled_total` of each member, which no client and no
//! proxy can make up.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Endpoint;

use super::report::Verification;
use super::tally::Sent;
use crate::http;

/// For the answer of one member.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a member tells its metrics: its `--listen-metrics-urls`, in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    endpoint: Endpoint,
    path: String,
}

impl FromStr for MetricsUrl {
    type Err = String;

    /// `http://HOST:PORT`, with `/metrics` behind it or not.
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
                "`{text}` is not plain text: give etcd a `--listen-metrics-urls=http://127.0.0.1:2381`, and that URL here"
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

/// Calls of each method that ended with OK, over all members, since each was started; and when they
/// were asked.
///
/// # Errors
/// A member does not tell.
pub async fn handled(members: &[MetricsUrl]) -> Result<(Instant, BTreeMap<Method, u64>), String> {
    let asked = Instant::now();
    let mut sum = BTreeMap::new();
    for member in members {
        let failed = |why: String| format!("{member}: {why}");
        let (status, text) = page(member, PATIENCE).await.map_err(failed)?;
        if status != 200 || !text.contains("grpc_server_handled_total") {
            return Err(failed(format!(
                "HTTP status {status}, and no `grpc_server_handled_total`"
            )));
        }
        count(&text, &mut sum);
    }
    Ok((asked, sum))
}

async fn page(member: &MetricsUrl, patience: Duration) -> Result<(u16, String), String> {
    let asked = async {
        let host = (&*member.endpoint.host, member.endpoint.port);
        let mut addresses =
            tokio::net::lookup_host(host).await.map_err(|error| error.to_string())?;
        let address = addresses.next().ok_or("no address")?;
        http::get(address, &member.path).await.map_err(|error| error.to_string())
    };
    tokio::time::timeout(patience, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}

/// After a run: what was sent of it against what the members counted since `before`. A member that
/// does not tell any more is a mistake of the run, and takes nothing from what else it has shown.
pub async fn confirm(
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
                compare(sent, before, &after, checks(members.len(), began.elapsed()))
        }
        Err(why) => verification.mistakes.push(format!("what etcd counted is not known: {why}")),
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
            *sum.entry(method).or_default() += value.trim().parse().map_or(0, super::figure::whole);
        }
    }
}

/// One method, sent and counted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// The RPC.
    pub rpc: &'static str,
    /// Answered with OK.
    pub ok: u64,
    /// Without an answer: they may be among the counted or not.
    pub uncertain: u64,
    /// What etcd counted meanwhile.
    pub counted: u64,
    /// Whether they agree.
    pub agrees: bool,
}

/// The most that a proxy in between has asked meanwhile: a health check has one Range for each
/// member (`upstream/health.rs`), and its interval is rarely below a second.
fn checks(members: usize, time: Duration) -> u64 {
    u64::try_from(members).unwrap_or(u64::MAX).saturating_mul(time.as_secs().saturating_add(2))
}

/// Compares what was sent with what was counted. A Watch is counted when it ends, and not compared.
/// `checks`: ranges that may be a proxy's own.
#[must_use]
pub fn compare(
    sent: &BTreeMap<Method, Sent>,
    before: &BTreeMap<Method, u64>,
    after: &BTreeMap<Method, u64>,
    checks: u64,
) -> Vec<Count> {
    let of =
        |counts: &BTreeMap<Method, u64>, method| counts.get(&method).copied().unwrap_or_default();
    let row = |(&method, sent): (&Method, &Sent)| {
        let counted = of(after, method).saturating_sub(of(before, method));
        let own = if method == Method::Range { checks } else { 0 };
        let agrees = (sent.ok..=sent.ok.saturating_add(sent.uncertain).saturating_add(own))
            .contains(&counted);
        Count { rpc: method.rpc(), ok: sent.ok, uncertain: sent.uncertain, counted, agrees }
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
    fn only_what_ended_with_ok_counts_and_services_are_told_apart() {
        let mut sum = BTreeMap::new();
        count(PAGE, &mut sum);
        count(PAGE, &mut sum);
        assert_eq!(sum, BTreeMap::from([(Method::Range, 3000), (Method::HealthWatch, 8)]));
    }

    #[test]
    fn what_has_no_answer_may_be_counted_or_not_and_nothing_else_may() {
        let sent = BTreeMap::from([(Method::Range, Sent { ok: 10, uncertain: 2 })]);
        let after = BTreeMap::from([(Method::Range, 114)]);
        assert!(
            compare(&sent, &BTreeMap::from([(Method::Range, 100)]), &after, 2).remove(0).agrees,
            "a proxy's two checks"
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
    fn urls_have_the_usual_forms() {
        for (text, shown) in [
            ("http://127.0.0.1:2381", "http://127.0.0.1:2381/metrics"),
            ("http://127.0.0.1:2381/", "http://127.0.0.1:2381/metrics"),
            ("http://[::1]:2381/metrics", "http://[::1]:2381/metrics"),
        ] {
            assert_eq!(text.parse::<MetricsUrl>().unwrap().to_string(), shown);
        }
        for text in ["https://127.0.0.1:2379", "127.0.0.1:2381", "http://127.0.0.1"] {
            assert!(text.parse::<MetricsUrl>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_member_that_never_answers_ends_no_run() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let member = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        assert_eq!(
            page(&member, Duration::from_millis(20)).await,
            Err("no answer within 20ms".to_owned())
        );
    }
}
