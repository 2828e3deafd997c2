//! The open tensors of a recipe as groups with candidates, and back from an allocation to choices. Pure.

use quant_kernels::Format::{self, *};

use super::damage::Coefficients;
use super::{Table, coefficients, measure};
use crate::error::{Error, Result};
use crate::gguf::ALIGNMENT;
use crate::model::{Model, Role, TensorPlan};
use crate::recipe::{Candidate, Choice, Decision, Impossible, allocate, curve, range};

/// The types that are tried: those on the lower hull of size and error for Gaussian weights, and three that measured
/// rows put there at times.
pub const DEFAULT_TYPES: [Format; 13] =
    [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, Q2_K, IQ3_XXS, IQ3_S, IQ4_XS, Q4_K, Q5_K, Q6_K, Q8_0];

/// Tensors that share a type, and what each type does to them.
#[derive(Clone, Debug)]
pub struct Open {
    /// Their places in the model.
    pub tensors: Vec<usize>,
    /// The types, of ascending size.
    pub formats: Vec<Format>,
    /// Bytes (with padding) and damage of each type.
    pub candidates: Vec<Candidate>,
}

/// A type for every tensor.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// In the model's order.
    pub choices: Vec<Choice>,
    /// Bytes (with padding) and expected damage of the tensors that were open.
    pub open: Candidate,
}

/// A recipe's decisions with all that an allocation needs.
#[derive(Debug)]
pub struct Choices<'a> {
    model: &'a Model,
    table: &'a Table,
    coefficients: Vec<f64>,
    decisions: &'a [Decision],
    feedback: bool,
    /// The groups that are open.
    pub open: Vec<Open>,
}

impl<'a> Choices<'a> {
    /// Finds the groups and their candidates among `types`, by errors with feedback if the file is made so.
    ///
    /// # Errors
    /// If the table has no measurement of an open tensor, or a recipe's bounds leave a tensor no type.
    pub fn new(
        model: &'a Model,
        decisions: &'a [Decision],
        table: &'a Table,
        types: &[Format],
        feedback: bool,
    ) -> Result<Self> {
        let Coefficients { of_tensors: coefficients, are_measured } = coefficients(model, table);
        let mut choices = Self { model, table, coefficients, decisions, feedback, open: Vec::new() };
        let mut last: Option<((Option<u32>, Role), usize)> = None;
        for (index, tensor) in model.tensors.iter().enumerate() {
            let &Decision::Open { min, min_unmeasured, max, .. } = &decisions[index] else { continue };
            let min = [min, min_unmeasured.filter(|_| !are_measured)]
                .into_iter()
                .flatten()
                .max_by(|a, b| a.bits_per_weight().total_cmp(&b.bits_per_weight()));
            let formats = formats(tensor, min, max, types);
            if formats.is_empty() {
                let bound = |name: &str, bound: Option<Format>| {
                    bound.map_or(String::new(), |f| format!(", {name} {f}"))
                };
                return Err(Error::Argument(format!(
                    "{}: no type is left by the recipe's bounds{}{} and --types",
                    tensor.name,
                    bound("min", min),
                    bound("max", max)
                )));
            }
            let candidates = formats
                .iter()
                .map(|&format| {
                    let bytes = format.row_bytes(tensor.columns()) * (tensor.weights() / tensor.columns());
                    let damage = choices.damage(index, format)?;
                    Ok(Candidate { bytes: bytes.next_multiple_of(ALIGNMENT), damage })
                })
                .collect::<Result<Vec<Candidate>>>()?;
            let key = tensor.part.one_type.then_some((tensor.layer, tensor.role));
            let partner = last.filter(|(before, _)| key == Some(*before)).map(|(_, at)| at);
            match partner.map(|at| &mut choices.open[at]).filter(|open| open.formats == formats) {
                Some(open) => {
                    open.tensors.push(index);
                    for (sum, candidate) in open.candidates.iter_mut().zip(candidates) {
                        sum.bytes += candidate.bytes;
                        sum.damage += candidate.damage;
                    }
                }
                None => {
                    if let Some(key) = key {
                        last = Some((key, choices.open.len()));
                    }
                    choices.open.push(Open { tensors: vec![index], formats, candidates });
                }
            }
        }
        Ok(choices)
    }

    /// Expected damage of a tensor in a type.
    ///
    /// # Errors
    /// If it was not measured.
    pub fn damage(&self, tensor: usize, format: Format) -> Result<f64> {
        Ok(self.coefficients[tensor] * self.error(tensor, format)?)
    }

    fn error(&self, tensor: usize, format: Format) -> Result<f64> {
        let name = &self.model.tensors[tensor].name;
        self.table.get(name).and_then(|measured| measured.error(format, self.feedback)).ok_or_else(|| {
            Error::Argument(format!(
                "the table of sensitivities has no error of {name} in {format}; name a new file to measure it"
            ))
        })
    }

    /// Whether a tensor's errors are those with feedback.
    fn is_fed(&self, tensor: usize) -> bool {
        let entry = self.table.get(&self.model.tensors[tensor].name);
        self.feedback && entry.is_some_and(|entry| !entry.with_feedback.is_empty())
    }

    /// Choices of the smallest size.
    ///
    /// # Errors
    /// As [`Self::damage`].
    pub fn smallest(&self) -> Result<Chosen> {
        let groups = self.groups();
        let smallest = range(&groups).smallest;
        self.choose(smallest).map(|found| found.expect("the smallest size is possible"))
    }

    /// Bytes and damage of the open tensors at sizes from the smallest to the largest, at most so many.
    pub fn curve(&self, points: u64) -> Vec<Candidate> {
        curve(&self.groups(), points)
    }

    /// Bytes of the smallest and of the largest allocation.
    pub fn range(&self) -> Impossible {
        range(&self.groups())
    }

    /// The best choices whose open tensors take at most `budget` bytes, padding included.
    ///
    /// # Errors
    /// The inner one if no choice has such a size.
    pub fn choose(&self, budget: u64) -> Result<Result<Chosen, Impossible>> {
        let chosen = match allocate(&self.groups(), budget) {
            Ok(chosen) => chosen,
            Err(impossible) => return Ok(Err(impossible)),
        };
        let picked = || self.open.iter().zip(&chosen).map(|(open, &at)| open.candidates[at]);
        let total: f64 = picked().map(|candidate| candidate.damage).sum();
        let mut choices: Vec<Option<Choice>> = self
            .decisions
            .iter()
            .map(|decision| match decision {
                Decision::Fixed(choice) => Some(choice.clone()),
                Decision::Open { .. } => None,
            })
            .collect();
        for (open, &at) in self.open.iter().zip(&chosen) {
            let format = open.formats[at];
            for &tensor in &open.tensors {
                let (error, damage) = (self.error(tensor, format)?, self.damage(tensor, format)?);
                let share = if total > 0.0 { 100.0 * damage / total } else { 0.0 };
                let error = 100.0 * error;
                let fed = if self.is_fed(tensor) { " with feedback" } else { "" };
                let reason =
                    format!("error{fed} {error:.2} %, expected damage {damage:.2e}, {share:.2} % of all");
                choices[tensor] = Some(Choice { format, wanted: None, reason });
            }
        }
        let open = Candidate { bytes: picked().map(|candidate| candidate.bytes).sum(), damage: total };
        Ok(Ok(Chosen { choices: choices.into_iter().flatten().collect(), open }))
    }

    fn groups(&self) -> Vec<Vec<Candidate>> {
        self.open.iter().map(|open| open.candidates.clone()).collect()
    }
}

/// The types that a tensor may have, of ascending size.
fn formats(tensor: &TensorPlan, min: Option<Format>, max: Option<Format>, types: &[Format]) -> Vec<Format> {
    let mut formats = measure::formats(tensor, types);
    let bits = Format::bits_per_weight;
    if formats == [F16] && !types.contains(&F16) {
        // Rows that fill the blocks of no type: that is what is left for them, whatever the bounds.
        return formats;
    }
    formats.retain(|&format| {
        min.is_none_or(|min| bits(format) >= bits(min)) && max.is_none_or(|max| bits(format) <= bits(max))
    });
    formats.sort_by(|a, b| bits(*a).total_cmp(&bits(*b)).then(a.cmp(b)));
    formats
}
