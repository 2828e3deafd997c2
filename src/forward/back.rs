//! Going back through a half of a layer: from gradients at the hidden states behind it, which are known for the first
//! tokens of the text, to those before it.

use std::ops::Range;

use dense_kernels::Dense;

use super::states::{States, Sum};
use crate::error::Result;
use crate::model::layer::{Observer, OpenGated, Show};
use crate::threads;

/// Gradients behind a half, and where those before it go.
#[derive(Debug)]
pub struct Behind<'a> {
    /// At the states behind it, of the first tokens.
    gradients: &'a States,
    /// At those before it: at first the same, since a half adds to the states. None if gradients are only shown.
    before: Option<&'a mut States>,
}

impl<'a> Behind<'a> {
    /// Gradients that are only shown to an observer, at the outputs of every matrix.
    pub fn shown(gradients: &'a States) -> Self {
        Self { gradients, before: None }
    }

    /// The gradients before the half are wanted as well: what the half adds to them is added to `before`.
    pub fn with(gradients: &'a States, before: &'a mut States) -> Self {
        Self { gradients, before: Some(before) }
    }

    /// Those of a batch, as far as they are known.
    pub fn batch(&self, tokens: &Range<usize>) -> Result<Option<Dense>> {
        let known = tokens.start..tokens.end.min(self.gradients.rows());
        if known.is_empty() { Ok(None) } else { self.gradients.read(known).map(Some) }
    }

    /// What the observer is shown by, and whether more is wanted.
    pub fn show<'o>(&self, observer: &'o dyn Observer) -> Show<'o> {
        Show { observer, outputs: self.before.is_some() }
    }

    /// Adds to the gradients before the half, from the token `first` on.
    pub fn add(&mut self, first: usize, values: Dense) -> Result<()> {
        let Some(before) = &mut self.before else { return Ok(()) };
        let rows = values.rows();
        before.add(&[Sum { rows: (first..first + rows).collect(), factors: vec![1.0; rows], values }])
    }

    /// The same gradients, for a layer of so many routed experts whose inputs have as many columns as the states.
    pub fn inner(&self, experts: usize, memory: u64) -> Result<Inner<'a>> {
        let sums = match self.before {
            Some(_) => Some(Sums {
                states: States::new(self.gradients.rows(), self.gradients.columns(), memory)?,
                of_weights: Dense::zeros(self.gradients.rows(), experts),
            }),
            None => None,
        };
        Ok(Inner { behind: self.gradients, sums })
    }
}

/// Gradients behind routed experts, and the sums of those at their inputs.
#[derive(Debug)]
pub struct Inner<'a> {
    behind: &'a States,
    /// None if gradients are only shown.
    sums: Option<Sums>,
}

#[derive(Debug)]
struct Sums {
    /// At the normalised states.
    states: States,
    /// At the weight of each expert, a row for each token.
    of_weights: Dense,
}

/// What one expert adds to the sums.
#[derive(Debug)]
pub struct OfExpert {
    expert: usize,
    at_inputs: Sum,
    of_weights: Vec<f32>,
}

impl Inner<'_> {
    /// Whether the sums are wanted.
    pub fn is_wanted(&self) -> bool {
        self.sums.is_some()
    }

    /// Sets the sums at the normalised states, from the token `first` on, to what others than routed experts add.
    pub fn put(&mut self, first: usize, at_inputs: &Dense) -> Result<()> {
        self.sums.as_mut().map_or(Ok(()), |sums| sums.states.write(first, at_inputs.values()))
    }

    /// Tokens whose gradients are known.
    pub fn tokens(&self) -> usize {
        self.behind.rows()
    }

    /// Goes back through an expert for some of its tokens, with the weights that it has for them.
    pub fn expert(
        &self,
        ffn: &OpenGated,
        expert: usize,
        rows: Vec<usize>,
        weights: &[f32],
        normed: &States,
        observer: &dyn Observer,
    ) -> Result<Option<OfExpert>> {
        let show = Show { observer, outputs: self.sums.is_some() };
        let (inputs, gradients) = (normed.gather(&rows)?, self.behind.gather(&rows)?);
        let back = ffn.back(&inputs, &gradients, weights, show)?;
        Ok(back.map(|(values, of_weights)| OfExpert {
            expert,
            at_inputs: Sum { factors: vec![1.0; rows.len()], rows, values },
            of_weights,
        }))
    }

    /// Adds what experts have made, in their order.
    pub fn add(&mut self, all: Vec<OfExpert>) -> Result<()> {
        let Some(Sums { states, of_weights }) = &mut self.sums else { return Ok(()) };
        for OfExpert { expert, at_inputs, of_weights: of_rows } in &all {
            at_inputs.rows.iter().zip(of_rows).for_each(|(&row, d)| of_weights.row_mut(row)[*expert] = *d);
        }
        let sums: Vec<Sum> = all.into_iter().map(|of| of.at_inputs).collect();
        states.add(&sums)?;
        threads::each("drop", sums, drop);
        Ok(())
    }

    /// The sums of those of some tokens whose gradients are known, at their normalised states and at the weights of all
    /// experts, if they are wanted.
    pub fn sums(&self, tokens: Range<usize>) -> Result<Option<(Dense, Dense)>> {
        let tokens = tokens.start..tokens.end.min(self.tokens());
        let Some(Sums { states, of_weights }) = self.sums.as_ref().filter(|_| !tokens.is_empty()) else {
            return Ok(None);
        };
        let columns = of_weights.columns();
        let weights = of_weights.values()[tokens.start * columns..tokens.end * columns].to_vec();
        Ok(Some((states.read(tokens)?, Dense::new(columns, weights))))
    }
}

/// What tests of passes have in common.
#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use dense_kernels::View;

    use super::super::pass::Pass;
    use super::*;
    use crate::model::layer::tests::{GROUPED, Random, model, tensors};
    use crate::model::layer::{
        Activation, Attention, Experts, Ffn, Form, Gating, Gradients, Grouped, Groups, Ignore, Inputs,
        Latent, Pairing, QkNorm, Rope, Router, Shared, Temperature,
    };
    use crate::model::{Description, Half, Layer, Slices, TensorPlan, Weights};
    use crate::store::InMemory;

    /// Tokens of the text.
    pub const TOKENS: usize = 12;
    const CONTEXT: usize = 6;

    /// Inputs and gradients, rows after rows, by tensor and slice.
    pub type Shown = BTreeMap<(usize, usize), [Vec<f32>; 2]>;

    /// Keeps all that is shown; nothing may be shown of a slice of which all has been seen.
    #[derive(Default)]
    pub struct Recorder {
        /// What was shown.
        pub shown: Mutex<Shown>,
        seen: Mutex<Vec<(Vec<usize>, usize)>>,
    }

    impl Recorder {
        fn put(&self, tensors: &[usize], slice: usize, which: usize, rows: View<'_>) {
            let seen = self.seen.lock().expect("no thread panics");
            let is_past = |tensor| seen.iter().any(|(of, s)| of.contains(tensor) && *s == slice);
            assert!(!tensors.iter().any(is_past), "{tensors:?}, {slice}: all had been shown");
            let mut all = self.shown.lock().expect("no thread panics");
            for &tensor in tensors {
                let list = &mut all.entry((tensor, slice)).or_default()[which];
                (0..rows.rows()).for_each(|row| list.extend(rows.row(row)));
            }
        }
    }

    impl Observer for Recorder {
        fn see(&self, input: Inputs<'_>) -> Result<()> {
            self.put(input.tensors, input.slice, 0, input.inputs);
            Ok(())
        }

        fn see_gradients(&self, gradients: Gradients<'_>) -> Result<()> {
            self.put(gradients.tensors, gradients.slice, 1, gradients.rows);
            Ok(())
        }

        fn seen(&self, tensors: &[usize], slice: usize) -> Result<()> {
            self.seen.lock().expect("no thread panics").push((tensors.to_vec(), slice));
            Ok(())
        }
    }

    /// Random hidden states.
    pub fn states(seed: u64) -> States {
        let mut states = States::new(TOKENS, 10, 1 << 20).expect("memory");
        states.write(0, &Random(seed).values(TOKENS * 10, 1.0)).expect("memory");
        states
    }

    /// A loss that is linear in the states behind the half, from those before it.
    fn loss(
        half: Half,
        model: &Description,
        (store, tensors): (&InMemory, &[TensorPlan]),
        before: &States,
    ) -> f64 {
        let weights = Weights::new(store, tensors);
        let mut pass = Pass::resume(model, TOKENS, CONTEXT, 1 << 20).expect("memory");
        *pass.states() = before.copy(1 << 20).expect("memory");
        pass.half(half, &weights, 0, &Ignore, true).expect("computed");
        let behind = pass.states().read(0..TOKENS).expect("memory");
        let slopes = states(2).read(0..TOKENS).expect("memory");
        behind.values().iter().zip(slopes.values()).map(|(x, d)| f64::from(*x) * f64::from(*d)).sum()
    }

    fn moved(values: &[f32], along: &[f32], by: f32) -> Vec<f32> {
        values.iter().zip(along).map(|(x, d)| x + by * d).collect()
    }

    impl Layer {
        fn has_shared_gate(&self) -> bool {
            matches!(&self.ffn, Ffn::Experts(Experts { shared: Some(Shared { gated: true, .. }), .. }))
        }
    }

    /// Compares gradients with slopes: at the states, and of every matrix that has both inputs and gradients shown.
    #[track_caller]
    fn goes_back(layer: Layer, rope: Rope, half: Half, least: usize) {
        let model = model(rope, layer.clone());
        let mut specs = layer.attention.specs(10, &rope);
        specs.extend(layer.ffn.specs(10));
        let (mut store, tensors) = tensors(&specs, 3);
        let (before, gradients) = (states(1), states(2));
        let mut found = gradients.copy(1 << 20).expect("memory");
        let recorder = Recorder::default();
        {
            let weights = Weights::new(&store, &tensors[..]);
            let mut pass = Pass::resume(&model, TOKENS, CONTEXT, 1 << 20).expect("memory");
            *pass.states() = before.copy(1 << 20).expect("memory");
            let behind = Behind::with(&gradients, &mut found);
            pass.half_and_back(half, &weights, 0, &recorder, false, Some(behind)).expect("computed");
        }
        const STEP: f32 = 5e-3;
        let near = |what: &str, found: f64, up: f64, down: f64, scale: f64| {
            let slope = (up - down) / (2.0 * f64::from(STEP));
            assert!((found - slope).abs() < 0.02 * scale, "{what}: {found}, slope {slope}, scale {scale}");
        };
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let norm = |a: &[f32]| dot(a, a).sqrt();

        let along = Random(4).values(TOKENS * 10, 1.0);
        let found = found.read(0..TOKENS).expect("memory");
        let from = before.read(0..TOKENS).expect("memory");
        let at = |by: f32| {
            let mut states = states(1);
            states.write(0, &moved(from.values(), &along, by)).expect("memory");
            loss(half, &model, (&store, &tensors), &states)
        };
        near("states", dot(found.values(), &along), at(STEP), at(-STEP), norm(found.values()));

        let mut compared = 0;
        for ((tensor, slice), [inputs, gradients]) in recorder.shown.into_inner().expect("no thread panics") {
            let plan = &tensors[tensor];
            let (rows, columns) = (plan.rows() as usize, plan.columns() as usize);
            // What adds to the states behind a factor of its own has the gradients there, without the factor.
            let is_weighed =
                plan.part.writes_stream && (plan.part.slices == Slices::Experts || layer.has_shared_gate());
            if is_weighed || inputs.is_empty() || gradients.is_empty() {
                continue;
            }
            let mut moment = vec![0.0f32; rows * columns];
            for (x, d) in inputs.chunks(columns).zip(gradients.chunks(rows)) {
                for (row, d) in moment.chunks_mut(columns).zip(d) {
                    row.iter_mut().zip(x).for_each(|(sum, x)| *sum += d * x);
                }
            }
            let all = store.values(&plan.name).to_vec();
            let of = slice * rows * columns..(slice + 1) * rows * columns;
            let along = Random(5).values(rows * columns, 1.0);
            let mut at = |by: f32| {
                let mut values = all.clone();
                values[of.clone()].copy_from_slice(&moved(&all[of.clone()], &along, by));
                store.add(&plan.name, columns as u64, values);
                loss(half, &model, (&store, &tensors), &before)
            };
            let (up, down) = (at(STEP), at(-STEP));
            at(0.0);
            near(&plan.name, dot(&moment, &along), up, down, norm(&moment).max(0.05));
            compared += 1;
        }
        assert!(compared >= least, "{compared} slices were compared");
    }

    fn latent(q_rank: Option<u32>) -> Attention {
        Attention::Latent(Latent { heads: 3, q_rank, kv_rank: 7, nope: 4, value: 5, indexer: None })
    }

    /// Two heads share keys and values.
    const SHARED: Grouped = Grouped { kv_heads: 2, ..GROUPED };

    fn attention(attention: Attention, rope: Rope, least: usize) {
        let ffn = Ffn::Dense { width: 8, biases: false };
        goes_back(Layer { attention, ffn }, rope, Half::Attention, least);
    }

    fn ffn(ffn: Ffn, least: usize) {
        let layer = Layer { attention: Attention::Grouped(SHARED), ffn };
        goes_back(layer, Rope::new(6, 100.0, Pairing::Halves), Half::Ffn, least);
    }

    #[test]
    fn latent_attention_goes_back() {
        let rope = Rope::new(4, 100.0, Pairing::Neighbours);
        // q_a, q_b, kv_a, the output, and two matrices of each of three heads.
        attention(latent(Some(6)), rope, 10);
        attention(latent(None), rope, 9);
    }

    #[test]
    fn attention_with_groups_of_heads_goes_back() {
        let rope = Rope::new(4, 100.0, Pairing::Halves);
        let kinds = [
            SHARED,
            Grouped { qk_norm: Some(QkNorm::Head), biases: true, output_bias: true, ..SHARED },
            Grouped { qk_norm: Some(QkNorm::All), window: Some(3), sinks: true, ..SHARED },
            Grouped { gated: true, qk_norm: Some(QkNorm::Head), ..SHARED },
            Grouped { rotated: false, temperature: Some(Temperature { every: 2, growth: 0.5 }), ..SHARED },
        ];
        kinds.into_iter().for_each(|grouped| attention(Attention::Grouped(grouped), rope, 4));
    }

    #[test]
    fn ffns_and_experts_go_back() {
        ffn(Ffn::Dense { width: 8, biases: true }, 3);
        let router = Router {
            used: 2,
            groups: Some(Groups { count: 2, used: 1 }),
            gating: Gating::Sigmoid,
            normalised: true,
            scale: 2.5,
            bias: true,
        };
        let shared = Some(Shared { count: 1, width: 6, gated: false });
        let experts = Experts { count: 4, width: 5, router, shared, form: Form::default(), by_id: None };
        // Gate and up of experts that tokens chose, and three of the shared ones.
        ffn(Ffn::Experts(experts.clone()), 7);
        let router =
            Router { groups: None, gating: Gating::Softmax, normalised: false, bias: false, ..router };
        let shared = Some(Shared { count: 1, width: 6, gated: true });
        ffn(Ffn::Experts(Experts { router, shared, ..experts.clone() }), 6);
        let router = Router { gating: Gating::SoftmaxOfChosen, ..router };
        let form = Form { biases: false, activation: Activation::Clamped };
        ffn(Ffn::Experts(Experts { router, shared: None, form, ..experts }), 4);
    }
}
