//! `quantpress verify`: a finished file against its format, its manifest and its source.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::planning::{thread_count, threads};
use super::print;
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::gguf::Parts;
use crate::recipe::Imatrix;
use crate::report::{Size, grouped};
use crate::verify::{Compare, Compared, Problem, against, check};

/// Problems that are told one by one, except in JSON.
const SHOWN: usize = 20;

/// Check a GGUF file: structure, scales, hashes, and every weight against the checkpoint
#[derive(Debug, Args)]
pub struct Verify {
    /// The GGUF file, or any of its split files
    file: PathBuf,

    /// The checkpoint's folder that the file was made from
    #[arg(long, value_name = "CHECKPOINT")]
    against: Option<PathBuf>,

    /// The importance matrix that was used: errors are weighted by it
    #[arg(long, value_name = "FILE", requires = "against")]
    imatrix: Option<PathBuf>,

    /// Threads [default: all]; the answer does not depend on it
    #[arg(short, long, value_parser = thread_count())]
    threads: Option<u16>,

    /// List every tensor
    #[arg(long, requires = "against")]
    tensors: bool,

    /// Print JSON, tensors and their experts included
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Checks and prints; problems make it an error.
    pub fn run(self) -> Result<()> {
        let threads = threads(self.threads);
        let (parts, mut problems) = check(&self.file, threads)?;
        let mut compared = Vec::new();
        if let Some(folder) = &self.against {
            let checkpoint = Checkpoint::open_folder(folder)?;
            let imatrix = self.imatrix.as_deref().map(Imatrix::open).transpose()?;
            let compare = Compare { checkpoint: &checkpoint, imatrix: imatrix.as_ref(), threads };
            let (tensors, more) = against(&parts, compare)?;
            compared = tensors;
            problems.extend(more);
        }
        if self.json {
            print(serde_json::to_string_pretty(&as_json(&parts, &compared, &problems))?)?;
        } else {
            self.table(&parts, &compared, &problems)?;
        }
        match problems.first() {
            None => Ok(()),
            Some(first) => {
                let more = match problems.len() {
                    1 => String::new(),
                    n => format!(" ({} more problems)", n - 1),
                };
                Err(Error::Gguf { file: self.file.display().to_string(), problem: format!("{first}{more}") }
                    .into())
            }
        }
    }

    fn table(&self, parts: &Parts, compared: &[Compared], problems: &[Problem]) -> Result<()> {
        if self.tensors {
            for tensor in compared {
                print(format_args!(
                    "{:<36} {:<8} error {:.3e}, at unit gain {:.3e} of {:.3e}, gain {:.4}",
                    tensor.name,
                    tensor.format,
                    tensor.error,
                    tensor.unit_gain_error,
                    tensor.bound,
                    tensor.gain
                ))?;
            }
            print("")?;
        }
        if !compared.is_empty() {
            classes(compared)?;
        }
        for problem in problems.iter().take(SHOWN) {
            print(format_args!("problem   {problem}"))?;
        }
        let weights: u64 = parts.tensors().map(|(_, entry)| entry.weights()).sum();
        let bytes = parts.files.iter().map(|part| part.contents.file_size).sum();
        print(format_args!(
            "{}: {} tensors, {} weights, {} in {} files",
            if problems.is_empty() { "pass" } else { "fail" },
            parts.tensors().count(),
            grouped(weights),
            Size(bytes),
            parts.files.len()
        ))
    }
}

/// A line for each kind of tensor and type.
fn classes(compared: &[Compared]) -> Result<()> {
    print(format_args!(
        "{:<18} {:<8} {:>7} {:>10} {:>10} {:>10} {:>7}  worst",
        "tensor", "type", "tensors", "error", "unit gain", "allowed", "gain"
    ))?;
    let mut classes: BTreeMap<(&str, &str), Vec<&Compared>> = BTreeMap::new();
    for tensor in compared {
        classes.entry((&tensor.class, tensor.format)).or_default().push(tensor);
    }
    for ((class, format), tensors) in classes {
        let mean = |of: &dyn Fn(&Compared) -> f64| {
            tensors.iter().map(|tensor| of(tensor)).sum::<f64>() / tensors.len() as f64
        };
        let error = |tensor: &Compared| tensor.worst_slice().1.unit_gain_error;
        let worst =
            tensors.iter().max_by(|a, b| error(a).total_cmp(&error(b))).expect("a class has a tensor");
        let (slice, _) = worst.worst_slice();
        print(format_args!(
            "{class:<18} {format:<8} {:>7} {:>10.3e} {:>10.3e} {:>10.3e} {:>7.4}  {}{}: {:.3e}",
            tensors.len(),
            mean(&|tensor| tensor.error),
            mean(&|tensor| tensor.unit_gain_error),
            worst.bound,
            mean(&|tensor| tensor.gain),
            worst.name,
            if worst.slices.len() > 1 { format!(" slice {slice}") } else { String::new() },
            error(worst)
        ))?;
    }
    print("")
}

fn as_json(parts: &Parts, compared: &[Compared], problems: &[Problem]) -> serde_json::Value {
    json!({
        "pass": problems.is_empty(),
        "files": parts.files.iter().map(|part| &part.path).collect::<Vec<_>>(),
        "tensors": parts.tensors().count(),
        "weights": parts.tensors().map(|(_, entry)| entry.weights()).sum::<u64>(),
        "problems": problems,
        "compared": compared,
    })
}
