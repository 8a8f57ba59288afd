//! Draws the medians as bars: a panel for each metric, a bar for each contender, and a line from the
//! worst to the best round. Every bar bears its name and its value, so that colour is never the only
//! sign; the colours are those of Okabe and Ito, which people with any colour vision can tell apart.

use crate::metric::{Better, Metric};
use crate::report::{Column, Results, number};
use std::fmt::Write;

const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 24.0;
const ACROSS: usize = 3;
/// Height of the title above the panels, and of the conditions below.
const HEAD: f64 = 64.0;
const FOOT: f64 = 40.0;
const GAP: f64 = 28.0;
/// Where bars begin within a panel: names stand to the left.
const NAMES: f64 = 92.0;
/// Room for a value to the right of the longest bar.
const VALUES: f64 = 92.0;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;
const TITLE: f64 = 40.0;

/// The fill of a contender's bars.
fn colour(name: &str, place: usize) -> &'static str {
    match name {
        "kernel" => "#8c8c8c",
        "tapnat" => "#0072b2",
        "slirp4netns" => "#e69f00",
        "pasta" => "#009e73",
        _ => ["#56b4e9", "#cc79a7", "#d55e00", "#f0e442"][place % 4],
    }
}

/// The picture as SVG.
pub fn draw(results: &Results) -> String {
    let has_samples =
        |metric: &Metric| results.columns.iter().any(|column| !column.samples(*metric).is_empty());
    let metrics: Vec<Metric> =
        Metric::ALL.into_iter().filter(|metric| metric.compares()).filter(has_samples).collect();
    let panel = TITLE + results.columns.len() as f64 * STEP + GAP;
    let rows = metrics.len().div_ceil(ACROSS);
    let height = HEAD + rows as f64 * panel + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, \
         sans-serif\" font-size=\"13\" fill=\"#222\" role=\"img\">\n\
         <title>tapnat beside other gateways</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, (MARGIN, 32.0), "font-size=\"20\" font-weight=\"600\"", "tapnat beside other gateways");
    let base = results.reference().map_or("nobody", |column| column.name.as_str());
    let say =
        format!("bar: median of the rounds; line: lowest to highest round; in brackets: ratio to {base}");
    text(&mut svg, (MARGIN, 52.0), "fill=\"#555\"", &say);
    let width = (WIDTH - 2.0 * MARGIN - (ACROSS - 1) as f64 * GAP) / ACROSS as f64;
    for (number, &metric) in metrics.iter().enumerate() {
        let x = MARGIN + (number % ACROSS) as f64 * (width + GAP);
        let y = HEAD + (number / ACROSS) as f64 * panel;
        bars(&mut svg, results, metric, (x, y), width);
    }
    let c = &results.conditions;
    let conditions = format!(
        "{}, Linux {}, {} x {}, {} rounds of {} s, MTU {}",
        c.date, c.kernel, c.cores, c.cpu, c.rounds, c.seconds, c.mtu
    );
    text(&mut svg, (MARGIN, height - 20.0), "fill=\"#555\"", &conditions);
    svg + "</svg>\n"
}

/// One panel with its upper left corner at `(x, y)`.
fn bars(svg: &mut String, results: &Results, metric: Metric, (x, y): (f64, f64), width: f64) {
    let (arrow, better) = match metric.better() {
        Better::Higher => ("▶", "more is better"),
        Better::Lower => ("◀", "less is better"),
    };
    text(svg, (x, y + 16.0), "font-weight=\"600\"", &format!("{}, {}", metric.title(), metric.unit()));
    text(svg, (x, y + 32.0), "font-size=\"11\" fill=\"#555\"", &format!("{arrow} {better}"));
    let all = results.columns.iter().flat_map(|column| column.samples(metric));
    let longest = all.copied().fold(f64::MIN_POSITIVE, f64::max);
    let scale = (width - NAMES - VALUES) / longest;
    let base = results.reference().and_then(|column| column.median(metric)).filter(|base| *base > 0.0);
    for (place, column) in results.columns.iter().enumerate() {
        let top = y + TITLE + place as f64 * STEP;
        let line = top + BAR / 2.0 + 4.5;
        text(svg, (x + NAMES - 8.0, line), "text-anchor=\"end\"", &column.name);
        let Some(median) = column.median(metric) else {
            let why = if column.name == "kernel" { "none of its own" } else { "not measured" };
            text(svg, (x + NAMES + 4.0, line), "fill=\"#777\" font-style=\"italic\"", why);
            continue;
        };
        let fill = colour(&column.name, place);
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>",
            x + NAMES,
            (median * scale).max(1.0)
        );
        let end = whisker(svg, column, metric, (x + NAMES, top + BAR / 2.0), scale);
        let is_base = results.reference().is_some_and(|base| base.name == column.name);
        let ratio =
            base.filter(|_| !is_base).map_or_else(String::new, |base| format!(" ({:.2})", median / base));
        text(svg, (end + 6.0, line), "", &format!("{}{ratio}", number(median)));
    }
}

/// The line from the lowest to the highest round; gives where it ends.
fn whisker(svg: &mut String, column: &Column, metric: Metric, (x, y): (f64, f64), scale: f64) -> f64 {
    let samples = column.samples(metric);
    let low = x + samples.iter().copied().fold(f64::MAX, f64::min) * scale;
    let high = x + samples.iter().copied().fold(0.0, f64::max) * scale;
    let _ = writeln!(
        svg,
        "<path d=\"M{low:.1} {y:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\" stroke=\"#222\" fill=\"none\"/>",
        y - 3.0,
        y - 3.0
    );
    high
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}
