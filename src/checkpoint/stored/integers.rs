//! Integers of 8 bits as they are (compressed-tensors' int-quantized and naive-quantized): `weight = (code - zero) *
//! scale`, with a scale for the tensor, a row or a group of columns, and perhaps zero points.

use super::codes::Packing;
use super::companions as names;
use super::compressed::groups;
use super::declared::Share;
use super::gather::{Found, Shelf, fault};
use super::packed::{FactorsAt, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::Result;

/// The weight of these bytes.
///
/// # Errors
/// If the scales or zero points do not fit it.
pub fn found(shelf: &Shelf, codes: &Tensor, scale: &str) -> Result<Found> {
    let scale = shelf.need(codes, scale, "scales")?;
    let leading = &codes.shape[..codes.shape.len().saturating_sub(1)];
    let shares: Vec<Share> = shelf.said.integers.iter().map(|said| said.share).collect();
    let groups = groups(scale, leading, codes.columns(), &shares)?;
    let mut companions = vec![scale.name.clone()];
    let said = &shelf.said.integers;
    let name = format!("{}{}", codes.name, names::ZERO_POINT);
    let zeros = match shelf.tensors.get(&name) {
        Some(zeros) => {
            if zeros.dtype != Dtype::I8
                || zeros.shape.iter().product::<u64>() != scale.shape.iter().product::<u64>()
            {
                let problem = format!(
                    "is {:?} {:?}; expected I8 {:?}, as the scales are",
                    zeros.dtype, zeros.shape, scale.shape
                );
                return fault(zeros, problem);
            }
            companions.push(name.clone());
            ZerosAt::Bytes(name, 128)
        }
        None if !said.is_empty() && said.iter().all(|said| !said.symmetric) => {
            shelf.need(codes, &name, "zero points (symmetric is false)")?;
            unreachable!("they are not there")
        }
        None => ZerosAt::All(128.0),
    };
    let packed = Packed {
        format: "integers of 8 bits",
        layout: Layout::Rows(Packing::Signed),
        meaning: Meaning::Integer,
        groups,
        factors: FactorsAt::Rows(scale.name.clone()),
        zeros,
        order: None,
        shape: None,
    };
    Ok(Found { tensor: codes.clone(), packed, companions })
}
