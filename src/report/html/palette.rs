//! Colours: one for each role, and a ramp for bits per weight. Both can be distinguished on white and on black.

use quant_kernels::Format;

use super::markup::Fill;
use crate::model::Role;

/// Role, CSS class, colour; in the order in which charts list them.
const ROLES: [(Option<Role>, &str, &str); 11] = [
    (Some(Role::Experts), "r-experts", "#3b76c4"),
    (Some(Role::Attention), "r-attention", "#e07b39"),
    (Some(Role::SharedExperts), "r-shared", "#1f9e8f"),
    (Some(Role::DenseFfn), "r-dense", "#a65fc0"),
    (Some(Role::Output), "r-output", "#c9485b"),
    (Some(Role::Embedding), "r-embedding", "#7c9a2e"),
    (Some(Role::Mtp), "r-mtp", "#b8860b"),
    (Some(Role::Router), "r-router", "#6f7b8f"),
    (Some(Role::Norm), "r-norm", "#98a2b3"),
    (Some(Role::Other), "r-other", "#5f8f8a"),
    (None, "r-unknown", "#8a8f98"),
];

/// Bits per weight and their colour; between two, colours are mixed by the logarithm of the bits.
const RAMP: [(f64, [f64; 3]); 8] = [
    (1.5, [253.0, 216.0, 88.0]),
    (2.1, [246.0, 160.0, 66.0]),
    (2.7, [229.0, 105.0, 75.0]),
    (3.5, [196.0, 68.0, 111.0]),
    (4.5, [142.0, 66.0, 148.0]),
    (6.6, [72.0, 92.0, 196.0]),
    (9.0, [32.0, 150.0, 190.0]),
    (16.0, [70.0, 180.0, 130.0]),
];

/// All roles in the order of the charts; None stands for tensors whose role the file does not say.
pub fn roles() -> impl Iterator<Item = Option<Role>> {
    ROLES.iter().map(|row| row.0)
}

/// The colour of a role.
pub fn of_role(role: Option<Role>) -> Fill {
    Fill::Class(ROLES.iter().find(|row| row.0 == role).map_or("r-unknown", |row| row.1))
}

/// The role's name in legends.
pub fn name(role: Option<Role>) -> &'static str {
    role.map_or("unknown", Role::name)
}

/// The colour of so many bits per weight.
pub fn of_bits(bits: f64) -> Fill {
    let bits = bits.clamp(RAMP[0].0, RAMP[RAMP.len() - 1].0);
    let upper = RAMP.iter().skip(1).position(|(end, _)| bits <= *end).map_or(RAMP.len() - 1, |i| i + 1);
    let [(low, from), (high, to)] = [RAMP[upper - 1], RAMP[upper]];
    let part = (bits / low).ln() / (high / low).ln();
    let mixed = [0, 1, 2].map(|i| (from[i] + (to[i] - from[i]) * part).round() as u8);
    Fill::Color(format!("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2]))
}

/// The colour of a type.
pub fn of_type(format: Format) -> Fill {
    of_bits(format.bits_per_weight())
}

/// The style sheet's classes of the roles.
pub fn style() -> String {
    ROLES.iter().map(|(_, class, color)| format!(".{class} {{ fill: {color}; }}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_goes_through_its_stops() {
        assert_eq!(of_bits(1.5), Fill::Color("#fdd858".into()));
        assert_eq!(of_bits(0.1), of_bits(1.5));
        assert_eq!(of_bits(4.5), Fill::Color("#8e4294".into()));
        assert_eq!(of_bits(32.0), Fill::Color("#46b482".into()));
    }
}
