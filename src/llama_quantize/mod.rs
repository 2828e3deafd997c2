//! llama-quantize's rules: the type that each of its file types gives a tensor, for every architecture. Pure.
//!
//! The rules ask names, shapes and a few numbers of the model, never what the architecture computes; so they hold for
//! models that this program does not know. A tensor is put into a category by its name, and the file type's table has
//! a short list of steps for each category. Some steps are for the first tensors of a category, or for places spread
//! over its depth; so tensors are numbered as they come. `tests/support/file_types.py` compares every answer with
//! llama-quantize's.
//!
//! docs/file-types.md has the table of places where ours are safer on purpose.

mod file_types;
mod names;

use quant_kernels::Format::{self, *};

pub use file_types::{FILE_TYPES, FileType};
pub use names::{Category, protected};

use crate::gguf::{Metadata, Value};

/// The facts of a model that the rules ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Architecture, as general.architecture has it.
    pub arch: String,
    /// Blocks, those for multi-token prediction included.
    pub layers: u32,
    /// Routed experts in a layer; 0 without.
    pub experts: u32,
    /// Query heads of the first layer.
    pub heads: u32,
    /// Its key heads.
    pub kv_heads: u32,
}

/// A condition of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Four or more query heads share a key head.
    Grouped,
    /// Four or more experts.
    FourExperts,
    /// Exactly eight experts.
    EightExperts,
    /// Importances are given.
    Imatrix,
    /// None are.
    NoImatrix,
    /// Among the first tensors: this part of the number of layers, rounded down.
    First(u32),
    /// Among the first tensors: so many.
    Tensors(u32),
    /// In the first or last eighth, or a third one between.
    MoreBits,
    /// Neither in the first nor in the last eighth.
    Middle,
}

/// A tensor's place among those that count, and how many those are.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: u32,
    of: u32,
}

impl Facts {
    /// The facts that a file's metadata has.
    pub fn of(metadata: &Metadata) -> Self {
        let arch = match metadata.get("general.architecture") {
            Some(Value::String(arch)) => arch.clone(),
            _ => String::new(),
        };
        let number = |key: &str| {
            let value = metadata.get(&format!("{arch}.{key}"));
            value.and_then(Value::first_integer).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
        };
        // llama.cpp takes these for models without experts.
        let experts =
            if ["hunyuan-dense", "hunyuan_vl"].contains(&&*arch) { 0 } else { number("expert_count") };
        Self {
            layers: number("block_count"),
            experts,
            heads: number("attention.head_count"),
            kv_heads: number("attention.head_count_kv"),
            arch,
        }
    }

    fn grouped(&self) -> bool {
        self.heads.checked_div(self.kv_heads).is_some_and(|group| group >= 4)
    }

    /// What llama.cpp calls a model of 70 billion weights.
    fn is_70b(&self) -> bool {
        match &*self.arch {
            "llama" => self.layers == 80 && self.heads != self.kv_heads,
            "qwen2" | "deci" | "olmo" => self.layers == 80,
            "jais2" => self.layers == 68,
            _ => false,
        }
    }
}

/// llama-quantize's other names of some file types.
const ALIASES: [(&str, &str); 3] = [("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

/// The file type of this name, in any case.
pub fn file_type(name: &str) -> Option<&'static FileType> {
    let alias = ALIASES.iter().find(|alias| alias.0.eq_ignore_ascii_case(name));
    let name = alias.map_or(name, |alias| alias.1);
    FILE_TYPES.iter().find(|file_type| file_type.name.eq_ignore_ascii_case(name))
}

/// The types of tensors, asked for one after another in file order: outside of blocks first, then block by block,
/// each by name.
#[derive(Debug)]
pub struct Chooser<'a> {
    file_type: &'a FileType,
    facts: &'a Facts,
    imatrix: bool,
    /// No head of its own: the embedding is it.
    tied: bool,
    /// Tensors that count as values, whatever decides their types.
    values: u32,
    /// How many of these have been asked for so far; the others below likewise.
    seen_values: u32,
    seen_down: u32,
    seen_gate: u32,
    seen_up: u32,
}

impl<'a> Chooser<'a> {
    /// For a model whose tensors have these names.
    pub fn new<'b>(
        file_type: &'a FileType,
        facts: &'a Facts,
        imatrix: bool,
        names: impl IntoIterator<Item = &'b str>,
    ) -> Self {
        let (mut values, mut tied) = (0, true);
        for name in names {
            values += u32::from(Category::of(name) == Category::Value);
            tied &= name != "output.weight";
        }
        Self {
            file_type,
            facts,
            imatrix,
            tied,
            values,
            seen_values: 0,
            seen_down: 0,
            seen_gate: 0,
            seen_up: 0,
        }
    }

    /// The type of the next tensor, before its rows are held against the type's blocks, and why.
    ///
    /// Tensors that stay as they are, and those whose type the user has named, are not asked for: they do not count.
    ///
    /// `shape` has the row length first; `layer` is the block's number, None outside of blocks.
    pub fn next(&mut self, name: &str, shape: &[u64], layer: Option<u32>) -> (Format, String) {
        let (format, reason) = self.rule(name, shape, layer);
        if names::at_least_q8_0(&self.facts.arch, name) && format.bits_per_weight() < Q8_0.bits_per_weight() {
            return (Q8_0, "llama-quantize gives it Q8_0 at least in glm5-next".into());
        }
        (format, reason)
    }

    fn rule(&mut self, name: &str, shape: &[u64], layer: Option<u32>) -> (Format, String) {
        let FileType { name: file_type, base, .. } = *self.file_type;
        let category = Category::of(name);
        let falcon = self.facts.arch == "falcon";
        let is_head = category == Category::Output || (self.tied && category == Category::Embedding);
        if is_head && (falcon || !base.fits(shape[0])) {
            return (Q8_0, format!("{file_type}: the head, at 8 bits here"));
        }
        if is_head {
            return (self.file_type.output, format!("{file_type}: the head"));
        }
        if base == MXFP4 {
            // llama-quantize asks for three dimensions only; heads of attn_k_b and attn_v_b would become MXFP4, too.
            let experts = shape.get(2).is_some_and(|slices| *slices > 1) && name.contains("ffn_");
            let why = if experts { "experts" } else { "all but experts" };
            return (if experts { MXFP4 } else { Q8_0 }, format!("{file_type}: {why}"));
        }
        let place = self.place(category, layer);
        let eight = self.facts.experts == 8;
        let low = self.file_type.low;
        let of_eight = match category {
            Category::Value | Category::Key if eight && !low => Some(Q8_0),
            Category::Key if eight => Some(Q4_K),
            Category::AttnOutput if eight => Some(self.file_type.attn_output_of_eight.unwrap_or(base)),
            _ => None,
        };
        if let Some(format) = of_eight {
            return (format, format!("{file_type}: {}, of eight experts", shown(category)));
        }
        let format = match category {
            Category::Embedding => self.file_type.embedding.unwrap_or(base),
            _ => self.step(category, place, falcon && !low),
        };
        let raised = category == Category::Value && !low && self.facts.is_70b();
        if raised && [Q3_K, Q4_K].contains(&format) {
            return (Q5_K, format!("{file_type}: {}, of a model of 70 billion weights", shown(category)));
        }
        if format == base {
            return (base, format!("{file_type}: its base type"));
        }
        (format, format!("{file_type}: {}", shown(category)))
    }

    /// The type of the first step that holds, or the base.
    fn step(&self, category: Category, place: Place, falcon: bool) -> Format {
        let of_falcon = || {
            let own = |entry: &&(&str, Category, _)| entry.0 == self.file_type.name && entry.1 == category;
            match file_types::FALCON.iter().find(own) {
                Some((_, _, steps)) => Some(*steps),
                None => (category == Category::AttnOutput).then_some(&[][..]),
            }
        };
        let steps = match category {
            _ if falcon && let Some(steps) = of_falcon() => steps,
            Category::Value => self.file_type.value,
            Category::Key | Category::Query => self.file_type.key_query,
            Category::AttnOutput => self.file_type.attn_output,
            Category::Down => self.file_type.down,
            Category::Gate | Category::Up => self.file_type.gate_up,
            Category::Output | Category::Embedding | Category::Other => &[],
        };
        let holds = |when: &When| self.holds(*when, place);
        steps.iter().find(|step| step.0.iter().all(holds)).map_or(self.file_type.base, |step| step.1)
    }

    fn holds(&self, when: When, Place { index, of }: Place) -> bool {
        let Facts { layers, experts, .. } = *self.facts;
        let (eighth, last) = (of / 8, 7 * of / 8);
        match when {
            When::Grouped => self.facts.grouped(),
            When::FourExperts => experts >= 4,
            When::EightExperts => experts == 8,
            When::Imatrix => self.imatrix,
            When::NoImatrix => !self.imatrix,
            When::First(part) => index < layers / part,
            When::Tensors(count) => index < count,
            When::MoreBits => index < eighth || index >= last || (index - eighth) % 3 == 2,
            When::Middle => (eighth..last).contains(&index),
        }
    }

    /// Counts the tensor: values among values, the FFN's by block, or one by one in a model without experts.
    fn place(&mut self, category: Category, layer: Option<u32>) -> Place {
        let layers = self.facts.layers;
        let (seen, of) = match category {
            Category::Value => (&mut self.seen_values, self.values),
            Category::Down => (&mut self.seen_down, layers),
            Category::Gate => (&mut self.seen_gate, layers),
            Category::Up => (&mut self.seen_up, layers),
            _ => return Place { index: 0, of: layers },
        };
        let index = *seen;
        *seen += 1;
        // IQ1 and IQ2 count all down projections, of experts and shared ones alike.
        let by_block = category != Category::Value && self.facts.experts > 1 && !self.file_type.low;
        Place { index: layer.filter(|_| by_block).unwrap_or(index), of }
    }
}

/// A category in a sentence.
fn shown(category: Category) -> &'static str {
    match category {
        Category::Output => "the head",
        Category::Embedding => "the embedding",
        Category::Value => "values of attention",
        Category::Key => "keys of attention",
        Category::Query => "queries of attention",
        Category::AttnOutput => "the output of attention",
        Category::Up => "up projections",
        Category::Gate => "gate projections",
        Category::Down => "down projections",
        Category::Other => "others",
    }
}
