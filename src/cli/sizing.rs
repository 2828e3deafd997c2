//! The arguments that give a size instead of types, shared by `quantize` and `plan`, and the plan that follows from
//! them.

use std::path::{Path, PathBuf};

use clap::Args;
use quant_kernels::Format;

use super::interrupt;
use super::machine::MachineArguments;
use super::outputs::{Existing, Files};
use super::planning::on_threads;
use super::size::{self, Limit};
use super::sized::{Found, Road};
use crate::checkpoint::{Checkpoint, Fingerprint};
use crate::error::{Error, Result, Warning};
use crate::machine::Needs;
use crate::model::Model;
use crate::recipe::{Decision, Imatrix, Plan, Presence, Tradeoff, Wishes, decide, format};
use crate::report::{Memory, Size};
use crate::sensitivity::{Choices, DEFAULT_TYPES, Sampling, Table, measure};

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

/// A plan of a size.
pub struct Sized {
    pub plan: Plan,
    /// The recipe that makes it, as TOML.
    pub recipe: String,
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

    /// The plan with the types that the size allows, with the trade-off that led to it. A sample is measured on so
    /// many threads.
    ///
    /// # Errors
    /// If the recipe leaves nothing open, the size is impossible, or something cannot be read, measured or written.
    pub fn plan(
        &self,
        checkpoint: &Checkpoint,
        model: &Model,
        source: &Fingerprint,
        wishes: Wishes,
        machine: &MachineArguments,
        threads: usize,
    ) -> Result<Sized> {
        let imatrix = wishes.imatrix;
        let presence = if imatrix.is_some() { Presence::Present } else { Presence::Absent };
        let decisions = decide(model, wishes.recipe, wishes.overrides, presence)?;
        if !decisions.iter().any(|decision| matches!(decision, Decision::Open { .. })) {
            let problem = "leaves no type open, so it has its own size; --size and --bpw want one with type = \"auto\", as the preset auto";
            return Err(Error::Recipe { recipe: wishes.recipe.name.clone(), problem: problem.into() });
        }
        let dead = wishes.recipe.dead_rules(model, wishes.overrides);
        let types = if self.types.is_empty() { &DEFAULT_TYPES[..] } else { &self.types };
        let sampling = Sampling { store: checkpoint, model, source, imatrix, types, stop: interrupt::flag() };
        let (table, warnings) = self.table(&sampling, threads)?;
        let choices = Choices::new(model, &decisions, &table, types, wishes.feedback.is_some())?;
        let (found, tradeoff) = self.found(model, source, wishes, choices, machine)?;
        let mut plan = Plan { tradeoff: Some(tradeoff), ..found.plan };
        plan.warnings.extend(dead.into_iter().chain(warnings));
        Ok(Sized { plan, recipe: found.recipe })
    }

    /// The table of sensitivities: read if it was kept, else measured now, with warnings about tensors that look
    /// damaged.
    fn table(&self, sampling: &Sampling, threads: usize) -> Result<(Table, Vec<Warning>)> {
        if let Some(path) = &self.sensitivity {
            let sha256 = sampling.imatrix.map(Imatrix::fingerprint);
            if let Some(table) = Table::read(path, sampling.source, sha256.as_deref())? {
                return Ok((table, Vec::new()));
            }
        }
        let (table, warnings) = on_threads(threads, || measure(sampling))??;
        if let Some(path) = &self.sensitivity {
            table.save(path, false)?;
        }
        Ok((table, warnings))
    }

    /// The plan of the size that is asked for.
    fn found(
        &self,
        model: &Model,
        source: &Fingerprint,
        wishes: Wishes,
        choices: Choices,
        machine: &MachineArguments,
    ) -> Result<(Found, Tradeoff)> {
        let base = wishes.recipe.name.clone();
        let name = |limit: u64| format!("{base} for {limit} bytes");
        let (road, found, wanted);
        match (self.budget.size, self.budget.bpw) {
            (Some(Limit::Bytes(limit)), _) => {
                road = Road::new(model, source, wishes, choices, &name(limit))?;
                (found, wanted) = (road.sized(&name(limit), limit)?, Size(limit).to_string());
            }
            (Some(Limit::Auto), _) => {
                // No size has a longer name, so none of the plans has more besides its tensors than the smallest.
                road = Road::new(model, source, wishes, choices, &name(u64::MAX))?;
                let machine =
                    machine.machine(&Needs::of(road.smallest()))?.expect("--size auto requires --ram");
                wanted = format!("a file that runs well on a machine with {}", Memory(&machine));
                found = road.for_machine(&machine, name)?;
            }
            (None, bpw) => {
                let bpw = bpw.expect("a size is given");
                let name = format!("{base} for {bpw} bits per weight");
                road = Road::new(model, source, wishes, choices, &name)?;
                let (smallest, tensors) = (road.smallest(), (bpw / 8.0 * model.weights() as f64) as u64);
                let limit = (smallest.file_bytes() - smallest.tensor_bytes()).saturating_add(tensors);
                (found, wanted) = (road.sized(&name, limit)?, Size(limit).to_string());
            }
        }
        let found = found.ok_or_else(|| road.impossible(&wanted))?;
        let tradeoff = road.tradeoff(&found);
        Ok((found, tradeoff))
    }
}

/// Bits per weight that make sense.
fn bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.1..=32.0).contains(&bits) => Ok(bits),
        _ => Err(format!("\"{text}\" is no number of bits per weight; expected one as 1.67")),
    }
}
