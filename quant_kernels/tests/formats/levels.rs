use quant_kernels::{Feed, Format, feed_at};

use crate::rows::{Random, hostile_rows};
use crate::{encode, levels, prepare};

#[test]
fn every_level_gives_the_same_bytes() {
    let mut random = Random(1);
    let mut rows = random.normals(8 * 1024);
    rows.extend(hostile_rows(1024).concat());
    let importance = random.importances(1024);
    for format in Format::all() {
        for importance in [None, Some(&importance[..])] {
            let all = levels();
            let (_, best) = all[0];
            let expected = encode(best, format, &rows, 1024, importance);
            for (name, level) in all {
                let blocks = encode(level, format, &rows, 1024, importance);
                let differing = blocks.iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 0, "{format} at {name}: bytes that differ");
            }
        }
    }
}

#[test]
fn every_level_gives_the_same_bytes_with_feedback() {
    let mut random = Random(2);
    for format in Format::all() {
        let n = format.block_len();
        let before = random.normals(n);
        let t: Vec<f32> = (0..n * n).map(|_| 0.1 * random.normal()).collect();
        let importance = random.importances(n);
        let fed = |level| {
            let mut block = prepare(level, format, &before, n, &importance);
            let mut errors = vec![0.0; n];
            let weights =
                Feed { moved: &before, t: &t, importance: &importance, before: None, errors: &mut errors };
            feed_at(level, format, &mut block, weights);
            (block, errors)
        };
        let all = levels();
        let expected = fed(all[0].1);
        for (name, level) in all {
            assert_eq!(fed(level), expected, "{format} at {name}");
        }
    }
}
