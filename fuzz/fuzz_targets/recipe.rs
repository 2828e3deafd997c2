//! A recipe in TOML, and the types that it chooses for the smallest model.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use quantpress::checkpoint::Checkpoint;
use quantpress::model::{Model, Options};
use quantpress::recipe::{Presence, Recipe, choose};

fuzz_target!(|data: &[u8]| {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let checkpoint =
            Checkpoint::open(Box::new(quantpress_fuzz::tiny())).expect("the smallest checkpoint is sound");
        Model::plan(&checkpoint, &Options::default()).expect("it can be planned")
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(recipe) = Recipe::parse("fuzz", text) {
        for imatrix in [Presence::Present, Presence::Absent] {
            let _ = choose(model, &recipe, &[], imatrix);
        }
    }
});
