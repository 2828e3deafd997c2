//! Floats of 4 and 6 bits with a scale for each 16 or 32 of a row: MXFP4 and MXFP6 (scales are powers of two) and NVFP4
//! (scales are E4M3, and one number more is for all).
//!
//! ```text
//! MXFP4  X_packed U8 [out, in / 2], X_scale U8 [out, in / 32]              compressed-tensors
//!        X.weight I8 or U8 [out, in / 2], X.scale or X.weight_scale        DeepSeek-V4, MiMo
//!        X_blocks U8 [.., out, in / 32, 16], X_scales U8 [.., out, in / 32]  gpt-oss
//! MXFP6  X_packed U8 [out, 3 in / 4], X_scale U8 [out, in / 32]            compressed-tensors, E2M3
//! NVFP4  X_packed U8 [out, in / 2], X_scale F8_E4M3 [out, in / 16], X_global_scale: factor = scale / global
//!        X.weight U8 [out, in / 2], X.weight_scale F8_E4M3, X.weight_scale_2: factor = scale * scale_2
//!
//! weight = float * factor        the low bits of a byte come first
//! ```

use super::codes::Packing;
use super::companions as names;
use super::gather::{Found, Shelf, fault};
use super::packed::{FactorsAt, Groups, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::Result;

/// The weight of compressed-tensors' bytes.
///
/// # Errors
/// If its scales are missing or misshapen.
pub fn packed(shelf: &Shelf, codes: &Tensor, base: &str) -> Result<Found> {
    let scale = shelf.need(codes, &format!("{base}{}", names::SCALE), "scales")?;
    found(shelf, codes, base, scale)
}

/// A weight under its own name.
///
/// # Errors
/// If its scales are misshapen.
pub fn beside(shelf: &Shelf, codes: &Tensor, scale: &str) -> Result<Found> {
    found(shelf, codes, &codes.name, shelf.need(codes, scale, "scales")?)
}

/// gpt-oss's blocks.
///
/// # Errors
/// If the scales are missing or misshapen.
pub fn blocks(shelf: &Shelf, codes: &Tensor, base: &str) -> Result<Found> {
    let scale = shelf.need(codes, &format!("{base}{}", names::SCALES), "scales")?;
    let [leading @ .., groups, 16] = &codes.shape[..] else {
        return fault(codes, format!("is {:?} {:?}; expected blocks of 16 bytes", codes.dtype, codes.shape));
    };
    if codes.dtype != Dtype::U8 || !is_power(scale) || scale.shape != [leading, &[*groups]].concat() {
        let problem = format!(
            "is {:?} {:?}, and \"{}\" {:?} {:?}; expected U8 blocks of 16 bytes and a U8 scale for each",
            codes.dtype, codes.shape, scale.name, scale.dtype, scale.shape
        );
        return fault(codes, problem);
    }
    let shape = [leading, &[groups * 32]].concat();
    let groups = Groups::Rows { size: 32, across: *groups };
    Ok(whole(
        "MXFP4",
        codes,
        base,
        shape,
        Meaning::E2M1,
        groups,
        FactorsAt::Rows(scale.name.clone()),
        vec![scale.name.clone()],
    ))
}

fn is_power(scale: &Tensor) -> bool {
    matches!(scale.dtype, Dtype::U8 | Dtype::F8_E8M0)
}

fn found(shelf: &Shelf, codes: &Tensor, base: &str, scale: &Tensor) -> Result<Found> {
    let leading = &codes.shape[..codes.shape.len().saturating_sub(1)];
    let across = scale.columns();
    let of_rows = scale.shape.len() == codes.shape.len() && scale.shape[..leading.len()] == *leading;
    // Columns, if floats have so many bits; the types of safetensors say it themselves.
    let columns = |bits: u64| match codes.dtype {
        Dtype::F4 => (bits == 4).then_some(codes.columns()),
        Dtype::F6_E2M3 => (bits == 6).then_some(codes.columns()),
        _ => (codes.columns() * 8).is_multiple_of(bits).then_some(codes.columns() * 8 / bits),
    };
    let expected = |what: &str| {
        let problem = format!(
            "is {:?} {:?}; expected {what} of \"{}\", which is {:?} {:?}",
            scale.dtype, scale.shape, codes.name, codes.dtype, codes.shape
        );
        fault(scale, problem)
    };
    let part = |part: &str| {
        let name = format!("{base}{part}");
        shelf.tensors.contains_key(&name).then_some(name)
    };
    let (global, second) = (part(names::GLOBAL_SCALE), part(names::SCALE_2));
    if is_power(scale) {
        if let Some(name) = global.or(second) {
            let problem = format!("holds powers of two, which go without \"{name}\"");
            return fault(scale, problem);
        }
        let fits = |bits: u64| columns(bits).filter(|columns| of_rows && columns.div_ceil(32) == across);
        let (columns, meaning, format) = match (fits(4), fits(6)) {
            (Some(columns), _) => (columns, Meaning::E2M1, "MXFP4"),
            (None, Some(columns)) => (columns, Meaning::E2M3, "MXFP6"),
            (None, None) => return expected("a power of two for each 32 floats of 4 or 6 bits in a row"),
        };
        let groups = Groups::Rows { size: 32, across };
        let factors = FactorsAt::Rows(scale.name.clone());
        let shape = [leading, &[columns]].concat();
        return Ok(whole(format, codes, base, shape, meaning, groups, factors, vec![scale.name.clone()]));
    }
    let columns = columns(4).filter(|columns| of_rows && columns.div_ceil(16) == across);
    let (Some(columns), Dtype::F8_E4M3) = (columns, scale.dtype) else {
        return expected("U8 or F8_E8M0 (MXFP4), or an F8_E4M3 for each 16 floats (NVFP4)");
    };
    let (by, over) = match (global, second) {
        (Some(name), None) => (name, true),
        (None, Some(name)) => (name, false),
        (Some(first), Some(second)) => {
            return fault(codes, format!("has two scales for all, \"{first}\" and \"{second}\""));
        }
        (None, None) => {
            let problem = format!(
                "has scales of NVFP4, which need \"{base}{}\" or \"{base}{}\"; {} names neither",
                names::GLOBAL_SCALE,
                names::SCALE_2,
                shelf.listing
            );
            return fault(codes, problem);
        }
    };
    let companions = vec![scale.name.clone(), by.clone()];
    let factors = FactorsAt::Global { scale: scale.name.clone(), by, over };
    let groups = Groups::Rows { size: 16, across };
    let shape = [leading, &[columns]].concat();
    Ok(whole("NVFP4", codes, base, shape, Meaning::E2M1, groups, factors, companions))
}

#[allow(clippy::too_many_arguments, reason = "all that is different")]
fn whole(
    format: &'static str,
    codes: &Tensor,
    name: &str,
    shape: Vec<u64>,
    meaning: Meaning,
    groups: Groups,
    factors: FactorsAt,
    companions: Vec<String>,
) -> Found {
    let bits = if meaning == Meaning::E2M3 { 6 } else { 4 };
    let packed = Packed {
        format,
        layout: Layout::Rows(Packing::Dense(bits)),
        meaning,
        groups,
        factors,
        zeros: ZerosAt::All(0.0),
        order: None,
        shape: None,
    };
    Found { tensor: Tensor { name: name.to_owned(), shape, ..codes.clone() }, packed, companions }
}
