//! Writes a checkpoint of DeepSeek-R1's true layer shapes with random weights, as many layers and experts as wanted:
//! the workload of the benchmarks, and no model to talk to.
//!
//! `cargo run --release --example r1_shaped -- FOLDER --layers 4 --experts 16`

#[path = "../tests/support/shapes.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod shapes;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use half::bf16;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;
use shapes::{Declared, Shard};

/// Bytes of a shard; R1's have 4.3 GB.
const SHARD: u64 = 4_300_000_000;

/// Write a checkpoint of DeepSeek-R1's layer shapes with random weights
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder to make
    folder: PathBuf,

    /// Layers (R1: 61)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=61))]
    layers: u64,

    /// The first layers without experts (R1: 3)
    #[arg(long, default_value_t = 1)]
    dense: u64,

    /// Routed experts in a layer (R1: 256)
    #[arg(long, default_value_t = 16, conflicts_with = "size", value_parser = clap::value_parser!(u64).range(1..=256))]
    experts: u64,

    /// As many experts as this size holds: 12GB, 500MB
    #[arg(long, value_parser = size)]
    size: Option<u64>,

    /// Token ids (R1: 129280); embedding and head have a row for each
    #[arg(long, default_value_t = 129_280, value_parser = clap::value_parser!(u64).range(1024..=1 << 24))]
    vocab: u64,

    /// True headers before holes: no weights, and hardly any disk; enough for plan
    #[arg(long)]
    sparse: bool,

    /// Other weights, of the same spread
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let experts = arguments.size.map_or(arguments.experts, |size| fitting_experts(&arguments, size));
    let config = config(&arguments, experts);
    let tensors = shapes::tensors(&config);
    let bytes: u64 = tensors.iter().map(Declared::bytes).sum();
    let shards = shapes::shards(&tensors, bytes.div_ceil(SHARD).max(3));

    fs::create_dir_all(&arguments.folder).expect("the folder can be made");
    shapes::write_index(&arguments.folder, &config, &shards);
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(fixture(&format!("tiny-r1/{file}")), arguments.folder.join(file)).expect("copied");
    }
    if arguments.sparse {
        shapes::write(&arguments.folder, &config, &tensors, shards.len() as u64);
    } else {
        let spread = Spread::new(arguments.seed);
        shards.par_iter().for_each(|shard| write(&arguments.folder, shard, &spread, arguments.seed));
    }
    println!(
        "{}: {} layers ({} dense), {experts} experts, {:.2} GB in {} shards, {:.0} MB/s",
        arguments.folder.display(),
        arguments.layers,
        arguments.dense,
        bytes as f64 / 1e9,
        shards.len(),
        bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
    );
}

/// R1's config.json with fewer layers and experts. The groups are R1's eight where that leaves each two experts or more.
fn config(arguments: &Arguments, experts: u64) -> Value {
    let mut config = shapes::r1_config();
    let groups =
        [8, 4, 2, 1].into_iter().find(|g| experts.is_multiple_of(*g) && experts >= 2 * g).unwrap_or(1);
    let groups_used = (groups / 2).max(1);
    config["num_hidden_layers"] = arguments.layers.into();
    config["num_nextn_predict_layers"] = 0.into();
    config["first_k_dense_replace"] = arguments.dense.min(arguments.layers).into();
    config["n_routed_experts"] = experts.into();
    config["n_group"] = groups.into();
    config["topk_group"] = groups_used.into();
    config["num_experts_per_tok"] = (experts / groups * groups_used).min(8).into();
    config["vocab_size"] = arguments.vocab.into();
    config
}

/// The number of experts with which the checkpoint comes nearest to `size` bytes without more.
fn fitting_experts(arguments: &Arguments, size: u64) -> u64 {
    let bytes =
        |experts| -> u64 { shapes::tensors(&config(arguments, experts)).iter().map(Declared::bytes).sum() };
    let [one, two] = [1, 2].map(bytes);
    assert!(
        one <= size,
        "{one} bytes with a single expert; fewer --layers or a smaller --vocab make it smaller"
    );
    assert!(two > one, "no layer has experts: --dense is {} of {} layers", arguments.dense, arguments.layers);
    // Even, so that there are groups.
    let experts = (1 + (size - one) / (two - one)).min(256);
    if experts > 2 { experts - experts % 2 } else { experts }
}

/// Bytes, with a unit.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let unit = match unit {
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err("expected a number and MB or GB".to_owned()),
    };
    number.parse::<f64>().map(|number| (number * unit) as u64).map_err(|e| e.to_string())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn write(folder: &Path, shard: &Shard, spread: &Spread, seed: u64) {
    let file = File::create(folder.join(&shard.name)).expect("created");
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(&shard.header).expect("written");
    for tensor in &shard.tensors {
        // By name, so that a tensor's weights depend neither on the others nor on the threads.
        let mut random = Random(
            tensor
                .name
                .bytes()
                .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)),
        );
        let numbers = tensor.shape.iter().product::<u64>();
        let mut write = |bytes: &[u8]| file.write_all(bytes).expect("written; is the disk full?");
        match tensor.dtype {
            "F8_E4M3" => random.draw(numbers, |index| write(&[spread.codes[index]])),
            "BF16" if tensor.name.ends_with("norm.weight") => {
                random.draw(numbers, |i| write(&bf16::from_f32(1.0 + 0.1 * spread.normals[i]).to_le_bytes()));
            }
            "BF16" => {
                random.draw(numbers, |i| write(&bf16::from_f32(SIGMA * spread.normals[i]).to_le_bytes()))
            }
            // Block scales vary by about a fifth; the router's bias is small.
            _ if tensor.name.ends_with("scale_inv") => {
                random.draw(numbers, |i| {
                    write(&(spread.scale * (0.2 * spread.normals[i]).exp()).to_le_bytes())
                });
            }
            _ => random.draw(numbers, |i| write(&(0.01 * spread.normals[i]).to_le_bytes())),
        }
    }
    file.flush().expect("written; is the disk full?");
}

/// Spread of the weights; R1's projections have 0.005 to 0.02.
const SIGMA: f32 = 0.015;

/// The distribution of weights: drawn once, then picked from, which is fast.
struct Spread {
    /// Normal, with a tail that is a little heavier (kurtosis 3.9), as weights have it.
    normals: Vec<f32>,
    /// The same as E4M3 codes, the largest as 448: a block scale is made to do that.
    codes: Vec<u8>,
    /// What takes the codes to SIGMA.
    scale: f32,
}

impl Spread {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut normal = || (0..12).map(|_| random.even()).sum::<f32>() - 6.0;
        let normals: Vec<f32> = (0..1 << 16).map(|_| normal() * (0.25 * normal()).exp()).collect();
        let largest = normals.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        Self {
            codes: normals.iter().map(|x| e4m3(x * 448.0 / largest)).collect(),
            scale: SIGMA * largest / 448.0,
            normals,
        }
    }
}

/// The nearest E4M3 code of a number up to 448 in magnitude.
fn e4m3(x: f32) -> u8 {
    let value = |code: u8| match (i32::from(code >> 3), f32::from(code & 7)) {
        (0, mantissa) => mantissa * 2f32.powi(-9),
        (exponent, mantissa) => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    let distance = |code: &u8| (value(*code) - x.abs()).abs();
    let nearest = (0..0x7f).min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("there are codes");
    nearest | if x < 0.0 { 0x80 } else { 0 }
}

/// Seeded numbers (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in 0..1.
    fn even(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// `count` times an index of a table of 65,536.
    fn draw(&mut self, count: u64, mut each: impl FnMut(usize)) {
        let mut bits = 0;
        for n in 0..count {
            bits = if n % 4 == 0 { self.bits() } else { bits >> 16 };
            each((bits & 0xffff) as usize);
        }
    }
}
