//! The innermost loops: a strip of rows times a panel of columns.

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x16};

/// Columns of a panel: the lanes of a vector.
pub const LANES: usize = 16;

/// Rows of a strip: as many sums as AVX-512 has registers to hurry with; the others take them in two halves.
pub const ROWS: usize = 12;

/// Sums of a strip and a panel.
pub type Tile = [[f32; LANES]; ROWS];

/// Adds the products of all strips and all panels, panel after panel, and in it strip after strip, to their tiles. A
/// strip and a panel have `depth` steps each.
pub fn multiply(
    level: Level,
    depth: usize,
    strips: &[[f32; ROWS]],
    panels: &[&[[f32; LANES]]],
    tiles: &mut [Tile],
) {
    dispatch!(level, simd => {
        for (panel, tiles) in panels.iter().zip(tiles.chunks_exact_mut(strips.len() / depth)) {
            for (strip, tile) in strips.chunks_exact(depth).zip(tiles) {
                if holds_a_strip(simd.level()) {
                    add::<_, ROWS>(simd, 0, strip, panel, tile);
                } else {
                    add::<_, { ROWS / 2 }>(simd, 0, strip, panel, tile);
                    add::<_, { ROWS / 2 }>(simd, ROWS / 2, strip, panel, tile);
                }
            }
        }
    });
}

/// Whether the sums of a whole strip have registers.
#[inline(always)]
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn holds_a_strip(level: Level) -> bool {
    level.as_avx512().is_some()
}

/// Whether the sums of a whole strip have registers: not on NEON, where a vector takes four of its 32.
#[inline(always)]
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
fn holds_a_strip(_: Level) -> bool {
    false
}

/// R rows of a tile from `first` on.
#[inline(always)]
fn add<S: Simd, const R: usize>(
    simd: S,
    first: usize,
    strip: &[[f32; ROWS]],
    panel: &[[f32; LANES]],
    tile: &mut Tile,
) {
    let mut sums = [f32x16::splat(simd, 0.0); R];
    for r in 0..R {
        sums[r] = f32x16::load_array_ref(simd, &tile[first + r]);
    }
    for (a, b) in strip.iter().zip(panel) {
        let b = f32x16::load_array_ref(simd, b);
        for r in 0..R {
            // Rounded once on every level; on CPUs without such an instruction (before 2013) that takes its time.
            sums[r] = b.mul_add_precise(f32x16::splat(simd, a[first + r]), sums[r]);
        }
    }
    for r in 0..R {
        sums[r].store_array(&mut tile[first + r]);
    }
}
