use std::fmt::Write;
use std::fs;

use quant_kernels::Format;
use sha2::{Digest, Sha256};

use crate::levels;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/blocks");

#[test]
fn every_format_decodes_to_the_bits_of_ggml() {
    let digests = fs::read_to_string(format!("{FOLDER}/decoded.sha256")).unwrap();
    for format in Format::all() {
        let blocks = fs::read(format!("{FOLDER}/{format}.blocks")).unwrap();
        let mut weights = vec![0.0f32; blocks.len() / format.block_bytes() * format.block_len()];
        for (name, level) in levels() {
            quant_kernels::dequantize_at(level, format, &blocks, &mut weights);
            let mut hash = Sha256::new();
            for weight in &weights {
                hash.update(weight.to_le_bytes());
            }
            let mut line = String::new();
            for byte in hash.finalize() {
                write!(line, "{byte:02x}").unwrap();
            }
            write!(line, "  {format}").unwrap();
            assert!(digests.lines().any(|known| known == line), "{format} at {name}");
        }
    }
}
