//! `quantpress quantize`: the checkpoint to a GGUF file.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::feedback::FeedbackArgs;
use super::planning::{Planning, thread_count, threads};
use super::print;
use crate::pipeline::run;
use crate::report::{Progress, Size, Style, Summary, peak_memory};

/// Turn a checkpoint into a GGUF file
#[derive(Debug, Args)]
pub struct Quantize {
    #[command(flatten)]
    planning: Planning,

    /// The file to write; it appears under this name only when it is whole
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    feedback: FeedbackArgs,

    /// Threads [default: all]; the file's bytes do not depend on it
    #[arg(short, long, value_parser = thread_count())]
    threads: Option<u16>,

    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,

    /// Events as JSON lines on stdout
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

impl Quantize {
    /// Plans, works, and says what was made.
    pub fn run(self) -> Result<()> {
        let style = match (self.json, self.quiet) {
            (true, _) => Style::Json,
            (_, true) => Style::Quiet,
            _ if std::io::stderr().is_terminal() => Style::Bar,
            _ => Style::Lines,
        };
        let planned = self.planning.plan()?;
        let importances = planned.importances()?;
        let summary = Summary::new(&planned.plan, &importances);
        match style {
            Style::Json => {
                let mut plan = serde_json::to_value(&summary)?;
                plan["event"] = "planned".into();
                print(plan)?;
            }
            Style::Quiet => {}
            _ => eprintln!("{summary}"),
        }

        let progress = Progress::new(style);
        let threads = threads(self.threads);
        if self.feedback.wanted() {
            let quiet = matches!(style, Style::Quiet | Style::Json);
            self.feedback.run(&planned, &importances, &self.output, threads, quiet)?;
        } else {
            let listener = |event| progress.event(event);
            run(&planned.checkpoint, &planned.plan, &importances, &self.output, threads, &listener)?;
        }

        let (seconds, memory) = (progress.elapsed().as_secs_f64(), peak_memory());
        match style {
            Style::Json => print(json!({
                "event": "done",
                "output": self.output,
                "bytes": summary.file_bytes,
                "seconds": seconds,
                "peak_memory_bytes": memory,
            })),
            Style::Quiet => Ok(()),
            _ => {
                let rate = summary.weights as f64 / seconds / 1e6;
                let memory =
                    memory.map_or(String::new(), |bytes| format!(", at most {} of memory", Size(bytes)));
                eprintln!("{seconds:.1} s, {rate:.1} Mw/s on {threads} threads{memory}");
                let output = self.output.display();
                print(format_args!(
                    "{output}: {}, {:.4} bits per weight",
                    Size(summary.file_bytes),
                    summary.bits_per_weight
                ))
            }
        }
    }
}
