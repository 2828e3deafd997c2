use quant_kernels::Format;

use crate::round_trip;
use crate::rows::{Random, hostile_importances, hostile_rows};

#[test]
fn hostile_rows_come_back_finite_and_not_much_larger() {
    let rows = hostile_rows(1024);
    for format in Format::all() {
        for importance in hostile_importances(1024) {
            for (number, row) in rows.iter().enumerate() {
                let back = round_trip(format, row, 1024, importance.as_deref());
                let peak = row.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
                for (y, x) in back.iter().zip(row) {
                    assert!(y.is_finite(), "{format}, row {number}: {x} came back as {y}");
                    assert!(y.abs() <= 4.0 * peak + 1e-5, "{format}, row {number}: {x} came back as {y}");
                }
            }
        }
    }
}

#[test]
fn rows_of_zeros_come_back_as_zeros() {
    for format in Format::all() {
        for importance in hostile_importances(1024) {
            for zero in [0.0, -0.0] {
                let back = round_trip(format, &[zero; 1024], 1024, importance.as_deref());
                assert!(back.iter().all(|&y| y == 0.0), "{format}");
            }
        }
    }
}

#[test]
fn tiny_weights_keep_what_half_precision_scales_can_hold() {
    let mut random = Random(4);
    // With half's smallest scale, 6e-8, weights of 2e-6 are up to 33 steps.
    let row: Vec<f32> = (0..1024).map(|_| if random.bits() & 1 == 0 { 2e-6 } else { -2e-6 }).collect();
    for format in Format::all() {
        let back = round_trip(format, &row, 1024, None);
        let (mut error, mut energy) = (0.0, 0.0);
        for (x, y) in row.iter().zip(&back) {
            error += f64::from(x - y).powi(2);
            energy += f64::from(*x).powi(2);
        }
        assert!(error < 0.5 * energy, "{format}: {:.3} of the energy lost", error / energy);
    }
}
