//! The error of every expert beside the median of its tensor: which experts come out worse than their neighbours.

use super::markup::{Cell, Fill, figure, table};
use super::svg::{Anchor, Svg};
use crate::report::subject::{Subject, Tensor};

const LEFT: f64 = 60.0;
const TOP: f64 = 22.0;

/// Widths of all experts together and of one at most; heights of all rows together, and of one at least and at most.
const WIDTH: f64 = 896.0;
const WIDEST: f64 = 40.0;
const HEIGHT: f64 = 400.0;
const ROW: [f64; 2] = [6.0, 16.0];

/// Error over the median, up to which a colour is used.
const STEPS: [(f64, &str, &str); 7] = [
    (0.5, "#1f6fb2", "below 0.5"),
    (0.8, "#6aaed6", "0.5 to 0.8"),
    (0.95, "#b3d3e8", "0.8 to 0.95"),
    (1.05, "#a9b0b8", "0.95 to 1.05"),
    (1.25, "#f2c49b", "1.05 to 1.25"),
    (2.0, "#e58a4e", "1.25 to 2"),
    (f64::INFINITY, "#b8321f", "2 or more"),
];

/// Experts in the table of the worst.
const WORST: usize = 12;

/// The figures, one for each kind of expert tensor, and the worst experts; nothing without errors of experts.
pub fn section(subject: &Subject) -> String {
    let tensors: Vec<&Tensor> = subject.tensors.iter().filter(|t| t.expert_errors.len() > 1).collect();
    let mut classes: Vec<&str> = tensors.iter().map(|tensor| &*tensor.class).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.is_empty() {
        return String::new();
    }
    let mut charts = legend();
    for class in classes {
        let of_class: Vec<&Tensor> = tensors.iter().copied().filter(|tensor| tensor.class == class).collect();
        charts += &chart(class, &of_class);
    }
    charts += &worst(&tensors);
    figure(
        "Error by expert",
        "Squared error relative to the squared weights, of each expert over the median of its tensor. One row for each \
         layer, one column for each expert.",
        &charts,
    )
}

fn legend() -> String {
    let mut svg = Svg::new(980.0, 40.0, "legend: error over the median of the tensor");
    svg.soft([0.0, 26.0], Anchor::Start, "error / median");
    for (nth, (_, color, name)) in STEPS.iter().enumerate() {
        let x = 100.0 + 124.0 * nth as f64;
        svg.rect([x, 14.0, 14.0, 14.0], &Fill::Color((*color).to_owned()), "");
        svg.text([x + 20.0, 26.0], Anchor::Start, name);
    }
    svg.finish()
}

fn chart(class: &str, tensors: &[&Tensor]) -> String {
    let experts = tensors.iter().map(|tensor| tensor.expert_errors.len()).max().unwrap_or(1);
    let cell = (WIDTH / experts as f64).min(WIDEST);
    let height = (HEIGHT / tensors.len() as f64).clamp(ROW[0], ROW[1]);
    let bottom = TOP + height * tensors.len() as f64;
    let mut svg = Svg::new(LEFT + WIDTH + 20.0, bottom + 44.0, &format!("errors of the experts of {class}"));
    svg.text([LEFT, 14.0], Anchor::Start, class);
    let mut runs: Vec<Vec<[f64; 3]>> = vec![Vec::new(); STEPS.len()];
    // Numbers are 12 pixels high.
    let label = (14.0 / height).ceil() as usize;
    for (row, tensor) in tensors.iter().enumerate() {
        let y = TOP + height * row as f64;
        let median = median(&tensor.expert_errors);
        let mut last = None;
        for (expert, error) in tensor.expert_errors.iter().enumerate() {
            let step = step(*error, median);
            match runs[step].last_mut().filter(|_| last == Some(step)) {
                Some(run) => run[2] += cell,
                None => runs[step].push([LEFT + cell * expert as f64, y, cell]),
            }
            last = Some(step);
        }
        if row.is_multiple_of(label) {
            let layer = tensor.layer.map_or("-".to_owned(), |layer| layer.to_string());
            svg.soft([LEFT - 6.0, y + height / 2.0 + 4.0], Anchor::End, &layer);
        }
    }
    for (runs, (_, color, _)) in runs.iter().zip(STEPS).filter(|(runs, _)| !runs.is_empty()) {
        svg.runs(runs, height - 0.5, &Fill::Color(color.to_owned()));
    }
    let every =
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].into_iter().find(|every| cell * *every as f64 >= 28.0);
    for expert in (0..experts).step_by(every.unwrap_or(1024)) {
        let x = LEFT + cell * (expert as f64 + 0.5);
        svg.line([x, bottom + 1.0], [x, bottom + 5.0], "axis");
        svg.soft([x, bottom + 18.0], Anchor::Middle, &expert.to_string());
    }
    svg.soft([LEFT - 6.0, 14.0], Anchor::End, "layer");
    svg.soft([LEFT, bottom + 35.0], Anchor::Start, "expert");
    svg.finish()
}

fn worst(tensors: &[&Tensor]) -> String {
    let mut experts: Vec<(f64, &Tensor, usize)> = Vec::new();
    for tensor in tensors {
        let median = median(&tensor.expert_errors);
        let ratio = |error: f64| if median > 0.0 { error / median } else { 1.0 };
        let of_tensor = tensor.expert_errors.iter().enumerate();
        experts.extend(of_tensor.map(|(expert, error)| (ratio(*error), *tensor, expert)));
    }
    experts.sort_by(|a, b| b.0.total_cmp(&a.0).then((&a.1.name, a.2).cmp(&(&b.1.name, b.2))));
    let rows = experts.iter().take(WORST).map(|(ratio, tensor, expert)| {
        vec![
            Cell::Text(tensor.name.clone()),
            Cell::Number(expert.to_string()),
            Cell::Text(tensor.format.to_string()),
            Cell::Number(format!("{:.3e}", tensor.expert_errors[*expert])),
            Cell::Number(format!("{ratio:.3}")),
        ]
    });
    table(&["farthest above the median", "expert", "type", "error", "error / median"], rows)
}

/// The middle of the sorted errors, the upper of two.
fn median(errors: &[f64]) -> f64 {
    let mut sorted = errors.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn step(error: f64, median: f64) -> usize {
    let ratio = if median > 0.0 { error / median } else { 1.0 };
    STEPS.iter().position(|(end, ..)| ratio < *end).unwrap_or(STEPS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_are_held_against_the_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        let names = [0.1, 0.9, 1.0, 1.1, 5.0].map(|error| STEPS[step(error, 1.0)].2);
        assert_eq!(names, ["below 0.5", "0.8 to 0.95", "0.95 to 1.05", "1.05 to 1.25", "2 or more"]);
        // Experts of zeros come back without an error.
        assert_eq!(STEPS[step(0.0, 0.0)].2, "0.95 to 1.05");
    }
}
