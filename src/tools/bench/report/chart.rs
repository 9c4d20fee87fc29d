//! Line charts as SVG.

use std::fmt::Write as _;

use super::text::Time;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 150.0;

/// Colours that people with colour blindness can distinguish (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XAxis {
    /// Percentiles, logarithmic in the distance to 100 %.
    Percentiles,
    /// Seconds.
    Seconds,
}

/// The vertical axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YAxis {
    /// Microseconds, logarithmic.
    Latency,
    /// A count, from 0.
    Count,
}

/// A named line; `x` is a percentile or a second.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// Draws all lines that have points; empty if none has.
#[must_use]
pub fn draw(across: XAxis, up: YAxis, lines: &[Line]) -> String {
    let place = |(x, y): &(f64, f64)| (across.place(*x), up.place(*y));
    let placed: Vec<(&str, Vec<(f64, f64)>)> = lines
        .iter()
        .filter(|line| !line.points.is_empty())
        .map(|line| (&*line.name, line.points.iter().map(place).collect()))
        .collect();
    let all = || placed.iter().flat_map(|(_, points)| points.iter());
    let bound = |of: fn(&(f64, f64)) -> f64, least: f64| all().map(of).fold(least, f64::max);
    if all().next().is_none() {
        return String::new();
    }
    let (left, right) =
        (all().map(|point| point.0).fold(f64::INFINITY, f64::min), bound(|point| point.0, 0.0));
    let low = if up == YAxis::Count {
        0.0
    } else {
        all().map(|point| point.1).fold(f64::INFINITY, f64::min).floor()
    };
    let high = if up == YAxis::Count {
        bound(|point| point.1, 1.0)
    } else {
        bound(|point| point.1, low + 1.0).ceil()
    };
    let x = |at: f64| LEFT + (at - left) / (right - left).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y =
        |at: f64| HEIGHT - BOTTOM - (at - low) / (high - low).max(1e-9) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">"#);
    // Writing to a String does not fail.
    for (at, label) in up.marks(low, high) {
        let at = y(at);
        let _ = write!(svg, r##"<path d="M{LEFT} {at:.1}H{:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT);
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (at, label) in across.marks(left, right) {
        let at = x(at);
        let _ = write!(svg, r##"<path d="M{at:.1} {TOP}V{:.1}" stroke="#eee"/>"##, HEIGHT - BOTTOM);
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
            HEIGHT - 10.0
        );
    }
    for ((name, points), (number, colour)) in placed.iter().zip(COLOURS.iter().cycle().enumerate())
    {
        // The last point is repeated: a line of one point is drawn as a dot.
        let path: Vec<String> = points
            .iter()
            .chain(points.last())
            .map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1)))
            .collect();
        let _ = write!(
            svg,
            r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linecap="round"/>"#,
            path.join("L")
        );
        let row = TOP + 14.0 * crate::bench::convert::length(number + 1);
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{row:.1}" fill="{colour}">{}</text>"#,
            WIDTH - RIGHT + 10.0,
            escape(name)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Escapes text for HTML elements and attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl XAxis {
    fn place(self, x: f64) -> f64 {
        match self {
            // The axis ends at 99.9999 %.
            XAxis::Percentiles => -(1.0 - x / 100.0).max(1e-6).log10(),
            XAxis::Seconds => x,
        }
    }

    fn marks(self, left: f64, right: f64) -> Vec<(f64, String)> {
        match self {
            XAxis::Percentiles => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .iter()
                .map(|percentile| (self.place(*percentile), format!("{percentile} %")))
                .filter(|(at, _)| (left..=right + 1e-9).contains(at))
                .collect(),
            XAxis::Seconds => {
                let step = ((right - left) / 8.0).max(1.0).ceil();
                (0..=8_u32)
                    .map(|number| left + f64::from(number) * step)
                    .filter(|at| *at <= right)
                    .map(|at| (at, format!("{at:.0} s")))
                    .collect()
            }
        }
    }
}

impl YAxis {
    fn place(self, y: f64) -> f64 {
        match self {
            YAxis::Latency => y.max(1.0).log10(),
            YAxis::Count => y,
        }
    }

    fn marks(self, low: f64, high: f64) -> Vec<(f64, String)> {
        match self {
            YAxis::Latency => (0..=10_u32)
                .map(f64::from)
                .filter(|at| (low..=high).contains(at))
                .map(|at| (at, Time(10_f64.powf(at)).to_string()))
                .collect(),
            YAxis::Count => (0..=4_u32)
                .map(|part| high * f64::from(part) / 4.0)
                .map(|at| (at, format!("{at:.0}")))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_path_a_name_and_the_axis_has_marks() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let lines = [
            line("a <b>", &[(0.0, 100.0), (50.0, 200.0), (99.9, 90_000.0)]),
            line("c", &[(0.0, 5.0)]),
            line("none", &[]),
        ];
        let svg = draw(XAxis::Percentiles, YAxis::Latency, &lines);
        assert_eq!(svg.matches("stroke-width").count(), 2);
        for part in ["a &lt;b&gt;", "99.9 %", "100.00 ms", "1 us"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("99.99 %"), "{svg}");
        assert_eq!(draw(XAxis::Seconds, YAxis::Count, &[line("none", &[])]), "");
        assert!(!draw(XAxis::Seconds, YAxis::Count, &[line("one", &[(3.0, 0.0)])]).contains("NaN"));
    }
}
