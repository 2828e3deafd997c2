//! How far encoded weights are from their source: sums of squared differences, from decoding what was just encoded.
//! Pure.

use std::ops::AddAssign;

use fearless_simd::{Level, dispatch};
use quant_kernels::Format;

/// Sums over weights; added up in the order of units, they do not depend on the number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Sum of squared differences.
    pub error: f64,
    /// Sum of squared weights.
    pub energy: f64,
    /// Sum of squared differences times importances.
    pub weighted_error: f64,
    /// Sum of squared weights times importances.
    pub weighted_energy: f64,
}

/// Sums are made in this many lanes, which the compiler keeps in vectors.
const LANES: usize = 16;

/// Weights that a lane adds up in f32 before it goes on in f64.
const RUN: usize = 16;

/// Larger importances count as this, so that no sum of 16 overflows.
pub const LARGEST_IMPORTANCE: f32 = 1e20;

impl Deviation {
    /// The sums for `blocks`, which encode `rows` of `columns` weights each. `row` is scratch for a decoded row.
    pub fn of(
        format: Format,
        rows: &[f32],
        columns: usize,
        importance: Option<&[f32]>,
        blocks: &[u8],
        row: &mut Vec<f32>,
    ) -> Self {
        if format == Format::F32 {
            return copied(rows, columns, importance, blocks);
        }
        row.resize(columns, 0.0);
        let level = Level::new();
        let bytes = format.row_bytes(columns as u64) as usize;
        let mut sum = Self::default();
        for (weights, blocks) in rows.chunks_exact(columns).zip(blocks.chunks_exact(bytes)) {
            quant_kernels::dequantize(format, blocks, row);
            match importance {
                None => {
                    let [error, energy] = dispatch!(level, _simd => plain(weights, row));
                    sum += Self { error, energy, weighted_error: error, weighted_energy: energy };
                }
                Some(w) => sum += dispatch!(level, _simd => weighted(weights, row, w)),
            }
        }
        sum
    }

    /// Squared error relative to the squared weights; 0 for weights that are all zero and came back so.
    pub fn relative(&self) -> f64 {
        ratio(self.error, self.energy)
    }

    /// The same, weighted by the importances.
    pub fn weighted(&self) -> f64 {
        ratio(self.weighted_error, self.weighted_energy)
    }

    /// Whether all decoded weights were numbers.
    pub fn is_finite(&self) -> bool {
        self.error.is_finite() && self.weighted_error.is_finite()
    }

    /// The four sums, little-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let sums = [self.error, self.energy, self.weighted_error, self.weighted_energy];
        bytes.as_chunks_mut::<8>().0.iter_mut().zip(sums).for_each(|(bytes, sum)| *bytes = sum.to_le_bytes());
        bytes
    }

    /// Back from [`to_bytes`](Self::to_bytes).
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let sum = |index: usize| f64::from_le_bytes(bytes.as_chunks::<8>().0[index]);
        Self { error: sum(0), energy: sum(1), weighted_error: sum(2), weighted_energy: sum(3) }
    }
}

impl AddAssign for Deviation {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.energy += other.energy;
        self.weighted_error += other.weighted_error;
        self.weighted_energy += other.weighted_energy;
    }
}

/// Of weights that are copied as they are: what is no number (a router's bias of minus infinity) differs only from
/// others.
fn copied(rows: &[f32], columns: usize, importance: Option<&[f32]>, copies: &[u8]) -> Deviation {
    let mut sum = Deviation::default();
    for (index, (&x, &y)) in rows.iter().zip(copies.as_chunks().0).enumerate() {
        let (y, w) = (f32::from_le_bytes(y), importance.map_or(1.0, |w| w[index % columns]));
        let difference = if x == y { 0.0 } else { f64::from(x - y) };
        let energy = if x.is_finite() { f64::from(x) * f64::from(x) } else { 0.0 };
        let w = f64::from(w.min(LARGEST_IMPORTANCE));
        sum.error += difference * difference;
        sum.energy += energy;
        sum.weighted_error += difference * difference * w;
        sum.weighted_energy += energy * w;
    }
    sum
}

fn ratio(error: f64, energy: f64) -> f64 {
    if energy > 0.0 { error / energy } else { error }
}

#[inline(always)]
fn plain(x: &[f32], y: &[f32]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (x, y) in x.chunks(LANES * RUN).zip(y.chunks(LANES * RUN)) {
        let (xs, x_rest) = x.as_chunks::<LANES>();
        let (ys, y_rest) = y.as_chunks::<LANES>();
        let mut lanes = [[0f32; LANES]; 2];
        for (x, y) in xs.iter().zip(ys) {
            for i in 0..LANES {
                let difference = x[i] - y[i];
                lanes[0][i] += difference * difference;
                lanes[1][i] += x[i] * x[i];
            }
        }
        for (x, y) in x_rest.iter().zip(y_rest) {
            lanes[0][0] += (x - y) * (x - y);
            lanes[1][0] += x * x;
        }
        add(&mut sums, &lanes);
    }
    sums
}

#[inline(always)]
fn weighted(x: &[f32], y: &[f32], w: &[f32]) -> Deviation {
    let mut sums = [0.0; 4];
    let runs = x.chunks(LANES * RUN).zip(y.chunks(LANES * RUN)).zip(w.chunks(LANES * RUN));
    for ((x, y), w) in runs {
        let (xs, x_rest) = x.as_chunks::<LANES>();
        let (ys, y_rest) = y.as_chunks::<LANES>();
        let (ws, w_rest) = w.as_chunks::<LANES>();
        let mut lanes = [[0f32; LANES]; 4];
        for ((x, y), w) in xs.iter().zip(ys).zip(ws) {
            for i in 0..LANES {
                let difference = x[i] - y[i];
                let (error, energy) = (difference * difference, x[i] * x[i]);
                lanes[0][i] += error;
                lanes[1][i] += energy;
                let w = w[i].min(LARGEST_IMPORTANCE);
                lanes[2][i] += error * w;
                lanes[3][i] += energy * w;
            }
        }
        for ((x, y), w) in x_rest.iter().zip(y_rest).zip(w_rest) {
            let w = w.min(LARGEST_IMPORTANCE);
            lanes[0][0] += (x - y) * (x - y);
            lanes[1][0] += x * x;
            lanes[2][0] += (x - y) * (x - y) * w;
            lanes[3][0] += x * x * w;
        }
        add(&mut sums, &lanes);
    }
    let [error, energy, weighted_error, weighted_energy] = sums;
    Deviation { error, energy, weighted_error, weighted_energy }
}

#[inline(always)]
fn add<const N: usize>(sums: &mut [f64; N], lanes: &[[f32; LANES]; N]) {
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        *sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_infinities_do_not_differ() {
        let x = [1.0, f32::NEG_INFINITY, -2.0];
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let found = Deviation::of(Format::F32, &x, 3, None, &bytes, &mut Vec::new());
        assert_eq!((found.error, found.energy), (0.0, 5.0));
        let other = Deviation::of(Format::F32, &[1.0, 0.0, -2.0], 3, None, &bytes, &mut Vec::new());
        assert!(!other.is_finite());
    }

    #[test]
    fn sums_are_those_of_the_formula() {
        let columns = 16 * 16 + 32;
        let x: Vec<f32> = (0..2 * columns).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let w: Vec<f32> = (0..columns).map(|i| ((i * 11) % 7) as f32).collect();
        let mut blocks = vec![0; 2 * Format::Q4_0.row_bytes(columns as u64) as usize];
        quant_kernels::quantize(Format::Q4_0, &x, columns, Some(&w), &mut blocks);
        let mut y = vec![0.0; x.len()];
        quant_kernels::dequantize(Format::Q4_0, &blocks, &mut y);
        let found = Deviation::of(Format::Q4_0, &x, columns, Some(&w), &blocks, &mut Vec::new());
        let sum = |f: &dyn Fn(f64, f64, f64) -> f64| {
            (0..x.len()).map(|i| f(x[i].into(), y[i].into(), w[i % columns].into())).sum::<f64>()
        };
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
        near(found.error, sum(&|x, y, _| (x - y) * (x - y)));
        near(found.energy, sum(&|x, _, _| x * x));
        near(found.weighted_error, sum(&|x, y, w| (x - y) * (x - y) * w));
        near(found.weighted_energy, sum(&|x, _, w| x * x * w));
        let plain = Deviation::of(Format::Q4_0, &x, columns, None, &blocks, &mut Vec::new());
        near(plain.error, found.error);
        near(plain.energy, plain.weighted_energy);
        assert_eq!(Deviation::from_bytes(&found.to_bytes()), found);
        assert_eq!(Deviation::default().relative(), 0.0);
    }
}
