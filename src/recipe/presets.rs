//! The recipes that come with the program, as files embedded in it.

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
    "iq1_s",
    "iq2_xxs",
    "q2_k",
    "iq3_xxs",
    "q3_k_m",
    "iq4_xs",
    "q4_k_m",
    "q5_k_m",
    "q6_k",
    "q8_0",
    "f16",
    "bf16",
    "auto",
];

/// The recipe of a command that names none.
pub const DEFAULT: &str = PRESETS[0].0;

/// The recipe of a command that names a size and no recipe.
pub const AUTO: &str = "auto";

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.0)
}

/// The TOML of a preset, by its name in any case.
pub fn text(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|preset| preset.0.eq_ignore_ascii_case(name)).map(|preset| preset.1)
}
