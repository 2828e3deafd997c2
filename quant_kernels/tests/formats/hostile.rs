use quant_kernels::{Format, LARGEST};

use crate::{Random, round_trip};

/// Rows that break encoders: each as long as `columns`, in a list.
pub fn rows(columns: usize) -> Vec<Vec<f32>> {
    let mut random = Random(2);
    let row = |weight: &mut dyn FnMut(usize) -> f32| (0..columns).map(weight).collect::<Vec<f32>>();
    let normal = |random: &mut Random| random.normal();
    let mut rows = vec![
        row(&mut |_| 0.0),
        row(&mut |_| -0.0),
        row(&mut |i| if i % 2 == 0 { 0.0 } else { -0.0 }),
        row(&mut |_| 0.7),
        row(&mut |_| -3e-3),
        row(&mut |_| LARGEST),
        row(&mut |_| -LARGEST),
        row(&mut |i| if i % 2 == 0 { LARGEST } else { -LARGEST }),
        row(&mut |i| (i % 9) as f32 - 4.0),
        row(&mut |i| (i % 5) as f32 * 0.5),
        row(&mut |i| if i % 67 == 0 { 1.0 } else { 0.0 }),
        row(&mut |i| if i == 300 { -5.0 } else { 1e-4 }),
        row(&mut |i| if i % 256 == 255 { LARGEST } else { 0.01 }),
        row(&mut |i| f32::from_bits(1 + i as u32)),
        row(&mut |_| f32::MIN_POSITIVE),
        row(&mut |i| if i % 3 == 0 { -f32::MIN_POSITIVE } else { 1e-38 }),
    ];
    for exponent in [-45, -38, -20, -12, -8, -7, -6, -5, -4, -3, 0, 3, 4] {
        rows.push(row(&mut |_| (normal(&mut random) * 10f32.powi(exponent)).clamp(-LARGEST, LARGEST)));
    }
    for widest in [4, 20, 60] {
        rows.push(row(&mut |_| {
            let exponent = (random.bits() % widest) as i32;
            (normal(&mut random) * 4f32.powi(6 - exponent)).clamp(-LARGEST, LARGEST)
        }));
    }
    rows.push(row(&mut |_| (LARGEST * normal(&mut random)).clamp(-LARGEST, LARGEST)));
    rows.push(row(&mut |_| (normal(&mut random) * 4.0).round() / 64.0));
    rows.push(row(&mut |_| normal(&mut random).abs()));
    rows.push(row(&mut |_| -normal(&mut random).abs() - 100.0));
    rows
}

/// Importances that break encoders.
fn importances(columns: usize) -> Vec<Option<Vec<f32>>> {
    let mut random = Random(3);
    vec![
        None,
        Some(vec![0.0; columns]),
        Some(vec![1e-40; columns]),
        Some(vec![f32::MAX; columns]),
        Some((0..columns).map(|i| if i % 37 == 0 { 1.0 } else { 0.0 }).collect()),
        Some((0..columns).map(|i| if i / 32 % 3 == 0 { 0.0 } else { 1e30 }).collect()),
        Some((0..columns).map(|_| 10f32.powf(12.0 * random.normal())).map(|w| w.min(f32::MAX)).collect()),
    ]
}

#[test]
fn hostile_rows_come_back_finite_and_not_much_larger() {
    let rows = rows(1024);
    for format in Format::all() {
        for importance in importances(1024) {
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
        for importance in importances(1024) {
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
