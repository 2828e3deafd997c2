//! The unfinished output file as a store, so that the next layers' inputs are computed with the quantized weights.
//! What other parts of a split make is read from the checkpoint.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;

use super::written::Written;
use crate::checkpoint::Values;
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::model::TensorPlan;
use crate::pipeline::{Job, Work, checksum};
use crate::recipe::Plan;
use crate::store::{Rows, Store, Stored};

/// Reads the unfinished file. A slice is compared with its checksums before it is first used: data that the disk has
/// lost must not become the inputs of later layers.
#[derive(Debug)]
pub struct Quantized<'a> {
    plan: &'a Plan,
    work: &'a Work,
    outputs: &'a [Output],
    /// Place in the plan of the first of them.
    first: usize,
    original: &'a dyn Store,
    /// Places of the job's tensors, by name.
    places: HashMap<&'a str, usize>,
    written: &'a Written,
    /// Tensors and slices.
    looked_at: Mutex<HashSet<(usize, usize)>>,
}

impl<'a> Quantized<'a> {
    /// The tensors of the job in its files, and all others in its store.
    pub fn new(job: &Job<'a>, work: &'a Work, outputs: &'a [Output], written: &'a Written) -> Self {
        let (plan, original, first) = (job.plan, job.store, job.files().start);
        let places = job.tensors().map(|place| (&*plan.model.tensors[place].name, place)).collect();
        Self { plan, work, outputs, first, original, places, written, looked_at: Mutex::default() }
    }

    /// The tensors of the model as they are here.
    pub fn tensors(job: &Job) -> Vec<TensorPlan> {
        let (own, all) = (job.tensors(), job.plan.model.tensors.iter().enumerate());
        all.map(|(place, tensor)| if own.contains(&place) { tensor.as_written() } else { tensor.clone() })
            .collect()
    }

    /// The file that a tensor of the job is in, and its first byte there.
    fn place(&self, tensor: usize) -> (&Output, u64) {
        let (file, offset) = self.plan.place(tensor);
        (&self.outputs[file - self.first], offset)
    }

    fn describe(&self, place: usize) -> Stored {
        let tensor = &self.plan.model.tensors[place];
        let (file, offset) = self.place(place);
        Stored {
            file: file.current().to_string_lossy().into(),
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
            let file = &self.outputs[file - self.first];
            blocks.resize((range.end - range.start) as usize, 0);
            file.read_at(range.start, &mut blocks)?;
            if !self.written.is(unit.number, checksum(&blocks)) {
                let (part, name) = (file.current(), &self.plan.model.tensors[tensor].name);
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
        match self.places.get(matrix) {
            Some(&place) => Some(self.describe(place)),
            None => self.original.find(matrix),
        }
    }

    fn open(&self, matrix: &str) -> Result<Box<dyn Rows + '_>> {
        let Some(&place) = self.places.get(matrix) else {
            return self.original.open(matrix);
        };
        Ok(Box::new(Opened { quantized: self, place, stored: self.describe(place) }))
    }

    fn fault(&self, matrix: &str, problem: String) -> Error {
        if !self.places.contains_key(matrix) {
            return self.original.fault(matrix, problem);
        }
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
        let Quantized { plan, .. } = self.quantized;
        let of_slice = plan.model.tensors[self.place].rows();
        for slice in rows.start / of_slice..rows.end.div_ceil(of_slice) {
            self.quantized.look_at(self.place, slice as usize)?;
        }
        let row_bytes = self.stored.row_bytes;
        raw.resize(((rows.end - rows.start) * row_bytes) as usize, 0);
        let (file, offset) = self.quantized.place(self.place);
        file.read_at(offset + rows.start * row_bytes, raw)
    }

    fn decode(&self, _: Range<u64>, raw: &[u8], out: &mut [f32], _: Values) -> Result<()> {
        // They were found to be numbers when they were written.
        quant_kernels::dequantize(self.quantized.plan.format(self.place), raw, out);
        Ok(())
    }
}
