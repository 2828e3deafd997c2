//! What the fuzz targets share: the smallest checkpoint, and a scratch file for parsers that want a path.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::{env, fs, process};

use quantpress::checkpoint::{Checkpoint, Fingerprint, Memory};
use quantpress::Result;
use quantpress::model::{Model, Options};
use quantpress::recipe::{Imatrix, Importances, Plan, Recipe, Wishes};

const CONFIG: &[u8] = include_bytes!("../seeds/config/sound");
const TOKENIZER: &[u8] = include_bytes!("../seeds/tokenizer/sound");
const TOKENIZER_CONFIG: &str = r#"{"bos_token": "a", "eos_token": "b", "pad_token": {"content": "b"}}"#;

/// A checkpoint of one dense layer that is planned without an error: seeds/config and seeds/tokenizer.
pub fn tiny() -> Memory {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let norms = [
        "self_attn.q_a_layernorm",
        "self_attn.kv_a_layernorm",
        "input_layernorm",
        "post_attention_layernorm",
    ];
    let matrices = [
        ("self_attn.q_a_proj", 32),
        ("self_attn.q_b_proj", 64),
        ("self_attn.kv_a_proj_with_mqa", 64),
        ("self_attn.kv_b_proj", 64),
        ("self_attn.o_proj", 32),
        ("mlp.gate_proj", 32),
        ("mlp.up_proj", 32),
        ("mlp.down_proj", 32),
    ];
    let mut tensors = vec![("model.norm.weight".to_owned(), "[32]".to_owned(), 32)];
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        tensors.push((name.to_owned(), "[300,32]".to_owned(), 300 * 32));
    }
    tensors.extend(norms.map(|name| (layer(name), "[32]".to_owned(), 32)));
    tensors.extend(matrices.map(|(name, rows)| (layer(name), format!("[{rows},32]"), rows * 32)));
    let mut end = 0;
    let entries: Vec<String> = tensors
        .into_iter()
        .map(|(name, shape, weights)| {
            let begin = end;
            end += 2 * weights;
            format!(r#""{name}":{{"dtype":"BF16","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend(header.as_bytes());
    shard.extend([0x80, 0x3f].repeat(end / 2));

    let mut files = Memory::default();
    files.insert("config.json", CONFIG);
    files.insert("tokenizer.json", TOKENIZER);
    files.insert("tokenizer_config.json", TOKENIZER_CONFIG);
    files.insert("model.safetensors", shard);
    files
}

/// Plans what the files hold, if they can be planned.
pub fn plan(files: Memory) {
    let Ok(checkpoint) = Checkpoint::open(Box::new(files)) else { return };
    for keep_mtp in [false, true] {
        let options = Options { keep_mtp, ..Options::default() };
        let _ = laid_out(&checkpoint, options);
    }
}

fn laid_out(checkpoint: &Checkpoint, options: Options) -> Result<Plan> {
    let model = Model::plan(checkpoint, &options)?;
    let recipe = Recipe::load("q8_0").expect("a preset");
    Plan::new(model, Fingerprint::of(checkpoint)?, Wishes { options, ..Wishes::new(&recipe) })
}

/// Reads an importance matrix and takes from it what the smallest model needs.
pub fn importances(data: &[u8]) {
    static MODEL: OnceLock<(Checkpoint, Plan)> = OnceLock::new();
    let (checkpoint, plan) = MODEL.get_or_init(|| {
        let checkpoint = Checkpoint::open(Box::new(tiny())).expect("the smallest checkpoint is sound");
        let plan = laid_out(&checkpoint, Options::default()).expect("it can be planned");
        (checkpoint, plan)
    });
    let Ok(imatrix) = Imatrix::open(&scratch(data)) else { return };
    let _ = imatrix.fingerprint();
    let Ok(importances) = Importances::prepare(checkpoint, &plan.model, &plan.choices, Some(&imatrix)) else {
        return;
    };
    for tensor in 0..plan.model.tensors.len() {
        let _ = importances.slice(&plan.model, tensor, 0);
    }
}

/// The data as a file, in memory where the system has such a place. One a process.
pub fn scratch(data: &[u8]) -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { env::temp_dir() };
        folder.join(format!("quantpress-fuzz-{}.gguf", process::id()))
    });
    fs::write(path, data).expect("the scratch file can be written");
    path.clone()
}
