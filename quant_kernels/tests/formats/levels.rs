use quant_kernels::Format;

use crate::rows::{Random, hostile_rows};
use crate::{encode, levels};

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
