//! A gated FFN, down(silu(gate(x)) * up(x)): of a dense layer, of shared experts or of one routed expert.

use dense_kernels::{Accum, Dense, View, product};
use rayon::iter::IndexedParallelIterator;
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::norm::{ALPHA, CLAMP, gate, gate_clamped, gate_limited, sigmoid};
use super::{FFN_NORM, Gradients, Inputs, Show, apply, biased, through};
use crate::error::Result;
use crate::model::Weights;
use crate::model::description::in_layer;
use crate::model::part::Gated;
use crate::model::spec::Spec;
use crate::model::tensor::Role;
use crate::threads::{self, both};

/// Rows that a thread takes at a time for a few operations each.
const ROWS: usize = 16;

/// The names of the three matrices, in GGUF and in a checkpoint.
pub(super) const THREE: [(Gated, &str, &str); 3] =
    [(Gated::Gate, "gate", "gate_proj"), (Gated::Up, "up", "up_proj"), (Gated::Down, "down", "down_proj")];

/// The tensors `ffn_{gate,up,down}SUFFIX`.
pub(super) fn specs(
    suffix: &str,
    module: &str,
    role: Role,
    [hidden, width]: [u32; 2],
    biases: bool,
) -> Vec<Spec> {
    let mut specs = Vec::new();
    for (gated, name, source) in THREE {
        let shape = shape(gated, hidden, width);
        let part = |part: &str| (format!("ffn_{name}{suffix}.{part}"), format!("{module}.{source}.{part}"));
        let (weight, from) = part("weight");
        specs.push(placed(Spec::matrix(&weight, role, &from, shape), gated));
        if biases {
            let (bias, from) = part("bias");
            specs.push(Spec::vector(&bias, &from, shape[0]));
        }
    }
    specs
}

/// `[out, in]` of one of the three.
pub(super) fn shape(gated: Gated, hidden: u32, width: u32) -> [u32; 2] {
    if gated == Gated::Down { [hidden, width] } else { [width, hidden] }
}

/// Sets where one of the three reads its inputs and writes its output.
pub(super) fn placed(spec: Spec, gated: Gated) -> Spec {
    let spec = spec.gated(gated);
    match gated {
        Gated::Gate | Gated::Up => spec.reads_stream(FFN_NORM),
        Gated::Down => spec.reads_inner(None).writes_stream(),
    }
}

/// What a gated FFN has besides its three matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Form {
    /// Whether each has a bias. (The router of experts then has one too.)
    pub biases: bool,
    /// What becomes of the products of gate and up.
    pub activation: Activation,
}

/// How gate and up become the input of down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// silu(gate) * up.
    #[default]
    Silu,
    /// gpt-oss's: gate at most 7 and up between -7 and 7, then gate * sigmoid(1.702 gate) * (up + 1).
    Clamped,
    /// Gate at most this and up between minus this and this, then silu(gate) * up.
    Limited(f32),
}

impl Activation {
    /// What becomes of the products of gate and up, and its slopes by the one and by the other.
    fn slopes(self, gate: f32, up: f32) -> (f32, [f32; 2]) {
        // What is limited does not change beyond its limits.
        let inside = |open: bool, slope: f32| if open { slope } else { 0.0 };
        // x sigmoid(factor x), and its slope.
        let swish = |x: f32, factor: f32| {
            let s = sigmoid(factor * x);
            [x * s, s * (1.0 + factor * x * (1.0 - s))]
        };
        match self {
            Self::Silu => {
                let [silu, slope] = swish(gate, 1.0);
                (silu * up, [slope * up, silu])
            }
            Self::Clamped => {
                let (x, bounded) = (gate.min(CLAMP), up.clamp(-CLAMP, CLAMP));
                let [value, slope] = swish(x, ALPHA);
                let slopes = [inside(gate < CLAMP, slope * (bounded + 1.0)), inside(up.abs() < CLAMP, value)];
                (value * (bounded + 1.0), slopes)
            }
            Self::Limited(limit) => {
                let [silu, slope] = swish(gate.min(limit), 1.0);
                let bounded = up.clamp(-limit, limit);
                let slopes = [inside(gate < limit, slope * bounded), inside(up.abs() < limit, silu)];
                (silu * bounded, slopes)
            }
        }
    }
}

/// Which gated FFN of a layer is meant: the tensors `blk.LAYER.ffn_{gate,up,down}SUFFIX`, of stacked experts one slice.
#[derive(Clone, Copy, Debug)]
pub struct GatedAt {
    /// Numbers of the hidden state, and between the matrices.
    pub sizes: [u32; 2],
    /// Its layer.
    pub layer: usize,
    /// What the names end with: nothing in a dense layer.
    pub suffix: &'static str,
    /// The expert.
    pub slice: usize,
    /// What it has besides the matrices.
    pub form: Form,
}

/// Gate and up in memory: what makes the inputs of down.
pub struct OpenInner {
    /// Places of gate and up, which share inputs.
    places: [usize; 2],
    slice: usize,
    gate: Dense,
    up: Dense,
    biases: Option<[Dense; 2]>,
    activation: Activation,
}

/// Down in memory.
pub struct OpenDown {
    place: usize,
    slice: usize,
    matrix: Dense,
    bias: Option<Dense>,
}

/// The three matrices in memory.
pub struct OpenGated {
    inner: OpenInner,
    down: OpenDown,
}

impl GatedAt {
    /// Reads all three matrices; with biases, if there are some.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open(&self, weights: &Weights) -> Result<OpenGated> {
        Ok(OpenGated { inner: self.inner(weights)?, down: self.down(weights)? })
    }

    /// Reads gate and up.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn inner(&self, weights: &Weights) -> Result<OpenInner> {
        let [gate, up, _] = THREE;
        let biases = match self.form.biases {
            true => Some([self.bias(weights, gate)?, self.bias(weights, up)?]),
            false => None,
        };
        let ((gate_place, gate), (up_place, up)) = (self.read(weights, gate)?, self.read(weights, up)?);
        let (places, activation) = ([gate_place, up_place], self.form.activation);
        Ok(OpenInner { places, slice: self.slice, gate, up, biases, activation })
    }

    /// Reads down.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn down(&self, weights: &Weights) -> Result<OpenDown> {
        let [_, _, down] = THREE;
        let bias = self.form.biases.then(|| self.bias(weights, down)).transpose()?;
        let (place, matrix) = self.read(weights, down)?;
        Ok(OpenDown { place, slice: self.slice, matrix, bias })
    }

    /// Places of gate and up, which share inputs, and of down.
    ///
    /// # Errors
    /// If one is missing.
    pub fn places(&self, weights: &Weights) -> Result<[usize; 3]> {
        let place = |(_, name, _): (Gated, &str, &str)| {
            let name = self.name(name);
            weights.get(&name).map(|_| weights.place(&name).expect("there"))
        };
        let [gate, up, down] = THREE.map(place);
        Ok([gate?, up?, down?])
    }

    fn name(&self, name: &str) -> String {
        in_layer(self.layer, &format!("ffn_{name}{}.weight", self.suffix))
    }

    fn shape(&self, gated: Gated) -> [usize; 2] {
        let [hidden, width] = self.sizes;
        shape(gated, hidden, width).map(|n| n as usize)
    }

    /// Place and values of one of the three.
    fn read(&self, weights: &Weights, (gated, name, _): (Gated, &str, &str)) -> Result<(usize, Dense)> {
        let name = self.name(name);
        let matrix = weights.matrix(&name, self.slice, self.shape(gated))?;
        Ok((weights.place(&name).expect("it was read"), matrix))
    }

    fn bias(&self, weights: &Weights, (gated, name, _): (Gated, &str, &str)) -> Result<Dense> {
        let name = in_layer(self.layer, &format!("ffn_{name}{}.bias", self.suffix));
        // Those of experts are rows of one tensor.
        let rows = weights.get(&name)?.rows() as usize;
        weights.check(&name, 0, [rows.max(self.slice + 1), self.shape(gated)[0]])?;
        weights.rows(&name, 0, &[self.slice as u64])
    }
}

impl OpenInner {
    /// The inputs of down for rows of normalised states.
    pub fn apply(&self, inputs: &Dense) -> Dense {
        let [mut gated, up] = self.gate_and_up(inputs);
        match self.activation {
            Activation::Silu => gate(&mut gated, &up),
            Activation::Clamped => gate_clamped(&mut gated, &up),
            Activation::Limited(limit) => gate_limited(&mut gated, &up, limit),
        }
        gated
    }

    /// The products of gate and up with rows of normalised states.
    fn gate_and_up(&self, inputs: &Dense) -> [Dense; 2] {
        let biases = self.biases.as_ref();
        let of = |matrix, bias| biased(apply(matrix, inputs.view()), bias);
        let gate = || of(&self.gate, biases.map(|[gate, _]| gate));
        let (gate, up) = both("gate and up", gate, || of(&self.up, biases.map(|[_, up]| up)));
        [gate, up]
    }
}

impl OpenDown {
    /// The output for rows of what gate and up made.
    pub fn apply(&self, inputs: View<'_>) -> Dense {
        biased(apply(&self.matrix, inputs), self.bias.as_ref())
    }
}

impl OpenGated {
    /// The output for rows of normalised states, a row for each; None if it is only shown.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn apply(&self, inputs: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let Self { inner, down } = self;
        let see = || {
            let (tensors, slice) = (&inner.places[..], inner.slice);
            show.observer.see(Inputs { tensors, slice, inputs: inputs.view() })
        };
        let outputs =
            || show.last(&[down.place], down.slice, &inner.apply(inputs), |inputs| down.apply(inputs));
        let (seen, outputs) = both("FFN", see, outputs);
        seen?;
        outputs
    }

    /// Places of gate, up and down.
    pub fn places(&self) -> [usize; 3] {
        let [gate, up] = self.inner.places;
        [gate, up, self.down.place]
    }

    /// From gradients at the outputs for rows of normalised states, each output times its factor, to those at these states
    /// and at the factors; None if they are only shown.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn back(
        &self,
        inputs: &Dense,
        gradients: &Dense,
        factors: &[f32],
        show: Show<'_>,
    ) -> Result<Option<(Dense, Vec<f32>)>> {
        let Self {
            inner: OpenInner { places, slice, gate: gate_matrix, up: up_matrix, activation, .. },
            down,
        } = self;
        let through_down = || through(&down.matrix, gradients.view());
        let ([mut gate, mut up], inner) = both("FFN back", || self.inner.gate_and_up(inputs), through_down);
        let columns = gate.columns();
        let rows = gate.values_mut().par_chunks_mut(columns).zip(up.values_mut().par_chunks_mut(columns));
        let rows = rows.zip(inner.values().par_chunks(columns)).zip(factors).enumerate().with_min_len(ROWS);
        // An output is what down makes of `value`, so its product with its gradient is that of `value` and `inner`.
        let of_factors = threads::map("gate back", rows, |(row, (((gate, up), inner), factor))| {
            let bias = down.bias.as_ref().map_or(&[][..], Dense::values);
            let mut along: f32 = bias.iter().zip(gradients.row(row)).map(|(bias, d)| bias * d).sum();
            for ((gate, up), inner) in gate.iter_mut().zip(up).zip(inner) {
                let (value, [of_gate, of_up]) = activation.slopes(*gate, *up);
                along += value * inner;
                (*gate, *up) = (of_gate * inner * factor, of_up * inner * factor);
            }
            along
        });
        for (place, rows) in places.iter().zip([&gate, &up]) {
            let gradients = Gradients { tensors: &[*place], slice: *slice, rows: rows.view() };
            show.observer.see_gradients(gradients)?;
        }
        if !show.outputs {
            return Ok(None);
        }
        let mut sum = through(gate_matrix, gate.view());
        product(sum.view_mut(), Accum::Add, up.view(), up_matrix.view());
        Ok(Some((sum, of_factors)))
    }

    /// Bytes of the three matrices, and of what a token needs on its way through them.
    pub fn bytes([hidden, width]: [usize; 2]) -> [u64; 2] {
        [12 * hidden as u64 * width as u64, 8 * (hidden as u64 + width as u64)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_formulas() {
        type Formula = fn(f64, f64) -> f64;
        let formulas: [(Activation, Formula); 3] = [
            (Activation::Silu, |g, u| g / (1.0 + (-g).exp()) * u),
            (Activation::Clamped, |g, u| {
                let (g, u) = (g.min(7.0), u.clamp(-7.0, 7.0));
                g / (1.0 + (-1.702 * g).exp()) * (u + 1.0)
            }),
            (Activation::Limited(2.0), |g, u| {
                let (g, u) = (g.min(2.0), u.clamp(-2.0, 2.0));
                g / (1.0 + (-g).exp()) * u
            }),
        ];
        for (activation, formula) in formulas {
            for (gate, up) in [(0.7, -0.4), (-1.5, 1.1), (1.9, 3.0), (9.0, 0.5), (0.2, -8.0)] {
                let slope = |g: f64, u: f64| {
                    (formula(gate + g, up + u) - formula(gate - g, up - u)) / (2.0 * (g + u))
                };
                let (value, found) = activation.slopes(gate as f32, up as f32);
                assert!((f64::from(value) - formula(gate, up)).abs() < 1e-4, "{activation:?} {gate} {up}");
                for (found, expected) in found.iter().zip([slope(1e-5, 0.0), slope(0.0, 1e-5)]) {
                    assert!((f64::from(*found) - expected).abs() < 1e-4, "{activation:?} {gate} {up}");
                }
            }
        }
    }
}
