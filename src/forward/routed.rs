//! Runs the tokens of a text through routed experts, as many at the same time as memory has room for; an expert that
//! no token chose is not read.

use dense_kernels::Dense;

use super::back::{Inner, OfExpert};
use super::states::{States, Sum};
use crate::error::Result;
use crate::model::layer::{Experts, GatedAt, Inputs, Observer, OpenGated, Route, Show};
use crate::model::{Description, Weights};
use crate::threads;

/// Tokens that go through a routed expert together. Fixed, as the pass's batches are.
const BATCH: usize = 2048;

/// The routed experts of a layer, and what they are read from.
pub struct Open<'a> {
    /// What they are.
    pub experts: &'a Experts,
    /// Their weights.
    pub weights: &'a Weights<'a>,
    /// Where their weights are once the observer has been shown all inputs of a matrix, if it quantizes them in turn.
    pub quantized: Option<&'a Weights<'a>>,
    /// What the model is.
    pub model: &'a Description,
    /// Their layer.
    pub layer: usize,
}

impl Open<'_> {
    fn sizes(&self) -> [usize; 2] {
        [self.model.hidden, self.experts.width].map(|n| n as usize)
    }

    /// Places of the tensors that multiply the inputs of all experts.
    ///
    /// # Errors
    /// If one is missing.
    pub fn gate_and_up(&self) -> Result<[usize; 2]> {
        let [gate, up, _] = self.at(0).places(self.weights)?;
        Ok([gate, up])
    }

    fn at(&self, expert: usize) -> GatedAt {
        self.experts.expert_at(self.model, self.layer, expert)
    }
}

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

    /// How many tokens chose each expert.
    pub fn tokens(&self) -> Vec<usize> {
        self.chosen.iter().map(Vec::len).collect()
    }

    /// Sends the tokens through their experts, and adds the weighted outputs to `states`, in the experts' order; goes back
    /// through each expert besides, if gradients behind them are known. Experts that need more than `memory` bytes together
    /// are not computed at the same time.
    ///
    /// # Errors
    /// If an expert or the states cannot be read, and those of the observer.
    pub fn apply(
        &self,
        experts: &Open<'_>,
        normed: &States,
        mut states: Option<&mut States>,
        mut inner: Option<&mut Inner<'_>>,
        observer: &dyn Observer,
        memory: u64,
    ) -> Result<()> {
        let show = Show { observer, outputs: states.is_some() };
        for group in self.groups(experts, show, memory) {
            let known = inner.as_deref();
            let made: Vec<(Vec<Sum>, Vec<OfExpert>)> =
                threads::try_map("expert", &group, |&expert| match experts.quantized {
                    Some(quantized) => self.in_turn(experts, quantized, expert, normed, known, observer),
                    None => self.expert(experts, expert, normed, known, show),
                })?;
            let (outputs, back): (Vec<Vec<Sum>>, Vec<Vec<OfExpert>>) = made.into_iter().unzip();
            if let Some(states) = &mut states {
                let sums: Vec<Sum> = outputs.into_iter().flatten().collect();
                states.add(&sums)?;
                // To give back so much memory takes time, too.
                threads::each("drop", sums, drop);
            }
            if let Some(inner) = &mut inner {
                inner.add(back.into_iter().flatten().collect())?;
            }
        }
        Ok(())
    }

    /// The experts that are to see tokens, in order, by those that there is room for at the same time.
    fn groups(&self, experts: &Open<'_>, show: Show<'_>, memory: u64) -> Vec<Vec<usize>> {
        let (sizes, in_turn) = (experts.sizes(), experts.quantized.is_some());
        let [matrices, of_token] = OpenGated::bytes(sizes);
        let tokens = |expert: usize| self.chosen[expert].len().max(self.least);
        let bytes = |&expert: &usize| {
            let tokens = tokens(expert);
            let outputs = if show.outputs { tokens * sizes[0] * 4 } else { 0 };
            let kept = if in_turn { tokens * sizes[1] * 4 } else { 0 };
            let of_observer = show.observer.bytes_of_expert(expert, sizes);
            matrices + of_observer + tokens.min(BATCH) as u64 * of_token + (outputs + kept) as u64
        };
        let seeing = (0..self.chosen.len()).filter(|&expert| tokens(expert) > 0);
        threads::groups(seeing, memory, bytes)
    }

    /// Sends its tokens through an expert; what it adds to their states, if that is wanted, and to the gradients at its
    /// inputs, if those are.
    fn expert(
        &self,
        experts: &Open<'_>,
        expert: usize,
        normed: &States,
        inner: Option<&Inner<'_>>,
        show: Show<'_>,
    ) -> Result<(Vec<Sum>, Vec<OfExpert>)> {
        let ffn = experts.at(expert).open(experts.weights)?;
        let mut outputs = Vec::new();
        for (rows, factors) in self.parts(expert) {
            let values = ffn.apply(&normed.gather(&rows)?, show)?;
            outputs.extend(values.map(|values| Sum { rows, factors, values }));
        }
        for part in self.extra(expert).chunks(BATCH) {
            let extra = Extra(show.observer);
            ffn.apply(&normed.gather(part)?, Show { observer: &extra, outputs: false })?;
        }
        let back = match inner {
            Some(inner) => self.back(&ffn, expert, normed, inner, show.observer)?,
            None => Vec::new(),
        };
        let places = ffn.places();
        drop(ffn);
        show.observer.seen(&places, expert)?;
        Ok((outputs, back))
    }

    /// The same where the observer quantizes each matrix as soon as it has been shown all of its inputs, and what the matrix
    /// gives is that of the quantized one.
    fn in_turn(
        &self,
        experts: &Open<'_>,
        quantized: &Weights<'_>,
        expert: usize,
        normed: &States,
        inner: Option<&Inner<'_>>,
        observer: &dyn Observer,
    ) -> Result<(Vec<Sum>, Vec<OfExpert>)> {
        let at = experts.at(expert);
        let places = at.places(quantized)?;
        let (gate_and_up, down) = places.split_at(2);
        let see = |tensors: &[usize], inputs: &Dense| {
            observer.see(Inputs { tensors, slice: expert, inputs: inputs.view() })
        };
        for (rows, _) in self.parts(expert) {
            see(gate_and_up, &normed.gather(&rows)?)?;
        }
        let back = match inner {
            Some(inner) => self.back(&at.open(experts.weights)?, expert, normed, inner, observer)?,
            None => Vec::new(),
        };
        observer.seen(gate_and_up, expert)?;
        let gated = at.inner(quantized)?;
        let made = self.parts(expert).map(|(rows, factors)| {
            let values = gated.apply(&normed.gather(&rows)?);
            see(down, &values)?;
            Ok(Sum { rows, factors, values })
        });
        let made: Vec<Sum> = made.collect::<Result<_>>()?;
        drop(gated);
        observer.seen(down, expert)?;
        let down = at.down(quantized)?;
        let outputs = made.into_iter().map(|of| Sum { values: down.apply(of.values.view()), ..of });
        Ok((outputs.collect(), back))
    }

    /// Goes back through an expert, as far as gradients behind it are known.
    fn back(
        &self,
        ffn: &OpenGated,
        expert: usize,
        normed: &States,
        inner: &Inner<'_>,
        observer: &dyn Observer,
    ) -> Result<Vec<OfExpert>> {
        let chosen = &self.chosen[expert];
        let known = chosen.partition_point(|&(token, _)| token < inner.tokens());
        let mut back = Vec::new();
        for part in chosen[..known].chunks(BATCH) {
            let (rows, factors): (Vec<usize>, Vec<f32>) = part.iter().copied().unzip();
            back.extend(inner.expert(ffn, expert, rows, &factors, normed, observer)?);
        }
        Ok(back)
    }

    /// The tokens of an expert and their weights, by those that go through it together.
    fn parts(&self, expert: usize) -> impl Iterator<Item = (Vec<usize>, Vec<f32>)> {
        self.chosen[expert].chunks(BATCH).map(|part| part.iter().copied().unzip())
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
struct Extra<'a>(&'a dyn Observer);

impl Observer for Extra<'_> {
    fn see(&self, input: Inputs<'_>) -> Result<()> {
        self.0.see_extra(input)
    }
}
