//! The file as far as it is written, as weights: what the next layers' inputs come from.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;

use super::written::Written;
use crate::error::{Error, Result};
use crate::forward::Weights;
use crate::gguf::Output;
use crate::pipeline::{Work, checksum};
use crate::recipe::Plan;

/// Reads back what was written. A slice is held against its checksums before it is first used: what the file has lost
/// meanwhile must not become the inputs of later layers.
pub struct Quantized<'a> {
    plan: &'a Plan,
    work: &'a Work,
    outputs: &'a [Output],
    places: &'a HashMap<&'a str, usize>,
    written: &'a Written,
    /// Tensors and slices.
    looked_at: Mutex<HashSet<(usize, usize)>>,
}

impl<'a> Quantized<'a> {
    /// The tensors of the plan, by name, in all its files.
    pub fn new(
        plan: &'a Plan,
        work: &'a Work,
        outputs: &'a [Output],
        places: &'a HashMap<&'a str, usize>,
        written: &'a Written,
    ) -> Self {
        Self { plan, work, outputs, places, written, looked_at: Mutex::default() }
    }

    /// Makes sure that the file has a slice as it was written.
    fn look_at(&self, tensor: usize, slice: usize) -> Result<()> {
        let mut looked_at = self.looked_at.lock().expect("no thread panics while it holds the list");
        if looked_at.contains(&(tensor, slice)) {
            return Ok(());
        }
        let mut blocks = Vec::new();
        for unit in self.work.of_slice(self.plan, tensor, slice) {
            let (file, range) = unit.place(self.plan);
            blocks.resize((range.end - range.start) as usize, 0);
            self.outputs[file].read_at(range.start, &mut blocks)?;
            if !self.written.is(unit.number, checksum(&blocks)) {
                let (part, name) = (self.outputs[file].current(), &self.plan.model.tensors[tensor].name);
                let lost = format!("tensor \"{name}\": slice {slice} is not as it was written");
                return Err(Error::io("read", part, std::io::Error::other(lost)));
            }
        }
        looked_at.insert((tensor, slice));
        Ok(())
    }
}

impl Weights for Quantized<'_> {
    fn extent(&self, tensor: &str) -> Option<[usize; 3]> {
        let tensor = &self.plan.model.tensors[*self.places.get(tensor)?];
        Some([tensor.columns() as usize, tensor.rows() as usize, tensor.slices.len()])
    }

    fn read(&self, tensor: &str, slice: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let place = self.places[tensor];
        self.look_at(place, slice)?;
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
