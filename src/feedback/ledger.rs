//! Keeps account of which slices are still to be quantized, and writes and records those that are.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use dense_kernels::Dense;

use super::written::Written;
use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::model::TensorPlan;
use crate::pipeline::{Done, Event, Job, Keeper, Unit, Work, checksum};
use crate::threads;
use crate::zeros::Zeros;

/// Weights that are in memory at once, about: an embedding has a billion.
const BAND: u64 = 16 << 20;

/// The slices of all tensors, and which of them are open: those with a unit that is not in the file.
pub struct Ledger<'a> {
    job: &'a Job<'a>,
    work: &'a Work,
    outputs: &'a [Output],
    records: Mutex<Records<'a>>,
    written: &'a Written,
}

struct Records<'a> {
    keeper: Keeper<'a>,
    /// When the next are made durable.
    due: Instant,
}

impl<'a> Ledger<'a> {
    /// All that is not written is open.
    pub fn new(
        job: &'a Job<'a>,
        work: &'a Work,
        outputs: &'a [Output],
        keeper: Keeper<'a>,
        written: &'a Written,
    ) -> Self {
        let records = Mutex::new(Records { keeper, due: Instant::now() + job.sync });
        Self { job, work, outputs, records, written }
    }

    /// Whether a slice is still to be quantized, here and not as another part.
    pub fn is_open(&self, tensor: usize, slice: usize) -> bool {
        self.job.tensors().contains(&tensor) && self.is_missing(tensor, slice)
    }

    fn is_missing(&self, tensor: usize, slice: usize) -> bool {
        self.work.of_slice(self.job.plan, tensor, slice).any(|unit| !self.written.has(unit.number))
    }

    /// The open slices of a tensor of the job.
    pub fn open_slices(&self, tensor: usize) -> Vec<usize> {
        let slices = self.job.plan.model.tensors[tensor].slice_numbers();
        slices.filter(|&slice| self.is_missing(tensor, slice)).collect()
    }

    /// Whether any slice is open of the tensors that `which` picks.
    pub fn any_open(&self, which: impl Fn(&TensorPlan) -> bool) -> bool {
        let open = |tensor| self.work.numbers(tensor).any(|unit| !self.written.has(unit));
        self.tensors().any(|(place, tensor)| which(tensor) && open(place))
    }

    /// The tensors of the job, with their places in the model.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, &'a TensorPlan)> {
        self.job.tensors().map(|place| (place, &self.job.plan.model.tensors[place]))
    }

    /// The rows of a slice that are to be written here and are not yet, in bands of whole units, in order.
    pub fn bands(&self, tensor: usize, slice: usize) -> Vec<Range<u64>> {
        if !self.job.tensors().contains(&tensor) {
            return Vec::new();
        }
        let most = (BAND / self.job.plan.model.tensors[tensor].columns()).max(1);
        let mut bands: Vec<(Range<u64>, bool)> = Vec::new();
        for unit in self.work.of_slice(self.job.plan, tensor, slice) {
            let open = !self.written.has(unit.number);
            match bands.last_mut() {
                Some((band, any)) if unit.rows.end - band.start <= most => {
                    band.end = unit.rows.end;
                    *any |= open;
                }
                _ => bands.push((unit.rows, open)),
            }
        }
        bands.into_iter().filter(|(_, open)| *open).map(|(band, _)| band).collect()
    }

    /// Writes the blocks of a band, and compares them with the weights that they stand for.
    ///
    /// # Errors
    /// If the system cannot, the blocks do not decode to numbers, or the user wants to stop.
    pub fn put(
        &self,
        tensor: usize,
        slice: usize,
        band: &Range<u64>,
        weights: &Dense,
        blocks: &[u8],
    ) -> Result<()> {
        let plan = self.job.plan;
        let (planned, format) = (&plan.model.tensors[tensor], plan.format(tensor));
        let columns = weights.columns();
        let row_bytes = format.row_bytes(columns as u64) as usize;
        let importance = self.job.importances.slice(&plan.model, tensor, slice)?;
        let (file, offset) = plan.place(tensor);
        let offset = offset + (slice as u64 * planned.rows() + band.start) * row_bytes as u64;
        self.outputs[file - self.job.files().start].write_at(offset, blocks)?;
        work_trace::count(0, blocks.len() as u64);

        let compare = |unit: &Unit| {
            let rows = (unit.rows.start - band.start) as usize..(unit.rows.end - band.start) as usize;
            let blocks = &blocks[rows.start * row_bytes..rows.end * row_bytes];
            let weights = &weights.values()[rows.start * columns..rows.end * columns];
            let importance = importance.as_deref();
            let deviation = Deviation::of(format, weights, columns, importance, blocks, &mut Vec::new());
            Done { deviation, zeros: Zeros::of(weights, columns), blocks: checksum(blocks) }
        };
        let units = self.work.of_slice(plan, tensor, slice);
        let units: Vec<Unit> = units.filter(|unit| band.contains(&unit.rows.start)).collect();
        let compared: Vec<Done> = threads::map("compare", &units, compare);
        let mut records = self.records();
        let stored = self.job.store.stored(&planned.slices[slice].tensor)?.row_bytes;
        for (unit, done) in units.iter().zip(compared) {
            if !done.deviation.is_finite() {
                let problem = format!(
                    "tensor \"{}\", slice {slice}, rows {:?}: the {format} blocks do not decode to numbers",
                    planned.name, unit.rows
                );
                return Err(Error::Gguf { file: self.job.output.display().to_string(), problem });
            }
            let rows = unit.rows.end - unit.rows.start;
            let written = rows * row_bytes as u64;
            self.written.put(unit.number, done.blocks);
            records.keeper.note(unit.number, done, written);
            let (weights, read) = (unit.weights(plan), rows * stored);
            (self.job.listener)(Event::Written { tensor: &planned.name, weights, read, written });
        }
        if Instant::now() >= records.due {
            self.make_durable(records)?;
        }
        self.go_on()
    }

    /// Makes what was written durable and records it.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn record(&self) -> Result<()> {
        self.make_durable(self.records())
    }

    fn make_durable(&self, mut records: MutexGuard<'_, Records<'a>>) -> Result<()> {
        records.due = Instant::now() + self.job.sync;
        records.keeper.record()
    }

    fn records(&self) -> MutexGuard<'_, Records<'a>> {
        self.records.lock().expect("no thread panics while it records")
    }

    /// # Errors
    /// [`Error::Interrupted`], if the user wants to stop.
    pub fn go_on(&self) -> Result<()> {
        if self.job.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
