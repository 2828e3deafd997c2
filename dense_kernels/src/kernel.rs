//! The innermost loops: a strip of rows times a panel of columns.

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x16};

/// Columns of a panel: the lanes of a vector.
pub const LANES: usize = 16;

/// Rows of a strip: with two panels as many sums as AVX-512 has registers; the others take one panel in two halves.
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
    let height = strips.len() / depth;
    dispatch!(level, simd => {
        let together = if holds_two_panels(simd.level()) { 2 } else { 1 };
        for (panels, tiles) in panels.chunks(together).zip(tiles.chunks_mut(together * height)) {
            let (tiles, others) = tiles.split_at_mut(height);
            for (at, strip) in strips.chunks_exact(depth).enumerate() {
                if let [panel, other] = panels {
                    add_two(simd, strip, [*panel, *other], [&mut tiles[at], &mut others[at]]);
                } else {
                    add::<_, { ROWS / 2 }>(simd, 0, strip, panels[0], &mut tiles[at]);
                    add::<_, { ROWS / 2 }>(simd, ROWS / 2, strip, panels[0], &mut tiles[at]);
                }
            }
        }
    });
}

/// Whether the sums of a strip and two panels have registers.
#[inline(always)]
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn holds_two_panels(level: Level) -> bool {
    level.as_avx512().is_some()
}

/// Whether the sums of a strip and two panels have registers: not on NEON, where a vector takes four of its 32.
#[inline(always)]
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
fn holds_two_panels(_: Level) -> bool {
    false
}

/// A strip and two panels, so that each value of the strip is loaded once for both.
#[inline(always)]
fn add_two<S: Simd>(simd: S, strip: &[[f32; ROWS]], panels: [&[[f32; LANES]]; 2], tiles: [&mut Tile; 2]) {
    let zero = f32x16::splat(simd, 0.0);
    let mut sums = [[zero; 2]; ROWS];
    for r in 0..ROWS {
        sums[r] = [f32x16::load_array_ref(simd, &tiles[0][r]), f32x16::load_array_ref(simd, &tiles[1][r])];
    }
    for ((a, b), c) in strip.iter().zip(panels[0]).zip(panels[1]) {
        let (b, c) = (f32x16::load_array_ref(simd, b), f32x16::load_array_ref(simd, c));
        for r in 0..ROWS {
            let a = f32x16::splat(simd, a[r]);
            sums[r] = [b.mul_add_precise(a, sums[r][0]), c.mul_add_precise(a, sums[r][1])];
        }
    }
    for r in 0..ROWS {
        sums[r][0].store_array(&mut tiles[0][r]);
        sums[r][1].store_array(&mut tiles[1][r]);
    }
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
