//! Weights whose codes have fewer bits than a byte or lie in other tensors than their factors: what headers say of one,
//! and the decoder of its rows. Which tensors make one is found out in [`gather`](super::gather).

use std::ops::Range;
use std::sync::Mutex;

use fearless_simd::{Level, dispatch};
use half::f16;
use quant_kernels::Format;

use super::across::Across;
use super::codes::{Element, Packing};
use super::declared::Kind;
use super::factors::{By, Factors, Zeros, numbers, whole};
use super::quarters;
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::error::{Error, Result};

/// How one weight is stored, from headers alone. Tensors are named; a group is the weights that share a factor.
#[derive(Debug)]
pub struct Packed {
    /// The format, for messages.
    pub format: &'static str,
    pub layout: Layout,
    pub meaning: Meaning,
    pub groups: Groups,
    pub factors: FactorsAt,
    pub zeros: ZerosAt,
    /// The group of each column, where they are not in order.
    pub order: Option<String>,
    /// The shape, to be compared.
    pub shape: Option<String>,
}

/// Where the codes of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One row after another, each of whole bytes.
    Rows(Packing),
    /// Nibbles of all weights, one row after another without regard to bytes.
    Flat,
    /// Along the columns of the stored matrix.
    Across(Across),
    /// A byte has the codes of four rows, a quarter of the matrix apart.
    Quarters,
}

/// What the codes stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    Integer,
    E2M1,
    E2M3,
    /// Places in the table that this tensor holds.
    Listed(String),
}

/// Which weights share a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// So many of a row, in so many groups.
    Rows { size: u64, across: u64 },
    /// All of the tensor.
    All,
    /// So many of the whole tensor, without regard to rows.
    Flat(u64),
}

/// Where the factors are.
#[derive(Clone, Debug, PartialEq)]
pub enum FactorsAt {
    /// In a tensor, row after row.
    Rows(String),
    /// In a tensor, multiplied by the number of another, or divided by it.
    Global { scale: String, by: String, over: bool },
    /// In a tensor whose rows are groups.
    Across(String),
    /// In a tensor that is divided by.
    Inverse(String),
    /// In a tensor, and the products are multiplied once more.
    Then(String, f32),
    /// Codes in one tensor for numbers of a table, with factors and an offset of their own.
    Nested { codes: String, table: String, factors: String, size: u64, offset: f32 },
}

/// Where the zero points are.
#[derive(Clone, Debug, PartialEq)]
pub enum ZerosAt {
    /// All groups have this one.
    All(f32),
    /// Bytes in two's complement, as many as factors, counted from this code.
    Bytes(String, u8),
    /// Codes that run along the rows: one row of them is for a group.
    Down(String, Packing),
    /// Words whose rows are groups, and what is added to them.
    Across(String, f32),
}

impl Packed {
    /// What a declaration would call it; None if any may.
    pub fn kind(&self) -> Option<Kind> {
        match self.meaning {
            Meaning::Integer => Some(Kind::Integers),
            Meaning::E2M1 | Meaning::E2M3 => Some(Kind::SmallFloats),
            Meaning::Listed(_) => None,
        }
    }

    /// Whether its codes run along the columns, as GPTQ and AWQ have them.
    pub fn is_across(&self) -> bool {
        matches!(self.layout, Layout::Across(_))
    }

    /// Bytes of a row when it is loaded; the most, where rows share bytes.
    pub fn row_bytes(&self, tensor: &Tensor) -> u64 {
        match self.layout {
            Layout::Rows(_) => tensor.bytes / tensor.rows().max(1),
            Layout::Flat => tensor.columns() / 2 + 1,
            Layout::Across(across) => across.row_bytes(tensor.columns()),
            Layout::Quarters => tensor.columns(),
        }
    }

    /// The tensor that is read when the weight is opened, of its companions the largest.
    pub fn scale(&self) -> &str {
        match &self.factors {
            FactorsAt::Rows(name)
            | FactorsAt::Across(name)
            | FactorsAt::Inverse(name)
            | FactorsAt::Then(name, _)
            | FactorsAt::Global { scale: name, .. }
            | FactorsAt::Nested { codes: name, .. } => name,
        }
    }

    /// The type of GGUF whose blocks hold the same codes: always for MXFP4, for NVFP4 where no scale is negative, and for
    /// Q4_0 where factors are F16 numbers.
    pub fn regrouped(&self, tensor: &Tensor) -> Option<Format> {
        let nibbles = matches!(self.layout, Layout::Rows(Packing::Dense(4) | Packing::Loose(4)));
        let Groups::Rows { size, .. } = self.groups else { return None };
        if !nibbles || self.order.is_some() {
            return None;
        }
        let format = match (size, &self.factors, &self.meaning, &self.zeros) {
            (32, FactorsAt::Rows(_), Meaning::E2M1, _) => Format::MXFP4,
            (16, FactorsAt::Global { .. }, Meaning::E2M1, _) => Format::NVFP4,
            (32, FactorsAt::Rows(_), Meaning::Integer, ZerosAt::All(8.0)) => Format::Q4_0,
            _ => return None,
        };
        format.fits(tensor.columns()).then_some(format)
    }

    /// What all weights are multiplied by, beside the factors of their groups.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn factor(&self, checkpoint: &Checkpoint) -> Result<f32> {
        let FactorsAt::Global { by, over, .. } = &self.factors else { return Ok(1.0) };
        let number = numbers(checkpoint, by, Some(1))?[0];
        Ok(if *over { 1.0 / number } else { number })
    }
}

/// Decodes rows of a packed weight.
#[derive(Debug)]
pub struct Codes {
    layout: Layout,
    packing: Packing,
    columns: usize,
    row_bytes: u64,
    element: Element,
    groups: Groups,
    factors: Factors,
    zeros: Zeros,
    order: Option<Vec<u32>>,
    /// What products are multiplied by.
    then: f32,
    regrouped: Option<Format>,
    /// Rows that were read together, where they do not lie together.
    band: Mutex<Band>,
}

/// Rows as they are loaded.
#[derive(Debug, Default)]
struct Band {
    rows: Range<u64>,
    bytes: Vec<u8>,
}

impl Codes {
    /// Reads what the rows need besides their codes.
    ///
    /// # Errors
    /// If it cannot be read, or is not what it must be.
    pub fn open(checkpoint: &Checkpoint, tensor: &Tensor, packed: &Packed) -> Result<Self> {
        if let Some(name) = &packed.shape {
            let shape = checkpoint.tensor(name)?;
            let found = integers(shape, &whole(checkpoint, shape)?);
            if found.as_deref() != Some(&tensor.shape) {
                let problem = format!(
                    "holds {}, where others of the same form hold {:?}",
                    found.map_or("no sizes".to_owned(), |found| format!("{found:?}")),
                    tensor.shape
                );
                return Err(Error::tensor(&shape.shard, name, problem));
            }
        }
        let (rows, columns) = (tensor.rows() as usize, tensor.columns() as usize);
        let across = match packed.groups {
            Groups::Rows { across, .. } => across,
            Groups::All | Groups::Flat(_) => 1,
        };
        let by = |by| {
            let tensor = checkpoint.tensor(packed.scale())?;
            Factors::read(checkpoint, tensor, by, across)
        };
        let mut then = 1.0;
        let factors = match &packed.factors {
            FactorsAt::Rows(_) => by(By::Nothing)?,
            FactorsAt::Inverse(_) => by(By::Inverse)?,
            FactorsAt::Then(_, factor) => {
                then = *factor;
                by(By::Nothing)?
            }
            FactorsAt::Global { by: name, over, .. } => {
                let number = numbers(checkpoint, name, Some(1))?[0];
                by(if *over { By::Over(number) } else { By::Times(number) })?
            }
            FactorsAt::Across(name) => {
                let tensor = checkpoint.tensor(name)?;
                let bytes = turned(&whole(checkpoint, tensor)?, across as usize, rows);
                Factors::checked(tensor, tensor.dtype, bytes, By::Nothing, across)?
            }
            FactorsAt::Nested { codes, table, factors, size, offset } => {
                let table = numbers(checkpoint, table, Some(256))?;
                let codes = whole(checkpoint, checkpoint.tensor(codes)?)?;
                let factors = numbers(checkpoint, factors, Some((codes.len() as u64).div_ceil(*size)))?;
                let groups = codes.chunks(*size as usize).zip(&factors);
                let (table, offset) = (&table, *offset);
                let all: Vec<f32> = groups
                    .flat_map(|(codes, factor)| {
                        codes.iter().map(move |&code| table[usize::from(code)] * factor + offset)
                    })
                    .collect();
                Factors::of(&all)
            }
        };
        let zeros = match &packed.zeros {
            ZerosAt::All(zero) => Zeros::All(*zero),
            ZerosAt::Bytes(name, middle) => {
                let mut bytes = whole(checkpoint, checkpoint.tensor(name)?)?;
                bytes.iter_mut().for_each(|byte| *byte ^= 0x80);
                Zeros::Each(bytes, f32::from(*middle) - 128.0)
            }
            ZerosAt::Down(name, packing) => {
                let raw = whole(checkpoint, checkpoint.tensor(name)?)?;
                Zeros::Each(down(&raw, *packing, rows, across as usize), 0.0)
            }
            ZerosAt::Across(name, more) => {
                let Layout::Across(layout) = packed.layout else { unreachable!("they go together") };
                let raw = whole(checkpoint, checkpoint.tensor(name)?)?;
                let words = raw.len() / across.max(1) as usize;
                let mut codes = vec![0; rows * across as usize];
                let mut of_group = vec![0; rows];
                for (group, raw) in raw.chunks_exact(words.max(1)).enumerate() {
                    layout.zeros(raw, &mut of_group);
                    for (row, &zero) in of_group.iter().enumerate() {
                        codes[row * across as usize + group] = zero;
                    }
                }
                Zeros::Each(codes, *more)
            }
        };
        let order = match &packed.order {
            Some(name) => order(checkpoint, name, columns, across, packed.groups)?,
            None => None,
        };
        let element = match &packed.meaning {
            Meaning::Integer => Element::Integer,
            Meaning::E2M1 => Element::E2M1,
            Meaning::E2M3 => Element::E2M3,
            Meaning::Listed(name) => {
                let list = numbers(checkpoint, name, Some(16))?;
                Element::Listed(list.try_into().expect("sixteen"))
            }
        };
        let packing = match packed.layout {
            Layout::Rows(packing) => packing,
            Layout::Flat => Packing::HighFirst,
            Layout::Across(across) => across.packing(),
            Layout::Quarters => Packing::Dense(8),
        };
        Ok(Self {
            layout: packed.layout,
            packing,
            columns,
            row_bytes: packed.row_bytes(tensor),
            element,
            groups: packed.groups,
            factors,
            zeros,
            order,
            then,
            regrouped: packed.regrouped(tensor),
            band: Mutex::default(),
        })
    }

    /// The bytes of rows among those of all rows, as they are loaded.
    pub fn span(&self, rows: &Range<u64>) -> Range<u64> {
        match self.layout {
            Layout::Flat => {
                let columns = self.columns as u64;
                rows.start * columns / 2..(rows.end * columns).div_ceil(2)
            }
            _ => rows.start * self.row_bytes..rows.end * self.row_bytes,
        }
    }

    /// Whether the bytes of a span lie together in the stored tensor.
    pub fn is_straight(&self) -> bool {
        matches!(self.layout, Layout::Rows(_) | Layout::Flat)
    }

    /// Reads rows that do not lie together.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        rows: Range<u64>,
        raw: &mut [u8],
    ) -> Result<()> {
        let Layout::Across(across) = self.layout else {
            return quarters::load(checkpoint, tensor, rows, raw);
        };
        // A sample.
        if rows.end - rows.start == 1 {
            return across.load(checkpoint, tensor, rows, raw);
        }
        let all = tensor.rows();
        let mut band = self.band.lock().expect("no thread panics while it reads");
        if rows.start < band.rows.start || rows.end > band.rows.end {
            let start = rows.start / 32 * 32;
            let wanted = start..rows.end.max(start + across.band(tensor)).min(all);
            band.bytes.resize(((wanted.end - wanted.start) * self.row_bytes) as usize, 0);
            // Until it is filled it has nothing.
            band.rows = 0..0;
            across.load(checkpoint, tensor, wanted.clone(), &mut band.bytes)?;
            band.rows = wanted;
        }
        let first = ((rows.start - band.rows.start) * self.row_bytes) as usize;
        raw.copy_from_slice(&band.bytes[first..first + raw.len()]);
        if rows.end == all {
            *band = Band::default();
        }
        Ok(())
    }

    /// Decodes the bytes of a row.
    ///
    /// # Panics
    /// If `raw` or `out` is not exactly one row.
    pub fn row(&self, row: u64, raw: &[u8], out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "weights of a row");
        dispatch!(Level::new(), _simd => self.decode(row, raw, out));
    }

    #[inline(always)]
    fn decode(&self, row: u64, raw: &[u8], out: &mut [f32]) {
        let columns = self.columns;
        let before = row as usize * columns;
        let skipped = if self.layout == Layout::Flat { before % 2 } else { 0 };
        let mut codes = vec![0; columns + skipped];
        self.packing.unpack(raw, &mut codes);
        let codes = &codes[skipped..];
        // The first group, and how much of it is before the row.
        let (first, lead, size) = match self.groups {
            Groups::Rows { size, across } => (row as usize * across as usize, 0, size as usize),
            Groups::All => (0, 0, columns),
            Groups::Flat(size) => (before / size as usize, before % size as usize, size as usize),
        };
        let groups = match self.groups {
            Groups::Rows { across, .. } => across as usize,
            _ => (lead + columns).div_ceil(size),
        };
        let mut numbers = vec![0.0; 2 * groups];
        let (factors, zeros) = numbers.split_at_mut(groups);
        self.factors.fill(first..first + groups, factors);
        self.zeros.fill(first..first + groups, zeros);
        match &self.order {
            Some(order) => {
                for ((out, &code), &group) in out.iter_mut().zip(codes).zip(order) {
                    *out = (f32::from(code) - zeros[group as usize]) * factors[group as usize];
                }
            }
            None => {
                let mut start = 0;
                for (index, (factor, zero)) in factors.iter().zip(&*zeros).enumerate() {
                    let end = columns.min((index + 1) * size - lead);
                    self.element.scale(&codes[start..end], *zero, *factor, &mut out[start..end]);
                    start = end;
                }
            }
        }
        if self.then != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.then);
        }
    }

    /// Puts the codes of a row into blocks of the type that holds them as they are; false if a factor has no place
    /// there, and then the blocks are of no use.
    pub fn regroup(&self, format: Format, row: u64, raw: &[u8], blocks: &mut [u8]) -> bool {
        assert_eq!(Some(format), self.regrouped, "a type that holds the same codes");
        let size = format.block_bytes();
        if format == Format::NVFP4 {
            let groups = self.columns / 16;
            let scales = self.factors.e4m3().expect("NVFP4's scales are E4M3 numbers");
            let scales = scales[row as usize * groups..][..groups].as_chunks::<4>().0;
            let parts = blocks.chunks_exact_mut(size).zip(scales).zip(raw.as_chunks::<32>().0);
            for ((block, scales), codes) in parts {
                let (head, places) = block.split_at_mut(scales.len());
                // Those of blocks have no sign; zero may have lost nothing by it.
                head.iter_mut().zip(scales).for_each(|(place, &scale)| *place = scale & 0x7f);
                places
                    .chunks_exact_mut(8)
                    .zip(codes.as_chunks::<8>().0)
                    .for_each(|(place, codes)| halves(codes, place));
            }
            return scales.iter().flatten().all(|&scale| scale <= 0x80);
        }
        let groups = self.columns / 32;
        let first = row as usize * groups;
        let head = size - 16;
        for (block, codes) in blocks.chunks_exact_mut(size).zip(raw.as_chunks::<16>().0) {
            halves(codes, &mut block[head..]);
        }
        if let (Format::MXFP4, Some(powers)) = (format, self.factors.powers()) {
            let powers = &powers[first..first + groups];
            blocks.chunks_exact_mut(size).zip(powers).for_each(|(block, &power)| block[0] = power);
            return true;
        }
        let mut factors = vec![0.0; groups];
        self.factors.fill(first..first + groups, &mut factors);
        blocks.chunks_exact_mut(size).zip(factors).all(|(block, factor)| {
            let d = f16::from_f32(factor);
            block[..head].copy_from_slice(&d.to_le_bytes());
            d.to_f32() == factor
        })
    }
}

/// Codes of neighbours to those of the first half of a group beside those of the second, as blocks of GGUF have them.
fn halves(codes: &[u8], places: &mut [u8]) {
    let half = codes.len();
    let code = |weight: usize| codes[weight / 2] >> (4 * (weight % 2)) & 15;
    places.iter_mut().enumerate().for_each(|(i, place)| *place = code(i) | code(i + half) << 4);
}

/// The numbers of a tensor of integers that may say sizes.
pub fn integers(tensor: &Tensor, raw: &[u8]) -> Option<Vec<u64>> {
    match tensor.dtype {
        Dtype::I64 | Dtype::U64 => {
            raw.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b).try_into().ok()).collect()
        }
        Dtype::I32 | Dtype::U32 => {
            raw.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).try_into().ok()).collect()
        }
        _ => None,
    }
}

/// A matrix with its columns as rows: `rows` rows of numbers of whatever size to `columns` of them.
fn turned(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let size = bytes.len() / (rows * columns).max(1);
    let mut out = vec![0; bytes.len()];
    for (row, numbers) in bytes.chunks_exact((columns * size).max(1)).enumerate() {
        for (column, number) in numbers.chunks_exact(size).enumerate() {
            let place = (column * rows + row) * size;
            out[place..place + size].copy_from_slice(number);
        }
    }
    out
}

/// Zero points whose words run along the rows, in the order of rows and groups.
fn down(raw: &[u8], packing: Packing, rows: usize, across: usize) -> Vec<u8> {
    let words = raw.as_chunks::<4>().0;
    let (mut zeros, mut column, mut codes) = (vec![0; rows * across], Vec::new(), vec![0; rows]);
    for group in 0..across {
        column.clear();
        words.iter().skip(group).step_by(across).for_each(|word| column.extend_from_slice(word));
        packing.unpack(&column, &mut codes);
        codes.iter().enumerate().for_each(|(row, &code)| zeros[row * across + group] = code);
    }
    zeros
}

/// The groups of the columns, or None if they are in order.
fn order(
    checkpoint: &Checkpoint,
    name: &str,
    columns: usize,
    across: u64,
    groups: Groups,
) -> Result<Option<Vec<u32>>> {
    let tensor = checkpoint.tensor(name)?;
    let fault = |problem| Err(Error::tensor(&tensor.shard, name, problem));
    let raw = whole(checkpoint, tensor)?;
    let found = match (tensor.dtype, tensor.shape.iter().product::<u64>() == columns as u64) {
        (Dtype::I32, true) => raw.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect::<Vec<i32>>(),
        _ => {
            let problem = format!("is {:?} {:?}; expected I32 [{columns}]", tensor.dtype, tensor.shape);
            return fault(problem);
        }
    };
    if let Some(column) = found.iter().position(|&group| group < 0 || group as u64 >= across) {
        let problem = format!("holds group {} for column {column}; there are {across} groups", found[column]);
        return fault(problem);
    }
    let Groups::Rows { size, .. } = groups else { return Ok(None) };
    let in_order = found.iter().enumerate().all(|(column, &group)| column as u64 / size == group as u64);
    Ok((!in_order).then(|| found.into_iter().map(|group| group as u32).collect()))
}
