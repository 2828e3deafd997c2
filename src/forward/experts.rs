//! The experts of a layer: the router and the shared experts see every token, each routed expert only those that chose
//! it. One routed expert is in memory at a time, and none is read that no token chose.

use dense_kernels::Dense;

use super::apply;
use super::ffn::Ffn;
use super::pass::{Input, Observer};
use super::router::Router;
use super::shape::Shape;
use super::states::States;
use super::weights::Weights;
use crate::error::Result;

/// Tokens that go through a routed expert together. Fixed, as the pass's batches are.
const BATCH: usize = 2048;

/// What every token goes through.
pub struct Experts {
    layer: usize,
    router: Router,
    gate: Dense,
    bias: Option<Dense>,
    shared: Ffn,
}

/// Who goes where.
pub struct Routed {
    /// For each expert the tokens that chose it and their weights.
    chosen: Vec<Vec<(usize, f32)>>,
    /// The merit of every expert for every token, token after token.
    merits: Vec<f32>,
}

impl Experts {
    /// Reads router and shared experts.
    pub fn read(weights: &dyn Weights, shape: &Shape, layer: usize) -> Result<Self> {
        let bias = format!("blk.{layer}.exp_probs_b.bias");
        let bias = match weights.extent(&bias) {
            Some(_) => Some(weights.vector(&bias, shape.experts)?),
            None => None,
        };
        Ok(Self {
            layer,
            router: shape.router,
            gate: weights.matrix(
                &format!("blk.{layer}.ffn_gate_inp.weight"),
                0,
                [shape.experts, shape.hidden],
            )?,
            bias,
            shared: Ffn::read(weights, shape, layer, "_shexp", 0)?,
        })
    }

    /// Nobody yet.
    pub fn routed(&self) -> Routed {
        Routed { chosen: vec![Vec::new(); self.gate.rows()], merits: Vec::new() }
    }

    /// Routes normalised states of tokens from `first` on, and gives what the shared experts make of them.
    pub fn shared(
        &self,
        inputs: &Dense,
        first: usize,
        routed: &mut Routed,
        observer: &mut dyn Observer,
    ) -> Result<Dense> {
        let input = Input { layer: self.layer, tensors: &["ffn_gate_inp"], slice: 0, inputs: inputs.view() };
        observer.see(input)?;
        let logits = apply(&self.gate, inputs.view());
        let bias = self.bias.as_ref().map(Dense::values);
        for (token, logits) in logits.values().chunks_exact(self.gate.rows()).enumerate() {
            let scores = self.router.scores(logits);
            for (expert, weight) in self.router.choose(&scores, bias) {
                routed.chosen[expert].push((first + token, weight));
            }
            if observer.least_tokens() > 0 {
                let bias = |expert| bias.map_or(0.0, |bias| bias[expert]);
                routed.merits.extend(scores.iter().enumerate().map(|(expert, score)| score + bias(expert)));
            }
        }
        self.shared.apply(inputs, observer)
    }
}

impl Routed {
    /// Sends the tokens through their experts, in the experts' order, and adds the weighted outputs to `states`.
    pub fn apply(
        &self,
        weights: &dyn Weights,
        shape: &Shape,
        layer: usize,
        normed: &mut States,
        mut states: Option<&mut States>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        for (expert, chosen) in self.chosen.iter().enumerate() {
            let extra = self.extra(expert, observer.least_tokens());
            if chosen.is_empty() && extra.is_empty() {
                continue;
            }
            let ffn = Ffn::read(weights, shape, layer, "_exps", expert)?;
            for part in chosen.chunks(BATCH) {
                let (tokens, factors): (Vec<usize>, Vec<f32>) = part.iter().copied().unzip();
                let outputs = ffn.apply(&normed.gather(&tokens)?, observer)?;
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

    /// The tokens that an expert with fewer than `least` is shown besides, those of most merit first.
    fn extra(&self, expert: usize, least: usize) -> Vec<usize> {
        let chosen = &self.chosen[expert];
        if chosen.len() >= least {
            return Vec::new();
        }
        let experts = self.chosen.len();
        let merit = |token: usize| self.merits[token * experts + expert];
        let mut tokens: Vec<usize> = (0..self.merits.len() / experts)
            .filter(|token| chosen.binary_search_by_key(token, |c| c.0).is_err())
            .collect();
        tokens.sort_by(|&a, &b| merit(b).total_cmp(&merit(a)).then(a.cmp(&b)));
        tokens.truncate(least - chosen.len());
        tokens
    }
}

/// Passes on what it sees as extra.
struct Extra<'a>(&'a mut dyn Observer);

impl Observer for Extra<'_> {
    fn see(&mut self, input: Input<'_>) -> Result<()> {
        self.0.see_extra(input)
    }
}
