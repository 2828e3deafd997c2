//! `quantpress plan`: the decisions and the exact size, without reading a matrix (but a sample for `--size`).

use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::feedback::FeedbackArgs;
use super::planning::{Planned, Planning, Purpose};
use super::progress::Style;
use super::threads::{thread_count, threads};
use super::{columns, print, print_block};
use crate::feedback::starts;
use crate::pipeline::rates;
use crate::plain::plain;
use crate::report::{Sketch, Summary, peak_memory};

/// Show what quantize would write, to the byte; no matrix is read, but for a sample with --size
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    planning: Planning,

    #[command(flatten)]
    feedback: FeedbackArgs,

    /// Threads to sample with, and to estimate the time for [default: all]
    #[arg(short, long, value_parser = thread_count(), env = "QUANTPRESS_THREADS", hide_env_values = true)]
    threads: Option<u16>,

    /// Replace the file of --save-recipe if it is there
    #[arg(long, requires = "save_recipe")]
    force: bool,

    /// List every tensor with its type and the reason
    #[arg(long, conflicts_with = "json")]
    tensors: bool,

    /// Print JSON, tensors included
    #[arg(long)]
    json: bool,
}

/// The plan as JSON.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// The layers before which files begin that are made by themselves with feedback.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts_begin_before: Vec<usize>,
    tensor_list: Vec<Tensor<'a>>,
    /// What planning itself took.
    seconds: f64,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    role: &'static str,
    shape: &'a [u64],
    #[serde(rename = "type")]
    format: &'static str,
    bytes: u64,
    /// Which file of a split, counted from 1.
    file: usize,
    offset: u64,
    reason: &'a str,
}

impl Plan {
    /// Plans and prints.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let threads = threads(self.threads);
        let mut files = self.planning.files();
        files.read("--text", self.feedback.texts());
        files.check(self.force)?;
        // The program ends behind this. To take hundreds of thousands of names apart would be a tenth of its time.
        let planned = ManuallyDrop::new(self.planning.plan(
            (threads, Style::talking(false)),
            self.feedback.digest(None)?,
            Purpose::Show,
        )?);
        planned.save_recipe(self.force)?;
        let mut summary = Summary::new(&planned.plan, &planned.importances()?);
        if planned.plan.feedback.is_none() {
            summary.estimate(&rates(&planned.plan)?, threads);
        }
        summary.fit = planned.fit.clone();
        let tensors = tensors(&planned);
        let begin = if planned.plan.feedback.is_some() { starts(&planned.plan) } else { Vec::new() };
        if self.json {
            let json = Json {
                summary: &summary,
                parts_begin_before: begin,
                tensor_list: tensors,
                seconds: start.elapsed().as_secs_f64(),
                peak_memory_bytes: peak_memory(),
            };
            return print(serde_json::to_string_pretty(&json)?);
        }
        if self.tensors {
            for tensor in tensors {
                print(format_args!("{:<36} {:<8} {}", tensor.name, tensor.format, plain(tensor.reason)))?;
            }
            print("")?;
        }
        let width = columns(&io::stdout());
        print_block(summary.within(width))?;
        let colors = io::stdout().is_terminal() && are_colors_wanted();
        print_block(format_args!("\n{}", Sketch { plan: &planned.plan, colors, width }))?;
        if begin.is_empty() {
            return Ok(());
        }
        let layers: Vec<String> = begin.iter().map(usize::to_string).collect();
        print(format_args!(
            "\napart     --part makes each file by itself, best from states kept by\n          \
             calibrate --states DIR --at {}",
            layers.join(",")
        ))
    }
}

/// What a user's environment says of colours (no-color.org: an empty value says nothing).
fn are_colors_wanted() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

fn tensors(planned: &Planned) -> Vec<Tensor<'_>> {
    let plan = &planned.plan;
    plan.model
        .tensors
        .iter()
        .zip(&plan.choices)
        .enumerate()
        .map(|(index, (tensor, choice))| (index, tensor, choice, plan.place(index)))
        .map(|(index, tensor, choice, (file, offset))| Tensor {
            name: &tensor.name,
            role: tensor.role.name(),
            shape: &tensor.shape,
            format: choice.format.name(),
            bytes: plan.bytes(index),
            file: file + 1,
            offset,
            reason: &choice.reason,
        })
        .collect()
}
