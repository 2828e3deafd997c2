//! A type by its name, as users write it.

use quant_kernels::Format;

use crate::nearest::did_you_mean;

/// The type of this name, in any case.
///
/// # Errors
/// If there is none: with all names, and the one that was probably meant.
pub fn format(name: &str) -> Result<Format, String> {
    let unknown = |e: quant_kernels::UnknownFormat| {
        format!("{e}{}", did_you_mean(name, Format::all().map(Format::name)))
    };
    name.parse().map_err(unknown)
}
