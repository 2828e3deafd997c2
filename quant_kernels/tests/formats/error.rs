use quant_kernels::Format;

use crate::{Random, round_trip};

/// Ceilings of the error at unit gain on normally distributed weights, with importances all alike and not: a little
/// above what was measured. They may only fall.
const CEILINGS: [(Format, f64, f64); 25] = [
    (Format::F32, 0.0, 0.0),
    (Format::F16, 4.358e-8, 4.357e-8),
    (Format::BF16, 2.754e-6, 2.766e-6),
    (Format::Q8_0, 2.787e-5, 2.792e-5),
    (Format::Q4_0, 6.492e-3, 5.783e-3),
    (Format::Q4_1, 4.787e-3, 3.947e-3),
    (Format::Q5_0, 1.576e-3, 1.415e-3),
    (Format::Q5_1, 1.140e-3, 9.406e-4),
    (Format::Q2_K, 7.383e-2, 5.567e-2),
    (Format::Q3_K, 2.115e-2, 1.788e-2),
    (Format::Q4_K, 4.891e-3, 4.032e-3),
    (Format::Q5_K, 1.183e-3, 9.915e-4),
    (Format::Q6_K, 2.749e-4, 2.337e-4),
    (Format::IQ1_S, 2.503e-1, 1.944e-1),
    (Format::IQ1_M, 2.092e-1, 1.488e-1),
    (Format::IQ2_XXS, 1.206e-1, 8.060e-2),
    (Format::IQ2_XS, 8.894e-2, 5.995e-2),
    (Format::IQ2_S, 6.057e-2, 4.610e-2),
    (Format::IQ3_XXS, 3.195e-2, 2.100e-2),
    (Format::IQ3_S, 1.692e-2, 1.212e-2),
    (Format::IQ4_NL, 5.401e-3, 4.600e-3),
    (Format::IQ4_XS, 5.522e-3, 4.707e-3),
    (Format::TQ1_0, 2.270e-1, 2.235e-1),
    (Format::TQ2_0, 2.270e-1, 2.235e-1),
    (Format::MXFP4, 1.247e-2, 1.242e-2),
];

#[test]
fn errors_stay_below_their_ceilings_and_gains_near_one() {
    const COLUMNS: usize = 2048;
    let mut random = Random(7);
    let rows = random.normals(32 * COLUMNS);
    let importance = random.importances(COLUMNS);
    let mut table = String::new();
    let mut broken = false;
    for format in Format::all() {
        let (even, even_gain) = unit_error(&rows, &round_trip(format, &rows, COLUMNS, None), &[1.0; COLUMNS]);
        let back = round_trip(format, &rows, COLUMNS, Some(&importance));
        let (weighted, weighted_gain) = unit_error(&rows, &back, &importance);
        table += &format!("    (Format::{format}, {even:.3e}, {weighted:.3e}),\n");
        for gain in [even_gain, weighted_gain] {
            assert!((gain - 1.0).abs() < 0.02, "{format}: gain {gain}");
        }
        let ceiling = CEILINGS.iter().find(|ceiling| ceiling.0 == format);
        broken |= ceiling.is_none_or(|&(_, most, most_weighted)| even > most || weighted > most_weighted);
    }
    assert!(!broken, "some ceilings are broken; measured:\n{table}");
}

/// 1 / cos^2 - 1 with the weighted cosine, and the gain sum(w x y) / sum(w x^2).
fn unit_error(x: &[f32], y: &[f32], importance: &[f32]) -> (f64, f64) {
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
        let (x, y, w) = (f64::from(x), f64::from(y), f64::from(importance[i % importance.len()]));
        xx += w * x * x;
        xy += w * x * y;
        yy += w * y * y;
    }
    (xx * yy / (xy * xy) - 1.0, xy / xx)
}
