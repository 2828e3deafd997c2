//! `quantize -o hf://org/name/FILE.gguf` and `-o s3://bucket/FILE.gguf`: files that go to a hub or a bucket as they are
//! made.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::interrupt;
use super::planning::Planned;
use super::print;
use super::progress::{Display, Style};
use crate::error::{Error, Warning};
use crate::log;
use crate::pipeline::{Job, Made};
use crate::release::{
    CARD, Card, Content, DEFAULT_CARD, Place, Release, Released, Target, Told, Upload, name, open, run,
};
use crate::report::Size;
use crate::whole;

/// A template is never larger.
const MAX_TEMPLATE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// With -o hf:// or s3://: the folder for files until they are uploaded [default: the current one]
    #[arg(long, value_name = "FOLDER")]
    staging: Option<PathBuf>,

    /// With -o hf:// or s3://: remove each file from this machine when it is uploaded; with --split at most two are on
    /// the disk then
    #[arg(long)]
    drop: bool,

    /// With -o hf:// or s3://: the template of the card (README.md), which then replaces the one that is there
    /// [default: a card if there is none]
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
}

impl ReleaseArgs {
    /// Where files go that do not stay here, and where they are until then.
    ///
    /// # Errors
    /// If the output is no sound target, or something is asked for that only a target has.
    pub fn target(&self, output: &Path) -> Result<Option<(Target, PathBuf)>, Error> {
        let given =
            [("--staging", self.staging.is_some()), ("--drop", self.drop), ("--card", self.card.is_some())];
        match Target::of(output)? {
            Some(target) => {
                let local = self.staging.clone().unwrap_or_default().join(target.file_name());
                Ok(Some((target, local)))
            }
            None => match given.iter().find(|(_, given)| *given) {
                Some((option, _)) => {
                    let problem = "is for files that are uploaded, by -o hf://org/name/FILE.gguf or s3://bucket/FILE.gguf";
                    Err(Error::Argument(format!("{option} {problem}")))
                }
                None => Ok(None),
            },
        }
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.card.iter()
    }

    /// Opens the target, before hours of work.
    pub fn open(&self, target: &Target) -> Result<Box<dyn Place>, Error> {
        open(target, interrupt::flag())
    }

    /// Makes the files of the job and uploads them.
    pub fn run(
        &self,
        (target, place): (&Target, &dyn Place),
        planned: &Planned,
        job: Job,
        style: Style,
        make: &(dyn Fn(&Job) -> Result<Made, Error> + Sync),
    ) -> Result<()> {
        let sent = Display::new(style);
        let told = |told: Told| tell(style, &sent, told);
        let card = self.card(target, place, planned, &job)?;
        let release = Release { target, place, card, remove: self.drop, force: job.force, told: &told };
        // With feedback a layer is made on what the files have of those before it: all files are one work.
        let one_by_one = job.part.is_none() && job.plan.files.len() > 1 && job.plan.feedback.is_none();
        let jobs: Vec<Job> = match one_by_one {
            true => job.files().map(|file| Job { part: Some(file as u16 + 1), ..job }).collect(),
            false => vec![job],
        };
        let warnings = Mutex::new(Vec::new());
        let make = |job: &Job| {
            let made = make(job)?;
            made.warnings.iter().for_each(log::warn);
            let told = made.warnings.iter().map(Warning::to_string);
            warnings.lock().expect("no thread panics while it holds the warnings").extend(told);
            Ok(made)
        };
        let released = run(&release, &jobs, &make)?;
        let warnings = warnings.into_inner().expect("no thread panics while it holds the warnings");
        summary((target, place), &released, &warnings, style)
    }

    /// The card, if there is none yet or the user has a template.
    fn card(
        &self,
        target: &Target,
        place: &dyn Place,
        planned: &Planned,
        job: &Job,
    ) -> Result<Option<Upload>, Error> {
        let ask = || place.find(CARD).map_err(|error| Error::io("upload to", target.to_string(), error));
        if self.card.is_none() && ask()?.is_some() {
            return Ok(None);
        }
        let template = match &self.card {
            Some(path) => {
                let fault = |problem| Error::Argument(format!("--card {}: {problem}", path.display()));
                whole::read_text(path, MAX_TEMPLATE, fault)?
            }
            None => DEFAULT_CARD.to_owned(),
        };
        let files = 0..job.plan.files.len();
        let names: Vec<String> = files.map(|file| name(job.plan, job.output, file)).collect();
        let text =
            Card::new(job.plan, &names, planned.repository()).write(&template, self.card.as_deref())?;
        Ok(Some(Upload { name: CARD.to_owned(), content: Content::Bytes(text.into_bytes()) }))
    }
}

/// What is there now, for the user.
fn summary(
    (target, place): (&Target, &dyn Place),
    released: &[Released],
    warnings: &[String],
    style: Style,
) -> Result<()> {
    let bytes: u64 = released.iter().map(|file| file.bytes).sum();
    let already = released.iter().all(|file| file.already);
    match style {
        Style::Quiet => Ok(()),
        Style::Json => print(json!({
            "event": "done",
            "output": target.to_string(),
            "files": released.iter().map(|file| &file.name).collect::<Vec<_>>(),
            "files_sha256": released.iter().map(|file| &file.sha256).collect::<Vec<_>>(),
            "already_made": already,
            "warnings": warnings,
            "bytes": bytes,
            "page": place.page(),
        })),
        _ => {
            let word = if already { "already there" } else { "uploaded" };
            let count = released.len();
            let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
            print(format_args!("{target}: {files}, {} {word}; {}", Size(bytes), place.page()))
        }
    }
}

/// What happens, for the user; what is sent is shown beside what is made.
fn tell(style: Style, sent: &Display, told: Told) {
    match (style, told) {
        (Style::Quiet, _) => {}
        (Style::Json, told) => {
            let event = match told {
                Told::There(file) => json!({"event": "there", "file": file}),
                Told::Sending(file, bytes) => json!({"event": "uploading", "file": file, "bytes": bytes}),
                Told::Sent(file, bytes) => json!({"event": "sent", "file": file, "bytes": bytes}),
                Told::Uploaded(file) => json!({"event": "uploaded", "file": file}),
            };
            // That stdout is closed is no error.
            let _ = print(event);
        }
        (_, Told::There(file)) => log::say(format_args!("{file} is there already")),
        (_, Told::Sending(file, bytes)) => {
            log::say(format_args!("uploading {file}, {}", Size(bytes)));
            sent.begin(bytes, 0);
        }
        (_, Told::Sent(file, bytes)) => sent.more(&format!("{file}: sent"), bytes, bytes),
        (_, Told::Uploaded(file)) => log::say(format_args!("uploaded {file}")),
    }
}
