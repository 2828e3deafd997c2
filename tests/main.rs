//! Whole runs of the program: conversions, bad input, full-size plans, real llama.cpp.

mod support;

mod architectures;
mod calibrate;
mod changed;
mod cli;
mod configs;
mod convert;
mod damaged;
mod decoders;
mod evaluate;
#[cfg(all(unix, feature = "remote"))]
mod examples;
mod families;
mod feedback;
mod forward;
mod full_size;
mod fused;
mod gguf_source;
mod gradients;
mod hostile;
mod importances;
mod kept;
mod kimi;
mod llama;
mod malformed;
mod manifest;
mod memory;
mod names;
mod options;
mod outputs;
mod packed;
mod qwen3moe;
mod r1;
mod readers;
#[cfg(feature = "remote")]
mod release;
#[cfg(feature = "remote")]
mod remote;
mod report;
mod resume;
#[cfg(feature = "remote")]
mod s3;
mod signals;
mod sizes;
mod split;
mod stored;
mod tensor_names;
mod texts;
mod tokenizers;
mod verify;
