//! GPTQ's and AWQ's integers, in words that run along the other axis ([`across`](super::across)).
//!
//! ```text
//! GPTQ  X.qweight I32 [in bits / 32, out]     AWQ  X.qweight I32 [in, out / 8]
//!       X.qzeros  I32 [groups, out bits / 32]      X.qzeros  I32 [groups, out / 8]
//!       X.scales      [groups, out]                X.scales      [groups, out]
//!       X.g_idx   I32 [in]
//!
//! weight = (code - zero) * scale              GPTQ's first version stores zero - 1
//! ```

use super::across::Across;
use super::companions::{self as names, sibling};
use super::declared::AcrossKind;
use super::factors::is_factor;
use super::gather::{Found, Shelf, fault};
use super::packed::{FactorsAt, Groups, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};

/// The weight `name` of these words.
///
/// # Errors
/// If tensors beside them are missing or misshapen, or nothing declares which of the two they are.
pub fn found(shelf: &Shelf, codes: &Tensor, name: &str) -> Result<Found> {
    let Some(said) = &shelf.said.across else {
        return Err(Error::Unsupported(format!(
            "{}: tensor \"{}\" shows that weights are stored as GPTQ's or AWQ's integers; config.json does not say which",
            codes.shard, codes.name
        )));
    };
    let part = |part| sibling(&codes.name, names::QWEIGHT, part).expect("it ends so");
    let scale = shelf.need(codes, &part(names::MODULE_SCALES), "scales")?;
    let zeros = shelf.need(codes, &part(names::QZEROS), "zero points")?;
    let (Dtype::I32, &[words, across]) = (codes.dtype, &codes.shape[..]) else {
        return fault(codes, format!("is {:?} {:?}; expected a matrix of I32", codes.dtype, codes.shape));
    };
    let order = shelf.tensors.get(&part(names::MODULE_G_IDX));
    if said.ordered && order.is_none() {
        shelf.need(codes, &part(names::MODULE_G_IDX), "groups of the columns (desc_act is true)")?;
    }
    let (layout, columns, rows) = match said.kind {
        AcrossKind::Awq => (Across::Nibbles, words, across * 8),
        AcrossKind::Gptq { bits, .. } => {
            let columns = words * 32 / u64::from(bits);
            if !(words * 32).is_multiple_of(u64::from(bits)) {
                let problem = format!("has {words} words along a row; codes of {bits} bits do not fill them");
                return fault(codes, problem);
            }
            (Across::Words(bits), columns, across)
        }
    };
    let size = said.group.unwrap_or(columns).min(columns.max(1));
    let groups = columns.div_ceil(size.max(1));
    if !is_factor(scale.dtype) || scale.shape != [groups, rows] {
        let problem = format!(
            "is {:?} {:?}; expected F16 {:?}, a scale for each {size} of {columns} weights",
            scale.dtype,
            scale.shape,
            [groups, rows]
        );
        return fault(scale, problem);
    }
    let along = match layout {
        Across::Words(bits) => (rows * u64::from(bits)).div_ceil(32),
        Across::Nibbles => rows / 8,
    };
    if zeros.dtype != Dtype::I32 || zeros.shape != [groups, along] {
        let problem = format!("is {:?} {:?}; expected I32 {:?}", zeros.dtype, zeros.shape, [groups, along]);
        return fault(zeros, problem);
    }
    let more = if let AcrossKind::Gptq { first: true, .. } = said.kind { 1.0 } else { 0.0 };
    let mut companions = vec![scale.name.clone(), zeros.name.clone()];
    companions.extend(order.map(|tensor| tensor.name.clone()));
    let order = match (layout, order) {
        (Across::Nibbles, Some(tensor)) => {
            return fault(tensor, "is GPTQ's, but config.json declares awq".to_owned());
        }
        (_, order) => order.map(|tensor| tensor.name.clone()),
    };
    if let Some(tensor) = order.as_ref().map(|name| &shelf.tensors[name])
        && (tensor.dtype != Dtype::I32 || tensor.shape != [columns])
    {
        let problem = format!("is {:?} {:?}; expected I32 {:?}", tensor.dtype, tensor.shape, [columns]);
        return fault(tensor, problem);
    }
    let packed = Packed {
        format: if layout == Across::Nibbles { "AWQ" } else { "GPTQ" },
        layout: Layout::Across(layout),
        meaning: Meaning::Integer,
        groups: Groups::Rows { size, across: groups },
        factors: FactorsAt::Across(scale.name.clone()),
        zeros: ZerosAt::Across(zeros.name.clone(), more),
        order,
        shape: None,
    };
    let tensor = Tensor { name: name.to_owned(), shape: vec![rows, columns], ..codes.clone() };
    Ok(Found { tensor, packed, companions })
}
