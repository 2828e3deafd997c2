//! A tensor that a kind of layer consists of: its names in GGUF and in a checkpoint, its shape, and the part it plays.

use std::ops::Range;

use super::part::{Gated, Half, Input, Part, Slices};
use super::tensor::Role;
use crate::store::{Derivation, Order};

/// A tensor of a layer, or of what is outside of the layers. Names are those within the layer: `attn_q.weight`,
/// `self_attn.q_proj.weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Name in GGUF.
    pub name: String,
    /// Its role, for recipes and reports.
    pub role: Role,
    /// Its part in the model, for observers and the choice of types.
    pub part: Part,
    /// Whether it is a vector, whose `shape` is `[1, length]`.
    pub vector: bool,
    /// Rows and columns of one slice as the checkpoint stores it (`[out, in]`).
    pub shape: [u32; 2],
    /// Where it comes from.
    pub source: Source,
    /// GGUF name of the norm of the same layer whose gains scale the columns of its input.
    pub norm: Option<&'static str>,
    /// Whether a model may lack it.
    pub optional: bool,
    /// Rows of each head (of a vector, numbers), if they are rotated by position: their order follows from which of them
    /// are rotated together, and that is not the same in every checkpoint.
    pub rotated: Option<u32>,
    /// The order in which the file has what is stored, where that is the same for every checkpoint.
    pub order: Order,
    /// Whether it is the gains of a norm that a checkpoint may have less one.
    pub gains: bool,
    /// What becomes of the stored numbers.
    pub derivation: Option<Derivation>,
    /// Why it keeps the type that a checkpoint has it in, if GGUF has that type.
    pub kept: Option<&'static str>,
}

/// Where a checkpoint has the weights of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In one matrix or vector.
    One(String),
    /// In one matrix that has a dimension of 1 between rows and columns, as convolutions of single channels have.
    Channels(String),
    /// In one matrix of whole numbers.
    Integers(String),
    /// In one matrix for each expert; `{}` stands for its number.
    Experts {
        /// The name.
        name: String,
        /// How many there are.
        count: u32,
    },
    /// Nowhere: its numbers follow from config.json.
    Computed,
    /// In one matrix that has `each` rows for each head, of which the slice takes some.
    Heads {
        /// The name.
        name: String,
        /// How many heads there are.
        heads: u32,
        /// Rows of a head.
        each: u32,
        /// Those that are taken.
        rows: Range<u32>,
        /// Whether rows and columns are exchanged.
        transposed: bool,
    },
}

impl Spec {
    /// A vector: by default the gains of a norm.
    pub fn vector(name: &str, source: &str, length: u32) -> Self {
        let spec = Self::of(name, Role::Norm, Source::One(source.to_owned()), [1, length]);
        Self { vector: true, gains: name.ends_with("norm.weight"), ..spec }
    }

    /// An `[out, in]` matrix.
    pub fn matrix(name: &str, role: Role, source: &str, shape: [u32; 2]) -> Self {
        Self::of(name, role, Source::One(source.to_owned()), shape)
    }

    /// `[out, in]` matrices of routed experts.
    pub fn experts(name: &str, source: &str, count: u32, shape: [u32; 2]) -> Self {
        let source = Source::Experts { name: source.to_owned(), count };
        Self::of(name, Role::Experts, source, shape).with(|part| part.slices = Slices::Experts)
    }

    /// A matrix for each head.
    pub fn heads(name: &str, source: Source, shape: [u32; 2]) -> Self {
        Self::of(name, Role::Attention, source, shape).with(|part| part.slices = Slices::Heads)
    }

    fn of(name: &str, role: Role, source: Source, shape: [u32; 2]) -> Self {
        Self {
            name: name.to_owned(),
            role,
            part: Part::default(),
            vector: false,
            shape,
            source,
            norm: None,
            optional: false,
            rotated: None,
            order: Order::Stored,
            gains: false,
            derivation: None,
            kept: None,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Part)) -> Self {
        change(&mut self.part);
        self
    }

    /// In this half of its layer.
    #[must_use]
    pub fn half(self, half: Half) -> Self {
        self.with(|part| part.half = Some(half))
    }

    /// Multiplies the residual stream behind this norm.
    #[must_use]
    pub fn reads_stream(self, norm: &'static str) -> Self {
        Self { norm: Some(norm), ..self.with(|part| part.input = Input::Stream) }
    }

    /// Multiplies what others of the layer made, perhaps behind a norm.
    #[must_use]
    pub fn reads_inner(self, norm: Option<&'static str>) -> Self {
        Self { norm, ..self.with(|part| part.input = Input::Inner) }
    }

    /// Adds to the residual stream.
    #[must_use]
    pub fn writes_stream(self) -> Self {
        self.with(|part| part.writes_stream = true)
    }

    /// Has this place in a gated FFN.
    #[must_use]
    pub fn gated(self, gated: Gated) -> Self {
        self.with(|part| part.gated = Some(gated))
    }

    /// Shares its type with the others that do.
    #[must_use]
    pub fn one_type(self) -> Self {
        self.with(|part| part.one_type = true)
    }

    /// Has this role.
    #[must_use]
    pub fn role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// May be missing.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Has rows that are rotated by position, so many in a head.
    #[must_use]
    pub fn rotated(self, head: u32) -> Self {
        Self { rotated: Some(head), ..self }
    }

    /// Has rows or columns that the file has in this order.
    #[must_use]
    pub fn ordered(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// Keeps the type that a checkpoint has it in, for this reason.
    #[must_use]
    pub fn kept(self, reason: &'static str) -> Self {
        Self { kept: Some(reason), ..self }
    }

    /// Takes another norm's place, and reads behind it.
    #[must_use]
    pub fn with_norm(mut self, usual: &'static str, name: &'static str) -> Self {
        if self.name == usual {
            name.clone_into(&mut self.name);
        }
        if self.norm == Some(usual) {
            self.norm = Some(name);
        }
        self
    }

    /// The name of the whole tensor: `blk.3.attn_q.weight`.
    pub fn full_name(&self, layer: Option<u32>) -> String {
        match layer {
            Some(layer) => format!("blk.{layer}.{}", self.name),
            None => self.name.clone(),
        }
    }
}
