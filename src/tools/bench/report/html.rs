//! The report as one self-contained HTML page without scripts. It contains the JSON report
//! (`id="report"`), from which all its numbers are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::chart::{Line, XAxis, YAxis, draw, escape};
use super::text::Time;
use super::{Report, Step, TargetReport};
use crate::bench::convert::float;
use crate::bench::timeline::Point;

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #ddd}\
    td:first-child,th:first-child{text-align:left}svg{width:100%;font:11px system-ui,sans-serif}.wrong{color:#b00;font-weight:bold}";

/// Renders the page. `json` is the serialized report.
#[must_use]
pub fn page(report: &Report, json: &str) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>etcd-warden bench</title><style>{STYLE}</style></head><body>\n\
         <h1>etcd-warden bench</h1><p>{} version {}</p>\n",
        escape(&report.started),
        report.version
    );
    // Writing to a String does not fail, here and below.
    verification(report, &mut page);
    for step in &report.steps {
        self::step(step, &mut page);
    }
    page.push_str("<h2>Settings</h2><table>");
    for (name, value) in &report.settings {
        let _ = write!(page, "<tr><td>{name}</td><td>{}</td></tr>", escape(value));
    }
    // JSON escapes. These characters occur in JSON only within strings.
    let data = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let _ = write!(
        page,
        "</table>\n<script type=\"application/json\" id=\"report\">{data}</script>\n</body></html>\n"
    );
    page
}

fn verification(report: &Report, page: &mut String) {
    let check = &report.verification;
    if check.is_good() {
        page.push_str("<p>All responses were correct.</p>");
    } else {
        let _ = write!(page, "<p class=\"wrong\">{} wrong responses.</p>", check.wrong_answers);
    }
    for line in check.examples.iter().chain(&check.errors) {
        let _ = write!(page, "<p class=\"wrong\">{}</p>", escape(line));
    }
    if report.stopped {
        page.push_str("<p class=\"wrong\">Stopped early by a signal.</p>");
    }
    if !check.etcd_counts.is_empty() {
        page.push_str("<h2>Sent requests, and etcd's counts</h2><table><tr><th>RPC</th><th>OK</th><th>without a response</th><th>counted by etcd</th></tr>");
        for count in &check.etcd_counts {
            let class = if count.agrees { "" } else { " class=\"wrong\"" };
            let _ = write!(
                page,
                "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                count.rpc, count.ok, count.uncertain, count.counted
            );
        }
        page.push_str("</table>\n");
    }
    if let Some(knee) = report.knee {
        let _ = write!(page, "<p>Highest sustained rate: {knee:.0} requests per second.</p>");
    }
}

fn step(step: &Step, page: &mut String) {
    let _ = writeln!(page, "<h2>{}</h2>", escape(&step.name));
    for target in &step.targets {
        self::target(target, page);
    }
    if !step.ratios.is_empty() {
        page.push_str("<h3>Comparison, slice by slice</h3><table><tr><th>measurement</th><th>median ratio</th><th>from</th><th>to</th><th>confidence</th><th>pairs</th></tr>");
        for compared in &step.ratios {
            let ratio = &compared.ratio;
            let _ = write!(
                page,
                "<tr><td>{} / {}: {}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.1} %</td><td>{}</td></tr>",
                escape(&compared.target),
                escape(&compared.base),
                escape(&compared.figure),
                ratio.median,
                ratio.low,
                ratio.high,
                ratio.confidence * 100.0,
                ratio.pairs
            );
        }
        page.push_str("</table>\n");
    }
    let names: BTreeSet<&str> = step
        .targets
        .iter()
        .flat_map(|target| target.series.iter().map(|series| series.name))
        .collect();
    for name in names {
        let of =
            |line: &dyn Fn(&super::SeriesReport) -> Vec<(f64, f64)>, suffix: &str| -> Vec<Line> {
                let with = |target: &TargetReport| {
                    let series = target.series.iter().find(|series| series.name == name)?;
                    Some(Line { name: format!("{}{suffix}", target.name), points: line(series) })
                };
                step.targets.iter().filter_map(with).collect()
            };
        let spread = of(
            &|series| {
                series
                    .distribution
                    .iter()
                    .map(|(percentile, us)| (*percentile, float(*us)))
                    .collect()
            },
            "",
        );
        let over_time = |figure: fn(&Point) -> u64| {
            move |series: &super::SeriesReport| {
                series
                    .timeline
                    .iter()
                    .map(|point| (float(point.second), float(figure(point))))
                    .collect::<Vec<_>>()
            }
        };
        let timed = |figure: fn(&Point) -> u64| {
            move |series: &super::SeriesReport| {
                let answered = series.timeline.iter().filter(|point| point.ok > 0);
                answered
                    .map(|point| (float(point.second), float(figure(point))))
                    .collect::<Vec<_>>()
            }
        };
        let mut times = of(&timed(|point| point.p50), " p50");
        times.extend(of(&timed(|point| point.p99), " p99"));
        let mut counts = of(&over_time(|point| point.ok), " ok");
        counts.extend(
            of(&over_time(|point| point.failed), " failed")
                .into_iter()
                .filter(|line| line.points.iter().any(|point| point.1 > 0.0)),
        );
        let _ = writeln!(
            page,
            "<h3>{name}: latency by percentile</h3>{}<h3>{name}: latency over time</h3>{}<h3>{name}: requests by second</h3>{}",
            draw(XAxis::Percentiles, YAxis::Latency, &spread),
            draw(XAxis::Seconds, YAxis::Latency, &times),
            draw(XAxis::Seconds, YAxis::Count, &counts)
        );
    }
}

fn target(target: &TargetReport, page: &mut String) {
    let _ = write!(
        page,
        "<h3>{} ({})</h3><p>{:.0} requests per second over {:.1} s; sent at most {} late",
        escape(&target.name),
        escape(&target.url),
        target.rate,
        target.seconds,
        Time(float(target.max_late_us))
    );
    if target.not_sent > 0 {
        let _ = write!(page, "; {} due requests not sent", target.not_sent);
    }
    if let Some(cpu) = target.cpu_us {
        let resident = float(target.resident.unwrap_or_default()) / f64::from(1 << 20);
        let _ = write!(
            page,
            "; its process used {cpu:.1} us of CPU per request, and {resident:.1} MiB"
        );
    }
    if let Some(cpu) = target.generator_cpu_us {
        let _ = write!(page, "; this program used {cpu:.1} us");
    }
    page.push_str("</p><table><tr><th></th><th>ok</th><th>failed</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>");
    for series in &target.series {
        let q = &series.latency_us;
        let failed: u64 = series.failures.iter().map(|failed| failed.count).sum();
        let _ = write!(page, "<tr><td>{}</td><td>{}</td><td>{failed}</td>", series.name, series.ok);
        for us in [q.p50, q.p90, q.p99, q.p999, q.max] {
            let _ = write!(page, "<td>{}</td>", Time(float(us)));
        }
        page.push_str("</tr>");
        for failed in &series.failures {
            let _ = write!(
                page,
                "<tr><td colspan=\"8\">{} x {} {}</td></tr>",
                failed.count,
                escape(&failed.what),
                escape(&failed.message)
            );
        }
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::report::{MeasuredSlice, Verification, ratios, target_report};
    use crate::bench::tally::Tally;
    use crate::bench::workers::Slice;

    fn measured(latency: u64) -> MeasuredSlice {
        let mut slice = Slice::default();
        for second in 0..3 {
            let mut tally = Tally::default();
            for extra in 0..100 {
                let series = tally.series.entry("range").or_default();
                series.requests = true;
                series.success(Duration::from_micros(latency + extra));
                tally.calls += 1;
            }
            slice.add(second, &tally, Duration::from_secs(second + 1));
        }
        let usage = Some((Duration::from_millis(latency * 3), 5 << 20));
        MeasuredSlice {
            at: Duration::ZERO,
            slice,
            measured: Duration::from_secs(3),
            usage,
            own: None,
        }
    }

    fn report() -> Report {
        let names = ["a<b".to_owned(), "c".to_owned()];
        let slices: Vec<Vec<MeasuredSlice>> = [100, 200]
            .iter()
            .map(|latency| (0..10).map(|_| measured(*latency)).collect())
            .collect();
        let targets = names
            .iter()
            .zip(&slices)
            .map(|(name, slices)| target_report(name, "https://h:1", slices))
            .collect();
        let ratios = ratios(&names, &slices);
        let step = Step {
            name: "100 due".to_owned(),
            offered: Some(100.0),
            sustained: None,
            targets,
            ratios,
        };
        let verification = Verification {
            wrong_answers: 1,
            examples: vec!["key </script> & more".to_owned()],
            ..Verification::default()
        };
        let settings = std::collections::BTreeMap::from([("mix", "range=1".to_owned())]);
        Report {
            version: "0",
            started: "now".into(),
            settings,
            steps: vec![step],
            knee: None,
            verification,
            stopped: false,
        }
    }

    /// Checks that every tag is closed in order; returns the names of all tags.
    fn tags(page: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for part in page.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag that ends");
            assert!(!text.contains('>'), "a bare `>`: {text}");
            let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap().to_owned();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(closed));
                continue;
            }
            if !tag.starts_with('!') && !tag.ends_with('/') {
                open.push(name.clone());
            }
            all.push(name);
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn the_page_is_well_formed_self_contained_and_has_the_json() {
        let report = report();
        let json = serde_json::to_string_pretty(&report).unwrap();
        let page = page(&report, &json);
        let tags = tags(&page);
        assert_eq!(tags.iter().filter(|tag| *tag == "script").count(), 1);
        assert_eq!(tags.iter().filter(|tag| *tag == "svg").count(), 3);
        for outside in ["href", "src=", "url(", "@import", "http://www"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let data = page.split_once("id=\"report\">").unwrap().1.split_once("</script>").unwrap().0;
        let parsed: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(parsed, serde_json::from_str::<serde_json::Value>(&json).unwrap());
        assert!(page.contains("key &lt;/script&gt; &amp; more"));
    }

    #[test]
    fn comparisons_are_in_each_form_of_the_report() {
        let report = report();
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        let ratios = json["steps"][0]["ratios"].as_array().unwrap();
        let of = |figure: &str| {
            ratios.iter().find(|ratio| ratio["figure"] == figure).unwrap()["median"]
                .as_f64()
                .unwrap()
        };
        assert!((of("range p50") - 249.0 / 149.0).abs() < 0.02, "{}", of("range p50"));
        assert!((of("CPU per request") - 2.0).abs() < 1e-9);
        let target = &json["steps"][0]["targets"][0];
        assert_eq!((target["ok"].as_u64(), target["cpu_us"].as_f64()), (Some(3000), Some(1000.0)));
        assert_eq!(target["series"][0]["timeline"].as_array().unwrap().len(), 30);
        let text = report.to_string();
        assert!(
            text.contains("c / a<b: CPU per request") && text.contains("WRONG: 1 responses"),
            "{text}"
        );
    }
}
