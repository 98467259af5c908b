//! The kinds of pictures that the figures need, as SVG files: bars, percentiles as lines, and what
//! happens over time.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use crate::{Result, option};

const WIDTH: f64 = 900.0;
const FONT: &str = "font-family='sans-serif' font-size='13'";
const COLOURS: [&str; 10] = [
    "#0a6e8a", "#d9731a", "#7a4fa3", "#3c8d40", "#b83b5e", "#8c6d31", "#5b7fc7", "#555555",
    "#c7a21a", "#2aa198",
];

/// Writes a picture into the directory of `--plots`, which is `bench/plots` by default.
pub fn save(name: &str, svg: &str) -> Result<()> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/plots").to_owned();
    let dir = PathBuf::from(option("--plots", default)?);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("{name}.svg")), svg)?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    // Writing to a String cannot fail.
    let _ =
        writeln!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}' {FONT}>{words}</text>");
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], style: &str) {
    let _ = writeln!(svg, "<line x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}' {style}/>");
}

fn wrapped(height: f64, title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}'>\n\
         <rect width='100%' height='100%' fill='white'/>\n\
         <text x='16' y='26' font-family='sans-serif' font-size='16' font-weight='bold'>{title}\
         </text>\n{body}</svg>\n"
    )
}

/// A number with three significant digits.
fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1e6 => format!("{:.3} M", number / 1e6),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Nanoseconds, in the unit that people would choose.
pub fn nanoseconds(ns: f64) -> String {
    match ns {
        n if n >= 1e9 => format!("{} s", short(n / 1e9)),
        n if n >= 1e6 => format!("{} ms", short(n / 1e6)),
        n if n >= 1e3 => format!("{} µs", short(n / 1e3)),
        n => format!("{} ns", short(n)),
    }
}

/// Horizontal bars in groups.
#[derive(Debug)]
pub struct Bars<'a> {
    /// What is shown, and in what.
    pub title: &'a str,
    /// Whether every step to the right is a factor; then bars begin at the smallest power of ten.
    pub logarithmic: bool,
    /// Written behind a bar.
    pub label: fn(f64) -> String,
    /// Vertical lines with their names.
    pub marks: Vec<(f64, String)>,
    /// A group's name and its bars.
    pub groups: Vec<(String, Vec<(String, f64)>)>,
}

/// `1.15` as it stands on a bar.
pub fn ratio(number: f64) -> String {
    format!("{number:.2}")
}

impl Bars<'_> {
    /// Draws them.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 290.0;
        const RIGHT: f64 = WIDTH - 90.0;
        let values = || {
            let bars = self.groups.iter().flat_map(|(_, bars)| bars.iter().map(|bar| bar.1));
            bars.chain(self.marks.iter().map(|mark| mark.0)).filter(|value| *value > 0.0)
        };
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        let least = 10f64.powf(values().fold(f64::MAX, f64::min).log10().floor());
        let x = |value: f64| {
            let part = match self.logarithmic {
                true => (value.max(least) / least).ln() / (most / least).ln().max(1e-9),
                false => value / most,
            };
            LEFT + part * (RIGHT - LEFT)
        };
        let (mut body, mut y) = (String::new(), 44.0);
        for (name, bars) in &self.groups {
            text(&mut body, 16.0, y + 14.0, "start", name);
            y += 22.0;
            for (n, (name, value)) in bars.iter().enumerate() {
                text(&mut body, LEFT - 8.0, y + 12.0, "end", name);
                let (width, colour) = ((x(*value) - LEFT).max(1.0), COLOURS[n % COLOURS.len()]);
                let _ = writeln!(
                    body,
                    "<rect x='{LEFT}' y='{y:.1}' width='{width:.1}' height='15' fill='{colour}'/>"
                );
                text(&mut body, LEFT + width + 6.0, y + 12.0, "start", &(self.label)(*value));
                y += 20.0;
            }
            y += 8.0;
        }
        for (value, name) in &self.marks {
            let at = x(*value);
            line(&mut body, [at, 44.0, at, y], "stroke='#c00' stroke-dasharray='4 3'");
            text(&mut body, at, y + 14.0, "middle", name);
        }
        wrapped(y + 26.0, self.title, &body)
    }
}

/// Lines over named steps, with a logarithmic axis of nanoseconds.
#[derive(Debug)]
pub struct Lines<'a> {
    /// What is shown.
    pub title: &'a str,
    /// The steps.
    pub steps: Vec<String>,
    /// A line's name and its nanoseconds at each step.
    pub lines: Vec<(String, Vec<f64>)>,
}

impl Lines<'_> {
    /// Draws them.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 80.0;
        const RIGHT: f64 = 560.0;
        const TOP: f64 = 50.0;
        const BOTTOM: f64 = 430.0;
        let values = || self.lines.iter().flat_map(|(_, ns)| ns.iter().map(|ns| ns.max(1.0)));
        let least = values().fold(f64::MAX, f64::min).log10().floor();
        let most = values().fold(1.0, f64::max).log10().ceil().max(least + 1.0);
        let y = |ns: f64| BOTTOM - (ns.max(1.0).log10() - least) / (most - least) * (BOTTOM - TOP);
        let last = self.steps.len().saturating_sub(1).max(1) as f64;
        let x = |step: usize| LEFT + step as f64 / last * (RIGHT - LEFT);
        let mut body = String::new();
        for decade in least as i32..=most as i32 {
            let at = y(10f64.powi(decade));
            line(&mut body, [LEFT, at, RIGHT, at], "stroke='#ddd'");
            text(&mut body, LEFT - 8.0, at + 4.0, "end", &nanoseconds(10f64.powi(decade)));
        }
        for (step, name) in self.steps.iter().enumerate() {
            text(&mut body, x(step), BOTTOM + 20.0, "middle", name);
        }
        for (n, (name, ns)) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let points =
                ns.iter().enumerate().map(|(step, ns)| format!("{:.1},{:.1}", x(step), y(*ns)));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                body,
                "<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>"
            );
            let at = TOP + 10.0 + n as f64 * 20.0;
            let style = format!("stroke='{colour}' stroke-width='3'");
            line(&mut body, [RIGHT + 20.0, at, RIGHT + 44.0, at], &style);
            text(&mut body, RIGHT + 50.0, at + 4.0, "start", name);
        }
        let below = TOP + 30.0 + self.lines.len() as f64 * 20.0;
        wrapped(below.max(BOTTOM + 40.0), self.title, &body)
    }
}

/// Bytes, in the unit that people would choose.
pub fn bytes(bytes: f64) -> String {
    match bytes {
        n if n >= 1e9 => format!("{} GB", short(n / 1e9)),
        n if n >= 1e6 => format!("{} MB", short(n / 1e6)),
        n if n >= 1e3 => format!("{} kB", short(n / 1e3)),
        n => format!("{n:.0} bytes"),
    }
}

/// What is drawn over the time of [`Timeline`].
#[derive(Debug)]
pub struct Panel<'a> {
    /// What is shown.
    pub title: &'a str,
    /// Whether every step upwards is a factor of ten; otherwise the axis begins at 0.
    pub logarithmic: bool,
    /// Written at the axis.
    pub label: fn(f64) -> String,
    /// A line's name, and its values at their seconds.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Panels one below the other, over the same seconds.
#[derive(Debug)]
pub struct Timeline<'a> {
    /// What is shown.
    pub title: &'a str,
    /// From top to bottom.
    pub panels: Vec<Panel<'a>>,
}

impl Panel<'_> {
    /// Where the axis has its lines, from the lowest to the highest.
    fn ticks(&self) -> Vec<f64> {
        let values =
            || self.lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        if !self.logarithmic {
            let step = round_step(most / 4.0);
            return (0..=(most / step).ceil() as u32).map(|n| f64::from(n) * step).collect();
        }
        let least = values().filter(|value| *value > 0.0).fold(most, f64::min).log10().floor();
        let most = most.log10().ceil().max(least + 1.0);
        (least as i32..=most as i32).map(|decade| 10f64.powi(decade)).collect()
    }

    /// How high a value lies between the lowest and the highest tick, from 0 to 1.
    fn height(&self, value: f64, ticks: &[f64]) -> f64 {
        let (Some(&low), Some(&high)) = (ticks.first(), ticks.last()) else { return 0.0 };
        match self.logarithmic {
            true => (value.max(low) / low).ln() / (high / low).ln(),
            false => value / high,
        }
    }
}

/// The next larger one of 1, 2, 5, 10, 20, ...
fn round_step(step: f64) -> f64 {
    let decade = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * decade >= step);
    factor.unwrap_or(10.0) * decade
}

impl Timeline<'_> {
    /// Draws them.
    pub fn svg(&self) -> String {
        const LEFT: f64 = 80.0;
        const RIGHT: f64 = 620.0;
        const HEIGHT: f64 = 220.0;
        let points = || self.panels.iter().flat_map(|p| &p.lines).flat_map(|(_, points)| points);
        let seconds = points().map(|point| point.0).fold(1.0, f64::max);
        let x = |second: f64| LEFT + second / seconds * (RIGHT - LEFT);
        let (mut body, mut top) = (String::new(), 50.0);
        for panel in &self.panels {
            text(&mut body, 16.0, top + 4.0, "start", panel.title);
            top += 20.0;
            let ticks = panel.ticks();
            let y = |value: f64| top + HEIGHT * (1.0 - panel.height(value, &ticks));
            for &tick in &ticks {
                line(&mut body, [LEFT, y(tick), RIGHT, y(tick)], "stroke='#ddd'");
                text(&mut body, LEFT - 8.0, y(tick) + 4.0, "end", &(panel.label)(tick));
            }
            for (n, (name, points)) in panel.lines.iter().enumerate() {
                let colour = COLOURS[n % COLOURS.len()];
                let at = points.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value)));
                let at = at.collect::<Vec<_>>().join(" ");
                let _ = writeln!(
                    body,
                    "<polyline points='{at}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
                );
                let at = top + 10.0 + n as f64 * 20.0;
                let style = format!("stroke='{colour}' stroke-width='3'");
                line(&mut body, [RIGHT + 20.0, at, RIGHT + 44.0, at], &style);
                text(&mut body, RIGHT + 50.0, at + 4.0, "start", name);
            }
            top += HEIGHT + 24.0;
        }
        let step = round_step(seconds / 8.0);
        for n in 0..=(seconds / step) as u32 {
            let second = f64::from(n) * step;
            text(&mut body, x(second), top - 6.0, "middle", &format!("{second:.0} s"));
        }
        wrapped(top + 10.0, self.title, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_hold_what_they_are_given() {
        let groups = vec![("20 keys".to_owned(), vec![("a < b".to_owned(), 1.1)])];
        let marks = vec![(1.15, "target".to_owned())];
        let bars = Bars { title: "t", logarithmic: false, label: ratio, marks, groups };
        let svg = bars.svg();
        assert!(svg.contains("a &lt; b") && svg.contains(">1.10<") && svg.contains("target"));
        let lines = vec![("ours".to_owned(), vec![100.0, 2e3])];
        let svg = Lines { title: "t", steps: vec!["p50".into(), "p99".into()], lines }.svg();
        assert!(svg.contains("polyline") && svg.contains("ours") && svg.contains("10.0 µs"));
        let lines = vec![("ours".to_owned(), vec![(0.0, 1e9), (240.0, 2e9)])];
        let panel = Panel { title: "size", logarithmic: false, label: bytes, lines };
        assert_eq!(panel.ticks(), [0.0, 0.5e9, 1e9, 1.5e9, 2e9]);
        let svg = Timeline { title: "t", panels: vec![panel] }.svg();
        assert!(svg.contains("80.0,180.0 620.0,70.0"), "{svg}");
        assert!(svg.contains("1.50 GB") && svg.contains(">200 s<"), "{svg}");
    }
}
