//! The way back through attention with groups of heads: from gradients at its output to those at the hidden states.

use dense_kernels::{Accum, Dense, View, one_thread, product};

use super::super::norm::{normalise_back, softmax_back};
use super::super::through;
use super::*;
use crate::model::layer::Gradients;
use crate::threads;

impl OpenGrouped<'_> {
    /// As [`Attend::back`].
    pub(super) fn go_back(
        &self,
        states: &Dense,
        gradients: &Dense,
        text: &Chunks,
        show: Show<'_>,
    ) -> Result<Option<Dense>> {
        let mut normed = states.clone();
        normalise(&mut normed, self.norm.values(), self.eps);
        let (queries, gates, keys, values) = self.projected(normed.view(), text);
        let mut of_mixed = through(&self.output.matrix, gradients.view());
        let of_gates = gates.map(|gates| {
            let mut of_gates = self.ungated([&queries, &keys, &values], text);
            combine("gate back", &mut of_gates, &of_mixed, |x, d| x * d);
            combine("gate back", &mut of_gates, &gates, |x, gate| x * sigmoid(gate) * (1.0 - sigmoid(gate)));
            combine("gate back", &mut of_mixed, &gates, |d, gate| d * sigmoid(gate));
            of_gates
        });
        let [of_queries, of_keys, of_values] = self.heads_back([&queries, &keys, &values], &of_mixed, text);
        let [query, key, _] = self.projections.each_ref().map(|projection| projection.matrix.view());
        let before = |matrix: View<'_>, which: usize| {
            let mut rows = Dense::zeros(normed.rows(), matrix.rows());
            product(rows.view_mut(), Accum::Replace, normed.view(), matrix.transposed());
            biased(rows, self.projections[which].bias.as_ref())
        };
        let mut of_queries = of_queries;
        self.heat(&mut of_queries, text);
        let queries = self.positioned_back(of_queries, 0, || self.parted(before(query, 0)).0, text);
        let keys = self.positioned_back(of_keys, 1, || before(key, 1), text);
        let queries = match of_gates {
            Some(gates) => self.joined(&queries, &gates),
            None => queries,
        };
        let mut sum = Dense::zeros(normed.rows(), normed.columns());
        for (projection, rows) in self.projections.iter().zip([queries, keys, of_values]) {
            let gradients = Gradients { tensors: &[projection.place], slice: 0, rows: rows.view() };
            show.observer.see_gradients(gradients)?;
            product(sum.view_mut(), Accum::Add, rows.view(), projection.matrix.view());
        }
        if !show.outputs {
            return Ok(None);
        }
        normalise_back(&mut sum, states, self.norm.values(), self.eps);
        Ok(Some(sum))
    }

    /// Gradients at queries, keys and values, from those at what the heads make of them.
    fn heads_back(&self, of_tokens: [&Dense; 3], of_mixed: &Dense, text: &Chunks) -> [Dense; 3] {
        let (tokens, width) = (of_mixed.rows(), self.sizes.width as usize);
        let starts: Vec<usize> = (0..tokens).step_by(text.length).collect();
        let heads: Vec<usize> = (0..self.sizes.heads as usize).collect();
        let backs: Vec<Vec<[Dense; 3]>> = threads::map("heads back", &heads, |&head| {
            threads::map("chunks of a head back", &starts, |&start| {
                let rows = start..tokens.min(start + text.length);
                let of_chunk = of_tokens.map(|of| of.view().some_rows(rows.clone()));
                let of_mixed = of_mixed.view().part(rows, head * width..(head + 1) * width);
                self.head_back(head, self.of_head(head, of_chunk), of_mixed)
            })
        });
        let mut sums = of_tokens.map(|of| Dense::zeros(of.rows(), of.columns()));
        for (head, chunks) in backs.iter().enumerate() {
            for (start, parts) in starts.iter().zip(chunks) {
                for ((which, sum), part) in sums.iter_mut().enumerate().zip(parts) {
                    let first = width * if which == 0 { head } else { self.kv_head(head) };
                    for row in 0..part.rows() {
                        let sum = &mut sum.row_mut(start + row)[first..first + width];
                        sum.iter_mut().zip(part.row(row)).for_each(|(sum, x)| *sum += x);
                    }
                }
            }
        }
        sums
    }

    /// Gradients at the queries, keys and values of a head in a chunk.
    fn head_back(&self, head: usize, of_head: [View<'_>; 3], of_mixed: View<'_>) -> [Dense; 3] {
        let [queries, keys, values] = of_head;
        let (length, width) = (queries.rows(), self.sizes.width as usize);
        let [mut of_queries, mut of_keys, mut of_values] = [(); 3].map(|()| Dense::zeros(length, width));
        for first in (0..length).step_by(QUERIES) {
            let until = length.min(first + QUERIES);
            let shares = self.shares(head, queries, keys, first..until);
            let mixed = of_mixed.some_rows(first..until);
            let mut scores = Dense::zeros(until - first, until);
            one_thread(scores.view_mut(), Accum::Replace, mixed, values.some_rows(0..until).transposed());
            for (row, scores) in scores.values_mut().chunks_exact_mut(until).enumerate() {
                softmax_back(scores, shares.row(row), self.scale());
            }
            let part = of_queries.part_mut(first..until, 0..width);
            one_thread(part, Accum::Replace, scores.view(), keys.some_rows(0..until));
            let add = |to: &mut Dense, left: &Dense, right: View<'_>| {
                one_thread(to.part_mut(0..until, 0..width), Accum::Add, left.view().transposed(), right);
            };
            add(&mut of_keys, &scores, queries.some_rows(first..until));
            add(&mut of_values, &shares, mixed);
        }
        [of_queries, of_keys, of_values]
    }

    /// From gradients at rotated and normalised rows to those at what their projection gives (`before`).
    fn positioned_back(
        &self,
        mut gradients: Dense,
        which: usize,
        before: impl FnOnce() -> Dense,
        text: &Chunks,
    ) -> Dense {
        let (all, width) = (gradients.columns(), self.sizes.width as usize);
        if self.sizes.rotated {
            for (token, row) in gradients.values_mut().chunks_exact_mut(all).enumerate() {
                let position = token % text.length;
                row.chunks_exact_mut(width).for_each(|head| text.turns.rotate_back(position, head));
            }
        }
        let Some(gains) = &self.norms[which] else { return gradients };
        let before = before().in_rows_of(gains.columns());
        let mut parts = gradients.in_rows_of(gains.columns());
        normalise_back(&mut parts, &before, gains.values(), self.eps);
        parts.in_rows_of(all)
    }

    /// Queries with their gates behind them, head by head: what [`parted`](Self::parted) takes apart.
    fn joined(&self, queries: &Dense, gates: &Dense) -> Dense {
        let width = self.sizes.width as usize;
        let of_heads = queries.values().chunks_exact(width).zip(gates.values().chunks_exact(width));
        let values = of_heads.flat_map(|(queries, gates)| queries.iter().chain(gates)).copied().collect();
        Dense::new(2 * queries.columns(), values)
    }
}
