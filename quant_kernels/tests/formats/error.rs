use quant_kernels::Format;

use crate::{Random, round_trip};

/// Ceilings of the error at unit gain on normally distributed weights, with importances all alike and not: a little
/// above what was measured. They may only fall.
const CEILINGS: [(Format, f64, f64); 25] = [
    (Format::F32, 0.0, 0.0),
    (Format::F16, 4.358e-8, 4.357e-8),
    (Format::BF16, 2.754e-6, 2.766e-6),
    (Format::Q8_0, 2.787e-5, 2.792e-5),
    (Format::Q4_0, 6.429e-3, 5.725e-3),
    (Format::Q4_1, 4.748e-3, 3.905e-3),
    (Format::Q5_0, 1.562e-3, 1.401e-3),
    (Format::Q5_1, 1.129e-3, 9.313e-4),
    (Format::Q2_K, 7.166e-2, 5.373e-2),
    (Format::Q3_K, 2.090e-2, 1.759e-2),
    (Format::Q4_K, 4.844e-3, 3.999e-3),
    (Format::Q5_K, 1.189e-3, 1.002e-3),
    (Format::Q6_K, 2.724e-4, 2.315e-4),
    (Format::IQ1_S, 2.431e-1, 1.888e-1),
    (Format::IQ1_M, 2.025e-1, 1.439e-1),
    (Format::IQ2_XXS, 1.203e-1, 8.033e-2),
    (Format::IQ2_XS, 8.830e-2, 5.945e-2),
    (Format::IQ2_S, 5.977e-2, 4.554e-2),
    (Format::IQ3_XXS, 3.190e-2, 2.100e-2),
    (Format::IQ3_S, 1.679e-2, 1.204e-2),
    (Format::IQ4_NL, 5.337e-3, 4.528e-3),
    (Format::IQ4_XS, 5.458e-3, 4.626e-3),
    (Format::TQ1_0, 2.271e-1, 2.236e-1),
    (Format::TQ2_0, 2.271e-1, 2.236e-1),
    (Format::MXFP4, 1.246e-2, 1.241e-2),
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
