//! An importance matrix in llama-imatrix's GGUF layout.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"GGUF") {
        quantpress_fuzz::importances(data);
    }
});
