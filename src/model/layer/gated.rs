//! A gated FFN, down(silu(gate(x)) * up(x)): of a dense layer, of shared experts or of one routed expert.

use dense_kernels::{Accum, Dense, product};
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

/// Places of `ffn_{gate,up}SUFFIX`.
pub(super) fn inner(weights: &Weights, layer: usize, suffix: &str) -> Vec<usize> {
    let name = |name| in_layer(layer, &format!("ffn_{name}{suffix}.weight"));
    THREE.iter().take(2).filter_map(|(_, tensor, _)| weights.place(&name(tensor))).collect()
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

/// The three matrices in memory.
pub struct OpenGated {
    /// Places of gate and up, which share inputs, and of down.
    inner: [usize; 2],
    down_place: usize,
    slice: usize,
    gate: Dense,
    up: Dense,
    down: Dense,
    /// Of the three in their order.
    biases: Option<[Dense; 3]>,
    activation: Activation,
}

impl OpenGated {
    /// Reads `blk.LAYER.ffn_{gate,up,down}SUFFIX`, of stacked experts one slice; with biases, if there are some.
    ///
    /// # Errors
    /// If they cannot be read, or have other shapes.
    pub fn open(
        weights: &Weights,
        [hidden, width]: [u32; 2],
        layer: usize,
        suffix: &str,
        slice: usize,
        form: Form,
    ) -> Result<Self> {
        let read = |(gated, name, _): (Gated, &str, &str)| {
            let name = in_layer(layer, &format!("ffn_{name}{suffix}.weight"));
            let matrix = weights.matrix(&name, slice, shape(gated, hidden, width).map(|n| n as usize))?;
            Ok((weights.place(&name).expect("it was read"), matrix))
        };
        let [gate, up, down] = THREE.map(read);
        let ((gate_place, gate), (up_place, up), (down_place, down)) = (gate?, up?, down?);
        let bias = |(gated, name, _): (Gated, &str, &str)| {
            let name = in_layer(layer, &format!("ffn_{name}{suffix}.bias"));
            // Those of experts are rows of one tensor.
            let rows = weights.get(&name)?.rows() as usize;
            weights.check(&name, 0, [rows.max(slice + 1), shape(gated, hidden, width)[0] as usize])?;
            weights.rows(&name, 0, &[slice as u64])
        };
        let biases = match form.biases {
            true => {
                let [gate, up, down] = THREE.map(bias);
                Some([gate?, up?, down?])
            }
            false => None,
        };
        Ok(Self {
            inner: [gate_place, up_place],
            down_place,
            slice,
            gate,
            up,
            down,
            biases,
            activation: form.activation,
        })
    }

    /// The output for rows of normalised states, a row for each; None if it is only shown.
    ///
    /// # Errors
    /// Those of the observer.
    pub fn apply(&self, inputs: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let see = || {
            let (tensors, slice) = (&self.inner[..], self.slice);
            show.observer.see(Inputs { tensors, slice, inputs: inputs.view() })
        };
        let (seen, outputs) = both("FFN", see, || self.outputs(inputs, show));
        seen?;
        outputs
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
        let inner = || through(&self.down, gradients.view());
        let ([mut gate, mut up], inner) = both("FFN back", || self.gate_and_up(inputs), inner);
        let (columns, down_bias) = (gate.columns(), self.biases.as_ref().map(|biases| &biases[2]));
        let rows = gate.values_mut().par_chunks_mut(columns).zip(up.values_mut().par_chunks_mut(columns));
        let rows = rows.zip(inner.values().par_chunks(columns)).zip(factors).enumerate().with_min_len(ROWS);
        // An output is what down makes of `value`, so its product with its gradient is that of `value` and `inner`.
        let of_factors = threads::map("gate back", rows, |(row, (((gate, up), inner), factor))| {
            let bias = down_bias.map_or(&[][..], Dense::values);
            let mut along: f32 = bias.iter().zip(gradients.row(row)).map(|(bias, d)| bias * d).sum();
            for ((gate, up), inner) in gate.iter_mut().zip(up).zip(inner) {
                let (value, [of_gate, of_up]) = self.activation.slopes(*gate, *up);
                along += value * inner;
                (*gate, *up) = (of_gate * inner * factor, of_up * inner * factor);
            }
            along
        });
        for (place, rows) in self.inner.into_iter().zip([&gate, &up]) {
            let gradients = Gradients { tensors: &[place], slice: self.slice, rows: rows.view() };
            show.observer.see_gradients(gradients)?;
        }
        if !show.outputs {
            return Ok(None);
        }
        let mut sum = through(&self.gate, gate.view());
        product(sum.view_mut(), Accum::Add, up.view(), self.up.view());
        Ok(Some((sum, of_factors)))
    }

    /// The products of gate and up with rows of normalised states.
    fn gate_and_up(&self, inputs: &Dense) -> [Dense; 2] {
        let biases = self.biases.as_ref();
        let of = |matrix, bias| biased(apply(matrix, inputs.view()), bias);
        let gate = || of(&self.gate, biases.map(|biases| &biases[0]));
        let (gate, up) = both("gate and up", gate, || of(&self.up, biases.map(|biases| &biases[1])));
        [gate, up]
    }

    fn outputs(&self, inputs: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let down_bias = self.biases.as_ref().map(|biases| &biases[2]);
        let [mut gated, up] = self.gate_and_up(inputs);
        match self.activation {
            Activation::Silu => gate(&mut gated, &up),
            Activation::Clamped => gate_clamped(&mut gated, &up),
            Activation::Limited(limit) => gate_limited(&mut gated, &up, limit),
        }
        drop(up);
        show.last(&[self.down_place], self.slice, &gated, |gated| biased(apply(&self.down, gated), down_bias))
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
