//! The searches that choose what is in a block: a guided tour.
//!
//! A block holds codes for its weights and a scale. All searches minimise the same cost, the sum of w (x - y)^2 over
//! weights x, decoded values y and importances w, with the scale as a free variable, and then raise the scale to unit
//! gain ([`gain`]). Three kinds follow, each on what stands above it. docs/formats.md says which format uses which,
//! and what is lost beside exhaustive search.
//!
//! **One scale, levels of single weights** ([`scale`]: Q4_0, Q5_0, IQ4_NL, `TQ*`). Given a scale, each weight takes the
//! nearest level, and the best scale for these levels follows by least squares. So only scales have to be tried, and
//! it is enough to try where the largest weight may land. Sixteen lanes are sixteen landings; a weight is broadcast
//! to all of them.
//!
//! ```text
//!              lane 0      lane 1     ...     lane 15         each lane: one scale
//! weight x  -> q = near(x / s0)  near(x / s1)   ...           xq += w x q,  qq += w q q
//!                                                             least cost = largest xq^2 / qq
//! ```
//!
//! [`scale_min`] (Q4_1, Q5_1) does the same with two ends: four landings of the lowest weight times four of the
//! highest. [`levels`] has the levels, integers or a list.
//!
//! **Integer scales under one d** ([`sub_scales`]: Q3_K, Q6_K, IQ4_XS; [`sub_scales_mins`]: Q2_K, Q4_K, Q5_K). A
//! super-block of 256 weights has groups with integer scales, which d multiplies. d is set first, by the largest
//! group; then a group tries the integers around its best scale as sixteen lanes, so that no scale is chosen that d
//! cannot express; then d is refitted by least squares with all levels fixed.
//!
//! **Codebooks** (`IQ1_*`, `IQ2_*`, `IQ3_*`; [`codebook`]). Four or eight weights together are one entry of a list of
//! patterns, with signs beside it. Three steps:
//!
//! 1. *Which entries can win*: for an entry of values v, P = sum w |x| v and Q = sum w v v do not depend on the scale
//!    s, and the cost is a constant minus 2 s P - s^2 Q. [`entries`] keeps the best entry for each scale of a ladder.
//!    They are found by looking at every entry ([`every_entry`]: IQ2_XXS, IQ2_XS), or at those near the rounded
//!    weights ([`neighbours`]: eights of IQ2_S and `IQ1_*`; [`near_fours`]: fours of `IQ3_*`).
//! 2. *Signs* ([`signs`]): free, or an even number of minus signs; then an odd group turns the sign that costs least.
//! 3. *d and the scale codes* ([`super_block`], [`scales`]): sixteen d are tried at once with all codes of all
//!    groups, by the kept entries; the best two are scored exactly, and the better is refitted by least squares.
//!
//! [`eights`] (`IQ2_*`), [`fours`] (`IQ3_*`) and [`ternary`] (`IQ1_*`, whose patterns are shifted by an eighth up or
//! down) put the steps together, one file a shape of codebook: begin with these.
//!
//! `every_level` and `exhaustive` are the slow definitions that tests hold the fast searches against; `definition`
//! and `test_data` help them.

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
