//! llama.cpp's command line for a machine.

use super::{Machine, Needs, Placement};

/// The command; weights are mapped, which is llama.cpp's default.
pub(super) fn command(needs: &Needs, machine: &Machine, placement: &Placement, streamed: bool) -> String {
    let mut command = format!("llama-cli -m MODEL.gguf -c {}", machine.context);
    if machine.vram > 0 {
        command += &format!(" -ngl {}", placement.layers);
        if let Some(pattern) = experts_in_memory(needs, placement) {
            command += &format!(" -ot \"{pattern}=CPU\"");
        }
    }
    // Weights in another order for the CPU are a copy in memory, which what is mapped is not.
    if streamed {
        command += " --no-repack";
    }
    command
}

/// The tensors that stay in memory although their layer is on the card: all experts, or those of some layers.
fn experts_in_memory(needs: &Needs, placement: &Placement) -> Option<String> {
    let layers = &placement.experts_in_memory;
    let first = (needs.layers.len() as u64 + 1 - placement.layers) as usize;
    let on_card = needs.layers.iter().skip(first).filter(|layer| layer.experts > 0).count();
    match layers.len() {
        0 => None,
        all if all == on_card => Some(".ffn_.*_exps.".to_owned()),
        _ => {
            let layers: Vec<String> = layers.iter().map(u32::to_string).collect();
            Some(format!("blk\\.({})\\.ffn_.*_exps.", layers.join("|")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::LayerBytes;

    #[test]
    fn experts_are_named_by_a_pattern() {
        let dense = LayerBytes { always: 1, kv: 1, ..LayerBytes::default() };
        let sparse = LayerBytes { experts: 1, ..dense };
        let needs = Needs {
            file: 9,
            embedding: 1,
            head: 1,
            layers: vec![dense, sparse, sparse, sparse],
            experts: [4, 2],
            longest_context: 8192,
            activations: 1,
        };
        let machine = Machine { ram: 1, vram: 1, context: 4096, disk: 1, slowest: 1.0 };
        let of = |layers, experts_in_memory: &[u32], streamed| {
            let placement = Placement { layers, experts_in_memory: experts_in_memory.to_vec(), bytes: 0 };
            command(&needs, &machine, &placement, streamed)
        };
        assert_eq!(
            of(5, &[1, 2, 3], true),
            "llama-cli -m MODEL.gguf -c 4096 -ngl 5 -ot \".ffn_.*_exps.=CPU\" --no-repack"
        );
        assert_eq!(
            of(5, &[1, 2], false),
            "llama-cli -m MODEL.gguf -c 4096 -ngl 5 -ot \"blk\\.(1|2)\\.ffn_.*_exps.=CPU\""
        );
        assert_eq!(of(2, &[], false), "llama-cli -m MODEL.gguf -c 4096 -ngl 2");
        let without = Machine { vram: 0, ..machine };
        let placement = Placement::default();
        assert_eq!(
            command(&needs, &without, &placement, true),
            "llama-cli -m MODEL.gguf -c 4096 --no-repack"
        );
    }
}
