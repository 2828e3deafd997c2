//! An FFN whose matrices are quantized in turn: each as soon as the observer has been shown all of its inputs, and before
//! what it gives is computed. So down has the inputs that the quantized gate and up make, and nothing is computed with
//! weights that are not kept.

use dense_kernels::Dense;

use super::super::back::Behind;
use super::super::routed::{Open, Routed};
use super::super::states::States;
use super::{Pass, copied, first_rows, show_written};
use crate::error::Result;
use crate::model::layer::{Experts, Ffn, GatedAt, Inputs, Observer, Show, normalise};
use crate::model::{Description, Half, Weights};

/// Weights before and after they are quantized, and who does it.
pub struct InTurn<'a> {
    /// As they were.
    pub original: &'a Weights<'a>,
    /// As they are once the observer has been told that it has seen all inputs of a matrix. What has no inputs is there from
    /// the beginning.
    pub quantized: &'a Weights<'a>,
    /// Quantizes.
    pub observer: &'a dyn Observer,
}

impl Pass {
    /// The FFN of a layer. If gradients behind it are known, they are shown as the original weights give them.
    ///
    /// # Errors
    /// If weights cannot be read, and those of the observer.
    pub fn ffn_in_turn(
        &mut self,
        turn: &InTurn<'_>,
        layer: usize,
        behind: Option<&Behind<'_>>,
    ) -> Result<()> {
        work_trace::step("FFN");
        match self.model.layers[layer].ffn.clone() {
            Ffn::Dense { width, biases } => {
                let at = Ffn::dense_at(&self.model, layer, width, biases);
                self.dense_in_turn(turn, &at, behind)
            }
            Ffn::Experts(experts) => self.experts_in_turn(turn, &experts, layer, behind),
        }
    }

    fn dense_in_turn(&mut self, turn: &InTurn<'_>, at: &GatedAt, behind: Option<&Behind<'_>>) -> Result<()> {
        let InTurn { original, quantized, observer } = *turn;
        let normed = normed(quantized, &self.model, at.layer)?;
        let [gate, up, _] = at.places(quantized)?;
        let before = behind.map(|_| at.open(original)).transpose()?;
        self.each(|first, states| {
            let inputs = normed(states);
            if let Some((ffn, gradients)) = before.as_ref().zip(batch(behind, first, inputs.rows())?) {
                let (rows, back) = (gradients.rows(), Show { observer, outputs: false });
                ffn.back(&first_rows(&inputs, rows), &gradients, &vec![1.0; rows], back)?;
                show_written(observer, original, at.layer, Half::Ffn, &gradients)?;
            }
            observer.see(Inputs { tensors: &[gate, up], slice: 0, inputs: inputs.view() })?;
            Ok(None)
        })?;
        drop(before);
        self.gated(turn, at, |_, states| Ok(normed(states)), |_, _| ())
    }

    fn experts_in_turn(
        &mut self,
        turn: &InTurn<'_>,
        experts: &Experts,
        layer: usize,
        behind: Option<&Behind<'_>>,
    ) -> Result<()> {
        let InTurn { original, quantized, observer } = *turn;
        let model = self.model.clone();
        let normed = normed(quantized, &model, layer)?;
        let mut inputs = States::new(self.states.rows(), self.states.columns(), self.memory / 4)?;
        let mut routed = Routed::new(experts.count, 0);
        let router = experts.router(quantized, &model, layer)?;
        let shared = experts.shared_at(&model, layer);
        let shared_places = shared.map(|at| at.places(quantized)).transpose()?;
        let before = behind.map(|_| experts.open(original, &model, layer)).transpose()?;
        self.each(|first, states| {
            let normed = normed(states);
            inputs.write(first, normed.values())?;
            routed.add(first, router.route(&normed, observer)?);
            if let Some((open, gradients)) = before.as_ref().zip(batch(behind, first, normed.rows())?) {
                let back = Show { observer, outputs: false };
                open.shared_back(&first_rows(&normed, gradients.rows()), &gradients, back)?;
                show_written(observer, original, layer, Half::Ffn, &gradients)?;
            }
            if let Some([gate, up, _]) = shared_places {
                observer.see(Inputs { tensors: &[gate, up], slice: 0, inputs: normed.view() })?;
            }
            Ok(None)
        })?;
        drop((router, before));
        if let Some(at) = shared {
            let gate = experts.shared_gate(quantized, &model, layer)?;
            let read = |first, states: &Dense| inputs.read(first..first + states.rows());
            self.gated(turn, &at, read, |inputs, outputs| {
                gate.iter().for_each(|gate| gate.scale(inputs, outputs));
            })?;
        }
        work_trace::step("experts");
        let all = Open { experts, weights: original, quantized: Some(quantized), model: &model, layer };
        observer.chosen(&all.gate_and_up()?, &routed.tokens())?;
        let mut inner =
            behind.map(|behind| behind.inner(experts.count as usize, self.memory / 4)).transpose()?;
        routed.apply(&all, &inputs, Some(&mut self.states), inner.as_mut(), observer, self.memory)
    }

    /// A gated FFN of all tokens, of which gate and up have been shown their inputs; what it makes of the inputs of a batch
    /// is scaled and added to the states.
    fn gated(
        &mut self,
        turn: &InTurn<'_>,
        at: &GatedAt,
        inputs: impl Fn(usize, &Dense) -> Result<Dense>,
        scale: impl Fn(&Dense, &mut Dense),
    ) -> Result<()> {
        let InTurn { quantized, observer, .. } = *turn;
        let places = at.places(quantized)?;
        let (gate_and_up, down) = places.split_at(2);
        observer.seen(gate_and_up, at.slice)?;
        work_trace::step("gate and up in turn");
        let mut made = States::new(self.states.rows(), at.sizes[1] as usize, self.memory / 4)?;
        let gated = at.inner(quantized)?;
        self.each(|first, states| {
            let values = gated.apply(&inputs(first, states)?);
            observer.see(Inputs { tensors: down, slice: at.slice, inputs: values.view() })?;
            made.write(first, values.values())?;
            Ok(None)
        })?;
        drop(gated);
        observer.seen(down, at.slice)?;
        work_trace::step("down in turn");
        let down = at.down(quantized)?;
        self.each(|first, states| {
            let mut outputs = down.apply(made.read(first..first + states.rows())?.view());
            scale(&inputs(first, states)?, &mut outputs);
            Ok(Some(outputs))
        })
    }
}

/// Normalises states as the FFN of a layer reads them.
fn normed(weights: &Weights, model: &Description, layer: usize) -> Result<impl Fn(&Dense) -> Dense + use<>> {
    let (norm, eps) = (Ffn::norm(weights, model, layer)?, model.eps);
    Ok(move |states: &Dense| {
        let mut inputs = copied(states);
        normalise(&mut inputs, norm.values(), eps);
        inputs
    })
}

/// Gradients behind some tokens, as far as they are known.
fn batch(behind: Option<&Behind<'_>>, first: usize, rows: usize) -> Result<Option<Dense>> {
    behind.map_or(Ok(None), |behind| behind.batch(&(first..first + rows)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::back::tests::{Recorder, Shown, TOKENS, states};
    use crate::model::layer::tests::{GROUPED, Random, model, tensors};
    use crate::model::layer::{Attention, Form, Gating, Pairing, Rope, Router, Shared};
    use crate::model::{Layer, TensorPlan};
    use crate::store::{InMemory, Store};

    /// The states behind the FFN, and what was shown.
    fn pass(model: &Description, run: impl Fn(&mut Pass, &Recorder) -> Result<()>) -> (Vec<f32>, Shown) {
        let recorder = Recorder::default();
        let mut pass = Pass::resume(model, TOKENS, 6, 1 << 20).expect("memory");
        *pass.states() = states(1);
        run(&mut pass, &recorder).expect("computed");
        let behind = pass.states().read(0..TOKENS).expect("memory");
        (behind.values().to_vec(), recorder.shown.into_inner().expect("no thread panics"))
    }

    /// In turn, an FFN gives what its quantized matrices give, and each is shown the inputs that it then has; gradients are
    /// those of the original ones, for the first seven tokens.
    fn goes_in_turn(ffn: Ffn) {
        let layer = Layer { attention: Attention::Grouped(GROUPED), ffn: ffn.clone() };
        let model = model(Rope::new(6, 100.0, Pairing::Halves), layer);
        let [(before, plans), (after, _)] = [3, 4].map(|seed| tensors(&ffn.specs(10), seed));
        let [original, quantized] = [&before, &after].map(|store| Weights::new(store, &plans[..]));
        let mut gradients = States::new(7, 10, 1 << 20).expect("memory");
        gradients.write(0, &Random(2).values(70, 1.0)).expect("memory");

        let (found, shown) = pass(&model, |pass, observer| {
            let turn = InTurn { original: &original, quantized: &quantized, observer };
            pass.ffn_in_turn(&turn, 0, Some(&Behind::shown(&gradients)))
        });
        let (expected, inputs) =
            pass(&model, |pass, observer| pass.half(Half::Ffn, &quantized, 0, observer, true));
        assert_eq!(found, expected);
        for (of, [inputs, _]) in &inputs {
            assert_eq!(&shown[of][0], inputs, "{of:?}");
        }

        // Norm and router are the quantized model's, and all else is as it was.
        let mut mixed = InMemory::default();
        for TensorPlan { name, .. } in &plans {
            let is_kept = ["norm", "gate_inp.", "probs"].iter().any(|part| name.contains(part));
            let columns = before.find(name).expect("there").columns;
            mixed.add(name, columns, (if is_kept { &after } else { &before }).values(name).to_vec());
        }
        let mixed = Weights::new(&mixed, &plans[..]);
        let (_, before) = pass(&model, |pass, observer| {
            let behind = Behind::shown(&gradients);
            pass.half_and_back(Half::Ffn, &mixed, 0, observer, false, Some(behind))
        });
        let mut compared = 0;
        for (of, [_, gradients]) in &before {
            assert_eq!(&shown[of][1], gradients, "{of:?}");
            compared += usize::from(!gradients.is_empty());
        }
        assert!(compared >= 3, "{compared} matrices had gradients");
    }

    #[test]
    fn a_dense_ffn_goes_in_turn() {
        goes_in_turn(Ffn::Dense { width: 8, biases: false });
    }

    #[test]
    fn experts_go_in_turn() {
        let router = Router {
            used: 2,
            groups: None,
            gating: Gating::Sigmoid,
            normalised: true,
            scale: 1.5,
            bias: true,
        };
        let experts =
            |shared| Experts { count: 4, width: 6, router, shared, form: Form::default(), by_id: None };
        goes_in_turn(Ffn::Experts(experts(Some(Shared { count: 1, width: 7, gated: false }))));
        goes_in_turn(Ffn::Experts(experts(Some(Shared { count: 1, width: 7, gated: true }))));
        goes_in_turn(Ffn::Experts(experts(None)));
    }
}
