//! `quantpress report`: a plan or a manifest as one HTML page.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::outputs::{self, Existing, Files, Written};
use super::print;
use crate::plain::plain;
use crate::report::subject::{read, read_certificate, read_run};
use crate::report::{Size, page};

/// Show a plan or a finished file as one HTML page: sizes, types, errors, trade-off, time, warnings
#[derive(Debug, Args)]
pub struct Report {
    /// The manifest that quantize wrote (FILE.gguf.json; all of a split's), or the output of plan --json
    #[arg(required = true, value_name = "MANIFEST|PLAN")]
    files: Vec<PathBuf>,

    /// The page to write; it loads nothing and runs no scripts
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,

    /// The output of quantize --json: where the time went
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,

    /// The output of evaluate --json: divergence from the checkpoint, error after every layer
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// Replace the page if another one is there
    #[arg(long)]
    force: bool,
}

impl Report {
    /// Reads, draws, writes.
    pub fn run(self) -> Result<()> {
        let mut files = Files::default();
        files.read("MANIFEST|PLAN", &self.files);
        files.read("--events", &self.events);
        files.read("--certificate", &self.certificate);
        files.write("-o", Some(&self.output), &[".part"], Existing::Known);
        files.check(self.force)?;
        let mut subject = read(&self.files)?;
        subject.run = self.events.as_deref().map(|path| read_run(path, &subject)).transpose()?;
        subject.certificate =
            self.certificate.as_deref().map(|path| read_certificate(path, &subject)).transpose()?;
        files.keep("the manifest describes", &subject.files);
        files.check(self.force)?;
        let page = page(&subject);
        let already = match outputs::write("-o", &self.output, page.as_bytes(), self.force)? {
            Written::Already => "already made, ",
            Written::Made => "",
        };
        print(format_args!("{}: {already}{}", plain(self.output.display()), Size(page.len() as u64)))
    }
}
