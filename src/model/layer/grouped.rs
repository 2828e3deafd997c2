//! Attention with heads of their own queries, groups of which share keys and values (GQA; MHA if each has its own).
//!
//! ```text
//! q, k, v = W_q x, W_k x, W_v x (+ biases)      head h uses the keys and values of head h * kv_heads / heads
//! q, k = norms, then rotations of the first columns of each head
//! scores = q k / sqrt(width)  for tokens up to oneself, at most `window` of them; a sink joins the softmax without a value
//! output = W_o (softmax(scores) v) (+ bias)     with a gate: W_o (softmax(scores) v * sigmoid(g)); W_q makes q and g
//! ```

mod back;

use std::ops::Range;

use dense_kernels::{Accum, Dense, View, one_thread};

use super::norm::{normalise, sigmoid, softmax};
use super::{ATTENTION_NORM, Attend, Chunks, Inputs, Show, apply, biased, by_heads};
use crate::error::Result;
use crate::model::Weights;
use crate::model::description::{Description, in_layer};
use crate::model::spec::Spec;
use crate::model::tensor::Role;
use crate::threads::{both, combine, each_rows};

/// Queries whose scores are computed together; keys after the last of them are left out.
const QUERIES: usize = 128;

/// Names of the three projections: in GGUF without suffix, and in a checkpoint.
const PROJECTIONS: [(&str, &str); 3] = [("attn_q", "q_proj"), ("attn_k", "k_proj"), (VALUES, "v_proj")];
/// Those of them that are not rotated.
const VALUES: &str = "attn_v";
const Q_NORM: &str = "attn_q_norm.weight";
const K_NORM: &str = "attn_k_norm.weight";
const SINKS: &str = "attn_sinks.weight";
const OUTPUT: &str = "attn_output.weight";
const OUTPUT_BIAS: &str = "attn_output.bias";

/// Sizes and switches of grouped attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouped {
    /// Heads of queries.
    pub heads: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Columns of a head's query, key and value.
    pub width: u32,
    /// Norms of queries and keys before they are rotated.
    pub qk_norm: Option<QkNorm>,
    /// Whether queries, keys and values have biases.
    pub biases: bool,
    /// Whether the output has a bias.
    pub output_bias: bool,
    /// Length of the sliding window in tokens, the token itself included; None for all tokens before it.
    pub window: Option<u32>,
    /// Whether each head has a sink: a learnt score that takes a share and gives nothing.
    pub sinks: bool,
    /// Whether queries and keys are rotated by their positions.
    pub rotated: bool,
    /// Whether the outputs of the heads are multiplied by the sigmoid of a gate, which stands behind each head's query.
    pub gated: bool,
    /// How queries grow in long texts, if they do.
    pub temperature: Option<Temperature>,
}

/// Queries of later tokens are longer: times 1 + growth ln(1 + position / every), the quotient rounded down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// The growth.
    pub growth: f32,
    /// Tokens after which it sets in, and then takes the next step.
    pub every: u32,
}

impl Temperature {
    fn at(self, position: usize) -> f32 {
        let steps = position as u64 / u64::from(self.every);
        1.0 + self.growth * libm::logf((1 + steps) as f32)
    }
}

/// The numbers that a norm of queries or keys takes the mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, all with the same gains.
    Head,
    /// All heads together.
    All,
}

impl Grouped {
    /// Columns of all queries, keys and values of a token.
    fn widths(&self) -> [u32; 3] {
        let queries = if self.gated { 2 * self.heads } else { self.heads };
        [queries, self.kv_heads, self.kv_heads].map(|heads| heads * self.width)
    }

    /// The tensors of the attention, in the order of use.
    pub fn specs(&self, hidden: u32) -> Vec<Spec> {
        let source = |name: &str, suffix: &str| format!("self_attn.{name}.{suffix}");
        let mut specs = Vec::new();
        for ((name, from), rows) in PROJECTIONS.into_iter().zip(self.widths()) {
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            let placed = |spec: Spec| if name == VALUES { spec } else { spec.rotated(self.width) };
            let matrix = Spec::matrix(&weight, Role::Attention, &source(from, "weight"), [rows, hidden]);
            specs.push(placed(matrix.reads_stream(ATTENTION_NORM)));
            if self.biases {
                specs.push(placed(Spec::vector(&bias, &source(from, "bias"), rows)));
            }
        }
        if let Some(norm) = self.qk_norm {
            for (name, from, all) in
                [(Q_NORM, "q_norm", self.widths()[0]), (K_NORM, "k_norm", self.widths()[1])]
            {
                let length = if norm == QkNorm::Head { self.width } else { all };
                specs.push(Spec::vector(name, &source(from, "weight"), length));
            }
        }
        if self.sinks {
            specs.push(Spec::vector(SINKS, "self_attn.sinks", self.heads));
        }
        let shape = [hidden, self.heads * self.width];
        let output = Spec::matrix(OUTPUT, Role::Attention, &source("o_proj", "weight"), shape);
        specs.push(output.reads_inner(None).writes_stream());
        if self.output_bias {
            specs.push(Spec::vector(OUTPUT_BIAS, &source("o_proj", "bias"), hidden));
        }
        specs
    }

    /// Numbers that a token adds to the KV cache: a key and a value for each head of them.
    pub fn cache_per_token(&self) -> u32 {
        2 * self.kv_heads * self.width
    }

    /// Numbers of llama.cpp's buffers for a token: queries, their rotated copy and the output, beside two hidden
    /// states.
    pub fn scratch_per_token(&self, hidden: u32) -> u64 {
        3 * u64::from(self.heads) * u64::from(self.width) + 2 * u64::from(hidden)
    }

    /// Sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("heads of keys and values", self.kv_heads.to_string()),
            ("columns of a head", self.width.to_string()),
            ("window", self.window.map_or("none".to_owned(), |window| window.to_string())),
        ]
    }

    /// Reads a layer's weights.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open<'a>(
        &'a self,
        weights: &Weights,
        model: &Description,
        layer: usize,
    ) -> Result<OpenGrouped<'a>> {
        let hidden = model.hidden as usize;
        let name = |tensor: &str| in_layer(layer, tensor);
        let vector = |wanted: bool, tensor: &str, length: u32| {
            wanted.then(|| weights.vector(&name(tensor), length as usize)).transpose()
        };
        let projection = |which: usize| {
            let (tensor, rows) = (PROJECTIONS[which].0, self.widths()[which]);
            let weight = name(&format!("{tensor}.weight"));
            Ok(Projection {
                matrix: weights.matrix(&weight, 0, [rows as usize, hidden])?,
                bias: vector(self.biases, &format!("{tensor}.bias"), rows)?,
                place: weights.place(&weight).expect("it was read"),
            })
        };
        let norm = |tensor: &str, all: u32| {
            let length = if self.qk_norm == Some(QkNorm::All) { all } else { self.width };
            vector(self.qk_norm.is_some(), tensor, length)
        };
        let output = name(OUTPUT);
        Ok(OpenGrouped {
            sizes: self,
            eps: model.eps,
            norm: weights.vector(&name(ATTENTION_NORM), hidden)?,
            projections: [projection(0)?, projection(1)?, projection(2)?],
            norms: [norm(Q_NORM, self.widths()[0])?, norm(K_NORM, self.widths()[1])?],
            sinks: vector(self.sinks, SINKS, self.heads)?,
            output: Projection {
                matrix: weights.matrix(&output, 0, [hidden, (self.heads * self.width) as usize])?,
                bias: vector(self.output_bias, OUTPUT_BIAS, model.hidden)?,
                place: weights.place(&output).expect("it was read"),
            },
        })
    }
}

/// A matrix with its bias.
struct Projection {
    matrix: Dense,
    bias: Option<Dense>,
    place: usize,
}

impl Projection {
    fn apply(&self, inputs: View<'_>) -> Dense {
        biased(apply(&self.matrix, inputs), self.bias.as_ref())
    }
}

/// The weights of one layer's attention.
pub struct OpenGrouped<'a> {
    sizes: &'a Grouped,
    eps: f32,
    norm: Dense,
    projections: [Projection; 3],
    /// Gains of the norms of queries and of keys.
    norms: [Option<Dense>; 2],
    sinks: Option<Dense>,
    output: Projection,
}

impl Attend for OpenGrouped<'_> {
    fn apply(&self, mut states: Dense, text: &Chunks, show: Show<'_>) -> Result<Option<Dense>> {
        normalise(&mut states, self.norm.values(), self.eps);
        let places = self.projections.each_ref().map(|projection| projection.place);
        let see = || show.observer.see(Inputs { tensors: &places, slice: 0, inputs: states.view() });
        let (seen, mixed) = both("attention", see, || self.mixed(states.view(), text));
        seen?;
        show.last(&[self.output.place], 0, &mixed, |mixed| self.output.apply(mixed))
    }

    fn back(
        &self,
        states: &Dense,
        gradients: &Dense,
        text: &Chunks,
        show: Show<'_>,
    ) -> Result<Option<Dense>> {
        self.go_back(states, gradients, text, show)
    }
}

impl OpenGrouped<'_> {
    /// Queries, and the gates that stand behind them if there are some.
    fn parted(&self, rows: Dense) -> (Dense, Option<Dense>) {
        if !self.sizes.gated {
            return (rows, None);
        }
        let width = self.sizes.width as usize;
        let half = |which: usize| {
            let of = rows.values().chunks_exact(width).skip(which).step_by(2);
            Dense::new(rows.columns() / 2, of.flatten().copied().collect())
        };
        (half(0), Some(half(1)))
    }

    /// What the heads make of normalised states: for each token the mixed values of all heads.
    fn mixed(&self, states: View<'_>, text: &Chunks) -> Dense {
        let (queries, gates, keys, values) = self.projected(states, text);
        let mut mixed = self.ungated([&queries, &keys, &values], text);
        if let Some(gates) = &gates {
            combine("gate", &mut mixed, gates, |x, gate| x * sigmoid(gate));
        }
        mixed
    }

    /// Queries, their gates if there are some, keys and values of all heads.
    fn projected(&self, states: View<'_>, text: &Chunks) -> (Dense, Option<Dense>, Dense, Dense) {
        let [queries, keys, values] = &self.projections;
        let queries = || {
            let (queries, gates) = self.parted(queries.apply(states));
            let mut queries = self.positioned(queries, self.norms[0].as_ref(), text);
            self.heat(&mut queries, text);
            (queries, gates)
        };
        let keys = || self.positioned(keys.apply(states), self.norms[1].as_ref(), text);
        let values = || values.apply(states);
        let ((queries, gates), (keys, values)) =
            both("queries", queries, || both("keys and values", keys, values));
        (queries, gates, keys, values)
    }

    /// What the heads make of queries, keys and values, before it is gated.
    fn ungated(&self, of_tokens: [&Dense; 3], text: &Chunks) -> Dense {
        let sizes = [self.sizes.heads, self.sizes.width].map(|n| n as usize);
        by_heads(of_tokens[0].rows(), text, sizes, |head, rows| {
            let [queries, keys, values] = of_tokens.map(|of| of.view().some_rows(rows.clone()));
            self.head(head, queries, keys, values)
        })
    }

    /// Multiplies queries, or gradients at what becomes of them, by the factors of their positions, if there are some.
    fn heat(&self, queries: &mut Dense, text: &Chunks) {
        let Some(temperature) = self.sizes.temperature else { return };
        let all = queries.columns();
        for (token, row) in queries.values_mut().chunks_exact_mut(all).enumerate() {
            let factor = temperature.at(token % text.length);
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }

    /// Queries or keys of all heads, normalised and rotated.
    fn positioned(&self, rows: Dense, gains: Option<&Dense>, text: &Chunks) -> Dense {
        let (all, width) = (rows.columns(), self.sizes.width as usize);
        let mut rows = rows;
        if let Some(gains) = gains {
            // A row for each that has a mean of its own: as long as the gains.
            let mut parts = rows.in_rows_of(gains.columns());
            normalise(&mut parts, gains.values(), self.eps);
            rows = parts.in_rows_of(all);
        }
        if self.sizes.rotated {
            each_rows("rotate", rows.values_mut(), all, |first, rows| {
                for (token, row) in (first..).zip(rows.chunks_exact_mut(all)) {
                    let position = token % text.length;
                    row.chunks_exact_mut(width).for_each(|head| text.turns.rotate(position, head));
                }
            });
        }
        rows
    }

    /// The output of one head for a chunk: a row for each token.
    fn head(&self, head: usize, queries: View<'_>, keys: View<'_>, values: View<'_>) -> Dense {
        let (length, width) = (queries.rows(), self.sizes.width as usize);
        let mut mixed = Dense::to_fill(length, width);
        let [queries, keys, values] = self.of_head(head, [queries, keys, values]);
        for first in (0..length).step_by(QUERIES) {
            let until = length.min(first + QUERIES);
            let shares = self.shares(head, queries, keys, first..until);
            let mixed = mixed.part_mut(first..until, 0..width);
            one_thread(mixed, Accum::Replace, shares.view(), values.some_rows(0..until));
        }
        mixed
    }

    /// The columns of a head's queries, keys and values.
    fn of_head<'a>(&self, head: usize, [queries, keys, values]: [View<'a>; 3]) -> [View<'a>; 3] {
        let of = |head: usize| head * self.sizes.width as usize..(head + 1) * self.sizes.width as usize;
        let kv = of(self.kv_head(head));
        [queries.some_columns(of(head)), keys.some_columns(kv.clone()), values.some_columns(kv)]
    }

    /// The keys and values that a head has.
    fn kv_head(&self, head: usize) -> usize {
        head * self.sizes.kv_heads as usize / self.sizes.heads as usize
    }

    /// What products of queries and keys are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (self.sizes.width as f32).sqrt()
    }

    /// The shares with which some of a head's queries attend to the keys up to the last of them.
    fn shares(&self, head: usize, queries: View<'_>, keys: View<'_>, some: Range<usize>) -> Dense {
        let until = some.end;
        let sink = self.sinks.as_ref().map(|sinks| sinks.values()[head]);
        let mut scores = Dense::to_fill(some.len(), until);
        let keys = keys.some_rows(0..until).transposed();
        one_thread(scores.view_mut(), Accum::Replace, queries.some_rows(some.clone()), keys);
        for (query, scores) in some.zip(scores.values_mut().chunks_exact_mut(until)) {
            let (open, later) = scores.split_at_mut(query + 1);
            later.fill(0.0);
            let window = self.sizes.window;
            let hidden = window.map_or(0, |window| open.len().saturating_sub(window as usize));
            let (earlier, open) = open.split_at_mut(hidden);
            earlier.fill(0.0);
            softmax(open, self.scale(), sink);
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUPED, Random, model, near, tensors};
    use super::super::{Attention, Ignore, Pairing, Rope};
    use super::*;
    use crate::model::Layer;
    use crate::model::layer::Ffn;
    use crate::store::InMemory;

    /// The formulas, an output at a time.
    fn definition(
        grouped: &Grouped,
        model: &Description,
        store: &InMemory,
        states: &[Vec<f64>],
    ) -> Vec<Vec<f64>> {
        let of = |name: &str| -> Vec<f64> {
            store.values(&format!("blk.0.{name}")).iter().map(|&x| f64::from(x)).collect()
        };
        let rms = |x: &[f64], gains: &[f64]| -> Vec<f64> {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(gains).map(|(x, gain)| x / (mean + f64::from(model.eps)).sqrt() * gain).collect()
        };
        let linear = |name: &str, x: &[f64], bias: bool| -> Vec<f64> {
            let rows = of(&format!("{name}.weight"));
            let mut out: Vec<f64> =
                rows.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
            if bias {
                out.iter_mut().zip(of(&format!("{name}.bias"))).for_each(|(out, bias)| *out += bias);
            }
            out
        };
        let (heads, kv_heads, width) =
            (grouped.heads as usize, grouped.kv_heads as usize, grouped.width as usize);
        let placed = |mut x: Vec<f64>, norm: &str, position: usize| {
            match grouped.qk_norm {
                Some(QkNorm::All) => x = rms(&x, &of(norm)),
                Some(QkNorm::Head) => x = x.chunks(width).flat_map(|head| rms(head, &of(norm))).collect(),
                None => {}
            }
            let columns = model.rope.columns as usize;
            for head in x.chunks_mut(width).filter(|_| grouped.rotated) {
                for pair in 0..columns / 2 {
                    let (a, b) = match model.rope.pairing {
                        Pairing::Neighbours => (2 * pair, 2 * pair + 1),
                        Pairing::Halves => (pair, pair + columns / 2),
                    };
                    let theta = f64::from(model.rope.theta);
                    let angle = position as f64 * theta.powf(-2.0 * pair as f64 / columns as f64);
                    (head[a], head[b]) = (
                        head[a] * angle.cos() - head[b] * angle.sin(),
                        head[a] * angle.sin() + head[b] * angle.cos(),
                    );
                }
            }
            x
        };
        let inputs: Vec<Vec<f64>> = states.iter().map(|x| rms(x, &of("attn_norm.weight"))).collect();
        let all = |name: &str| -> Vec<Vec<f64>> {
            inputs.iter().map(|x| linear(name, x, grouped.biases)).collect()
        };
        let place = |rows: Vec<Vec<f64>>, norm: &str| -> Vec<Vec<f64>> {
            rows.into_iter().enumerate().map(|(position, row)| placed(row, norm, position)).collect()
        };
        // Of a head with a gate the query comes first.
        let half = |row: &Vec<f64>, which: usize| -> Vec<f64> {
            row.chunks(width).skip(which).step_by(2).flatten().copied().collect()
        };
        let queries = all("attn_q");
        let gates: Vec<Vec<f64>> = match grouped.gated {
            true => queries.iter().map(|row| half(row, 1)).collect(),
            false => Vec::new(),
        };
        let queries = if grouped.gated { queries.iter().map(|row| half(row, 0)).collect() } else { queries };
        let (queries, keys) = (place(queries, Q_NORM), place(all("attn_k"), K_NORM));
        let values = all("attn_v");
        let output = |at: usize| {
            let mut mixed = vec![0.0; heads * width];
            for head in 0..heads {
                let kv = head / (heads / kv_heads) * width;
                let first = grouped.window.map_or(0, |window| (at + 1).saturating_sub(window as usize));
                let power = |other: usize| {
                    let products = (0..width).map(|i| queries[at][head * width + i] * keys[other][kv + i]);
                    let steps = grouped.temperature.map_or(0, |of| at as u32 / of.every);
                    let growth = grouped.temperature.map_or(0.0, |of| f64::from(of.growth));
                    let factor = 1.0 + growth * f64::from(1 + steps).ln();
                    (products.sum::<f64>() * factor / (width as f64).sqrt()).exp()
                };
                let sink = if grouped.sinks { of(SINKS)[head].exp() } else { 0.0 };
                let sum = (first..=at).map(power).sum::<f64>() + sink;
                for (other, values) in values.iter().enumerate().take(at + 1).skip(first) {
                    for i in 0..width {
                        mixed[head * width + i] += power(other) / sum * values[kv + i];
                    }
                }
            }
            if let Some(gates) = gates.get(at) {
                mixed.iter_mut().zip(gates).for_each(|(x, gate)| *x /= 1.0 + (-gate).exp());
            }
            linear("attn_output", &mixed, grouped.output_bias)
        };
        (0..states.len()).map(output).collect()
    }

    #[test]
    fn every_field_is_what_the_formulas_say() {
        let group = Grouped { kv_heads: 2, qk_norm: Some(QkNorm::Head), ..GROUPED };
        let all = Grouped {
            qk_norm: Some(QkNorm::All),
            biases: true,
            output_bias: true,
            window: Some(3),
            sinks: true,
            ..group.clone()
        };
        let halves = |columns| Rope::new(columns, 100.0, Pairing::Halves);
        let neighbours = Rope { pairing: Pairing::Neighbours, ..halves(6) };
        for (grouped, rope) in [
            (GROUPED, neighbours),
            (group.clone(), halves(6)),
            (Grouped { rotated: false, ..group.clone() }, halves(6)),
            (Grouped { gated: true, ..group.clone() }, halves(4)),
            (Grouped { temperature: Some(Temperature { growth: 0.3, every: 2 }), ..group }, halves(6)),
            (all.clone(), halves(4)),
            (Grouped { kv_heads: 1, ..all }, neighbours),
        ] {
            let attention = Attention::Grouped(grouped.clone());
            let ffn = Ffn::Dense { width: 8, biases: false };
            let model = model(rope, Layer { attention: attention.clone(), ffn });
            let (store, tensors) = tensors(&attention.specs(model.hidden, &rope), 7);
            let weights = Weights::new(&store, tensors);
            let hidden = model.hidden as usize;
            let states = Random(3).values(2 * 5 * hidden, 1.0);
            let turns = attention.turns(&rope, 5, &[]);
            let open = attention.open(&weights, &model, 0).expect("there");
            let text = Chunks { length: 5, turns: &turns };
            let show = Show { observer: &Ignore, outputs: true };
            let states_of_all = Dense::new(hidden, states.clone());
            let found = open.apply(states_of_all, &text, show).expect("computed").expect("wanted");
            for (chunk, found) in states.chunks(5 * hidden).zip(found.values().chunks(5 * hidden)) {
                let rows: Vec<Vec<f64>> =
                    chunk.chunks(hidden).map(|row| row.iter().map(|&x| x.into()).collect()).collect();
                near(found, &definition(&grouped, &model, &store, &rows).concat());
            }
        }
    }
}
