//! Size against expected damage, with the point that was chosen.

use super::axis::Axis;
use super::markup::{Fill, figure};
use super::svg::{Anchor, Svg};
use crate::report::Size;
use crate::report::subject::{Point, Subject};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 970.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 330.0;

/// The figure; nothing where no curve was made.
pub fn section(subject: &Subject) -> String {
    let caption = "Expected damage, of the best choice of types at each size: a number without a unit that goes \
                   with the divergence from the checkpoint (docs/damage.md). Less is better.";
    figure("Trade-off of size and damage", caption, &chart(subject))
}

fn chart(subject: &Subject) -> String {
    let points: Vec<Point> = subject.tradeoff.iter().chain(&subject.chosen).copied().collect();
    if subject.tradeoff.len() < 2 {
        return String::new();
    }
    let largest = points.iter().map(|point| point.bytes).max().unwrap_or(1);
    let (unit, name, binary, binary_name) = if largest >= 1_000_000_000 {
        (1e9, "GB", f64::from(1u32 << 30), "GiB")
    } else {
        (1e6, "MB", f64::from(1u32 << 20), "MiB")
    };
    let range = |of: &dyn Fn(&Point) -> f64| {
        let values = points.iter().map(of);
        values.fold([f64::INFINITY, 0.0], |[low, high], value| [low.min(value), high.max(value)])
    };
    let [low, high] = range(&|point| point.bytes as f64);
    let sizes = Axis::linear([low / unit, high / unit], [LEFT, RIGHT]);
    let binaries = Axis::linear([low / binary, high / binary], [LEFT, RIGHT]);
    let [least, most] = range(&|point| point.damage);
    // A curve may reach zero, which a logarithm cannot.
    let damages = if least > 0.0 {
        Axis::decades([least, most], [BOTTOM, TOP])
    } else {
        Axis::linear([0.0, most], [BOTTOM, TOP])
    };
    let place = |point: &Point| [sizes.place(point.bytes as f64 / unit), damages.place(point.damage)];
    let mut svg = Svg::new(WIDTH, HEIGHT, "size against expected damage");
    let scale = if least > 0.0 { "expected damage (logarithmic)" } else { "expected damage" };
    svg.soft([10.0, 16.0], Anchor::Start, scale);
    damages.draw_left(&mut svg, LEFT, RIGHT, 6);
    sizes.draw_bottom(&mut svg, BOTTOM, 8);
    svg.soft([LEFT - 10.0, BOTTOM + 18.0], Anchor::End, name);
    binaries.draw_bottom(&mut svg, BOTTOM + 32.0, 8);
    svg.soft([LEFT - 10.0, BOTTOM + 50.0], Anchor::End, binary_name);
    svg.soft([(LEFT + RIGHT) / 2.0, BOTTOM + 74.0], Anchor::Middle, "size of the file");
    svg.curve(subject.tradeoff.iter().map(place), "curve");
    for point in &subject.tradeoff {
        let tip = format!("{}, damage {:.4e}", Size(point.bytes), point.damage);
        svg.dot(place(point), 2.5, &Fill::Color("#3b76c4".into()), &tip);
    }
    if let Some(chosen) = &subject.chosen {
        let text = format!("chosen: {}, damage {:.4e}", Size(chosen.bytes), chosen.damage);
        let [x, y] = place(chosen);
        svg.dot([x, y], 6.0, &Fill::Class("chosen"), &text);
        let anchor = if x > (LEFT + RIGHT) / 2.0 { Anchor::End } else { Anchor::Start };
        let aside = if x > (LEFT + RIGHT) / 2.0 { -12.0 } else { 12.0 };
        svg.text([x + aside, y - 10.0], anchor, &text);
    }
    svg.finish()
}
