//! How far decoded rows are from their source, in sums that lose no digits for small differences. Pure.

use std::ops::AddAssign;

/// Sums over weights x, their differences d = y - x to the decoded ones, and their importances w.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// With importances.
    pub weighted: Sums,
    /// Without.
    pub plain: Sums,
}

/// The sums that errors are computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// w x x
    pub xx: f64,
    /// w x d
    pub xd: f64,
    /// w d d
    pub dd: f64,
}

/// Sums are made in this many lanes, which the compiler keeps in vectors.
const LANES: usize = 16;

/// Weights that a lane adds up in f32 before it goes on in f64.
const RUN: usize = 16;

impl Deviation {
    /// Of one row and what came back; all columns alike without importances.
    pub fn of_row(x: &[f32], y: &[f32], importance: Option<&[f32]>) -> Self {
        let even = [1.0; LANES * RUN];
        let mut sums = [0.0; 6];
        for (start, x) in (0..).step_by(LANES * RUN).zip(x.chunks(LANES * RUN)) {
            let y = &y[start..start + x.len()];
            let w = importance.map_or(&even[..x.len()], |w| &w[start..start + x.len()]);
            let mut lanes = [[0f32; LANES]; 6];
            let whole = x.len() / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                for lane in 0..LANES {
                    add(&mut lanes, lane, x[i + lane], y[i + lane], w[i + lane]);
                }
            }
            for i in whole..x.len() {
                add(&mut lanes, 0, x[i], y[i], w[i]);
            }
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
            }
        }
        let [xx, xd, dd, ..] = sums;
        let [.., plain_xx, plain_xd, plain_dd] = sums;
        Self { weighted: Sums { xx, xd, dd }, plain: Sums { xx: plain_xx, xd: plain_xd, dd: plain_dd } }
    }
}

impl Sums {
    /// Squared error relative to the squared weights; 0 for zeros that came back.
    pub fn relative(&self) -> f64 {
        if self.xx > 0.0 { self.dd / self.xx } else { self.dd }
    }

    /// sum(w x y) / sum(w x x): 1 where weights keep their size on the whole.
    pub fn gain(&self) -> f64 {
        if self.xx > 0.0 { 1.0 + self.xd / self.xx } else { 1.0 }
    }

    /// What is left of the error at the gain 1, 1 / cos^2 - 1 with the weighted cosine. Weights with less energy than
    /// `floor` have their error measured against that.
    pub fn unit(&self, floor: f64) -> f64 {
        let Self { xx, xd, dd, .. } = *self;
        if xx <= floor || xx == 0.0 {
            return if dd == 0.0 { 0.0 } else { dd / floor };
        }
        let xy = xx + xd;
        // In differences, since xx yy - xy xy would cancel. Not above zero: the weights point away from their source.
        if xy > 0.0 { ((xx * dd - xd * xd) / (xy * xy)).max(0.0) } else { f64::INFINITY }
    }
}

#[inline(always)]
fn add(lanes: &mut [[f32; LANES]; 6], lane: usize, x: f32, y: f32, w: f32) {
    let d = y - x;
    let (wx, wd) = (w * x, w * d);
    lanes[0][lane] += wx * x;
    lanes[1][lane] += wx * d;
    lanes[2][lane] += wd * d;
    lanes[3][lane] += x * x;
    lanes[4][lane] += x * d;
    lanes[5][lane] += d * d;
}

impl AddAssign for Deviation {
    fn add_assign(&mut self, other: Self) {
        for (sums, other) in [(&mut self.weighted, other.weighted), (&mut self.plain, other.plain)] {
            sums.xx += other.xx;
            sums.xd += other.xd;
            sums.dd += other.dd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_formulas() {
        let x: Vec<f32> = (0..600).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().enumerate().map(|(i, x)| 1.01 * x + (i % 3) as f32 * 1e-3).collect();
        let w: Vec<f32> = (0..600).map(|i| ((i * 11) % 7) as f32).collect();
        let found = Deviation::of_row(&x, &y, Some(&w));
        let sum = |f: &dyn Fn(f64, f64, f64) -> f64| {
            (0..600).map(|i| f(x[i].into(), y[i].into(), w[i].into())).sum::<f64>()
        };
        let (xx, xy, yy) = (sum(&|x, _, w| w * x * x), sum(&|x, y, w| w * x * y), sum(&|_, y, w| w * y * y));
        let near =
            |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
        near(found.weighted.gain(), xy / xx);
        near(found.weighted.unit(0.0), xx * yy / (xy * xy) - 1.0);
        near(found.plain.relative(), sum(&|x, y, _| (x - y) * (x - y)) / sum(&|x, _, _| x * x));
    }

    #[test]
    fn a_turned_row_is_infinitely_wrong_and_a_tiny_one_is_measured_by_the_floor() {
        let [x, y] = [[1.0; 20], [-1.0; 20]];
        assert_eq!(Deviation::of_row(&x, &y, None).plain.unit(0.0), f64::INFINITY);
        let [x, y] = [[1e-6; 20], [2e-6; 20]];
        assert!((Deviation::of_row(&x, &y, None).plain.unit(20.0) / 1e-12 - 1.0).abs() < 1e-5);
        assert_eq!(Deviation::of_row(&[0.0; 20], &[0.0; 20], None).plain.unit(0.0), 0.0);
    }
}
