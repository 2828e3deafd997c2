//! A table look-up in vectors: sixteen lanes that each take one of sixteen values.

use fearless_simd::{Simd, SimdBase, f32x16, u8x64};

/// Four times sixteen places in tables of f32, as the bytes before them.
pub(crate) type Places = [[u8; 16]; 4];

/// The values of two tables at a quarter of the places.
#[inline(always)]
pub(crate) fn look_up<S: Simd>(
    simd: S,
    tables: [f32x16<S>; 2],
    places: &Places,
    quarter: usize,
) -> [f32x16<S>; 2] {
    // The library's way takes a dozen instructions; these CPUs have one for it.
    #[cfg(target_arch = "x86_64")]
    if let fearless_simd::Level::Avx2(token) = simd.level() {
        let [a, b] = tables.map(|table| table.to_array());
        let [a, b] = avx2::look_up(token, a, b, places[quarter]);
        return [f32x16::load_array(simd, a), f32x16::load_array(simd, b)];
    }
    let places = u8x64::load_array_ref(simd, bytemuck::cast_ref(places));
    let spread = places.swizzle_dyn(u8x64::load_array_ref(simd, &SPREAD[quarter]));
    let bytes = spread | u8x64::load_array_ref(simd, &BYTES);
    [tables[0].swizzle_dyn(bytes), tables[1].swizzle_dyn(bytes)]
}

/// For each byte of a vector, which place its f32 is from.
const SPREAD: [[u8; 64]; 4] = {
    let mut spread = [[0; 64]; 4];
    let mut i = 0;
    while i < 256 {
        spread[i / 64][i % 64] = (i / 4) as u8;
        i += 1;
    }
    spread
};

/// For each byte of a vector, where in its f32 it is.
const BYTES: [u8; 64] = {
    let mut bytes = [0; 64];
    let mut i = 0;
    while i < 64 {
        bytes[i] = (i % 4) as u8;
        i += 1;
    }
    bytes
};

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256, _mm_unpackhi_epi64, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepu8_epi32,
        _mm256_permutevar8x32_ps, _mm256_slli_epi32, _mm256_srli_epi32,
    };

    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn look_up(token: Avx2, a: [f32; 16], b: [f32; 16], places: [u8; 16]) -> [[f32; 16]; 2] {
            let places: __m128i = bytemuck::cast(places);
            let (a, b): ([__m256; 2], [__m256; 2]) = (bytemuck::cast(a), bytemuck::cast(b));
            let mut found = [a, b];
            for (half, places) in [places, _mm_unpackhi_epi64(places, places)].into_iter().enumerate() {
                let places = _mm256_srli_epi32::<2>(_mm256_cvtepu8_epi32(places));
                // The eighth bit of a place, where a blend looks: at the sign.
                let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(places));
                for (found, [low, high]) in found.iter_mut().zip([a, b]) {
                    let low = _mm256_permutevar8x32_ps(low, places);
                    let high = _mm256_permutevar8x32_ps(high, places);
                    found[half] = _mm256_blendv_ps(low, high, upper);
                }
            }
            bytemuck::cast(found)
        }
    );
}
