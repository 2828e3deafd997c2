//! The slow definition of the codebook formats, against which the whole of the fast search is held: every entry of
//! every group at every code of many d.

use fearless_simd::{Level, dispatch};

use super::codebook::{self, Codebook};
use super::definition::Numbers;
use crate::block::Block;
use crate::formats::{
    iq1_m::IQ1_M, iq1_s::IQ1_S, iq2_s::IQ2_S, iq2_xs::IQ2_XS, iq2_xxs::IQ2_XXS, iq3_s::IQ3_S,
    iq3_xxs::IQ3_XXS,
};

/// P and Q of an entry: the error at scale s is s s Q - 2 s P and a constant.
type Line = (f64, f64);

/// The line that is best at a scale.
fn best(lines: &[Line], s: f64) -> Line {
    let mut best = (f64::MIN, 0.0);
    for &line in lines {
        if line.0 - 0.5 * s * line.1 > best.0 - 0.5 * s * best.1 {
            best = line;
        }
    }
    best
}

fn value(line: Line, s: f64) -> f64 {
    line.0 - 0.5 * s * line.1
}

/// Every line of a group of D weights.
fn lines<const D: usize>(
    book: &Codebook<D>,
    x: &[f32],
    w: &[f32],
    shift: Option<f32>,
    turned: bool,
) -> Vec<Line> {
    let line = |entry: &[f32; D]| {
        let (mut p, mut q, mut least) = (0.0, 0.0, f64::MAX);
        for t in 0..D {
            let v = f64::from(entry[t] + shift.unwrap_or(0.0));
            let x = f64::from(if shift.is_some() { x[t] } else { x[t].abs() });
            let product = f64::from(w[t]) * x * v;
            (p, q, least) = (p + product, q + f64::from(w[t]) * v * v, least.min(product));
        }
        (p - if turned { 2.0 * least } else { 0.0 }, q)
    };
    hull(book.values.iter().map(line).collect())
}

/// Only the lines that are best at some scale above zero.
fn hull(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.0.total_cmp(&a.0)));
    let mut hull: Vec<Line> = Vec::new();
    // From the steepest (largest Q, best at small scales) to the flattest.
    for line in lines.into_iter().rev() {
        while let Some(&last) = hull.last() {
            // `line` has the smaller Q: it wins above the crossing with `last`.
            if line.0 >= last.0 {
                hull.pop();
                continue;
            }
            if hull.len() >= 2 {
                let before = hull[hull.len() - 2];
                let cross = |a: Line, b: Line| (a.0 - b.0) / (a.1 - b.1);
                if cross(last, line) <= cross(before, last) {
                    hull.pop();
                    continue;
                }
            }
            break;
        }
        if hull.last().is_none_or(|last| line.1 < last.1) {
            hull.push(line);
        }
    }
    hull
}

/// The values that a block can have.
enum Choices {
    /// Groups, each with its lines.
    Eights(Vec<Vec<Line>>),
    /// Pairs: lines of both halves kept, then turned; and whether one must be turned.
    Fours(Vec<([Vec<Line>; 4], bool)>),
    /// Groups with the lines of both shifts; and whether all share one.
    Shifted(Vec<[Vec<Line>; 2]>, bool),
}

impl Choices {
    fn best(&self, s: f64) -> Line {
        let add = |a: Line, b: Line| (a.0 + b.0, a.1 + b.1);
        let better = |a: Line, b: Line| if value(b, s) > value(a, s) { b } else { a };
        match self {
            Self::Eights(groups) => groups.iter().map(|lines| best(lines, s)).fold((0.0, 0.0), add),
            Self::Fours(pairs) => pairs
                .iter()
                .map(|(lines, odd)| {
                    let [a, b] = [best(&lines[0], s), best(&lines[1], s)];
                    if *odd {
                        better(add(best(&lines[2], s), b), add(a, best(&lines[3], s)))
                    } else {
                        add(a, b)
                    }
                })
                .fold((0.0, 0.0), add),
            Self::Shifted(groups, one) => {
                let both = |side: usize| groups.iter().map(move |lines| best(&lines[side], s));
                if *one {
                    better(both(0).fold((0.0, 0.0), add), both(1).fold((0.0, 0.0), add))
                } else {
                    both(0).zip(both(1)).map(|(a, b)| better(a, b)).fold((0.0, 0.0), add)
                }
            }
        }
    }
}

/// The d that are tried: over `around`, and from the good ones on refitted until nothing changes.
const SPREAD: std::ops::RangeInclusive<i32> = -80..=80;

/// The largest xy xy / yy that any d, codes and entries reach: what is left of sum(w x x) is the error.
fn most_explained(blocks: &[Choices], steps: &[f64], around: f64) -> f64 {
    let take = |d: f64| {
        let (mut xy, mut yy) = (0.0, 0.0);
        for block in blocks {
            let mut top = (f64::MIN, (0.0, 0.0), 0.0);
            for &step in steps {
                let s = d * step;
                let line = block.best(s);
                let gain = s * value(line, s);
                if gain > top.0 {
                    top = (gain, line, step);
                }
            }
            xy += top.2 * top.1.0;
            yy += top.2 * top.2 * top.1.1;
        }
        (xy, yy)
    };
    let mut most = 0.0_f64;
    for i in SPREAD {
        let mut d = around * 1.005_f64.powi(i);
        let (mut xy, mut yy) = take(d);
        let mut gain = xy * xy / yy;
        if gain > 0.995 * most {
            for _ in 0..20 {
                d = xy / yy;
                (xy, yy) = take(d);
                let next = xy * xy / yy;
                if next <= gain {
                    break;
                }
                gain = next;
            }
        }
        most = most.max(gain);
    }
    most
}

fn eights(book: &Codebook<8>, even: bool, x: &[f32], w: &[f32]) -> Choices {
    let group = |(x, w): (&[f32], &[f32])| {
        let odd = even && x.iter().filter(|x| **x < 0.0).count() % 2 == 1;
        lines(book, x, w, None, odd)
    };
    Choices::Eights(x.chunks(8).zip(w.chunks(8)).map(group).collect())
}

fn fours(book: &Codebook<4>, even: bool, x: &[f32], w: &[f32]) -> Choices {
    let pair = |(x, w): (&[f32], &[f32])| {
        let odd = even && x.iter().filter(|x| **x < 0.0).count() % 2 == 1;
        let half = |h: usize, turned| lines(book, &x[4 * h..4 * h + 4], &w[4 * h..4 * h + 4], None, turned);
        ([half(0, false), half(1, false), half(0, true), half(1, true)], odd)
    };
    Choices::Fours(x.chunks(8).zip(w.chunks(8)).map(pair).collect())
}

fn shifted(one: bool, x: &[f32], w: &[f32]) -> Choices {
    let group =
        |(x, w): (&[f32], &[f32])| [0.125, -0.125].map(|s| lines(&codebook::IQ1, x, w, Some(s), false));
    Choices::Shifted(x.chunks(8).zip(w.chunks(8)).map(group).collect(), one)
}

/// The structure of a format's super-block.
struct Definition {
    /// Blocks in it.
    blocks: usize,
    /// d times these are the scales.
    steps: Vec<f64>,
    /// A block's usual scale over its root mean square.
    typical: f64,
    choices: fn(&[f32], &[f32]) -> Choices,
}

impl Definition {
    fn new(
        blocks: usize,
        codes: usize,
        unit: f64,
        typical: f64,
        choices: fn(&[f32], &[f32]) -> Choices,
    ) -> Self {
        let steps = (0..codes).map(|code| (1 + 2 * code) as f64 * unit).collect();
        Self { blocks, steps, typical, choices }
    }

    /// The mean error of the fast search over that of the definition, less 1.
    fn excess<B: Block<256>>(&self) -> f64 {
        let mut numbers = Numbers(7);
        let (mut found, mut least) = (0.0, 0.0);
        for _ in 0..60 {
            let (x, w) = numbers.group::<256>();
            let largest = w.iter().fold(0.0_f32, |a, &b| a.max(b));
            let w = w.map(|w| w / largest);
            let mut y = [0.0; 256];
            dispatch!(Level::new(), simd => B::quantize(simd, &x, &w).dequantize(simd, &mut y));
            let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
            for i in 0..256 {
                let (x, y, w) = (f64::from(x[i]), f64::from(y[i]), f64::from(w[i]));
                (xx, xy, yy) = (xx + w * x * x, xy + w * x * y, yy + w * y * y);
            }
            let len = 256 / self.blocks;
            let blocks: Vec<Choices> =
                x.chunks(len).zip(w.chunks(len)).map(|(x, w)| (self.choices)(x, w)).collect();
            let around = self.typical / self.steps[self.steps.len() - 1] * 1.25;
            found += xx - xy * xy / yy;
            least += xx - most_explained(&blocks, &self.steps, around);
        }
        found / least - 1.0
    }
}

#[test]
fn whole_searches_leave_half_a_percent_more_than_the_definition_at_most() {
    use codebook::{IQ2_S as S2, IQ2_XS as XS2, IQ2_XXS as XXS2, IQ3_S as S3, IQ3_XXS as XXS3};
    let excesses = [
        Definition::new(8, 16, 0.125, 0.05, |x, w| eights(&XXS2, true, x, w)).excess::<IQ2_XXS>(),
        Definition::new(16, 16, 0.125, 0.05, |x, w| eights(&XS2, true, x, w)).excess::<IQ2_XS>(),
        Definition::new(16, 16, 0.125, 0.05, |x, w| eights(&S2, false, x, w)).excess::<IQ2_S>(),
        Definition::new(8, 16, 0.25, 0.043, |x, w| fours(&XXS3, true, x, w)).excess::<IQ3_XXS>(),
        Definition::new(8, 16, 1.0, 0.176, |x, w| fours(&S3, false, x, w)).excess::<IQ3_S>(),
        Definition::new(8, 8, 1.0, 1.3, |x, w| shifted(true, x, w)).excess::<IQ1_S>(),
        Definition::new(16, 8, 1.0, 1.3, |x, w| shifted(false, x, w)).excess::<IQ1_M>(),
    ];
    println!("excess: {excesses:.5?}");
    for excess in excesses {
        assert!((-0.001..0.005).contains(&excess), "{excesses:.5?}");
    }
}
