use proptest::prelude::*;
use quant_kernels::{Format, LARGEST};

use crate::{encode, levels, round_trip};

/// Any weight that the reader lets through, all exponents and both zeros alike.
fn weight() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite and not too large", |x| x.abs() <= LARGEST)
}

/// Any importance: not negative, finite.
fn importance() -> impl Strategy<Value = f32> {
    (0..=f32::MAX.to_bits()).prop_map(f32::from_bits)
}

/// Weights of one magnitude, which arbitrary bits hardly ever are.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let alike = (-45_i32..5, prop::collection::vec(-1.0_f32..1.0, 512))
        .prop_map(|(exponent, row)| row.iter().map(|x| x * 10_f32.powi(exponent)).collect());
    prop_oneof![prop::collection::vec(weight(), 512), alike]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_finite_row_is_encoded_to_finite_weights_alike_on_every_level(
        row in rows(),
        importance in prop::option::of(prop::collection::vec(importance(), 512)),
    ) {
        for format in Format::all() {
            let encoded = |(_, level)| encode(level, format, &row, 512, importance.as_deref());
            let mut blocks = levels().into_iter().map(encoded);
            let best = blocks.next();
            prop_assert!(blocks.all(|other| Some(other) == best), "{format}");
            let back = round_trip(format, &row, 512, importance.as_deref());
            prop_assert!(back.iter().all(|y| y.is_finite()), "{format}: {back:?}");
        }
    }

    #[test]
    fn a_row_with_its_signs_turned_comes_back_with_its_signs_turned(row in rows()) {
        // Formats whose levels are symmetric; the others have one level more on one side, or a shift.
        let turned: Vec<f32> = row.iter().map(|x| -x).collect();
        for format in [Format::F16, Format::BF16, Format::Q8_0, Format::IQ2_S, Format::IQ3_S, Format::TQ2_0] {
            let back: Vec<f32> = round_trip(format, &turned, 512, None).iter().map(|y| -y).collect();
            prop_assert_eq!(back, round_trip(format, &row, 512, None), "{}", format);
        }
    }
}
