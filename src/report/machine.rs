//! How a file runs on a machine, in lines below the plan.

use std::fmt;

use quant_kernels::Format;

use crate::machine::{Budget, Fit, Machine};
use crate::size::Size;

/// The lines below a plan about a machine.
pub struct Told<'a> {
    /// How the file runs there.
    pub fit: &'a Fit,
    /// Weights of the model.
    pub weights: u64,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fit, weights } = *self;
        let machine = &fit.machine;
        let Machine { context, disk, .. } = machine;
        let (memory, disk) = (machine.memory(), Size(*disk));
        writeln!(f, "machine   {memory}, a context of {context} tokens, a disk of {disk} a second")?;
        writeln!(f, "needs     KV cache {}, buffers {}", Size(fit.kv_cache), Size(fit.compute))?;
        if machine.vram > 0 {
            let layers = fit.placement.layers;
            writeln!(f, "card      {layers} layers (the head counts as one), {}", Size(fit.placement.bytes))?;
        }
        writeln!(
            f,
            "memory    {} resident, of which {} are experts",
            Size(fit.resident),
            Size(fit.cached_experts)
        )?;
        match fit.disk_tokens_per_second {
            Some(rate) => writeln!(
                f,
                "disk      {} read for each token: at most {rate:.2} tokens a second",
                Size(fit.read_per_token)
            )?,
            None => writeln!(f, "disk      not read once all is in memory")?,
        }
        let Budget { streamed, held } = fit.budget;
        // No file of the model is smaller than all weights at IQ1_S, and none larger than all of them in F32.
        let [smallest, largest] =
            [Format::IQ1_S, Format::F32].map(|format| format.row_bytes(256) * weights / 256);
        let told = |file: Option<u64>| match file {
            Some(bytes) if bytes >= largest => "any file of this model".to_owned(),
            Some(bytes) if bytes >= smallest => Size(bytes).to_string(),
            Some(_) | None => format!("no file (the smallest of this model has some {})", Size(smallest)),
        };
        if streamed.is_some() || fit.read_per_token > 0 {
            let slowest = machine.slowest;
            writeln!(f, "largest   {} at {slowest} tokens a second, streamed from the disk", told(streamed))?;
        }
        writeln!(f, "largest   {} held in memory as a whole", told(held))?;
        if fit.missing > 0 {
            let missing = Size(fit.missing);
            writeln!(
                f,
                "warning   {missing} of memory are missing for what every token reads: it will be slow"
            )?;
        } else if !fit.well {
            writeln!(f, "warning   the disk is too slow for {} tokens a second", machine.slowest)?;
        }
        writeln!(f, "run       {}", fit.command)
    }
}
