//! The layers that a rule applies to: "3-8", "first 1/8", "first 1/10 of the MoE layers", "more bits".

use std::str::FromStr;

use serde::Deserialize;

use crate::model::Model;

/// A choice of layers that fits models of any depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Layers {
    /// "3-8" or "5": these numbers.
    Numbers {
        /// First layer.
        from: u32,
        /// Last layer.
        to: u32,
    },
    /// "first 1/8": numbers below that share of all layers, rounded down as llama-quantize does.
    First(Share),
    /// "first 1/10 of the MoE layers": the share rounded up, so that every model has one.
    FirstMoe(Share),
    /// "more bits": the first and the last eighth, and every third between, as llama-quantize spreads extra bits.
    MoreBits,
}

/// A fraction of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Share {
    part: u32,
    of: u32,
}

impl Share {
    /// The share of `count`, rounded down.
    pub fn floor(self, count: u32) -> u32 {
        (u64::from(count) * u64::from(self.part) / u64::from(self.of)) as u32
    }

    /// The share of `count`, rounded up.
    pub fn ceil(self, count: u32) -> u32 {
        (u64::from(count) * u64::from(self.part)).div_ceil(u64::from(self.of)) as u32
    }
}

impl Layers {
    /// Whether the layer is among them.
    pub fn contain(self, layer: u32, model: &Model) -> bool {
        let layers = model.layers;
        match self {
            Self::Numbers { from, to } => (from..=to).contains(&layer),
            Self::First(share) => layer < share.floor(layers),
            Self::FirstMoe(share) => {
                let dense = model.dense_layers;
                layer >= dense && layer - dense < share.ceil(layers - dense)
            }
            Self::MoreBits => {
                let eighth = layers / 8;
                layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
            }
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no share; expected one like \"1/8\"");
        let (part, of) = text.split_once('/').ok_or_else(wrong)?;
        let share = Self { part: part.parse().map_err(|_| wrong())?, of: of.parse().map_err(|_| wrong())? };
        if share.part == 0 || share.part > share.of { Err(wrong()) } else { Ok(share) }
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Layers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "more bits" {
            return Ok(Self::MoreBits);
        }
        if let Some(share) = text.strip_prefix("first ") {
            return match share.strip_suffix(" of the MoE layers") {
                Some(share) => share.parse().map(Self::FirstMoe),
                None => share.parse().map(Self::First),
            };
        }
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if from <= to => Ok(Self::Numbers { from, to }),
            _ => Err(format!(
                "\"{text}\" chooses no layers; expected \"3-8\", \"first 1/8\", \"first 1/10 of the MoE layers\" or \
                 \"more bits\""
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, layers: u32, dense_layers: u32) -> Vec<u32> {
        let model = Model {
            arch: "deepseek2".into(),
            description: None,
            metadata: Default::default(),
            tensors: Vec::new(),
            layers,
            dense_layers,
            experts: [256, 8],
            kv_per_token: 576,
            left_out: Vec::new(),
            warnings: Vec::new(),
        };
        let choice = Layers::try_from(text.to_owned()).expect(text);
        (0..layers).filter(|&layer| choice.contain(layer, &model)).collect()
    }

    #[test]
    fn shares_fit_r1_and_a_tiny_model() {
        assert_eq!(chosen("first 1/10 of the MoE layers", 61, 3), [3, 4, 5, 6, 7, 8]);
        assert_eq!(chosen("first 1/10 of the MoE layers", 5, 1), [1]);
        assert_eq!(chosen("first 1/20 of the MoE layers", 61, 3), [3, 4, 5]);
        assert_eq!(chosen("first 1/20 of the MoE layers", 5, 1), [1]);
        assert_eq!(chosen("first 1/16", 61, 3), [0, 1, 2]);
        assert_eq!(chosen("first 1/8", 61, 3).len(), 7);
        assert_eq!(chosen("60", 61, 3), [60]);
    }

    #[test]
    fn more_bits_is_llama_quantizes_spread() {
        let mut expected: Vec<u32> =
            (0..7).chain((7..53).filter(|l| (l - 7) % 3 == 2)).chain(53..61).collect();
        expected.sort_unstable();
        assert_eq!(chosen("more bits", 61, 3), expected);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "8-3", "first", "first 0/8", "first 9/8", "last 1/8", "a", "1-"] {
            assert!(Layers::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
