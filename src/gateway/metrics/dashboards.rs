//! The dashboard and the alert rules in `deploy/` must name only metrics of the contract.

use serde_json::Value;

use super::contract::{CONTRACT, Kind, Label, Metric, Values};
use crate::config::settings::{DefaultValue, SETTINGS};

const DASHBOARD: &str = include_str!("../../../deploy/grafana/etcd-warden.json");
const SCRAPE: &str = include_str!("../../../deploy/prometheus/scrape.yaml");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yaml");

/// Labels that Prometheus and Grafana add.
const ADDED_LABELS: &[&str] = &["instance", "job", "le"];

fn strings<'v>(value: &'v Value, field: &str, into: &mut Vec<&'v str>) {
    match value {
        Value::Object(object) => {
            into.extend(object.get(field).and_then(Value::as_str));
            object.values().for_each(|value| strings(value, field, into));
        }
        Value::Array(list) => list.iter().for_each(|value| strings(value, field, into)),
        _ => {}
    }
}

/// The metric of a name in an expression. A histogram appears as its buckets, sum or count.
fn metric(name: &str) -> Option<&'static Metric> {
    CONTRACT.iter().find(|metric| match metric.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
        Kind::Counter | Kind::Gauge => name == metric.name,
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The errors of an expression: unknown metrics, labels in selectors and in `by (..)`, and label
/// values.
fn errors(expression: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut labels: Vec<&Label> = Vec::new();
    for name in words(expression)
        .filter(|word| word.starts_with("etcd_warden_") || word.starts_with("process_"))
    {
        match metric(name) {
            Some(metric) => labels.extend(metric.labels),
            None => errors.push(format!("metric `{name}`")),
        }
    }
    let mut check = |label: &str, value: Option<&str>| {
        let known = labels.iter().find(|known| known.name == label);
        match (known.map(|known| known.values), value) {
            (None, _) if ADDED_LABELS.contains(&label) => {}
            (None, _) => errors.push(format!("label `{label}`")),
            (Some(Values::Listed(values)), Some(value)) if !value.starts_with('$') => {
                let unknown = value.split('|').filter(|value| !values.contains(value));
                errors.extend(unknown.map(|value| format!("`{label}` is never `{value}`")));
            }
            (Some(_), _) => {}
        }
    };
    for selector in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        for pair in selector.split("\",") {
            let label = words(pair).next().unwrap_or_default();
            check(label, pair.split('"').nth(1));
        }
    }
    for list in expression.split(" by (").skip(1).filter_map(|rest| rest.split(')').next()) {
        words(list).for_each(|label| check(label, None));
    }
    errors
}

/// The target is the default of `admin-addr`, and the job has the name that the alerts use.
#[test]
fn the_scrape_configuration_matches_the_defaults() {
    let setting = SETTINGS.iter().find(|setting| setting.name == "admin-addr").unwrap();
    let DefaultValue::Value(address) = setting.default else {
        panic!("`admin-addr` has no default")
    };
    assert!(SCRAPE.contains(&format!("targets: [\"{address}\"]")), "{SCRAPE}");
    let job = SCRAPE.lines().find_map(|line| line.trim().strip_prefix("- job_name: ")).unwrap();
    assert!(ALERTS.contains(&format!("job=\"{job}\"")), "{job}");
    assert!(SCRAPE.contains("`admin-addr`"));
}

#[test]
fn alert_rules_name_only_existing_metrics() {
    let alerts: Value = serde_saphyr::from_str(ALERTS).unwrap();
    let mut expressions = Vec::new();
    strings(&alerts, "expr", &mut expressions);
    assert!(expressions.len() > 10);
    for expression in expressions {
        assert_eq!(errors(expression), Vec::<String>::new(), "{expression}");
    }
    // Labels in the texts of alerts.
    for label in ALERTS.split("$labels.").skip(1).filter_map(|rest| words(rest).next()) {
        let known =
            CONTRACT.iter().flat_map(|metric| metric.labels).any(|known| known.name == label);
        assert!(known || ADDED_LABELS.contains(&label), "{label}");
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    for expression in &expressions {
        assert_eq!(errors(expression), Vec::<String>::new(), "{expression}");
    }
    let shown: Vec<_> =
        expressions.iter().flat_map(|expression| words(expression)).filter_map(metric).collect();
    for metric in CONTRACT {
        assert!(shown.contains(&metric), "no panel shows `{}`", metric.name);
    }
}

#[test]
fn finds_a_wrong_metric_label_or_value() {
    for (expression, error) in [
        ("rate(etcd_warden_requests[5m])", "metric `etcd_warden_requests`"),
        ("etcd_warden_decision_duration_seconds", "metric `etcd_warden_decision_duration_seconds`"),
        ("sum by (role, cn) (etcd_warden_requests_total)", "label `cn`"),
        ("etcd_warden_watches{method=\"x\"}", "label `method`"),
        (
            "etcd_warden_requests_total{role=\"r\",decision=~\"deny|denied\"}",
            "`decision` is never `denied`",
        ),
    ] {
        assert_eq!(errors(expression), [error], "{expression}");
    }
}
