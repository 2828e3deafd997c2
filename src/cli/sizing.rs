//! The arguments that name a size instead of types, shared by `quantize` and `plan`, and what they decide.

use std::path::PathBuf;

use clap::Args;
use quant_kernels::Format;

use super::size;
use crate::checkpoint::{Checkpoint, Fingerprint};
use crate::disk;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::recipe::{Choice, Decision, Imatrix, Plan, Presence, Recipe, Wishes, decide, resolved};
use crate::report::{Size, grouped};
use crate::sensitivity::{Choices, DEFAULT_TYPES, Table, measure};

#[derive(Debug, Args)]
#[group(id = "budget", args = ["size", "bpw"])]
pub struct Sizing {
    /// The largest size that the file may have, or all files of a split together: 131GiB, 140GB, 16000MB. The types that
    /// the recipe leaves open are the best for it
    #[arg(long, value_name = "SIZE", value_parser = size::bytes)]
    size: Option<u64>,

    /// The same in bits per weight, over all tensors
    #[arg(long, value_name = "BITS", value_parser = bits)]
    bpw: Option<f64>,

    /// Only these types where the recipe leaves them open, separated by commas
    #[arg(long, value_name = "TYPES", value_delimiter = ',', requires = "budget")]
    types: Vec<Format>,

    /// Measured errors of the tensors by type: read if the file is there, else measured on a sample and written
    #[arg(long, value_name = "FILE", requires = "budget")]
    sensitivity: Option<PathBuf>,

    /// Write the types that were found as a recipe
    #[arg(long, value_name = "FILE.toml", requires = "budget")]
    save_recipe: Option<PathBuf>,
}

impl Sizing {
    /// Whether a size is named.
    pub fn is_given(&self) -> bool {
        self.size.is_some() || self.bpw.is_some()
    }

    /// The plan with the types that the size allows.
    ///
    /// # Errors
    /// If the recipe leaves nothing open, the size is impossible, or something cannot be read, measured or written.
    pub fn plan(
        &self,
        checkpoint: &Checkpoint,
        model: Model,
        source: Fingerprint,
        imatrix: Option<&Imatrix>,
        wishes: Wishes,
    ) -> Result<Plan> {
        let presence = if imatrix.is_some() { Presence::Present } else { Presence::Absent };
        let decisions = decide(&model, wishes.recipe, wishes.overrides, presence)?;
        if !decisions.iter().any(|decision| matches!(decision, Decision::Open { .. })) {
            let problem = "leaves no type open, so it has its own size; --size and --bpw want one with type = \"auto\", as the preset auto";
            return Err(Error::Recipe { recipe: wishes.recipe.name.clone(), problem: problem.into() });
        }
        let types = if self.types.is_empty() { &DEFAULT_TYPES[..] } else { &self.types };
        let table = self.table(checkpoint, &model, &source, imatrix, types)?;
        let (plan, text) = self.fitted(model, source, &wishes, &decisions, &table, types)?;
        if let Some(path) = &self.save_recipe {
            disk::write_whole(path, text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
        }
        Ok(plan)
    }

    fn table(
        &self,
        checkpoint: &Checkpoint,
        model: &Model,
        source: &Fingerprint,
        imatrix: Option<&Imatrix>,
        types: &[Format],
    ) -> Result<Table> {
        if let Some(path) = &self.sensitivity {
            let sha256 = imatrix.map(Imatrix::fingerprint);
            if let Some(table) = Table::read(path, source, sha256.as_deref())? {
                return Ok(table);
            }
        }
        let table = measure(checkpoint, model, source, imatrix, types)?;
        if let Some(path) = &self.sensitivity {
            table.save(path)?;
        }
        Ok(table)
    }

    /// Types, plan and recipe for the size. What the file has besides open tensors is found by laying one out.
    fn fitted(
        &self,
        model: Model,
        source: Fingerprint,
        wishes: &Wishes,
        decisions: &[Decision],
        table: &Table,
        types: &[Format],
    ) -> Result<(Plan, String)> {
        let name = match (self.size, self.bpw) {
            (Some(size), _) => format!("{} for {size} bytes", wishes.recipe.name),
            (_, Some(bpw)) => format!("{} for {bpw} bits per weight", wishes.recipe.name),
            (None, None) => unreachable!("a size is given"),
        };
        let about =
            format!("What the recipe {} came to; made by quantpress {}.", name, env!("CARGO_PKG_VERSION"));
        let make = |model: Model, source, choices: &[Choice]| {
            let text = resolved(&model, wishes.recipe, &name, &about, choices);
            let recipe = Recipe::parse(&name, &text)?;
            Ok::<_, Error>((Plan::new(model, source, Wishes { recipe: &recipe, ..wishes.clone() })?, text))
        };

        let choices = Choices::new(&model, decisions, table, types)?;
        let range = choices.range();
        let smallest = choices.smallest()?;
        drop(choices);
        let mut plan = make(model, source, &smallest)?.0;
        let besides = plan.file_bytes() - range.smallest;
        let limit = match (self.size, self.bpw) {
            (Some(size), _) => size,
            (_, Some(bpw)) => {
                let tensors = (bpw / 8.0 * plan.model.weights() as f64) as u64;
                (plan.file_bytes() - plan.tensor_bytes()).saturating_add(tensors)
            }
            (None, None) => unreachable!("a size is given"),
        };
        let mut budget = limit.saturating_sub(besides);
        // Where files of a split begin depends on the sizes, and with it some padding: a second look settles it.
        for _ in 0..8 {
            let found = Choices::new(&plan.model, decisions, table, types)?.choose(budget)?;
            let Ok(found) = found else { break };
            let Plan { model, source, .. } = plan;
            let (made, text) = make(model, source, &found)?;
            match made.file_bytes().checked_sub(limit) {
                None | Some(0) => return Ok((made, text)),
                Some(excess) => budget = budget.saturating_sub(excess),
            }
            plan = made;
        }
        Err(Error::Argument(format!(
            "{} is asked for, which the recipe {} cannot make of this model: the smallest file has {} bytes, {}, the \
             largest {} bytes, {}",
            Size(limit),
            wishes.recipe.name,
            grouped(besides + range.smallest),
            Size(besides + range.smallest),
            grouped(besides + range.largest),
            Size(besides + range.largest),
        )))
    }
}

/// Bits per weight that make sense.
fn bits(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(bits) if (0.1..=32.0).contains(&bits) => Ok(bits),
        _ => Err(format!("\"{text}\" is no number of bits per weight; expected one as 1.67")),
    }
}
