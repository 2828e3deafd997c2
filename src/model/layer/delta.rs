//! A gated delta net: attention whose memory is one matrix for each head, whatever the length of the text.
//!
//! ```text
//! q, k, v = silu(convolutions over the last few tokens of each number of W_qkv x)
//! q, k = divided by their lengths; q / sqrt(width)      value head h uses the query and key of head h % key_heads
//! decay = exp(a * softplus(W_alpha x + dt)), share = sigmoid(W_beta x)          for each value head
//! S = decay S;  S = S + k (share (v - S' k))';  o = S' q                        token after token
//! output = W_o (norm(o) * silu(W_z x))
//! ```

use dense_kernels::{Dense, View};

use super::exp::exp;
use super::norm::{normalise, sigmoid, softplus};
use super::{ATTENTION_NORM, Attend, Chunks, Inputs, Show, apply, by_heads};
use crate::error::{Error, Result};
use crate::model::Weights;
use crate::model::description::{Description, in_layer};
use crate::model::spec::{Source, Spec};
use crate::model::tensor::Role;
use crate::store::{Derivation, Order, Pick};
use crate::threads::{both, combine};

const MIXED: &str = "attn_qkv.weight";
const GATE: &str = "attn_gate.weight";
const DECAYS: &str = "ssm_alpha.weight";
const SHARES: &str = "ssm_beta.weight";
const CONVOLUTION: &str = "ssm_conv1d.weight";
const STEPS: &str = "ssm_dt.bias";
const RATES: &str = "ssm_a";
const NORM: &str = "ssm_norm.weight";
const OUTPUT: &str = "ssm_out.weight";

/// Sizes of a gated delta net.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Heads of queries and keys.
    pub key_heads: u32,
    /// Heads of values, as many for each of those.
    pub value_heads: u32,
    /// Columns of a head.
    pub width: u32,
    /// Tokens that a convolution sees, the token itself included.
    pub kernel: u32,
}

impl Delta {
    /// Columns of the queries (and of the keys) of a token, and of its values.
    fn widths(&self) -> [u32; 2] {
        [self.key_heads * self.width, self.value_heads * self.width]
    }

    /// Columns of queries, keys and values together.
    fn mixed(&self) -> u32 {
        let [keys, values] = self.widths();
        2 * keys + values
    }

    /// A checkpoint has the value heads that share a key one after another, a file the first ones of all keys, then the
    /// second ones: llama.cpp repeats the keys as a whole. `width` are the things of a head, of which the first `first`
    /// are no values.
    fn tiled(&self, first: u32, width: u32) -> Option<Pick> {
        let (groups, each) = (self.key_heads.into(), (self.value_heads / self.key_heads).into());
        (each > 1).then_some(Pick::Tiled { first: first.into(), groups, each, width: width.into() })
    }

    /// The tensors of the net, in the order of use.
    pub fn specs(&self, hidden: u32) -> Vec<Spec> {
        let [keys, values] = self.widths();
        let heads = self.value_heads;
        let rows = |first, width| self.tiled(first, width).map_or(Order::Stored, Order::Rows);
        let columns = |first, width| self.tiled(first, width).map_or(Order::Stored, Order::Columns);
        let source = |name: &str| format!("linear_attn.{name}");
        let reading = |name: &str, from: &str, count: u32| {
            let matrix = Spec::matrix(name, Role::Attention, &source(from), [count, hidden]);
            matrix.reads_stream(ATTENTION_NORM)
        };
        let vector = |name: &str, from: &str| Spec::vector(name, &source(from), heads).ordered(columns(0, 1));
        let kernels = Spec::matrix(CONVOLUTION, Role::Norm, "", [self.mixed(), self.kernel]);
        let output = Spec::matrix(OUTPUT, Role::Attention, &source("out_proj.weight"), [hidden, values]);
        vec![
            reading(MIXED, "in_proj_qkv.weight", self.mixed()).ordered(rows(2 * keys, self.width)),
            reading(GATE, "in_proj_z.weight", values).ordered(rows(0, self.width)),
            reading(DECAYS, "in_proj_a.weight", heads).ordered(rows(0, 1)),
            reading(SHARES, "in_proj_b.weight", heads).ordered(rows(0, 1)),
            Spec { source: Source::Channels(source("conv1d.weight")), ..kernels }
                .ordered(rows(2 * keys, self.width)),
            vector(STEPS, "dt_bias"),
            Spec { derivation: Some(Derivation::MinusExp), ..vector(RATES, "A_log") },
            // Unlike the others it is stored as it is.
            Spec { gains: false, ..Spec::vector(NORM, &source("norm.weight"), self.width) },
            output.reads_inner(None).writes_stream().ordered(columns(0, self.width)),
        ]
    }

    /// Numbers in F32 that are kept of a text, whatever its length: the matrices of all heads, and what the convolutions
    /// see of the last tokens.
    pub fn state(&self) -> u64 {
        let matrices = u64::from(self.value_heads) * u64::from(self.width) * u64::from(self.width);
        matrices + u64::from(self.kernel - 1) * u64::from(self.mixed())
    }

    /// Numbers of llama.cpp's buffers for a token that it computes: before and behind the convolutions, values and gate.
    pub fn scratch_per_token(&self, hidden: u32) -> u64 {
        let [_, values] = self.widths();
        2 * u64::from(self.mixed()) + 2 * u64::from(values) + u64::from(hidden)
    }

    /// Sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads of keys", self.key_heads.to_string()),
            ("heads of values", self.value_heads.to_string()),
            ("columns of a head", self.width.to_string()),
            ("tokens of a convolution", self.kernel.to_string()),
        ]
    }

    /// Reads a layer's weights.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open<'a>(&'a self, weights: &Weights, model: &Description, layer: usize) -> Result<OpenDelta<'a>> {
        let hidden = model.hidden as usize;
        let heads = self.value_heads as usize;
        let [_, values] = self.widths().map(|width| width as usize);
        let mixed = self.mixed() as usize;
        let name = |tensor: &str| in_layer(layer, tensor);
        let matrix = |tensor: &str, shape: [usize; 2]| weights.matrix(&name(tensor), 0, shape);
        Ok(OpenDelta {
            sizes: self,
            eps: model.eps,
            places: [MIXED, GATE, DECAYS, SHARES, OUTPUT]
                .map(|tensor| weights.place(&name(tensor)).unwrap_or_default()),
            input_norm: weights.vector(&name(ATTENTION_NORM), hidden)?,
            mixed: matrix(MIXED, [mixed, hidden])?,
            gate: matrix(GATE, [values, hidden])?,
            decays: matrix(DECAYS, [heads, hidden])?,
            shares: matrix(SHARES, [heads, hidden])?,
            kernels: matrix(CONVOLUTION, [mixed, self.kernel as usize])?,
            steps: weights.vector(&name(STEPS), heads)?,
            rates: weights.vector(&name(RATES), heads)?,
            norm: weights.vector(&name(NORM), self.width as usize)?,
            output: matrix(OUTPUT, [hidden, values])?,
        })
    }
}

/// What is said of gradients.
pub fn no_way_back() -> Error {
    Error::Unsupported("there is no way back through a gated delta net, so no --gradients".to_owned())
}

/// The weights of one layer's net.
pub struct OpenDelta<'a> {
    sizes: &'a Delta,
    eps: f32,
    /// Of the four matrices that read the stream, and of the output.
    places: [usize; 5],
    input_norm: Dense,
    mixed: Dense,
    gate: Dense,
    decays: Dense,
    shares: Dense,
    kernels: Dense,
    steps: Dense,
    rates: Dense,
    norm: Dense,
    output: Dense,
}

impl Attend for OpenDelta<'_> {
    fn apply(&self, mut states: Dense, text: &Chunks, show: Show<'_>) -> Result<Option<Dense>> {
        normalise(&mut states, self.input_norm.values(), self.eps);
        let [reading @ .., output] = self.places;
        let see = || show.observer.see(Inputs { tensors: &reading, slice: 0, inputs: states.view() });
        let (seen, outputs) = both("delta net", see, || self.outputs(states.view(), text));
        seen?;
        show.last(&[output], 0, &outputs, |outputs| apply(&self.output, outputs))
    }

    fn back(&self, _: &Dense, _: &Dense, _: &Chunks, _: Show<'_>) -> Result<Option<Dense>> {
        Err(no_way_back())
    }
}

impl OpenDelta<'_> {
    /// What the heads make of normalised states: for each token the gated values of all heads.
    fn outputs(&self, states: View<'_>, text: &Chunks) -> Dense {
        let [mixed, gate, decays, shares] =
            [&self.mixed, &self.gate, &self.decays, &self.shares].map(|matrix| apply(matrix, states));
        let (tokens, width) = (states.rows(), self.sizes.width as usize);
        let heads = self.sizes.value_heads as usize;
        let mut outputs = by_heads(tokens, text, [heads, width], |head, rows| {
            let [mixed, decays, shares] =
                [&mixed, &decays, &shares].map(|of| of.view().some_rows(rows.clone()));
            self.head(head, mixed, decays, shares)
        });
        combine("gate", &mut outputs, &gate, |x, gate| x * (gate * sigmoid(gate)));
        outputs
    }

    /// The normalised output of one value head for a chunk: a row for each token.
    fn head(&self, head: usize, mixed: View<'_>, decays: View<'_>, shares: View<'_>) -> Dense {
        let sizes = self.sizes;
        let (tokens, width) = (mixed.rows(), sizes.width as usize);
        let key_heads = sizes.key_heads as usize;
        let first = |head: usize| head * width;
        let query = first(head % key_heads);
        let key = first(key_heads + head % key_heads);
        let value = first(2 * key_heads + head);
        let [mut queries, mut keys, values] =
            [query, key, value].map(|first| self.convolved(first, mixed.some_columns(first..first + width)));
        let scale = 1.0 / (width as f32).sqrt();
        for (rows, scale) in [(&mut queries, scale), (&mut keys, 1.0)] {
            for row in rows.values_mut().chunks_exact_mut(width) {
                let sum: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let scale = scale / (sum.sqrt() as f32).max(self.eps);
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
        let (step, rate) = (self.steps.values()[head], self.rates.values()[head]);
        let mut outputs = Dense::zeros(tokens, width);
        // Rows for the numbers of a key, columns for those of a value.
        let mut memory = vec![0.0; width * width];
        let mut change = vec![0.0; width];
        let rows = queries.values().chunks_exact(width).zip(keys.values().chunks_exact(width));
        let rows = rows.zip(values.values().chunks_exact(width));
        for (token, ((query, key), value)) in rows.enumerate() {
            let decay = exp(rate * softplus(decays.row(token)[head] + step));
            let share = sigmoid(shares.row(token)[head]);
            change.fill(0.0);
            for (row, key) in memory.chunks_exact_mut(width).zip(key) {
                for (x, change) in row.iter_mut().zip(&mut change) {
                    *x *= decay;
                    *change += *x * key;
                }
            }
            for (change, value) in change.iter_mut().zip(value) {
                *change = (value - *change) * share;
            }
            let output = &mut outputs.values_mut()[token * width..(token + 1) * width];
            for ((row, key), query) in memory.chunks_exact_mut(width).zip(key).zip(query) {
                for ((x, change), output) in row.iter_mut().zip(&change).zip(output.iter_mut()) {
                    *x += change * key;
                    *output += *x * query;
                }
            }
        }
        normalise(&mut outputs, self.norm.values(), self.eps);
        outputs
    }

    /// silu of the convolutions of some columns of the tokens, of which the first is number `first` of all.
    fn convolved(&self, first: usize, columns: View<'_>) -> Dense {
        let (tokens, width, kernel) = (columns.rows(), columns.columns(), self.sizes.kernel as usize);
        let kernels = self.kernels.values().chunks_exact(kernel).skip(first);
        let mut out = Dense::zeros(tokens, width);
        for (token, row) in out.values_mut().chunks_exact_mut(width).enumerate() {
            for (column, (x, weights)) in row.iter_mut().zip(kernels.clone()).enumerate() {
                // Before the first token there is nothing.
                let missing = (kernel - 1).saturating_sub(token);
                let earliest = (token + 1).saturating_sub(kernel);
                let seen = weights[missing..].iter().zip(earliest..);
                let sum: f32 = seen.map(|(weight, token)| weight * columns.row(token)[column]).sum();
                *x = sum * sigmoid(sum);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Random, model, tensors};
    use super::super::{Attention, Ffn, Ignore, Pairing, Rope};
    use super::*;
    use crate::model::Layer;
    use crate::store::InMemory;

    /// The formulas, a number at a time.
    fn definition(delta: &Delta, model: &Description, store: &InMemory, states: &[Vec<f64>]) -> Vec<f64> {
        let of = |name: &str| -> Vec<f64> {
            store.values(&format!("blk.0.{name}")).iter().map(|&x| f64::from(x)).collect()
        };
        let eps = f64::from(model.eps);
        let rms = |x: &[f64], gains: &[f64]| -> Vec<f64> {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(gains).map(|(x, gain)| x / (mean + eps).sqrt() * gain).collect()
        };
        let inputs: Vec<Vec<f64>> = states.iter().map(|x| rms(x, &of("attn_norm.weight"))).collect();
        let linear = |name: &str, x: &[f64]| -> Vec<f64> {
            of(name).chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let mixed: Vec<Vec<f64>> = inputs.iter().map(|x| linear(MIXED, x)).collect();
        let kernels = of(CONVOLUTION);
        let (kernel, width) = (delta.kernel as usize, delta.width as usize);
        let (key_heads, heads) = (delta.key_heads as usize, delta.value_heads as usize);
        let convolved = |token: usize, column: usize| {
            let tap = |tap: usize| match (token + tap).checked_sub(kernel - 1) {
                Some(seen) => kernels[column * kernel + tap] * mixed[seen][column],
                None => 0.0,
            };
            silu((0..kernel).map(tap).sum())
        };
        let unit = |x: Vec<f64>| -> Vec<f64> {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(eps);
            x.iter().map(|x| x / length).collect()
        };
        let mut outputs = vec![vec![0.0; heads * width]; states.len()];
        for head in 0..heads {
            let mut memory = vec![vec![0.0; width]; width];
            for (token, input) in inputs.iter().enumerate() {
                let columns = |first: usize| (0..width).map(|i| convolved(token, first + i)).collect();
                let query = unit(columns(head % key_heads * width));
                let key = unit(columns((key_heads + head % key_heads) * width));
                let value: Vec<f64> = columns((2 * key_heads + head) * width);
                let softplus = (1.0 + (linear(DECAYS, input)[head] + of(STEPS)[head]).exp()).ln();
                let decay = (of(RATES)[head] * softplus).exp();
                let share = 1.0 / (1.0 + (-linear(SHARES, input)[head]).exp());
                memory.iter_mut().flatten().for_each(|x| *x *= decay);
                let read = |memory: &[Vec<f64>], of: &[f64], column: usize| -> f64 {
                    (0..width).map(|row| memory[row][column] * of[row]).sum()
                };
                let change: Vec<f64> =
                    (0..width).map(|i| share * (value[i] - read(&memory, &key, i))).collect();
                for (row, key) in memory.iter_mut().zip(&key) {
                    row.iter_mut().zip(&change).for_each(|(x, change)| *x += key * change);
                }
                let output: Vec<f64> =
                    (0..width).map(|i| read(&memory, &query, i) / (width as f64).sqrt()).collect();
                let gates = linear(GATE, input);
                for (i, x) in rms(&output, &of(NORM)).into_iter().enumerate() {
                    outputs[token][head * width + i] = x * silu(gates[head * width + i]);
                }
            }
        }
        outputs.iter().flat_map(|output| linear(OUTPUT, output)).collect()
    }

    #[test]
    fn it_is_what_the_formulas_say() {
        let rope = Rope::new(2, 10.0, Pairing::Halves);
        for (key_heads, value_heads, kernel) in [(2, 2, 4), (2, 6, 3), (1, 2, 1)] {
            let delta = Delta { key_heads, value_heads, width: 4, kernel };
            let attention = Attention::Delta(delta.clone());
            let ffn = Ffn::Dense { width: 8, biases: false };
            let model = model(rope, Layer { attention: attention.clone(), ffn });
            let (store, tensors) = tensors(&attention.specs(model.hidden, &rope), 11);
            let weights = Weights::new(&store, tensors);
            let hidden = model.hidden as usize;
            let states = Random(5).values(2 * 6 * hidden, 1.0);
            let turns = attention.turns(&rope, 6, &[]);
            let open = attention.open(&weights, &model, 0).expect("there");
            let text = Chunks { length: 6, turns: &turns };
            let show = Show { observer: &Ignore, outputs: true };
            let states_of_all = Dense::new(hidden, states.clone());
            assert!(open.back(&states_of_all, &states_of_all, &text, show).is_err(), "no way back");
            let found = open.apply(states_of_all, &text, show).expect("computed").expect("wanted");
            for (chunk, found) in states.chunks(6 * hidden).zip(found.values().chunks(6 * hidden)) {
                let rows: Vec<Vec<f64>> =
                    chunk.chunks(hidden).map(|row| row.iter().map(|&x| x.into()).collect()).collect();
                // Heads whose outputs nearly cancel are made larger by the norm, and their roundings with them.
                for (found, expected) in found.iter().zip(definition(&delta, &model, &store, &rows)) {
                    assert!((f64::from(*found) - expected).abs() < 2e-5, "{found}, {expected}");
                }
            }
        }
    }
}
