//! The recipes that come with the program, as files embedded in it. llama-quantize's file types are a table besides.

use crate::llama_quantize::FILE_TYPES;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("presets/", $name, ".toml")))),*]
    };
}

/// Name and text; the default first, then from small to large, then the one that needs a size.
const PRESETS: &[(&str, &str)] = presets![
    "ud-iq1_s",
    "ud-iq1_m",
    "ud-iq2_xxs",
    "ud-q2_k_xl",
    "f16",
    "bf16",
    "f32",
    "copy",
    "source",
    "auto",
];

/// The recipe of a command that names none.
pub const DEFAULT: &str = PRESETS[0].0;

/// The same for a model without routed experts.
pub const DENSE: &str = "q4_k_m";

/// The recipe of a command that names a size and no recipe.
pub const AUTO: &str = "auto";

/// The names of llama-quantize's file types, as recipes have them: in small letters.
pub fn file_types() -> impl Iterator<Item = String> {
    FILE_TYPES.iter().map(|file_type| file_type.name.to_lowercase())
}

/// The names of those that are files here.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.0)
}

/// Whether a recipe of this name comes with the program and gives each tensor a type of so many bits, whatever that costs.
pub fn is_of_fixed_types(name: &str) -> bool {
    name.starts_with("ud-") || file_types().any(|file_type| file_type == name)
}

/// The TOML of a preset, by its name in any case.
pub fn text(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|preset| preset.0.eq_ignore_ascii_case(name)).map(|preset| preset.1)
}
