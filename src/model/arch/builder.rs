//! Finds the checkpoint's tensors for a description's, and checks each against the shape that config.json implies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use quant_kernels::Format;

use super::whole::{self, Names};
use super::{Family, Prediction, StoredExperts};
use crate::checkpoint::{Checkpoint, Dtype, Encoding};
use crate::error::{Error, Result};
use crate::model::layer::Pairing;
use crate::model::spec::{Source, Spec};
use crate::model::{Description, Part, Slice, TensorPlan, layer_and_class, scales};
use crate::store::{Computed, Derivation, Factors, Integers, Order, Pick};

/// Tensors of old checkpoints that follow from config.json.
const RECOMPUTED: [&str; 1] = [".rotary_emb.inv_freq"];

/// A tensor of a layer for multi-token prediction that is stored apart, under the longer of its two names.
const APART: &str = "model.mtp.fc.weight";

/// What names of biases end with.
const BIAS: &str = ".bias";

/// The usual name of the tensor that has all experts, where most have one for each: gate and up are in one.
fn in_one(name: &str) -> String {
    let module = name.replace(".{}", "").replace(".weight", "").replace(".bias", "_bias");
    module.replace(".gate_proj", ".gate_up_proj").replace(".up_proj", ".gate_up_proj")
}

/// Whether an expert's matrix is the first or the second of the two that are in one tensor.
fn half(name: &str) -> Option<u64> {
    [".gate_proj", ".up_proj"].iter().zip(0..).find(|(part, _)| name.contains(**part)).map(|(_, half)| half)
}

/// The tensors planned so far, and the checkpoint tensors they use.
pub struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    family: &'a Family,
    names: Names,
    /// Which columns of a query or key are rotated together in the file.
    pairing: Pairing,
    /// The architecture that is written.
    arch: &'static str,
    /// Layers that are not for multi-token prediction.
    layers: u32,
    rope_divisors: &'a [f32],
    tensors: Vec<TensorPlan>,
    /// Checkpoint names of vectors, by their names in GGUF: norms that others refer to.
    vectors: HashMap<String, Arc<str>>,
    used: HashSet<Arc<str>>,
}

impl<'a> Builder<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        family: &'a Family,
        model: &Description,
        rope_divisors: &'a [f32],
    ) -> Self {
        Self {
            checkpoint,
            family,
            names: Names::of(checkpoint),
            pairing: model.rope.pairing,
            arch: model.arch,
            layers: model.layers.len() as u32,
            rope_divisors,
            tensors: Vec::new(),
            vectors: HashMap::new(),
            used: HashSet::new(),
        }
    }

    /// Plans a tensor of a layer, or of what is outside of them. The norms that it refers to come before it.
    ///
    /// # Errors
    /// If a source is not there (unless the tensor is optional), cannot be read, or has another shape.
    pub fn add(&mut self, layer: Option<u32>, spec: &Spec) -> Result<()> {
        let stored = |name: &str| self.stored_name(layer, name);
        let [rows, columns] = spec.shape;
        let order = self.order(spec);
        let whole = |tensor| Slice { tensor, rows: 0..rows.into(), transposed: false, order };
        let slices = match &spec.source {
            Source::Integers(name) => {
                let tensor = self.integers(stored(name), &spec.shape)?;
                vec![whole(Integers::name(&tensor).into())]
            }
            Source::Channels(name) => vec![whole(self.source(stored(name), &[rows, 1, columns])?)],
            Source::One(name) => {
                let name = stored(name);
                if spec.optional && self.checkpoint.get(&name).is_none() {
                    return Ok(());
                }
                let shape = if spec.vector { &spec.shape[1..] } else { &spec.shape[..] };
                vec![whole(self.source(name, shape)?)]
            }
            Source::Experts { name, count } if self.family.experts == StoredExperts::Interleaved => {
                self.interleaved(stored(&in_one(name)), name, *count, spec)?
            }
            Source::Experts { name, count }
                if self.has(&stored(&in_one(name))) && !self.has(&stored(name)) =>
            {
                self.stacked(stored(&in_one(name)), name, *count, spec)?
            }
            Source::Experts { name, count } => {
                let name = stored(name);
                let expert = |expert: u32| name.replace("{}", &expert.to_string());
                let found = (0..*count).map(|number| self.source(expert(number), &spec.shape).map(whole));
                found.collect::<Result<_>>()?
            }
            Source::Computed => vec![whole(Computed::name(self.rope_divisors).into())],
            Source::Heads { name, heads, each, rows, transposed } => {
                let tensor = self.source(stored(name), &[heads * each, columns])?;
                let head = |head: u32| {
                    let first = u64::from(head) * u64::from(*each);
                    let rows = first + u64::from(rows.start)..first + u64::from(rows.end);
                    Slice { tensor: Arc::clone(&tensor), rows, transposed: *transposed, order: Order::Stored }
                };
                (0..*heads).map(head).collect()
            }
        };
        self.push(layer, spec, slices)
    }

    /// Adds the tensor that these slices are.
    fn push(&mut self, layer: Option<u32>, spec: &Spec, mut slices: Vec<Slice>) -> Result<()> {
        let [rows, columns] = spec.shape;
        let less_one = (self.family.less_one && spec.gains).then_some(Derivation::OneMore);
        if let Some(derivation) = spec.derivation.or(less_one) {
            slices.iter_mut().for_each(|slice| slice.tensor = derivation.name(&slice.tensor).into());
        }
        let name = spec.full_name(layer);
        // Shapes of heads are those that are stored, all others those of the file.
        let turned = matches!(spec.source, Source::Heads { transposed: true, .. });
        let [ne0, ne1] = if turned { [rows, columns] } else { [columns, rows] };
        let shape: Vec<u64> = match spec.source {
            Source::One(_) | Source::Computed if spec.vector => vec![ne0.into()],
            Source::One(_) | Source::Channels(_) | Source::Integers(_) => vec![ne0.into(), ne1.into()],
            Source::Experts { count, .. } if spec.vector => vec![ne0.into(), count.into()],
            _ => vec![ne0.into(), ne1.into(), slices.len() as u64],
        };
        if spec.vector {
            self.vectors.insert(name.clone(), Arc::clone(&slices[0].tensor));
        }
        let norm = spec.norm.map(|norm| match layer {
            Some(layer) => format!("blk.{layer}.{norm}"),
            None => norm.to_owned(),
        });
        let input_norm = norm.map(|norm| self.vectors[&norm].to_string());
        let part = Part { order: self.tensors.len(), ..spec.part };
        let stored = match spec.source {
            Source::Integers(_) => Some(Format::I32),
            _ => self.stored(&slices),
        };
        let regrouped = self.regrouped(&slices);
        let (class, of_slices) = (layer_and_class(&name).1, || slices.iter().map(|slice| &*slice.tensor));
        // Those of NVFP4, which a block has no place for.
        let scale = (regrouped == Some(Format::NVFP4)).then(|| Factors::name(of_slices()).into());
        // llama.cpp does not read factors of layers for multi-token prediction.
        let is_read = layer.is_none_or(|layer| layer < self.layers) && scales::is_applied(self.arch, class);
        let regrouped = regrouped.filter(|_| scale.is_none() || is_read);
        self.tensors.push(TensorPlan {
            name,
            role: spec.role,
            layer,
            shape,
            slices,
            input_norm,
            part,
            stored,
            scale: scale.filter(|_| regrouped.is_some()),
            regrouped,
            kept: spec.kept.filter(|_| stored.is_some()),
        });
        Ok(())
    }

    /// What the checkpoint calls what most call `name`: of the names that it may have the one that is there, if any.
    fn stored_name(&self, layer: Option<u32>, name: &str) -> String {
        let ways = self.family.stored_names(name).into_iter();
        let mut names: Vec<String> = match layer {
            None => ways.map(|own| self.names.stored(&own)).collect(),
            Some(layer) => match self.family.prediction {
                Prediction::Apart(others) if layer >= self.layers => {
                    ways.map(|own| self.apart(others, layer - self.layers, own)).collect()
                }
                _ => {
                    let prefixes = self.family.stored_names(&format!("model.layers.{layer}.")).into_iter();
                    prefixes.zip(ways).map(|(prefix, own)| self.names.stored(&(prefix + &own))).collect()
                }
            },
        };
        let found = names.iter().position(|name| self.has(name)).unwrap_or(0);
        names.swap_remove(found)
    }

    /// The name of a tensor of a layer for multi-token prediction that is stored apart.
    fn apart(&self, others: super::Names, layer: u32, own: String) -> String {
        let prefix = if self.has(APART) { "model.mtp." } else { "mtp." };
        match others.iter().find(|(usual, _)| *usual == own) {
            Some((_, other)) => format!("{prefix}{other}"),
            None => format!("{prefix}layers.{layer}.{own}"),
        }
    }

    /// Whether a tensor is there, of experts the first.
    fn has(&self, name: &str) -> bool {
        self.checkpoint.get(&name.replace("{}", "0")).is_some()
    }

    /// Experts that are stored in one tensor: of each its rows, of gate and up those of both.
    fn stacked(&mut self, fused: String, name: &str, count: u32, spec: &Spec) -> Result<Vec<Slice>> {
        let [rows, columns] = spec.shape;
        let (place, times) = half(name).map_or((0, 1), |half| (half, 2));
        let tensor = self.source(fused, &[count, times * rows, columns])?;
        if times == 2 {
            self.parted(&tensor, rows.into())?;
        }
        let expert = |expert: u64| {
            let first = (expert * u64::from(times) + place) * u64::from(rows);
            let rows = first..first + u64::from(rows);
            Slice { tensor: Arc::clone(&tensor), rows, transposed: false, order: Order::Stored }
        };
        Ok((0..u64::from(count)).map(expert).collect())
    }

    /// Holds it against a stack of gate and up that its scales may be for blocks of both, or for blocks of each, and that
    /// their number does not say which.
    fn parted(&self, name: &str, rows: u64) -> Result<()> {
        let tensor = self.checkpoint.tensor(name)?;
        let Encoding::Fp8 { block: [block, _], scale } = self.checkpoint.encoding(tensor)? else {
            return Ok(());
        };
        if rows.is_multiple_of(block) || (2 * rows).div_ceil(block) != 2 * rows.div_ceil(block) {
            return Ok(());
        }
        let problem = format!(
            "has scales for blocks of {block} rows, which do not divide the {rows} of gate and of up; whether a block goes \
             on from one to the other nothing tells"
        );
        Err(Error::Unsupported(format!("{}: tensor \"{}\" {problem}", scale.shard, scale.name)))
    }

    /// Experts that are stored in one tensor, with alternating outputs of gate and up; or their biases, which are rows of
    /// one slice. Numbers are stored transposed, blocks (MXFP4), which run along the inputs, are not.
    fn interleaved(&mut self, fused: String, name: &str, count: u32, spec: &Spec) -> Result<Vec<Slice>> {
        let [rows, columns] = spec.shape;
        let pick = half(name).map(Pick::EveryOther);
        let times = if pick.is_some() { 2 } else { 1 };
        if self.checkpoint.get(&fused).is_some_and(|tensor| self.checkpoint.regrouped(tensor).is_some()) {
            let order = pick.map_or(Order::Stored, Order::Rows);
            let tensor = self.source(fused, &[count, times * rows, columns])?;
            let each = u64::from(times * rows);
            let expert = |expert: u64| {
                let rows = expert * each..(expert + 1) * each;
                Slice { tensor: Arc::clone(&tensor), rows, transposed: false, order }
            };
            return Ok((0..u64::from(count)).map(expert).collect());
        }
        let order = pick.map_or(Order::Stored, Order::Columns);
        if spec.vector {
            let tensor = self.source(fused, &[count, times * columns])?;
            return Ok(vec![Slice { tensor, rows: 0..count.into(), transposed: false, order }]);
        }
        let tensor = self.source(fused, &[count, columns, times * rows])?;
        let expert = |expert: u64| {
            let rows = expert * u64::from(columns)..(expert + 1) * u64::from(columns);
            Slice { tensor: Arc::clone(&tensor), rows, transposed: true, order }
        };
        Ok((0..u64::from(count)).map(expert).collect())
    }

    /// The order in which the file has the rows of a matrix, or the numbers of a vector.
    fn order(&self, spec: &Spec) -> Order {
        match spec.rotated {
            _ if spec.order != Order::Stored => spec.order,
            Some(head) if self.family.stored != self.pairing => {
                // Only halves become neighbours: no architecture of llama.cpp asks for the inverse.
                let pick = Pick::Alternating(head.into());
                if spec.vector { Order::Columns(pick) } else { Order::Rows(pick) }
            }
            _ => Order::Stored,
        }
    }

    /// The tensors, once every tensor of the checkpoint is used or left out on purpose, which is asked of its usual name.
    pub fn finish(mut self, left_out: impl Fn(&str) -> bool) -> Result<Vec<TensorPlan>> {
        self.without_factors_before_biases();
        let mut zeros = HashSet::new();
        for tensor in self.checkpoint.tensors().filter(|tensor| tensor.name.ends_with(BIAS)) {
            if !self.used.contains(&*tensor.name) && self.checkpoint.is_bias_of_zeros(tensor)? {
                zeros.insert(tensor.name.clone());
            }
        }
        let is_known = |name: &str| {
            self.used.contains(name)
                || zeros.contains(name)
                || RECOMPUTED.iter().any(|part| name.ends_with(part))
                || self.checkpoint.is_left_out(name)
                || self.checkpoint.is_companion(name)
                || whole::is_left_out(self.checkpoint.config(), name)
                || left_out(&self.names.usual(name))
        };
        // The first by name, so that the message does not depend on the order of a hash map.
        match self.checkpoint.tensors().filter(|t| !is_known(&t.name)).min_by(|a, b| a.name.cmp(&b.name)) {
            Some(tensor) => {
                let consequence = match self.checkpoint.weight_of_scale(&tensor.name) {
                    Some(weight) => format!(
                        "\"{}\" is {:?}, which needs no scales, and whether it was multiplied by them nothing tells",
                        weight.name, weight.dtype
                    ),
                    None => "leaving it out would change the model, if it is a part of it".to_owned(),
                };
                Err(Error::Unsupported(format!(
                    "{}: tensor \"{}\" has no place in this architecture: {consequence}",
                    tensor.shard, tensor.name
                )))
            }
            None => Ok(self.tensors),
        }
    }

    /// Where an FFN has biases llama.cpp refuses factors: it would multiply what was added.
    fn without_factors_before_biases(&mut self) {
        let biased: HashSet<String> = self
            .tensors
            .iter()
            .filter_map(|tensor| tensor.name.strip_suffix(BIAS).filter(|name| name.contains(".ffn_")))
            .map(|name| format!("{name}.weight"))
            .collect();
        for tensor in
            self.tensors.iter_mut().filter(|tensor| tensor.scale.is_some() && biased.contains(&tensor.name))
        {
            (tensor.scale, tensor.regrouped) = (None, None);
        }
    }

    /// The type of all the sources, if it is one and GGUF has it.
    fn stored(&self, slices: &[Slice]) -> Option<Format> {
        let of = |slice: &Slice| self.checkpoint.get(&slice.tensor).and_then(|tensor| tensor.dtype.in_gguf());
        let first = slices.first().and_then(of)?;
        slices.iter().all(|slice| of(slice) == Some(first)).then_some(first)
    }

    /// The type whose blocks hold the codes of all the sources, if they have one.
    fn regrouped(&self, slices: &[Slice]) -> Option<Format> {
        let of = |slice: &Slice| {
            let along_rows = !slice.transposed && !matches!(slice.order, Order::Columns(_));
            let tensor = self.checkpoint.get(&slice.tensor).filter(|_| along_rows)?;
            self.checkpoint.regrouped(tensor)
        };
        let first = slices.first().and_then(of)?;
        slices.iter().all(|slice| of(slice) == Some(first)).then_some(first)
    }

    /// The same of a tensor of whole numbers.
    fn integers(&mut self, name: String, shape: &[u32]) -> Result<Arc<str>> {
        let tensor = self.checkpoint.tensor(&name)?;
        let expected: Vec<u64> = shape.iter().map(|&n| n.into()).collect();
        if !matches!(tensor.dtype, Dtype::I64 | Dtype::I32) || tensor.shape != expected {
            let problem = format!("is {:?} {:?}; expected I64 {expected:?}", tensor.dtype, tensor.shape);
            return Err(Error::tensor(&tensor.shard, &name, problem));
        }
        let name: Arc<str> = name.into();
        self.used.insert(Arc::clone(&name));
        Ok(name)
    }

    /// Marks a checkpoint tensor as used, after checking whether it can be read at all, its shape, and its scales.
    fn source(&mut self, name: String, shape: &[u32]) -> Result<Arc<str>> {
        let tensor = self.checkpoint.tensor(&name)?;
        let stored = match self.checkpoint.encoding(tensor) {
            Err(error @ Error::Unsupported(_)) => return Err(error),
            stored => stored,
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n.into()).collect();
        if tensor.shape != expected {
            let problem = format!("has shape {:?}; config.json implies {expected:?}", tensor.shape);
            return Err(Error::tensor(&tensor.shard, &name, problem));
        }
        stored?;
        let name: Arc<str> = name.into();
        self.used.insert(Arc::clone(&name));
        Ok(name)
    }
}
