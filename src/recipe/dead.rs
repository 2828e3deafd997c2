//! Rules of a user's recipe that decide no tensor's type: most likely a slip in a name.
//!
//! Presets are made for many models and have rules for tensors that some lack. A rule about importances, or about the
//! first few of a kind, may well come to nothing.

use super::{Layers, Override, Presence, Recipe, Rule};
use crate::error::{Error, Warning};
use crate::model::{Model, TensorPlan};
use crate::nearest::nearest;

impl Recipe {
    /// A warning for each rule that a name or layers were given to, and that decides nothing of the model.
    pub fn dead_rules(&self, model: &Model, overrides: &[Override]) -> Vec<Warning> {
        if !self.of_user {
            return Vec::new();
        }
        let warning = |(index, rule): (usize, &Rule)| {
            let problem =
                format!("rule {}{} {}", index + 1, shown(rule), self.death(index, rule, model, overrides)?);
            Some(Warning::new(Error::Recipe { recipe: self.name.clone(), problem }))
        };
        self.rules.iter().enumerate().filter_map(warning).collect()
    }

    /// Why a rule decides nothing, if so.
    fn death(&self, index: usize, rule: &Rule, model: &Model, overrides: &[Override]) -> Option<String> {
        let any = |holds: &dyn Fn(&TensorPlan) -> bool| model.tensors.iter().any(holds);
        if let Some(name) = &rule.name
            && !any(&|tensor| name.is_match(&tensor.name))
        {
            let hint = meant(name.as_str(), model);
            let hint = hint.map_or(String::new(), |name| format!("; the nearest name is {name}"));
            return Some(format!("matches no tensor{hint}"));
        }
        if let Some(layers @ Layers::Numbers { .. }) = rule.layers
            && !any(&|tensor| tensor.layer.is_some_and(|layer| layers.contain(layer, model)))
        {
            let last = model.tensors.iter().filter_map(|tensor| tensor.layer).max().unwrap_or(0);
            return Some(format!("is for layers that the model does not have; its last one is {last}"));
        }
        // What is said of tensors alone, and not of shares of a model's depth or of importances.
        let certain = |rule: &Rule| {
            let numbered = matches!(rule.layers, None | Some(Layers::Numbers { .. }));
            rule.imatrix.is_none() && rule.first.is_none() && numbered
        };
        if rule.name.is_none() || !certain(rule) {
            return None;
        }
        let holds = |rule: &Rule, tensor: &TensorPlan| rule.matches(tensor, model, Presence::Present);
        let earlier = |tensor: &TensorPlan| {
            self.rules[..index].iter().any(|other| certain(other) && holds(other, tensor))
        };
        if !any(&|tensor| holds(rule, tensor)) {
            Some("matches no tensor: its conditions exclude each other".into())
        } else if !any(&|tensor| holds(rule, tensor) && !tensor.is_fixed()) {
            Some("has no effect: llama.cpp computes all that it matches in F32".into())
        } else if !any(&|tensor| holds(rule, tensor) && !tensor.is_fixed() && !earlier(tensor)) {
            Some("has no effect: rules before it take all that it matches".into())
        } else if !any(&|tensor| {
            let overridden = overrides.iter().any(|o| o.pattern.is_match(&tensor.name));
            holds(rule, tensor) && !tensor.role.is_f32() && !earlier(tensor) && !overridden
        }) {
            Some("has no effect: --override takes all that it matches".into())
        } else {
            None
        }
    }
}

/// The rule as the user may find it.
fn shown(rule: &Rule) -> String {
    rule.name.as_ref().map_or(String::new(), |name| format!(" (name = \"{name}\")"))
}

/// The tensor whose name, without layer and ending, is most like the longest word of the pattern.
fn meant<'a>(pattern: &str, model: &'a Model) -> Option<&'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = pattern.split(|c| !is_word(c)).max_by_key(|word| word.len())?;
    let class = |name: &'a str| name.split('.').find(|part| *part != "blk" && part.parse::<u32>().is_err());
    let best = nearest(word, model.tensors.iter().filter_map(|tensor| class(&tensor.name)))?;
    model.tensors.iter().map(|tensor| tensor.name.as_str()).find(|name| class(name) == Some(best))
}
