//! What the pass has to know of a model, from GGUF's metadata: planned from a checkpoint or read from a file.

use super::rope::Yarn;
use super::router::Router;
use crate::error::{Error, Result};
use crate::gguf::{Contents, Value};
use crate::model::Model;

/// The only architecture that the pass computes.
const ARCH: &str = "deepseek2";

/// Sizes and constants of a `deepseek2` model.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Token ids.
    pub vocabulary: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Layers that are computed: without those for multi-token prediction.
    pub layers: usize,
    /// The first layers, which have no experts.
    pub dense_layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width of the latent, which all heads share.
    pub kv_rank: usize,
    /// Columns of a head's query and key without and with position.
    pub nope: usize,
    /// Columns with position.
    pub rope: usize,
    /// Columns of a head's value.
    pub value: usize,
    /// Routed experts in a layer.
    pub experts: usize,
    /// What norms add to the mean square.
    pub eps: f32,
    /// Base of the rotations.
    pub theta: f32,
    /// Stretched rotations, if the model has them.
    pub yarn: Option<Yarn>,
    /// The choice of experts.
    pub router: Router,
    /// The longest text that the model was made for, where it says.
    pub context: Option<usize>,
    /// The token that begins a text.
    pub bos: Option<u32>,
}

impl Shape {
    /// Of a planned model.
    ///
    /// # Errors
    /// If it has another architecture.
    pub fn of_model(model: &Model) -> Result<Self> {
        let number = |key: &str| model.metadata.get(key).and_then(Value::as_f64);
        let missing = |key: &str| Error::Unsupported(format!("the plan has no {key}, which the pass needs"));
        Self::read(&model.arch, &number, &missing)
    }

    /// Of a file.
    ///
    /// # Errors
    /// If it has another architecture, or lacks a key.
    pub fn of_file(name: &str, contents: &Contents) -> Result<Self> {
        let value = |key: &str| contents.metadata.get(key);
        let number = |key: &str| value(key).and_then(Value::as_f64);
        let missing = |key: &str| Error::Gguf {
            file: name.to_owned(),
            problem: format!("{key} is missing or no number"),
        };
        let arch = value("general.architecture").and_then(Value::as_str).unwrap_or_default();
        Self::read(arch, &number, &missing)
    }

    fn read(
        arch: &str,
        number: &dyn Fn(&str) -> Option<f64>,
        missing: &dyn Fn(&str) -> Error,
    ) -> Result<Self> {
        if arch != ARCH {
            return Err(Error::Unsupported(format!(
                "the forward pass computes {ARCH} and not architecture \"{arch}\""
            )));
        }
        let find = |key: &str| number(&format!("{ARCH}.{key}"));
        let get = |key: &str| find(key).ok_or_else(|| missing(&format!("{ARCH}.{key}")));
        let count = |key: &str| get(key).map(|x| x as usize);
        let gating = find("expert_gating_func").unwrap_or(1.0);
        if gating != 1.0 && gating != 2.0 {
            return Err(Error::Unsupported(format!(
                "{ARCH}.expert_gating_func is {gating}; the forward pass knows 1 (softmax) and 2 (sigmoid)"
            )));
        }
        let yarn = match find("rope.scaling.factor") {
            None => None,
            Some(factor) => Some(Yarn {
                factor: factor as f32,
                original: get("rope.scaling.original_context_length")? as f32,
                beta: [
                    find("rope.scaling.yarn_beta_fast").unwrap_or(32.0) as f32,
                    find("rope.scaling.yarn_beta_slow").unwrap_or(1.0) as f32,
                ],
                log_multiplier: find("rope.scaling.yarn_log_multiplier").unwrap_or(0.0) as f32,
            }),
        };
        let rope = count("rope.dimension_count")?;
        let key = count("attention.key_length_mla")?;
        let layers = count("block_count")?;
        let extra = find("nextn_predict_layers").unwrap_or(0.0) as usize;
        let groups = find("expert_group_count").unwrap_or(1.0) as usize;
        Ok(Self {
            vocabulary: count("vocab_size")?,
            hidden: count("embedding_length")?,
            layers: layers.saturating_sub(extra),
            dense_layers: count("leading_dense_block_count")?,
            heads: count("attention.head_count")?,
            kv_rank: count("attention.kv_lora_rank")?,
            nope: key
                .checked_sub(rope)
                .ok_or_else(|| missing(&format!("{ARCH}.attention.key_length_mla")))?,
            rope,
            value: count("attention.value_length_mla")?,
            experts: count("expert_count")?,
            eps: get("attention.layer_norm_rms_epsilon")? as f32,
            theta: get("rope.freq_base")? as f32,
            yarn,
            router: Router {
                used: count("expert_used_count")?,
                groups: [groups, find("expert_group_used_count").unwrap_or(groups as f64) as usize],
                sigmoid: gating == 2.0,
                normalised: find("expert_weights_norm") == Some(1.0),
                scale: find("expert_weights_scale").filter(|&scale| scale != 0.0).unwrap_or(1.0) as f32,
            },
            context: find("context_length").map(|n| n as usize),
            bos: number("tokenizer.ggml.bos_token_id").map(|id| id as u32),
        })
    }

    /// What products of queries and keys are multiplied by.
    pub fn attention_scale(&self) -> f32 {
        self.yarn.map_or(1.0, |yarn| yarn.attention()) / ((self.nope + self.rope) as f32).sqrt()
    }
}
