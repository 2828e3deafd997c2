//! The few searches that all formats share.

pub(crate) mod gain;
pub(crate) mod levels;
pub(crate) mod scale;
pub(crate) mod scale_min;
pub(crate) mod sub_scales;
pub(crate) mod sub_scales_mins;
#[cfg(test)]
mod test_data;
