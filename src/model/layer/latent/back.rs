//! The way back through latent attention: from gradients at its output to those at the hidden states.

use dense_kernels::{Accum, Dense, View, one_thread, product};

use super::super::norm::{normalise_back, softmax_back};
use super::super::through;
use super::*;
use crate::model::layer::Gradients;

/// Heads whose gradients are in memory at the same time: each has some at all latents.
const HEADS: usize = 8;

/// Gradients that one head causes in one chunk, a row for each token.
struct HeadBack {
    /// At the output of attn_k_b, the query in the latent's space.
    carried: Dense,
    /// At the query.
    query: Dense,
    /// At the latents, and at the rotated key that all heads share.
    shared: [Dense; 2],
}

impl OpenLatent {
    /// As [`Attend::back`].
    pub(super) fn go_back(
        &self,
        states: &Dense,
        gradients: &Dense,
        text: &Chunks,
        show: Show<'_>,
    ) -> Result<Option<Dense>> {
        let (sizes, observer) = (self.sizes, show.observer);
        let see = |tensors: &[usize], slice: usize, rows: View<'_>| {
            observer.see_gradients(Gradients { tensors, slice, rows })
        };
        let mut normed = states.clone();
        normalise(&mut normed, self.norm.values(), sizes.eps);
        // Of a query of low rank with what was before its norm.
        let low = self.low.as_ref().map(|low| (low, apply(&low.a, normed.view())));
        let queries = match &low {
            Some((Low { norm, .. }, before)) => {
                let mut low = before.clone();
                normalise(&mut low, norm.values(), sizes.eps);
                apply(&self.query, low.view())
            }
            None => apply(&self.query, normed.view()),
        };
        let [latents, keys] = self.latents(normed.view(), text);
        let values = through(&self.output, gradients.view());

        let mut of_queries = Dense::zeros(normed.rows(), queries.columns());
        let mut of_latents = Dense::zeros(normed.rows(), sizes.kv_rank);
        let mut of_keys = Dense::zeros(normed.rows(), sizes.rope);
        let starts: Vec<usize> = (0..normed.rows()).step_by(text.length).collect();
        let [k_b, v_b, _] = self.places;
        let width = sizes.nope + sizes.rope;
        for first in (0..sizes.heads).step_by(HEADS) {
            let some: Vec<usize> = (first..sizes.heads.min(first + HEADS)).collect();
            let backs: Vec<Vec<HeadBack>> = threads::try_map("heads back", &some, |&head| {
                let values = values.view().some_columns(head * sizes.value..(head + 1) * sizes.value);
                see(&[v_b], head, values)?;
                let chunks = threads::map("chunks of a head back", &starts, |&start| {
                    let length = text.length.min(normed.rows() - start);
                    let chunk = Chunk { start, length, latents: &latents, keys: &keys };
                    self.head_back(head, queries.view(), values, &chunk, text.turns)
                });
                chunks.iter().try_for_each(|chunk| see(&[k_b], head, chunk.carried.view()))?;
                Ok(chunks)
            })?;
            for (head, chunks) in some.into_iter().zip(&backs) {
                for (start, HeadBack { query, shared, .. }) in starts.iter().zip(chunks) {
                    let rows = *start..start + query.rows();
                    of_queries.part_mut(rows, head * width..(head + 1) * width).copy_from(query.view());
                    for (sum, part) in [&mut of_latents, &mut of_keys].into_iter().zip(shared) {
                        let columns = sum.columns();
                        let sum = &mut sum.values_mut()[start * columns..][..part.values().len()];
                        sum.iter_mut().zip(part.values()).for_each(|(sum, x)| *sum += x);
                    }
                }
            }
        }
        let kv = self.kv_back(normed.view(), [of_latents, of_keys], text);
        let (q, kv_a) = (self.first[0], self.first[1]);
        see(&[kv_a], 0, kv.view())?;
        let mut sum = through(&self.kv_a, kv.view());
        match low {
            Some((Low { a, norm, places }, before)) => {
                see(&places[..1], 0, of_queries.view())?;
                let mut of_low = through(&self.query, of_queries.view());
                normalise_back(&mut of_low, &before, norm.values(), sizes.eps);
                see(&[q], 0, of_low.view())?;
                product(sum.view_mut(), Accum::Add, of_low.view(), a.view());
            }
            None => {
                see(&[q], 0, of_queries.view())?;
                product(sum.view_mut(), Accum::Add, of_queries.view(), self.query.view());
            }
        }
        if !show.outputs {
            return Ok(None);
        }
        normalise_back(&mut sum, states, self.norm.values(), sizes.eps);
        Ok(Some(sum))
    }

    /// Gradients at what attn_kv_a_mqa gives, from those at normalised latents and at rotated keys.
    fn kv_back(&self, normed: View<'_>, [mut latents, mut keys]: [Dense; 2], text: &Chunks) -> Dense {
        let sizes = self.sizes;
        let given = apply(&self.kv_a, normed);
        let mut before = Dense::zeros(given.rows(), sizes.kv_rank);
        before.view_mut().copy_from(given.view().some_columns(0..sizes.kv_rank));
        normalise_back(&mut latents, &before, self.kv_a_norm.values(), sizes.eps);
        for (token, key) in keys.values_mut().chunks_exact_mut(sizes.rope).enumerate() {
            text.turns.rotate_back(token % text.length, key);
        }
        let mut both = Dense::zeros(given.rows(), given.columns());
        let rows = 0..given.rows();
        both.part_mut(rows.clone(), 0..sizes.kv_rank).copy_from(latents.view());
        both.part_mut(rows, sizes.kv_rank..given.columns()).copy_from(keys.view());
        both
    }

    /// The gradients that those at the values of a head cause.
    fn head_back(
        &self,
        head: usize,
        queries: View<'_>,
        values: View<'_>,
        chunk: &Chunk,
        turns: &Turns,
    ) -> HeadBack {
        let sizes = self.sizes;
        let [key, value] = &self.heads[head];
        let Chunk { start, length, .. } = *chunk;
        let tokens = start..start + length;
        let [carried, rotated] = self.query(head, queries, chunk, turns);
        let latents = chunk.latents.view().some_rows(tokens.clone());
        let keys = chunk.keys.view().some_rows(tokens.clone());
        let mut of_mixed = Dense::zeros(length, sizes.kv_rank);
        one_thread(of_mixed.view_mut(), Accum::Replace, values.some_rows(tokens), value.view());

        let mut of_latents = Dense::zeros(length, sizes.kv_rank);
        let mut of_keys = Dense::zeros(length, sizes.rope);
        let mut of_carried = Dense::zeros(length, sizes.kv_rank);
        let mut of_rotated = Dense::zeros(length, sizes.rope);
        for first in (0..length).step_by(QUERIES) {
            let seen = length.min(first + QUERIES);
            let shares = self.shares([&carried, &rotated], [latents, keys], first..seen);
            let mixed = of_mixed.view().some_rows(first..seen);
            let mut scores = Dense::zeros(seen - first, seen);
            one_thread(scores.view_mut(), Accum::Replace, mixed, latents.some_rows(0..seen).transposed());
            for (row, scores) in scores.values_mut().chunks_exact_mut(seen).enumerate() {
                softmax_back(scores, shares.row(row), sizes.scale);
            }
            let add = |to: &mut Dense, columns: usize, left: View<'_>, right: View<'_>| {
                one_thread(to.part_mut(0..seen, 0..columns), Accum::Add, left, right);
            };
            let (rank, rope) = (sizes.kv_rank, sizes.rope);
            add(&mut of_latents, rank, shares.view().transposed(), mixed);
            let back = scores.view().transposed();
            add(&mut of_latents, rank, back, carried.view().some_rows(first..seen));
            add(&mut of_keys, rope, back, rotated.view().some_rows(first..seen));
            let part = of_carried.part_mut(first..seen, 0..rank);
            one_thread(part, Accum::Replace, scores.view(), latents.some_rows(0..seen));
            let part = of_rotated.part_mut(first..seen, 0..rope);
            one_thread(part, Accum::Replace, scores.view(), keys.some_rows(0..seen));
        }
        let mut query = Dense::zeros(length, sizes.nope + sizes.rope);
        let plain = query.part_mut(0..length, 0..sizes.nope);
        one_thread(plain, Accum::Replace, of_carried.view(), key.view());
        for (position, row) in of_rotated.values_mut().chunks_exact_mut(sizes.rope).enumerate() {
            turns.rotate_back(position, row);
        }
        query.part_mut(0..length, sizes.nope..sizes.nope + sizes.rope).copy_from(of_rotated.view());
        HeadBack { carried: of_carried, query, shared: [of_latents, of_keys] }
    }
}
