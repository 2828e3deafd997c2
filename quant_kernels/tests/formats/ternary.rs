use quant_kernels::Format;

use crate::{Random, round_trip};

#[test]
fn weights_trained_ternary_come_back_exactly() {
    let mut random = Random(5);
    for format in [Format::TQ1_0, Format::TQ2_0] {
        for zeros in [0, 1, 2, 10, 60] {
            for scale in [0.017_105_103, 1.0, 3.5, 6e-5, 60000.0] {
                let mut trit = || match random.bits() % (zeros + 2) {
                    0 => scale,
                    1 => -scale,
                    _ => 0.0,
                };
                let row: Vec<f32> = (0..1024).map(|_| trit()).collect();
                let importance = Random(6).importances(1024);
                let scale = half::f16::from_f32(scale).to_f32();
                for importance in [None, Some(&importance[..])] {
                    for (x, y) in row.iter().zip(round_trip(format, &row, 1024, importance)) {
                        assert_eq!(
                            y,
                            if *x == 0.0 { 0.0 } else { scale.copysign(*x) },
                            "{format}, 1 of {zeros}"
                        );
                    }
                }
            }
        }
    }
}
