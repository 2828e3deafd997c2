//! Models that also see images: which class their text model is, what their checkpoints call its tensors, and the other
//! tensors, which are left out.

use std::collections::BTreeMap;

use super::fields::{Field, Treatment};
use super::{llama, qwen35};
use crate::checkpoint::{Checkpoint, Config, LeftOut, TEXT};
use crate::error::{Error, Result};

const IMAGES: Treatment = Treatment::Ignored("of images");

/// Fields that such a configuration has outside of its text model's.
const FIELDS: &[Field] = &[
    (TEXT, Treatment::Read),
    ("vision_config", IMAGES),
    ("vision_feature_layer", IMAGES),
    ("vision_start_token_id", IMAGES),
    ("vision_end_token_id", IMAGES),
    ("image_token_id", IMAGES),
    ("image_token_index", IMAGES),
    ("video_token_id", IMAGES),
    ("video_placeholder", IMAGES),
    ("media_placeholder_token_id", IMAGES),
    ("use_unified_vision_chunk", IMAGES),
    ("spatial_merge_size", IMAGES),
    ("multimodal_projector_bias", IMAGES),
    ("projector_hidden_act", IMAGES),
    ("projection_hidden_size", IMAGES),
    ("projection_layer_norm_eps", IMAGES),
    ("ignore_index", Treatment::Ignored("of training")),
];

/// The first parts of the names of tensors that see images or hand on what is seen.
const LEFT_OUT: [&str; 8] = [
    "vision_tower.",
    "mm_projector.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.mm_projector.",
    "model.multi_modal_projector.",
    "visual.",
    "model.visual.",
];

/// A class of such models.
struct Whole {
    architectures: &'static [&'static str],
    /// The text models that it may have; the first where nothing says which.
    texts: &'static [Text],
}

/// A text model.
struct Text {
    /// The `model_type` of its configuration.
    kind: &'static str,
    /// Its class.
    class: &'static str,
    /// Its class as that configuration may say it.
    named: &'static str,
}

/// A text model that is the same by itself.
const fn text(kind: &'static str, class: &'static str) -> Text {
    Text { kind, class, named: class }
}

const DEEPSEEK: &str = "DeepseekV3ForCausalLM";

const WHOLES: [Whole; 4] = [
    Whole {
        architectures: &[
            "KimiK25ForConditionalGeneration",
            "Kimi_K25ForConditionalGeneration",
            "KimiVLForConditionalGeneration",
        ],
        texts: &[text("deepseek_v3", DEEPSEEK), text("kimi_k2", DEEPSEEK)],
    },
    Whole {
        architectures: &[llama::MISTRAL3],
        texts: &[
            Text { kind: "mistral", class: llama::MISTRAL3, named: "MistralForCausalLM" },
            text("ministral3", llama::MINISTRAL3),
        ],
    },
    Whole {
        architectures: &["Qwen3_5ForConditionalGeneration"],
        texts: &[text("qwen3_5_text", qwen35::TEXT)],
    },
    Whole {
        architectures: &["Qwen3_5MoeForConditionalGeneration"],
        texts: &[text("qwen3_5_moe_text", qwen35::TEXT_WITH_EXPERTS)],
    },
];

/// Names of all these classes.
pub fn known() -> impl Iterator<Item = &'static str> {
    WHOLES.iter().flat_map(|whole| whole.architectures).copied()
}

fn whole(config: &Config) -> Option<&'static Whole> {
    let architectures: Vec<String> = config.find("architectures").ok().flatten()?;
    let is_it =
        |whole: &&Whole| architectures.iter().any(|name| whole.architectures.contains(&name.as_str()));
    WHOLES.iter().find(is_it)
}

/// The fields of config.json that are not of the text model; none where it is all that there is.
pub fn fields(config: &Config) -> &'static [Field] {
    whole(config).map_or(&[], |_| FIELDS)
}

/// The names of the class that config.json describes, of a model that also sees images that of its text model.
///
/// # Errors
/// If there are none, or the text model is of another class than is known of the whole.
pub fn architectures(config: &Config) -> Result<Vec<String>> {
    let Some(whole) = whole(config) else { return config.get("architectures") };
    let text = config.object(TEXT)?;
    let kind: Option<String> = text.find("model_type")?;
    let found = match &kind {
        Some(kind) => whole.texts.iter().find(|text| text.kind == kind),
        None => whole.texts.first(),
    };
    let Some(found) = found else {
        let known: Vec<&str> = whole.texts.iter().map(|text| text.kind).collect();
        let kind = kind.unwrap_or_default();
        let problem = format!("is \"{kind}\"; known in this model are {}", known.join(", "));
        return Err(Error::Unsupported(text.says("model_type", &problem)));
    };
    let named: Vec<String> = text.find("architectures")?.unwrap_or_default();
    if let Some(other) = named.iter().find(|name| *name != found.named) {
        let problem = format!("has \"{other}\"; known in this model is {}", found.named);
        return Err(Error::Unsupported(text.says("architectures", &problem)));
    }
    Ok(vec![found.class.to_owned()])
}

/// What a checkpoint calls the tensors of its text model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As a model that is text only.
    Usual,
    /// Everything behind `language_model.`.
    Outside,
    /// As newer versions of transformers: `language_model.` behind `model.`, and the head as usual.
    Inside,
}

const PREFIX: &str = "language_model.";

impl Names {
    /// Those of a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let has = |names: &Self| checkpoint.get(&names.stored("model.embed_tokens.weight")).is_some();
        match whole(checkpoint.config()) {
            Some(_) => [Self::Outside, Self::Inside].into_iter().find(has).unwrap_or(Self::Usual),
            None => Self::Usual,
        }
    }

    /// The checkpoint's name of a tensor.
    pub fn stored(self, name: &str) -> String {
        match (self, name.strip_prefix("model.")) {
            (Self::Usual, _) | (Self::Inside, None) => name.to_owned(),
            (Self::Outside, _) => format!("{PREFIX}{name}"),
            (Self::Inside, Some(rest)) => format!("model.{PREFIX}{rest}"),
        }
    }

    /// The usual name of a checkpoint's tensor.
    pub fn usual(self, name: &str) -> String {
        match self {
            Self::Usual => name.to_owned(),
            Self::Outside => name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
            Self::Inside => name.replacen("model.language_model.", "model.", 1),
        }
    }
}

/// Whether a tensor of this name sees images, in a checkpoint of a model that does.
pub fn is_left_out(config: &Config, name: &str) -> bool {
    whole(config).is_some() && LEFT_OUT.iter().any(|part| name.starts_with(part))
}

/// The tensors that see images.
pub fn left_out(checkpoint: &Checkpoint) -> Vec<LeftOut> {
    if whole(checkpoint.config()).is_none() {
        return Vec::new();
    }
    let mut counts = BTreeMap::new();
    for tensor in checkpoint.tensors().filter(|tensor| !checkpoint.is_left_out(&tensor.name)) {
        if let Some(part) = LEFT_OUT.iter().find(|part| tensor.name.starts_with(**part)) {
            *counts.entry(*part).or_insert(0) += 1;
        }
    }
    let reason = "sees images, and the file is of the text model alone";
    counts.into_iter().map(|(tensors, count)| LeftOut { tensors, reason, count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (names, layer, head) in [
            (Names::Usual, "model.layers.0.x", "lm_head.weight"),
            (Names::Outside, "language_model.model.layers.0.x", "language_model.lm_head.weight"),
            (Names::Inside, "model.language_model.layers.0.x", "lm_head.weight"),
        ] {
            assert_eq!(names.stored("model.layers.0.x"), layer);
            assert_eq!(names.stored("lm_head.weight"), head);
            assert_eq!(names.usual(layer), "model.layers.0.x");
            assert_eq!(names.usual(head), "lm_head.weight");
        }
    }
}
