//! From expected damages to a plan: for a given size, or for the largest that runs well on a machine.

use crate::checkpoint::Fingerprint;
use crate::error::{Error, Result};
use crate::machine::{Fit, Machine, Needs};
use crate::model::Model;
use crate::recipe::{Candidate, Impossible, Plan, Recipe, Tradeoff, Wishes, resolved};
use crate::sensitivity::{Choices, Chosen};
use crate::size::{Size, grouped};

/// Points of the trade-off curve, at most.
const POINTS: u64 = 48;

/// The largest size that runs well is found to this share.
const TOLERANCE: u64 = 1000;

/// All plans of a model between the smallest and the largest.
pub struct Sizes<'a> {
    model: &'a Model,
    source: &'a Fingerprint,
    wishes: Wishes<'a>,
    choices: Choices<'a>,
    smallest: Plan,
    /// Bytes of the open tensors.
    range: Impossible,
    /// Bytes of everything else.
    besides: u64,
}

/// A plan, with the choice of types behind it.
pub struct Found {
    pub plan: Plan,
    /// The recipe that makes it, as TOML.
    pub recipe: String,
    /// Bytes and expected damage of the tensors that were open.
    open: Candidate,
}

impl<'a> Sizes<'a> {
    /// Lays out the smallest plan under this name: what a file has besides open tensors is found by that.
    pub fn new(
        model: &'a Model,
        source: &'a Fingerprint,
        wishes: Wishes<'a>,
        choices: Choices<'a>,
        name: &str,
    ) -> Result<Self> {
        let smallest = laid_out(model, source, &wishes, name, choices.smallest()?)?.plan;
        let range = choices.range();
        let besides = smallest.file_bytes() - range.smallest;
        Ok(Self { model, source, wishes, choices, smallest, range, besides })
    }

    /// The smallest plan.
    pub fn smallest(&self) -> &Plan {
        &self.smallest
    }

    /// The best plan of at most `limit` bytes; None if there is none, or all are far smaller.
    pub fn sized(&self, name: &str, limit: u64) -> Result<Option<Found>> {
        let mut budget = limit.saturating_sub(self.besides);
        // Where files of a split begin depends on the sizes, and with it some padding: a second look settles it.
        for _ in 0..8 {
            let Ok(chosen) = self.choices.choose(budget)? else { break };
            let found = laid_out(self.model, self.source, &self.wishes, name, chosen)?;
            let bytes = found.plan.file_bytes();
            tracing::debug!(limit, bytes, damage = found.open.damage, "a plan for the size");
            match found.plan.file_bytes().checked_sub(limit) {
                None | Some(0) => return Ok(Some(found)),
                Some(excess) => budget = budget.saturating_sub(excess),
            }
        }
        Ok(None)
    }

    /// The plan of the largest size that runs well on the machine: all held in memory if the model can be that small,
    /// else streamed. None if no plan does. `name` gives a size's recipe its name.
    pub fn for_machine(&self, machine: &Machine, name: impl Fn(u64) -> String) -> Result<Option<Found>> {
        let smallest = self.smallest.file_bytes();
        let budget = Fit::new(&Needs::of(&self.smallest), machine).budget;
        let Some(most) = budget.choose(smallest) else { return Ok(None) };
        let held = budget.held == Some(most);
        // The budget is that of the smallest plan's experts. In larger files the other tensors grow too and take room
        // from the experts, so it is an upper bound. Layers go to a graphics card whole, and a file may just miss what
        // a larger one meets: so from above in eighths, and then in halves.
        let most = most.min(self.besides + self.range.largest);
        let part = (most - smallest).div_ceil(8).max(1);
        let (mut low, mut high, mut found) = (smallest, most, false);
        let mut size = most;
        loop {
            if self.runs_well(size, machine, held)? {
                (low, found) = (size, true);
            } else {
                high = size;
            }
            size = match found {
                true if high - low > low / TOLERANCE => low + (high - low) / 2,
                true => return self.sized(&name(low), low),
                false if high > smallest => (high - part.min(high)).max(smallest),
                false => return Ok(None),
            };
        }
    }

    /// Whether the best file of that size runs well on the machine, and without the disk if it shall be held in memory.
    /// The file is not laid out: that is most of the time of a plan.
    fn runs_well(&self, size: u64, machine: &Machine, held: bool) -> Result<bool> {
        let Ok(chosen) = self.choices.choose(size.saturating_sub(self.besides))? else { return Ok(false) };
        let needs = Needs::of_choices(self.model, &chosen.choices, self.besides + chosen.open.bytes);
        let fit = Fit::new(&needs, machine);
        tracing::debug!(
            size,
            missing = fit.missing,
            read_per_token = fit.read_per_token,
            "would it run well?"
        );
        Ok(fit.well && (fit.read_per_token == 0 || !held))
    }

    /// Sizes and damages of other plans, for the report.
    pub fn tradeoff(&self, found: &Found) -> Tradeoff {
        let bytes = found.plan.file_bytes();
        let besides = bytes - found.open.bytes;
        let mut curve = self.choices.curve(POINTS);
        for point in &mut curve {
            point.bytes += besides;
        }
        Tradeoff { curve, chosen: Candidate { bytes, damage: found.open.damage } }
    }

    /// The error that `wanted` cannot be had, with what can.
    pub fn impossible(&self, wanted: &str) -> Error {
        let [smallest, largest] = [self.range.smallest, self.range.largest].map(|bytes| bytes + self.besides);
        Error::Argument(format!(
            "{wanted} is asked for, which the recipe {} cannot make of this model: the smallest file has {} bytes, {}, \
             the largest {} bytes, {}",
            self.wishes.recipe.name,
            grouped(smallest),
            Size(smallest),
            grouped(largest),
            Size(largest),
        ))
    }
}

/// The plan with these types, by way of an ordinary recipe.
fn laid_out(
    model: &Model,
    source: &Fingerprint,
    wishes: &Wishes,
    name: &str,
    chosen: Chosen,
) -> Result<Found> {
    let about = format!("What the recipe {name} came to; made by quantpress {}.", env!("CARGO_PKG_VERSION"));
    let text = resolved(model, wishes.recipe, name, &about, &chosen.choices);
    let recipe = Recipe::parse(name, &text)?;
    let plan = Plan::new(model.clone(), source.clone(), Wishes { recipe: &recipe, ..wishes.clone() })?;
    Ok(Found { plan, recipe: text, open: chosen.open })
}
