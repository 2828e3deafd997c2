//! A gated FFN: down(silu(gate(x)) up(x)), of a dense layer, of shared experts or of one routed expert.

use dense_kernels::Dense;

use super::apply;
use super::norm::gate;
use super::pass::{Input, Observer};
use super::shape::Shape;
use super::weights::Weights;
use crate::error::Result;

/// The three matrices, and what GGUF calls them.
pub struct Ffn {
    layer: usize,
    slice: usize,
    names: [String; 3],
    gate: Dense,
    up: Dense,
    down: Dense,
}

impl Ffn {
    /// Reads `blk.LAYER.ffn_{gate,up,down}SUFFIX`, of stacked experts one slice.
    pub fn read(
        weights: &dyn Weights,
        shape: &Shape,
        layer: usize,
        suffix: &str,
        slice: usize,
    ) -> Result<Self> {
        let names = ["gate", "up", "down"].map(|name| format!("ffn_{name}{suffix}"));
        let matrix =
            |i: usize, shape| weights.matrix(&format!("blk.{layer}.{}.weight", names[i]), slice, shape);
        let width = weights.rows(&format!("blk.{layer}.{}.weight", names[0]))?;
        let (gate, up) = (matrix(0, [width, shape.hidden])?, matrix(1, [width, shape.hidden])?);
        let down = matrix(2, [shape.hidden, width])?;
        Ok(Self { layer, slice, names, gate, up, down })
    }

    /// Its output for rows of normalised states.
    pub fn apply(&self, inputs: &Dense, observer: &mut dyn Observer) -> Result<Dense> {
        let [gate_name, up_name, down_name] = self.names.each_ref().map(String::as_str);
        let (layer, slice) = (self.layer, self.slice);
        observer.see(Input { layer, tensors: &[gate_name, up_name], slice, inputs: inputs.view() })?;
        let mut gated = apply(&self.gate, inputs.view());
        gate(&mut gated, &apply(&self.up, inputs.view()));
        observer.see(Input { layer, tensors: &[down_name], slice, inputs: gated.view() })?;
        Ok(apply(&self.down, gated.view()))
    }
}
