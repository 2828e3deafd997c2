//! `quantpress evaluate`: what quantization cost, measured against the checkpoint on a text.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::text::TextArguments;
use super::{interrupt, print};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::evaluate::{Certificate, LayerError, run};
use crate::gguf::Parts;
use crate::log;
use crate::model::{Chunking, Model, ModelFile, Options, Weights};
use crate::plain;
use crate::report::{about, peak_memory};

/// Compare a finished file with its checkpoint on a text: perplexity, KL divergence, error after every layer
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Folder of the checkpoint, a GGUF file of it, or hf://org/name[@revision]
    checkpoint: PathBuf,

    /// The GGUF file made of it, or any of its split files
    file: PathBuf,

    #[command(flatten)]
    text: TextArguments,

    /// llama.cpp's name of the pre-tokenizer, if it is not recognised
    #[arg(long)]
    pre: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Say nothing of the progress
    #[arg(short, long)]
    quiet: bool,
}

impl Evaluate {
    /// The file of `--trace`.
    pub fn trace(&self) -> Option<&Path> {
        self.text.trace()
    }

    /// Runs both models and prints the figures.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let memory = self.text.memory();
        let file = ModelFile::open(&self.file)?;
        let checkpoint = Checkpoint::open_until(&self.checkpoint, interrupt::flag())?;
        let of_file = Some(file.description.arch).filter(|arch| Model::can_be(&checkpoint, arch));
        let arch = of_file.map(str::to_owned);
        let model = Model::plan(&checkpoint, &Options { pre: self.pre.clone(), arch, ..Options::default() })?;
        let description = model.describe()?;
        let text = self.text.text();
        let tokens = text.tokens(&checkpoint, description, Chunking::Scores)?;
        if let Some(warning) = text.beyond_context(description).filter(|_| !self.quiet) {
            log::warn(warning);
        }
        let layers = description.layers.len();
        let told = |error: &LayerError| {
            if !self.quiet {
                let done = (error.layer + 1) as f64;
                let left = start.elapsed().as_secs_f64() / done * (layers as f64 - done);
                log::say(format_args!(
                    "layer {:3} of {layers}: hidden states differ by {:.5}; {} left",
                    error.layer + 1,
                    error.error,
                    about(left)
                ));
            }
        };
        let (weights, of_file) = (Weights::new(&checkpoint, &model.tensors[..]), file.weights());
        let context = text.context as usize;
        let stop = interrupt::flag();
        let certificate = self.text.compute(self.quiet, || {
            let (reference, file) = ((&weights, description), (&of_file, &file.description));
            run(reference, file, &tokens, context, memory, &told, stop)
        })??;
        if self.json {
            let mut value = serde_json::to_value(&certificate)?;
            value["file"] = json!(plain::path(&self.file));
            value["files_sha256"] = json!(digests(&Parts::read(&self.file)?, stop)?);
            value["texts"] = text.files.iter().map(|path| plain::path(path)).collect();
            value["seconds"] = json!(start.elapsed().as_secs_f64());
            value["peak_memory_bytes"] = json!(peak_memory());
            return print(serde_json::to_string_pretty(&value)?);
        }
        table(&certificate)
    }
}

/// SHA-256 of the files, by which a certificate is bound to them.
fn digests(parts: &Parts, stop: &AtomicBool) -> Result<Vec<String>, Error> {
    parts.files.iter().map(|part| part.sha256(stop)).collect()
}

fn table(certificate: &Certificate) -> Result<()> {
    let s = &certificate.statistics;
    print(format_args!(
        "tokens scored          {} in {} chunks of {}",
        s.tokens, certificate.chunks, certificate.context
    ))?;
    print(format_args!("perplexity, checkpoint {:.4}", s.perplexity_reference))?;
    print(format_args!("perplexity, file       {:.4}", s.perplexity))?;
    print(format_args!("KL divergence, mean    {:.6}", s.kl_mean))?;
    print(format_args!("KL divergence, median  {:.6}", s.kl_median))?;
    print(format_args!("KL divergence, 99 %    {:.6}", s.kl_p99))?;
    print(format_args!("same top token         {:.2} %", 100.0 * s.same_top))?;
    print("\nlayer  error of the hidden states")?;
    certificate.layers.iter().try_for_each(|l| print(format_args!("{:>5}  {:.5}", l.layer, l.error)))
}
