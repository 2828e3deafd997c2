//! Position encoding: rotations of pairs of columns, yarn's frequencies. By libm's functions, whose bits do not
//! depend on the system.

use std::f64::consts::PI;

/// The position encoding of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Columns of a query or key that are rotated.
    pub columns: u32,
    /// Base of the rotations.
    pub theta: f32,
    /// Which columns are rotated together.
    pub pairing: Pairing,
    /// Stretched rotations, if the model has them.
    pub yarn: Option<Yarn>,
    /// What all frequencies are divided by, if they are.
    pub linear: Option<f32>,
    /// Whether a tensor has a number for each pair of columns that its frequency is divided by.
    pub divided: bool,
    /// How many of the pairs of columns are for each of the three places that a part of an image has, for models that see
    /// images, and a fourth number, 0. A word has the same place in all three, so that they change nothing in texts.
    pub sections: Option<[u32; 4]>,
}

/// Which columns of a row are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: 0 and 1, 2 and 3 (llama.cpp's NORM).
    Neighbours,
    /// One of the first half with one of the second: 0 and n/2 (llama.cpp's NEOX).
    Halves,
}

/// Yarn, which stretches a model's context. What metadata do not say has the value that llama.cpp takes then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// How many times longer the context becomes.
    pub factor: f32,
    /// Context of the training.
    pub original: u32,
    /// Rotations within it above which a frequency stays as it is; by default 32.
    pub beta_fast: Option<f32>,
    /// Rotations within it below which a frequency is divided by the factor; by default 1.
    pub beta_slow: Option<f32>,
    /// 0.1 times the model's mscale_all_dim, or for `mistral3` that itself, for architectures that have it; by default 0.
    pub log_multiplier: Option<f32>,
    /// A factor of rotated columns that some configurations have and nothing computes, llama.cpp as little as
    /// transformers.
    pub unused_factor: Option<f32>,
}

const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

impl Rope {
    /// With nothing stretched or divided, and one place for a token.
    pub fn new(columns: u32, theta: f32, pairing: Pairing) -> Self {
        Self { columns, theta, pairing, yarn: None, linear: None, divided: false, sections: None }
    }

    /// With all defaults spelled out.
    #[must_use]
    pub fn explicit(&self) -> Self {
        let explicit = |yarn: Yarn| Yarn {
            beta_fast: Some(yarn.beta_fast.unwrap_or(BETA_FAST)),
            beta_slow: Some(yarn.beta_slow.unwrap_or(BETA_SLOW)),
            log_multiplier: Some(yarn.log_multiplier.unwrap_or(0.0)),
            unused_factor: None,
            ..yarn
        };
        Self { yarn: self.yarn.map(explicit), linear: self.linear.filter(|factor| *factor != 1.0), ..*self }
    }

    /// The factor of rotated columns: llama.cpp's 1 + 0.1 ln factor, over the same with the log multiplier, which is the
    /// model's mscale_all_dim itself here.
    pub fn magnitude(&self) -> f32 {
        match self.yarn {
            Some(yarn) if yarn.factor > 1.0 => {
                let growth = 0.1 * libm::logf(yarn.factor);
                (1.0 + growth) / (1.0 + yarn.log_multiplier.unwrap_or(0.0) * growth)
            }
            _ => 1.0,
        }
    }
}

impl Yarn {
    /// The factor of latent attention's scale.
    pub fn attention(&self) -> f32 {
        let multiplier = self.log_multiplier.unwrap_or(0.0);
        let growth = if self.factor > 1.0 { multiplier * libm::logf(self.factor) } else { 0.0 };
        (1.0 + growth) * (1.0 + growth)
    }

    /// The frequencies of `width` columns: interpolated below `low`, kept above `high`, a ramp between.
    fn stretch(&self, frequencies: &mut [f64], theta: f64) {
        let width = 2.0 * frequencies.len() as f64;
        let pair = |rotations: f32| {
            width * libm::log(f64::from(self.original as f32) / (f64::from(rotations) * 2.0 * PI))
                / (2.0 * libm::log(theta))
        };
        let low = pair(self.beta_fast.unwrap_or(BETA_FAST)).floor().max(0.0);
        let high = pair(self.beta_slow.unwrap_or(BETA_SLOW)).ceil().min(width - 1.0);
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *frequency = *frequency / f64::from(self.factor) * ramp + *frequency * (1.0 - ramp);
        }
    }
}

/// Cosine and sine for each position and pair of columns.
#[derive(Clone, Debug)]
pub struct Turns {
    pairing: Pairing,
    pairs: usize,
    turns: Vec<[f32; 2]>,
}

impl Turns {
    /// The rotations of positions 0 to `positions`, after which columns are multiplied by `magnitude`. Frequencies are
    /// divided by the divisors, if there are some.
    pub fn new(positions: usize, rope: &Rope, magnitude: f32, divisors: &[f32]) -> Self {
        let (theta, width) = (f64::from(rope.theta), rope.columns as usize);
        let pairs = width / 2;
        let mut frequencies: Vec<f64> =
            (0..pairs).map(|i| libm::pow(theta, -2.0 * i as f64 / width as f64)).collect();
        for (frequency, divisor) in frequencies.iter_mut().zip(divisors) {
            *frequency /= f64::from(*divisor);
        }
        if let Some(factor) = rope.linear {
            frequencies.iter_mut().for_each(|frequency| *frequency /= f64::from(factor));
        }
        if let Some(yarn) = &rope.yarn {
            yarn.stretch(&mut frequencies, theta);
        }
        let turn =
            |angle: f64| [libm::cos(angle) as f32, libm::sin(angle) as f32].map(|part| part * magnitude);
        let turns = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| turn(position as f64 * f)))
            .collect();
        Self { pairing: rope.pairing, pairs, turns }
    }

    /// Rotates the first columns of a row that stands at the position; the others stay.
    pub fn rotate(&self, position: usize, row: &mut [f32]) {
        self.each_pair(position, row, |[a, b], [cos, sin]| [a * cos - b * sin, a * sin + b * cos]);
    }

    /// From gradients at what [`rotate`](Self::rotate) gives to those at its row, in place.
    pub fn rotate_back(&self, position: usize, row: &mut [f32]) {
        self.each_pair(position, row, |[a, b], [cos, sin]| [a * cos + b * sin, b * cos - a * sin]);
    }

    fn each_pair(&self, position: usize, row: &mut [f32], turned: impl Fn([f32; 2], &[f32; 2]) -> [f32; 2]) {
        let turns = &self.turns[position * self.pairs..(position + 1) * self.pairs];
        match self.pairing {
            Pairing::Neighbours => {
                for (pair, turn) in row.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    *pair = turned(*pair, turn);
                }
            }
            Pairing::Halves => {
                let (first, rest) = row.split_at_mut(self.pairs);
                for ((a, b), turn) in first.iter_mut().zip(rest).zip(turns) {
                    [*a, *b] = turned([*a, *b], turn);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_keeps_the_fast_and_divides_the_slow() {
        // R1's: 64 columns, theta 10000, 40 times 4096.
        let yarn = Yarn {
            factor: 40.0,
            original: 4096,
            beta_fast: None,
            beta_slow: None,
            log_multiplier: Some(0.1),
            unused_factor: None,
        };
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
        let rope = Rope::new(4, 10000.0, Pairing::Neighbours);
        let turns = Turns::new(8, &rope, 1.0, &[]);
        let mut row = [1.0, 0.0, 0.0, 2.0];
        turns.rotate(3, &mut row);
        assert!((row[0] - 3f32.cos()).abs() < 1e-6 && (row[1] - 3f32.sin()).abs() < 1e-6);
        assert!((row[2] + 2.0 * 0.03f32.sin()).abs() < 1e-6 && (row[3] - 2.0 * 0.03f32.cos()).abs() < 1e-6);
        turns.rotate_back(3, &mut row);
        assert!(row.iter().zip([1.0, 0.0, 0.0, 2.0]).all(|(found, before)| (found - before).abs() < 1e-6));
    }

    #[test]
    fn halves_are_rotated_as_neighbours_are_and_the_rest_stays() {
        let rope = Rope::new(4, 10000.0, Pairing::Halves);
        let mut halves = [1.0, 2.0, 3.0, 4.0, 5.0];
        Turns::new(8, &rope, 2.0, &[]).rotate(3, &mut halves);
        let mut neighbours = [1.0, 3.0, 2.0, 4.0];
        let rope = Rope { pairing: Pairing::Neighbours, ..rope };
        Turns::new(8, &rope, 2.0, &[]).rotate(3, &mut neighbours);
        let [a, b, c, d] = neighbours;
        assert_eq!(halves, [a, c, b, d, 5.0]);
    }
}
