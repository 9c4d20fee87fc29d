use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::contract::{CONTRACT, Values, method_label};
use super::*;

/// Metrics in which every series has a value.
fn with_all_series() -> Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.no_role().count(None, Decision::Deny, Mode::Enforce);
    metrics.request_duration(Some(Method::Range)).record(Duration::from_millis(1));
    metrics.decision_duration.record(Duration::from_nanos(300));
    metrics.member_health("10.0.0.1:2379", crate::member_health::Health::Well);
    metrics.certificate_expiry("server", 1_893_456_000.0);
    metrics
}

/// Type, help and label names of each metric, parsed from the text format.
fn rendered(text: &str) -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let mut metrics: BTreeMap<String, (String, String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let word = |n: usize| line.splitn(n + 2, ' ').nth(n).unwrap().to_owned();
        if line.starts_with("# HELP ") {
            metrics.entry(word(2)).or_default().1 = line.splitn(4, ' ').nth(3).unwrap().to_owned();
        } else if line.starts_with("# TYPE ") {
            metrics.entry(word(2)).or_default().0 = line.splitn(4, ' ').nth(3).unwrap().to_owned();
        } else {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|base| metrics.contains_key(*base));
            let labels = labels
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|pair| pair.split_once('='))
                .map(|(label, _)| label.to_owned());
            metrics
                .get_mut(base.unwrap_or(name))
                .expect(line)
                .2
                .extend(labels.filter(|label| label != "le"));
        }
    }
    metrics
}

#[test]
fn renders_the_contract_and_nothing_else() {
    let contract: BTreeMap<_, _> = CONTRACT
        .iter()
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| label.name.to_owned()).collect();
            (
                metric.name.to_owned(),
                (metric.kind.name().to_owned(), metric.help.to_owned(), labels),
            )
        })
        .collect();
    assert_eq!(rendered(&with_all_series().render()), contract);
}

#[test]
fn every_kind_of_certificate_has_a_series() {
    let codes = crate::tls::Expiring::ALL.map(crate::tls::Expiring::code);
    assert_eq!(contract::listed(&contract::CERTIFICATE_EXPIRY), codes);
}

#[test]
fn a_new_process_shows_every_listed_value_at_zero() {
    let text = Metrics::new().render();
    assert!(
        !text.contains("etcd_warden_certificate_expiry_timestamp_seconds{"),
        "a certificate that is not in use has no series"
    );
    for metric in CONTRACT
        .iter()
        .filter(|metric| metric.labels.len() == 1 && *metric != &contract::CERTIFICATE_EXPIRY)
    {
        let label = metric.labels[0];
        if let Values::Listed(values) = label.values {
            for value in values {
                let series = format!("{}{{{}=\"{value}\"}} 0", metric.name, label.name);
                assert!(text.contains(&series), "{series}");
            }
        }
    }
}

#[test]
fn counts_by_method_decision_mode_and_role() {
    let metrics = Metrics::new();
    let (node, none) = (metrics.role("calico-node"), metrics.no_role());
    for &method in Method::ALL {
        node.count(Some(method), Decision::Allow, Mode::Enforce);
        for decision in Decision::ALL {
            none.count(Some(method), decision, Mode::Shadow);
        }
    }
    metrics.role("calico-node").count(Some(Method::Range), Decision::Allow, Mode::Enforce);
    let text = metrics.render();
    let series: Vec<_> =
        text.lines().filter(|line| line.starts_with("etcd_warden_requests_total{")).collect();
    assert_eq!(series.len(), Method::ALL.len() * 4);
    let twice: Vec<_> = series.iter().filter(|line| !line.ends_with(" 1")).collect();
    let range = "etcd_warden_requests_total{method=\"KV/Range\",decision=\"allow\",\
                 mode=\"enforce\",role=\"calico-node\"} 2";
    assert_eq!(twice, [&range]);
}

#[test]
fn roles_above_the_limit_share_one_label() {
    let metrics = Metrics::new();
    for n in 0..MAX_ROLES + 50 {
        metrics.role(&format!("role-{n}")).count(Some(Method::Put), Decision::Allow, Mode::Enforce);
    }
    metrics.no_role().count(Some(Method::Put), Decision::Deny, Mode::Enforce);
    let text = metrics.render();
    assert!(text.contains("role=\"other\"} 50\n"), "{text}");
    assert!(text.contains("role=\"none\"} 1\n"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("role=")).count(), MAX_ROLES + 2);
}

#[test]
fn two_gateways_in_one_process_are_independent() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.connections.increment(3.0);
    assert!(one.render().contains("etcd_warden_connections 3\n"));
    assert!(other.render().contains("etcd_warden_connections 0\n"));
}

#[test]
fn shows_the_policy_in_effect() {
    let metrics = Metrics::new();
    metrics.policy_generation.set(3);
    metrics.policy_roles.set(12);
    metrics.policy_bindings.set(40);
    metrics.reload(Reloaded::Policy, false);
    let text = metrics.render();
    for line in [
        "policy_generation 3",
        "policy_roles 12",
        "policy_bindings 40",
        "reloads_total{what=\"policy\",result=\"failed\"} 1",
    ] {
        assert!(text.contains(&format!("etcd_warden_{line}\n")), "{line}");
    }
}

#[test]
fn method_labels_are_distinct() {
    let labels: BTreeSet<_> = Method::ALL
        .iter()
        .map(|&method| method_label(Some(method)))
        .chain([method_label(None)])
        .collect();
    assert_eq!(labels.len(), METHODS);
    assert!(
        labels.contains("KV/Range")
            && labels.contains("Health/Watch")
            && labels.contains("Lock/Lock")
            && labels.contains("unknown")
    );
}

#[test]
fn the_document_lists_the_contract() {
    let document = include_str!("../../../docs/metrics.md");
    let rows = CONTRACT.iter().map(|metric| {
        let labels: Vec<_> =
            metric.labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(" ") };
        format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.name(), metric.help)
    });
    let rows: Vec<_> = rows.collect();
    let written: Vec<_> = document
        .lines()
        .filter(|line| line.starts_with("| `etcd_warden_") || line.starts_with("| `process_"))
        .collect();
    assert_eq!(written, rows, "the table in docs/metrics.md should be:\n{}", rows.join("\n"));
    for label in CONTRACT.iter().flat_map(|metric| metric.labels) {
        if let Values::Listed(values) = label.values {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            assert!(
                document.contains(&values.join(" ")),
                "docs/metrics.md should list: {}",
                values.join(" ")
            );
        }
    }
}

#[test]
fn label_values_are_snake_case() {
    let is_snake = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    for label in CONTRACT.iter().flat_map(|metric| metric.labels) {
        assert!(is_snake(label.name), "{}", label.name);
        if let Values::Listed(values) = label.values {
            assert!(values.iter().all(|value| is_snake(value)), "{values:?}");
        }
    }
    for reason in etcd_warden_core::authorize::Reason::ALL {
        assert!(is_snake(reason.code()), "{}", reason.code());
    }
}
