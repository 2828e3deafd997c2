//! BitNet's codes of two bits: -1, 0 and 1 as 0, 1 and 2, and one scale for the tensor ([`quarters`](super::quarters)).

use super::gather::{Found, Shelf, fault};
use super::packed::{FactorsAt, Groups, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::Result;

/// The weight of these bytes.
///
/// # Errors
/// If they are no matrix, or the scale is no number.
pub fn found(shelf: &Shelf, codes: &Tensor, scale: &str) -> Result<Found> {
    let scale = shelf.need(codes, scale, "scale")?;
    let &[quarter, columns] = &codes.shape[..] else {
        return fault(codes, format!("is {:?} {:?}; expected a matrix of U8", codes.dtype, codes.shape));
    };
    let is_float = matches!(scale.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16);
    if !is_float || scale.shape.iter().product::<u64>() != 1 {
        return fault(scale, format!("is {:?} {:?}; expected one F32", scale.dtype, scale.shape));
    }
    let factors = match shelf.said.bitnet {
        Some(true) => FactorsAt::Inverse(scale.name.clone()),
        _ => FactorsAt::Rows(scale.name.clone()),
    };
    let packed = Packed {
        format: "BitNet",
        layout: Layout::Quarters,
        meaning: Meaning::Integer,
        groups: Groups::All,
        factors,
        zeros: ZerosAt::All(1.0),
        order: None,
        shape: None,
    };
    let companions = vec![scale.name.clone()];
    Ok(Found { tensor: Tensor { shape: vec![quarter * 4, columns], ..codes.clone() }, packed, companions })
}
