//! Factors of whole matrices that a file has beside their blocks: `X.scale` beside `X.weight`, one number for each slice.
//! NVFP4 needs them, whose blocks have scales of eight bits; llama.cpp multiplies a product by them where its graph of
//! the architecture asks for it. Elsewhere it reads them and computes without, so that such weights must not be written.

use std::collections::HashMap;

use quant_kernels::Format;

use super::{Part, Role, TensorPlan};
use crate::store::{Order, Slice};

/// What a matrix is named in a file, and its factors.
const WEIGHT: &str = ".weight";
const SCALE: &str = ".scale";

const ATTENTION: &[&str] = &["attn_q", "attn_k", "attn_v", "attn_output"];
const OUTPUT: &[&str] = &["attn_output"];
const HEAD: &[&str] = &["output"];
const DENSE: &[&str] = &["ffn_gate", "ffn_up", "ffn_down"];
const EXPERTS: &[&str] = &["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
const SHARED: &[&str] = &["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
const LINEAR: &[&str] = &["attn_qkv", "attn_gate", "ssm_alpha", "ssm_beta", "ssm_out"];

/// The tensors whose factors llama.cpp's graphs multiply by, by the sources that llama-cpp-python 0.3.36 has.
const APPLIED: &[(&str, &[&[&str]])] = &[
    ("llama", &[ATTENTION, HEAD, DENSE, EXPERTS]),
    ("mistral3", &[ATTENTION, HEAD, DENSE, EXPERTS]),
    ("qwen3", &[ATTENTION, HEAD, DENSE]),
    ("qwen3moe", &[ATTENTION, HEAD, EXPERTS]),
    ("qwen2", &[ATTENTION, HEAD]),
    ("qwen2moe", &[ATTENTION, HEAD]),
    ("glm4moe", &[ATTENTION, HEAD]),
    ("minimax-m2", &[ATTENTION, HEAD]),
    ("gpt-oss", &[ATTENTION, HEAD]),
    ("deepseek2", &[OUTPUT]),
    ("deepseek32", &[OUTPUT, DENSE, EXPERTS, SHARED]),
    ("glm-dsa", &[OUTPUT, DENSE, EXPERTS, SHARED]),
    ("qwen35", &[ATTENTION, HEAD, DENSE, LINEAR]),
    ("qwen35moe", &[ATTENTION, HEAD, EXPERTS, SHARED, LINEAR]),
];

/// Whether llama.cpp multiplies by the factors of a tensor of this class.
pub fn is_applied(arch: &str, class: &str) -> bool {
    let of_arch = APPLIED.iter().find(|(name, _)| *name == arch);
    of_arch.is_some_and(|(_, classes)| classes.iter().any(|classes| classes.contains(&class)))
}

/// The name of a matrix's factors.
pub fn name(matrix: &str) -> Option<String> {
    matrix.strip_suffix(WEIGHT).map(|name| format!("{name}{SCALE}"))
}

/// The place of a tensor's factors among all, if they are there: one for all of its slices, or one for each.
pub fn place(
    tensor: &TensorPlan,
    tensors: &[TensorPlan],
    find: impl Fn(&str) -> Option<usize>,
) -> Option<usize> {
    let place = find(&name(&tensor.name)?).filter(|_| tensor.shape.len() > 1)?;
    let (shape, slices) = (&tensors[place].shape[..], tensor.slices.len() as u64);
    // Others have such names, too, with as many numbers as columns.
    (shape == [1] || shape == [slices]).then_some(place)
}

/// The places of factors, by those of the tensors that they are for, among tensors of a GGUF file: there the store
/// decodes what blocks say. A checkpoint's are multiplied already.
pub fn of_file(tensors: &[TensorPlan], places: &HashMap<String, usize>) -> HashMap<usize, usize> {
    let is_of_file =
        |tensor: &TensorPlan| tensor.slices.first().is_some_and(|slice| *slice.tensor == *tensor.name);
    let all = tensors.iter().enumerate().filter(|(_, tensor)| is_of_file(tensor));
    all.filter_map(|(at, tensor)| Some((at, place(tensor, tensors, |name| places.get(name).copied())?)))
        .collect()
}

/// The tensor of factors that a file has beside one whose blocks are those of the source.
pub fn beside(tensor: &TensorPlan, format: Format) -> Option<TensorPlan> {
    let scale = tensor.scale.as_ref().filter(|_| tensor.keeps_blocks(format))?;
    let slice = Slice { tensor: scale.clone(), rows: 0..1, transposed: false, order: Order::Stored };
    let (name, shape) = (name(&tensor.name)?, vec![tensor.slices.len() as u64]);
    Some(TensorPlan {
        slices: vec![slice],
        ..TensorPlan::of_file(name, tensor.layer, Role::Norm, Part::default(), shape)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_beside_blocks_of_the_source_only() {
        let shape = vec![64, 8, 3];
        let plain = TensorPlan::of_file(
            "blk.1.ffn_up_exps.weight".into(),
            Some(1),
            Role::Experts,
            Part::default(),
            shape,
        );
        let scaled =
            TensorPlan { scale: Some("factors".into()), regrouped: Some(Format::NVFP4), ..plain.clone() };
        let found = beside(&scaled, Format::NVFP4).expect("factors");
        assert_eq!(
            (&*found.name, &found.shape[..], found.layer),
            ("blk.1.ffn_up_exps.scale", &[3][..], Some(1))
        );
        assert_eq!(&*found.slices[0].tensor, "factors");
        assert_eq!(beside(&scaled, Format::BF16), None);
        assert_eq!(beside(&plain, Format::NVFP4), None);
    }

    #[test]
    fn graphs_differ_in_what_they_multiply_by() {
        assert!(is_applied("qwen3moe", "ffn_up_exps"));
        assert!(!is_applied("deepseek2", "ffn_up_exps"));
        assert!(!is_applied("unknown", "attn_q"));
    }
}
