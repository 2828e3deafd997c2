//! The factors and zero points of groups of weights, as they are stored; a row's are turned to f32 when it is decoded.

use std::ops::Range;

use crate::checkpoint::{Checkpoint, Dtype, Tensor, decode};
use crate::error::{Error, Result};

/// Numbers of one dtype, still in their bytes.
#[derive(Debug)]
pub struct Factors {
    dtype: Dtype,
    bytes: Vec<u8>,
    /// One number that all of them are multiplied or divided by.
    by: By,
}

/// What is done to every factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum By {
    Nothing,
    Times(f32),
    Over(f32),
    /// They are divisors themselves.
    Inverse,
}

/// The dtypes that factors may have.
pub fn is_factor(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8_E8M0 | Dtype::U8 | Dtype::F8_E4M3)
}

impl Factors {
    /// Reads a tensor of factors, of which a row has `across`, for messages.
    ///
    /// # Errors
    /// If it cannot be read, or holds what is not finite.
    pub fn read(checkpoint: &Checkpoint, tensor: &Tensor, by: By, across: u64) -> Result<Self> {
        let bytes = whole(checkpoint, tensor)?;
        Self::checked(tensor, tensor.dtype, bytes, by, across)
    }

    /// Factors that were put into the order of the rows.
    pub fn checked(tensor: &Tensor, dtype: Dtype, bytes: Vec<u8>, by: By, across: u64) -> Result<Self> {
        let found = Self { dtype, bytes, by };
        let (count, mut numbers) = (found.len(), [0.0; 1024]);
        for start in (0..count).step_by(numbers.len()) {
            let part = start..count.min(start + numbers.len());
            let numbers = &mut numbers[..part.len()];
            found.fill(part, numbers);
            if let Some(index) = numbers.iter().position(|x| !x.is_finite()) {
                let place = (start + index) as u64;
                let problem = format!(
                    "holds {} at row {}, column {}; scales are finite",
                    numbers[index],
                    place / across.max(1),
                    place % across.max(1)
                );
                return Err(Error::tensor(&tensor.shard, &tensor.name, problem));
            }
        }
        Ok(found)
    }

    /// Factors that are computed.
    pub fn of(numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, bytes, by: By::Nothing }
    }

    fn size(&self) -> usize {
        match self.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => 1,
        }
    }

    fn len(&self) -> usize {
        self.bytes.len() / self.size()
    }

    /// The factors of a range of places.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        let bytes = &self.bytes[range.start * self.size()..range.end * self.size()];
        match self.dtype {
            Dtype::U8 | Dtype::F8_E8M0 => {
                out.iter_mut().zip(bytes).for_each(|(factor, &code)| *factor = power(code));
            }
            dtype => assert!(decode::decode(dtype, bytes, out), "`is_factor` lets only known dtypes through"),
        }
        match self.by {
            By::Nothing => {}
            By::Times(by) => out.iter_mut().for_each(|x| *x *= by),
            By::Over(by) => out.iter_mut().for_each(|x| *x /= by),
            By::Inverse => out.iter_mut().for_each(|x| *x = 1.0 / *x),
        }
    }

    /// The codes of E4M3 numbers, if that is what the factors are, before they are multiplied.
    pub fn e4m3(&self) -> Option<&[u8]> {
        (self.dtype == Dtype::F8_E4M3).then_some(&self.bytes)
    }

    /// The codes of powers of two, if that is what the factors are.
    pub fn powers(&self) -> Option<&[u8]> {
        let is_power = matches!(self.dtype, Dtype::U8 | Dtype::F8_E8M0) && self.by == By::Nothing;
        is_power.then_some(&self.bytes)
    }
}

/// The bytes of a tensor that is small beside the weights.
///
/// # Errors
/// If they cannot be read.
pub fn whole(checkpoint: &Checkpoint, tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.bytes as usize];
    checkpoint.read_at(tensor, 0, &mut bytes)?;
    Ok(bytes)
}

/// A tensor of F32 numbers.
///
/// # Errors
/// If it is not there, of another dtype or size, or holds what is not finite.
pub fn numbers(checkpoint: &Checkpoint, name: &str, count: Option<u64>) -> Result<Vec<f32>> {
    let tensor = checkpoint.tensor(name)?;
    let length = tensor.shape.iter().product::<u64>();
    let is_float = matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    if !is_float || count.is_some_and(|count| count != length) {
        let expected = count.map_or(String::new(), |count| format!(" with {count} numbers"));
        let problem = format!("is {:?} {:?}; expected F32{expected}", tensor.dtype, tensor.shape);
        return Err(Error::tensor(&tensor.shard, &tensor.name, problem));
    }
    let mut out = vec![0.0; length as usize];
    assert!(decode::decode(tensor.dtype, &whole(checkpoint, tensor)?, &mut out), "a known dtype");
    match out.iter().position(|x| !x.is_finite()) {
        Some(index) => {
            let problem = format!("holds {} at place {index}; expected finite numbers", out[index]);
            Err(Error::tensor(&tensor.shard, &tensor.name, problem))
        }
        None => Ok(out),
    }
}

/// The codes that groups count from.
#[derive(Debug)]
pub enum Zeros {
    /// One for all.
    All(f32),
    /// One for each group, and what is added to them.
    Each(Vec<u8>, f32),
}

impl Zeros {
    /// The zero points of a range of places.
    pub fn fill(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::All(zero) => out.fill(*zero),
            Self::Each(zeros, more) => {
                out.iter_mut().zip(&zeros[range]).for_each(|(out, &zero)| *out = f32::from(zero) + more);
            }
        }
    }
}

/// E8M0: two to the power of the code less 127, 0xff for NaN.
pub fn power(code: u8) -> f32 {
    match code {
        // A subnormal of f32: the code is the exponent's bits for all others.
        0 => f32::from_bits(1 << 22),
        0xff => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_e8m0_are_powers_of_two() {
        for code in 0..0xffu8 {
            assert_eq!(f64::from(power(code)), 2f64.powi(i32::from(code) - 127), "{code}");
        }
        assert!(power(0xff).is_nan());
    }
}
