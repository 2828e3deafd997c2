//! The work itself: each piece is read, decoded, quantized and written by one thread, with its own buffers.

use std::path::Path;
use std::sync::Arc;

use rayon::ThreadPoolBuilder;
use rayon::iter::{ParallelBridge, ParallelIterator};

use super::units::{Unit, units};
use crate::checkpoint::{Checkpoint, Matrix};
use crate::error::{Error, Result};
use crate::gguf::Output;
use crate::recipe::{Importances, Plan};

/// What happens, for those who report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The work is known.
    Started {
        /// Weights to quantize.
        weights: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A piece is in the file.
    Written {
        /// Its weights.
        weights: u64,
        /// Bytes that were read for it.
        read: u64,
        /// Bytes that it takes in the file.
        written: u64,
    },
    /// The file has its final name.
    Finished,
}

/// Hears of events, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Event) + Sync);

/// Quantizes the checkpoint as planned into `path`, on `threads` threads.
///
/// The bytes of the file do not depend on the number of threads or on the CPU.
///
/// # Errors
/// If something cannot be read or written, or holds weights that no format can; then `path` is as it was.
pub fn run(
    checkpoint: &Checkpoint,
    plan: &Plan,
    importances: &Importances,
    path: &Path,
    threads: usize,
    listener: Listener,
) -> Result<()> {
    let output = Output::create(path, plan.layout.file_size)?;
    let units = units(checkpoint, &plan.model)?;
    listener(Event::Started { weights: plan.model.weights(), bytes: plan.layout.file_size });
    output.write_at(0, &plan.layout.header)?;

    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::Argument(format!("cannot start {threads} threads: {e}")))?;
    let worker = || Worker {
        checkpoint,
        plan,
        importances,
        output: &output,
        buffers: Buffers::default(),
        slice: None,
    };
    pool.install(|| {
        units.iter().par_bridge().try_for_each_init(worker, |worker, unit| {
            listener(worker.process(unit)?);
            Ok::<(), Error>(())
        })
    })?;
    output.finish()?;
    listener(Event::Finished);
    Ok(())
}

/// One thread's view of the work.
struct Worker<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan,
    importances: &'a Importances<'a>,
    output: &'a Output,
    buffers: Buffers,
    slice: Option<OpenSlice<'a>>,
}

/// What all pieces of a slice share: its matrix with the block scales, and its importances.
struct OpenSlice<'a> {
    tensor: usize,
    slice: usize,
    matrix: Matrix<'a>,
    importance: Option<Arc<[f32]>>,
}

#[derive(Default)]
struct Buffers {
    /// Bytes as stored in the shard.
    raw: Vec<u8>,
    /// Weights in the shard's order, then in the output's.
    weights: Vec<f32>,
    transposed: Vec<f32>,
    /// Encoded blocks.
    blocks: Vec<u8>,
}

impl Worker<'_> {
    fn process(&mut self, unit: &Unit) -> Result<Event> {
        let tensor = &self.plan.model.tensors[unit.tensor];
        let format = self.plan.format(unit.tensor);
        let slice = &tensor.slices[unit.slice];
        let columns = tensor.columns();
        let count = (unit.rows.end - unit.rows.start) * columns;

        self.open(unit)?;
        let open = self.slice.as_ref().expect("`open` has just set it");
        let Buffers { raw, weights, transposed, blocks } = &mut self.buffers;
        weights.resize(count as usize, 0.0);
        let rows = if slice.transposed {
            slice.rows.clone()
        } else {
            slice.rows.start + unit.rows.start..slice.rows.start + unit.rows.end
        };
        open.matrix.read(rows, raw, weights)?;
        let weights =
            if slice.transposed { transpose(weights, columns as usize, transposed) } else { &weights[..] };

        let row_bytes = format.row_bytes(columns);
        blocks.resize(((unit.rows.end - unit.rows.start) * row_bytes) as usize, 0);
        quant_kernels::quantize(format, weights, columns as usize, open.importance.as_deref(), blocks);
        let row = unit.slice as u64 * tensor.rows() + unit.rows.start;
        self.output.write_at(self.plan.layout.offsets[unit.tensor] + row * row_bytes, blocks)?;
        Ok(Event::Written { weights: count, read: raw.len() as u64, written: blocks.len() as u64 })
    }

    /// Opens the unit's slice, unless the last unit was of the same.
    fn open(&mut self, unit: &Unit) -> Result<()> {
        if self.slice.as_ref().is_none_or(|open| (open.tensor, open.slice) != (unit.tensor, unit.slice)) {
            let source = &self.plan.model.tensors[unit.tensor].slices[unit.slice].tensor;
            self.slice = Some(OpenSlice {
                tensor: unit.tensor,
                slice: unit.slice,
                matrix: Matrix::open(self.checkpoint, source)?,
                importance: self.importances.slice(&self.plan.model, unit.tensor, unit.slice)?,
            });
        }
        Ok(())
    }
}

/// A matrix of `rows` rows with rows and columns exchanged, in `out`.
fn transpose<'a>(matrix: &[f32], rows: usize, out: &'a mut Vec<f32>) -> &'a [f32] {
    let columns = matrix.len() / rows;
    out.clear();
    out.extend((0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_exchanges_rows_and_columns() {
        assert_eq!(
            transpose(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &mut Vec::new()),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
    }
}
