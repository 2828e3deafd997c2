//! Scales that are found for feedback alone.

use quant_kernels::{Feed, Format, Level, dequantize, feed_at, feeds};

use crate::rows::{Random, hostile_rows};
use crate::{encode, levels, prepare};

#[test]
fn every_level_gives_the_same_scales() {
    let mut random = Random(3);
    let mut rows = random.normals(8 * 1024);
    rows.extend(hostile_rows(1024).concat());
    let importance = random.importances(1024);
    for format in Format::all() {
        let all = levels();
        let expected = prepare(all[0].1, format, &rows, 1024, &importance);
        for (name, level) in all {
            let blocks = prepare(level, format, &rows, 1024, &importance);
            assert!(blocks == expected, "{format} at {name}");
            let whole = encode(level, format, &rows, 1024, Some(&importance));
            assert!(feeds(format) || blocks == whole, "{format} at {name}: codes that stay are other ones");
        }
    }
}

/// Codes chosen where errors move nothing lose as little with these scales as with the encoder's.
#[test]
fn prepared_scales_serve_nearly_as_well_as_those_of_the_encoder() {
    const BLOCKS: usize = 64;
    for format in Format::all().filter(|format| feeds(*format)) {
        let n = format.block_len();
        let mut random = Random(4);
        let rows = random.normals(BLOCKS * n);
        let importance = random.importances(n);
        let mut t = vec![0.0; n * n];
        (0..n).for_each(|i| t[i * n + i] = 1.0);
        let loss = |mut blocks: Vec<u8>| -> f64 {
            let mut errors = vec![0.0; rows.len()];
            let weights =
                Feed { moved: &rows, t: &t, importance: &importance, before: None, errors: &mut errors };
            feed_at(Level::new(), format, &mut blocks, weights);
            let mut decoded = vec![0.0; rows.len()];
            dequantize(format, &blocks, &mut decoded);
            let errors = rows.iter().zip(&decoded).zip(importance.iter().cycle());
            errors.map(|((x, y), w)| f64::from(w * (x - y) * (x - y))).sum()
        };
        let whole = loss(encode(Level::new(), format, &rows, n, Some(&importance)));
        let prepared = loss(prepare(Level::new(), format, &rows, n, &importance));
        assert!(prepared < 1.01 * whole, "{format}: {prepared} for {whole}");
    }
}
