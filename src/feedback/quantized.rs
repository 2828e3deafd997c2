//! The file as far as it is written, as weights: what the next layers' inputs come from.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::forward::Weights;
use crate::gguf::Output;
use crate::recipe::Plan;

/// Reads back what was written.
pub struct Quantized<'a> {
    plan: &'a Plan,
    outputs: &'a [Output],
    places: &'a HashMap<&'a str, usize>,
}

impl<'a> Quantized<'a> {
    /// The tensors of the plan, by name, in all its files.
    pub fn new(plan: &'a Plan, outputs: &'a [Output], places: &'a HashMap<&'a str, usize>) -> Self {
        Self { plan, outputs, places }
    }
}

impl Weights for Quantized<'_> {
    fn extent(&self, tensor: &str) -> Option<[usize; 3]> {
        let tensor = &self.plan.model.tensors[*self.places.get(tensor)?];
        Some([tensor.columns() as usize, tensor.rows() as usize, tensor.slices.len()])
    }

    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let place = self.places[tensor];
        let plan = &self.plan.model.tensors[place];
        let format = self.plan.format(place);
        let row_bytes = format.row_bytes(plan.columns());
        let first = slice as u64 * plan.rows() + rows.start as u64;
        let mut blocks = vec![0; (rows.len() as u64 * row_bytes) as usize];
        let (file, offset) = self.plan.place(place);
        self.outputs[file].read_at(offset + first * row_bytes, &mut blocks)?;
        quant_kernels::dequantize(format, &blocks, out);
        Ok(())
    }

    fn fault(&self, tensor: &str, problem: String) -> Error {
        Error::Unsupported(format!("the plan's tensor \"{tensor}\" {problem}"))
    }
}
