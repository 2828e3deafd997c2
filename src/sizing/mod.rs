//! Between choosing and working: a size instead of types. What each type would cost is measured or read, an allocation
//! under the size chooses, and the result is an ordinary recipe and its plan.

mod sizes;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use quant_kernels::Format;

use crate::checkpoint::Fingerprint;
use crate::error::{Error, Result, Warning};
use crate::machine::Machine;
use crate::model::Model;
use crate::progress::Told;
use crate::recipe::{Decision, Imatrix, Plan, Presence, Tradeoff, Wishes, decide};
use crate::sensitivity::{Choices, DEFAULT_TYPES, Sampling, Table, measure};
use crate::size::Size;
use crate::stop;
use crate::store::Store;
use crate::threads;
use sizes::{Found, Sizes};

/// How large the file shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most so many bytes, of all files of a split together.
    Bytes(u64),
    /// At most so many bits per weight, over all tensors.
    BitsPerWeight(f64),
    /// As many bytes as run well on the machine: all held in memory if the model can be that small, else streamed.
    Machine(Machine),
}

/// How a size is met.
#[derive(Clone, Copy, Debug)]
pub struct Sizing<'a> {
    /// The size.
    pub target: Target,
    /// The types that are tried where the recipe leaves them open.
    pub types: &'a [Format],
    /// A table of what each type costs each tensor: read if the file is there, else measured and written; measured and
    /// forgotten if None.
    pub table: Option<&'a Path>,
    /// Threads that measure. The plan does not depend on their number.
    pub threads: usize,
    /// Becomes true when the user wants to stop.
    pub stop: &'a AtomicBool,
}

/// A plan of a size.
#[derive(Debug)]
pub struct SizedPlan {
    /// The plan, with the trade-off that led to it.
    pub plan: Plan,
    /// The recipe that makes it, as TOML: with this recipe, the same plan needs no size and no measuring.
    pub recipe: String,
}

impl Sizing<'_> {
    /// This size, of [`DEFAULT_TYPES`], measured on all threads of the machine.
    pub fn new(target: Target) -> Self {
        let threads = threads::available();
        Self { target, types: &DEFAULT_TYPES, table: None, threads, stop: stop::never() }
    }

    /// The plan with the types that the size allows; the recipe of `wishes` must leave some open, as the preset `auto`
    /// does. Without a table it reads a sample of the weights, a few seconds for small models, and tells of its
    /// tensors.
    ///
    /// # Errors
    /// If the recipe leaves nothing open, no file has such a size, or something cannot be read, measured or written.
    pub fn plan(
        &self,
        store: &dyn Store,
        model: &Model,
        source: &Fingerprint,
        wishes: Wishes,
        told: Told<'_>,
    ) -> Result<SizedPlan> {
        let imatrix = wishes.imatrix;
        let presence = if imatrix.is_some() { Presence::Present } else { Presence::Absent };
        let decisions = decide(model, wishes.recipe, wishes.overrides, presence)?;
        if !decisions.iter().any(|decision| matches!(decision, Decision::Open { .. })) {
            let problem = "leaves no type open, so it has its own size; for another take one with type = \"auto\", as the preset auto";
            return Err(Error::Recipe { recipe: wishes.recipe.name.clone(), problem: problem.into() });
        }
        let dead = wishes.recipe.dead_rules(model, wishes.overrides);
        let Self { types, stop, .. } = *self;
        tracing::debug!(?types, measured = self.table.is_none(), "what types cost");
        let (table, warnings) = self.table(&Sampling { store, model, source, imatrix, types, stop }, told)?;
        let choices = Choices::new(model, &decisions, &table, types, wishes.feedback.is_some())?;
        let (found, tradeoff) = self.found(model, source, wishes, choices)?;
        let mut plan = Plan { tradeoff: Some(tradeoff), ..found.plan };
        plan.warnings.extend(dead.into_iter().chain(warnings));
        Ok(SizedPlan { plan, recipe: found.recipe })
    }

    /// What each type costs each tensor: as it was kept, or measured now, with what seemed to be damaged.
    fn table(&self, sampling: &Sampling, told: Told<'_>) -> Result<(Table, Vec<Warning>)> {
        if let Some(path) = self.table {
            let sha256 = sampling.imatrix.map(Imatrix::fingerprint);
            if let Some(table) = Table::read(path, sampling.source, sha256.as_deref())? {
                return Ok((table, Vec::new()));
            }
        }
        let (table, warnings) = threads::on(self.threads, || measure(sampling, told))??;
        if let Some(path) = self.table {
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
    ) -> Result<(Found, Tradeoff)> {
        let base = wishes.recipe.name.clone();
        let name = |limit: u64| format!("{base} for {limit} bytes");
        let (sizes, found, wanted);
        match &self.target {
            &Target::Bytes(limit) => {
                sizes = Sizes::new(model, source, wishes, choices, &name(limit))?;
                (found, wanted) = (sizes.sized(&name(limit), limit)?, Size(limit).to_string());
            }
            Target::Machine(machine) => {
                // No size has a longer name, so none of the plans has more besides its tensors than the smallest.
                sizes = Sizes::new(model, source, wishes, choices, &name(u64::MAX))?;
                wanted = format!("a file that runs well on a machine with {}", machine.memory());
                found = sizes.for_machine(machine, name)?;
            }
            Target::BitsPerWeight(bits) => {
                let name = format!("{base} for {bits} bits per weight");
                sizes = Sizes::new(model, source, wishes, choices, &name)?;
                let (smallest, tensors) = (sizes.smallest(), (bits / 8.0 * model.weights() as f64) as u64);
                let limit = (smallest.file_bytes() - smallest.tensor_bytes()).saturating_add(tensors);
                (found, wanted) = (sizes.sized(&name, limit)?, Size(limit).to_string());
            }
        }
        let found = found.ok_or_else(|| sizes.impossible(&wanted))?;
        let tradeoff = sizes.tradeoff(&found);
        Ok((found, tradeoff))
    }
}
