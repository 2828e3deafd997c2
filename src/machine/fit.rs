//! Where the tensors of a file go on a machine, how fast its disk lets it run, and how large a file may be. Pure.

use serde::{Deserialize, Serialize};

use super::{Machine, Needs};

/// Bytes left to the operating system and the program in memory, and to the driver on a graphics card.
pub const RESERVE: u64 = 1_000_000_000;

/// How a file runs on a machine.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Fit {
    /// The machine that the file is to run on.
    pub machine: Machine,
    /// What goes to the graphics card.
    pub placement: Placement,
    /// Bytes of the KV cache, wherever it is.
    pub kv_cache: u64,
    /// Bytes of llama.cpp's compute buffers, on each side that computes attention.
    pub compute: u64,
    /// Expected resident set in memory: what every token reads there, KV cache, buffers, and experts as far as there is
    /// room for them.
    pub resident: u64,
    /// Bytes of memory that are missing for what every token reads and the experts of one token; 0 if they are there.
    pub missing: u64,
    /// Bytes of experts that stay in memory, read from the disk once.
    pub cached_experts: u64,
    /// Bytes that a token reads from the disk, on average: of experts, and of all else where that does not fit.
    pub read_per_token: u64,
    /// Tokens a second that the disk allows; None where it is not read from.
    pub disk_tokens_per_second: Option<f64>,
    /// Whether it runs well: nothing is missing, and the disk is fast enough.
    pub well: bool,
    /// The largest files.
    pub budget: Budget,
    /// How to start it.
    pub command: String,
}

/// What llama.cpp puts on the graphics card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Placement {
    /// Layers there, the head counted as one (-ngl); llama.cpp begins with the last.
    pub layers: u64,
    /// Of those, the layers whose experts stay in memory.
    pub experts_in_memory: Vec<u32>,
    /// Bytes there: weights, KV cache, buffers.
    pub bytes: u64,
}

/// The largest files that run well, in bytes; None if not even one expert per token would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Budget {
    /// With experts streamed from the disk as fast as asked.
    pub streamed: Option<u64>,
    /// With everything in memory after the first reading.
    pub held: Option<u64>,
}

impl Budget {
    /// The size to aim at, if the model cannot be smaller than `smallest`: what is held in memory runs best, what is
    /// streamed runs well. None if neither is possible.
    pub fn choose(&self, smallest: u64) -> Option<u64> {
        [self.held, self.streamed].into_iter().flatten().find(|bytes| *bytes >= smallest)
    }
}

/// A side's bytes that are in no expert.
#[derive(Clone, Copy, Debug)]
struct Rooms {
    /// For experts on the graphics card.
    card: u64,
    /// For experts in memory; None if what every token reads is too much already.
    memory: Option<u64>,
    /// What every token reads or needs there.
    fixed: u64,
}

impl Fit {
    /// How the file that needs this runs there.
    pub fn new(needs: &Needs, machine: &Machine) -> Self {
        let kv_cache = needs.cache(machine.context);
        let compute = needs.compute(machine.context);
        let (mut placement, rooms) = place(needs, machine);
        let mut room = rooms.card;
        let first = needs.layers.len() as u64 + 1 - placement.layers;
        let mut in_memory = 0;
        // From the last layer on, as llama.cpp fills the card, to the first that has no room: `--n-cpu-moe` counts layers.
        for (layer, bytes) in needs.layers.iter().enumerate().rev().filter(|(_, bytes)| bytes.experts > 0) {
            if placement.layers > 0 && layer as u64 >= first && bytes.experts <= room {
                room -= bytes.experts;
                placement.bytes += bytes.experts;
            } else {
                room = 0;
                in_memory += bytes.experts;
                if layer as u64 >= first {
                    placement.experts_in_memory.insert(0, layer as u32);
                }
            }
        }
        let memory = rooms.memory.unwrap_or(0);
        let used = needs.used(in_memory);
        let missing = (RESERVE + rooms.fixed + used).saturating_sub(machine.ram);
        let cached_experts = memory.min(in_memory);
        // What every token reads does not stay in memory if it does not fit there with the experts that one token uses.
        let read_per_token = match rooms.memory {
            Some(_) => needs.used(in_memory - cached_experts),
            None => missing,
        };
        let rate = (read_per_token > 0).then(|| machine.disk as f64 / read_per_token as f64);
        Self {
            machine: *machine,
            kv_cache,
            compute,
            resident: rooms.fixed + cached_experts,
            missing,
            cached_experts,
            read_per_token,
            disk_tokens_per_second: rate,
            well: missing == 0 && rate.is_none_or(|rate| rate >= machine.slowest),
            budget: budget(needs, machine, rooms),
            command: super::command::command(needs, machine, &placement, cached_experts < in_memory),
            placement,
        }
    }
}

/// Fills the graphics card with what every token reads, the head first and then the last layers; what does not fit and
/// everything without a card goes to memory.
fn place(needs: &Needs, machine: &Machine) -> (Placement, Rooms) {
    let compute = needs.compute(machine.context);
    let mut placement = Placement::default();
    let mut room = machine.vram.saturating_sub(RESERVE).saturating_sub(compute);
    let layers = needs.layers.iter().rev().map(|layer| layer.always + layer.cache(machine.context));
    let parts = std::iter::once(needs.head).chain(layers);
    let mut on_card = 0;
    for part in parts {
        if machine.vram == 0 || part > room {
            room = if placement.layers == 0 { 0 } else { room };
            break;
        }
        room -= part;
        on_card += part;
        placement.layers += 1;
    }
    if placement.layers > 0 {
        placement.bytes = compute + on_card;
    }
    let all = placement.layers as usize == needs.layers.len() + 1;
    let fixed = needs.always() + needs.cache(machine.context) - on_card + compute;
    let memory = machine.ram.saturating_sub(RESERVE);
    let rooms = Rooms {
        // Experts follow only when all else is there: it is read more often.
        card: if all { room } else { 0 },
        memory: memory.checked_sub(fixed),
        fixed,
    };
    (placement, rooms)
}

/// The largest files, if only the experts change in size, all layers' alike.
fn budget(needs: &Needs, machine: &Machine, rooms: Rooms) -> Budget {
    let Some(memory) = rooms.memory else { return Budget { streamed: None, held: None } };
    let rest = needs.file - needs.all_experts();
    let layers = needs.layers.iter().filter(|layer| layer.experts > 0).count() as u64;
    if layers == 0 {
        // Nothing can be streamed: the embedding is mapped, and read a row at a time.
        let fits = Some(needs.file + memory);
        return Budget { streamed: None, held: fits };
    }
    let per_token = (machine.disk as f64 / machine.slowest) as u64;
    let [count, used] = needs.experts;
    let times = |bytes: u64| (u128::from(bytes) * u128::from(count) / u128::from(used.max(1))) as u64;
    // The experts of a token must find room, and what they miss must come from the disk in time.
    let streamed = times(memory).min(memory.saturating_add(times(per_token)));
    let file = |limit: u64| (limit > 0).then(|| rest + largest_experts(layers, rooms.card, limit));
    Budget { streamed: file(streamed), held: file(memory) }
}

/// Most bytes of experts of which at most `limit` stay in memory when as many layers as fit are on the card.
fn largest_experts(layers: u64, card: u64, limit: u64) -> u64 {
    let in_memory = |total: u64| {
        let each = total.div_ceil(layers);
        let on_card = card.checked_div(each).unwrap_or(layers).min(layers);
        total - (on_card * each).min(total)
    };
    // The share in memory only grows with the total.
    let (mut low, mut high) = (0, card.saturating_add(limit));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if in_memory(middle) <= limit { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::LayerBytes;

    /// Two dense layers and four with experts of 32 GB, of which a token uses an eighth.
    fn needs() -> Needs {
        let dense = LayerBytes { always: 1_000_000_000, experts: 0, kv: 1000, window: None, state: 0 };
        let sparse = LayerBytes { experts: 8_000_000_000, ..dense };
        Needs {
            file: 40_000_000_000,
            embedding: 900_000_000,
            head: 1_000_000_000,
            layers: vec![dense, dense, sparse, sparse, sparse, sparse],
            experts: [64, 8],
            longest_context: 100_000,
            activations: 0,
        }
    }

    fn machine(ram: u64, vram: u64) -> Machine {
        Machine { ram, vram, context: 0, disk: 1_000_000_000, slowest: 0.5 }
    }

    #[test]
    fn memory_holds_what_every_token_reads_before_experts() {
        // 20 GB: 1 reserved, 7 for every token, 12 of 32 for experts: 20/8 are read for each token.
        let fit = Fit::new(&needs(), &machine(20_000_000_000, 0));
        assert_eq!((fit.resident, fit.cached_experts, fit.missing), (19_000_000_000, 12_000_000_000, 0));
        assert_eq!((fit.read_per_token, fit.disk_tokens_per_second), (2_500_000_000, Some(0.4)));
        assert!(!fit.well);
        // 2 GB in 2 s: 16 GB more than memory has. Everything in memory: 12 GB of experts beside 8 GB.
        assert_eq!(fit.budget, Budget { streamed: Some(36_000_000_000), held: Some(20_000_000_000) });
        assert_eq!(fit.budget.choose(20_000_000_000), Some(20_000_000_000));
        assert_eq!(fit.budget.choose(20_000_000_001), Some(36_000_000_000));
        assert_eq!(fit.budget.choose(36_000_000_001), None);
        let mut smaller = needs();
        smaller.layers.iter_mut().for_each(|layer| layer.experts = layer.experts * 7 / 8);
        assert!(Fit::new(&smaller, &machine(20_000_000_000, 0)).well, "28 GB of experts are the limit");
        smaller.layers[5].experts += 1_000_000;
        assert!(!Fit::new(&smaller, &machine(20_000_000_000, 0)).well);
    }

    #[test]
    fn too_little_memory_is_told_with_what_is_missing() {
        let fit = Fit::new(&needs(), &machine(6_000_000_000, 0));
        // 7 GB and the 4 GB of one token in 5.
        assert_eq!((fit.missing, fit.well, fit.budget.choose(1)), (6_000_000_000, false, None));
        // It is read again for each token.
        assert_eq!(fit.read_per_token, 6_000_000_000);
        assert_eq!((fit.resident, fit.cached_experts), (7_000_000_000, 0));
        let fit = Fit::new(&needs(), &machine(9_000_000_000, 0));
        assert_eq!((fit.missing, fit.well), (3_000_000_000, false));
        // Room for 1 GB of experts: a token must not use more, so there are 8.
        assert_eq!(fit.budget.streamed, Some(16_000_000_000));
    }

    #[test]
    fn a_card_takes_layers_from_the_last_and_then_experts() {
        // 1 GB reserved, the head and three layers.
        let fit = Fit::new(&needs(), &machine(64_000_000_000, 5_500_000_000));
        assert_eq!((fit.placement.layers, fit.placement.bytes), (4, 4_000_000_000));
        assert_eq!(fit.placement.experts_in_memory, [3, 4, 5]);
        assert_eq!(fit.resident, 3_000_000_000 + 32_000_000_000);
        // All seven and the experts of one layer.
        let fit = Fit::new(&needs(), &machine(64_000_000_000, 17_000_000_000));
        assert_eq!((fit.placement.layers, fit.placement.bytes), (7, 15_000_000_000));
        assert_eq!((fit.placement.experts_in_memory, fit.resident), (vec![2, 3, 4], 24_000_000_000));
        // 9 GB on the card and 63 in memory: four layers of 21 GB have none on the card, of 21 GB a layer 63 fit.
        assert_eq!(fit.budget.held, Some(8_000_000_000 + 63_000_000_000));
        // A card too small for the head takes nothing.
        let fit = Fit::new(&needs(), &machine(64_000_000_000, 1_900_000_000));
        assert_eq!(fit.placement, Placement::default());
    }

    #[test]
    fn the_largest_experts_fill_card_and_memory() {
        assert_eq!(largest_experts(4, 0, 100), 100);
        // Two of four on the card.
        assert_eq!(largest_experts(4, 100, 100), 200);
        // None of a layer fits on the card.
        assert_eq!(largest_experts(4, 10, 100), 100);
        assert_eq!(largest_experts(1, 50, 10), 50);
    }

    #[test]
    fn the_context_takes_memory() {
        let with = Machine { context: 10_000, ..machine(20_000_000_000, 0) };
        let fit = Fit::new(&needs(), &with);
        // Six layers of 1000 bytes a token; 512 x 6 bytes of mask.
        assert_eq!((fit.kv_cache, fit.compute), (60_000_000, 30_720_000));
        assert_eq!(fit.cached_experts, 12_000_000_000 - 90_720_000);
    }

    #[test]
    fn a_window_bounds_the_cache() {
        let mut needs = needs();
        for layer in needs.layers.iter_mut().step_by(2) {
            layer.window = Some(128);
        }
        // 128 and 512 tokens in three layers, rounded to 768.
        assert_eq!(needs.cache(10_000), 3 * 1000 * (10_000 + 768));
        assert_eq!(needs.cache(256), 6 * 1000 * 256);
        assert_eq!(needs.kv_per_token(), 6000);
        let with = Machine { context: 10_000, ..machine(20_000_000_000, 0) };
        assert_eq!(Fit::new(&needs, &with).kv_cache, 32_304_000);
    }
}
