//! The index, before a shard that has what the smallest model needs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut files = quantpress_fuzz::tiny();
    files.insert("model.safetensors.index.json", data);
    quantpress_fuzz::plan(files);
});
