//! Routed experts of a layer, with the router that sends a token to a few of them, and shared experts that all tokens
//! go through. Routed experts are read one by one.

use dense_kernels::Dense;
use rayon::slice::ParallelSlice;

use super::compressed::by_id;
use super::gated::{Form, GatedAt, OpenGated, THREE, placed, shape, specs};
use super::norm::sigmoid;
use super::{FFN_NORM, Inputs, Observer, Router, Show, apply, biased, through};
use crate::error::Result;
use crate::model::Weights;
use crate::model::description::{Description, in_layer};
use crate::model::part::Gated;
use crate::model::spec::{Source, Spec};
use crate::model::tensor::Role;
use crate::threads;

/// Of the names of routed experts' stacks.
const SUFFIX: &str = "_exps";
const ROUTER: &str = "ffn_gate_inp.weight";
const ROUTER_BIAS: &str = "exp_probs_b.bias";
/// Of the logits themselves, unlike the one above.
const LOGIT_BIAS: &str = "ffn_gate_inp.bias";
/// Tokens that a thread routes at a time.
const ROUTED: usize = 64;
const SHARED_GATE: &str = "ffn_gate_inp_shexp.weight";

/// Experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Routed experts.
    pub count: u32,
    /// Numbers between the matrices of one.
    pub width: u32,
    /// The choice of those that a token uses.
    pub router: Router,
    /// Those that every token uses.
    pub shared: Option<Shared>,
    /// Biases and activation of the routed ones.
    pub form: Form,
    /// Token ids, if a table of them and not the router says which experts a token goes to.
    pub by_id: Option<u32>,
}

/// Experts that every token uses, stored as one FFN.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Their number, as the metadata have it.
    pub count: u32,
    /// Numbers between their matrices, all together.
    pub width: u32,
    /// Whether their output is multiplied by the sigmoid of a product with the input.
    pub gated: bool,
}

impl Experts {
    /// As the metadata of most architectures have them: whether the router has a bias is said by each layer's tensors.
    pub fn without_bias(&self) -> Self {
        Self { router: Router { bias: false, ..self.router }, ..self.clone() }
    }

    /// The tensors of the experts, shared ones and router included, in the order of use.
    pub fn specs(&self, hidden: u32) -> Vec<Spec> {
        let router = Spec::matrix(ROUTER, Role::Router, "mlp.gate.weight", [self.count, hidden]);
        let mut all = vec![router.reads_stream(FFN_NORM)];
        if self.form.biases {
            let bias = Spec::vector(LOGIT_BIAS, "mlp.gate.bias", self.count);
            all.push(bias.role(Role::Router));
        }
        all.extend(self.by_id.map(|ids| by_id(ids, self.router.used)));
        if self.router.bias {
            let bias = Spec::vector(ROUTER_BIAS, "mlp.gate.e_score_correction_bias", self.count);
            all.push(bias.role(Role::Router));
        }
        all.extend(THREE.map(|(gated, name, source)| {
            let (name, source) =
                (format!("ffn_{name}_exps.weight"), format!("mlp.experts.{{}}.{source}.weight"));
            let spec = Spec::experts(&name, &source, self.count, shape(gated, hidden, self.width));
            // llama.cpp computes the gate and up experts of a layer together.
            let spec = if gated == Gated::Down { spec } else { spec.one_type() };
            placed(spec, gated)
        }));
        if self.form.biases {
            all.extend(THREE.map(|(gated, name, source)| {
                let source =
                    Source::Experts { name: format!("mlp.experts.{{}}.{source}.bias"), count: self.count };
                let bias =
                    Spec::vector(&format!("ffn_{name}_exps.bias"), "", shape(gated, hidden, self.width)[0]);
                Spec { source, ..bias }
            }));
        }
        if let Some(shared) = &self.shared {
            if shared.gated {
                let source = "mlp.shared_expert_gate.weight";
                let gate = Spec::matrix(SHARED_GATE, Role::Router, source, [1, hidden]);
                all.push(gate.reads_stream(FFN_NORM));
            }
            let module = if shared.gated { "mlp.shared_expert" } else { "mlp.shared_experts" };
            all.extend(specs("_shexp", module, Role::SharedExperts, [hidden, shared.width], false));
        }
        all
    }

    /// Sizes by name, for messages.
    pub fn sizes(&self) -> Vec<(&'static str, String)> {
        let groups = self.router.groups.map_or([1, 1], |groups| [groups.count, groups.used]);
        let mut sizes = vec![
            ("experts", self.count.to_string()),
            ("experts of a token", self.router.used.to_string()),
            ("groups of experts and of a token", groups.map(|n| n.to_string()).join(" and ")),
            ("width of an expert", self.width.to_string()),
        ];
        sizes
            .extend(self.shared.as_ref().map(|shared| ("width of shared experts", shared.width.to_string())));
        sizes
    }

    /// Reads router and shared experts.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open<'a>(
        &'a self,
        weights: &Weights,
        model: &Description,
        layer: usize,
    ) -> Result<OpenExperts<'a>> {
        let router = self.router(weights, model, layer)?;
        let shared = self.shared_at(model, layer).map(|at| at.open(weights)).transpose()?;
        Ok(OpenExperts { router, shared, shared_gate: self.shared_gate(weights, model, layer)? })
    }

    /// Reads the router.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn router<'a>(
        &'a self,
        weights: &Weights,
        model: &Description,
        layer: usize,
    ) -> Result<OpenRouter<'a>> {
        let name = |name: &str| in_layer(layer, name);
        let count = self.count as usize;
        let bias = self.router.bias.then(|| weights.vector(&name(ROUTER_BIAS), count)).transpose()?;
        let logit_bias = self.form.biases.then(|| weights.vector(&name(LOGIT_BIAS), count)).transpose()?;
        let gate = weights.matrix(&name(ROUTER), 0, [count, model.hidden as usize])?;
        let place = weights.place(&name(ROUTER)).expect("it was read");
        Ok(OpenRouter { router: &self.router, gate, place, bias, logit_bias })
    }

    /// Which FFN the shared experts are, if there are some.
    pub fn shared_at(&self, model: &Description, layer: usize) -> Option<GatedAt> {
        let shared = self.shared.as_ref()?;
        let sizes = [model.hidden, shared.width];
        Some(GatedAt { sizes, layer, suffix: "_shexp", slice: 0, form: Form::default() })
    }

    /// Reads what says by how much the shared experts' outputs are multiplied, if something does.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn shared_gate(
        &self,
        weights: &Weights,
        model: &Description,
        layer: usize,
    ) -> Result<Option<SharedGate>> {
        let gated = self.shared.as_ref().is_some_and(|shared| shared.gated);
        let read = || weights.matrix(&in_layer(layer, SHARED_GATE), 0, [1, model.hidden as usize]);
        gated.then(read).transpose().map(|gate| gate.map(SharedGate))
    }

    /// Which FFN a routed expert is.
    pub fn expert_at(&self, model: &Description, layer: usize, expert: usize) -> GatedAt {
        let sizes = [model.hidden, self.width];
        GatedAt { sizes, layer, suffix: SUFFIX, slice: expert, form: self.form }
    }
}

/// The parts that every token goes through, in memory: router and shared experts.
pub struct OpenExperts<'a> {
    router: OpenRouter<'a>,
    shared: Option<OpenGated>,
    shared_gate: Option<SharedGate>,
}

/// The router in memory.
pub struct OpenRouter<'a> {
    router: &'a Router,
    gate: Dense,
    place: usize,
    bias: Option<Dense>,
    logit_bias: Option<Dense>,
}

/// A row of weights: the shared experts' outputs are multiplied by the sigmoid of its product with the inputs.
pub struct SharedGate(Dense);

/// Where the router sends one token.
pub struct Route {
    /// The experts with their weights, best first.
    pub chosen: Vec<(usize, f32)>,
    /// The scores by which the token's experts are chosen, one for each expert.
    pub merits: Vec<f32>,
}

impl OpenRouter<'_> {
    /// Routes tokens by their normalised states.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn route(&self, inputs: &Dense, observer: &dyn Observer) -> Result<Vec<Route>> {
        let see = || observer.see(Inputs { tensors: &[self.place], slice: 0, inputs: inputs.view() });
        let (seen, logits) = threads::both("router", see, || self.logits(inputs));
        seen?;
        let bias = self.bias.as_ref().map(Dense::values);
        let route = |logits: &[f32]| {
            let scores = self.router.scores(logits);
            let chosen = self.router.choose(&scores, bias);
            let bias = |expert| bias.map_or(0.0, |bias| bias[expert]);
            let merits = scores.iter().enumerate().map(|(expert, score)| score + bias(expert)).collect();
            Route { chosen, merits }
        };
        let experts = self.gate.rows();
        let some = |logits: &[f32]| logits.chunks_exact(experts).map(route).collect();
        let routes: Vec<Vec<Route>> =
            threads::map("route", logits.values().par_chunks(ROUTED * experts), some);
        Ok(routes.into_iter().flatten().collect())
    }

    /// From gradients at the weights of the experts (all of them, of which those of the chosen count), a row for each token,
    /// to those at its normalised states.
    pub fn back(&self, inputs: &Dense, gradients: &Dense) -> Dense {
        let logits = self.logits(inputs);
        let mut back = Dense::zeros(logits.rows(), logits.columns());
        for row in 0..gradients.rows() {
            let (logits, gradients) = (logits.row(row), gradients.row(row));
            let scores = self.router.scores(logits);
            let chosen = self.router.choose(&scores, self.bias.as_ref().map(Dense::values));
            let gradients: Vec<f32> = chosen.iter().map(|&(expert, _)| gradients[expert]).collect();
            back.row_mut(row).copy_from_slice(&self.router.back(&scores, logits, &chosen, &gradients));
        }
        through(&self.gate, back.view())
    }

    fn logits(&self, inputs: &Dense) -> Dense {
        biased(apply(&self.gate, inputs.view()), self.logit_bias.as_ref())
    }
}

impl SharedGate {
    /// What the outputs are multiplied by, token by token.
    fn factors(&self, inputs: &Dense) -> Vec<f32> {
        apply(&self.0, inputs.view()).values().iter().map(|product| sigmoid(*product)).collect()
    }

    /// Multiplies the outputs for rows of normalised states.
    pub fn scale(&self, inputs: &Dense, outputs: &mut Dense) {
        for (row, factor) in self.factors(inputs).into_iter().enumerate() {
            outputs.row_mut(row).iter_mut().for_each(|x| *x *= factor);
        }
    }
}

impl OpenExperts<'_> {
    /// The router.
    pub fn router(&self) -> &OpenRouter<'_> {
        &self.router
    }

    /// What the shared experts make of normalised states, if there are some and it is wanted.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn shared(&self, inputs: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let Some(mut outputs) = shared.apply(inputs, show)? else { return Ok(None) };
        if let Some(gate) = &self.shared_gate {
            gate.scale(inputs, &mut outputs);
        }
        Ok(Some(outputs))
    }

    /// From gradients at the outputs of the shared experts to those at the normalised states, if there are some; None if
    /// they are only shown.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn shared_back(&self, inputs: &Dense, gradients: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let factors = self.shared_gate.as_ref().map(|gate| gate.factors(inputs));
        let factors = factors.unwrap_or_else(|| vec![1.0; inputs.rows()]);
        let Some((mut sum, of_factors)) = shared.back(inputs, gradients, &factors, show)? else {
            return Ok(None);
        };
        if let Some(gate) = &self.shared_gate {
            for (row, (factor, d)) in factors.iter().zip(of_factors).enumerate() {
                let slope = d * factor * (1.0 - factor);
                sum.row_mut(row).iter_mut().zip(gate.0.values()).for_each(|(sum, gate)| *sum += slope * gate);
            }
        }
        Ok(Some(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUPED, Random, model, near, tensors};
    use super::super::{Attention, Ffn, Gating, Ignore, Pairing, Rope};
    use super::*;
    use crate::model::Layer;

    #[test]
    fn shared_experts_are_gated_where_the_model_says_so_and_may_be_missing() {
        let router = Router {
            used: 2,
            groups: None,
            gating: Gating::Softmax,
            normalised: true,
            scale: 1.0,
            bias: false,
        };
        let none = Experts { count: 3, width: 4, router, shared: None, form: Form::default(), by_id: None };
        let plain = Experts { shared: Some(Shared { count: 1, width: 6, gated: false }), ..none.clone() };
        let gated = Experts { shared: Some(Shared { count: 1, width: 6, gated: true }), ..none.clone() };
        let attention = Attention::Grouped(GROUPED);
        let rope = Rope::new(2, 10.0, Pairing::Halves);
        let model = model(rope, Layer { attention, ffn: Ffn::Experts(gated.clone()) });
        let (store, tensors) = tensors(&Ffn::Experts(gated.clone()).specs(model.hidden), 5);
        let weights = Weights::new(&store, tensors);
        let inputs = Dense::new(10, Random(1).values(30, 1.0));
        let of = |experts: &Experts| {
            let open = experts.open(&weights, &model, 0).expect("there");
            let routes = open.router().route(&inputs, &Ignore).expect("routed");
            assert!(routes.iter().all(|route| route.chosen.len() == 2 && route.merits.len() == 3));
            open.shared(&inputs, Show { observer: &Ignore, outputs: true }).expect("computed")
        };
        assert!(of(&none).is_none());
        let (plain, gated) = (of(&plain).expect("some"), of(&gated).expect("some"));
        let gate = store.values("blk.0.ffn_gate_inp_shexp.weight");
        let expected = (0..3).flat_map(|token| {
            let product: f64 = inputs.row(token).iter().zip(gate).map(|(x, w)| f64::from(x * w)).sum();
            let factor = 1.0 / (1.0 + (-product).exp());
            plain.row(token).iter().map(move |x| f64::from(*x) * factor).collect::<Vec<f64>>()
        });
        near(gated.values(), &expected.collect::<Vec<f64>>());
    }
}
