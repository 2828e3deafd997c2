//! Position encoding: rotations of pairs of neighbouring columns, yarn's frequencies. By libm's functions, whose bits do not
//! depend on the system.

use std::f64::consts::PI;

/// Yarn, which stretches a model's context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer the context becomes.
    pub factor: f32,
    /// Context of the training.
    pub original: f32,
    /// Rotations within it above which a frequency stays as it is, and below which it is divided by the factor.
    pub beta: [f32; 2],
    /// 0.1 times the model's mscale_all_dim.
    pub log_multiplier: f32,
}

impl Yarn {
    /// What the scale of attention is multiplied by.
    pub fn attention(&self) -> f32 {
        let growth = if self.factor > 1.0 { self.log_multiplier * libm::logf(self.factor) } else { 0.0 };
        (1.0 + growth) * (1.0 + growth)
    }

    /// The frequencies of `width` columns: interpolated below `low`, kept above `high`, a ramp between.
    fn stretch(&self, frequencies: &mut [f64], theta: f64) {
        let width = 2.0 * frequencies.len() as f64;
        let pair = |rotations: f32| {
            width * libm::log(f64::from(self.original) / (f64::from(rotations) * 2.0 * PI))
                / (2.0 * libm::log(theta))
        };
        let low = pair(self.beta[0]).floor().max(0.0);
        let high = pair(self.beta[1]).ceil().min(width - 1.0);
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *frequency = *frequency / f64::from(self.factor) * ramp + *frequency * (1.0 - ramp);
        }
    }
}

/// Cosine and sine for each position and pair of columns.
#[derive(Clone, Debug)]
pub struct Rope {
    pairs: usize,
    turns: Vec<[f32; 2]>,
}

impl Rope {
    /// The rotations of positions 0 to `positions` for rows of `width` columns.
    pub fn new(positions: usize, width: usize, theta: f32, yarn: Option<&Yarn>) -> Self {
        let theta = f64::from(theta);
        let pairs = width / 2;
        let mut frequencies: Vec<f64> =
            (0..pairs).map(|i| libm::pow(theta, -2.0 * i as f64 / width as f64)).collect();
        if let Some(yarn) = yarn {
            yarn.stretch(&mut frequencies, theta);
        }
        let turn = |angle: f64| [libm::cos(angle) as f32, libm::sin(angle) as f32];
        let turns = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| turn(position as f64 * f)))
            .collect();
        Self { pairs, turns }
    }

    /// Rotates a row that stands at the position.
    pub fn rotate(&self, position: usize, row: &mut [f32]) {
        let turns = &self.turns[position * self.pairs..(position + 1) * self.pairs];
        for (pair, [cos, sin]) in row.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            let [a, b] = *pair;
            *pair = [a * cos - b * sin, a * sin + b * cos];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_the_fast_and_divides_the_slow() {
        // R1's: 64 columns, theta 10000, 40 times 4096.
        let yarn = Yarn { factor: 40.0, original: 4096.0, beta: [32.0, 1.0], log_multiplier: 0.1 };
        let plain: Vec<f64> = (0..32).map(|i| 10000f64.powf(-f64::from(i) / 32.0)).collect();
        let mut stretched = plain.clone();
        yarn.stretch(&mut stretched, 10000.0);
        // 32 and 1 rotations within 4096 positions are at pairs 10.47 and 22.51.
        for (i, (plain, stretched)) in plain.iter().zip(stretched).enumerate() {
            match i {
                0..=10 => assert_eq!(stretched, *plain),
                23.. => assert!((stretched * 40.0 / plain - 1.0).abs() < 1e-12),
                _ => assert!(stretched < *plain && stretched > plain / 40.0),
            }
        }
        assert!((yarn.attention() - 1.36889f32.powi(2)).abs() < 1e-4);
    }

    #[test]
    fn a_rotation_keeps_lengths_and_turns_by_the_position() {
        let rope = Rope::new(8, 4, 10000.0, None);
        let mut row = [1.0, 0.0, 0.0, 2.0];
        rope.rotate(3, &mut row);
        assert!((row[0] - 3f32.cos()).abs() < 1e-6 && (row[1] - 3f32.sin()).abs() < 1e-6);
        assert!((row[2] + 2.0 * 0.03f32.sin()).abs() < 1e-6 && (row[3] - 2.0 * 0.03f32.cos()).abs() < 1e-6);
    }
}
