//! `quantpress inspect`: what is in a GGUF file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::print;
use crate::gguf::{Contents, Value};
use crate::plain::plain;
use crate::report::{Size, grouped};

/// Longer texts and lists are shortened, except in JSON.
const SHOWN: usize = 60;

/// Show the metadata, types and sizes of a GGUF file
#[derive(Debug, Args)]
pub struct Inspect {
    /// The GGUF file
    file: PathBuf,

    /// List every tensor
    #[arg(long, conflicts_with = "json")]
    tensors: bool,

    /// Print JSON: all metadata whole, all tensors
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Reads the header and prints it.
    pub fn run(self) -> Result<()> {
        let contents = Contents::read(&self.file)?;
        if self.json {
            print(serde_json::to_string_pretty(&as_json(&contents))?)
        } else {
            self.table(&contents)
        }
    }

    fn table(&self, contents: &Contents) -> Result<()> {
        for (key, value) in contents.metadata.iter() {
            print(format_args!("{:<48} {}", plain(key), plain(shortened(value))))?;
        }
        print("")?;
        if self.tensors {
            for tensor in &contents.tensors {
                let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
                print(format_args!(
                    "{:<36} {:<8} {:>24} {:>15} bytes",
                    plain(&tensor.name),
                    tensor.format,
                    shape.join(" x "),
                    grouped(tensor.bytes)
                ))?;
            }
            print("")?;
        }
        let mut types = BTreeMap::new();
        for tensor in &contents.tensors {
            let entry = types.entry(tensor.format).or_insert([0u64; 3]);
            *entry = [entry[0] + 1, entry[1] + tensor.weights(), entry[2] + tensor.bytes];
        }
        let mut all = [0u64; 3];
        for (format, [tensors, weights, bytes]) in types {
            print(format_args!(
                "{format:<8} {tensors:>6} tensors {:>17} weights  {}",
                grouped(weights),
                Size(bytes)
            ))?;
            all = [all[0] + tensors, all[1] + weights, all[2] + bytes];
        }
        let [tensors, weights, bytes] = all;
        let bits = bytes as f64 * 8.0 / weights.max(1) as f64;
        print(format_args!(
            "{:<8} {tensors:>6} tensors {:>17} weights  {}, {bits:.4} bits per weight; file {}",
            "all",
            grouped(weights),
            Size(bytes),
            Size(contents.file_size)
        ))
    }
}

fn as_json(contents: &Contents) -> serde_json::Value {
    let tensor = |t: &crate::gguf::Entry| {
        json!({
            "name": t.name,
            "type": t.format.name(),
            "shape": t.shape,
            "offset": t.offset,
            "bytes": t.bytes,
        })
    };
    json!({
        "version": contents.version,
        "file_bytes": contents.file_size,
        "metadata": contents.metadata,
        "tensors": contents.tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

/// A value on one line.
fn shortened(value: &Value) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    if let Some(list) = json.as_array() {
        let first: Vec<String> = list.iter().take(3).map(serde_json::Value::to_string).collect();
        return format!("{} values: {} ...", grouped(list.len() as u64), first.join(", "));
    }
    let text = json.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} ... ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}
