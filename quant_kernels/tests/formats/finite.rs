use quant_kernels::{Format, first_not_finite};

use crate::{Random, encode, levels};

#[test]
fn a_scale_that_is_no_number_is_found_in_every_format() {
    let rows = Random(8).normals(20 * 1024);
    let (_, level) = levels()[0];
    for format in Format::all() {
        let blocks = encode(level, format, &rows, 1024, None);
        assert_eq!(first_not_finite(format, &blocks), None, "{format}");
        // Where the half-precision scales (or the numbers themselves) lie in a block, as formats/ draws them: byte and
        // bits.
        let scales: &[(usize, &[u8])] = match format {
            Format::F32 => &[(0, &[0, 0, 0x80, 0x7f]), (0, &[1, 0, 0x80, 0xff])],
            Format::BF16 => &[(0, &[0x80, 0x7f]), (0, &[0xc0, 0xff])],
            Format::MXFP4 => &[(0, &[0xff])],
            Format::Q4_1 | Format::Q5_1 => &[(0, INFINITE), (0, NAN), (2, INFINITE), (2, NAN)],
            Format::Q2_K => &[(80, INFINITE), (80, NAN), (82, INFINITE), (82, NAN)],
            Format::Q4_K | Format::Q5_K => &[(0, INFINITE), (0, NAN), (2, INFINITE), (2, NAN)],
            Format::Q3_K => &[(108, INFINITE), (108, NAN)],
            Format::Q6_K => &[(208, INFINITE), (208, NAN)],
            Format::TQ1_0 => &[(52, INFINITE), (52, NAN)],
            Format::TQ2_0 => &[(64, INFINITE), (64, NAN)],
            // Spread over the top four bits of four numbers; done below.
            Format::IQ1_M => &[],
            _ => &[(0, INFINITE), (0, NAN)],
        };
        for block in [0, 7, blocks.len() / format.block_bytes() - 1] {
            let start = block * format.block_bytes();
            let expected = Some(block * format.block_len());
            for (at, bytes) in scales {
                let mut damaged = blocks.clone();
                damaged[start + at..start + at + bytes.len()].copy_from_slice(bytes);
                assert_eq!(
                    first_not_finite(format, &damaged),
                    expected,
                    "{format}, block {block}, {bytes:x?}"
                );
            }
            if format == Format::IQ1_M {
                let mut damaged = blocks.clone();
                for byte in [49, 51, 53, 55] {
                    damaged[start + byte] |= 0xf0;
                }
                assert_eq!(first_not_finite(format, &damaged), expected, "{format}, block {block}");
            }
        }
    }
}

const INFINITE: &[u8] = &[0x00, 0x7c];
const NAN: &[u8] = &[0x01, 0xfe];
