//! `quantpress report`: a plan or a manifest as one HTML page.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::print;
use crate::disk;
use crate::error::Error;
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
}

impl Report {
    /// Reads, draws, writes.
    pub fn run(self) -> Result<()> {
        let mut subject = read(&self.files)?;
        subject.run = self.events.as_deref().map(|path| read_run(path, &subject)).transpose()?;
        subject.certificate =
            self.certificate.as_deref().map(|path| read_certificate(path, &subject)).transpose()?;
        let page = page(&subject);
        disk::write_whole(&self.output, page.as_bytes()).map_err(|e| Error::io("write", &self.output, e))?;
        print(format_args!("{}: {}", self.output.display(), Size(page.len() as u64)))
    }
}
