//! The reader of GGUF, and what verify does with a file without its source.
#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use quantpress::progress::UNTOLD;

fuzz_target!(|data: &[u8]| {
    let _ = quantpress::verify::check(&quantpress_fuzz::scratch(data), 1, &AtomicBool::new(false), UNTOLD);
});
