//! `general.size_label`: weights per expert and number of experts, as "256x20B".

/// The label of a model with `shared` weights outside of the experts, and `experts` of `each` weights.
pub fn size_label(shared: u64, each: u64, experts: u64) -> String {
    let size = rounded(shared + each);
    if experts > 0 { format!("{experts}x{size}") } else { size }
}

/// At least two significant digits and a unit: 1.5B, 20B, 671B.
fn rounded(weights: u64) -> String {
    let (unit, suffix) = match weights {
        1_000_000_000_000.. => (1e12, "T"),
        1_000_000_000.. => (1e9, "B"),
        1_000_000.. => (1e6, "M"),
        _ => (1e3, "K"),
    };
    let value = weights as f64 / unit;
    if value >= 9.95 { format!("{value:.0}{suffix}") } else { format!("{value:.1}{suffix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_is_256x20b() {
        let (all, routed) = (671_026_419_200, 653_908_770_816);
        assert_eq!(size_label(all - routed, routed / 256, 256), "256x20B");
        assert_eq!(size_label(1_540_000_000, 0, 0), "1.5B");
    }
}
