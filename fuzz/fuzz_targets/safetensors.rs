//! The header of a shard, alone and as the whole of a checkpoint.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut files = quantpress_fuzz::tiny();
    files.insert("model.safetensors", data);
    quantpress_fuzz::plan(files);
});
