//! A plan as a table and as JSON: sizes by role and type, memory that llama.cpp will need, time, warnings.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

use quant_kernels::Format;
use serde::{Deserialize, Serialize};

use super::machine::Told;
use super::time::about;
use super::warnings::{Look, warnings};
use super::width::wrapped;
use super::{Size, counted, grouped};
use crate::checkpoint::{LeftOut, hex};
use crate::error::Warning;
use crate::gguf::{File, Split, Value};
use crate::machine::{Fit, Needs};
use crate::model::Role;
use crate::pipeline::Rate;
use crate::plain::plain;
use crate::recipe::{AUTO_PRESET, Importances, Plan, Tradeoff, is_of_fixed_types};

/// All that `plan` reports.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// `general.name`, if the model has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// GGUF architecture.
    pub architecture: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Over all tensors.
    pub bits_per_weight: f64,
    /// Data of all tensors.
    pub tensor_bytes: u64,
    /// The whole file, or all files of a split: headers, tokenizer, data, padding.
    pub file_bytes: u64,
    /// SHA-256 of the header of each file: metadata, names, types and places of all tensors. Not there if the weights were not
    /// sampled, since the sample's digest is in the header.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers_sha256: Vec<String>,
    /// What makes a better file of as many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// The files of a split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PlannedFile>,
    /// Tensors by type.
    pub types: BTreeMap<String, usize>,
    /// Tensors by role and type.
    pub groups: Vec<Group>,
    /// What llama.cpp keeps in memory when it maps the file.
    pub resident: Resident,
    /// How it runs on the machine that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// What other sizes would give, where a size was named.
    #[serde(flatten)]
    pub tradeoff: Option<Tradeoff>,
    /// Tensors whose rows do not fit the type that the recipe wants.
    pub fallbacks: Vec<Fallback>,
    /// Tensors of the checkpoint that are not written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What a user should know before the work.
    pub warnings: Vec<String>,
    /// How long it takes, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
}

/// A recipe that makes a better file.
#[derive(Clone, Debug, Serialize)]
pub struct Better {
    /// Its name.
    pub recipe: &'static str,
    /// The size to name: the bytes of the whole file.
    pub size: u64,
}

/// One file of a split.
#[derive(Debug, Serialize)]
pub struct PlannedFile {
    /// What follows the output's name: `-00001-of-00004.gguf`.
    pub name: String,
    /// The whole file.
    pub bytes: u64,
    /// How many tensors are in it.
    pub tensors: usize,
    /// The first and the last.
    pub between: [String; 2],
}

/// Tensors of one role and type.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The role of the tensors.
    pub role: Role,
    /// Their type.
    #[serde(rename = "type")]
    pub format: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Their weights.
    pub weights: u64,
    /// Their data.
    pub bytes: u64,
    /// Their names without layers.
    pub classes: Vec<String>,
}

/// What a token needs of the file.
#[derive(Debug, Serialize)]
pub struct Resident {
    /// Tensors that every token reads: all but the routed experts and the embedding.
    pub always: u64,
    /// Bytes of the routed experts that one token reads.
    pub experts_per_token: u64,
    /// All routed experts, streamed from disk as far as they do not fit.
    pub experts: u64,
    /// KV cache of one token in 16-bit numbers, all layers.
    pub kv_per_token: u64,
    /// KV cache of 1024 tokens, which is less than as many times that where attention has a window.
    pub kv_of_1024: u64,
}

/// A type that was replaced.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Fallback {
    /// Name without layers.
    pub class: String,
    /// Row length.
    pub columns: u64,
    /// The recipe's type.
    pub wanted: String,
    /// The type instead.
    #[serde(rename = "type")]
    pub format: String,
    /// How many tensors.
    pub tensors: usize,
}

/// Time for encoding, which is the slow part.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Estimate {
    /// Threads that were counted on.
    pub threads: usize,
    /// Seconds on all threads.
    pub seconds: f64,
    /// Million weights a second on one thread, by type, measured just now.
    pub mw_per_s: BTreeMap<String, f64>,
}

impl Summary {
    /// Sums the plan up.
    pub fn new(plan: &Plan, importances: &Importances) -> Self {
        let model = &plan.model;
        let mut types = BTreeMap::new();
        let mut groups: BTreeMap<(Role, Format), Group> = BTreeMap::new();
        for (index, tensor) in model.tensors.iter().enumerate() {
            let format = plan.format(index);
            *types.entry(format.to_string()).or_insert(0) += 1;
            let group = groups.entry((tensor.role, format)).or_insert_with(|| Group {
                role: tensor.role,
                format: format.to_string(),
                tensors: 0,
                weights: 0,
                bytes: 0,
                classes: Vec::new(),
            });
            group.tensors += 1;
            group.weights += tensor.weights();
            group.bytes += plan.bytes(index);
            let class = tensor.class();
            if !group.classes.iter().any(|known| known == class) {
                group.classes.push(class.to_owned());
            }
        }
        let looks = model.tensors.iter().enumerate().map(|(index, tensor)| Look {
            format: plan.format(index),
            role: tensor.role,
            origin: importances.origin(index),
        });
        let replaced = model.tensors.iter().zip(&plan.choices).filter_map(|(tensor, choice)| {
            Some((tensor.class(), tensor.columns(), choice.wanted?, choice.format))
        });
        Self {
            name: model
                .metadata
                .get("general.name")
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            architecture: model.arch.clone(),
            recipe: plan.recipe.clone(),
            tensors: model.tensors.len(),
            weights: model.weights(),
            bits_per_weight: plan.bits_per_weight(),
            tensor_bytes: plan.tensor_bytes(),
            headers_sha256: match plan.source.sample.is_empty() {
                true => Vec::new(),
                false => plan.files.iter().map(|file| hex(&file.layout.header)).collect(),
            },
            file_bytes: plan.file_bytes(),
            better: Better::than(plan),
            files: planned_files(plan),
            types,
            groups: groups.into_values().collect(),
            resident: Resident::new(&Needs::of(plan)),
            fit: None,
            tradeoff: plan.tradeoff.clone(),
            fallbacks: fallbacks(replaced),
            left_out: model.left_out.clone(),
            warnings: plan
                .warnings
                .iter()
                .chain(importances.warnings())
                .map(Warning::to_string)
                .chain(warnings(importances.has_imatrix(), looks))
                .collect(),
            estimate: None,
        }
    }

    /// Adds how long the work takes on `threads` threads.
    pub fn estimate(&mut self, rates: &[Rate], threads: usize) {
        self.estimate = Some(Estimate {
            threads,
            seconds: rates.iter().map(Rate::seconds).sum::<f64>() / threads as f64,
            mw_per_s: rates.iter().map(|r| (r.format.to_string(), r.weights_per_second / 1e6)).collect(),
        });
    }
}

impl Better {
    /// The largest files that it was measured on had fewer bits a weight (docs/records/2026-11-sizes.md).
    const ENOUGH_BITS: f64 = 5.0;

    /// None if the types are chosen by what they cost already, or by the user.
    pub fn than(plan: &Plan) -> Option<Self> {
        let is_fixed =
            plan.tradeoff.is_none() && plan.overrides.is_empty() && is_of_fixed_types(&plan.recipe);
        (is_fixed && plan.bits_per_weight() < Self::ENOUGH_BITS)
            .then(|| Self { recipe: AUTO_PRESET, size: plan.file_bytes() })
    }
}

impl fmt::Display for Better {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recipe, size } = self;
        write!(
            f,
            "--recipe {recipe} --size {size}B makes a better file of these bytes: it chooses types by what they cost"
        )
    }
}

impl Resident {
    fn new(needs: &Needs) -> Self {
        let experts = needs.all_experts();
        Self {
            always: needs.always(),
            experts_per_token: needs.used(experts),
            experts,
            kv_per_token: needs.kv_per_token(),
            kv_of_1024: needs.cache(1024),
        }
    }
}

fn planned_files(plan: &Plan) -> Vec<PlannedFile> {
    if plan.split == Split::Whole {
        return Vec::new();
    }
    let name = |index: usize| plan.model.tensors[index].name.clone();
    let file = |(number, file): (usize, &File)| PlannedFile {
        name: plan.split.name(Path::new(""), number, plan.files.len()).display().to_string(),
        bytes: file.layout.file_size,
        tensors: file.tensors.len(),
        between: [name(file.tensors.start), name(file.tensors.end - 1)],
    };
    plan.files.iter().enumerate().map(file).collect()
}

/// Types that were replaced, from class, row length, wanted type and type of each tensor where that happened.
pub fn fallbacks<'a>(replaced: impl Iterator<Item = (&'a str, u64, Format, Format)>) -> Vec<Fallback> {
    let mut fallbacks: Vec<Fallback> = Vec::new();
    for (class, columns, wanted, format) in replaced {
        let (wanted, format) = (wanted.to_string(), format.to_string());
        let same = |other: &&mut Fallback| {
            (&*other.class, &other.wanted, &other.format) == (class, &wanted, &format)
        };
        match fallbacks.iter_mut().find(same) {
            Some(known) => known.tensors += 1,
            None => {
                fallbacks.push(Fallback { class: class.to_owned(), columns, wanted, format, tensors: 1 });
            }
        }
    }
    fallbacks
}

impl Summary {
    /// The same for a terminal of so many columns.
    pub fn within(&self, width: usize) -> Within<'_> {
        Within { summary: self, width }
    }

    /// Tensors by role and type, for a narrow terminal: what there is room for.
    fn narrow_table(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        const NUMBERS: usize = 57;
        let of = |group: &Group| group.bytes as f64 * 100.0 / self.tensor_bytes as f64;
        writeln!(f, "{:<15} {:<8} {:>7} {:>15} {:>6}", "role", "type", "tensors", "bytes", "share")?;
        for group in &self.groups {
            let line = format!(
                "{:<15} {:<8} {:>7} {:>15} {:>5.1}%",
                group.role,
                group.format,
                group.tensors,
                grouped(group.bytes),
                of(group)
            );
            let names = if width < NUMBERS + 24 { String::new() } else { group.classes.join(" ") };
            write!(f, "{}", wrapped(&format!("{line}  {names}"), width, NUMBERS))?;
        }
        writeln!(f, "{:<15} {:<8} {:>7} {:>15}", "all", "", self.tensors, grouped(self.tensor_bytes))
    }

    /// Tensors by role and type.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<15} {:<8} {:>7} {:>17} {:>15} {:>6}  tensors of each layer",
            "role", "type", "tensors", "weights", "bytes", "share"
        )?;
        for group in &self.groups {
            writeln!(
                f,
                "{:<15} {:<8} {:>7} {:>17} {:>15} {:>5.1}%  {}",
                group.role,
                group.format,
                group.tensors,
                grouped(group.weights),
                grouped(group.bytes),
                group.bytes as f64 * 100.0 / self.tensor_bytes as f64,
                group.classes.join(" ")
            )?;
        }
        writeln!(
            f,
            "{:<15} {:<8} {:>7} {:>17} {:>15}",
            "all",
            "",
            self.tensors,
            grouped(self.weights),
            grouped(self.tensor_bytes)
        )
    }

    /// Size, time and memory.
    fn head(&self, f: &mut String) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({})", plain(name), self.architecture)?,
            None => write!(f, "{}", self.architecture)?,
        }
        writeln!(f, ", recipe {}", plain(&self.recipe))?;
        writeln!(
            f,
            "file      {}, {} bytes, {:.4} bits per weight",
            Size(self.file_bytes),
            grouped(self.file_bytes),
            self.bits_per_weight
        )?;
        if let Some(better) = &self.better {
            writeln!(f, "better    {better}")?;
        }
        for PlannedFile { name, bytes, tensors, between: [first, last] } in &self.files {
            writeln!(f, "split     {name}  {}, {tensors} tensors, {first} to {last}", Size(*bytes))?;
        }
        if let Some(Estimate { threads, seconds, .. }) = &self.estimate {
            writeln!(
                f,
                "time      {} on {} here, if the disk keeps up",
                about(*seconds),
                counted(*threads, "idle thread")
            )?;
        }
        let Resident { always, experts_per_token, experts, kv_of_1024, .. } = self.resident;
        writeln!(
            f,
            "resident  {} that every token reads; KV cache {} for 1024 tokens",
            Size(always),
            Size(kv_of_1024)
        )?;
        if experts > 0 {
            writeln!(
                f,
                "experts   {} mapped, of which a token reads {}",
                Size(experts),
                Size(experts_per_token)
            )?;
        }
        if let Some(fit) = &self.fit {
            write!(f, "{}", Told { fit, weights: self.weights })?;
        }
        Ok(())
    }

    /// Notes and warnings.
    fn tail(&self, f: &mut String) -> fmt::Result {
        for Fallback { class, columns, wanted, format, tensors } in &self.fallbacks {
            let what =
                format!("{class} ({tensors} tensors) has rows of {columns}, which do not fit {wanted}");
            writeln!(f, "note      {what}: {format} instead")?;
        }
        for LeftOut { tensors, reason, count } in &self.left_out {
            writeln!(f, "note      {count} tensors with {tensors} in their names are left out: {reason}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning   {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.within(usize::MAX).fmt(f)
    }
}

/// A summary on a terminal.
#[derive(Debug)]
pub struct Within<'a> {
    summary: &'a Summary,
    width: usize,
}

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What stands before the text of a line; columns of the table with all that is in it.
        const INDENT: usize = 10;
        const TABLE: usize = 110;
        let Self { summary, width } = *self;
        let [mut head, mut tail] = [String::new(), String::new()];
        summary.head(&mut head)?;
        writeln!(f, "{}", wrapped(&head, width, INDENT))?;
        if width < TABLE { summary.narrow_table(f, width) } else { summary.table(f) }?;
        summary.tail(&mut tail)?;
        write!(f, "\n{}", wrapped(&tail, width, INDENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, Fingerprint};
    use crate::model::{Model, Options};
    use crate::recipe::{Recipe, Wishes};

    #[test]
    fn a_narrow_terminal_cuts_no_line_and_a_wide_one_shows_all() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-r1");
        let checkpoint = Checkpoint::open_folder(&fixture).expect("sound");
        let model = Model::plan(&checkpoint, &Options::default()).expect("a plan");
        let source = Fingerprint::of(&checkpoint).expect("read");
        let recipe = Recipe::load("ud-iq1_s").expect("a preset");
        let wishes = Wishes { split: Split::Count(3), ..Wishes::new(&recipe) };
        let plan = Plan::new(model, source, wishes).expect("a plan");
        let importances =
            Importances::prepare(&checkpoint, &plan.model, &plan.choices, None).expect("importances");
        let summary = Summary::new(&plan, &importances);
        for width in [60, 80, 100] {
            let text = summary.within(width).to_string();
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= width), "{width}: {widest:?}\n{text}");
            for word in ["ud-iq1_s", "IQ2_XXS", "-00003-of-00003.gguf", "--imatrix"] {
                assert!(text.contains(word), "{width}: {word} is not in\n{text}");
            }
        }
        assert!(summary.to_string().contains("18,191,680"), "weights, where there is room");
    }
}
