//! How long the work will take on this machine, from encoding a few rows of noise in each type that occurs.

use std::collections::BTreeMap;
use std::time::Duration;

use quant_kernels::Format;

use crate::bench::{Rows, measure, noise};
use crate::error::Result;
use crate::recipe::Plan;

/// Time spent measuring a type, at least.
const PATIENCE: Duration = Duration::from_millis(15);

/// Rows and columns of the noise.
const NOISE: [usize; 2] = [8, 2048];

/// Encoding speed of one type on one thread.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The type.
    pub format: Format,
    /// Weights that get it.
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
///
/// # Errors
/// If an encoder gives wrong answers on this CPU.
pub fn rates(plan: &Plan) -> Result<Vec<Rate>> {
    let mut weights = BTreeMap::new();
    let all = plan.model.tensors.iter().zip(&plan.choices);
    // What is carried over as it is takes no time.
    for (tensor, choice) in all.filter(|(_, choice)| choice.format.is_known()) {
        *weights.entry(choice.format).or_insert(0) += tensor.weights();
    }
    let [rows, columns] = NOISE;
    let (noise, importance) = noise(rows, columns);
    let rows = Rows { weights: &noise, columns, importance: Some(&importance) };
    let rate = |(format, weights)| {
        let (measured, _) = measure(format, rows, 1, PATIENCE)?;
        Ok(Rate { format, weights, weights_per_second: measured.mw_per_s * 1e6 })
    };
    weights.into_iter().map(rate).collect()
}
