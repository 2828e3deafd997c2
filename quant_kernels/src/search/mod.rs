//! The few searches that all formats share.

pub(crate) mod codebook;
#[cfg(test)]
mod definition;
pub(crate) mod eights;
pub(crate) mod entries;
pub(crate) mod every_entry;
#[cfg(test)]
mod every_level;
#[cfg(test)]
mod exhaustive;
pub(crate) mod fours;
pub(crate) mod gain;
pub(crate) mod levels;
mod look_up;
pub(crate) mod near_fours;
pub(crate) mod neighbours;
pub(crate) mod one_group;
pub(crate) mod scale;
pub(crate) mod scale_min;
pub(crate) mod scales;
pub(crate) mod signs;
pub(crate) mod sub_scales;
pub(crate) mod sub_scales_mins;
pub(crate) mod super_block;
pub(crate) mod ternary;
#[cfg(test)]
mod test_data;
