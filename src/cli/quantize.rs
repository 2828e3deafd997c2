//! `quantpress quantize`: the checkpoint to a GGUF file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::device::DeviceArgs;
use super::feedback::{FeedbackArgs, Kept};
use super::outputs::Existing;
use super::planning::{Planned, Planning, Purpose};
use super::progress::{Making, Style};
use super::release::ReleaseArgs;
use super::size;
use super::threads::{thread_count, threads};
use super::trace::TraceArgs;
use super::{SCHEMA, columns, interrupt, print};
use crate::error::Warning;
use crate::gguf::beside;
use crate::log;
use crate::pipeline::{Event, Job, Made, default_memory, run};
use crate::plain::{self, plain};
use crate::report::{Size, Summary, counted, peak_memory};

/// Turn a checkpoint into a GGUF file
#[derive(Debug, Args)]
#[command(mut_arg("device", |argument| argument.requires("feedback")))]
pub struct Quantize {
    #[command(flatten)]
    planning: Planning,

    /// The file to write; it appears under this name only when it is whole. Unfinished work is kept in FILE.part and
    /// FILE.journal, and the same command goes on with it. hf://org/name/FILE.gguf, a repository of the Hugging Face hub,
    /// or s3://bucket/FILE.gguf: each finished file is uploaded, with its manifest, while the next is made
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    feedback: FeedbackArgs,

    /// Hidden states that calibrate --states has kept of the same text: with --feedback a --part begins from the nearest,
    /// and without goes through the checkpoint's layers before its own
    #[arg(long, value_name = "DIR", requires_all = ["texts", "part"], conflicts_with = "split")]
    states: Option<PathBuf>,

    /// Gradients that calibrate --gradients has kept of the first chunks of the same text: with --feedback, the errors of
    /// an output are taken up by the outputs after it as well, by what they do to the model's answers
    #[arg(long, value_name = "DIR", requires = "texts")]
    gradients: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    release: ReleaseArgs,

    /// Threads [default: all]; the file's bytes do not depend on it
    #[arg(short, long, value_parser = thread_count(), env = "QUANTPRESS_THREADS", hide_env_values = true)]
    threads: Option<u16>,

    /// Memory for buffers; what is needed besides is the checkpoint's headers and the tokenizer [default: 32MB and
    /// 16MB for each thread]. With --feedback for hidden states and covariances, one block of weights coming on top
    /// [default: 4GB]
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, env = "QUANTPRESS_MEMORY", hide_env_values = true)]
    memory: Option<u64>,

    /// Forget what an interrupted run has done and begin anew
    #[arg(long)]
    restart: bool,

    /// Replace a finished file that is there. Without it the same work ends at once, and other work is refused
    #[arg(long)]
    force: bool,

    /// Do not reserve the space on the disk beforehand.
    #[arg(long, hide = true)]
    no_reserve: bool,

    /// Seconds after which what was written is made durable and recorded.
    #[arg(long, hide = true, default_value_t = 5.0, value_parser = seconds)]
    sync_seconds: f64,

    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Events as JSON lines on stdout
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    #[command(flatten)]
    trace: TraceArgs,
}

impl Quantize {
    /// The file of `--trace`.
    pub fn trace(&self) -> Option<&Path> {
        self.trace.file()
    }

    /// Plans, works, and says what was made.
    pub fn run(self) -> Result<()> {
        let style = if self.json { Style::Json } else { Style::talking(self.quiet) };
        interrupt::flag();
        self.planning.check_machine()?;
        let threads = threads(self.threads);
        let target = self.release.target(&self.output)?;
        // Where files are until they are uploaded.
        let output = target.as_ref().map_or(&self.output, |(_, local)| local).clone();
        let mut files = self.planning.files();
        files.read("--text", self.feedback.texts());
        files.read("--card", self.release.files());
        let mut before = files.clone();
        // The names of a split's files are not known yet; that of their journal is.
        let ends: &[&str] = if self.planning.is_split() { &[".journal", ".feedback"] } else { BESIDE };
        before.write("-o", Some(&output), ends, Existing::Known);
        before.check(self.force)?;
        let feedback = self.feedback.digest(self.gradients.as_deref())?;
        let place = target.as_ref().map(|(target, _)| self.release.open(target)).transpose()?;
        let planned = self.planning.plan((threads, style), feedback, Purpose::Write)?;
        // The names of split files depend on how many there are.
        files.now_written();
        for name in names(&planned, &output) {
            files.write("-o", Some(&name), BESIDE, Existing::Known);
        }
        files.check(self.force)?;
        planned.save_recipe(self.force)?;
        let importances = planned.importances()?;
        let mut summary = Summary::new(&planned.plan, &importances);
        summary.fit = planned.fit.clone();
        // Said when the file is made.
        let mut better = None;
        match style {
            Style::Json => {
                let mut plan = serde_json::to_value(&summary)?;
                plan["event"] = "planned".into();
                plan["schema"] = SCHEMA.into();
                print(plan)?;
            }
            Style::Quiet => {}
            _ => {
                better = summary.better.take().filter(|_| planned.part.is_none());
                log::say(summary.within(columns(&std::io::stderr())));
            }
        }

        let progress = Making::new(style);
        let listener = |event: Event<'_>| progress.event(event);
        let memory = || default_memory(threads) + planned.checkpoint.source().buffers();
        let job = Job {
            store: &planned.checkpoint,
            checkpoint: &planned.checkpoint,
            plan: &planned.plan,
            importances: &importances,
            output: &output,
            part: planned.part,
            threads,
            memory: self.memory.unwrap_or_else(memory),
            restart: self.restart,
            force: self.force,
            strict: planned.strict,
            reserve: !self.no_reserve,
            sync: Duration::from_secs_f64(self.sync_seconds),
            stop: interrupt::flag(),
            listener: &listener,
        };
        if planned.plan.feedback.is_some() {
            self.device.choose(matches!(style, Style::Json | Style::Quiet))?;
        }
        let make = |job: &Job| match planned.plan.feedback {
            Some(_) => {
                let kept = Kept { states: self.states.as_deref(), gradients: self.gradients.as_deref() };
                self.feedback.run(&planned, job, kept, self.memory, &progress)
            }
            None => run(job),
        };
        if let Some(((target, _), place)) = target.as_ref().zip(place.as_deref()) {
            return self.release.run((target, place), &planned, job, style, &make);
        }
        let made = make(&job)?;
        let Made { files, bytes, bits_per_weight, stages, sealing, warnings, digests, already } = made;
        warnings.iter().for_each(log::warn);

        let so_far = progress.so_far();
        let (seconds, memory) = (so_far.time.as_secs_f64(), peak_memory());
        match style {
            Style::Json => print(json!({
                "event": "done",
                "output": plain::path(&self.output),
                "files": files.iter().map(|file| plain::path(file)).collect::<Vec<_>>(),
                "manifests": files.iter().map(|file| plain::path(&beside(file, ".json"))).collect::<Vec<_>>(),
                "files_sha256": digests,
                "already_made": already,
                "warnings": warnings.iter().map(Warning::to_string).collect::<Vec<_>>(),
                "bytes": bytes,
                "seconds": seconds,
                "busy": stages,
                "limit": stages.map(|stages| stages.limit()),
                "sealing_seconds": sealing,
                "peak_memory_bytes": memory,
            })),
            Style::Quiet => Ok(()),
            _ if already => print(format_args!("{}: already made of this", files[0].display())),
            _ => {
                let rate = so_far.rate() / 1e6;
                let memory =
                    memory.map_or(String::new(), |bytes| format!(", at most {} of memory", Size(bytes)));
                let threads = counted(threads, "thread");
                log::say(format_args!(
                    "{seconds:.1} s, {rate:.1} million weights a second on {threads}{memory}"
                ));
                let stages = stages.map_or(String::new(), |stages| format!("{stages}; "));
                log::say(format_args!("{stages}{sealing:.1} s to read the file back for its digests"));
                if let (None, Some(first)) = (planned.part, files.first()) {
                    // Repacked copies of what could be mapped are memory that cannot be given back.
                    let repack = if summary.resident.experts > 0 { " --no-repack" } else { "" };
                    let file = plain(first.display());
                    log::say(format_args!("run it with llama.cpp: llama-server -m {file} -c 8192{repack}"));
                }
                if let Some(better) = better {
                    log::say(better);
                }
                match &files[..] {
                    [file] => print(format_args!(
                        "{}: {}, {bits_per_weight:.4} bits per weight",
                        plain(file.display()),
                        Size(bytes)
                    )),
                    [first, ..] => print(format_args!(
                        "{} and {} more: {}, {bits_per_weight:.4} bits per weight",
                        plain(first.display()),
                        files.len() - 1,
                        Size(bytes)
                    )),
                    [] => Ok(()),
                }
            }
        }
    }
}

/// Ends of the names that are made from an output's.
const BESIDE: &[&str] = &[".part", ".journal", ".json", ".feedback", ".upload"];

/// The files that will be made.
fn names(planned: &Planned, output: &Path) -> Vec<PathBuf> {
    let plan = &planned.plan;
    let all = 0..plan.files.len();
    let made = planned.part.map_or(all, |part| usize::from(part) - 1..usize::from(part));
    made.map(|file| plan.split.name(output, file, plan.files.len())).collect()
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds".into()),
    }
}
