//! Numbers that look drawn by chance and are the same in every run: SplitMix64 (Steele, Lea, Flood 2014).

/// What a state grows by from number to number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number at a place of the sequence that begins with 0.
pub fn number(place: u64) -> u64 {
    after(place.wrapping_mul(STEP))
}

/// The number that follows a state.
pub fn after(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
