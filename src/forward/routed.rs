//! Runs the tokens of a text through routed experts, one expert at a time; an expert that no token chose is not read.

use dense_kernels::Dense;

use super::states::States;
use crate::error::Result;
use crate::model::layer::{Experts, Inputs, Observer, Route};
use crate::model::{Description, Weights};

/// Tokens that go through a routed expert together. Fixed, as the pass's batches are.
const BATCH: usize = 2048;

/// Which tokens go where.
pub struct Routed {
    /// For each expert the tokens that chose it and their weights.
    chosen: Vec<Vec<(usize, f32)>>,
    /// The merit of every expert for every token, token after token; empty unless experts are shown others' tokens.
    merits: Vec<f32>,
    /// Tokens that every expert is shown at least.
    least: usize,
}

impl Routed {
    /// An empty table for so many experts, each of which is shown `least` tokens or more.
    pub fn new(experts: u32, least: usize) -> Self {
        Self { chosen: vec![Vec::new(); experts as usize], merits: Vec::new(), least }
    }

    /// Enters the next tokens, the first of which is `first`.
    pub fn add(&mut self, first: usize, routes: Vec<Route>) {
        for (token, route) in (first..).zip(routes) {
            for (expert, weight) in route.chosen {
                self.chosen[expert].push((token, weight));
            }
            if self.least > 0 {
                self.merits.extend(route.merits);
            }
        }
    }

    /// Sends the tokens through their experts, in the experts' order, and adds the weighted outputs to `states`.
    ///
    /// # Errors
    /// If an expert or the states cannot be read, and those of the observer.
    pub fn apply(
        &self,
        experts: &Experts,
        (weights, model, layer): (&Weights, &Description, usize),
        normed: &mut States,
        mut states: Option<&mut States>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        for (expert, chosen) in self.chosen.iter().enumerate() {
            let extra = self.extra(expert);
            if chosen.is_empty() && extra.is_empty() {
                continue;
            }
            let ffn = experts.expert(weights, model, layer, expert)?;
            for part in chosen.chunks(BATCH) {
                let (tokens, factors): (Vec<usize>, Vec<f32>) = part.iter().copied().unzip();
                let outputs: Dense = ffn.apply(&normed.gather(&tokens)?, observer)?;
                if let Some(states) = &mut states {
                    states.add(&tokens, &factors, &outputs)?;
                }
            }
            for part in extra.chunks(BATCH) {
                ffn.apply(&normed.gather(part)?, &mut Extra(observer))?;
            }
        }
        Ok(())
    }

    /// The tokens that an expert with fewer than the least is shown besides, those of most merit first.
    fn extra(&self, expert: usize) -> Vec<usize> {
        let chosen = &self.chosen[expert];
        if chosen.len() >= self.least {
            return Vec::new();
        }
        let experts = self.chosen.len();
        let merit = |token: usize| self.merits[token * experts + expert];
        let mut tokens: Vec<usize> = (0..self.merits.len() / experts)
            .filter(|token| chosen.binary_search_by_key(token, |c| c.0).is_err())
            .collect();
        tokens.sort_by(|&a, &b| merit(b).total_cmp(&merit(a)).then(a.cmp(&b)));
        tokens.truncate(self.least - chosen.len());
        tokens
    }
}

/// Passes on inputs as those of tokens that did not choose the expert.
struct Extra<'a>(&'a mut dyn Observer);

impl Observer for Extra<'_> {
    fn see(&mut self, input: Inputs<'_>) -> Result<()> {
        self.0.see_extra(input)
    }
}
