//! Latent attention (MLA), as llama.cpp computes it: queries are carried into the latent's space, where one key and one
//! value serve all heads.

mod back;

use std::ops::Range;

use dense_kernels::{Accum, Dense, View, one_thread};

use super::norm::{normalise, softmax};
use super::{ATTENTION_NORM, Attend, Chunks, Inputs, Observer, Rope, Show, Turns, apply, beside};
use crate::error::Result;
use crate::model::Weights;
use crate::model::description::{Description, in_layer};
use crate::model::spec::{Source, Spec};
use crate::model::tensor::Role;
use crate::threads::{self, both, each_rows};

/// Queries whose scores are computed together; keys after the last of them are left out.
const QUERIES: usize = 128;

const Q: &str = "attn_q.weight";
const Q_A: &str = "attn_q_a.weight";
const Q_A_NORM: &str = "attn_q_a_norm.weight";
const Q_B: &str = "attn_q_b.weight";
const KV_A: &str = "attn_kv_a_mqa.weight";
const KV_A_NORM: &str = "attn_kv_a_norm.weight";
const K_B: &str = "attn_k_b.weight";
const V_B: &str = "attn_v_b.weight";
const OUTPUT: &str = "attn_output.weight";
const INDEXER_Q: &str = "indexer.attn_q_b.weight";
const INDEXER_K: &str = "indexer.attn_k.weight";

/// Sizes of latent attention. How many columns have a position, the rope says.
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// Heads.
    pub heads: u32,
    /// Rank of the queries; None if they have one full matrix.
    pub q_rank: Option<u32>,
    /// Width of the latent, which all heads share.
    pub kv_rank: u32,
    /// Columns of a head's query and key without position.
    pub nope: u32,
    /// Columns of a head's value.
    pub value: u32,
    /// What chooses the tokens that are attended to; None if all are.
    pub indexer: Option<Indexer>,
}

/// Sizes of what chooses the tokens that a token attends to (DeepSeek's sparse attention): small attention of its own,
/// whose products say which tokens matter most. As long as there are no more tokens than it may choose, it chooses all,
/// and nothing of it is computed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indexer {
    /// Heads.
    pub heads: u32,
    /// Columns of a head.
    pub width: u32,
    /// Tokens that may be chosen.
    pub chosen: u32,
    /// Whether the layer has one. If not, it takes the choice of the last layer before it that has.
    pub own: bool,
}

impl Indexer {
    /// The tensors. The factors of the heads' products stay in F32, as converters keep them: they are small, and choose.
    fn specs(&self, hidden: u32, q_rank: u32) -> Vec<Spec> {
        let source = |name: &str| format!("self_attn.indexer.{name}");
        let matrix = |name: &str, stored: &str, role, shape| Spec::matrix(name, role, &source(stored), shape);
        let norm = |name: &str, stored: &str| Spec::vector(name, &source(stored), self.width);
        vec![
            matrix(INDEXER_Q, "wq_b.weight", Role::Attention, [self.heads * self.width, q_rank])
                .reads_inner(Some(Q_A_NORM)),
            matrix(INDEXER_K, "wk.weight", Role::Attention, [self.width, hidden])
                .reads_stream(ATTENTION_NORM),
            norm("indexer.k_norm.weight", "k_norm.weight"),
            norm("indexer.k_norm.bias", "k_norm.bias"),
            matrix("indexer.proj.weight", "weights_proj.weight", Role::Router, [self.heads, hidden])
                .reads_stream(ATTENTION_NORM),
        ]
    }
}

impl Latent {
    /// The tensors. A checkpoint has keys and values of a head after one another in one matrix; keys are transposed,
    /// since llama.cpp multiplies the query by them.
    pub fn specs(&self, hidden: u32, rope: &Rope) -> Vec<Spec> {
        let queries = self.heads * (self.nope + rope.columns);
        let matrix = |name: &str, source: &str, shape| {
            let source = format!("self_attn.{source}.weight");
            Spec::matrix(name, Role::Attention, &source, shape)
        };
        let norm = |name: &str, source: &str, length| {
            Spec::vector(name, &format!("self_attn.{source}.weight"), length)
        };
        let mut specs = match self.q_rank {
            Some(rank) => vec![
                matrix(Q_A, "q_a_proj", [rank, hidden]).reads_stream(ATTENTION_NORM),
                norm(Q_A_NORM, "q_a_layernorm", rank),
                matrix(Q_B, "q_b_proj", [queries, rank]).reads_inner(Some(Q_A_NORM)),
            ],
            None => vec![matrix(Q, "q_proj", [queries, hidden]).reads_stream(ATTENTION_NORM)],
        };
        let heads = |name: &str, rows: Range<u32>, transposed| {
            let source = Source::Heads {
                name: "self_attn.kv_b_proj.weight".to_owned(),
                heads: self.heads,
                each: self.nope + self.value,
                rows: rows.clone(),
                transposed,
            };
            Spec::heads(name, source, [rows.end - rows.start, self.kv_rank])
        };
        specs.extend([
            matrix(KV_A, "kv_a_proj_with_mqa", [self.kv_rank + rope.columns, hidden])
                .reads_stream(ATTENTION_NORM),
            norm(KV_A_NORM, "kv_a_layernorm", self.kv_rank),
            heads(K_B, 0..self.nope, true).reads_inner(None),
            heads(V_B, self.nope..self.nope + self.value, false).reads_inner(Some(KV_A_NORM)),
            matrix(OUTPUT, "o_proj", [hidden, self.heads * self.value]).reads_inner(None).writes_stream(),
        ]);
        if let (Some(indexer), Some(rank)) = (self.own_indexer(), self.q_rank) {
            specs.extend(indexer.specs(hidden, rank));
        }
        specs
    }

    /// The indexer, if the layer has one of its own.
    fn own_indexer(&self) -> Option<&Indexer> {
        self.indexer.as_ref().filter(|indexer| indexer.own)
    }

    /// Numbers that a token adds to the KV cache: the latent, the key that all heads share, and the indexer's key.
    pub fn cache_per_token(&self, rope: &Rope) -> u32 {
        self.shared_per_token(rope) + self.own_indexer().map_or(0, |indexer| indexer.width)
    }

    /// Of these the latent and the key of all heads.
    fn shared_per_token(&self, rope: &Rope) -> u32 {
        self.kv_rank + rope.columns
    }

    /// Numbers of llama.cpp's buffers for a token: queries against the cache, at three stages, beside two hidden
    /// states; docs/records/2026-11-machines.md has the measurement.
    pub fn scratch_per_token(&self, hidden: u32, rope: &Rope) -> u64 {
        3 * u64::from(self.heads) * u64::from(self.shared_per_token(rope)) + 2 * u64::from(hidden)
    }

    /// Sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("heads", self.heads.to_string()),
            ("rank of queries", self.q_rank.map_or("none".to_owned(), |rank| rank.to_string())),
            ("rank of keys and values", self.kv_rank.to_string()),
            ("columns of a key without position", self.nope.to_string()),
            ("columns of a value", self.value.to_string()),
            (
                "tokens that are attended to",
                self.indexer.as_ref().map_or("all".to_owned(), |i| i.chosen.to_string()),
            ),
        ]
    }

    /// Reads a layer's weights.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open(&self, weights: &Weights, model: &Description, layer: usize) -> Result<OpenLatent> {
        let name = |tensor: &str| in_layer(layer, tensor);
        let place =
            |tensor: &str| weights.get(&name(tensor)).map(|_| weights.place(&name(tensor)).expect("there"));
        let matrix = |tensor: &str, shape| weights.matrix(&name(tensor), 0, shape);
        let sizes = Sizes::of(self, model);
        let queries = sizes.heads * (sizes.nope + sizes.rope);
        let own = self.own_indexer().is_some();
        let indexer = |tensor: &str| own.then(|| place(tensor)).transpose();
        let (q_a, low, query) = match self.q_rank.map(|rank| rank as usize) {
            Some(rank) => {
                let low = Low {
                    a: matrix(Q_A, [rank, sizes.hidden])?,
                    norm: weights.vector(&name(Q_A_NORM), rank)?,
                    places: [Some(place(Q_B)?), indexer(INDEXER_Q)?].into_iter().flatten().collect(),
                };
                (Q_A, Some(low), matrix(Q_B, [queries, rank])?)
            }
            None => (Q, None, matrix(Q, [queries, sizes.hidden])?),
        };
        let head = |head: usize| {
            let key = weights.matrix(&name(K_B), head, [sizes.kv_rank, sizes.nope])?;
            Ok([key, weights.matrix(&name(V_B), head, [sizes.value, sizes.kv_rank])?])
        };
        Ok(OpenLatent {
            norm: weights.vector(&name(ATTENTION_NORM), sizes.hidden)?,
            low,
            query,
            kv_a: matrix(KV_A, [sizes.kv_rank + sizes.rope, sizes.hidden])?,
            kv_a_norm: weights.vector(&name(KV_A_NORM), sizes.kv_rank)?,
            heads: threads::try_map("read heads", 0..sizes.heads, head)?,
            output: matrix(OUTPUT, [sizes.hidden, sizes.heads * sizes.value])?,
            first: [Some(place(q_a)?), Some(place(KV_A)?), indexer(INDEXER_K)?]
                .into_iter()
                .flatten()
                .collect(),
            places: [place(K_B)?, place(V_B)?, place(OUTPUT)?],
            sizes,
        })
    }
}

/// Sizes as the computation needs them.
#[derive(Clone, Copy)]
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_rank: usize,
    nope: usize,
    rope: usize,
    value: usize,
    eps: f32,
    /// The factor of the products of queries and keys.
    scale: f32,
}

impl Sizes {
    fn of(latent: &Latent, model: &Description) -> Self {
        let (nope, rope) = (latent.nope as usize, model.rope.columns as usize);
        let stretched = model.rope.yarn.map_or(1.0, |yarn| yarn.attention());
        Self {
            hidden: model.hidden as usize,
            heads: latent.heads as usize,
            kv_rank: latent.kv_rank as usize,
            nope,
            rope,
            value: latent.value as usize,
            eps: model.eps,
            scale: stretched / ((nope + rope) as f32).sqrt(),
        }
    }
}

/// The weights of one layer's attention.
pub struct OpenLatent {
    sizes: Sizes,
    norm: Dense,
    /// What is before the queries' matrix, if that is of low rank.
    low: Option<Low>,
    query: Dense,
    kv_a: Dense,
    kv_a_norm: Dense,
    /// For each head the matrix from query to latent, and from latent to value.
    heads: Vec<[Dense; 2]>,
    output: Dense,
    /// Places of those that the normalised states are the inputs of.
    first: Vec<usize>,
    /// Places of `attn_k_b`, `attn_v_b`, `attn_output`.
    places: [usize; 3],
}

/// The first of two matrices of low rank, and the norm between them.
struct Low {
    a: Dense,
    norm: Dense,
    /// Places of those that the normalised rows between the two are the inputs of.
    places: Vec<usize>,
}

/// The output of one head for one chunk.
struct HeadOutput {
    /// Latents, weighted by attention: the input of attn_v_b.
    mixed: Option<Dense>,
    values: Dense,
}

impl Attend for OpenLatent {
    fn apply(&self, mut states: Dense, text: &Chunks, show: Show<'_>) -> Result<Option<Dense>> {
        normalise(&mut states, self.norm.values(), self.sizes.eps);
        let see = || show.observer.see(Inputs { tensors: &self.first, slice: 0, inputs: states.view() });
        let (seen, values) = both("attention", see, || self.values(states.view(), text, show.observer));
        seen?;
        let values = values?;
        show.last(&self.places[2..], 0, &values, |values| apply(&self.output, values))
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

impl OpenLatent {
    /// What the heads make of normalised states: for each token the values of all heads.
    fn values(&self, states: View<'_>, text: &Chunks, observer: &dyn Observer) -> Result<Dense> {
        let sizes = self.sizes;
        let queries = || {
            let Some(Low { a, norm, places }) = &self.low else { return Ok(apply(&self.query, states)) };
            let mut low = apply(a, states);
            normalise(&mut low, norm.values(), sizes.eps);
            let see = || observer.see(Inputs { tensors: places, slice: 0, inputs: low.view() });
            let (seen, queries) = both("queries", see, || apply(&self.query, low.view()));
            seen.map(|()| queries)
        };
        let (queries, latents) = both("queries and latents", queries, || self.latents(states, text));
        let (queries, [latents, keys]) = (queries?, latents);
        let of_head =
            |head: usize| self.values_of_head(head, queries.view(), [&latents, &keys], text, observer);
        let heads: Vec<Vec<Dense>> = threads::try_map("heads", 0..sizes.heads, of_head)?;
        Ok(beside(states.rows(), text, [sizes.heads, sizes.value], |chunk, head| &heads[head][chunk]))
    }

    /// The values of a head, chunk after chunk of the text.
    fn values_of_head(
        &self,
        head: usize,
        queries: View<'_>,
        [latents, keys]: [&Dense; 2],
        text: &Chunks,
        observer: &dyn Observer,
    ) -> Result<Vec<Dense>> {
        let sizes = self.sizes;
        let [k_b, v_b, _] = self.places;
        let width = sizes.nope + sizes.rope;
        let plain = queries.some_columns(head * width..head * width + sizes.nope);
        observer.see(Inputs { tensors: &[k_b], slice: head, inputs: plain })?;
        let keep = observer.wants_mixed();
        let starts: Vec<usize> = (0..queries.rows()).step_by(text.length).collect();
        let outputs = threads::map("chunks of a head", &starts, |&start| {
            let chunk = Chunk { start, length: text.length.min(queries.rows() - start), latents, keys };
            self.head(head, queries, &chunk, text.turns, keep)
        });
        let values = outputs.into_iter().map(|HeadOutput { mixed, values }| {
            if let Some(mixed) = mixed {
                observer.see(Inputs { tensors: &[v_b], slice: head, inputs: mixed.view() })?;
            }
            Ok(values)
        });
        values.collect()
    }

    /// The normalised latent of every token, and the rotated key that all heads share.
    fn latents(&self, states: View<'_>, text: &Chunks) -> [Dense; 2] {
        let sizes = self.sizes;
        let both = apply(&self.kv_a, states);
        let part = |from: usize, width: usize| {
            let mut part = Dense::to_fill(both.rows(), width);
            part.view_mut().copy_from(both.view().some_columns(from..from + width));
            part
        };
        let mut latents = part(0, sizes.kv_rank);
        normalise(&mut latents, self.kv_a_norm.values(), sizes.eps);
        let mut keys = part(sizes.kv_rank, sizes.rope);
        each_rows("rotate", keys.values_mut(), sizes.rope, |first, keys| {
            for (token, key) in (first..).zip(keys.chunks_exact_mut(sizes.rope)) {
                text.turns.rotate(token % text.length, key);
            }
        });
        [latents, keys]
    }

    fn head(&self, head: usize, queries: View<'_>, chunk: &Chunk, turns: &Turns, keep: bool) -> HeadOutput {
        let sizes = self.sizes;
        let [_, value] = &self.heads[head];
        let Chunk { start, length, .. } = *chunk;
        let [carried, rotated] = self.query(head, queries, chunk, turns);
        let latents = chunk.latents.view().some_rows(start..start + length);
        let keys = chunk.keys.view().some_rows(start..start + length);
        let mut mixed = Dense::to_fill(length, sizes.kv_rank);
        for first in (0..length).step_by(QUERIES) {
            let seen = length.min(first + QUERIES);
            let shares = self.shares([&carried, &rotated], [latents, keys], first..seen);
            let mixed = mixed.part_mut(first..seen, 0..sizes.kv_rank);
            one_thread(mixed, Accum::Replace, shares.view(), latents.some_rows(0..seen));
        }
        let mut values = Dense::to_fill(length, sizes.value);
        one_thread(values.view_mut(), Accum::Replace, mixed.view(), value.view().transposed());
        HeadOutput { mixed: keep.then_some(mixed), values }
    }

    /// The queries of a head in a chunk: carried into the latent's space, and the rotated part.
    fn query(&self, head: usize, queries: View<'_>, chunk: &Chunk, turns: &Turns) -> [Dense; 2] {
        let sizes = self.sizes;
        let [key, _] = &self.heads[head];
        let Chunk { start, length, .. } = *chunk;
        let width = sizes.nope + sizes.rope;
        let queries = queries.part(start..start + length, head * width..(head + 1) * width);
        let mut carried = Dense::to_fill(length, sizes.kv_rank);
        let plain = queries.some_columns(0..sizes.nope);
        one_thread(carried.view_mut(), Accum::Replace, plain, key.view().transposed());
        let mut rotated = Dense::to_fill(length, sizes.rope);
        rotated.view_mut().copy_from(queries.some_columns(sizes.nope..width));
        for (position, row) in rotated.values_mut().chunks_exact_mut(sizes.rope).enumerate() {
            turns.rotate(position, row);
        }
        [carried, rotated]
    }

    /// The shares with which some queries of a chunk attend to the latents and keys up to the last of them.
    fn shares(
        &self,
        [carried, rotated]: [&Dense; 2],
        [latents, keys]: [View<'_>; 2],
        some: Range<usize>,
    ) -> Dense {
        let seen = some.end;
        let mut scores = Dense::to_fill(some.len(), seen);
        let carried = carried.view().some_rows(some.clone());
        one_thread(scores.view_mut(), Accum::Replace, carried, latents.some_rows(0..seen).transposed());
        let rotated = rotated.view().some_rows(some.clone());
        one_thread(scores.view_mut(), Accum::Add, rotated, keys.some_rows(0..seen).transposed());
        for (query, scores) in some.zip(scores.values_mut().chunks_exact_mut(seen)) {
            let (open, later) = scores.split_at_mut(query + 1);
            softmax(open, self.sizes.scale, None);
            later.fill(0.0);
        }
        scores
    }
}

/// The tokens of one chunk, which attend to each other.
struct Chunk<'a> {
    start: usize,
    length: usize,
    latents: &'a Dense,
    keys: &'a Dense,
}
