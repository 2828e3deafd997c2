//! The arguments that give a size instead of types, shared by `quantize` and `plan`.

use std::path::{Path, PathBuf};

use clap::Args;
use quant_kernels::Format;

use super::interrupt;
use super::machine::MachineArguments;
use super::outputs::{Existing, Files};
use super::progress::{Display, Style};
use super::size::{self, Limit};
use crate::checkpoint::{Checkpoint, Fingerprint};
use crate::error::Result;
use crate::log;
use crate::model::Model;
use crate::recipe::{Wishes, format};
use crate::sensitivity::DEFAULT_TYPES;
use crate::sizing::{self, SizedPlan, Target};

#[derive(Debug, Args)]
pub struct Sizing {
    #[command(flatten)]
    budget: Budget,

    /// Only these types where the recipe leaves them open, separated by commas
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = format, requires = "budget")]
    types: Vec<Format>,

    /// Measured errors of the tensors by type: read if the file is there, else measured on a sample and written
    #[arg(long, value_name = "FILE", requires = "budget")]
    sensitivity: Option<PathBuf>,

    /// Write the types that were found as a recipe
    #[arg(long, value_name = "FILE.toml", requires = "budget")]
    save_recipe: Option<PathBuf>,
}

/// The size in one of two ways. A struct of its own, since all fields of a struct are in its group.
#[derive(Debug, Args)]
#[group(id = "budget", multiple = false)]
struct Budget {
    /// The largest size that the file may have, or all files of a split together: 131GiB, 140GB (GiB are 1024^3
    /// bytes, GB and G 1000^3). The types that the recipe leaves open are the best for it. With auto, the largest
    /// that runs well on the machine of --ram
    #[arg(
        long,
        value_name = "SIZE|auto",
        value_parser = size::limit,
        requires_if(size::AUTO, "ram"),
        allow_hyphen_values = true
    )]
    size: Option<Limit>,

    /// The same in bits per weight, over all tensors
    #[arg(long, value_name = "BITS", value_parser = bits, allow_hyphen_values = true)]
    bpw: Option<f64>,
}

impl Sizing {
    /// Whether a size is named.
    pub fn is_given(&self) -> bool {
        self.budget.size.is_some() || self.budget.bpw.is_some()
    }

    /// Whether the machine decides the size.
    pub fn is_auto(&self) -> bool {
        self.budget.size == Some(Limit::Auto)
    }

    /// Adds the files that are read and written for it.
    pub fn files(&self, files: &mut Files) {
        match &self.sensitivity {
            Some(table) if table.exists() => files.read("--sensitivity", [table]),
            table => files.write("--sensitivity", table.as_deref(), &[".part"], Existing::Refused),
        }
        files.write("--save-recipe", self.save_recipe.as_deref(), &[".part"], Existing::Known);
    }

    /// Where the recipe is to be saved.
    pub fn save_recipe(&self) -> Option<&Path> {
        self.save_recipe.as_deref()
    }

    /// The plan of the size that is asked for. A sample is measured on so many threads, and it is
    /// shown how far that is.
    ///
    /// # Errors
    /// As [`sizing::Sizing::plan`], and if the machine cannot be so.
    pub fn plan(
        &self,
        checkpoint: &Checkpoint,
        model: &Model,
        source: &Fingerprint,
        wishes: Wishes,
        machine: &MachineArguments,
        (threads, style): (usize, Style),
    ) -> Result<SizedPlan> {
        let target = match (self.budget.size, self.budget.bpw) {
            (Some(Limit::Bytes(limit)), _) => Target::Bytes(limit),
            (Some(Limit::Auto), _) => {
                Target::Machine(machine.machine(model)?.expect("--size auto requires --ram"))
            }
            (None, bpw) => Target::BitsPerWeight(bpw.expect("a size is given")),
        };
        let types = if self.types.is_empty() { &DEFAULT_TYPES[..] } else { &self.types };
        let table = self.sensitivity.as_deref();
        if table.is_none_or(|table| !table.exists()) && style != Style::Quiet {
            let (tensors, types) = (model.tensors.len(), types.len());
            log::begin(format_args!("a sample of {tensors} tensors is encoded in {types} types each"));
        }
        let display = Display::new(style);
        let sizing = sizing::Sizing { target, types, table, threads, stop: interrupt::flag() };
        sizing.plan(checkpoint, model, source, wishes, &display.told())
    }
}

/// Bits per weight that make sense.
fn bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.1..=32.0).contains(&bits) => Ok(bits),
        _ => Err(format!("\"{text}\" is no number of bits per weight; expected one as 1.67")),
    }
}
