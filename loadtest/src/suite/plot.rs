//! Curves as SVG. A writer of our own: two hundred lines that know dark pages and logarithmic axes, where a library
//! would write its colours into every element and bring a dozen crates for pictures that we do not draw.

use std::fmt::Write;

/// The whole picture, and the part of it that has the curves.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 52.0;

/// From this factor between the smallest and the largest on, an axis is logarithmic.
const LOGARITHMIC: f64 = 30.0;

/// Colours that are told apart by those who do not see red and green, and on light and dark alike; each curve has a mark of
/// its own too.
const COLOURS: usize = 5;
const STYLE: &str = "
  .back { fill: #ffffff } .text { fill: #24292f; font: 13px system-ui, sans-serif } .title { font-weight: 600 }
  .line { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #d8dee4; stroke-width: 1 }
  .curve { fill: none; stroke-width: 2 } .range { stroke-width: 1 }
  .c0 { stroke: #0969da; color: #0969da } .c1 { stroke: #bc4c00; color: #bc4c00 } .c2 { stroke: #1a7f64; color: #1a7f64 }
  .c3 { stroke: #8250df; color: #8250df } .c4 { stroke: #57606a; color: #57606a } .dot { fill: currentColor }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } .text { fill: #e6edf3 } .line { stroke: #6e7681 } .grid { stroke: #30363d }
    .c0 { stroke: #58a6ff; color: #58a6ff } .c1 { stroke: #f0883e; color: #f0883e } .c2 { stroke: #3fb98f; color: #3fb98f }
    .c3 { stroke: #bc8cff; color: #bc8cff } .c4 { stroke: #8b949e; color: #8b949e }
  }
";

/// What is drawn.
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// What is on the horizontal axis; it is logarithmic if its values grow by tens.
    pub across: &'a str,
    /// What is on the vertical axis, which begins at zero.
    pub up: &'a str,
    /// The curves.
    pub curves: Vec<Curve<'a>>,
}

/// One curve.
pub struct Curve<'a> {
    /// Whose it is.
    pub name: &'a str,
    /// From left to right.
    pub points: Vec<Point>,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Where it is.
    pub across: f64,
    /// Its value.
    pub up: f64,
    /// The least and the greatest that was measured.
    pub range: (f64, f64),
}

impl Plot<'_> {
    /// The picture; nothing, if there is nothing to see.
    pub fn svg(&self) -> Option<String> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let across = Axis::across(points().map(|point| point.across))?;
        let up = Axis::up(points().map(|point| point.range.1))?;
        let mut text = String::new();
        let (title, described) = (escaped(self.title), escaped(self.up));
        let _ = writeln!(
            text,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: {described}">"#
        );
        let _ = writeln!(text, "<style>{STYLE}</style>");
        let _ = writeln!(
            text,
            r#"<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="6"/>"#
        );
        label(&mut text, (LEFT, 24.0), "start", "text title", self.title);
        let bottom = HEIGHT - BOTTOM;
        for (value, words) in up.ticks() {
            let y = up.place(value);
            line(&mut text, "grid", (LEFT, y), (WIDTH - RIGHT, y));
            label(&mut text, (LEFT - 8.0, y + 4.5), "end", "text", &words);
        }
        for (value, words) in across.ticks() {
            let x = across.place(value);
            line(&mut text, "line", (x, bottom), (x, bottom + 5.0));
            label(&mut text, (x, bottom + 20.0), "middle", "text", &words);
        }
        line(&mut text, "line", (LEFT, bottom), (WIDTH - RIGHT, bottom));
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        label(
            &mut text,
            (middle, HEIGHT - 12.0),
            "middle",
            "text",
            self.across,
        );
        label(
            &mut text,
            (LEFT - 8.0, TOP - 14.0),
            "start",
            "text",
            self.up,
        );
        self.legend(&mut text);
        for (number, curve) in self.curves.iter().enumerate() {
            curve.draw(&mut text, number, &across, &up);
        }
        text.push_str("</svg>\n");
        Some(text)
    }

    /// Names the curves, from the right end of the title's line to the left.
    fn legend(&self, text: &mut String) {
        let mut x = WIDTH - RIGHT;
        for (number, curve) in self.curves.iter().enumerate().rev() {
            label(text, (x, TOP - 14.0), "end", "text", curve.name);
            // Letters are about so wide.
            x -= 7.2 * curve.name.chars().count() as f64 + 12.0;
            mark(text, number, (x, TOP - 18.5));
            x -= 22.0;
        }
    }
}

impl Curve<'_> {
    fn draw(&self, text: &mut String, number: usize, across: &Axis, up: &Axis) {
        let places: Vec<(f64, f64)> = self
            .points
            .iter()
            .map(|point| (across.place(point.across), up.place(point.up)))
            .collect();
        let path: Vec<String> = places
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let colour = number % COLOURS;
        let _ = writeln!(
            text,
            r#"<polyline class="curve c{colour}" points="{}"/>"#,
            path.join(" ")
        );
        for (point, (x, y)) in self.points.iter().zip(places) {
            let (least, most) = point.range;
            let class = format!("range c{colour}");
            line(text, &class, (x, up.place(least)), (x, up.place(most)));
            mark(text, number, (x, y));
        }
    }
}

/// A mark of a curve's own.
fn mark(text: &mut String, number: usize, (x, y): (f64, f64)) {
    let class = format!("dot c{}", number % COLOURS);
    let _ = match number % 3 {
        0 => writeln!(
            text,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#
        ),
        1 => writeln!(
            text,
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="7" height="7"/>"#,
            x - 3.5,
            y - 3.5
        ),
        _ => writeln!(
            text,
            r#"<path class="{class}" d="M{x:.1} {:.1} l4.5 8 h-9 z"/>"#,
            y - 5.0
        ),
    };
}

fn line(text: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        text,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, words: &str) {
    let _ = writeln!(
        text,
        r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#,
        escaped(words)
    );
}

/// Text that stands for itself in XML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Where values are in the picture.
struct Axis {
    least: f64,
    most: f64,
    logarithmic: bool,
    /// The ends in the picture.
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// A tick at each value, or at each power of ten if they are far apart.
    fn across(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut ticks: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let (least, most) = (*ticks.first()?, *ticks.last()?);
        if least >= most {
            return None;
        }
        Some(Axis {
            least,
            most,
            logarithmic: least > 0.0 && most / least >= LOGARITHMIC,
            from: LEFT + 14.0,
            to: WIDTH - RIGHT - 14.0,
            ticks,
        })
    }

    /// From zero to beyond the largest, in steps that people count in.
    fn up(values: impl Iterator<Item = f64>) -> Option<Self> {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        if most <= 0.0 {
            return None;
        }
        let tens = 10_f64.powf((most / 4.0).log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|factor| factor * tens)
            .into_iter()
            .find(|step| most / step <= 5.0)?;
        let count = (most / step).ceil() as u32;
        Some(Axis {
            least: 0.0,
            most: f64::from(count) * step,
            logarithmic: false,
            from: HEIGHT - BOTTOM,
            to: TOP,
            ticks: (0..=count).map(|number| f64::from(number) * step).collect(),
        })
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.logarithmic {
            true => (value / self.least).ln() / (self.most / self.least).ln(),
            false => (value - self.least) / (self.most - self.least),
        };
        self.from + part.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        self.ticks
            .iter()
            .map(|value| (*value, short(*value)))
            .collect()
    }
}

/// A number in a few letters.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        _ if value >= 1e6 => (value / 1e6, " M"),
        _ if value >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot<'a>(title: &'a str, points: &[(f64, f64)]) -> Plot<'a> {
        let points = points
            .iter()
            .map(|(across, up)| Point {
                across: *across,
                up: *up,
                range: (up * 0.9, up * 1.1),
            })
            .collect();
        let name = r#"<script>"x" & 'y'"#;
        Plot {
            title,
            across: "keys < all",
            up: "µs & more",
            curves: vec![Curve { name, points }],
        }
    }

    /// Every tag is closed in order, every `&` begins an entity; returns the text between the tags.
    fn read(svg: &str) -> Option<String> {
        let (mut open, mut words) = (Vec::new(), String::new());
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            words.push_str(&rest[..at]);
            let end = at + rest[at..].find('>')?;
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if !tag.matches('"').count().is_multiple_of(2) {
                return None;
            }
            match tag.strip_prefix('/') {
                Some(name) if open.pop() == Some(name) => {}
                Some(_) => return None,
                None if tag.ends_with('/') => {}
                None => open.push(tag.split_whitespace().next()?),
            }
        }
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
        let known = svg
            .match_indices('&')
            .all(|(at, _)| entities.iter().any(|entity| svg[at..].starts_with(entity)));
        (open.is_empty() && known && rest.trim().is_empty()).then_some(words)
    }

    #[test]
    fn a_picture_is_well_formed_whatever_its_words_are() {
        let title = "a > b & \"c\" </svg>\u{7}";
        let svg = plot(title, &[(1.0, 40.0), (100.0, 41.0), (100_000.0, 44.0)]).svg();
        let words = svg.as_deref().and_then(read).unwrap_or_default();
        assert!(
            words.contains("a &gt; b &amp; &quot;c&quot; &lt;/svg&gt; "),
            "{words}"
        );
        assert!(words.contains("&lt;script&gt;"), "{words}");
        assert!(
            words.contains("keys &lt; all") && words.contains("100 k"),
            "{words}"
        );
    }

    #[test]
    fn without_a_way_to_go_there_is_no_picture() {
        assert!(plot("one", &[(1.0, 40.0)]).svg().is_none());
        assert!(plot("none", &[]).svg().is_none());
        assert!(plot("nothing", &[(1.0, 0.0), (2.0, 0.0)]).svg().is_none());
        assert!(
            plot("nan", &[(1.0, f64::NAN), (f64::NAN, 1.0)])
                .svg()
                .is_none()
        );
    }

    #[test]
    fn an_axis_that_grows_by_tens_is_logarithmic() {
        let places = |values: [f64; 3]| {
            let axis = Axis::across(values.into_iter());
            axis.map(|axis| values.map(|value| axis.place(value)))
        };
        let middle = |places: Option<[f64; 3]>| {
            places.is_some_and(|[left, middle, right]| (left + right - 2.0 * middle).abs() < 1e-6)
        };
        assert!(middle(places([1.0, 100.0, 10_000.0])));
        assert!(middle(places([0.0, 5_000.0, 10_000.0])));
        assert!(middle(places([10.0, 20.0, 30.0])));
    }

    #[test]
    fn ticks_are_numbers_that_people_count_in() {
        let ticks = |most: f64| {
            let axis = Axis::up([most].into_iter());
            axis.map(|axis| {
                axis.ticks()
                    .into_iter()
                    .map(|(_, words)| words)
                    .collect::<Vec<_>>()
            })
        };
        let texts = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(ticks(43.0), texts(&["0", "10", "20", "30", "40", "50"]));
        assert_eq!(ticks(0.9), texts(&["0", "0.2", "0.4", "0.6", "0.8", "1"]));
        assert_eq!(
            ticks(80_000.0),
            texts(&["0", "20 k", "40 k", "60 k", "80 k"])
        );
    }
}
