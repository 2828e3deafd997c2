//! What is still to be quantized, and how it is written and recorded.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dense_kernels::Dense;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::deviation::Deviation;
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::pipeline::{Event, Job, Keeper, Unit, Work};

/// Weights that are in memory at once, about: an embedding has a billion.
const BAND: u64 = 16 << 20;

/// The slices of all tensors, and which of them are open.
pub struct Ledger<'a> {
    job: &'a Job<'a>,
    outputs: &'a [Output],
    keeper: Keeper<'a>,
    /// The units of each slice, by tensor and slice.
    units: HashMap<(usize, usize), Vec<Unit>>,
    /// By tensor and slice.
    open: Vec<Vec<bool>>,
    due: Instant,
}

impl<'a> Ledger<'a> {
    /// All that is not recorded is open.
    pub fn new(job: &'a Job<'a>, work: &Work, outputs: &'a [Output], keeper: Keeper<'a>) -> Self {
        let mut units: HashMap<(usize, usize), Vec<Unit>> = HashMap::new();
        let mut open: Vec<Vec<bool>> =
            job.plan.model.tensors.iter().map(|tensor| vec![false; tensor.slices.len()]).collect();
        for unit in work.all(job.plan) {
            open[unit.tensor][unit.slice] |= !keeper.is_done(unit.number);
            units.entry((unit.tensor, unit.slice)).or_default().push(unit);
        }
        Self { job, outputs, keeper, units, open, due: Instant::now() + job.sync }
    }

    /// Whether a slice is still to be quantized.
    pub fn is_open(&self, tensor: usize, slice: usize) -> bool {
        self.open[tensor][slice]
    }

    /// The open slices of a tensor.
    pub fn open_slices(&self, tensor: usize) -> Vec<usize> {
        (0..self.open[tensor].len()).filter(|&slice| self.open[tensor][slice]).collect()
    }

    /// Whether any slice is open of the tensors whose names these are.
    pub fn any_open(&self, which: impl Fn(&str) -> bool) -> bool {
        let tensors = self.job.plan.model.tensors.iter().zip(&self.open);
        tensors.filter(|(tensor, _)| which(&tensor.name)).any(|(_, open)| open.contains(&true))
    }

    /// The rows of a slice that are not done, in bands of whole units, in order.
    pub fn bands(&self, tensor: usize, slice: usize) -> Vec<Range<u64>> {
        let most = (BAND / self.job.plan.model.tensors[tensor].columns()).max(1);
        let mut bands: Vec<Range<u64>> = Vec::new();
        let units = &self.units[&(tensor, slice)];
        for unit in units {
            match bands.last_mut() {
                Some(band) if unit.rows.end - band.start <= most => band.end = unit.rows.end,
                _ => bands.push(unit.rows.clone()),
            }
        }
        let open = |unit: &Unit| !self.keeper.is_done(unit.number);
        bands.retain(|band| units.iter().any(|unit| band.contains(&unit.rows.start) && open(unit)));
        bands
    }

    /// Writes the blocks of a band, and compares them with the weights that they stand for. The slice is done with its
    /// last band.
    ///
    /// # Errors
    /// If the system cannot, the blocks do not decode to numbers, or the user wants to stop.
    pub fn put(
        &mut self,
        tensor: usize,
        slice: usize,
        band: Range<u64>,
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

        let deviation = |unit: &Unit| {
            let rows = (unit.rows.start - band.start) as usize..(unit.rows.end - band.start) as usize;
            let blocks = &blocks[rows.start * row_bytes..rows.end * row_bytes];
            let weights = &weights.values()[rows.start * columns..rows.end * columns];
            Deviation::of(format, weights, columns, importance.as_deref(), blocks, &mut Vec::new())
        };
        let within = |unit: &&Unit| band.contains(&unit.rows.start);
        let units: Vec<&Unit> = self.units[&(tensor, slice)].iter().filter(within).collect();
        let deviations: Vec<Deviation> = units.par_iter().map(|unit| deviation(unit)).collect();
        let stored = self.job.checkpoint.tensor(&planned.slices[slice].tensor)?;
        let stored = stored.bytes / stored.rows().max(1);
        for (unit, deviation) in units.iter().zip(deviations) {
            if !deviation.is_finite() {
                let problem = format!(
                    "tensor \"{}\", slice {slice}, rows {:?}: the {format} blocks do not decode to numbers",
                    planned.name, unit.rows
                );
                return Err(Error::Gguf { file: self.job.output.display().to_string(), problem });
            }
            let rows = unit.rows.end - unit.rows.start;
            let written = rows * row_bytes as u64;
            self.keeper.note(unit.number, deviation, written);
            (self.job.listener)(Event::Written { weights: unit.weights(plan), read: rows * stored, written });
        }
        self.open[tensor][slice] = band.end < planned.rows();
        if Instant::now() >= self.due {
            self.record()?;
        }
        self.go_on()
    }

    /// Makes what was written durable and records it.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn record(&mut self) -> Result<()> {
        self.due = Instant::now() + self.job.sync;
        self.keeper.record()
    }

    /// # Errors
    /// [`Error::Interrupted`], if the user wants to stop.
    pub fn go_on(&self) -> Result<()> {
        if self.job.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
