//! A plan drawn in characters: the size by role as a bar, the bits per weight by layer as digits.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::Role;
use crate::recipe::Plan;

/// Characters of the bar.
const WIDTH: usize = 64;

/// Columns before the digits of layers.
const LABELS: usize = 25;

/// Roles with the letter and the colour (of 256) that stand for them, in the order of the bar.
const ROLES: [(Role, char, u8); 10] = [
    (Role::Experts, 'E', 32),
    (Role::Attention, 'A', 208),
    (Role::SharedExperts, 'S', 36),
    (Role::DenseFfn, 'D', 134),
    (Role::Output, 'O', 161),
    (Role::Embedding, 'T', 106),
    (Role::Mtp, 'M', 136),
    (Role::Router, 'R', 66),
    (Role::Norm, 'N', 103),
    (Role::Other, 'X', 245),
];

/// The drawing; with colours for a terminal, without for files and pipes.
#[derive(Debug)]
pub struct Sketch<'a> {
    /// What is drawn.
    pub plan: &'a Plan,
    /// Whether escape sequences may be written.
    pub colors: bool,
    /// Columns of the terminal.
    pub width: usize,
}

impl fmt::Display for Sketch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.plan.model;
        let mut bytes: BTreeMap<Role, u64> = BTreeMap::new();
        // Bytes and weights by role and layer.
        let mut layers: BTreeMap<(Role, u32), [u64; 2]> = BTreeMap::new();
        for (index, tensor) in model.tensors.iter().enumerate() {
            *bytes.entry(tensor.role).or_default() += self.plan.bytes(index);
            if let Some(layer) = tensor.layer {
                let [bytes, weights] = layers.entry((tensor.role, layer)).or_default();
                (*bytes, *weights) = (*bytes + self.plan.bytes(index), *weights + tensor.weights());
            }
        }
        let shown: Vec<_> = ROLES.iter().filter(|(role, ..)| bytes.contains_key(role)).collect();
        let bar = self.width.saturating_sub(10).clamp(shown.len(), WIDTH);
        let cells = shares(&shown.iter().map(|(role, ..)| bytes[role]).collect::<Vec<_>>(), bar);
        write!(f, "size      ")?;
        for ((_, letter, color), cells) in shown.iter().zip(&cells) {
            self.colored(f, *color, &letter.to_string().repeat(*cells))?;
        }
        writeln!(f)?;
        let total = bytes.values().sum::<u64>().max(1) as f64;
        let mut line = "         ".to_owned();
        for (role, letter, _) in &shown {
            let entry = format!(" {letter} {role} {:.1}%", bytes[role] as f64 * 100.0 / total);
            if line.len() + entry.len() > self.width.min(WIDTH + 26) {
                writeln!(f, "{line}")?;
                line = "         ".to_owned();
            }
            line.push_str(&entry);
        }
        writeln!(f, "{line}")?;
        // As many layers in a line as there is room for, by tens.
        let layers_of_line = (self.width.saturating_sub(LABELS) / 10 * 10).max(10) as u32;
        for first in (0..model.layers).step_by(layers_of_line as usize) {
            let of_line = first..model.layers.min(first.saturating_add(layers_of_line));
            let numbers = of_line.clone().step_by(10).map(|layer| format!("{layer:<10}")).collect::<String>();
            writeln!(f, "layer                    {}", numbers.trim_end())?;
            for (role, _, color) in shown.iter().filter(|(role, ..)| !role.is_f32()) {
                let of = |layer| {
                    layers.get(&(*role, layer)).map(|[bytes, weights]| *bytes as f64 * 8.0 / *weights as f64)
                };
                let row: String = of_line.clone().map(|layer| of(layer).map_or('.', digit)).collect();
                if row.bytes().any(|letter| letter != b'.') {
                    write!(f, "bits      {role:<15}")?;
                    self.colored(f, *color, &row)?;
                    writeln!(f)?;
                }
            }
        }
        if model.layers > 0 {
            writeln!(f, "          (bits per weight, rounded down; + for 10 and more)")?;
        }
        Ok(())
    }
}

impl Sketch<'_> {
    fn colored(&self, f: &mut fmt::Formatter<'_>, color: u8, text: &str) -> fmt::Result {
        if self.colors { write!(f, "\x1b[38;5;{color}m{text}\x1b[0m") } else { f.write_str(text) }
    }
}

/// Bits per weight as one character, rounded down; + for 10 and more.
pub fn digit(bits: f64) -> char {
    if bits >= 10.0 { '+' } else { char::from(b'0' + bits as u8) }
}

/// Shares `cells` out by the parts' sizes; each part gets one at least, the largest gives them.
fn shares(parts: &[u64], cells: usize) -> Vec<usize> {
    let total = parts.iter().sum::<u64>().max(1) as f64;
    let mut shares: Vec<usize> =
        parts.iter().map(|part| ((*part as f64 / total * cells as f64).round() as usize).max(1)).collect();
    let sum: usize = shares.iter().sum();
    if let Some(largest) = shares.iter_mut().max() {
        *largest = (*largest + cells).saturating_sub(sum).max(1);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_cell_and_the_bar_its_width() {
        assert_eq!(shares(&[97, 1, 1, 1], 10), [7, 1, 1, 1]);
        assert_eq!(shares(&[50, 50], 10), [5, 5]);
        assert_eq!(shares(&[1], 64), [64]);
    }

    #[test]
    fn bits_are_digits() {
        assert_eq!([1.99, 4.5, 16.0].map(digit), ['1', '4', '+']);
    }
}
