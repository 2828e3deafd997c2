//! Routed experts in one tensor, as transformers 5 saves them: the same file as from one tensor for each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::{Contents, Value as Gguf};
use quantpress::model::{Model, Options, Weights};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forward::logits;
use crate::support::checkpoint::Shard;
use crate::support::{fail, families, qwen, succeed, text};

/// A checkpoint with one tensor for each expert, and the same with all in one.
struct Both {
    folder: TempDir,
}

impl Both {
    fn new(name: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let both = Self { folder };
        for checkpoint in [both.each(), both.fused()] {
            fs::create_dir(&checkpoint).expect("made");
            if name == "qwen3moe" {
                qwen::write(&checkpoint)
            } else {
                families::family(name).write(&checkpoint)
            }
        }
        both.edit_fused(|shard| *shard = fuse(shard));
        both
    }

    fn each(&self) -> PathBuf {
        self.folder.path().join("each")
    }

    fn fused(&self) -> PathBuf {
        self.folder.path().join("fused")
    }

    fn edit_fused(&self, change: impl FnOnce(&mut Shard)) {
        edit(&self.fused(), change);
    }

    /// Files that are made of the two have the same bytes of tensors, and say the same.
    fn are_equal(&self, options: &[&str]) {
        let [each, fused] = [self.each(), self.fused()].map(|checkpoint| {
            let output = checkpoint.with_extension("gguf");
            let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--quiet", "--force"];
            succeed(&[&arguments[..], options].concat());
            succeed(&["verify", text(&output), "--against", text(&checkpoint)]);
            let contents = Contents::read(&output).expect("sound");
            let file = fs::read(&output).expect("read");
            let own = |key: &str| key.starts_with("quantpress.");
            let said: BTreeMap<String, Gguf> = contents
                .metadata
                .iter()
                .filter(|(key, _)| !own(key))
                .map(|(key, value)| (key.to_owned(), value.clone()))
                .collect();
            let tensors: Vec<_> = contents
                .tensors
                .iter()
                .map(|tensor| {
                    let bytes = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
                    (tensor.name.clone(), tensor.format, tensor.shape.clone(), bytes.to_vec())
                })
                .collect();
            (said, tensors)
        });
        assert_eq!(each.0, fused.0);
        assert_eq!(each.1.len(), fused.1.len());
        for (each, fused) in each.1.iter().zip(&fused.1) {
            assert!(each == fused, "{} of {:?} and {:?}", each.0, each.2, fused.2);
        }
        assert!(each.1.iter().any(|(name, ..)| name.ends_with("_exps.weight")));
    }
}

fn edit(folder: &Path, change: impl FnOnce(&mut Shard)) {
    let file = folder.join("model.safetensors");
    let mut shard = Shard::parse(&fs::read(&file).expect("read"));
    change(&mut shard);
    fs::write(file, shard.bytes()).expect("written");
}

/// The names that transformers 5 has for a tensor of an expert: the module of all, the matrix, and what follows.
fn of_expert(name: &str) -> Option<(String, u64, &'static str, &str)> {
    let (module, rest) = name.split_once(".experts.")?;
    let (expert, rest) = rest.split_once('.')?;
    let (matrix, rest) = rest.split_once(".weight")?;
    let matrix = match matrix {
        "gate_proj" | "w1" => "gate",
        "up_proj" | "w3" => "up",
        "down_proj" | "w2" => "down",
        other => panic!("{other} is no matrix of an expert"),
    };
    Some((module.replace("block_sparse_moe", "mlp"), expert.parse().expect("a number"), matrix, rest))
}

/// The shard as transformers 5 saves what it has in memory.
fn fuse(shard: &Shard) -> Shard {
    let mut fused = Shard { header: serde_json::Map::new(), data: Vec::new() };
    let mut put = |name: &str, dtype: &Value, shape: Value, bytes: &[u8]| {
        let start = fused.data.len();
        fused.data.extend_from_slice(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + bytes.len()]});
        assert!(fused.header.insert(name.to_owned(), entry).is_none(), "{name}");
    };
    let bytes = |entry: &Value| {
        let at = |end: usize| entry["data_offsets"][end].as_u64().expect("an offset") as usize;
        shard.data[at(0)..at(1)].to_vec()
    };
    // By the fused name: each expert's matrices, gate before up.
    let mut stacks: BTreeMap<String, BTreeMap<(u64, bool), &Value>> = BTreeMap::new();
    for (name, entry) in &shard.header {
        match of_expert(name) {
            Some((module, expert, matrix, rest)) => {
                let matrix_of_all = if matrix == "down" { "down_proj" } else { "gate_up_proj" };
                let stack = stacks.entry(format!("{module}.experts.{matrix_of_all}{rest}")).or_default();
                stack.insert((expert, matrix == "up"), entry);
            }
            None => {
                let name = name.replace("block_sparse_moe", "mlp");
                put(&name, &entry["dtype"], entry["shape"].clone(), &bytes(entry));
            }
        }
    }
    for (name, stack) in stacks {
        let first = stack.values().next().expect("an expert");
        let experts = stack.keys().map(|(expert, _)| expert).max().expect("an expert") + 1;
        let rows = first["shape"][0].as_u64().expect("rows") * stack.len() as u64 / experts;
        let all: Vec<u8> = stack.values().flat_map(|entry| bytes(entry)).collect();
        put(&name, &first["dtype"], json!([experts, rows, first["shape"][1]]), &all);
    }
    fused
}

/// Names of families with routed experts.
const FAMILIES: [&str; 9] = [
    "qwen3moe",
    "qwen2moe",
    "deepseek32",
    "glm4-lite",
    "glm-dsa",
    "kimi-k2.5",
    "glm4moe",
    "mixtral",
    "minimax-m2",
];

#[test]
fn experts_in_one_tensor_give_the_bytes_of_experts_by_themselves() {
    for name in FAMILIES {
        let both = Both::new(name);
        both.are_equal(&["--recipe", "bf16"]);
        both.are_equal(&["--recipe", "q4_k_m", "--override", "ffn_up_exps=iq4_nl"]);
    }
}

#[test]
fn layers_for_prediction_may_have_them_too() {
    Both::new("glm4moe").are_equal(&["--recipe", "q8_0", "--keep-mtp"]);
}

#[test]
fn a_forward_pass_reads_them() {
    let both = Both::new("mixtral");
    let ids: Vec<u32> = (3..35).collect();
    let [each, fused] = [both.each(), both.fused()].map(|folder| {
        let checkpoint = Checkpoint::open_folder(&folder).expect("sound");
        let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
        let weights = Weights::new(&checkpoint, &model.tensors[..]);
        logits(&weights, model.describe().expect("described"), &ids, ids.len(), 1 << 30)
    });
    assert!(each == fused);
    assert!(each.iter().all(|logit| logit.is_finite()));
}

/// Makes the experts' matrices FP8 with scales for blocks, and says so.
fn in_fp8(folder: &Path, block: u64) {
    let config = folder.join("config.json");
    let mut said: Value = serde_json::from_slice(&fs::read(&config).expect("read")).expect("JSON");
    said["quantization_config"] =
        json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [block, block]});
    fs::write(config, said.to_string()).expect("written");
    edit(folder, |shard| {
        let mut made = Shard { header: serde_json::Map::new(), data: Vec::new() };
        let mut put = |name: String, dtype: &Value, shape: &Value, bytes: &[u8]| {
            let offsets = [made.data.len(), made.data.len() + bytes.len()];
            made.data.extend_from_slice(bytes);
            made.header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        };
        for (number, (name, entry)) in shard.header.iter().enumerate() {
            let at = |end: usize| entry["data_offsets"][end].as_u64().expect("an offset") as usize;
            let bytes = &shard.data[at(0)..at(1)];
            if of_expert(name).is_none() {
                put(name.clone(), &entry["dtype"], &entry["shape"], bytes);
                continue;
            }
            // Any codes but NaN's.
            let codes: Vec<u8> = bytes.iter().step_by(2).map(|byte| byte & 0xbf).collect();
            put(name.clone(), &json!("F8_E4M3"), &entry["shape"], &codes);
            let grid = [0, 1].map(|n| entry["shape"][n].as_u64().expect("a size").div_ceil(block));
            let scale = |place: u64| (1.0 + (place + number as u64) as f32 / 64.0) / 256.0;
            let scales: Vec<u8> =
                (0..grid[0] * grid[1]).flat_map(|place| scale(place).to_le_bytes()).collect();
            put(format!("{name}_scale_inv"), &json!("F32"), &json!(grid), &scales);
        }
        *shard = made;
    });
}

/// The two forms with experts in FP8.
fn both_in_fp8(block: u64) -> Both {
    let both = Both::new("qwen3moe");
    in_fp8(&both.each(), block);
    fs::copy(both.each().join("config.json"), both.fused().join("config.json")).expect("copied");
    let shard = Shard::parse(&fs::read(both.each().join("model.safetensors")).expect("read"));
    both.edit_fused(|fused| *fused = fuse(&shard));
    both
}

#[test]
fn fp8_blocks_of_gate_and_up_are_told_apart() {
    both_in_fp8(128).are_equal(&["--recipe", "q6_k"]);
}

#[test]
fn fp8_stacks_may_have_one_scale_for_each_expert() {
    let both = both_in_fp8(256);
    let mut changed = 0;
    both.edit_fused(|shard| {
        for (name, entry) in shard.header.iter_mut().filter(|(name, _)| name.ends_with("down_proj_scale_inv"))
        {
            assert_eq!(entry["shape"], json!([8, 1, 1]), "{name}");
            entry["shape"] = json!([8]);
            changed += 1;
        }
    });
    assert_eq!(changed, 3);
    both.are_equal(&["--recipe", "q6_k"]);
    // Two for each are for no rows of one, if rows are not said.
    both.edit_fused(|shard| {
        let name = "model.layers.1.mlp.experts.gate_up_proj_scale_inv";
        assert_eq!(shard.header[name]["shape"], json!([8, 2, 1]));
        shard.header[name]["shape"] = json!([16]);
    });
    let stderr = fail(&["plan", text(&both.fused())], 3);
    assert!(stderr.contains("gate_up_proj_scale_inv") && stderr.contains("each of the 8"), "{stderr}");
}

#[test]
fn fp8_blocks_that_may_go_on_from_gate_to_up_are_refused() {
    let both = both_in_fp8(160);
    succeed(&["plan", text(&both.each())]);
    let stderr = fail(&["plan", text(&both.fused())], 4);
    assert!(stderr.contains("mlp.experts.gate_up_proj_scale_inv") && stderr.contains("160"), "{stderr}");
}

#[test]
fn other_shapes_are_refused() {
    for (change, problem) in [
        // As gpt-oss has them.
        (json!([8, 256, 512]), "implies [8, 512, 256]"),
        (json!([8, 512 * 256]), "implies [8, 512, 256]"),
        (json!([4, 1024, 256]), "implies [8, 512, 256]"),
    ] {
        let both = Both::new("qwen3moe");
        let name = "model.layers.1.mlp.experts.gate_up_proj";
        both.edit_fused(|shard| shard.header[name]["shape"] = change.clone());
        let stderr = fail(&["plan", text(&both.fused())], 3);
        assert!(stderr.contains(name) && stderr.contains(problem), "{stderr}");
    }
}

#[test]
fn the_same_experts_in_both_forms_are_refused() {
    let both = Both::new("qwen3moe");
    let each = Shard::parse(&fs::read(both.each().join("model.safetensors")).expect("read"));
    let name = "model.layers.1.mlp.experts.3.up_proj.weight";
    both.edit_fused(|shard| {
        let mut entry = each.header[name].clone();
        entry["data_offsets"] = json!([shard.data.len(), shard.data.len() + 256 * 256 * 2]);
        shard.data.resize(shard.data.len() + 256 * 256 * 2, 0);
        shard.header.insert(name.to_owned(), entry);
    });
    let stderr = fail(&["plan", text(&both.fused())], 4);
    assert!(stderr.contains(name) && stderr.contains("no place"), "{stderr}");
}

#[test]
fn one_missing_matrix_is_named_as_checkpoints_are_published() {
    let both = Both::new("mixtral");
    both.edit_fused(|shard| {
        shard.take("model.layers.1.mlp.experts.down_proj");
    });
    let stderr = fail(&["plan", text(&both.fused())], 3);
    assert!(stderr.contains("model.layers.1.block_sparse_moe.experts.0.w2.weight"), "{stderr}");
}
