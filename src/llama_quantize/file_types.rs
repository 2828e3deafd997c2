//! The table: llama-quantize's file types, one entry each.
//!
//! A tensor gets the type of the first step of its category whose conditions hold, else the file type's base. An empty
//! list means the base.

use quant_kernels::Format::{self, *};

use super::Category;
use super::When::{self, *};

/// One of llama-quantize's file types.
#[derive(Debug)]
pub struct FileType {
    /// Its name, as llama-quantize writes it.
    pub name: &'static str,
    /// Its number, as general.file_type has it.
    pub number: u32,
    /// The type of every tensor for which no step holds.
    pub base: Format,
    /// output.weight, or the embedding of a model that has no head of its own.
    pub(super) output: Format,
    /// token_embd.weight, where there is a head besides.
    pub(super) embedding: Option<Format>,
    /// attn_v, attn_qkv, attn_kv_b.
    pub(super) value: &'static [Step],
    /// attn_k and attn_q.
    pub(super) key_query: &'static [Step],
    /// attn_output.
    pub(super) attn_output: &'static [Step],
    /// ffn_down, of experts as well.
    pub(super) down: &'static [Step],
    /// ffn_gate and ffn_up, of experts as well.
    pub(super) gate_up: &'static [Step],
    /// attn_output of a model of exactly eight experts.
    pub(super) attn_output_of_eight: Option<Format>,
    /// Whether it is one of the IQ1 and IQ2 types, for which llama-quantize has rules of their own.
    pub(super) low: bool,
}

/// Conditions that must all hold, and the type if they do.
#[derive(Debug)]
pub(super) struct Step(pub &'static [When], pub Format);

/// Every file type, from the smallest base to the largest.
pub const FILE_TYPES: [FileType; 30] = [
    FileType { attn_output: &[Step(&[], IQ2_XXS)], ..low("IQ1_S", 24, IQ1_S) },
    FileType { attn_output: &[Step(&[], IQ2_XXS)], ..low("IQ1_M", 31, IQ1_M) },
    FileType { embedding: Some(Q4_K), ..plain("TQ1_0", 36, TQ1_0) },
    low("IQ2_XXS", 19, IQ2_XXS),
    FileType { embedding: Some(Q4_K), ..plain("TQ2_0", 37, TQ2_0) },
    low("IQ2_XS", 20, IQ2_XS),
    half_a_step("IQ2_S", 28, IQ2_XS),
    half_a_step("IQ2_M", 29, IQ2_S),
    FileType {
        value: &[Step(&[Grouped], Q4_K)],
        down: &[Step(&[First(8)], Q4_K)],
        ..plain("Q2_K_S", 21, Q2_K)
    },
    FileType {
        value: &[Step(&[Grouped], Q4_K), Step(&[], Q3_K)],
        attn_output: &[Step(&[], Q3_K)],
        down: &[Step(&[], Q3_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("Q2_K", 10, Q2_K)
    },
    FileType {
        output: Q5_K,
        embedding: Some(IQ3_S),
        value: &[Step(&[Grouped], Q4_K), Step(&[NoImatrix], IQ3_S)],
        key_query: &[Step(&[], IQ2_S)],
        attn_output: &[Step(&[], IQ3_S)],
        down: &[Step(&[NoImatrix, First(8)], Q4_K), Step(&[NoImatrix], Q3_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ3_XXS", 23, IQ3_XXS)
    },
    FileType {
        value: &[Step(&[Grouped], Q4_K)],
        key_query: &[Step(&[], IQ3_XXS)],
        gate_up: &[Step(&[Middle], IQ3_XXS)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ3_XS", 22, IQ3_S)
    },
    FileType {
        value: &[Step(&[Grouped], Q4_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ3_S", 26, IQ3_S)
    },
    FileType {
        value: &[Step(&[], Q4_K)],
        attn_output: &[Step(&[], Q4_K)],
        down: &[Step(&[First(8)], Q4_K), Step(&[EightExperts, MoreBits], Q4_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ3_M", 27, IQ3_S)
    },
    FileType { attn_output_of_eight: Some(Q5_K), ..plain("Q3_K_S", 11, Q3_K) },
    FileType {
        value: &[Step(&[Tensors(2)], Q5_K), Step(&[], Q4_K)],
        attn_output: &[Step(&[], Q4_K)],
        down: &[Step(&[First(16)], Q5_K), Step(&[], Q4_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("Q3_K_M", 12, Q3_K)
    },
    FileType {
        value: &[Step(&[], Q5_K)],
        attn_output: &[Step(&[], Q5_K)],
        down: &[Step(&[], Q5_K)],
        ..plain("Q3_K_L", 13, Q3_K)
    },
    FileType {
        value: &[Step(&[Grouped], Q5_K)],
        down: &[Step(&[NoImatrix, First(8)], Q5_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ4_XS", 30, IQ4_XS)
    },
    FileType {
        value: &[Step(&[Grouped], Q5_K)],
        down: &[Step(&[NoImatrix, First(8)], Q5_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("IQ4_NL", 25, IQ4_NL)
    },
    FileType { output: Q8_0, embedding: Some(Q8_0), ..plain("MXFP4_MOE", 38, MXFP4) },
    FileType { down: &[Step(&[Imatrix, First(8)], Q4_1)], ..plain("Q4_0", 2, Q4_0) },
    plain("Q4_1", 3, Q4_1),
    FileType {
        value: &[Step(&[Tensors(4)], Q5_K)],
        down: &[Step(&[First(8)], Q5_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("Q4_K_S", 14, Q4_K)
    },
    FileType {
        value: &[Step(&[MoreBits], Q6_K)],
        down: &[Step(&[MoreBits], Q6_K)],
        attn_output_of_eight: Some(Q5_K),
        ..plain("Q4_K_M", 15, Q4_K)
    },
    FileType { down: &[Step(&[Imatrix, First(8)], Q5_1)], ..plain("Q5_0", 8, Q5_0) },
    plain("Q5_1", 9, Q5_1),
    plain("Q5_K_S", 16, Q5_K),
    FileType {
        value: &[Step(&[MoreBits], Q6_K)],
        down: &[Step(&[MoreBits], Q6_K)],
        ..plain("Q5_K_M", 17, Q5_K)
    },
    plain("Q6_K", 18, Q6_K),
    FileType { output: Q8_0, ..plain("Q8_0", 7, Q8_0) },
];

/// A file type without steps.
const fn plain(name: &'static str, number: u32, base: Format) -> FileType {
    FileType {
        name,
        number,
        base,
        output: Q6_K,
        embedding: None,
        value: &[],
        key_query: &[],
        attn_output: &[],
        down: &[],
        gate_up: &[],
        attn_output_of_eight: None,
        low: false,
    }
}

/// IQ1 and the small ones of IQ2.
const fn low(name: &'static str, number: u32, base: Format) -> FileType {
    FileType {
        output: Q5_K,
        embedding: Some(Q2_K),
        value: &[Step(&[Grouped], Q4_K), Step(&[FourExperts], Q4_K), Step(&[], Q2_K)],
        down: &[Step(&[First(8)], Q2_K)],
        attn_output_of_eight: Some(Q5_K),
        low: true,
        ..plain(name, number, base)
    }
}

/// The large ones of IQ2.
const fn half_a_step(name: &'static str, number: u32, base: Format) -> FileType {
    FileType {
        embedding: Some(IQ3_S),
        value: &[Step(&[Grouped], Q4_K), Step(&[FourExperts], Q4_K), Step(&[], IQ3_S)],
        attn_output: &[Step(&[], IQ3_S)],
        down: &[Step(&[First(8)], IQ3_S)],
        ..low(name, number, base)
    }
}

/// Falcon's own steps, as (file type, category, steps); its head is Q8_0 always.
pub(super) const FALCON: [(&str, Category, &[Step]); 5] = [
    ("Q3_K_M", Category::Down, &[Step(&[First(16)], Q5_K), Step(&[MoreBits], Q4_K)]),
    ("Q3_K_L", Category::Down, &[Step(&[], Q4_K)]),
    ("Q3_K_L", Category::AttnOutput, &[Step(&[], Q4_K)]),
    ("Q4_K_M", Category::Down, &[Step(&[First(16)], Q6_K), Step(&[MoreBits], Q5_K)]),
    ("Q4_K_S", Category::Down, &[]),
];
