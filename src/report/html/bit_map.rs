//! Bits per weight of each kind of tensor in each layer, as colours.

use std::collections::BTreeMap;

use quant_kernels::Format;

use super::axis::layer_ticks;
use super::palette;
use super::svg::{Anchor, Svg};
use crate::report::Size;
use crate::report::subject::{Subject, Tensor};
use crate::report::terminal::digit;

/// Pixels of a cell with many layers and with few; height of a row; of the names at the left, and between roles.
const CELL: [f64; 2] = [13.0, 30.0];
const ROW: f64 = 17.0;
const LEFT: f64 = 168.0;
const TOP: f64 = 6.0;
const GAP: f64 = 8.0;

/// Between the column for tensors outside of layers and the layers.
const OUTSIDE: f64 = 22.0;

/// Pixels for the layers, if their cells need not be smaller.
const WIDTH: f64 = 800.0;

/// Pixels of one entry of the legend; the drawing is at least three wide.
const ENTRY: f64 = 150.0;

/// The map and its legend of types.
pub fn chart(subject: &Subject) -> String {
    let mut rows: BTreeMap<(usize, &str), Vec<&Tensor>> = BTreeMap::new();
    let mut types: Vec<Format> = Vec::new();
    for tensor in subject.tensors.iter().filter(|tensor| tensor.is_chosen()) {
        let role = palette::roles().position(|role| role == tensor.role).unwrap_or(0);
        rows.entry((role, &tensor.class)).or_default().push(tensor);
        if !types.contains(&tensor.format) {
            types.push(tensor.format);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    types.sort_by(|a, b| a.bits_per_weight().total_cmp(&b.bits_per_weight()).then(a.name().cmp(b.name())));
    let layers = subject.layers();
    let cell = (WIDTH / f64::from(layers.max(1))).clamp(CELL[0], CELL[1]);
    let column = |layer: Option<u32>| match layer {
        None => LEFT,
        Some(layer) => LEFT + OUTSIDE + cell * f64::from(layer),
    };
    let right = column(Some(layers));
    let width = (right + 20.0).max(20.0 + ENTRY * 4.0);
    let entries = ((width - 20.0) / ENTRY) as usize;
    let roles = rows.keys().map(|(role, _)| role).collect::<std::collections::BTreeSet<_>>().len();
    let bottom = TOP + ROW * rows.len() as f64 + GAP * (roles - 1) as f64;
    let height = bottom + 66.0 + 20.0 * types.len().div_ceil(entries) as f64;
    let mut svg = Svg::new(width, height, "bits per weight by layer and kind of tensor");
    let (mut y, mut last) = (TOP, None);
    for ((role, class), tensors) in rows {
        if last.is_some_and(|last| last != role) {
            y += GAP;
        }
        last = Some(role);
        let role = palette::roles().nth(role).flatten();
        svg.rect([LEFT - 8.0, y, 4.0, ROW], &palette::of_role(role), palette::name(role));
        svg.text([LEFT - 14.0, y + 13.0], Anchor::End, &clipped(class));
        for tensor in tensors {
            let place = [
                column(tensor.layer) + 0.5,
                y + 0.5,
                if tensor.layer.is_some() { cell } else { CELL[0] } - 1.0,
                ROW - 1.0,
            ];
            let tip = format!(
                "{}: {}, {:.4} bits per weight, {}",
                tensor.name,
                tensor.format,
                tensor.bits(),
                Size(tensor.bytes)
            );
            svg.rect(place, &palette::of_type(tensor.format), &tip);
            let [x, y, width, height] = place;
            if width >= CELL[0] - 1.0 {
                svg.in_cell([x + width / 2.0, y + height - 4.0], &digit(tensor.bits()).to_string());
            }
        }
        y += ROW;
    }
    for layer in layer_ticks(layers) {
        let x = column(Some(layer)) + cell / 2.0;
        svg.line([x, bottom + 2.0], [x, bottom + 6.0], "axis");
        svg.soft([x, bottom + 19.0], Anchor::Middle, &layer.to_string());
    }
    if layers > 0 {
        svg.soft([column(Some(0)), bottom + 36.0], Anchor::Start, "layer");
    }
    svg.soft([20.0, bottom + 60.0], Anchor::Start, "bits per weight and type");
    for (nth, format) in types.iter().enumerate() {
        let x = 20.0 + ENTRY * (nth % entries) as f64;
        let y = bottom + 68.0 + 20.0 * (nth / entries) as f64;
        svg.rect([x, y, 13.0, 13.0], &palette::of_type(*format), "");
        let name = format!("{:.4}  {}", format.bits_per_weight(), format.name());
        svg.text([x + 19.0, y + 11.0], Anchor::Start, &name);
    }
    svg.finish()
}

/// What fits at the left.
fn clipped(class: &str) -> String {
    const LETTERS: usize = 20;
    if class.chars().count() <= LETTERS {
        return class.to_owned();
    }
    class.chars().take(LETTERS - 1).chain(['…']).collect()
}
