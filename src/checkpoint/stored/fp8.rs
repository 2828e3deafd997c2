//! FP8 weights: E4M3 or E5M2 codes, multiplied by a factor for the tensor, for each row, or for each block.

use std::collections::HashMap;

use fearless_simd::{Level, dispatch};

use super::companions::{scale_of, scales_of};
use super::factors::power;
use crate::checkpoint::{Checkpoint, Dtype, Tensor, decode};
use crate::error::{Error, Result, Warning};

/// Whether numbers of this dtype need factors.
pub fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// Sizes of blocks in use, for grids whose configuration does not say.
const USUAL: [u64; 3] = [128, 64, 32];

/// The weights that one scale is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// The whole tensor.
    Tensor,
    /// One row.
    Row,
    /// So many rows and columns; at the edges fewer.
    Block([u64; 2]),
}

impl Grain {
    /// Rows and columns that share a factor in a matrix of `rows` x `columns`.
    fn block(self, [rows, columns]: [u64; 2]) -> [u64; 2] {
        match self {
            Self::Tensor => [rows.max(1), columns.max(1)],
            Self::Row => [1, columns.max(1)],
            Self::Block(block) => block,
        }
    }
}

/// The factors of a weight.
///
/// # Errors
/// If the checkpoint has none for it, or two.
pub fn scale<'a>(checkpoint: &'a Checkpoint, weight: &Tensor) -> Result<&'a Tensor> {
    let names: Vec<String> = scales_of(&weight.name).collect();
    let found: Vec<&Tensor> = names.iter().filter_map(|name| checkpoint.get(name)).collect();
    match found[..] {
        [scale] => Ok(scale),
        [first, second, ..] => {
            let problem = format!(
                "is {:?} and has two scales, \"{}\" and \"{}\"",
                weight.dtype, first.name, second.name
            );
            Err(Error::tensor(&weight.shard, &weight.name, problem))
        }
        [] => {
            let problem = format!(
                "is {:?}, which needs its block scales \"{}\" or \"{}\"; {} names neither",
                weight.dtype,
                names[0],
                names[1],
                checkpoint.listing()
            );
            Err(Error::tensor(&weight.shard, &weight.name, problem))
        }
    }
}

/// Rows and columns that share a factor.
///
/// # Errors
/// If the factors fit none of the declared grains, or none or several ways to divide the weight.
pub fn block(grains: &[Grain], weight: &Tensor, scale: &Tensor) -> Result<[u64; 2]> {
    if let [matrices, rows, columns] = weight.shape[..] {
        return stacked(grains, [matrices, rows, columns], weight, scale);
    }
    if weight.shape.len() > 2 {
        let problem = format!("is {:?} {:?}; FP8 can be read in matrices", weight.dtype, weight.shape);
        return Err(Error::Unsupported(format!("{}: tensor \"{}\" {problem}", weight.shard, weight.name)));
    }
    let fault = |problem| Err(Error::tensor(&scale.shard, &scale.name, problem));
    let extent = [weight.rows(), weight.columns()];
    if !matches!(scale.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8_E8M0 | Dtype::U8) {
        let problem = format!("is {:?}; scales are F32, BF16, F16, F8_E8M0 or U8", scale.dtype);
        return fault(problem);
    }
    let grid = |block: [u64; 2]| [extent[0].div_ceil(block[0]), extent[1].div_ceil(block[1])];
    if grains.is_empty() {
        return match derived(extent, &scale.shape) {
            Ok(block) => Ok(block),
            Err(why) => fault(format!("is {:?} {:?}, {why} of {:?}", scale.dtype, scale.shape, weight.shape)),
        };
    }
    let mut blocks = grains.iter().map(|grain| grain.block(extent));
    if let Some(block) = blocks.clone().find(|block| is_grid(&scale.shape, grid(*block))) {
        return Ok(block);
    }
    // One number can only be for all, whatever is declared.
    if is_lone(scale) {
        return Ok(Grain::Tensor.block(extent));
    }
    let block = blocks.next().expect("not empty");
    fault(format!(
        "is {:?} {:?}; expected F32 {:?}, a scale for each {} x {} block of {:?}",
        scale.dtype,
        scale.shape,
        grid(block),
        block[0],
        block[1],
        weight.shape
    ))
}

/// [`block`] for a stack of matrices, each of which has scales of its own.
fn stacked(
    grains: &[Grain],
    [matrices, rows, columns]: [u64; 3],
    weight: &Tensor,
    scale: &Tensor,
) -> Result<[u64; 2]> {
    match scale.shape[..] {
        // With nothing behind the number of matrices, one for the whole of each.
        [number, ..] if number == matrices => {
            let one = |tensor: &Tensor| Tensor { shape: tensor.shape[1..].to_vec(), ..tensor.clone() };
            block(grains, &Tensor { shape: vec![rows, columns], ..weight.clone() }, &one(scale))
        }
        _ => {
            let problem = format!(
                "is {:?} {:?}; expected scales for each of the {matrices} matrices of {:?}",
                scale.dtype, scale.shape, weight.shape
            );
            Err(Error::tensor(&scale.shard, &scale.name, problem))
        }
    }
}

fn is_lone(scale: &Tensor) -> bool {
    scale.shape.iter().product::<u64>() == 1
}

/// Whether each matrix of a weight has one scale for the whole.
fn is_lone_for_each(weight: &Tensor, scale: &Tensor) -> bool {
    let matrices = if weight.shape.len() == 3 { weight.shape[0] } else { 1 };
    scale.shape.iter().product::<u64>() == matrices
}

/// A warning, if matrices have one scale for the whole, though a scale for each block is declared.
pub fn lone_scales(grains: &[Grain], tensors: &HashMap<String, Tensor>) -> Option<Warning> {
    let divided = |weight: &Tensor| {
        let extent = [weight.shape.iter().rev().nth(1).copied().unwrap_or(1), weight.columns()];
        let mut blocks = grains.iter().map(|grain| grain.block(extent));
        !grains.is_empty() && blocks.all(|block| extent[0] > block[0] || extent[1] > block[1])
    };
    let scale = |weight: &Tensor| scale_of(tensors, &weight.name).map(|name| &tensors[&name]);
    let lone = |weight: &&Tensor| {
        let lone = |scale| is_lone_for_each(weight, scale);
        is_fp8(weight.dtype) && divided(weight) && scale(weight).is_some_and(lone)
    };
    let found: Vec<&Tensor> = tensors.values().filter(lone).collect();
    let first = found.iter().min_by(|a, b| a.name.cmp(&b.name))?;
    let more = if found.len() > 1 { format!(" (and {} more)", found.len() - 1) } else { String::new() };
    let problem = format!(
        "has one scale for the whole of {:?}{more}, where config.json declares one for each block; it is taken for all",
        first.shape
    );
    Some(Warning::new(Error::tensor(&first.shard, &first.name, problem)))
}

/// Whether a tensor of this shape can hold that grid: dimensions of one may be left out, or be there besides.
fn is_grid(shape: &[u64], grid: [u64; 2]) -> bool {
    let long = |sizes: &[u64]| sizes.iter().copied().filter(|&size| size != 1).collect::<Vec<u64>>();
    shape == grid || (shape.len() != 2 && long(shape) == long(&grid))
}

/// The block that follows from shapes alone, or why none does.
fn derived(extent: [u64; 2], shape: &[u64]) -> Result<[u64; 2], &'static str> {
    let [rows, columns] = extent;
    let grid = match *shape {
        [] => [1, 1],
        [1] => [1, 1],
        [n] if n == rows => [n, 1],
        [a, b] => [a, b],
        [a, 1, b, 1] => [a, b],
        _ => return Err("which is no scale for the tensor, for each row or for each block"),
    };
    Ok([along(rows, grid[0])?, along(columns, grid[1])?])
}

/// The size of a block of which `parts` lie along `size`.
fn along(size: u64, parts: u64) -> Result<u64, &'static str> {
    if parts == 1 {
        return Ok(size.max(1));
    }
    let fits = |block: &u64| *block > 0 && size.div_ceil(*block) == parts;
    let even = size.checked_div(parts).filter(|_| size.is_multiple_of(parts.max(1)));
    let mut found: Vec<u64> = USUAL.into_iter().chain(even).filter(fits).collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [block] => Ok(block),
        [] => Err("which fits no blocks of a usual size"),
        _ => Err("which fits blocks of several sizes, and config.json does not say which: it divides blocks"),
    }
}

/// One factor for each block of a weight; blocks at the edges are partial.
#[derive(Debug)]
pub struct Scales {
    block: [u64; 2],
    /// Rows of one matrix, of several that are stacked.
    rows: u64,
    /// Rows of blocks in one matrix.
    down: usize,
    /// Blocks in a row of blocks.
    across: usize,
    factors: Vec<f32>,
}

impl Scales {
    /// Reads the factors.
    ///
    /// # Errors
    /// If they cannot be read, or one is not finite.
    pub fn read(checkpoint: &Checkpoint, weight: &Tensor, scale: &Tensor, block: [u64; 2]) -> Result<Self> {
        let mut raw = vec![0; scale.bytes as usize];
        checkpoint.read_at(scale, 0, &mut raw)?;
        let mut factors = vec![0.0; scale.shape.iter().product::<u64>() as usize];
        match scale.dtype {
            Dtype::U8 | Dtype::F8_E8M0 => {
                factors.iter_mut().zip(&raw).for_each(|(factor, &code)| *factor = power(code));
            }
            dtype => {
                assert!(decode::decode(dtype, &raw, &mut factors), "`block` lets only known dtypes through")
            }
        }
        let across = weight.columns().div_ceil(block[1]) as usize;
        if let Some(index) = factors.iter().position(|x| !x.is_finite()) {
            let problem = format!(
                "holds {} at row {}, column {}; scales are finite",
                factors[index],
                index / across,
                index % across
            );
            return Err(Error::tensor(&scale.shard, &scale.name, problem));
        }
        let rows = weight.shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
        Ok(Self { block, rows, down: rows.div_ceil(block[0]) as usize, across, factors })
    }

    /// Multiplies a row of the weight by its factors.
    pub fn apply(&self, row: u64, weights: &mut [f32]) {
        dispatch!(Level::new(), _simd => self.multiply(row, weights));
    }

    #[inline(always)]
    fn multiply(&self, row: u64, weights: &mut [f32]) {
        let [matrix, row] = [row / self.rows, row % self.rows];
        let first = (matrix as usize * self.down + (row / self.block[0]) as usize) * self.across;
        let factors = &self.factors[first..first + self.across];
        for (weights, factor) in weights.chunks_mut(self.block[1] as usize).zip(factors) {
            for weight in weights {
                *weight *= factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_from_shapes_where_only_one_size_fits() {
        for (extent, shape, block) in [
            ([256, 512], &[][..], [256, 512]),
            ([256, 512], &[1], [256, 512]),
            ([256, 512], &[1, 1], [256, 512]),
            ([256, 512], &[256], [1, 512]),
            ([256, 512], &[256, 1], [1, 512]),
            ([256, 512], &[2, 4], [128, 128]),
            ([576, 7168], &[5, 56], [128, 128]),
            ([576, 7168], &[9, 112], [64, 64]),
            ([256, 512], &[256, 16], [1, 32]),
            ([256, 512], &[2, 1, 4, 1], [128, 128]),
        ] {
            assert_eq!(derived(extent, shape), Ok(block), "{extent:?} {shape:?}");
        }
        // Halves of 96, or 128 and 64.
        assert!(derived([192, 128], &[2, 1]).expect_err("two ways").contains("several sizes"));
        assert!(derived([256, 512], &[3, 4]).expect_err("no way").contains("no blocks"));
        assert!(derived([256, 512], &[7]).expect_err("no way").contains("no scale"));
    }
}
