//! The bytes of every encoder stay as they are: a change of one is a change of what users get, and is said in its
//! commit.

use quant_kernels::{Feed, Format, feed_at, rescale};
use sha2::{Digest, Sha256};

use crate::rows::{Random, hostile_rows};
use crate::{encode, levels, prepare};

/// The first eight bytes of the SHA-256 of what [`everything`] gives.
const DIGESTS: [(&str, &str); 25] = [
    ("F32", "1d6abf546923e3dc"),
    ("F16", "2722930b46425b23"),
    ("BF16", "877b031537674f66"),
    ("Q8_0", "138e73937fe7ada0"),
    ("Q4_0", "b2c3b1eb30e017e2"),
    ("Q4_1", "9c17f7cd426b09e8"),
    ("Q5_0", "8a9f9285dfc1b71a"),
    ("Q5_1", "77a89b530d2c8286"),
    ("Q2_K", "1ee479fab7408cf4"),
    ("Q3_K", "b4f5a26ba5c76b7b"),
    ("Q4_K", "85507f623bcdeade"),
    ("Q5_K", "4839028752188f30"),
    ("Q6_K", "780e31bb4249f369"),
    ("IQ1_S", "3bd38b2ea0f8610f"),
    ("IQ1_M", "b46cc5b7c267aaba"),
    ("IQ2_XXS", "4d2d4443a0a8e2a1"),
    ("IQ2_XS", "18e71ded670c6a2f"),
    ("IQ2_S", "bd953c0fe537863e"),
    ("IQ3_XXS", "0a1998a8a1172e1f"),
    ("IQ3_S", "00ce95db0dc73e9a"),
    ("IQ4_NL", "b0bd615237e87dea"),
    ("IQ4_XS", "f28cc0a59dba05f9"),
    ("TQ1_0", "3f792d7bfd43bb46"),
    ("TQ2_0", "4d97915d4f50de91"),
    ("MXFP4", "b623e9ed6721333c"),
];

/// Blocks prepared for feedback and encoded with it, with their errors; then rows, normal and hostile, encoded without and
/// with importances; then blocks with other scales.
fn everything(format: Format) -> String {
    const COLUMNS: usize = 512;
    let (_, level) = levels()[0];
    let mut random = Random(5);
    let mut rows = random.normals(8 * COLUMNS);
    // Without `exp`, whose last bit depends on the system.
    let importance: Vec<f32> = (0..COLUMNS).map(|_| random.even().powi(4) + 1e-3).collect();
    let mut digest = Sha256::new();
    let n = format.block_len();
    let t: Vec<f32> = (0..n * n).map(|_| 0.1 * random.normal()).collect();
    for row in rows.chunks_exact(COLUMNS) {
        let x = &row[..n];
        let mut block = prepare(level, format, x, n, &importance[..n]);
        let mut errors = vec![0.0; n];
        let weights =
            Feed { moved: x, t: &t, importance: &importance[..n], before: None, errors: &mut errors };
        feed_at(level, format, &mut block, weights);
        digest.update(&block);
        errors.iter().for_each(|error| digest.update(error.to_le_bytes()));
    }
    rows.extend(hostile_rows(COLUMNS).concat());
    for importance in [None, Some(&importance[..])] {
        let mut blocks = encode(level, format, &rows, COLUMNS, importance);
        digest.update(&blocks);
        rescale(format, &mut blocks, 1.037);
        digest.update(&blocks);
    }
    digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn encoders_and_feedback_give_the_bytes_that_they_gave() {
    let found: Vec<(&str, String)> =
        Format::all().map(|format| (format.name(), everything(format))).collect();
    let same = found.iter().map(|(name, digest)| (*name, &**digest)).eq(DIGESTS);
    let lines: String =
        found.iter().map(|(name, digest)| format!("    (\"{name}\", \"{digest}\"),\n")).collect();
    assert!(same, "other bytes; now:\n{lines}");
}
