//! The names of pre-tokenizers that llama.cpp knows (tokenizer.ggml.pre): it refuses to load a file with any other.

use crate::error::{Error, Result};
use crate::nearest::did_you_mean;

/// As of November 2026, in order.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "a.x-4.0", "afmoe", "bailingmoe", "bailingmoe2", "bloom", "chameleon", "chatglm-bpe", "codeshell", "cohere2moe",
    "command-r", "dbrx", "deepseek-coder", "deepseek-llm", "deepseek-r1-qwen", "deepseek-v3", "default", "exaone",
    "exaone-moe", "exaone4", "f2llmv2", "falcon", "falcon-h1", "falcon3", "gemma4", "gigachat", "glm4", "glm5", "gpt-2",
    "gpt-4o", "gpt3-finnish", "granite-docling", "granite-embed-multi-311m", "granite-embed-multi-97m", "grok-2",
    "hunyuan", "hunyuan-dense", "hy_v4", "jais", "jais-2", "jina-de", "jina-es", "jina-v1-en", "jina-v2-code",
    "jina-v2-de", "jina-v2-es", "jina-v5-nano", "joyai-llm", "kanana2", "kimi-k2", "kormo", "laguna", "lfm2",
    "llada-moe", "llama-bpe", "llama-v3", "llama3", "llama4", "megrez", "mellum", "mellum2", "midm-2.0", "minerva-7b",
    "minicpm5", "minimax-m2", "modern-bert", "mpt", "olmo", "phi-2", "pixtral", "poro-chat", "qwen2", "qwen35",
    "refact", "roberta-bpe", "sarvam-moe", "seed-coder", "smaug-bpe", "smollm", "solar-open", "spark2_5", "stablelm2",
    "starcoder", "superbpe", "talkie", "tekken", "tiny_aya", "trillion", "ufakzeka", "viking",
    "whitespace", "youtu",
];

/// Those with which llama.cpp takes words that are tokens whole, even where merges do not lead to them.
const IGNORE_MERGES: &[&str] = &[
    "falcon-h1",
    "falcon3",
    "glm4",
    "glm5",
    "jina-v5-nano",
    "lfm2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "midm-2.0",
    "pixtral",
    "tekken",
    "youtu",
];

/// Whether llama.cpp takes words that are tokens whole, with this pre-tokenizer.
pub fn ignores_merges(name: &str) -> bool {
    IGNORE_MERGES.contains(&name)
}

/// Checks a name that the user gives.
///
/// # Errors
/// If llama.cpp would refuse it.
pub fn check(name: &str) -> Result<()> {
    match NAMES.contains(&name) {
        true => Ok(()),
        false => Err(Error::Argument(format!(
            "--pre {name}: llama.cpp has no pre-tokenizer of this name and would not load the file{}",
            did_you_mean(name, NAMES.iter().copied())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps() {
        assert!(NAMES.is_sorted() && IGNORE_MERGES.iter().all(|name| NAMES.contains(name)));
        for name in ["deepseek-v3", "joyai-llm", "kimi-k2", "default"] {
            check(name).expect(name);
        }
        let problem = |name: &str| check(name).expect_err("refused").to_string();
        assert!(problem("deepseek_v3").ends_with("did you mean deepseek-v3?"));
        for name in ["", "foo", "Deepseek-V3", "deepseek-v3 "] {
            assert!(problem(name).contains("no pre-tokenizer of this name"), "{name}");
        }
    }
}
