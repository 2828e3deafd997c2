use quant_kernels::Format;

use crate::round_trip;
use crate::rows::{Random, hostile_importances, hostile_rows};

const COLUMNS: usize = 1024;

/// Rows that formats can hardly hold: sparse, with giants, faint, and those that break encoders anyway.
fn rows() -> Vec<Vec<f32>> {
    let mut random = Random(17);
    let mut rows = hostile_rows(COLUMNS);
    for every in [2, 4, 8, 16, 32, 64, 128, 256, 1024] {
        for size in [1.0, 1e-3, 1e-5] {
            let sparse = (0..COLUMNS).map(|_| match random.bits() % every {
                0 => size * random.normal(),
                _ => 0.0,
            });
            rows.push(sparse.collect());
        }
    }
    for giant in [10.0, 100.0, 1e3, 6e4] {
        for giants in [1, 4, 32] {
            let mut row: Vec<f32> = (0..COLUMNS).map(|_| 0.02 * random.normal()).collect();
            (0..giants)
                .for_each(|_| row[random.bits() as usize % COLUMNS] = giant * random.normal().signum());
            rows.push(row);
        }
    }
    for faint in [5e-5, 2e-5, 5e-6, 1e-6, 4e-7, 2e-7, 1e-7, 6e-8, 4e-8, 3e-8, 1e-8] {
        rows.push((0..COLUMNS).map(|_| faint * random.normal()).collect());
    }
    rows
}

fn importances() -> Vec<Option<Vec<f32>>> {
    let mut random = Random(23);
    let mut all = hostile_importances(COLUMNS);
    for column in [0, 300, 1023] {
        all.push(Some((0..COLUMNS).map(|i| if i == column { 1.0 } else { 0.0 }).collect()));
    }
    for width in [1.0, 3.0, 8.0] {
        all.push(Some((0..COLUMNS).map(|_| (width * random.normal()).exp()).collect()));
    }
    all
}

/// Importances as encoders take them: none is less than 1e-5 of its block's largest, none of these than 1e-5 of the
/// row's.
fn taken(format: Format, importance: Option<&[f32]>) -> Vec<f64> {
    let Some(importance) = importance else { return vec![1.0; COLUMNS] };
    let largest = |w: &[f32]| f64::from(w.iter().fold(0.0f32, |most, &w| most.max(w)));
    let over = |w: f64, of: f64| if of > 0.0 { (w / of).max(1e-5) } else { 1.0 };
    let row = largest(importance);
    let block = |block: &[f32]| {
        let most = largest(block);
        block.iter().map(|&w| over(w.into(), most) * over(most, row)).collect::<Vec<f64>>()
    };
    importance.chunks(format.block_len()).flat_map(block).collect()
}

#[test]
fn no_row_comes_back_worse_than_zeros_would() {
    let (rows, importances) = (rows(), importances());
    for format in Format::all() {
        for (i, importance) in importances.iter().enumerate() {
            let w = taken(format, importance.as_deref());
            for (r, row) in rows.iter().enumerate() {
                let back = round_trip(format, row, COLUMNS, importance.as_deref());
                let (mut error, mut energy) = (0.0, 0.0);
                for ((&x, &y), w) in row.iter().zip(&back).zip(&w) {
                    error += w * (f64::from(x) - f64::from(y)).powi(2);
                    energy += w * f64::from(x).powi(2);
                }
                assert!(error <= energy, "{format}, row {r}, importances {i}: {error:e} of {energy:e}");
            }
        }
    }
}
