//! `quantpress verify`: a finished file against its format, its manifest and its source.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::progress::{Display, Style};
use super::remote::RemoteArgs;
use super::threads::{thread_count, threads};
use super::{interrupt, print};
use crate::error::{Error, Warning};
use crate::gguf::Parts;
use crate::log;
use crate::plain::{self, plain};
use crate::recipe::Imatrix;
use crate::report::{Size, grouped};
use crate::verify::{Checked, Compare, Compared, Hashes, Manifest, against, check};

/// The most problems that are listed one by one, except in JSON.
const SHOWN: usize = 20;

/// Files that are named in the last line.
const NAMED: usize = 3;

/// Check a GGUF file: structure, scales, hashes, and every weight against the checkpoint
#[derive(Debug, Args)]
pub struct Verify {
    /// The GGUF file, or any of its split files
    file: PathBuf,

    /// The checkpoint that the file was made from: its folder, a GGUF file of it, hf://org/name[@revision], s3:// or
    /// https://
    #[arg(long, value_name = "CHECKPOINT")]
    against: Option<PathBuf>,

    /// The importance matrix that was used: errors are weighted by it
    #[arg(long, value_name = "FILE", requires = "against")]
    imatrix: Option<PathBuf>,

    /// Threads [default: all]; the answer does not depend on it
    #[arg(short, long, value_parser = thread_count(), env = "QUANTPRESS_THREADS", hide_env_values = true)]
    threads: Option<u16>,

    /// List every tensor
    #[arg(long, requires = "against")]
    tensors: bool,

    /// Print JSON, tensors and their experts included
    #[arg(long)]
    json: bool,

    /// Refuse what is only suspicious: matrices of zeros
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    remote: RemoteArgs,
}

impl Verify {
    /// Checks and prints; problems make it an error.
    pub fn run(self) -> Result<()> {
        let (threads, stop) = (threads(self.threads), interrupt::flag());
        let files = Parts::names(&self.file).into_iter().filter_map(|file| file.metadata().ok());
        let bytes = Size(files.map(|file| file.len()).sum());
        log::begin(format_args!("{}: {bytes} are read and checked", self.file.display()));
        let style = Style::talking(false);
        let mut checked = check(&self.file, threads, stop, &Display::new(style).told())?;
        let mut compared = None;
        if let Some(folder) = &self.against {
            let checkpoint = self.remote.open(folder, style)?;
            let imatrix = self.imatrix.as_deref().map(Imatrix::open).transpose()?;
            log::begin(format_args!("every tensor is compared with {}", folder.display()));
            let compare = Compare { checkpoint: &checkpoint, imatrix: imatrix.as_ref(), threads, stop };
            let (tensors, more) = against(&checked, compare, &Display::new(style).told())?;
            compared = Some(tensors);
            checked.problems.extend(more);
        }
        if self.json {
            print(serde_json::to_string_pretty(&as_json(&checked, compared.as_deref()))?)?;
        } else {
            self.table(&checked, compared.as_deref())?;
        }
        match checked.problems.first() {
            None => Ok(Warning::refuse(&checked.warnings, self.strict)?),
            Some(first) => {
                let more = match checked.problems.len() {
                    1 => String::new(),
                    2 => " (1 more problem)".to_owned(),
                    n => format!(" ({} more problems)", n - 1),
                };
                Err(Error::Gguf { file: self.file.display().to_string(), problem: format!("{first}{more}") }
                    .into())
            }
        }
    }

    fn table(&self, checked: &Checked, compared: Option<&[Compared]>) -> Result<()> {
        if self.tensors {
            for tensor in compared.unwrap_or_default() {
                print(format_args!(
                    "{:<36} {:<8} error {:.3e}, at unit gain {:.3e} of {:.3e}, gain {:.4}",
                    plain(&tensor.name),
                    tensor.format,
                    tensor.error,
                    tensor.unit_gain_error,
                    tensor.bound,
                    tensor.gain
                ))?;
            }
            print("")?;
        }
        if let Some(compared) = compared.filter(|compared| !compared.is_empty()) {
            classes(compared)?;
        }
        for problem in checked.problems.iter().take(SHOWN) {
            print(format_args!("problem   {problem}"))?;
        }
        for warning in checked.warnings.iter().take(SHOWN) {
            print(format_args!("warning   {}", plain(warning)))?;
        }
        let more =
            checked.problems.len().saturating_sub(SHOWN) + checked.warnings.len().saturating_sub(SHOWN);
        if more > 0 {
            print(format_args!("and {more} more, which --json lists"))?;
        }
        print(verdict(checked, compared.is_some()))
    }
}

/// The verdict: what was found in what, and what was not checked.
fn verdict(checked: &Checked, compared: bool) -> String {
    let Checked { parts, problems, .. } = checked;
    let hashes = checked.hashes();
    let found = match (problems.is_empty(), hashes) {
        (false, _) => "fail",
        // Nothing says what should be in the file.
        (true, Hashes::Absent) if !compared => "structure ok",
        (true, _) => "pass",
    };
    let what = if compared { "hashes" } else { "contents" };
    let unlisted: Vec<PathBuf> = checked.unlisted().iter().map(|file| Manifest::path(file)).collect();
    let not_checked = match hashes {
        Hashes::Checked => String::new(),
        _ if unlisted.is_empty() => String::new(),
        _ => format!("; {what} NOT checked: no {}", names(&unlisted)),
    };
    let absent = match parts.absent.len() {
        0 => String::new(),
        n => format!(
            "; NOT checked, since not here: {n} of {} files, {}",
            n + parts.files.len(),
            names(&parts.absent)
        ),
    };
    let weights: u64 = parts.tensors().map(|(_, entry)| entry.weights()).sum();
    let bytes = parts.files.iter().map(|part| part.contents.file_size).sum();
    let facts = format!(
        "{} tensors, {} weights, {} in {} file{}",
        parts.tensors().count(),
        grouped(weights),
        Size(bytes),
        parts.files.len(),
        if parts.files.len() == 1 { "" } else { "s" }
    );
    match not_checked + &absent {
        nothing if nothing.is_empty() => format!("{found}: {facts}"),
        not_checked => format!("{found}{not_checked} ({facts})"),
    }
}

/// The first few names.
fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| plain(path.file_name().unwrap_or_default().to_string_lossy());
    let shown: Vec<String> = paths.iter().take(NAMED).map(name).collect();
    match paths.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
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
            "{:<18} {format:<8} {:>7} {:>10.3e} {:>10.3e} {:>10.3e} {:>7.4}  {}{}: {:.3e}",
            plain(class),
            tensors.len(),
            mean(&|tensor| tensor.error),
            mean(&|tensor| tensor.unit_gain_error),
            worst.bound,
            mean(&|tensor| tensor.gain),
            plain(&worst.name),
            if worst.slices.len() > 1 { format!(" slice {slice}") } else { String::new() },
            error(worst)
        ))?;
    }
    print("")
}

fn as_json(checked: &Checked, compared: Option<&[Compared]>) -> serde_json::Value {
    let Checked { parts, problems, warnings, .. } = checked;
    let paths = |paths: &[PathBuf]| paths.iter().map(|path| plain::path(path)).collect::<Vec<_>>();
    json!({
        "pass": problems.is_empty(),
        "files": parts.files.iter().map(|part| plain::path(&part.path)).collect::<Vec<_>>(),
        "files_absent": paths(&parts.absent),
        "hashes": checked.hashes(),
        "files_without_manifest": paths(&checked.unlisted()),
        "tensors": parts.tensors().count(),
        "weights": parts.tensors().map(|(_, entry)| entry.weights()).sum::<u64>(),
        "problems": problems,
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "compared": compared.unwrap_or_default(),
    })
}
