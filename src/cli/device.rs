//! `--device`: where the products and factors of a model are made. The bits of results do not depend on it.

use clap::Args;
use dense_kernels::card::{Card, Fault, Share, use_card};

use super::size;
use crate::error::{Error, Result};
use crate::log;
use crate::report::Size;

#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Where products and factors are made: cpu, cuda, cuda:N (not the first card), or auto, a card if there is one. Results
    /// do not depend on it [default: cpu]
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<Device>,

    /// Memory of the card that may be used [default: nine tenths of what is free]
    #[arg(long, value_name = "SIZE", requires = "device", value_parser = size::bytes)]
    device_memory: Option<u64>,

    /// Do on the card also what takes longer there.
    #[arg(long, hide = true, requires = "device")]
    device_all: bool,
}

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Cpu,
    Cuda(usize),
    Auto,
}

fn device(text: &str) -> Result<Device, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::Cpu),
        None if text == "cuda" => Ok(Device::Cuda(0)),
        None if text == "auto" => Ok(Device::Auto),
        Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().map(Device::Cuda).map_err(|_| format!("there is no card {number}"))
        }
        _ => Err("expected cpu, cuda, cuda:N or auto".to_owned()),
    }
}

impl DeviceArgs {
    /// From now on the device that was asked for is used.
    ///
    /// # Errors
    /// If a card is asked for that cannot be used, or memory of none.
    pub fn choose(&self, quiet: bool) -> Result<()> {
        let (ordinal, must) = match self.device {
            None => return Ok(()),
            Some(Device::Cpu) if self.device_memory.is_some() || self.device_all => {
                let problem = "--device-memory is of a card, and --device cpu uses none";
                return Err(Error::Argument(problem.to_owned()));
            }
            Some(Device::Cpu) => return Ok(()),
            Some(Device::Cuda(ordinal)) => (ordinal, true),
            Some(Device::Auto) => (0, false),
        };
        let say = |text: String| {
            if !quiet {
                log::say(text);
            }
        };
        match Card::open(ordinal, self.device_memory, gave_up) {
            Ok(card) => {
                say(format!(
                    "card {ordinal}: {}, at most {} of its memory",
                    card.name(),
                    Size(card.memory())
                ));
                use_card(card, if self.device_all { Share::All } else { Share::Faster });
            }
            Err(fault) if must => return Err(Error::Device(format!("--device cuda: {fault}"))),
            Err(fault) => say(format!("no card is used: {fault}")),
        }
        Ok(())
    }
}

/// The bits are the same, so nothing but time is lost.
fn gave_up(fault: &Fault) {
    log::warn(format_args!("the card is not used any more, the processor goes on alone: {fault}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_and_cards_numbers() {
        assert_eq!(device("cpu"), Ok(Device::Cpu));
        assert_eq!(device("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(device("cuda:12"), Ok(Device::Cuda(12)));
        assert_eq!(device("auto"), Ok(Device::Auto));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:99999999999999999999", "cpu:0", "auto:1"]
        {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }
}
