//! How long the work will take on this machine, from encoding a few rows of noise in each type that occurs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quant_kernels::Format;

use crate::recipe::Plan;

/// Time spent measuring a type, at least.
const PATIENCE: Duration = Duration::from_millis(20);

/// Columns and rows of the noise.
const NOISE: [usize; 2] = [2048, 8];

/// Encoding speed of one type on one thread.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The type.
    pub format: Format,
    /// Weights of the plan that get it.
    pub weights: u64,
    /// Measured just now.
    pub weights_per_second: f64,
}

impl Rate {
    /// Seconds on one thread.
    pub fn seconds(&self) -> f64 {
        self.weights as f64 / self.weights_per_second
    }
}

/// The encoding speed of every type in the plan.
pub fn rates(plan: &Plan) -> Vec<Rate> {
    let mut weights = BTreeMap::new();
    for (tensor, choice) in plan.model.tensors.iter().zip(&plan.choices) {
        *weights.entry(choice.format).or_insert(0) += tensor.weights();
    }
    let [columns, rows] = NOISE;
    let noise = noise(columns * rows);
    let importance: Vec<f32> = noise[..columns].iter().map(|x| x * x).collect();
    let rate = |(format, weights): (Format, u64)| {
        let mut blocks = vec![0; rows * format.row_bytes(columns as u64) as usize];
        // The first run fills tables and caches.
        quant_kernels::quantize(
            format,
            &noise[..columns],
            columns,
            Some(&importance),
            &mut blocks[..format.row_bytes(columns as u64) as usize],
        );
        let (start, mut encoded) = (Instant::now(), 0);
        while start.elapsed() < PATIENCE {
            quant_kernels::quantize(format, &noise, columns, Some(&importance), &mut blocks);
            encoded += noise.len();
        }
        Rate { format, weights, weights_per_second: encoded as f64 / start.elapsed().as_secs_f64() }
    };
    weights.into_iter().map(rate).collect()
}

/// About Gaussian with the spread of a layer's weights: sums of twelve uniform numbers.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02).collect()
}
