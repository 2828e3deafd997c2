//! Tips for users who type the options of other tools.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The option of another tool, and the tip.
const ELSEWHERE: &[(&str, &str)] = &[
    ("--dry-run", "quantpress plan shows what quantize would write"),
    (
        "--keep-split",
        "the files of a split are made by --split SIZE|COUNT, whatever the shards of the checkpoint are",
    ),
    ("--outfile", "the file to write is named by -o FILE"),
    ("--outtype", "types are chosen by --recipe NAME|FILE, as q8_0 or bf16"),
    (
        "--output-tensor-type",
        "types of single tensors are chosen by --override 'REGEX=TYPE', as ^output.weight=q6_k",
    ),
    ("--overwrite", "files that are there are replaced with --force"),
    ("--split-max-size", "files of a limited size are made by --split SIZE, as 48GB"),
    ("--tensor-type", "types of single tensors are chosen by --override 'REGEX=TYPE'"),
    (
        "--token-embedding-type",
        "types of single tensors are chosen by --override 'REGEX=TYPE', as token_embd=q8_0",
    ),
];

/// What options need, of which one is given where another is missing.
const NEEDS: &[(&str, &str)] = &[
    // In `plan` it once was what --ctx-size is now.
    ("--context", "--context is the number of tokens in a chunk of --text; the KV cache is --ctx-size"),
    ("--feedback", "--feedback runs the model over a text: name one with --text FILE"),
    ("--gradients", "--gradients is for --feedback --text FILE, with the text that they are of"),
    ("--text", "--text is the text of --feedback"),
];

/// Adds the tip that fits the error.
pub fn with_tip(mut error: clap::Error) -> clap::Error {
    let text = |value: Option<&ContextValue>| match value {
        Some(ContextValue::String(text)) => text.split(' ').next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => {
            let typed = text(error.get(ContextKind::InvalidArg));
            ELSEWHERE.iter().find(|(word, _)| *word == typed).map(|(_, tip)| *tip)
        }
        ErrorKind::MissingRequiredArgument => {
            let is_given = |option: &str| {
                std::env::args().any(|word| {
                    word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
                })
            };
            NEEDS.iter().find(|(option, _)| is_given(option)).map(|(_, tip)| *tip)
        }
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedArg);
        let tip = StyledStr::from(tip);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
