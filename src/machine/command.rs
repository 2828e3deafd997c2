//! llama.cpp's command line for a machine.

use super::{Machine, Needs, Placement};

/// The command; weights are mapped, which is llama.cpp's default.
pub(super) fn command(needs: &Needs, machine: &Machine, placement: &Placement, streamed: bool) -> String {
    let mut command = format!("llama-server -m MODEL.gguf -c {}", machine.context);
    if machine.vram > 0 {
        command += &format!(" -ngl {}", placement.layers);
        command += &experts_in_memory(needs, placement);
    }
    // Weights in another order for the CPU are a copy in memory, which what is mapped is not.
    if streamed {
        command += " --no-repack";
    }
    command
}

/// The option that leaves experts in memory although their layer is on the card: all of them, or those of the first
/// layers, since a card is filled from the last one on.
fn experts_in_memory(needs: &Needs, placement: &Placement) -> String {
    let first = (needs.layers.len() as u64 + 1 - placement.layers) as usize;
    let on_card = needs.layers.iter().skip(first).filter(|layer| layer.experts > 0).count();
    match placement.experts_in_memory.last() {
        None => String::new(),
        Some(_) if placement.experts_in_memory.len() == on_card => " --cpu-moe".to_owned(),
        Some(last) => format!(" --n-cpu-moe {}", last + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::LayerBytes;

    #[test]
    fn experts_stay_in_memory_by_the_layer() {
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
            "llama-server -m MODEL.gguf -c 4096 -ngl 5 --cpu-moe --no-repack"
        );
        assert_eq!(of(5, &[1, 2], false), "llama-server -m MODEL.gguf -c 4096 -ngl 5 --n-cpu-moe 3");
        assert_eq!(of(2, &[], false), "llama-server -m MODEL.gguf -c 4096 -ngl 2");
        let without = Machine { vram: 0, ..machine };
        let placement = Placement::default();
        assert_eq!(
            command(&needs, &without, &placement, true),
            "llama-server -m MODEL.gguf -c 4096 --no-repack"
        );
    }
}
