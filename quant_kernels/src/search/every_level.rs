//! The slow definition of the formats whose weights have levels of their own, against which the whole of the fast
//! search is held: every integer of every group under many d (and minimums), each refitted by least squares until
//! nothing changes.

use fearless_simd::{Level, dispatch};

use super::definition::Numbers;
use super::levels::K4;
use crate::block::Block;
use crate::formats::{
    iq4_nl::IQ4_NL, iq4_xs::IQ4_XS, q2_k::Q2_K, q3_k::Q3_K, q4_0::Q4_0, q4_1::Q4_1, q4_k::Q4_K, q5_0::Q5_0,
    q5_1::Q5_1, q5_k::Q5_K, q6_k::Q6_K,
};
use crate::scale::Scale;

/// What weights over their scale are rounded to.
#[derive(Clone, Copy)]
enum Rounding {
    Integers(f32, f32),
    Listed,
}

impl Rounding {
    fn nearest(self, v: f32) -> f32 {
        match self {
            // Adding and taking away 1.5 * 2^23 rounds to a whole number, and so that the compiler has vectors for it.
            Self::Integers(low, high) => ((v.clamp(low, high)) + 12_582_912.0) - 12_582_912.0,
            Self::Listed => {
                let above = K4.partition_point(|&k| f32::from(k) < v).clamp(1, K4.len() - 1);
                let [low, high] = [f32::from(K4[above - 1]), f32::from(K4[above])];
                if v - low < high - v { low } else { high }
            }
        }
    }
}

/// The structure of a block: groups with an integer scale each, and in some formats an integer minimum.
struct Definition {
    groups: usize,
    rounding: Rounding,
    scales: Vec<f32>,
    /// Only zero where there are none.
    mins: Vec<f32>,
    /// Times the fast search's own, the d and minimums that are tried.
    factors: Vec<f32>,
    blocks: usize,
}

/// y = d scale q - dmin min, and least squares for d and dmin.
#[derive(Default)]
struct Fit {
    uu: f64,
    uv: f64,
    vv: f64,
    xu: f64,
    xv: f64,
}

impl Fit {
    fn add(&mut self, w: f32, x: f32, u: f32, v: f32) {
        let [w, x, u, v] = [w, x, u, v].map(f64::from);
        self.uu += w * u * u;
        self.uv += w * u * v;
        self.vv += w * v * v;
        self.xu += w * x * u;
        self.xv += w * x * v;
    }

    /// d, dmin, and how much of the energy they explain.
    fn solve(&self) -> (f32, f32, f64) {
        let det = self.uu * self.vv - self.uv * self.uv;
        let (d, dmin) = if det > 1e-9 * self.uu * self.vv {
            ((self.xu * self.vv - self.xv * self.uv) / det, (self.xv * self.uu - self.xu * self.uv) / det)
        } else {
            (self.xu / self.uu, 0.0)
        };
        // The minimum is taken away.
        (d as f32, -dmin as f32, d * self.xu + dmin * self.xv)
    }
}

impl Definition {
    fn scales(groups: usize, rounding: Rounding, scales: std::ops::Range<i32>) -> Self {
        let factors = (-40..=60).map(|i| 1.0 + 0.01 * i as f32).collect();
        let scales = scales.map(|scale| scale as f32).collect();
        Self { groups, rounding, scales, mins: vec![0.0], factors, blocks: 20 }
    }

    fn one_scale(rounding: Rounding) -> Self {
        let factors = (-800..=1200).map(|i| 1.0 + 0.0005 * i as f32).collect();
        Self { scales: vec![-1.0, 1.0], factors, blocks: 200, ..Self::scales(1, rounding, 0..0) }
    }

    fn mins(groups: usize, top: f32, end: i32) -> Self {
        let integers: Vec<f32> = (0..=end).map(|i| i as f32).collect();
        let factors = [0.75, 0.85, 0.93, 1.0, 1.07, 1.15, 1.3].to_vec();
        let rounding = Rounding::Integers(0.0, top);
        Self { groups, rounding, scales: integers.clone(), mins: integers, factors, blocks: 12 }
    }

    fn one_min(top: f32) -> Self {
        let factors = (-25..=25).map(|i| 1.0 + 0.01 * i as f32).collect();
        Self { scales: vec![1.0], mins: vec![1.0], factors, blocks: 200, ..Self::mins(1, top, 1) }
    }

    /// The integers that leave each group the least error under this d and dmin, fitted.
    fn take(&self, x: &[f32], w: &[f32], d: f32, dmin: f32) -> Fit {
        let size = x.len() / self.groups;
        let mut fit = Fit::default();
        for (x, w) in x.chunks(size).zip(w.chunks(size)) {
            let (mut least, mut best) = (f32::MAX, (0.0, 0.0));
            for &scale in &self.scales {
                let s = d * scale;
                let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
                for &min in &self.mins {
                    let m = dmin * min;
                    let mut error = 0.0;
                    for (x, w) in x.iter().zip(w) {
                        let e = x + m - s * self.rounding.nearest((x + m) * inverse);
                        error += w * e * e;
                    }
                    if error < least {
                        (least, best) = (error, (scale, min));
                    }
                }
            }
            let (s, m) = (d * best.0, dmin * best.1);
            let inverse = if s == 0.0 { 0.0 } else { 1.0 / s };
            for (&x, &w) in x.iter().zip(w) {
                fit.add(w, x, best.0 * self.rounding.nearest((x + m) * inverse), best.1);
            }
        }
        fit
    }

    /// The most energy that any d, minimums, integers and levels explain.
    fn most_explained(&self, x: &[f32], w: &[f32], d: f32, dmin: f32) -> f64 {
        let mut most = 0.0_f64;
        for &factor in &self.factors {
            for &min_factor in if self.mins == [0.0] { &[1.0][..] } else { &self.factors[..] } {
                let (mut d, mut dmin, mut explained) = self.take(x, w, d * factor, dmin * min_factor).solve();
                if explained > 0.99 * most {
                    for _ in 0..10 {
                        let next = self.take(x, w, d, dmin).solve();
                        if next.2 <= explained {
                            break;
                        }
                        (d, dmin, explained) = next;
                    }
                }
                most = most.max(explained);
            }
        }
        most
    }

    /// The mean error of the fast search over that of the definition, less 1; `scales` are the d and dmin of a block.
    fn excess<const N: usize, B: Block<N>>(&self, scales: impl Fn(&B) -> [Scale; 2]) -> f64 {
        let mut numbers = Numbers(11);
        let (mut found, mut least) = (0.0, 0.0);
        for _ in 0..self.blocks {
            let (x, w) = numbers.group::<N>();
            let largest = w.iter().fold(0.0_f32, |a, &b| a.max(b));
            let w = w.map(|w| w / largest);
            let mut y = [0.0; N];
            let mut block = [B::zeroed()];
            dispatch!(Level::new(), simd => {
                block[0] = B::quantize(simd, &x, &w);
                block[0].dequantize(simd, &mut y);
            });
            let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
            for i in 0..N {
                let (x, y, w) = (f64::from(x[i]), f64::from(y[i]), f64::from(w[i]));
                (xx, xy, yy) = (xx + w * x * x, xy + w * x * y, yy + w * y * y);
            }
            let [d, dmin] = scales(&block[0]).map(Scale::get);
            // Formats of one block add their offset.
            let dmin = if self.groups == 1 { -dmin } else { dmin };
            found += xx - xy * xy / yy;
            least += xx - self.most_explained(&x, &w, d, dmin);
        }
        found / least - 1.0
    }
}

/// What the fast searches leave above the definitions, at most. Sixteen places of one number are tried, and thirty-two
/// or forty-eight of two, where the definitions try up to 4096 under each of 49 to 101 d: with five and six bits there
/// are so many that some of them fit by chance. docs/formats.md has what that chance would cost.
#[test]
fn whole_searches_are_near_the_definition() {
    use Rounding::{Integers, Listed};
    let excesses = [
        ("Q4_0", 0.015, Definition::one_scale(Integers(-8.0, 7.0)).excess::<32, Q4_0>(|b| [b.d; 2])),
        ("Q5_0", 0.027, Definition::one_scale(Integers(-16.0, 15.0)).excess::<32, Q5_0>(|b| [b.d; 2])),
        ("IQ4_NL", 0.015, Definition::one_scale(Listed).excess::<32, IQ4_NL>(|b| [b.d; 2])),
        ("Q4_1", 0.05, Definition::one_min(15.0).excess::<32, Q4_1>(|b| [b.d, b.m])),
        ("Q5_1", 0.095, Definition::one_min(31.0).excess::<32, Q5_1>(|b| [b.d, b.m])),
        (
            "Q3_K",
            0.015,
            Definition::scales(16, Integers(-4.0, 3.0), -32..32).excess::<256, Q3_K>(|b| [b.d; 2]),
        ),
        (
            "Q6_K",
            0.1,
            Definition::scales(16, Integers(-32.0, 31.0), -128..128).excess::<256, Q6_K>(|b| [b.d; 2]),
        ),
        ("IQ4_XS", 0.018, Definition::scales(8, Listed, -32..32).excess::<256, IQ4_XS>(|b| [b.d; 2])),
        ("Q2_K", 0.018, Definition::mins(16, 3.0, 15).excess::<256, Q2_K>(|b| [b.d, b.dmin])),
        ("Q4_K", 0.05, Definition::mins(8, 15.0, 63).excess::<256, Q4_K>(|b| [b.d, b.dmin])),
        ("Q5_K", 0.1, Definition::mins(8, 31.0, 63).excess::<256, Q5_K>(|b| [b.d, b.dmin])),
    ];
    for (format, most, excess) in excesses {
        println!("{format}: {excess:.4} above the definition");
        assert!((-0.001..most).contains(&excess), "{format}: {excess:.5}, at most {most}");
    }
}
