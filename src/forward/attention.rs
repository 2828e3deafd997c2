//! Latent attention (MLA), as llama.cpp computes it: queries are carried into the latent's space, where one key and one
//! value serve all heads.

use dense_kernels::{Accum, Dense, View, one_thread};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::apply;
use super::exp::exp;
use super::norm::normalise;
use super::pass::{Input, Observer};
use super::rope::Rope;
use super::shape::Shape;
use super::weights::Weights;
use crate::error::Result;

/// Queries whose scores are computed together; keys after the last of them are left out.
const QUERIES: usize = 128;

/// The weights of one layer's attention.
pub struct Attention<'a> {
    shape: &'a Shape,
    layer: usize,
    norm: Dense,
    query: Query,
    kv_a: Dense,
    kv_a_norm: Dense,
    /// For each head the matrix from query to latent, and from latent to value.
    heads: Vec<[Dense; 2]>,
    output: Dense,
}

enum Query {
    /// Of low rank, with a norm between.
    Low {
        a: Dense,
        norm: Dense,
        b: Dense,
    },
    Full(Dense),
}

/// What one head makes of one chunk.
struct HeadOutput {
    /// Latents, weighted by attention: the input of attn_v_b.
    mixed: Option<Dense>,
    values: Dense,
}

impl<'a> Attention<'a> {
    /// Reads the layer's weights.
    pub fn read(weights: &dyn Weights, shape: &'a Shape, layer: usize) -> Result<Self> {
        let name = |tensor: &str| format!("blk.{layer}.{tensor}.weight");
        let matrix = |tensor: &str, shape| weights.matrix(&name(tensor), 0, shape);
        let queries = shape.heads * (shape.nope + shape.rope);
        let query = match weights.extent(&name("attn_q_a")) {
            Some([_, rank, _]) => Query::Low {
                a: matrix("attn_q_a", [rank, shape.hidden])?,
                norm: weights.vector(&name("attn_q_a_norm"), rank)?,
                b: matrix("attn_q_b", [queries, rank])?,
            },
            None => Query::Full(matrix("attn_q", [queries, shape.hidden])?),
        };
        let head = |head| {
            let key = weights.matrix(&name("attn_k_b"), head, [shape.kv_rank, shape.nope])?;
            Ok([key, weights.matrix(&name("attn_v_b"), head, [shape.value, shape.kv_rank])?])
        };
        Ok(Self {
            shape,
            layer,
            norm: weights.vector(&name("attn_norm"), shape.hidden)?,
            query,
            kv_a: matrix("attn_kv_a_mqa", [shape.kv_rank + shape.rope, shape.hidden])?,
            kv_a_norm: weights.vector(&name("attn_kv_a_norm"), shape.kv_rank)?,
            heads: (0..shape.heads).map(head).collect::<Result<_>>()?,
            output: matrix("attn_output", [shape.hidden, shape.heads * shape.value])?,
        })
    }

    /// What attention adds to the hidden states of some whole chunks of `context` tokens.
    pub fn apply(
        &self,
        mut states: Dense,
        context: usize,
        rope: &Rope,
        observer: &mut dyn Observer,
    ) -> Result<Dense> {
        let shape = self.shape;
        let layer = self.layer;
        let keep = observer.wants_mixed();
        let mut see = |tensors: &[&str], slice: usize, inputs: View<'_>| {
            observer.see(Input { layer, tensors, slice, inputs })
        };
        normalise(&mut states, self.norm.values(), shape.eps);
        let first = if let Query::Low { .. } = self.query { "attn_q_a" } else { "attn_q" };
        see(&[first, "attn_kv_a_mqa"], 0, states.view())?;
        let queries = match &self.query {
            Query::Full(query) => apply(query, states.view()),
            Query::Low { a, norm, b } => {
                let mut low = apply(a, states.view());
                normalise(&mut low, norm.values(), shape.eps);
                see(&["attn_q_b"], 0, low.view())?;
                apply(b, low.view())
            }
        };
        let [latents, keys] = self.latents(states.view(), context, rope);

        let tokens = states.rows();
        let width = shape.nope + shape.rope;
        let mut values = Dense::zeros(tokens, shape.heads * shape.value);
        for head in 0..shape.heads {
            see(&["attn_k_b"], head, queries.view().some_columns(head * width..head * width + shape.nope))?;
        }
        for start in (0..tokens).step_by(context) {
            let chunk = Chunk { start, length: context.min(tokens - start), latents: &latents, keys: &keys };
            let outputs: Vec<HeadOutput> = (0..shape.heads)
                .into_par_iter()
                .map(|head| self.head(head, queries.view(), &chunk, rope, keep))
                .collect();
            for (head, output) in outputs.into_iter().enumerate() {
                if let Some(mixed) = output.mixed {
                    see(&["attn_v_b"], head, mixed.view())?;
                }
                let columns = head * shape.value..(head + 1) * shape.value;
                values.part_mut(start..start + chunk.length, columns).copy_from(output.values.view());
            }
        }
        see(&["attn_output"], 0, values.view())?;
        Ok(apply(&self.output, values.view()))
    }

    /// The normalised latent of every token, and the rotated key that all heads share.
    fn latents(&self, states: View<'_>, context: usize, rope: &Rope) -> [Dense; 2] {
        let shape = self.shape;
        let both = apply(&self.kv_a, states);
        let part = |from: usize, width: usize| {
            let mut part = Dense::zeros(both.rows(), width);
            part.view_mut().copy_from(both.view().some_columns(from..from + width));
            part
        };
        let mut latents = part(0, shape.kv_rank);
        normalise(&mut latents, self.kv_a_norm.values(), shape.eps);
        let mut keys = part(shape.kv_rank, shape.rope);
        for (token, key) in keys.values_mut().chunks_exact_mut(shape.rope).enumerate() {
            rope.rotate(token % context, key);
        }
        [latents, keys]
    }

    fn head(&self, head: usize, queries: View<'_>, chunk: &Chunk, rope: &Rope, keep: bool) -> HeadOutput {
        let shape = self.shape;
        let [key, value] = &self.heads[head];
        let Chunk { start, length, .. } = *chunk;
        let width = shape.nope + shape.rope;
        let queries = queries.part(start..start + length, head * width..(head + 1) * width);
        let mut carried = Dense::zeros(length, shape.kv_rank);
        let plain = queries.some_columns(0..shape.nope);
        one_thread(carried.view_mut(), Accum::Replace, plain, key.view().transposed());
        let mut rotated = Dense::zeros(length, shape.rope);
        rotated.view_mut().copy_from(queries.some_columns(shape.nope..width));
        for (position, row) in rotated.values_mut().chunks_exact_mut(shape.rope).enumerate() {
            rope.rotate(position, row);
        }

        let latents = chunk.latents.view().some_rows(start..start + length);
        let keys = chunk.keys.view().some_rows(start..start + length);
        let mut mixed = Dense::zeros(length, shape.kv_rank);
        for first in (0..length).step_by(QUERIES) {
            let rows = QUERIES.min(length - first);
            let seen = first + rows;
            let mut scores = Dense::zeros(rows, seen);
            let carried = carried.view().some_rows(first..seen);
            one_thread(scores.view_mut(), Accum::Replace, carried, latents.some_rows(0..seen).transposed());
            let rotated = rotated.view().some_rows(first..seen);
            one_thread(scores.view_mut(), Accum::Add, rotated, keys.some_rows(0..seen).transposed());
            for (row, scores) in scores.values_mut().chunks_exact_mut(seen).enumerate() {
                let (open, later) = scores.split_at_mut(first + row + 1);
                softmax(open, shape.attention_scale());
                later.fill(0.0);
            }
            let mixed = mixed.part_mut(first..seen, 0..shape.kv_rank);
            one_thread(mixed, Accum::Replace, scores.view(), latents.some_rows(0..seen));
        }
        let mut values = Dense::zeros(length, shape.value);
        one_thread(values.view_mut(), Accum::Replace, mixed.view(), value.view().transposed());
        HeadOutput { mixed: keep.then_some(mixed), values }
    }
}

/// Tokens that see each other.
struct Chunk<'a> {
    start: usize,
    length: usize,
    latents: &'a Dense,
    keys: &'a Dense,
}

fn softmax(scores: &mut [f32], scale: f32) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = exp((*score - largest) * scale);
        sum += *score;
    }
    let share = 1.0 / sum;
    for score in scores {
        *score *= share;
    }
}
