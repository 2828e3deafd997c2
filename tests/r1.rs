//! DeepSeek-R1 at full size, without its weights: 163 sparse shards with true headers.

use std::collections::BTreeMap;
use std::path::Path;
#[cfg(feature = "remote")]
use std::sync::atomic::Ordering;
use std::time::Instant;

use quant_kernels::Format;
use quantpress::checkpoint::{Checkpoint, Fingerprint};
use quantpress::machine::{Budget, Fit, Machine, Needs};
use quantpress::model::{Model, Options, Role, TensorPlan};
use quantpress::progress::UNTOLD;
use quantpress::recipe::{Plan, Presence, Recipe, Wishes, choose, fitting};
use quantpress::sensitivity::{DEFAULT_TYPES, Measured, Table};
use quantpress::sizing::{Sizing, Target};
use serde_json::Value;
use tempfile::TempDir;

use crate::sizes::{Random, plan, possible};
#[cfg(feature = "remote")]
use crate::support::hub::Hub;
use crate::support::interrupted::SmallDisk;
use crate::support::shapes::{Declared, r1_config, tensors, write, write_tokenizer};
use crate::support::{fail, succeed, text};

fn r1() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let tensors = tensors(&r1_config());
    assert_eq!(tensors.len(), 91_991);
    assert_eq!(tensors.iter().map(Declared::bytes).sum::<u64>(), 688_574_839_360);
    write(folder.path(), &r1_config(), &tensors, 163);
    write_tokenizer(folder.path(), 128_000, 815);
    folder
}

#[test]
fn r1_is_planned_within_300_mb() {
    let folder = r1();
    // The best of a few tries is printed: other tests run beside this one.
    let plans = (0..4).map(|_| {
        serde_json::from_str::<Value>(&succeed(&["plan", text(folder.path()), "--json"])).expect("JSON")
    });
    let seconds = |plan: &Value| plan["seconds"].as_f64().expect("seconds");
    let plan = plans.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).expect("four plans");
    assert_eq!(plan["tensors"], 1086);
    assert_eq!(plan["weights"], 671_026_419_200u64);
    assert_eq!(plan["tensor_bytes"], 140_350_064_128u64);
    let types: BTreeMap<String, u64> = serde_json::from_value(plan["types"].clone()).expect("counts");
    let expected =
        [("F32", 361), ("IQ1_S", 168), ("IQ2_XXS", 6), ("Q4_K", 190), ("Q5_K", 116), ("Q6_K", 184)];
    let expected = expected.into_iter().chain([("Q8_0", 61)]).map(|(name, n)| (name.to_owned(), n)).collect();
    assert_eq!(types, expected);
    let groups = plan["groups"].as_array().expect("groups");
    for (format, weights) in quantpress::bench::R1 {
        let of = groups.iter().filter(|group| group["type"] == format.name());
        let found: u64 = of.map(|group| group["weights"].as_u64().expect("a count")).sum();
        assert_eq!(found, weights, "{format}");
    }
    let memory = plan["peak_memory_bytes"].as_u64();
    eprintln!("R1 planned in {:.2} s with {memory:?} bytes of memory", seconds(&plan));
    assert!(memory.is_none_or(|bytes| bytes < 300_000_000), "{memory:?} bytes");
}

/// From the hub a plan reads headers, index, tokenizer and norms, and no matrix.
#[cfg(feature = "remote")]
#[test]
fn r1_is_planned_from_the_hub_without_its_weights() {
    let folder = r1();
    let hub = Hub::serving("deepseek-ai/DeepSeek-R1", folder.path());
    // It has less than 10 MB, and is not kept with the large files.
    hub.state.large_tokenizer.store(false, Ordering::Relaxed);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantpress"));
    command.args(["plan", "hf://deepseek-ai/DeepSeek-R1", "--json"]);
    let home = folder.path().join("home");
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home).env("NO_PROXY", "127.0.0.1");
    let run = command.output().expect("the program starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let far: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    let near: Value = serde_json::from_str(&succeed(&["plan", text(folder.path()), "--json"])).expect("JSON");
    for part in ["tensors", "weights", "file_bytes", "types", "tensor_list"] {
        assert_eq!(far[part], near[part], "{part}");
    }
    let [sent, requests] = [&hub.state.sent, &hub.state.requests].map(|count| count.load(Ordering::Relaxed));
    eprintln!("R1 planned from a hub in {} s, by {requests} requests of {sent} bytes", far["seconds"]);
    // The digest of a sample of the weights is in the file's header, and these are not looked at.
    assert!(far.get("headers_sha256").is_none() && near["headers_sha256"].is_array());
    // Of headers 12 MB and of norms 2; index and tokenizer come packed.
    assert!(sent < 20_000_000, "{sent} bytes");
    assert!(requests < 900, "{requests} requests");
}

#[test]
fn r1_on_machines_with_20_gb_and_with_a_graphics_card() {
    let folder = r1();
    let checkpoint = Checkpoint::open_folder(folder.path()).expect("sound");
    let options = Options::default();
    let model = Model::plan(&checkpoint, &options).expect("planned");
    let recipe = Recipe::load("ud-iq1_s").expect("a preset");
    let plan = Plan::new(model, Fingerprint::of(&checkpoint).expect("sound"), Wishes::new(&recipe))
        .expect("planned");
    let needs = Needs::of(&plan);
    let (always, experts) = (10_702_964_224, 129_125_842_944);
    assert_eq!((needs.always(), needs.all_experts(), needs.kv_per_token()), (always, experts, 70_272));
    let machine = Machine {
        ram: 20_000_000_000,
        vram: 0,
        context: 8192,
        disk: Machine::DISK,
        slowest: Machine::SLOWEST,
    };

    let fit = Fit::new(&needs, &machine);
    // 512 + 64 numbers of 16 bits in 61 layers.
    assert_eq!(fit.kv_cache, 8192 * 576 * 2 * 61);
    // 512 tokens: three stages of 128 heads of 576 numbers, twice 7168 more, in F32; the mask in 6 bytes.
    assert_eq!(fit.compute, 512 * (4 * (3 * 128 * 576 + 2 * 7168) + 6 * 8192));
    // 20 GB without 1 GB for the system, what every token reads, cache and buffers.
    let cached = 20_000_000_000 - 1_000_000_000 - always - 575_668_224 - 507_510_784;
    assert_eq!((fit.cached_experts, fit.resident, fit.missing), (cached, 19_000_000_000, 0));
    assert_eq!((fit.read_per_token, fit.well), ((experts - cached) / 32, true));
    // 6 GB in two seconds, a 32nd of the experts that have no room.
    let rest = plan.file_bytes() - experts;
    let streamed = rest + cached + 32 * 6_000_000_000;
    assert_eq!(fit.budget, Budget { streamed: Some(streamed), held: Some(rest + cached) });
    assert_eq!(fit.command, "llama-server -m MODEL.gguf -c 8192 --no-repack");
    // A slower disk and a user in more of a hurry make it smaller, and this file too large.
    let slow = Fit::new(&needs, &Machine { disk: 500_000_000, slowest: 1.0, ..machine });
    assert_eq!(slow.budget.streamed, Some(rest + cached + 32 * 500_000_000));
    assert!(!slow.well);

    // All layers fit on the card; of experts (2.2 GB a layer) five layers'.
    let larger = Machine { ram: 64_000_000_000, ..machine };
    let fit = Fit::new(&needs, &Machine { vram: 24_000_000_000, ..larger });
    assert_eq!(fit.placement.layers, 62);
    assert_eq!(fit.placement.experts_in_memory, (3..=55).collect::<Vec<u32>>());
    let bytes = fit.placement.bytes;
    assert!((20_000_000_000..=23_000_000_000).contains(&bytes), "{bytes}");
    assert_eq!(fit.command, "llama-server -m MODEL.gguf -c 8192 -ngl 62 --n-cpu-moe 56 --no-repack");
    // On a smaller card all experts stay in memory.
    let fit = Fit::new(&needs, &Machine { vram: 8_000_000_000, ..larger });
    assert!(fit.command.contains(" -ngl 36 --cpu-moe"), "{}", fit.command);
}

#[test]
fn a_disk_too_small_for_r1_is_an_error_before_the_work() {
    let folder = r1();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), 1000) else { return };
    let output = disk.path.join("R1.gguf");
    let start = Instant::now();
    let stderr = fail(&["quantize", text(folder.path()), "-o", text(&output), "--quiet"], 1);
    eprintln!("a disk too small for R1 is noticed after {:.2} s", start.elapsed().as_secs_f64());
    assert!(stderr.contains("R1.gguf has ") && stderr.contains("bytes are missing"), "{stderr}");
    let missing = stderr.split(' ').rev().nth(3).and_then(|number| number.parse::<u64>().ok());
    assert!(missing.is_some_and(|bytes| (140_390_000_000..140_450_000_000).contains(&bytes)), "{stderr}");
    assert_eq!(std::fs::read_dir(&disk.path).expect("read").count(), 0, "nothing is left behind");
}

#[test]
fn r1_in_every_preset_has_the_size_that_llama_quantize_gives() {
    let folder = r1();
    let checkpoint = Checkpoint::open_folder(folder.path()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    // MiB of tensor data in llama-quantize's dry run with an importance matrix, and without where it differs.
    for (recipe, with, without) in [
        ("bf16", 1_280_086, None),
        ("f16", 1_280_086, None),
        ("q8_0", 680_238, None),
        ("q6_k", 525_395, None),
        ("q5_k_m", 453_399, None),
        ("q4_k_m", 385_751, None),
        ("iq4_xs", 340_595, Some(342_902)),
        ("q3_k_m", 304_471, None),
        ("iq3_xxs", 246_067, None),
        ("q2_k", 232_833, None),
        ("iq2_xxs", 166_491, None),
        ("iq1_s", 127_543, None),
    ] {
        let mib = |presence| bytes(&model, recipe, presence).div_ceil(1 << 20);
        let near = |found: u64, expected: u64| found.abs_diff(expected) <= 1;
        assert!(near(mib(Presence::Present), with), "{recipe}: {} MiB", mib(Presence::Present));
        let without = without.unwrap_or(with);
        assert!(near(mib(Presence::Absent), without), "{recipe}: {} MiB", mib(Presence::Absent));
    }
    // The published sizes of the dynamic files, and what today's split of attn_kv_b adds.
    for (recipe, mib) in [("ud-iq1_s", 133_730), ("ud-iq1_m", 161_086), ("ud-iq2_xxs", 187_070)] {
        assert_eq!(bytes(&before_the_split(&model), recipe, Presence::Present) >> 20, mib, "{recipe}");
    }
    // 211.034 GiB of tensors and these types are in a published load log.
    let old = before_the_split(&model);
    assert_eq!(bytes(&old, "ud-q2_k_xl", Presence::Absent) >> 20, 216_099);
    let recipe = Recipe::load("ud-q2_k_xl").expect("a preset");
    let choices = choose(&old, &recipe, &[], Presence::Absent).expect("chosen");
    let count = |format| choices.iter().filter(|choice| choice.format == format).count();
    assert_eq!([Format::Q2_K, Format::Q3_K, Format::Q4_K, Format::Q6_K].map(count), [171, 3, 306, 184]);
    assert_eq!(bytes(&before_the_split(&model), "ud-iq1_s", Presence::Present), 140_226_135_552);
    assert_eq!(bytes(&model, "ud-iq1_s", Presence::Present), 140_350_064_128);
}

fn bytes(model: &Model, recipe: &str, imatrix: Presence) -> u64 {
    let recipe = Recipe::load(recipe).expect("a preset");
    let choices = choose(model, &recipe, &[], imatrix).expect("chosen");
    let size = |format: Format, tensor: &TensorPlan| {
        format.row_bytes(tensor.columns()) * tensor.weights() / tensor.columns()
    };
    choices.iter().zip(&model.tensors).map(|(choice, tensor)| size(choice.format, tensor)).sum()
}

/// The model as converted before April 2025: attn_kv_b in one piece.
fn before_the_split(model: &Model) -> Model {
    let mut model = model.clone();
    model.tensors.retain(|tensor| tensor.class() != "attn_v_b");
    for tensor in model.tensors.iter_mut().filter(|tensor| tensor.class() == "attn_k_b") {
        assert_eq!((tensor.role, &tensor.shape[..]), (Role::Attention, &[128, 512, 128][..]));
        tensor.name = tensor.name.replace("attn_k_b", "attn_kv_b");
        tensor.shape = vec![512, 32_768];
    }
    assert_eq!(model.tensors.len(), 1025);
    model
}

/// A table of plausible sensitivities: each type's error on Gaussian rows, with a factor of each tensor's own.
fn sensitivity(folder: &Path) -> String {
    let checkpoint = Checkpoint::open_folder(folder).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let source = Fingerprint::of(&checkpoint).expect("read");
    let mut random = Random(11);
    let open = model.tensors.iter().filter(|tensor| !tensor.role.is_f32());
    let measured = open.map(|tensor| {
        let factor = random.between(50, 200) as f64 / 100.0;
        let formats = DEFAULT_TYPES.iter().map(|&format| fitting(format, tensor.columns()));
        let error = |format: Format| (-1.4 * format.bits_per_weight()).exp() * factor;
        Measured {
            name: tensor.name.clone(),
            energy: Some(random.between(10, 1000) as f64),
            alignment: None,
            gradient: None,
            errors: formats.map(|format| (format.to_string(), error(format))).collect(),
            with_feedback: BTreeMap::new(),
        }
    });
    let table = Table::new(&source, None, 0, measured.collect());
    let file = folder.join("sensitivity.json");
    table.save(&file, true).expect("written");
    text(&file).to_owned()
}

#[test]
fn twenty_two_sizes_of_r1_are_met_from_below_within_500_mb() {
    let folder = r1();
    let given = ["--sensitivity", &sensitivity(folder.path())];
    let [smallest, largest] = possible(text(folder.path()), &given);
    // In this process: headers are read and tensors planned once for all sizes.
    let checkpoint = Checkpoint::open_folder(folder.path()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let source = Fingerprint::of(&checkpoint).expect("sound");
    let recipe = Recipe::load("auto").expect("a preset");
    let mut random = Random(22);
    let (mut size, mut planned) = (0, 0);
    for _ in 0..22 {
        size = random.between(smallest, largest);
        let sizing = Sizing { table: Some(Path::new(given[1])), ..Sizing::new(Target::Bytes(size)) };
        let sized =
            sizing.plan(&checkpoint, &model, &source, Wishes::new(&recipe), UNTOLD).expect("a possible size");
        planned = sized.plan.file_bytes();
        assert!(planned <= size && size - planned <= size / 1000, "{planned} of {size}");
    }
    // The command plans as the library does, and says what memory it took.
    let shown = plan(text(folder.path()), &[&given[..], &["--size", &format!("{size}B")]].concat());
    assert_eq!(shown["file_bytes"], planned);
    let (seconds, memory) = (&shown["seconds"], shown["peak_memory_bytes"].as_u64());
    eprintln!("R1 planned for a size in {seconds} s and {memory:?} bytes");
    assert!(memory.is_none_or(|bytes| bytes < 500_000_000), "{memory:?} bytes");
    // What a machine runs well is searched for: all tensors read by every token grow, and take room from the experts.
    for (machine, held) in [
        (&["--ram", "16GB"][..], false),
        (&["--ram", "20GB", "--disk", "2GB"], false),
        (&["--ram", "256GB"], true),
        (&["--ram", "192GB", "--vram", "24GB"], true),
    ] {
        let plan = plan(text(folder.path()), &[&given[..], &["--size", "auto"], machine].concat());
        let fit = &plan["fit"];
        assert!(fit["well"] == true && fit["disk_tokens_per_second"].is_null() == held, "{machine:?}: {fit}");
        let seconds = plan["seconds"].as_f64().expect("seconds");
        let memory = plan["peak_memory_bytes"].as_u64();
        eprintln!("R1 for {machine:?}: {} bytes, in {seconds:.2} s and {memory:?} bytes", plan["file_bytes"]);
        assert!(memory.is_none_or(|bytes| bytes < 500_000_000), "{memory:?} bytes");
        assert!((40..=48).contains(&plan["tradeoff"].as_array().map_or(0, Vec::len)), "{}", plan["tradeoff"]);
    }
}
