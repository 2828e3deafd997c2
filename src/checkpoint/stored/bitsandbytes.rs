//! bitsandbytes' 4 bits (NF4 and FP4, whose values are stored beside them) and 8 bits.
//!
//! ```text
//! 4  X.weight                 nibbles of all weights, the high one first, in numbers of any dtype
//!    X.weight.quant_map       F32 [16]
//!    X.weight.absmax          F32, one for each block of the whole tensor; or U8, codes in nested_quant_map F32 [256]
//!    X.weight.nested_absmax   F32, one for each 256 of these
//!    X.weight.quant_state.*   JSON: shape, blocksize, nested_offset and so on
//!    weight = quant_map[code] * absmax      absmax = nested_quant_map[code] * nested_absmax + nested_offset
//! 8  X.weight I8 [out, in], X.SCB F32 [out], X.weight_format U8 = 0
//!    weight = code * SCB * (1 / 127)
//! ```

use super::codes::Packing;
use super::companions::{self as names, sibling};
use super::gather::{Found, Shelf, fault};
use super::packed::{FactorsAt, Groups, Layout, Meaning, Packed, ZerosAt};
use crate::checkpoint::{Config, Dtype, Tensor};
use crate::error::{Error, Result};

/// bitsandbytes' 1 / 127.
const OVER_127: f32 = 7.874_016e-3;

/// The weight of these nibbles.
///
/// # Errors
/// If tensors beside them are missing or misshapen, or contradict what the JSON says.
pub fn four_bits(shelf: &Shelf, codes: &Tensor) -> Result<Found> {
    let part = |part: &str| format!("{}{part}", codes.name);
    let state = names::BNB_STATES.iter().find_map(|state| shelf.tensors.get(&part(state)));
    let Some(state) = state else {
        return shelf
            .need(codes, &part(names::BNB_STATES[0]), "shape and block size")
            .map(|_| unreachable!());
    };
    let absmax = shelf.need(codes, &part(names::ABSMAX), "factors")?;
    let table = shelf.need(codes, &part(names::QUANT_MAP), "table of values")?;
    let said = Config::parse_as(&state.shard, &shelf.read(state)?)
        .map_err(|_| Error::tensor(&state.shard, &state.name, "holds no JSON object"))?;
    let kind: String = said.get("quant_type")?;
    if !state.name.ends_with(&kind) {
        return fault(state, format!("says quant_type \"{kind}\""));
    }
    let shape: Vec<u64> = said.get("shape")?;
    let size = u64::from(said.count("blocksize", 1 << 20)?);
    let weights = shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size)).unwrap_or(0);
    if weights == 0 || weights.div_ceil(2) != codes.bytes {
        let problem =
            format!("says that the shape is {shape:?}, but \"{}\" has {} bytes", codes.name, codes.bytes);
        return fault(state, problem);
    }
    let blocks = weights.div_ceil(size);
    if absmax.shape.iter().product::<u64>() != blocks {
        let problem = format!(
            "is {:?} {:?}; expected {blocks}, one for each {size} weights",
            absmax.dtype, absmax.shape
        );
        return fault(absmax, problem);
    }
    let mut companions = vec![state.name.clone(), absmax.name.clone(), table.name.clone()];
    let nested = [names::NESTED_QUANT_MAP, names::NESTED_ABSMAX].map(part);
    let factors = match absmax.dtype {
        Dtype::U8 => {
            for name in &nested {
                companions.push(shelf.need(codes, name, "factors of the factors")?.name.clone());
            }
            let [table, factors] = nested;
            FactorsAt::Nested {
                codes: absmax.name.clone(),
                table,
                factors,
                size: said.count("nested_blocksize", 1 << 20)?.into(),
                offset: said.get("nested_offset")?,
            }
        }
        Dtype::F32 => {
            if let Some(tensor) = nested.iter().find_map(|name| shelf.tensors.get(name)) {
                return fault(tensor, format!("is for codes, but \"{}\" is F32", absmax.name));
            }
            FactorsAt::Rows(absmax.name.clone())
        }
        other => return fault(absmax, format!("is {other:?}; expected F32 or U8")),
    };
    let packed = Packed {
        format: "bitsandbytes' 4 bits",
        layout: Layout::Flat,
        meaning: Meaning::Listed(table.name.clone()),
        groups: Groups::Flat(size),
        factors,
        zeros: ZerosAt::All(0.0),
        order: None,
        shape: None,
    };
    // Whatever the numbers are that carry the bytes.
    Ok(Found { tensor: Tensor { shape, dtype: Dtype::U8, ..codes.clone() }, packed, companions })
}

/// The weight of these bytes.
///
/// # Errors
/// If the factors are misshapen, or the bytes lie in another order.
pub fn eight_bits(shelf: &Shelf, codes: &Tensor) -> Result<Found> {
    let name = sibling(&codes.name, names::WEIGHT, names::SCB).expect("a weight");
    let scale = shelf.need(codes, &name, "factors")?;
    let (Dtype::I8, &[rows, columns]) = (codes.dtype, &codes.shape[..]) else {
        return fault(codes, format!("is {:?} {:?}; expected a matrix of I8", codes.dtype, codes.shape));
    };
    if scale.dtype != Dtype::F32 || scale.shape != [rows] {
        return fault(scale, format!("is {:?} {:?}; expected F32 [{rows}]", scale.dtype, scale.shape));
    }
    let mut companions = vec![name.clone()];
    let format = format!("{}{}", codes.name, names::FORMAT);
    if let Some(tensor) = shelf.tensors.get(&format) {
        let found = shelf.read(tensor)?;
        if found.first() != Some(&0) || found.iter().any(|&byte| byte != 0) {
            return Err(Error::Unsupported(format!(
                "{}: tensor \"{format}\" says that the bytes lie in another order than row after row ({found:?}), which \
                 cannot be read",
                tensor.shard
            )));
        }
        companions.push(format);
    }
    let packed = Packed {
        format: "bitsandbytes' 8 bits",
        layout: Layout::Rows(Packing::Signed),
        meaning: Meaning::Integer,
        groups: Groups::Rows { size: columns, across: 1 },
        factors: FactorsAt::Then(name, OVER_127),
        zeros: ZerosAt::All(128.0),
        order: None,
        shape: None,
    };
    Ok(Found { tensor: codes.clone(), packed, companions })
}
