//! A gated FFN, down(silu(gate(x)) * up(x)): of a dense layer, of shared experts or of one routed expert.

use dense_kernels::Dense;

use super::norm::{gate, gate_clamped, gate_limited};
use super::{FFN_NORM, Inputs, Show, apply, biased};
use crate::error::Result;
use crate::model::Weights;
use crate::model::description::in_layer;
use crate::model::part::Gated;
use crate::model::spec::Spec;
use crate::model::tensor::Role;
use crate::threads::both;

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

    fn outputs(&self, inputs: &Dense, show: Show<'_>) -> Result<Option<Dense>> {
        let [gate_bias, up_bias, down_bias] = match &self.biases {
            Some(biases) => biases.each_ref().map(Some),
            None => [None; 3],
        };
        let of = |matrix, bias| biased(apply(matrix, inputs.view()), bias);
        let (mut gated, up) = both("gate and up", || of(&self.gate, gate_bias), || of(&self.up, up_bias));
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
