//! config.json of the smallest model; the same bytes as generation_config.json, whose fields are other ones.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut files = quantpress_fuzz::tiny();
    files.insert("generation_config.json", data);
    quantpress_fuzz::plan(files.clone());
    files.insert("config.json", data);
    quantpress_fuzz::plan(files);
});
