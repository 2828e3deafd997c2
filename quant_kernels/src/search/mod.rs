//! The searches: which codes and scales stand for a block of weights with the least error.
//!
//! A block stores few bits, and the decoder makes weights y of them. For weights x with importances w the searches look
//! for the codes with the least weighted squared error sum w (x - y)^2; that the result is a little short is made good
//! in [`gain`] or, for codebooks, row by row in `block.rs`. There are two families of formats, and two ways.
//!
//! # Scalar formats: each weight has a level (Q*, IQ4_*, TQ*)
//!
//! A weight is a scale times a level, so once the scale stands every weight goes to its nearest level: what is searched
//! is the scale. Sixteen candidates are tried at once, one in each lane of a vector, and weights are broadcast to all
//! lanes. A candidate's sums run in reading order in its own lane, so the bytes are the same at any vector width.
//!
//! ```text
//!             lane 0      lane 1      lane 2    ...   lane 15
//!   landing   0.80        0.82        0.84            1.10          of the largest weight, as a part of the end level
//!   x[0] -->  + w q x     + w q x     + w q x         + w q x       q: the nearest level at the scale of the landing
//!   x[1] -->  + w q x     ...                                       and the same for w q q
//!   gained    (sum w q x)^2 / (sum w q q) in each lane: the largest wins, the first of equals
//! ```
//!
//! - [`levels`]: the levels that weights are rounded to, integers between two ends or a list.
//! - [`scale`]: one scale for a block, as drawn.
//! - [`scale_min`]: a scale and a minimum. Four places of the lowest weight times four of the highest are the lanes.
//! - [`sub_scales`]: super-blocks whose groups have integer scales (Q3_K, Q6_K, IQ4_XS). The peak fixes the scale d;
//!   the sixteen integers around the one that a group's own peak asks for are the lanes.
//! - [`sub_scales_mins`]: the same with integer minimums (Q2_K, Q4_K, Q5_K): four integer scales by four minimums.
//! - [`gain`]: the factor that gives a block back the length which least squares takes from it.
//!
//! # Vector formats: weights share an entry of a codebook (IQ1_*, IQ2_*, IQ3_*)
//!
//! Eight weights, or four, are one entry of a codebook, times a scale. The error at scale s is a constant less
//! 2 (s P - s^2 Q / 2), with P = sum w x v and Q = sum w v v over the values v of the entry. P and Q do not depend on
//! s: an entry is a line P - s Q / 2, and the best entry at every scale is the upper edge of all lines.
//!
//! ```text
//!  P - s Q / 2
//!   |\   few entries win anywhere: each is best over a range of scales
//!   | \__
//!   |    \___          a block's score at s: s times the sum over its groups of the edge at s
//!   |        \_____
//!   +--|----|----|------> s        the scales at which entries are sought (a "ladder")
//! ```
//!
//! So entries are sought once, at a few scales around a block's typical one, and all choices of scales look at
//! the kept entries only. In reading order:
//!
//! - [`entries`]: P and Q of the kept entries of a group, and which of them is best at a scale.
//! - [`codebook`]: the entries themselves, laid out for vectors; [`signs`]: signs, which are chosen apart from
//!   magnitudes.
//! - [`every_entry`]: the search of the whole codebook in 16-bit integers (IQ2_XXS, IQ2_XS: 256 and 512 entries).
//! - [`neighbours`]: for 1024 and 2048 entries of eight (IQ2_S, IQ1_*): each weight is rounded by itself to one of
//!   three levels, and only the entries near that pattern are looked at, from a table. [`look_up`] is the table's
//!   lookup.
//! - [`near_fours`]: the same for entries of four on eight levels (IQ3_*).
//! - [`scales`]: the codes of scales, and a geometric grid of scales which all blocks of a super-block share.
//! - [`super_block`]: the super-block's scale d and the blocks' codes together. With d on the grid a scale code is a
//!   shift along it, so sixteen d are tried at once, in the lanes, by adding up table entries:
//!
//! ```text
//!   grid of scales (steps of 3.6 %)   . . . . . . . . . . . . . . . . . . . .
//!   block 0, scored at 32 points            [a b c d e f g h ...]
//!   block 1                             [a b c d e f g h ...]
//!   d at 16 points; code 15 = d * 31 -------------------> |
//!                   code 14 = d * 29 ----------------> |      each code a fixed number of points to the left
//! ```
//!
//! - [`ternary`] (IQ1_*), [`eights`] (IQ2_*), [`fours`] (IQ3_*): all of it put together for each kind of entries. Once
//!   d and the codes stand, each group looks again at its final scale, and d is refitted to what was taken.
//! - [`one_group`]: that last look alone, for error feedback, which takes scales as they are.
//!
//! # How good they are
//!
//! Slow definitions that try everything stand beside the searches, and tests hold the searches to them: `exhaustive.rs`
//! for codebooks (at most 0.5 % more error), `every_level.rs` for levels, `definition.rs` for a group at one scale. The
//! numbers are in docs/formats.md, with what more effort would bring.

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
