//! A recipe: an ordered list of rules, of which the first that matches a tensor gives its type.

use std::fmt;
use std::path::Path;

use quant_kernels::Format;
use regex::Regex;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::format::format;
use super::layers::{Layers, Share};
use super::pattern::pattern;
use super::presets;
use super::presets::file_types;
use crate::error::{Error, Result};
use crate::llama_quantize::{self, FileType};
use crate::model::{Model, Role, TensorPlan};
use crate::nearest::did_you_mean;
use crate::whole;

/// A recipe file is small; a larger one is a mistake.
const MAX_FILE: u64 = 4 << 20;

/// Each rule may hold a compiled pattern; presets have up to twelve rules, a saved choice one for each tensor (R1:
/// 1086).
const MAX_RULES: usize = 2000;

/// Rules for the types of a model's tensors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, as written into the file that it makes.
    pub name: String,
    /// One sentence on what it is for.
    #[serde(default)]
    pub about: String,
    /// llama.cpp's number for the nearest of its file types (general.file_type), which it only prints; by default that of
    /// the type that most weights get.
    pub file_type: Option<u32>,
    /// Whether it is for models with routed experts alone: in others it would be another recipe than its name says.
    #[serde(default, rename = "experts")]
    pub for_experts: bool,
    /// The rules in order.
    #[serde(rename = "rule", deserialize_with = "rules")]
    pub rules: Vec<Rule>,
    /// Whether it is a user's file, whose rules are meant for the model at hand, and not a preset or what a size came
    /// to.
    #[serde(skip)]
    pub of_user: bool,
    /// llama-quantize's file type that decides in place of the rules, which are none then.
    #[serde(skip)]
    pub llama: Option<&'static FileType>,
}

/// One rule: conditions that must all hold, the type, and why.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the tensor does.
    pub role: Option<Role>,
    /// A regular expression found in the tensor's GGUF name.
    #[serde(default, deserialize_with = "name_pattern")]
    pub name: Option<Regex>,
    /// Which layers.
    pub layers: Option<Layers>,
    /// Only the first tensors that the other conditions hold for, in file order: this share of the number of layers.
    pub first: Option<Share>,
    /// Only when there are importances, or only when there are none.
    pub imatrix: Option<Presence>,
    /// The type that a matching tensor gets.
    #[serde(rename = "type", deserialize_with = "wanted")]
    pub wanted: Wanted,
    /// Where the type is open: none of fewer bits per weight than this.
    #[serde(default, deserialize_with = "bound")]
    pub min: Option<Format>,
    /// The same where what a type costs is only estimated, and not measured by gradients.
    #[serde(default, deserialize_with = "bound")]
    pub min_unmeasured: Option<Format>,
    /// Where the type is open: none of more bits per weight than this.
    #[serde(default, deserialize_with = "bound")]
    pub max: Option<Format>,
    /// Why, for the reader of the plan.
    #[serde(default = "unexplained")]
    pub reason: String,
}

/// The reason of a rule that gives none.
fn unexplained() -> String {
    "the recipe says so".to_owned()
}

/// The type that a rule gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This type.
    Fixed(Format),
    /// "copy": the one that the source has, bit for bit.
    Copy,
    /// "source": the one that the source has, or whose blocks hold the same codes, or else 16 bits.
    Source,
    /// "auto": the best under a budget.
    Auto,
}

impl Wanted {
    /// A type by name, "copy" or "source".
    ///
    /// # Errors
    /// If there is no such type.
    pub fn fixed(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "copy" => Ok(Self::Copy),
            "source" => Ok(Self::Source),
            _ => format(name).map(Self::Fixed),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(format) => format.fmt(f),
            Self::Copy => f.pad("copy"),
            Self::Source => f.pad("source"),
            Self::Auto => f.pad("auto"),
        }
    }
}

/// Whether an importance matrix is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// One is.
    Present,
    /// None is.
    Absent,
}

impl Recipe {
    /// A preset by name, or a TOML file by path.
    ///
    /// # Errors
    /// If it is neither, or the file is no recipe.
    pub fn load(name: &str) -> Result<Self> {
        if let Some(text) = presets::text(name) {
            return Self::parse(name, text);
        }
        if let Some(file_type) = llama_quantize::file_type(name) {
            return Ok(Self::of_llama(file_type));
        }
        let fault = |problem| Error::Recipe { recipe: name.to_owned(), problem };
        let path = Path::new(name);
        let known: Vec<String> = presets::names().map(str::to_owned).chain(file_types()).collect();
        match path.metadata() {
            Ok(file) if !file.is_dir() => {
                let recipe = Self::parse(name, &whole::read_text(path, MAX_FILE, fault)?)?;
                Ok(Self { of_user: true, ..recipe })
            }
            _ => {
                let hint = did_you_mean(name, known.iter().map(String::as_str));
                Err(fault(format!("is no file and no preset; presets are {}{hint}", known.join(", "))))
            }
        }
    }

    /// One of llama-quantize's file types.
    fn of_llama(file_type: &'static FileType) -> Self {
        Self {
            name: file_type.name.to_lowercase(),
            about: format!("llama-quantize's {}.", file_type.name),
            file_type: Some(file_type.number),
            for_experts: false,
            rules: Vec::new(),
            of_user: false,
            llama: Some(file_type),
        }
    }

    /// Reads a recipe's TOML; `place` names it in messages.
    ///
    /// # Errors
    /// With line and column, if it is no recipe.
    pub fn parse(place: &str, text: &str) -> Result<Self> {
        let fault = |problem| Error::Recipe { recipe: place.to_owned(), problem };
        let recipe: Self = toml::from_str(text).map_err(|e| fault(e.to_string().trim_end().to_owned()))?;
        for (number, rule) in (1..).zip(&recipe.rules) {
            let bits = |bound: Option<Format>| bound.map(Format::bits_per_weight);
            let least = [("min", rule.min), ("min_unmeasured", rule.min_unmeasured)];
            if rule.wanted != Wanted::Auto
                && (least.iter().any(|(_, min)| min.is_some()) || rule.max.is_some())
            {
                let problem = format!("rule {number} has min or max; they go with type = \"auto\"");
                return Err(fault(problem));
            }
            for (name, min) in least {
                if let (Some(min), Some(max)) = (min, rule.max)
                    && bits(Some(min)) > bits(rule.max)
                {
                    let problem = format!("rule {number} has {name} = {min}, which is above max = {max}");
                    return Err(fault(problem));
                }
            }
        }
        Ok(recipe)
    }

    /// Whether it asks for the types of the source.
    pub fn is_of_source(&self) -> bool {
        self.rules.iter().any(|rule| rule.wanted == Wanted::Source)
    }

    /// Whether it leaves types open, which a budget then decides.
    pub fn is_open(&self) -> bool {
        self.rules.iter().any(|rule| rule.wanted == Wanted::Auto)
    }
}

impl Rule {
    /// Whether all conditions but `first` hold.
    pub fn matches(&self, tensor: &TensorPlan, model: &Model, imatrix: Presence) -> bool {
        self.role.is_none_or(|role| role == tensor.role)
            && self.layers.is_none_or(|layers| tensor.layer.is_some_and(|layer| layers.contain(layer, model)))
            && self.imatrix.is_none_or(|wanted| wanted == imatrix)
            && self.name.as_ref().is_none_or(|name| name.is_match(&tensor.name))
    }
}

fn wanted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Wanted, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.eq_ignore_ascii_case("auto") {
        return Ok(Wanted::Auto);
    }
    Wanted::fixed(&name).map_err(serde::de::Error::custom)
}

fn bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Format>, D::Error> {
    format(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn name_pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    pattern(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// A list of rules that ends in time.
fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Rule>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Rule>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of up to {MAX_RULES} rules")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Rule>, A::Error> {
            let mut rules = Vec::new();
            while let Some(rule) = list.next_element()? {
                rules.push(rule);
                if rules.len() > MAX_RULES {
                    return Err(serde::de::Error::invalid_length(rules.len(), &self));
                }
            }
            Ok(rules)
        }
    }

    deserializer.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_a_name_and_a_rule() {
        let recipe = Recipe::parse("r.toml", "name = \"mine\"\n[[rule]]\ntype = \"Q4_K\"\n").expect("enough");
        assert_eq!((recipe.file_type, &*recipe.rules[0].reason), (None, "the recipe says so"));
        for text in ["[[rule]]\ntype = \"Q4_K\"", "name = \"mine\"", "name = \"mine\"\nrule = [{}]"] {
            assert!(Recipe::parse("r.toml", text).is_err(), "{text}");
        }
    }
}
