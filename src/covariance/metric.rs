//! The covariance H of a matrix's inputs, and the triangular factor by which errors are fed back.

use std::ops::Range;
use std::sync::Arc;

use dense_kernels::{Accum, Dense, Panels, Strips, View, gram, upper_factor, upper_inverse, with_panels};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::around::Around;
use super::prior::Prior;
use crate::chance;
use crate::error::{Error, Result};
use crate::threads;

/// What is added to the diagonal, relative to its mean (GPTQ's own default). Without it, weights of inputs that never
/// vary could become anything.
pub const DAMPING: f32 = 0.01;

/// Where that is not enough for a factor to exist, because a few inputs are far larger than the others, ten times as
/// much is added, and so on up to this.
const MOST_DAMPING: f32 = 10.0;

/// The most columns with one covariance: memory grows with the square of it and time with its cube. Errors are not
/// fed back from one segment to the next.
const SEGMENT: usize = 8192;

/// Columns that are encoded together; segments begin where they do.
const STEP: usize = Strips::COLUMNS;

/// Tokens a column at which what an expert's own inputs say of it counts as much as what those of all its layer do.
const OWN: f32 = 4.0;

/// How many tokens of its own an expert's mean squares are worth at least: what its layer's others have is no worse a guess than
/// so few. It is what `calibrate` shows to an expert with `--cover`.
const GUESS: f32 = 32.0;

/// Tokens a column at which what two inputs have in common counts half. Chance is in it, more the fewer tokens there are, and
/// errors that are fed back by it are fed back for nothing.
const TOGETHER: f32 = 4.0;

/// The same where inputs have all of the weights' correlations, to which the other part is drawn; in between where they have a
/// share of them.
const BESIDE_WEIGHTS: f32 = 16.0;

/// Rows that a thread takes at a time for a few operations each.
const ROWS: usize = 64;

/// Sums of x^T x over rows of inputs, for segments of their columns. Only what is on and above the diagonals is there.
#[derive(Clone, Debug)]
pub struct Covariance {
    sums: Vec<Dense>,
    count: usize,
}

/// The widths of the segments that columns are divided into: as few as can be, as equal as can be.
fn segments(columns: usize) -> Vec<usize> {
    divided(columns, SEGMENT, STEP)
}

/// Widths of at most `most`, which all but the last are multiples of `step`.
fn divided(columns: usize, most: usize, step: usize) -> Vec<usize> {
    let width = columns.div_ceil(columns.div_ceil(most)).next_multiple_of(step);
    (0..columns).step_by(width).map(|start| width.min(columns - start)).collect()
}

/// Bytes to factor a covariance of so many columns in: the sums, whose place the factor takes, half of them once more, and
/// the half of the factor that is kept in panels; then the factor gives way to panels of the covariance.
pub fn working_bytes(columns: usize) -> u64 {
    segments(columns).into_iter().map(|width| width as u64 * width as u64 * 8).sum()
}

impl Covariance {
    /// An empty covariance of so many columns.
    pub fn new(columns: usize) -> Self {
        Self::in_segments(columns, SEGMENT, STEP)
    }

    /// One in segments of at most so many columns, which begin at multiples of `step`.
    pub fn in_segments(columns: usize, most: usize, step: usize) -> Self {
        let widths = divided(columns, most, step);
        Self { sums: widths.into_iter().map(|width| Dense::zeros(width, width)).collect(), count: 0 }
    }

    /// Adds rows.
    pub fn add(&mut self, rows: View<'_>) {
        let mut start = 0;
        let accum = if self.count == 0 { Accum::Replace } else { Accum::Add };
        for sums in &mut self.sums {
            let end = start + sums.columns();
            gram(sums.view_mut(), accum, rows.some_columns(start..end));
            start = end;
        }
        self.count += rows.rows();
    }

    /// Rows that were added.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean over the rows, segment after segment; zeros if there were none.
    pub fn mean(mut self) -> Vec<Dense> {
        let share = 1.0 / self.count.max(1) as f32;
        for sums in &mut self.sums {
            each_upper(sums, |_, row| row.iter_mut().for_each(|x| *x *= share));
        }
        self.sums
    }

    /// The mean, drawn towards its diagonal as if `strength` rows of that had been added.
    pub fn shrunk(self, strength: f32) -> Vec<Dense> {
        let own = self.count as f32 / (self.count as f32 + strength);
        let mut mean = self.mean();
        mean.iter_mut().for_each(|mean| apart(mean, own));
        mean
    }

    /// The mean as an estimate of what other texts have.
    pub fn estimate(self, prior: Option<&Prior>) -> Estimate {
        let tokens = self.count as f32;
        Estimate::of(self.mean(), tokens, prior)
    }

    /// The estimate for an expert, whose inputs these are, and the others of its layer.
    pub fn estimate_in(self, layer: &Self, prior: Option<&Prior>) -> Estimate {
        let (tokens, all) = (self.count as f32, layer.count.max(1) as f32);
        let columns: usize = self.sums.iter().map(Dense::columns).sum();
        let own = tokens / (tokens + OWN * columns as f32);
        let mut mean = self.mean();
        for (mean, layer) in mean.iter_mut().zip(&layer.sums) {
            let share = (1.0 - own) / all;
            each_upper(mean, |i, row| {
                for (x, y) in row.iter_mut().zip(&layer.row(i)[i..]) {
                    *x = own * *x + share * y;
                }
            });
        }
        // The tokens whose mean would have as much chance in it.
        let tokens = 1.0 / (own * own / tokens.max(1.0) + (1.0 - own) * (1.0 - own) / all);
        Estimate::of(mean, tokens, prior)
    }
}

/// The mean squares of a matrix's inputs, column after column, as a text gave them that is not the covariance's.
#[derive(Debug)]
pub struct MeanSquares {
    /// In any unit.
    pub values: Arc<[f32]>,
    /// How many tokens they are of; None if that is not known: then many.
    pub tokens: Option<f32>,
}

/// A covariance of inputs as other texts have them, nearly.
#[derive(Debug)]
pub struct Estimate {
    /// Segment after segment, what is on and above the diagonals.
    pub segments: Vec<Dense>,
    /// How many tokens it is of; None if it is no estimate.
    pub tokens: Option<f32>,
}

impl Estimate {
    /// Draws the mean of so many tokens towards what the weights say of it, or, if that is not known, towards its diagonal.
    fn of(mut segments: Vec<Dense>, tokens: f32, prior: Option<&Prior>) -> Self {
        for (place, segment) in segments.iter_mut().enumerate() {
            let share = prior.map_or(0.0, |prior| prior.share(place, segment));
            let doubt = TOGETHER + share * (BESIDE_WEIGHTS - TOGETHER);
            let known = tokens / (tokens + doubt * segment.columns() as f32);
            match prior {
                Some(prior) => prior.draw(place, segment, known, share),
                None => apart(segment, known),
            }
        }
        Self { segments, tokens: Some(tokens) }
    }

    /// The same correlations with other mean squares: what an importance matrix says of them counts by its tokens, and what is
    /// here by those `own` ones that are the slice's. Such matrices are mostly of far more text than covariances can be.
    ///
    /// # Panics
    /// If there are not as many columns.
    pub fn with_mean_squares(mut self, others: &MeanSquares, own: usize) -> Self {
        let share = others.tokens.map_or(1.0, |tokens| tokens / (tokens + own as f32 + GUESS));
        let columns: usize = self.segments.iter().map(Dense::columns).sum();
        assert_eq!(others.values.len(), columns, "the columns of all segments");
        let sum = |values: &mut dyn Iterator<Item = f32>| values.map(f64::from).sum::<f64>();
        let here = sum(&mut self
            .segments
            .iter()
            .flat_map(|segment| (0..segment.columns()).map(|i| segment.row(i)[i])));
        let there = sum(&mut others.values.iter().copied());
        // Nothing to tell columns apart by.
        if !(here > 0.0 && there > 0.0) {
            return self;
        }
        let unit = here / there;
        let mut first = 0;
        for segment in &mut self.segments {
            let own: Vec<f32> = (0..segment.columns()).map(|i| segment.row(i)[i]).collect();
            let others =
                others.values[first..first + own.len()].iter().map(|x| (f64::from(*x) * unit) as f32);
            first += own.len();
            let new: Vec<f32> =
                own.iter().zip(others).map(|(own, x)| share * x + (1.0 - share) * own).collect();
            let factor = |(new, own): (&f32, &f32)| if *own > 0.0 { (new / own).sqrt() } else { 0.0 };
            let factors: Vec<f32> = new.iter().zip(&own).map(factor).collect();
            each_upper(segment, |i, row| {
                row[0] = new[i];
                row[1..].iter_mut().zip(&factors[i + 1..]).for_each(|(x, factor)| *x *= factors[i] * factor);
            });
        }
        self
    }

    /// What is known and not estimated.
    pub fn known(segments: Vec<Dense>) -> Self {
        Self { segments, tokens: None }
    }
}

/// Multiplies what is right of the diagonal of a square.
fn apart(square: &mut Dense, factor: f32) {
    each_upper(square, |_, row| row[1..].iter_mut().for_each(|x| *x *= factor));
}

/// Does something with what each row of a square has from its diagonal on, on all threads of the pool.
pub(super) fn each_upper(square: &mut Dense, work: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let n = square.columns();
    let bands = square.values_mut().par_chunks_mut(ROWS * n).enumerate();
    threads::each("rows of a square", bands, |(band, rows)| {
        for (row, values) in rows.chunks_exact_mut(n).enumerate() {
            let i = band * ROWS + row;
            work(i, &mut values[i..]);
        }
    });
}

/// What encoding with feedback needs of the inputs of one segment of columns: the factor of their covariance, by
/// steps.
///
/// With H = R R^T, R upper triangular, errors e cost e H e^T = |e R|^2. Let V be R with its columns over their
/// diagonal elements. Errors left of a step of 256 columns leave e V there, which the step's own weights undo by
/// taking up e V T, T being the inverse of V's corner on the diagonal. So what is above the corners is kept as the
/// right side of products.
#[derive(Debug)]
pub struct Metric {
    /// In the order of the columns.
    pub steps: Vec<Step>,
    /// The diagonal of H, damped: the variance of every column.
    pub variances: Vec<f32>,
    /// U, with which x H y is nearly (x U) (y U)^T: sums of every 256th column of R with the [`Step::signs`].
    ///
    /// In x R R^T y each column of R is multiplied by itself alone; in (x U) (y U)^T those of a sum by one another too, but
    /// with signs that chance gives, so that nothing comes of it in the mean over the draws (a count sketch: Charikar, Chen,
    /// Farach-Colton 2002). One draw serves all rows.
    pub sketch: Panels,
    /// The same columns of H as those of each step.
    pub around: Vec<Around>,
    /// What was to be added to the diagonal, relative to its mean.
    pub damping: f32,
    /// Tokens that the covariance is of; None if it is no estimate.
    pub tokens: Option<f32>,
}

/// Some columns of R.
#[derive(Debug)]
pub struct Step {
    /// Which ones of the segment.
    pub columns: Range<usize>,
    /// Their rows above the corner.
    pub above: Panels,
    /// Their rows on the diagonal: upper triangular.
    pub corner: Panels,
    /// The corner's diagonal: what the columns of R are over to be those of V.
    pub diagonal: Vec<f32>,
    /// T, the inverse of V's corner.
    pub inverse: Dense,
    /// The same, as the right side of products.
    pub moving: Panels,
    /// R_jj^2 of each column: the cost of an error there that columns to its right cannot take up.
    pub importance: Vec<f32>,
    /// With what sign each column of R is in its sum: 1 or -1.
    signs: Vec<f32>,
}

impl Step {
    /// What an own error in each column comes to in the sketch.
    pub fn sketched(&self) -> Vec<f32> {
        self.signs.iter().zip(&self.diagonal).map(|(sign, diagonal)| sign * diagonal).collect()
    }
}

impl Metric {
    /// Of a covariance of which only what is on and above the diagonal is there; what is added to that is `damping` times
    /// its mean.
    ///
    /// # Errors
    /// If it has no factor, for inputs that are not finite.
    pub fn new(covariance: Dense, damping: f32) -> Result<Self> {
        let Damped { r, h } = damped_factor(covariance, damping)?;
        let n = r.columns();
        let step = |start: usize| {
            let columns = start..n.min(start + STEP);
            let width = columns.len();
            let diagonal: Vec<f32> = columns.clone().map(|j| r.row(j)[j]).collect();
            let mut corner = Dense::zeros(width, width);
            let mut over = corner.clone();
            for i in 0..width {
                let row = &r.row(start + i)[columns.clone()];
                corner.row_mut(i)[i..].copy_from_slice(&row[i..]);
                let over = &mut over.row_mut(i)[i..];
                over.iter_mut().zip(&row[i..]).zip(&diagonal[i..]).for_each(|((over, r), d)| *over = r / d);
            }
            let inverse = upper_inverse(over.view());
            Step {
                above: Panels::new(r.view().part(0..start, columns.clone())),
                corner: Panels::new(corner.view()),
                moving: Panels::new(inverse.view()),
                inverse,
                importance: diagonal.iter().map(|d| d * d).collect(),
                diagonal,
                signs: columns.clone().map(sign).collect(),
                columns,
            }
        };
        let starts: Vec<usize> = (0..n).step_by(STEP).collect();
        let steps = threads::map("steps of a factor", &starts, |&start| step(start));
        let sketch = sketch(&r, &steps);
        // As large as what comes now.
        drop(r);
        let around = |&start: &usize| Around::new(&h.columns(start..n.min(start + STEP)), start);
        let around = threads::map("columns of a covariance", &starts, around);
        Ok(Self { sketch, steps, around, variances: h.diagonal, damping, tokens: None })
    }
}

/// The sums of columns of R with their signs.
fn sketch(r: &Dense, steps: &[Step]) -> Panels {
    let mut sums = Dense::zeros(r.columns(), r.columns().min(STEP));
    let width = sums.columns();
    threads::each_rows("sketch", sums.values_mut(), width, |first, sums| {
        for (i, sums) in (first..).zip(sums.chunks_exact_mut(width)) {
            for Step { columns, signs, .. } in &steps[i / STEP..] {
                // What is left of the diagonal is no part of R.
                let own = i.saturating_sub(columns.start);
                let values = signs[own..].iter().zip(&r.row(i)[columns.start + own..columns.end]);
                sums[own..].iter_mut().zip(values).for_each(|(sum, (sign, r))| *sum += sign * r);
            }
        }
    });
    Panels::new(sums.view())
}

/// A sign drawn by chance for a column, the same one every time.
fn sign(column: usize) -> f32 {
    if chance::number(column as u64) & 1 == 1 { 1.0 } else { -1.0 }
}

/// The metrics of the segments of a covariance.
///
/// # Errors
/// As [`Metric::new`].
pub fn metrics(Estimate { segments, tokens }: Estimate, damping: f32) -> Result<Vec<Metric>> {
    let of_segment = |segment| Ok(Metric { tokens, ..Metric::new(segment, damping)? });
    segments.into_iter().map(of_segment).collect()
}

/// w H w^T of every row w: the mean square of what it gives, segments being independent of one another.
///
/// # Panics
/// If the segments do not add up to the rows.
pub fn energies(rows: &Dense, metrics: &[Metric]) -> Vec<f64> {
    let mut energies = vec![0.0; rows.rows()];
    let mut first = 0;
    for metric in metrics {
        for Step { columns, above, corner, .. } in &metric.steps {
            let mut out = Dense::zeros(rows.rows(), columns.len());
            let columns = first + columns.start..first + columns.end;
            let left = rows.view().some_columns(first..columns.start);
            with_panels(out.view_mut(), Accum::Replace, left, above);
            with_panels(out.view_mut(), Accum::Add, rows.view().some_columns(columns), corner);
            for (row, energy) in energies.iter_mut().enumerate() {
                *energy += out.row(row).iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            }
        }
        first += metric.variances.len();
    }
    assert_eq!(first, rows.columns(), "the columns of all segments");
    energies
}

/// A symmetric matrix.
#[derive(Debug)]
pub struct Symmetric {
    pub diagonal: Vec<f32>,
    /// Of each row what is right of the diagonal.
    right: Vec<Vec<f32>>,
}

impl Symmetric {
    /// Some of its columns, all rows of them.
    pub fn columns(&self, columns: Range<usize>) -> Dense {
        let n = self.diagonal.len();
        let mut out = Dense::zeros(n, columns.len());
        for i in 0..n {
            let first = columns.start.max(i + 1);
            if first < columns.end {
                let right = &self.right[i][first - i - 1..columns.end - i - 1];
                out.row_mut(i)[first - columns.start..].copy_from_slice(right);
            }
            if columns.contains(&i) {
                let place = i - columns.start;
                out.row_mut(i)[place] = self.diagonal[i];
                for j in i + 1..n {
                    out.row_mut(j)[place] = self.right[i][j - i - 1];
                }
            }
        }
        out
    }
}

/// A matrix with what was added to its diagonal, and its factor.
#[derive(Debug)]
pub struct Damped {
    /// Upper triangular, with H = R R^T; what is left of the diagonal is of no meaning.
    pub r: Dense,
    pub h: Symmetric,
}

/// The factor of `covariance` with its damped diagonal. `damping` times the mean of the diagonal is added to it, or more
/// where that is not enough.
pub fn damped_factor(mut covariance: Dense, mut damping: f32) -> Result<Damped> {
    let n = covariance.columns();
    let diagonal: Vec<f32> = (0..n).map(|i| covariance.row(i)[i]).collect();
    // The factor takes the place of what is right of the diagonal, which is needed again.
    let rows = (0..n).into_par_iter().with_min_len(ROWS);
    let right: Vec<Vec<f32>> = rows.map(|i| covariance.row(i)[i + 1..].to_vec()).collect();
    let mean = diagonal.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
    let unit = if mean > 0.0 { mean as f32 } else { 1.0 };
    loop {
        let damped: Vec<f32> = diagonal.iter().map(|variance| variance + damping * unit).collect();
        damped.iter().enumerate().for_each(|(i, &variance)| covariance.row_mut(i)[i] = variance);
        match upper_factor(&mut covariance) {
            Ok(()) => return Ok(Damped { r: covariance, h: Symmetric { diagonal: damped, right } }),
            Err(_) if damping < MOST_DAMPING && mean.is_finite() => damping *= 10.0,
            Err(at) => {
                let problem =
                    format!("the covariance of {n} inputs is not positive definite at column {}", at.0);
                return Err(Error::Unsupported(problem));
            }
        }
        each_upper(&mut covariance, |i, row| row[1..].copy_from_slice(&right[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_its_columns_of_the_factor() {
        let n = 300;
        let rows = Dense::new(n, (0..n * 900).map(|i| ((i * 7919) % 1013) as f32 / 1013.0 - 0.4).collect());
        let mut covariance = Covariance::new(n);
        covariance.add(rows.view());
        let h = covariance.mean().remove(0);
        let mean = (0..n).map(|i| h.row(i)[i]).sum::<f32>() / n as f32;
        let Damped { r, h: damped } = damped_factor(h.clone(), DAMPING).expect("positive");
        let metric = Metric::new(h.clone(), DAMPING).expect("positive");
        assert_eq!(metric.steps.len(), 2);
        let Step { columns, above, corner, inverse, importance, .. } = &metric.steps[1];
        assert_eq!((columns.clone(), above.rows(), corner.rows()), (256..300, 256, 44));
        assert_eq!((inverse.row(3)[3], inverse.row(3)[2]), (1.0, 0.0));
        assert_eq!(inverse.row(3)[4], -r.row(259)[260] / r.row(260)[260]);
        // The last weight is worth all of its variance, since nothing can make it good.
        let last = h.row(299)[299] + 0.01 * mean;
        assert!((importance[43] / last - 1.0).abs() < 1e-5, "{} {last}", importance[43]);

        // Of a row with two weights in different steps.
        assert_eq!(metric.variances, damped.diagonal);
        let variances = &metric.variances;
        let mut row = Dense::zeros(1, n);
        (row.row_mut(0)[7], row.row_mut(0)[290]) = (2.0, -3.0);
        let expected = 4.0 * variances[7] - 12.0 * h.row(7)[290] + 9.0 * variances[290];
        let found = energies(&row, std::slice::from_ref(&metric))[0];
        assert!((found / f64::from(expected) - 1.0).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn few_tokens_count_little() {
        let mut layer = Covariance::new(2);
        layer.add(Dense::new(2, vec![2.0; 100]).view());
        let mut expert = Covariance::new(2);
        // None of its own: those of the layer, 50 for two columns, so 50 / (50 + 8) of what is off the diagonal.
        let Estimate { segments, tokens } = expert.clone().estimate_in(&layer, None);
        assert_eq!((tokens, &segments[0].values()[..2]), (Some(50.0), &[4.0, 4.0 * (50.0 / 58.0)][..]));
        // Four for each column: half its own, half the layer's.
        expert.add(Dense::new(2, vec![1.0; 16]).view());
        let Estimate { segments, tokens } = expert.clone().estimate_in(&layer, None);
        assert_eq!((tokens.map(f32::round), segments[0].values()[0]), (Some(28.0), 2.5));
        // Alone: 8 of 8 + 8.
        let alone = expert.clone().estimate(None);
        assert_eq!((alone.tokens, &alone.segments[0].values()[..2]), (Some(8.0), &[1.0, 0.5][..]));
        assert_eq!(expert.shrunk(24.0)[0].values()[..2], [1.0, 0.25]);
    }

    #[test]
    fn mean_squares_of_more_text_leave_the_correlations() {
        let estimate =
            || Estimate { segments: vec![Dense::new(2, vec![1.0, 0.5, 0.0, 4.0])], tokens: Some(8.0) };
        let with = |values: [f32; 2], tokens, own| {
            let Estimate { segments, tokens } =
                estimate().with_mean_squares(&MeanSquares { values: values.into(), tokens }, own);
            assert_eq!(tokens, Some(8.0));
            let &[a, both, _, b] = segments[0].values() else { panic!("two columns") };
            [a, both, b]
        };
        // In whatever unit: five in all, as before. A correlation of a quarter.
        assert_eq!(with([0.4, 0.1], None, 1000), [4.0, 0.5, 1.0]);
        assert_eq!(with([4e30, 1e30], None, 1000), [4.0, 0.5, 1.0]);
        assert_eq!(with([1.0, 0.0], None, 1000), [5.0, 0.0, 0.0]);
        // As many tokens here and there: half way.
        let [a, both, b] = with([0.4, 0.1], Some(100.0), 68);
        assert_eq!([a, b], [2.5, 2.5]);
        assert!((both / 2.5 - 0.25).abs() < 1e-6, "{both}");
        assert_eq!(with([0.0, 0.0], Some(100.0), 68), [1.0, 0.5, 4.0]);
    }

    #[test]
    fn wide_rows_have_segments() {
        assert_eq!(segments(7168), [7168]);
        assert_eq!(segments(16384), [8192, 8192]);
        assert_eq!(segments(18432), [6144, 6144, 6144]);
        assert_eq!(segments(48), [48]);
        assert_eq!(segments(8200), [4352, 3848]);
        let mut covariance = Covariance::new(8200);
        let row: Vec<f32> = (0..8200).map(|i| i as f32).collect();
        covariance.add(Dense::new(8200, row).view());
        let mean = covariance.mean();
        assert_eq!(mean[1].values()[1], 4352.0 * 4353.0);
    }

    #[test]
    fn inputs_that_rounding_would_lose_are_damped_more() {
        // Two that are nearly the same and very large, and many small ones.
        let mut covariance = Dense::zeros(64, 64);
        (0..64).for_each(|i| covariance.row_mut(i)[i] = 1e-6);
        (covariance.row_mut(0)[0], covariance.row_mut(1)[1], covariance.row_mut(0)[1]) = (1.0, 1.0, 1.05);
        let Damped { r, .. } = damped_factor(covariance, DAMPING).expect("damped");
        let first = r.row(0)[0] * r.row(0)[0] + r.row(0)[1] * r.row(0)[1];
        assert!(first > 1.03, "{first}");
        let mut broken = Dense::zeros(2, 2);
        broken.row_mut(0)[0] = f32::NAN;
        assert!(damped_factor(broken, DAMPING).is_err());
    }
}
