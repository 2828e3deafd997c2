//! What a tensor is for, as fields that planning, observers, the choice of types and reports read. So no other module
//! has to know what a tensor's name means.

/// What a tensor is for, besides its [`Role`](super::Role).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The half of its layer; None for what is outside of both: embedding, head, multi-token prediction.
    pub half: Option<Half>,
    /// What its slices are.
    pub slices: Slices,
    /// Where its inputs come from.
    pub input: Input,
    /// Whether its output is added to the residual stream.
    pub writes_stream: bool,
    /// Its place in a gated FFN.
    pub gated: Option<Gated>,
    /// Whether it gets the same type as the others of its layer and role that are so marked, because llama.cpp computes
    /// them together.
    pub one_type: bool,
    /// Its place in the order in which a forward pass uses the tensors. (In a file they are sorted by name.)
    pub order: usize,
}

/// A half of a layer: what is added to the residual stream at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// Attention, with its norms.
    Attention,
    /// The FFN, dense or of experts, with router and norm.
    Ffn,
}

impl Half {
    /// Both, in the order of computation.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Ffn];
}

/// What the slices of a tensor are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slices {
    /// There is one: the tensor is a matrix or a vector.
    #[default]
    One,
    /// Heads of attention; every token goes through all of them.
    Heads,
    /// Routed experts; a token goes through a few of them.
    Experts,
}

/// Where the inputs of a tensor come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// Nothing: it is a table (the embedding), or is added or multiplied element by element (norms, biases).
    #[default]
    None,
    /// The residual stream, normalised: the same rows for all such tensors of a half. A routed expert gets those of the
    /// tokens that chose it.
    Stream,
    /// What other tensors of its half made. Each slice has rows of its own.
    Inner,
}

/// A place in a gated FFN: down(silu(gate(x)) * up(x)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// The gate projection.
    Gate,
    /// The up projection: its output is multiplied by silu of the gate's.
    Up,
    /// The down projection: its input is the product of the other two.
    Down,
}
