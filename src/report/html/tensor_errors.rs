//! The error of every tensor against the source, by layer.

use super::axis::{Axis, layer_ticks};
use super::markup::figure;
use super::palette;
use super::svg::{Anchor, Svg};
use crate::report::subject::{Subject, Tensor};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 330.0;

/// Pixels at the left for tensors outside of the layers.
const OUTSIDE: f64 = 40.0;

/// The figure; nothing for a plan.
pub fn section(subject: &Subject) -> String {
    let measured = |tensor: &&Tensor| tensor.error.is_some();
    let exact = subject.tensors.iter().filter(measured).filter(|tensor| tensor.error == Some(0.0)).count();
    let caption = format!(
        "Squared error relative to the squared weights, one dot for each tensor; the place at the left is outside of \
         the layers. {exact} tensors came back without any error and are not shown."
    );
    figure("Error by tensor", &caption, &chart(subject))
}

fn chart(subject: &Subject) -> String {
    let shown: Vec<(&Tensor, f64)> = subject
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.error.filter(|error| *error > 0.0)?)))
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    let low = shown.iter().map(|(_, error)| *error).fold(f64::INFINITY, f64::min);
    let high = shown.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let errors = Axis::decades([low, high], [BOTTOM, TOP]);
    let layers = subject.layers();
    let step = (RIGHT - LEFT - OUTSIDE) / f64::from(layers.max(1));
    let column = |layer: Option<u32>| match layer {
        None => LEFT + OUTSIDE / 2.0,
        Some(layer) => LEFT + OUTSIDE + step * (f64::from(layer) + 0.5),
    };
    let mut svg = Svg::new(WIDTH, HEIGHT, "relative error of every tensor by layer");
    svg.soft([LEFT - 50.0, 16.0], Anchor::Start, "relative squared error (logarithmic)");
    errors.draw_left(&mut svg, LEFT, RIGHT, 8);
    svg.line([LEFT, BOTTOM], [RIGHT, BOTTOM], "axis");
    for layer in layer_ticks(layers) {
        let x = column(Some(layer));
        svg.line([x, BOTTOM], [x, BOTTOM + 5.0], "axis");
        svg.soft([x, BOTTOM + 18.0], Anchor::Middle, &layer.to_string());
    }
    svg.soft([column(None), BOTTOM + 18.0], Anchor::Middle, "none");
    svg.soft([(LEFT + RIGHT) / 2.0, BOTTOM + 36.0], Anchor::Middle, "layer");
    for (tensor, error) in &shown {
        let weighted = tensor.weighted_error.map_or(String::new(), |error| format!(", weighted {error:.4e}"));
        let tip = format!("{}: {}, error {error:.4e}{weighted}", tensor.name, tensor.format);
        svg.dot([column(tensor.layer), errors.place(*error)], 3.5, &palette::of_role(tensor.role), &tip);
    }
    let mut x = LEFT;
    for role in palette::roles().filter(|role| shown.iter().any(|(tensor, _)| tensor.role == *role)) {
        svg.dot([x + 5.0, BOTTOM + 55.0], 5.0, &palette::of_role(role), palette::name(role));
        svg.text([x + 15.0, BOTTOM + 59.0], Anchor::Start, palette::name(role));
        x += 30.0 + 8.0 * palette::name(role).len() as f64;
    }
    svg.finish()
}
