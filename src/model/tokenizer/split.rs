//! How text is split before BPE, recognised from the rules in tokenizer.json, as llama.cpp names it.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// A splitting that llama.cpp knows by name (`tokenizer.ggml.pre`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splitter {
    pub name: String,
    /// Whether models of this family begin a text with BOS when no file says.
    pub bos: Bos,
}

/// Whether a text begins with BOS, by its splitter alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// It does.
    Always,
    /// It does, unless tokenizer.json has a post-processor, which would have put it there.
    Unprocessed,
    /// It does not.
    Never,
}

impl Splitter {
    /// The splitter of this name, which is taken on trust.
    pub fn named(name: &str) -> Self {
        let bos = KNOWN.iter().find(|known| known.name == name).map_or(Bos::Never, |known| known.bos);
        Self { name: name.to_owned(), bos }
    }

    /// What each step of a known splitter splits out, in order: a pattern, or [`DIGIT`]. None where that is not known
    /// whole.
    pub fn steps(name: &str) -> Option<&'static [&'static str]> {
        let whole =
            |known: &&Known| known.name == name && !known.steps.iter().any(|step| step.ends_with("..."));
        KNOWN.iter().find(whole).map(|known| known.steps)
    }

    /// Whether it is Qwen's or one like it: its normalizer composes letters and marks, which llama.cpp does not do.
    pub fn composes(&self) -> bool {
        [QWEN, QWEN35, R1_QWEN].contains(&self.name.as_str())
    }

    /// Whether a run of blanks ends with its last line end, whatever stands behind it.
    pub fn ends_at_lines(&self) -> bool {
        Self::steps(&self.name).is_none_or(|steps| !steps.contains(&GPT2))
    }
}

struct Known {
    name: &'static str,
    bos: Bos,
    /// Added tokens that tell it from those that come later and have the same steps.
    marks: &'static [&'static str],
    /// What each step splits out, in order; `...` stands for the rest of a pattern.
    steps: &'static [&'static str],
}

/// V3's, R1's.
pub const V3: &str = "deepseek-v3";

/// Qwen's.
pub const QWEN: &str = "qwen2";

/// Qwen3.5's.
const QWEN35: &str = "qwen35";

/// R1's distillations of Qwen.
const R1_QWEN: &str = "deepseek-r1-qwen";

/// GLM's.
pub const GLM: &str = "glm4";

/// Kimi's, whose rules are in Python and in no file of data.
pub const KIMI: &str = "kimi-k2";

/// The step that splits out every digit.
pub const DIGIT: &str = "a digit";

/// GPT-2's rules, which `ByteLevel` has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Llama 3's rules.
const LLAMA3: &[&str] = &[concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)];

/// Qwen's rules.
const QWEN_STEPS: &[&str] = &[concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)];

/// Those of Qwen3.5, whose words have marks too.
const QWEN35_STEPS: &[&str] = &[concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)];

/// The rules of o200k.
const O200K: &[&str] = &[concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)];

/// Kimi's rules: o200k's, with ideographs by themselves.
const KIMI_STEPS: &[&str] = &[concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)];

const KNOWN: &[Known] = &[
    Known {
        name: V3,
        bos: Bos::Always,
        marks: &[],
        steps: &[
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
                r"| ?[\p{P}\p{S}]+[\r\n]*",
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        ],
    },
    Known {
        name: "deepseek-llm",
        bos: Bos::Always,
        marks: &[],
        steps: &[
            r"[\r\n]",
            r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ...",
            "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
            r"\s+$",
            "[一-龥ࠀ-一가-퟿]+",
            DIGIT,
        ],
    },
    Known {
        name: "deepseek-coder",
        bos: Bos::Always,
        marks: &[],
        steps: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT],
    },
    Known {
        name: R1_QWEN, bos: Bos::Unprocessed, marks: &["<｜begin▁of▁sentence｜>"], steps: QWEN_STEPS
    },
    Known { name: QWEN, bos: Bos::Never, marks: &[], steps: QWEN_STEPS },
    Known { name: QWEN35, bos: Bos::Never, marks: &[], steps: QWEN35_STEPS },
    Known { name: GLM, bos: Bos::Never, marks: &["[gMASK]", "<sop>"], steps: LLAMA3 },
    Known { name: "llama-bpe", bos: Bos::Unprocessed, marks: &[], steps: LLAMA3 },
    Known { name: "minimax-m2", bos: Bos::Never, marks: &["]~b]", "[e~["], steps: O200K },
    Known { name: "gpt-4o", bos: Bos::Never, marks: &[], steps: O200K },
    Known {
        name: "tekken",
        bos: Bos::Unprocessed,
        marks: &[],
        steps: &[concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
    },
    Known { name: "smollm", bos: Bos::Never, marks: &[], steps: &[DIGIT, GPT2] },
    Known { name: "gpt-2", bos: Bos::Never, marks: &[], steps: &[GPT2] },
    Known { name: KIMI, bos: Bos::Never, marks: &[], steps: KIMI_STEPS },
];

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Step {
    Sequence {
        pretokenizers: Vec<Step>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    Digits {
        individual_digits: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
enum Pattern {
    Regex(String),
    String(String),
}

fn yes() -> bool {
    true
}

/// The splitter that these rules of tokenizer.json are, by the added tokens beside them where several have the same.
///
/// # Errors
/// If they are none that llama.cpp has.
pub fn recognise(pre_tokenizer: &Value, added: &[&str]) -> Result<Splitter> {
    let unknown = |found: String| {
        let known: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        Error::Unsupported(format!(
            "tokenizer.json: the pre_tokenizer's splitting rules are not known ({found}); if llama.cpp has them under \
             a name, give it with --pre (known here: {})",
            known.join(", ")
        ))
    };
    let step = Step::deserialize(pre_tokenizer).map_err(|e| unknown(e.to_string()))?;
    let mut steps = Vec::new();
    flatten(step, &mut steps);
    let (last, steps) = steps.split_last().ok_or_else(|| unknown("there are none".to_owned()))?;
    let splits_bytes = matches!(last.as_str(), "bytes");
    let same = |known: &&Known| {
        known.marks.iter().all(|mark| added.contains(mark))
            && known.steps.len() == steps.len()
            && known.steps.iter().zip(steps).all(|(known, found)| match known.strip_suffix("...") {
                Some(start) => found.starts_with(start),
                None => found == known,
            })
    };
    match KNOWN.iter().find(same) {
        Some(known) if splits_bytes => Ok(Splitter::named(known.name)),
        _ => Err(unknown(format!("{}, {last}", steps.join(", ")))),
    }
}

/// What each step splits out, in words that the table uses.
fn flatten(step: Step, steps: &mut Vec<String>) {
    match step {
        Step::Sequence { pretokenizers } => pretokenizers.into_iter().for_each(|step| flatten(step, steps)),
        Step::Split { pattern: Pattern::Regex(regex), behavior, invert: false } if behavior == "Isolated" => {
            // Some files hold line ends as characters, some as escapes: the rule is the same.
            steps.push(regex.replace('\r', "\\r").replace('\n', "\\n"));
        }
        Step::Split { pattern: Pattern::Regex(text) | Pattern::String(text), behavior, invert } => {
            steps.push(format!("{text} {behavior} {invert}"));
        }
        Step::Digits { individual_digits: true } => steps.push(DIGIT.to_owned()),
        Step::Digits { individual_digits: false } => steps.push("digits".to_owned()),
        Step::ByteLevel { add_prefix_space: false, use_regex: false } => steps.push("bytes".to_owned()),
        Step::ByteLevel { add_prefix_space: false, use_regex: true } => {
            steps.extend([GPT2, "bytes"].map(str::to_owned));
        }
        Step::ByteLevel { .. } => steps.push("bytes with a space before the text".to_owned()),
        Step::Other => steps.push("a step of another type".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn splits(regexes: &[&str]) -> Vec<Value> {
        let split =
            |r| json!({"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": false});
        regexes.iter().map(split).collect()
    }

    fn sequence(mut steps: Vec<Value>) -> Value {
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
        );
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    #[test]
    fn v2s_rules_are_deepseek_llm() {
        let letters = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿ]+";
        let mut steps =
            splits(&["[\r\n]", letters, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]);
        steps.push(json!({"type": "Digits", "individual_digits": true}));
        assert_eq!(recognise(&sequence(steps), &[]).expect("known").name, "deepseek-llm");
    }

    #[test]
    fn added_tokens_tell_those_with_the_same_rules_apart() {
        for (steps, added, name) in [
            (LLAMA3, &["<|eot_id|>"][..], "llama-bpe"),
            (LLAMA3, &["[gMASK]", "[sMASK]", "<sop>"], "glm4"),
            (QWEN_STEPS, &["<|im_end|>"], QWEN),
            (QWEN_STEPS, &["<｜begin▁of▁sentence｜>"], R1_QWEN),
            (QWEN35_STEPS, &["<|im_end|>"], QWEN35),
            (O200K, &["<|return|>"], "gpt-4o"),
            (O200K, &["]~b]", "[e~["], "minimax-m2"),
            (KIMI_STEPS, &["[BOS]"], KIMI),
        ] {
            assert_eq!(recognise(&sequence(splits(steps)), added).expect("known").name, name);
        }
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        assert_eq!(recognise(&bytes, &[]).expect("known").name, "gpt-2");
        let digits = json!({"type": "Digits", "individual_digits": true});
        let both = json!({"type": "Sequence", "pretokenizers": [digits, bytes]});
        assert_eq!(recognise(&both, &[]).expect("known").name, "smollm");
    }

    #[test]
    fn unknown_rules_name_the_way_out() {
        let error = recognise(&sequence(splits(&["a+"])), &[]).expect_err("unknown").to_string();
        assert!(error.contains("--pre") && error.contains("a+"), "{error}");
    }
}
