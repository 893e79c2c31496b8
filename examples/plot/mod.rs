//! Line plots as SVG, without any library: a light ground, one colour and one mark a series, a name at each line's end, axes
//! with units, logarithmic where values span decades, a shade behind a time in which something was done. The examples that
//! make pages of measurements take it in by its path.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 62.0;
/// Told apart by people who do not see all colours (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#6b6b6b", "#009e73"];
/// Between the names of two lines.
const NAME_HEIGHT: f64 = 15.0;
const FONT: &str = "font-family=\"system-ui, sans-serif\" fill=\"#333\"";

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: (&'static str, Scale),
    pub(crate) y: (&'static str, Scale),
    pub(crate) series: Vec<Series>,
    /// Horizontal lines: what is to be reached.
    pub(crate) limits: Vec<(f64, String)>,
    /// From, to, and what happened meanwhile.
    pub(crate) spans: Vec<(f64, f64, String)>,
    /// A mark at every point, or none for curves.
    pub(crate) marks: bool,
}

/// One axis: what it spans, in values and in pixels.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(scale: Scale, values: &[f64], from: f64, to: f64) -> Axis {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = match scale {
            Scale::Linear => (least.min(0.0), if most > 0.0 { most * 1.06 } else { 1.0 }),
            Scale::Logarithmic => {
                let least = 10_f64.powf((least.max(1e-9) * 0.999).log10().floor());
                (least, 10_f64.powf((most * 1.001).log10().ceil()).max(least * 10.0))
            }
        };
        Axis { scale, least, most, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => (value.max(self.least) / self.least).log10() / (self.most / self.least).log10(),
        };
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Logarithmic => {
                let decades = (self.most / self.least).log10().round();
                let mut ticks = Vec::new();
                let mut decade = 0.0;
                while decade <= decades {
                    let at = self.least * 10_f64.powf(decade);
                    ticks.push(at);
                    if decades <= 2.0 && decade < decades {
                        ticks.extend([at * 2.0, at * 5.0]);
                    }
                    decade += 1.0;
                }
                ticks
            }
            Scale::Linear => {
                let rough = (self.most - self.least) / 5.0;
                let decade = 10_f64.powf(rough.log10().floor());
                let step =
                    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|times| times * decade).find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                let mut ticks = Vec::new();
                let mut at = self.least;
                while at <= self.most {
                    ticks.push(at);
                    at += step;
                }
                ticks
            }
        }
    }
}

/// 12345.6 as 12,346; small fractions keep a digit.
pub(crate) fn grouped(value: f64) -> String {
    if value > 0.0 && value < 10.0 && value.fract() > 0.05 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn label(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        return grouped(value);
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn mark(series: usize, x: f64, y: f64, colour: &str) -> String {
    match series % 3 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>\n"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"{colour}\"/>\n", x - 4.0, y - 4.0),
        _ => {
            let points = [(x, y - 5.0), (x + 5.0, y + 4.0), (x - 5.0, y + 4.0)];
            let points = points.map(|(x, y)| format!("{x:.1},{y:.1}")).join(" ");
            format!("<polygon points=\"{points}\" fill=\"{colour}\"/>\n")
        }
    }
}

impl Plot {
    /// The picture; none if there is nothing to draw.
    pub(crate) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        points().next()?;
        let xs: Vec<f64> = points().map(|point| point.0).collect();
        let ys: Vec<f64> = points().map(|point| point.1).chain(self.limits.iter().map(|limit| limit.0)).collect();
        let x = Axis::new(self.x.1, &xs, LEFT, WIDTH - RIGHT);
        let y = Axis::new(self.y.1, &ys, HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" {FONT} font-size=\"16\" font-weight=\"600\">{title}</text>\n",
            title = escape(&self.title)
        );
        self.shades(&mut svg, &x);
        self.axes(&mut svg, &x, &y);
        self.lines(&mut svg, &x, &y);
        svg.push_str("</svg>\n");
        Some(svg)
    }

    fn shades(&self, svg: &mut String, x: &Axis) {
        for (from, to, name) in &self.spans {
            let (from, to) = (x.place(*from), x.place(*to));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f3ead8\"/>\n<text \
                 x=\"{:.1}\" y=\"{:.1}\" {FONT} font-size=\"12\">{}</text>",
                to - from,
                HEIGHT - BOTTOM - TOP,
                from + 5.0,
                TOP + 14.0,
                escape(name)
            );
        }
    }

    fn axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e3e3e3\"/>\n<text \
                 x=\"{:.1}\" y=\"{:.1}\" {FONT} font-size=\"12\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                label(tick)
            );
        }
        for tick in x.ticks() {
            let (at, base) = (x.place(tick), HEIGHT - BOTTOM);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{base}\" y2=\"{:.1}\" stroke=\"#999\"/>\n<text x=\"{at:.1}\" \
                 y=\"{:.1}\" {FONT} font-size=\"12\" text-anchor=\"middle\">{}</text>",
                base + 5.0,
                base + 20.0,
                label(tick)
            );
        }
        let (base, middle) = (HEIGHT - BOTTOM, f64::midpoint(TOP, HEIGHT - BOTTOM));
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base}\" y2=\"{base}\" stroke=\"#999\"/>\n<text x=\"{:.1}\" \
             y=\"{:.1}\" {FONT} font-size=\"13\" text-anchor=\"middle\">{}</text>\n<text transform=\"translate(20 \
             {middle:.1}) rotate(-90)\" {FONT} font-size=\"13\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 16.0,
            escape(self.x.0),
            escape(self.y.0)
        );
    }

    fn lines(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for (value, name) in &self.limits {
            let at = y.place(*value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#c00\" \
                 stroke-dasharray=\"5 4\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" font-family=\"system-ui, sans-serif\" \
                 fill=\"#c00\" font-size=\"12\">{}</text>",
                WIDTH - RIGHT,
                LEFT + 6.0,
                at - 5.0,
                escape(name)
            );
        }
        // Names stand at the ends of their lines, but never on each other, nor on the axis.
        let end = |series: &Series| series.points.last().map_or(0.0, |point| y.place(point.1));
        let mut order: Vec<usize> =
            (0..self.series.len()).filter(|index| !self.series[*index].points.is_empty()).collect();
        order.sort_by(|a, b| end(&self.series[*a]).total_cmp(&end(&self.series[*b])));
        let mut places = vec![0.0; order.len()];
        let mut free = TOP - 10.0;
        for (place, index) in places.iter_mut().zip(&order) {
            *place = (end(&self.series[*index]) + 4.0).max(free + NAME_HEIGHT);
            free = *place;
        }
        let mut below = HEIGHT - BOTTOM + 4.0;
        for place in places.iter_mut().rev() {
            *place = place.min(below);
            below = *place - NAME_HEIGHT;
        }
        for (index, at) in order.into_iter().zip(places) {
            let (series, colour) = (&self.series[index], COLOURS[index % COLOURS.len()]);
            let path: Vec<String> =
                series.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x.place(*at), y.place(*value))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            if self.marks {
                series
                    .points
                    .iter()
                    .for_each(|(at, value)| svg.push_str(&mark(index, x.place(*at), y.place(*value), colour)));
            }
            let from = series.points.last().map_or(0.0, |point| x.place(point.0));
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{at:.1}\" font-family=\"system-ui, sans-serif\" fill=\"{colour}\" \
                 font-size=\"13\" font-weight=\"600\">{}</text>",
                from + 10.0,
                escape(&series.name)
            );
        }
    }
}
