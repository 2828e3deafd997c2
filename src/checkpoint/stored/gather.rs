//! Puts weights together that are stored in several tensors: each becomes one entry of the list of tensors, with the
//! name and the shape that the model knows it by. What is stored how is seen from the tensors; the declaration only says
//! what they do not show.

use std::collections::{HashMap, HashSet};

use super::companions::{self as names, sibling};
use super::declared::{Kind, Said};
use super::packed::Packed;
use super::{bitnet, bitsandbytes, compressed, gptq, integers, small_floats};
use crate::checkpoint::{Dtype, Source, Tensor, by_name};
use crate::error::{Error, Result};

/// The weights that were put together, by name.
#[derive(Debug, Default)]
pub struct Gathered {
    pub packed: HashMap<String, Packed>,
    /// The tensors beside their codes.
    pub companions: HashSet<String>,
}

/// A weight that was put together.
pub struct Found {
    /// Name and shape that the model knows; the rest is that of the codes.
    pub tensor: Tensor,
    pub packed: Packed,
    /// The tensors beside the codes.
    pub companions: Vec<String>,
}

/// All tensors of a checkpoint, and what may be read of small ones.
pub struct Shelf<'a> {
    pub said: &'a Said,
    pub source: &'a dyn Source,
    pub tensors: &'a HashMap<String, Tensor>,
    pub listing: &'a str,
}

impl<'a> Shelf<'a> {
    /// A tensor that must be there beside the codes.
    ///
    /// # Errors
    /// If it is not.
    pub fn need(&self, codes: &Tensor, name: &str, what: &str) -> Result<&'a Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            let problem = format!("needs its {what} \"{name}\"; {} does not name it", self.listing);
            Error::tensor(&codes.shard, &codes.name, problem)
        })
    }

    /// The bytes of a small tensor.
    ///
    /// # Errors
    /// If they cannot be read, or are more than a few.
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        const MOST: u64 = 1 << 20;
        if tensor.bytes > MOST {
            let problem = format!("has {} bytes; expected a few", tensor.bytes);
            return Err(Error::tensor(&tensor.shard, &tensor.name, problem));
        }
        let mut bytes = vec![0; tensor.bytes as usize];
        let read = self.source.read_at(&tensor.shard, tensor.offset, &mut bytes);
        read.map_err(|e| Error::io("read", self.source.path(&tensor.shard), e))?;
        Ok(bytes)
    }
}

/// An error about a tensor.
pub fn fault<T>(tensor: &Tensor, problem: String) -> Result<T> {
    Err(Error::tensor(&tensor.shard, &tensor.name, problem))
}

/// Finds them all and puts them in place of their codes.
///
/// # Errors
/// If tensors are missing beside codes, contradict each other, or do not say enough.
pub fn gather(
    said: &Said,
    source: &dyn Source,
    listing: &str,
    tensors: &mut HashMap<String, Tensor>,
) -> Result<Gathered> {
    let mut found: Vec<(String, Found)>;
    {
        let shelf = Shelf { said, source, tensors, listing };
        let mut forms = compressed::Forms::default();
        // By name, so that messages do not depend on the order of a hash map.
        let mut order: Vec<&Tensor> = tensors.values().filter(|tensor| may_be_codes(tensor)).collect();
        by_name(&mut order);
        found = Vec::with_capacity(order.len());
        for tensor in order {
            if let Some(weight) = recognised(&shelf, &mut forms, tensor)? {
                found.push((tensor.name.clone(), weight));
            }
        }
    }
    let mut gathered = Gathered::default();
    gathered.packed.reserve(found.len());
    gathered.companions.reserve(found.iter().map(|(_, found)| found.companions.len()).sum());
    for (codes, Found { tensor, packed, companions }) in found {
        tensors.remove(&codes);
        if tensors.contains_key(&tensor.name) {
            return fault(&tensor, format!("is there, and so is \"{codes}\", its packed form"));
        }
        gathered.companions.extend(companions);
        gathered.packed.insert(tensor.name.clone(), packed);
        tensors.insert(tensor.name.clone(), tensor);
    }
    Ok(gathered)
}

fn may_be_codes(tensor: &Tensor) -> bool {
    // A third of the tensors of a model in packed integers are these.
    if tensor.name.ends_with(names::SHAPE) {
        return false;
    }
    let usual = matches!(tensor.dtype, Dtype::U8 | Dtype::I8 | Dtype::I32 | Dtype::F4 | Dtype::F6_E2M3);
    // bitsandbytes may keep its bytes as other numbers.
    usual || (matches!(tensor.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32) && names::is_weight(&tensor.name))
}

/// The weight that a tensor holds the codes of.
fn recognised(shelf: &Shelf, forms: &mut compressed::Forms, tensor: &Tensor) -> Result<Option<Found>> {
    let has = |name: &str| shelf.tensors.contains_key(name);
    let name = &tensor.name;
    let packed = name.strip_suffix(names::PACKED);
    if packed.is_none() && names::BNB.iter().any(|part| has(&format!("{name}{part}"))) {
        return bitsandbytes::four_bits(shelf, tensor).map(Some);
    }
    if matches!(tensor.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32) {
        return Ok(None);
    }
    if let Some(base) = packed {
        return match tensor.dtype {
            Dtype::I32 => compressed::integers(shelf, forms, tensor, base).map(Some),
            _ => small_floats::packed(shelf, tensor, base).map(Some),
        };
    }
    if let Some(base) = name.strip_suffix(names::BLOCKS) {
        return small_floats::blocks(shelf, tensor, base).map(Some);
    }
    if let Some(weight) = sibling(name, names::QWEIGHT, names::WEIGHT) {
        return gptq::found(shelf, tensor, &weight).map(Some);
    }
    if !names::is_weight(name) && !has(&format!("{name}{}", names::SCALE)) {
        return Ok(None);
    }
    if sibling(name, names::WEIGHT, names::SCB).is_some_and(|name| has(&name)) {
        return bitsandbytes::eight_bits(shelf, tensor).map(Some);
    }
    if has(&format!("{name}{}", names::SCALE_2)) {
        shelf.need(tensor, &format!("{name}{}", names::SCALE), "scales")?;
    }
    let Some(scale) = names::scale_of(shelf.tensors, name) else { return Ok(None) };
    match (tensor.dtype, shelf.tensors[&scale].dtype) {
        (Dtype::I32, _) => Ok(None),
        (Dtype::F6_E2M3, _) | (_, Dtype::U8 | Dtype::F8_E8M0 | Dtype::F8_E4M3) => {
            small_floats::beside(shelf, tensor, &scale).map(Some)
        }
        (Dtype::I8, _) if !shelf.said.kinds.is_empty() && !shelf.said.kinds.contains(&Kind::Integers) => {
            let problem = "is I8; config.json declares floats, and no integers";
            Err(Error::tensor(&tensor.shard, name, problem))
        }
        (Dtype::I8, _) => integers::found(shelf, tensor, &scale).map(Some),
        (Dtype::U8, _) if shelf.said.bitnet.is_some() => bitnet::found(shelf, tensor, &scale).map(Some),
        _ => Ok(None),
    }
}
