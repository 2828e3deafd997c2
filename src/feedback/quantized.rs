//! The unfinished output file as a store, so that the next layers' inputs are computed with the quantized weights.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;

use super::written::Written;
use crate::checkpoint::Values;
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::pipeline::{Work, checksum};
use crate::recipe::Plan;
use crate::store::{Rows, Store, Stored};

/// Reads the unfinished file. A slice is compared with its checksums before it is first used: data that the disk has
/// lost must not become the inputs of later layers.
#[derive(Debug)]
pub struct Quantized<'a> {
    plan: &'a Plan,
    work: &'a Work,
    outputs: &'a [Output],
    /// Places of the tensors, by name.
    places: HashMap<&'a str, usize>,
    written: &'a Written,
    /// Tensors and slices.
    looked_at: Mutex<HashSet<(usize, usize)>>,
}

impl<'a> Quantized<'a> {
    /// The tensors of the plan, in all its files.
    pub fn new(plan: &'a Plan, work: &'a Work, outputs: &'a [Output], written: &'a Written) -> Self {
        Self { plan, work, outputs, places: plan.model.places(), written, looked_at: Mutex::default() }
    }

    fn describe(&self, place: usize) -> Stored {
        let tensor = &self.plan.model.tensors[place];
        let (file, offset) = self.plan.place(place);
        Stored {
            file: self.outputs[file].current().to_string_lossy().into(),
            offset,
            rows: tensor.rows() * tensor.slices.len() as u64,
            columns: tensor.columns(),
            row_bytes: self.plan.format(place).row_bytes(tensor.columns()),
            beside: None,
        }
    }

    /// Makes sure that the file has a slice as it was written.
    fn look_at(&self, tensor: usize, slice: usize) -> Result<()> {
        let looked_at = || self.looked_at.lock().expect("no thread panics while it holds the list");
        if looked_at().contains(&(tensor, slice)) {
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
        looked_at().insert((tensor, slice));
        Ok(())
    }
}

impl Store for Quantized<'_> {
    fn find(&self, matrix: &str) -> Option<Stored> {
        self.places.get(matrix).map(|&place| self.describe(place))
    }

    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>> {
        let Some(&place) = self.places.get(matrix) else {
            return Err(self.fault(matrix, "is not there".to_owned()));
        };
        Ok(Box::new(Opened { quantized: self, place, stored: self.describe(place) }))
    }

    fn fault(&self, matrix: &str, problem: String) -> Error {
        Error::Unsupported(format!("the plan's tensor \"{matrix}\" {problem}"))
    }
}

/// One tensor of the file.
struct Opened<'a> {
    quantized: &'a Quantized<'a>,
    place: usize,
    stored: Stored,
}

impl Rows for Opened<'_> {
    fn stored(&self) -> &Stored {
        &self.stored
    }

    fn load(&self, rows: Range<u64>, raw: &mut Vec<u8>) -> Result<()> {
        let Quantized { plan, outputs, .. } = self.quantized;
        let of_slice = plan.model.tensors[self.place].rows();
        for slice in rows.start / of_slice..rows.end.div_ceil(of_slice) {
            self.quantized.look_at(self.place, slice as usize)?;
        }
        let row_bytes = self.stored.row_bytes;
        raw.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
        let (file, offset) = plan.place(self.place);
        outputs[file].read_at(offset + rows.start * row_bytes, raw)
    }

    fn decode(&self, _: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        // They were found to be numbers when they were written.
        quant_kernels::dequantize(self.quantized.plan.format(self.place), raw, out);
        Ok(())
    }
}
