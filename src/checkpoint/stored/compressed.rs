//! compressed-tensors' pack-quantized: integers of 2 to 8 bits in words of 32 bits, with a scale for a group of columns,
//! a row or the tensor, and zero points that are packed along the rows.
//!
//! ```text
//! X_packed      I32 [out, words]         codes = value + 2^(bits - 1): dense, or floor(32 / bits) in a word
//! X_scale       [out, groups], [out, 1], [1]
//! X_zero_point  I32 [words, groups]      codes along `out`, packed alike; or I8 [out, groups]
//! X_g_idx       I32 [in]                 the group of each column
//! X_shape       [2]                      out, in
//!
//! weight = (code - zero) * scale         zero = 2^(bits - 1) where there is no zero point
//! ```

use std::collections::HashMap;

use super::codes::Packing;
use super::companions as names;
use super::declared::Share;
use super::factors::is_factor;
use super::gather::{Found, Shelf, fault};
use super::packed::{self, FactorsAt, Groups, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};

/// Shapes of weights by those of codes and scales: the first of each form says it, and the others are compared when
/// they are opened. There are tens of thousands of such tensors in a checkpoint.
#[derive(Default)]
pub struct Forms(HashMap<[Vec<u64>; 2], Vec<u64>>);

/// The weight of these words.
///
/// # Errors
/// If tensors beside them are missing, misshapen, or do not say how they are packed.
pub fn integers(shelf: &Shelf, forms: &mut Forms, codes: &Tensor, base: &str) -> Result<Found> {
    let part = |part: &str| format!("{base}{part}");
    let scale = shelf.need(codes, &part(names::SCALE), "scales")?;
    let said = shelf.said.integers.as_slice();
    let words = codes.columns();
    let leading = &codes.shape[..codes.shape.len().saturating_sub(1)];
    let shape_name = part(names::SHAPE);
    let shape = match shelf.tensors.get(&shape_name) {
        Some(tensor) => {
            let key = [codes.shape.clone(), scale.shape.clone()];
            match forms.0.get(&key) {
                Some(shape) => shape.clone(),
                None => {
                    let Some(shape) = packed::integers(tensor, &shelf.read(tensor)?) else {
                        return fault(
                            tensor,
                            format!(
                                "is {:?} {:?}; expected the sizes of a weight",
                                tensor.dtype, tensor.shape
                            ),
                        );
                    };
                    if shape.is_empty() || shape[..shape.len() - 1] != *leading {
                        let problem = format!("holds {shape:?}, but \"{}\" is {:?}", codes.name, codes.shape);
                        return fault(tensor, problem);
                    }
                    forms.0.insert(key, shape.clone());
                    shape
                }
            }
        }
        None => {
            // Older files lack it; whole words say it, if the bits are declared.
            let bits: Vec<u32> = said.iter().map(|said| said.bits).collect();
            match bits[..] {
                [bits] if 32 % bits == 0 => [leading, &[words * 32 / u64::from(bits)]].concat(),
                _ => {
                    shelf.need(codes, &shape_name, "shape")?;
                    unreachable!("it is not there")
                }
            }
        }
    };
    let columns = shape.last().copied().unwrap_or(0);
    // A word has sixteen codes at most.
    if columns > words.saturating_mul(16) {
        return fault(
            codes,
            format!("has rows of {words} words, which {columns} integers of 2 bits do not fit into"),
        );
    }
    let packing = packing(codes, columns, &said.iter().map(|said| said.bits).collect::<Vec<u32>>())?;
    let bits = match packing {
        Packing::Dense(bits) | Packing::Loose(bits) => bits,
        _ => unreachable!("integers are packed in one of the two"),
    };
    let rows: u64 = leading.iter().product();
    let shares: Vec<Share> = said.iter().filter(|said| said.bits == bits).map(|said| said.share).collect();
    let groups = groups(scale, leading, columns, &shares)?;
    let across = match groups {
        Groups::Rows { across, .. } => across,
        _ => 1,
    };
    let mut companions = vec![scale.name.clone()];
    companions.extend(shelf.tensors.contains_key(&shape_name).then(|| shape_name.clone()));
    let zeros = match shelf.tensors.get(&part(names::ZERO_POINT)) {
        Some(zeros) => {
            companions.push(zeros.name.clone());
            zero_points(zeros, packing, rows, across, groups)?
        }
        None if !said.is_empty() && said.iter().all(|said| said.bits != bits || !said.symmetric) => {
            shelf.need(codes, &part(names::ZERO_POINT), "zero points (symmetric is false)")?;
            unreachable!("they are not there")
        }
        None => ZerosAt::All((1u32 << (bits - 1)) as f32),
    };
    let order = shelf.tensors.get(&part(names::G_IDX)).map(|tensor| tensor.name.clone());
    if order.is_none()
        && said.iter().any(|said| said.bits == bits)
        && said.iter().all(|said| said.bits != bits || said.ordered)
    {
        shelf.need(codes, &part(names::G_IDX), "groups of the columns (actorder is group)")?;
    }
    companions.extend(order.clone());
    let order = order.filter(|_| matches!(groups, Groups::Rows { .. }));
    let packed = Packed {
        format: "compressed-tensors' pack-quantized",
        layout: Layout::Rows(packing),
        meaning: Meaning::Integer,
        groups,
        factors: FactorsAt::Rows(scale.name.clone()),
        zeros,
        order,
        shape: shelf.tensors.contains_key(&shape_name).then_some(shape_name),
    };
    let tensor = Tensor { name: base.to_owned(), shape, ..codes.clone() };
    Ok(Found { tensor, packed, companions })
}

/// How so many columns lie in the words of a row.
fn packing(codes: &Tensor, columns: u64, declared: &[u32]) -> Result<Packing> {
    let all: Vec<u32> = (2..=8).collect();
    let words = codes.columns();
    let bits = if declared.is_empty() { &all[..] } else { declared };
    let dense = bits.iter().map(|&bits| (Packing::Dense(bits), (columns * u64::from(bits)).div_ceil(32)));
    let loose = bits
        .iter()
        .filter(|&&bits| 32 % bits != 0)
        .map(|&bits| (Packing::Loose(bits), columns.div_ceil(u64::from(32 / bits))));
    let mut fitting: Vec<Packing> =
        dense.chain(loose).filter(|(_, count)| *count == words).map(|(packing, _)| packing).collect();
    fitting.dedup();
    match fitting[..] {
        [packing] => Ok(packing),
        // As many words either way, and then the newer one.
        [Packing::Dense(a), Packing::Loose(b)] if a == b => Ok(Packing::Dense(a)),
        [] => {
            let problem = format!(
                "has rows of {words} words; {columns} integers of {} do not take as many",
                if declared.is_empty() { "2 to 8 bits".to_owned() } else { format!("{declared:?} bits") }
            );
            fault(codes, problem)
        }
        _ => {
            let problem = format!(
                "has {words} words for {columns} integers; config.json does not say of how many bits"
            );
            fault(codes, problem)
        }
    }
}

/// The groups that scales of this shape are for, in a weight of these leading dimensions and columns; `shares` are those
/// that are declared.
///
/// # Errors
/// If they are no scales, or for no groups that are declared.
pub fn groups(scale: &Tensor, leading: &[u64], columns: u64, shares: &[Share]) -> Result<Groups> {
    let found = shown(scale, leading, columns, shares)?;
    let rows: u64 = leading.iter().product();
    let is_said = |share: &Share| match (*share, found) {
        (Share::Tensor, Groups::All) => true,
        (Share::Tensor, Groups::Rows { across, .. }) => rows == 1 && across == 1,
        (Share::Row, Groups::Rows { across, .. }) => across == 1,
        (Share::Group(size), Groups::Rows { across, .. }) => columns.div_ceil(size) == across,
        _ => false,
    };
    if shares.is_empty() || shares.iter().any(is_said) {
        return Ok(found);
    }
    let said: Vec<String> = shares.iter().map(Share::to_string).collect();
    Err(Error::Unsupported(format!(
        "{}: tensor \"{}\" is {:?} {:?}, for {columns} columns in rows {leading:?}; config.json's weights.strategy is {}, \
         which has scales of another shape",
        scale.shard,
        scale.name,
        scale.dtype,
        scale.shape,
        said.join(" or ")
    )))
}

/// The groups that the shape shows.
fn shown(scale: &Tensor, leading: &[u64], columns: u64, shares: &[Share]) -> Result<Groups> {
    let size = |share: &Share| if let Share::Group(size) = share { Some(*size) } else { None };
    let sizes: Vec<u64> = shares.iter().filter_map(size).collect();
    if !is_factor(scale.dtype) {
        return fault(
            scale,
            format!("is {:?}; scales are F32, BF16, F16, F8_E4M3, F8_E8M0 or U8", scale.dtype),
        );
    }
    let rows: u64 = leading.iter().product();
    let count = scale.shape.iter().product::<u64>();
    if count == 1 && rows != 1 {
        return Ok(Groups::All);
    }
    let fits = scale.shape == *leading
        || (scale.shape.len() == leading.len() + 1 && scale.shape[..leading.len()] == *leading);
    let across = count / rows.max(1);
    if fits && across == 1 {
        return Ok(Groups::Rows { size: columns, across: 1 });
    }
    let of_size = sizes.iter().copied().find(|&size| size > 0 && columns.div_ceil(size) == across);
    let even =
        (sizes.is_empty() && across > 0 && columns.is_multiple_of(across)).then(|| columns / across.max(1));
    match of_size.or(even).filter(|_| fits) {
        Some(size) => Ok(Groups::Rows { size, across }),
        None => {
            let expected = match &sizes[..] {
                [] => format!("{leading:?} rows of scales"),
                sizes => format!("scales for groups of {sizes:?} of {columns} columns, in rows {leading:?}"),
            };
            fault(scale, format!("is {:?} {:?}; expected {expected}", scale.dtype, scale.shape))
        }
    }
}

fn zero_points(zeros: &Tensor, packing: Packing, rows: u64, across: u64, groups: Groups) -> Result<ZerosAt> {
    let count = if groups == Groups::All { 1 } else { rows * across };
    if zeros.dtype == Dtype::I8 && zeros.shape.iter().product::<u64>() == count {
        // Around zero, where codes count from the middle.
        let middle = match packing {
            Packing::Dense(bits) | Packing::Loose(bits) => 1 << (bits - 1),
            _ => 128,
        };
        return Ok(ZerosAt::Bytes(zeros.name.clone(), middle));
    }
    let length = if groups == Groups::All { 1 } else { rows };
    let found = [packing.bytes(length).div_ceil(4), across];
    let shape = match &zeros.shape[..] {
        [words, groups] => [*words, *groups],
        [words] if across == 1 => [*words, 1],
        _ => [0, 0],
    };
    if zeros.dtype != Dtype::I32 || shape != found {
        let problem =
            format!("is {:?} {:?}; expected I32 {found:?}, packed along the rows", zeros.dtype, zeros.shape);
        return Err(Error::tensor(&zeros.shard, &zeros.name, problem));
    }
    Ok(ZerosAt::Down(zeros.name.clone(), packing))
}
