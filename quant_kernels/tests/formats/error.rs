use quant_kernels::Format;

use crate::{Random, round_trip};

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
        table += &format!("{format}: {even:.3e}, {weighted:.3e}\n");
        // Where inputs are even, these are meant to be shorter (`Block::COHERENCE`).
        let least = if matches!(format, Format::IQ1_S | Format::IQ1_M) { 0.95 } else { 0.98 };
        for gain in [even_gain, weighted_gain] {
            assert!((least..1.02).contains(&gain), "{format}: gain {gain}");
        }
        let most = format.error_ceilings();
        broken |= even > most.even || weighted > most.weighted;
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
