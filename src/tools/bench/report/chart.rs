//! Lines on two axes, as SVG.

use std::fmt::Write as _;

use super::text::Time;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 150.0;

/// Told apart by people who see colours differently (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// What the horizontal axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// Percentiles, each nine as wide as the one before.
    Percentiles,
    /// Seconds.
    Seconds,
}

/// What the vertical axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// Microseconds, each ten times as high as the step before.
    Latency,
    /// A count, from 0 on.
    Count,
}

/// A line with its name; `x` is a percentile or a second.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A drawing of all lines that have points; nothing where none has.
#[must_use]
pub fn draw(across: Across, up: Up, lines: &[Line]) -> String {
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
    let low = if up == Up::Count {
        0.0
    } else {
        all().map(|point| point.1).fold(f64::INFINITY, f64::min).floor()
    };
    let high = if up == Up::Count {
        bound(|point| point.1, 1.0)
    } else {
        bound(|point| point.1, low + 1.0).ceil()
    };
    let x = |at: f64| LEFT + (at - left) / (right - left).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y =
        |at: f64| HEIGHT - BOTTOM - (at - low) / (high - low).max(1e-9) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">"#);
    // Writing into a String does not fail.
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
        // The last point twice: one that stands alone is a dot.
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
        let row = TOP + 14.0 * crate::bench::figure::length(number + 1);
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

/// Text between tags and in attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Across {
    fn place(self, x: f64) -> f64 {
        match self {
            // Six nines are the end of it.
            Across::Percentiles => -(1.0 - x / 100.0).max(1e-6).log10(),
            Across::Seconds => x,
        }
    }

    fn marks(self, left: f64, right: f64) -> Vec<(f64, String)> {
        match self {
            Across::Percentiles => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999]
                .iter()
                .map(|percentile| (self.place(*percentile), format!("{percentile} %")))
                .filter(|(at, _)| (left..=right + 1e-9).contains(at))
                .collect(),
            Across::Seconds => {
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

impl Up {
    fn place(self, y: f64) -> f64 {
        match self {
            Up::Latency => y.max(1.0).log10(),
            Up::Count => y,
        }
    }

    fn marks(self, low: f64, high: f64) -> Vec<(f64, String)> {
        match self {
            Up::Latency => (0..=10_u32)
                .map(f64::from)
                .filter(|at| (low..=high).contains(at))
                .map(|at| (at, Time(10_f64.powf(at)).to_string()))
                .collect(),
            Up::Count => (0..=4_u32)
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
    fn each_line_has_its_path_and_its_name_and_each_nine_its_mark() {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let lines = [
            line("a <b>", &[(0.0, 100.0), (50.0, 200.0), (99.9, 90_000.0)]),
            line("c", &[(0.0, 5.0)]),
            line("none", &[]),
        ];
        let svg = draw(Across::Percentiles, Up::Latency, &lines);
        assert_eq!(svg.matches("stroke-width").count(), 2);
        for part in ["a &lt;b&gt;", "99.9 %", "100.00 ms", "1 us"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("99.99 %"), "{svg}");
        assert_eq!(draw(Across::Seconds, Up::Count, &[line("none", &[])]), "");
        assert!(!draw(Across::Seconds, Up::Count, &[line("one", &[(3.0, 0.0)])]).contains("NaN"));
    }
}
