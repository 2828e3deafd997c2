//! The bytes of the file by role: one bar, and the legend with figures.

use super::markup::{Cell, table};
use super::palette;
use super::svg::{Anchor, Svg};
use crate::model::Role;
use crate::report::subject::Subject;
use crate::report::{Size, grouped};

const WIDTH: f64 = 960.0;

/// Bytes, weights and number of tensors of each role that occurs, in the order of the legend.
pub fn by_role(subject: &Subject) -> Vec<(Option<Role>, u64, u64, usize)> {
    let sums = palette::roles().map(|role| {
        let tensors = subject.tensors.iter().filter(|tensor| tensor.role == role);
        tensors.fold((role, 0, 0, 0), |(role, bytes, weights, count), tensor| {
            (role, bytes + tensor.bytes, weights + tensor.weights, count + 1)
        })
    });
    sums.filter(|(.., count)| *count > 0).collect()
}

/// The bar and its legend.
pub fn chart(subject: &Subject) -> String {
    let total = subject.tensor_bytes().max(1) as f64;
    let roles = by_role(subject);
    let mut svg = Svg::new(WIDTH + 40.0, 62.0, "bytes by role");
    let mut x = 20.0;
    for (role, bytes, ..) in &roles {
        let share = *bytes as f64 / total;
        let tip = format!("{}: {}, {:.2} %", palette::name(*role), Size(*bytes), share * 100.0);
        svg.rect([x, 4.0, WIDTH * share, 30.0], &palette::of_role(*role), &tip);
        x += WIDTH * share;
    }
    for tenth in 0..=10 {
        let x = 20.0 + WIDTH * f64::from(tenth) / 10.0;
        svg.line([x, 36.0], [x, 41.0], "axis");
        svg.soft([x, 55.0], Anchor::Middle, &format!("{} %", tenth * 10));
    }
    let legend = roles.into_iter().map(|(role, bytes, weights, count)| {
        vec![
            Cell::Swatch(palette::of_role(role), palette::name(role).to_owned()),
            Cell::Number(Size(bytes).to_string()),
            Cell::Number(grouped(bytes)),
            Cell::Number(format!("{:.2} %", bytes as f64 * 100.0 / total)),
            Cell::Number(format!("{:.3}", bytes as f64 * 8.0 / weights as f64)),
            Cell::Number(count.to_string()),
        ]
    });
    svg.finish() + &table(&["role", "size", "bytes", "share", "bits per weight", "tensors"], legend)
}
