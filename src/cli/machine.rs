//! The arguments that describe the machine a file is to run on.

use clap::Args;

use super::size;
use crate::error::{Error, Result};
use crate::machine::{Fit, Machine, Needs};
use crate::model::Model;
use crate::recipe::Plan;

/// Tokens of the KV cache, if nothing is said.
const CONTEXT: u64 = 8192;

#[derive(Debug, Args)]
pub struct MachineArguments {
    /// Memory of the machine that the file is for, as in 20GB: how it runs there, and how large a file may be
    /// (docs/machines.md)
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, allow_hyphen_values = true)]
    ram: Option<u64>,

    /// Memory of the graphics card, for --ram
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, requires = "ram")]
    vram: Option<u64>,

    /// Tokens of the KV cache, for --ram [default: 8192, or what the model was made for if that is less]
    // llama.cpp's name of it. --context is another thing in all commands: the tokens in a chunk of text.
    #[arg(
        short = 'c',
        long,
        visible_alias = "kv-context",
        value_name = "TOKENS",
        requires = "ram",
        value_parser = size::tokens
    )]
    ctx_size: Option<u64>,

    /// What the disk reads in a second, for --ram: 3GB, 500MB/s [default: 3GB]
    #[arg(long, value_name = "SIZE", value_parser = size::bytes_per_second, requires = "ram")]
    disk: Option<u64>,

    /// Tokens a second below which a file does not run well, for --ram [default: 0.5]
    #[arg(long, value_name = "TOKENS", value_parser = rate, requires = "ram")]
    slowest: Option<f64>,
}

impl MachineArguments {
    /// Whether a machine is named.
    pub fn is_given(&self) -> bool {
        self.ram.is_some()
    }

    /// The machine for this model; None if none was named.
    pub fn machine(&self, model: &Model) -> Result<Option<Machine>> {
        let Some(ram) = self.ram else { return Ok(None) };
        let longest = model.longest_context();
        let context = self.ctx_size.unwrap_or(CONTEXT.min(longest));
        if context > longest {
            return Err(Error::Argument(format!(
                "a context of {context} tokens: the model was made for up to {longest}"
            )));
        }
        Ok(Some(Machine {
            ram,
            vram: self.vram.unwrap_or(0),
            context,
            disk: self.disk.unwrap_or(Machine::DISK),
            slowest: self.slowest.unwrap_or(Machine::SLOWEST),
        }))
    }

    /// How the planned file runs there.
    pub fn fit(&self, plan: &Plan) -> Result<Option<Fit>> {
        Ok(self.machine(&plan.model)?.map(|machine| Fit::new(&Needs::of(plan), &machine)))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of tokens a second, from 0.001 to 1000".into()),
    }
}
