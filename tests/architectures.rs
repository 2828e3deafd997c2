//! Model families: for each a checkpoint of random weights in the published layout, against llama.cpp's converter,
//! llama.cpp's and transformers' logits, llama.cpp's tokenizer, and all commands.

use std::fs;
use std::path::{Path, PathBuf};

use quantpress::checkpoint::Checkpoint;
use quantpress::gguf::{Contents, Value as Gguf};
use quantpress::model::{Description, Encoder, Model, ModelFile, Options, Weights};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forward::logits;
use crate::support::families::{Family, VOCABULARY, family};
use crate::support::python::llama;
use crate::support::{fail, fixture, hex, succeed, text};

/// Keys of the converter that say something else here, or nothing, on purpose.
const OTHER: [&str; 5] = [
    // The folder's name, which is no property of the model.
    "general.name",
    // Counts of parameters are rounded otherwise.
    "general.size_label",
    // False, which is what a missing key means.
    "tokenizer.ggml.add_sep_token",
    // llama-quantize's number for BF16 is written with the types.
    "general.file_type",
    // One for each layer that is there; the converter has those of the layers that it leaves out as well.
    "deepseek4.attention.compress_ratios",
];

/// Keys that only we write: defaults spelled out, and how the file was made.
const MORE: [&str; 5] = [
    "attention.key_length",
    "attention.value_length",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "quantpress.",
];

/// A checkpoint, and a folder beside it.
struct Made {
    family: Family,
    reference: Value,
    folder: TempDir,
}

impl Made {
    fn new(name: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let family = family(name);
        family.write(&folder.path().join("checkpoint"));
        if let Some(out) = std::env::var_os("FAMILIES_OUT") {
            family.write(&Path::new(&out).join(name));
        }
        let reference = fs::read(fixture(&format!("families/{name}.json"))).expect("a reference");
        Self { family, reference: serde_json::from_slice(&reference).expect("JSON"), folder }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn quantize(&self, name: &str, extra: &[&str]) -> PathBuf {
        let (checkpoint, output) = (self.checkpoint(), self.file(name));
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "--quiet"];
        succeed(&[&arguments[..], extra].concat());
        output
    }

    /// Every tensor has the converter's bytes, and the metadata say the same.
    fn equals_the_converters(&self) {
        self.equals_with(&["--recipe", "bf16"]);
    }

    /// The same with options that choose the converter's types.
    fn equals_with(&self, options: &[&str]) {
        assert_eq!(
            self.reference["weights_sha256"],
            *hex(&self.family.safetensors()),
            "the reference is of others"
        );
        let parts = ["tensors", "metadata"].map(|part| self.reference[part].as_object().expect("an object"));
        self.file_is(options, parts.map(Clone::clone));
        // With the layer for multi-token prediction some are other or more.
        if self.reference["mtp"].is_object() {
            let with = ["tensors", "metadata"].map(|part| {
                let mut all = self.reference[part].as_object().expect("an object").clone();
                all.extend(self.reference["mtp"][part].as_object().expect("an object").clone());
                all
            });
            self.file_is(&[options, &["--keep-mtp"]].concat(), with);
        }
    }

    /// A file that is made so has these tensors and keys.
    fn file_is(&self, options: &[&str], [tensors, metadata]: [serde_json::Map<String, Value>; 2]) {
        let path = self.quantize(&format!("{}.gguf", options.len()), options);
        let (contents, file) = (Contents::read(&path).expect("sound"), fs::read(&path).expect("read"));
        let mut names: Vec<&str> = contents.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        names.sort_unstable();
        let mut known: Vec<&str> = tensors.keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(names, known);
        for tensor in &contents.tensors {
            let data = &file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize];
            let found = json!([tensor.format.name(), tensor.shape, hex(data)]);
            assert_eq!(found, tensors[&tensor.name], "{}", tensor.name);
        }
        for (key, value) in metadata.iter().filter(|(key, _)| !OTHER.contains(&key.as_str())) {
            let found = contents.metadata.get(key).map(plain);
            assert_eq!(found.as_ref(), Some(value), "{key}");
        }
        for (key, _) in contents.metadata.iter().filter(|(key, _)| !metadata.contains_key(*key)) {
            assert!(MORE.iter().any(|more| key.contains(more)), "{key} is ours alone");
        }
    }

    /// It is planned, quantized by roles and by llama-quantize's rules, goes on after a stop, and is right; llama.cpp runs
    /// all of it. Commands that need a forward pass refuse.
    fn converts(&self) {
        let checkpoint = self.checkpoint();
        for recipe in ["q8_0", "q4_k_m", "mxfp4_moe", "ud-q2_k_xl"] {
            let plan = succeed(&["plan", text(&checkpoint), "-r", recipe, "--json"]);
            let plan: Value = serde_json::from_str(&plan).expect("JSON");
            let file = self.quantize(&format!("{recipe}.gguf"), &["--recipe", recipe]);
            assert_eq!(plan["file_bytes"], fs::metadata(&file).expect("made").len(), "{recipe}");
            succeed(&["verify", text(&file), "--against", text(&checkpoint)]);
            if let Some(said) = llama(&["generate", text(&file), "the rest is", "4"]) {
                assert!(said[1].as_array().is_some_and(|tokens| !tokens.is_empty()), "{recipe}: {said}");
            }
        }
        // The file itself is quantized as any other.
        let (whole, again) = (self.file("q8_0.gguf"), self.file("again.gguf"));
        succeed(&["quantize", text(&whole), "-o", text(&again), "-r", "q4_k_m", "--quiet"]);
        succeed(&["verify", text(&again), "--against", text(&whole)]);
        let (words, imatrix) = (fixture("tiny-r1/calibration.txt"), self.file("imatrix.gguf"));
        for command in [
            vec!["calibrate", text(&checkpoint), "--text", text(&words), "-o", text(&imatrix)],
            vec!["evaluate", text(&checkpoint), text(&whole), "--text", text(&words)],
            vec!["evaluate", text(&whole), text(&again), "--text", text(&words)],
            vec!["quantize", text(&checkpoint), "-o", text(&imatrix), "--feedback", "--text", text(&words)],
            vec!["quantize", text(&checkpoint), "-o", text(&imatrix), "--feedback"],
        ] {
            let stderr = fail(&command, 4);
            let sentence = format!("no forward pass for the architecture \"{}\"", self.family.name);
            assert!(stderr.contains(&sentence), "{command:?}: {stderr}");
        }
    }

    /// The description comes back from the metadata, and nothing is doubtful.
    fn describes_itself(&self) {
        let checkpoint = Checkpoint::open_folder(&self.checkpoint()).expect("sound");
        let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
        let read = Description::of_plan(&model.metadata, &model.tensors).expect("all keys are there");
        assert_eq!(Some(&read), model.description.as_ref());
        assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    }

    /// Logits are transformers' and llama.cpp's.
    fn computes(&self) {
        let checkpoint = Checkpoint::open_folder(&self.checkpoint()).expect("sound");
        let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
        let ids: Vec<u32> = serde_json::from_value(self.reference["ids"].clone()).expect("ids");
        let weights = Weights::new(&checkpoint, &model.tensors[..]);
        let found = logits(&weights, model.describe().expect("described"), &ids, ids.len(), 1 << 30);
        let numbers = |field: &str| self.reference[field].clone();
        let positions: Vec<usize> = serde_json::from_value(numbers("positions")).expect("positions");
        let expected: Vec<Vec<f32>> = serde_json::from_value(numbers("logits")).expect("logits");
        let rows = |logits: &[f32]| -> Vec<Vec<f32>> {
            logits.chunks(VOCABULARY as usize).map(<[f32]>::to_vec).collect()
        };
        let all = rows(&found);
        let some: Vec<Vec<f32>> = positions.iter().map(|&position| all[position].clone()).collect();
        let difference = largest(&some, &expected);
        eprintln!("{}: logits differ from transformers' by {difference:.2e}", self.family.name);
        assert!(difference < 1e-4, "{difference:.2e} from transformers");

        let file = self.quantize("f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
        let read = ModelFile::open(&file).expect("sound");
        let of_file = logits(&read.weights(), &read.description, &ids, ids.len(), 1 << 30);
        assert!(of_file == found, "the file's logits are the checkpoint's");
        let (ids_file, out) = (self.file("ids.json"), self.file("logits.f32"));
        // The older of the two builds of llama.cpp does not know attention that chooses among tokens; these texts are too short
        // for a choice.
        let sparse = read.description.dense_length().is_some();
        let command = if sparse { "newest" } else { "logits" };
        fs::write(&ids_file, json!(ids).to_string()).expect("written");
        let Some(_) = llama(&[command, text(&file), text(&ids_file), text(&out)]) else { return };
        let bytes = fs::read(out).expect("read");
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let difference = largest(&all, &rows(&expected));
        eprintln!("{}: logits differ from llama.cpp's by {difference:.2e}", self.family.name);
        // After one of the tokens rounding grows there: llama.cpp is 4.0e-4 from transformers, and we lie between the two.
        let most = if self.family.name == "qwen35moe" { 3e-4 } else { 1e-4 };
        assert!(difference < most, "{difference:.2e} from llama.cpp");
        self.reads_text(&if sparse {
            let extra = ["--recipe", "bf16", "--override", ".=f32", "--arch", "deepseek2"];
            self.quantize("deepseek2.gguf", &extra)
        } else {
            file
        });
    }

    /// Token ids of hard strings are those of Hugging Face's library, here and in llama.cpp.
    fn reads_text(&self, file: &Path) {
        let strings = fixture("strings.json");
        let texts: Vec<String> = serde_json::from_slice(&fs::read(&strings).expect("read")).expect("strings");
        let tokenizer = self.checkpoint().join("tokenizer.json");
        let expected = llama(&["expected", text(&tokenizer), text(&strings)]).expect("it ran before");
        let found = llama(&["tokens", text(file), text(&strings)]).expect("it ran before");
        let of_checkpoint = Encoder::read(&Checkpoint::open_folder(&self.checkpoint()).expect("sound"));
        let of_file = Encoder::read(&Checkpoint::open_gguf(file).expect("sound"));
        let (of_checkpoint, of_file) = (of_checkpoint.expect("read"), of_file.expect("read"));
        for (index, string) in texts.iter().enumerate() {
            let ids =
                |encoder: &Encoder| json!(encoder.encode(string, VOCABULARY as usize).expect("encoded"));
            assert_eq!(ids(&of_checkpoint), ids(&of_file), "{string:?}");
            if !self.family.specials().iter().any(|special| string.contains(special)) {
                assert_eq!(ids(&of_checkpoint), expected[index], "{string:?}");
            }
            assert_eq!(found[index], expected[index], "{string:?}");
        }
    }

    /// Calibration, a size, feedback, evaluation, verification; and llama.cpp runs what comes out.
    fn works(&self) {
        let (checkpoint, words) = (self.checkpoint(), fixture("tiny-r1/calibration.txt"));
        let (imatrix, table) = (self.file("imatrix.gguf"), self.file("table.json"));
        let given = ["--text", text(&words), "--context", "64", "--chunks", "6"];
        let made =
            ["calibrate", text(&checkpoint), "-o", text(&imatrix), "--sensitivity", text(&table), "--json"];
        let types = ["--types", "q3_k,q4_k,q6_k"];
        let found: Value =
            serde_json::from_str(&succeed(&[&made[..], &given, &types].concat())).expect("JSON");
        assert!(found["tensors"].as_u64() > Some(10), "{found}");

        let weighed = ["--imatrix", text(&imatrix)];
        let whole = fs::metadata(self.quantize("whole.gguf", &["--recipe", "q8_0"])).expect("made").len();
        let most = whole * 6 / 10 / 1000 * 1000;
        let wanted = format!("{}MB", most as f64 / 1e6);
        let sized = [&weighed[..], &["--size", &wanted, "--sensitivity", text(&table)], &types].concat();
        let size = fs::metadata(self.quantize("sized.gguf", &sized)).expect("made").len();
        assert!(size <= most && size > most * 9 / 10, "{size}, at most {most}");

        // The states of this one's random delta rule carry four bits' rounding on until the divergence says nothing (0.76
        // with feedback and without).
        let recipe = if self.family.name == "qwen35" { "q6_k" } else { "q4_k_m" };
        let chosen = [&weighed[..], &["--recipe", recipe]].concat();
        let plain = self.quantize("plain.gguf", &chosen);
        let fed = self.quantize("fed.gguf", &[&chosen[..], &["--feedback"], &given].concat());
        let divergence = |file: &Path| {
            let evaluation = fixture("tiny-r1/evaluation.txt");
            let arguments =
                ["evaluate", text(&checkpoint), text(file), "--text", text(&evaluation), "--json"];
            let more = ["--context", "64", "--chunks", "4", "--quiet"];
            let found: Value =
                serde_json::from_str(&succeed(&[&arguments[..], &more].concat())).expect("JSON");
            found["kl_mean"].as_f64().expect("a number")
        };
        let (plain_divergence, fed_divergence) = (divergence(&plain), divergence(&fed));
        eprintln!(
            "{}: KL divergence {fed_divergence:.5} with feedback, {plain_divergence:.5} without",
            self.family.name
        );
        assert!(fed_divergence < plain_divergence, "{fed_divergence}, without feedback {plain_divergence}");
        succeed(&["verify", text(&fed), "--against", text(&checkpoint)]);
        let Some(said) = llama(&["generate", text(&fed), "the rest is", "4"]) else { return };
        assert!(said[1].as_array().is_some_and(|tokens| !tokens.is_empty()), "{said}");
    }

    /// A field of config.json with another value; the exit code, and a word of what is said.
    #[track_caller]
    fn refuses(&self, field: &str, value: Value) {
        let mut config = self.family.config.clone();
        config[field] = value;
        let folder = self.checkpoint();
        fs::write(folder.join("config.json"), config.to_string()).expect("written");
        let stderr = fail(&["plan", text(&folder)], 4);
        assert!(stderr.contains(field), "{field}: {stderr}");
    }
}

/// A checkpoint's plan with some fields of config.json changed; null removes one.
fn planned(name: &str, changes: &Value, options: &Options) -> Model {
    let made = Made::new(name);
    let mut config = made.family.config.clone();
    for (field, value) in changes.as_object().expect("fields") {
        config[field] = value.clone();
    }
    config.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    fs::write(made.checkpoint().join("config.json"), config.to_string()).expect("written");
    let checkpoint = Checkpoint::open_folder(&made.checkpoint()).expect("sound");
    Model::plan(&checkpoint, options).expect("planned")
}

#[test]
fn absent_fields_are_those_of_each_class() {
    let of = |name: &str, fields: &[&str]| {
        let absent: serde_json::Map<_, _> =
            fields.iter().map(|field| ((*field).to_owned(), Value::Null)).collect();
        planned(name, &Value::Object(absent), &Options::default())
    };
    for (name, eps, theta) in [
        ("llama", 1e-6, 1e4),
        ("mixtral", 1e-5, 1e6),
        ("qwen2", 1e-6, 1e4),
        ("qwen3", 1e-6, 1e4),
        ("qwen2moe", 1e-6, 1e4),
        ("glm4moe", 1e-5, 1e4),
        ("minimax-m2", 1e-6, 5e6),
        ("gpt-oss", 1e-5, 1.5e5),
    ] {
        let model = of(name, &["rms_norm_eps", "rope_theta"]);
        let number = |key: &str| model.metadata.get(&format!("{}.{key}", model.arch)).cloned();
        assert_eq!(number("attention.layer_norm_rms_epsilon"), Some(Gguf::F32(eps)), "{name}");
        assert_eq!(number("rope.freq_base"), Some(Gguf::F32(theta)), "{name}");
    }
    let model = of(
        "glm4moe",
        &["routed_scaling_factor", "norm_topk_prob", "partial_rotary_factor", "first_k_dense_replace"],
    );
    let key = |key: &str| model.metadata.get(&format!("glm4moe.{key}")).cloned();
    assert_eq!(key("expert_weights_scale"), Some(Gguf::F32(1.0)));
    assert_eq!(key("expert_weights_norm"), Some(Gguf::Bool(true)));
    assert_eq!(key("rope.dimension_count"), Some(Gguf::U32(32)));
    assert_eq!(key("leading_dense_block_count"), Some(Gguf::U32(1)));
}

#[test]
fn gpt_oss_has_yarn_where_nothing_is_said_of_it() {
    let model = planned("gpt-oss", &json!({"rope_scaling": null}), &Options::default());
    let key = |key: &str| model.metadata.get(&format!("gpt-oss.rope.scaling.{key}")).cloned();
    assert_eq!(key("type"), Some(Gguf::String("yarn".into())));
    assert_eq!(key("factor"), Some(Gguf::F32(32.0)));
    assert_eq!(key("original_context_length"), Some(Gguf::U32(4096)));
}

#[test]
fn a_position_encoding_without_a_type_is_the_plain_one() {
    let changes =
        json!({"rope_scaling": null, "rope_theta": null, "rope_parameters": {"rope_theta": 5000.0}});
    let model = planned("qwen3", &changes, &Options::default());
    assert_eq!(model.metadata.get("qwen3.rope.freq_base"), Some(&Gguf::F32(5000.0)));
    assert_eq!(model.metadata.get("qwen3.rope.scaling.type"), None);
}

#[test]
fn a_head_that_is_not_the_embedding_is_told_of_in_every_family() {
    let warnings = planned("mixtral", &json!({"tie_word_embeddings": true}), &Options::default()).warnings;
    let told = warnings.iter().any(|warning| warning.to_string().contains("numbers of its own"));
    assert!(told, "{warnings:?}");
}

#[test]
fn recommended_sampling_is_kept() {
    let made = Made::new("qwen2");
    let said = json!({"temperature": 0.7, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05});
    fs::write(made.checkpoint().join("generation_config.json"), said.to_string()).expect("written");
    let checkpoint = Checkpoint::open_folder(&made.checkpoint()).expect("sound");
    let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
    let key = |key: &str| model.metadata.get(&format!("general.sampling.{key}")).cloned();
    assert_eq!(key("top_k"), Some(Gguf::I32(20)));
    for (name, value) in [("temp", 0.7), ("min_p", 0.05), ("penalty_repeat", 1.05)] {
        assert_eq!(key(name), Some(Gguf::F32(value)), "{name}");
    }
}

#[test]
fn post_processors_that_llama_cpp_cannot_follow_are_told_of() {
    let warned = |processor: Value| {
        let made = Made::new("qwen2");
        let file = made.checkpoint().join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        tokenizer["post_processor"] = processor;
        fs::write(&file, tokenizer.to_string()).expect("written");
        let checkpoint = Checkpoint::open_folder(&made.checkpoint()).expect("sound");
        let warnings = Model::plan(&checkpoint, &Options::default()).expect("planned").warnings;
        warnings.iter().any(|warning| warning.to_string().contains("post_processor"))
    };
    let token = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let around = |before: &[Value]| {
        let single = [before, &[json!({"Sequence": {"id": "A", "type_id": 0}})]].concat();
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}})
    };
    assert!(!warned(around(&[token("<｜begin▁of▁sentence｜>")])));
    assert!(warned(around(&[token("<｜begin▁of▁sentence｜>"), token("<｜User｜>")])));
    assert!(warned(json!({"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]})));
    assert!(!warned(json!({"type": "ByteLevel"})));
}

#[test]
fn a_window_that_llama_cpp_does_not_have_is_a_warning() {
    let mistral = |window: Value| {
        let changes = json!({"architectures": ["MixtralForCausalLM"], "sliding_window": window});
        planned("mixtral", &changes, &Options::default()).warnings
    };
    assert!(mistral(Value::Null).is_empty() && mistral(json!(4096)).is_empty());
    let warnings = mistral(json!(512));
    assert!(warnings.len() == 1 && warnings[0].to_string().contains("sliding_window is 512"), "{warnings:?}");
}

#[test]
fn glms_layer_for_prediction_is_kept_if_asked_for() {
    let without = planned("glm4moe", &json!({}), &Options::default());
    let with = planned("glm4moe", &json!({}), &Options { keep_mtp: true, ..Options::default() });
    assert_eq!((without.layers, with.layers), (2, 3));
    assert_eq!(without.metadata.get("glm4moe.nextn_predict_layers"), None);
    assert_eq!(with.metadata.get("glm4moe.nextn_predict_layers"), Some(&Gguf::U32(1)));
    assert!(with.tensors.iter().any(|tensor| tensor.name == "blk.2.nextn.eh_proj.weight"));
    let made = Made::new("glm4moe");
    let file = made.quantize("mtp.gguf", &["--recipe", "q8_0", "--keep-mtp"]);
    let Some(said) = llama(&["generate", text(&file), "the rest is", "4"]) else { return };
    assert!(said[1].as_array().is_some_and(|tokens| !tokens.is_empty()), "{said}");
}

#[test]
fn layers_for_prediction_are_a_file_of_their_own_beside_the_models() {
    let families = [
        ("glm4moe", 2),
        ("deepseek32", 2),
        ("glm-dsa", 3),
        ("glm4-lite", 2),
        ("qwen35", 4),
        ("qwen35moe", 3),
    ];
    for (name, own) in families {
        let made = Made::new(name);
        let whole = made.quantize("whole.gguf", &["--recipe", "q8_0", "--keep-mtp"]);
        let side = made.quantize("mtp-side.gguf", &["--recipe", "q8_0", "--mtp-only"]);
        let read = |path: &Path| {
            (Contents::read(path).expect("sound"), fs::read(path).expect("the file that was just made"))
        };
        let (all, found) = (read(&whole), read(&side));
        let data = |(contents, file): &(Contents, Vec<u8>), name: &str| {
            let tensor = contents.tensor(name).unwrap_or_else(|| panic!("{name} is there"));
            file[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize].to_vec()
        };
        let is_of_it = |name: &str| !name.starts_with("blk.") || name.starts_with(&format!("blk.{own}."));
        let names = |contents: &Contents| -> Vec<String> {
            contents.tensors.iter().map(|tensor| tensor.name.clone()).collect()
        };
        let expected: Vec<String> = names(&all.0).into_iter().filter(|name| is_of_it(name)).collect();
        assert_eq!(names(&found.0), expected, "{name}");
        let head = (name != "qwen35").then_some("output.weight");
        for outside in ["token_embd.weight", "output_norm.weight"].into_iter().chain(head) {
            assert!(expected.iter().any(|name| name == outside), "{outside}");
        }
        for tensor in &expected {
            assert!(data(&found, tensor) == data(&all, tensor), "{tensor}");
        }
        // llama.cpp reads the same keys as from the whole model's file.
        let keys = |contents: &Contents| -> Vec<(String, Gguf)> {
            let own = |key: &str| key.starts_with("quantpress.") || key == "general.size_label";
            let all = contents.metadata.iter().filter(|(key, _)| !own(key));
            all.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        };
        assert_eq!(keys(&found.0), keys(&all.0), "{name}");
        assert_eq!(found.0.metadata.get("quantpress.mtp_only"), Some(&Gguf::Bool(true)));
        succeed(&["verify", text(&side), "--against", text(&made.checkpoint())]);

        // The same from the file of the whole model, without the checkpoint.
        let again = made.file("again.gguf");
        succeed(&["quantize", text(&whole), "-o", text(&again), "--recipe", "q8_0", "--mtp-only", "--quiet"]);
        let again = read(&again);
        assert_eq!(names(&again.0), expected);
        assert!(expected.iter().all(|tensor| data(&again, tensor) == data(&all, tensor)));

        let main = made.quantize("main.gguf", &["--recipe", "q8_0"]);
        let Some(said) = llama(&["generate", text(&main), "the rest is the", "6"]) else { continue };
        let drafted = llama(&["generate", text(&main), "the rest is the", "6", "--draft", text(&side)]);
        let drafted = drafted.expect("it ran before");
        assert_eq!(drafted[0], said[0], "{name}");
        assert!(drafted[2].as_u64() > Some(0), "{name}: {drafted}");
    }
}

#[test]
fn a_file_of_layers_for_prediction_alone_is_not_taken_for_a_model() {
    let made = Made::new("glm4moe");
    let side = made.quantize("side.gguf", &["--recipe", "q8_0", "--mtp-only"]);
    let checkpoint = made.checkpoint();
    let words = fixture("tiny-r1/evaluation.txt");
    let stderr = fail(&["evaluate", text(&checkpoint), text(&side), "--text", text(&words)], 4);
    assert!(stderr.contains("has only layers for multi-token prediction"), "{stderr}");
    let output = made.file("other.gguf");
    let quantize = |source: &Path, more: &[&str], code: i32| {
        let arguments = ["quantize", text(source), "-o", text(&output), "--recipe", "q8_0", "--mtp-only"];
        fail(&[&arguments[..], more].concat(), code)
    };
    for more in [&["--keep-mtp"][..], &["--feedback", "--text", text(&words)], &["--ram", "1GB"]] {
        let stderr = quantize(&checkpoint, more, 2);
        assert!(stderr.contains("--mtp-only") && stderr.contains("cannot be used with"), "{stderr}");
    }
    // A family without such layers, a checkpoint and a file without them.
    let stderr = quantize(&Made::new("qwen3").checkpoint(), &[], 2);
    assert!(stderr.contains("--mtp-only: qwen3 has no layers for multi-token prediction"), "{stderr}");
    let plain = made.quantize("plain.gguf", &["--recipe", "q8_0"]);
    let stderr = quantize(&plain, &[], 2);
    assert!(stderr.contains("--mtp-only: the file has no layers for multi-token prediction"), "{stderr}");
    let mut config = made.family.config.clone();
    config["num_nextn_predict_layers"] = json!(0);
    fs::write(checkpoint.join("config.json"), config.to_string()).expect("written");
    let stderr = quantize(&checkpoint, &[], 2);
    assert!(stderr.contains("--mtp-only: config.json says that there are no layers"), "{stderr}");
}

#[test]
fn a_part_of_a_side_file_is_verified_as_one() {
    let made = Made::new("glm4moe");
    let side = made.file("side.gguf");
    let checkpoint = made.checkpoint();
    let arguments = ["quantize", text(&checkpoint), "-o", text(&side), "--recipe", "q8_0", "--mtp-only"];
    succeed(&[&arguments[..], &["--split", "3", "--quiet"]].concat());
    for number in [1, 2] {
        fs::remove_file(made.file(&format!("side-0000{number}-of-00003.gguf"))).expect("it was made");
        let last = made.file("side-00003-of-00003.gguf");
        succeed(&["verify", text(&last), "--against", text(&checkpoint)]);
    }
}

#[test]
fn linear_stretching_is_written_read_and_computed() {
    let made = Made::new("llama2");
    let mut config = made.family.config.clone();
    config["rope_scaling"] = json!({"type": "linear", "factor": 8.0});
    fs::write(made.checkpoint().join("config.json"), config.to_string()).expect("written");
    made.describes_itself();
    let file = made.quantize("f32.gguf", &["--recipe", "bf16", "--override", ".=f32"]);
    let read = ModelFile::open(&file).expect("sound");
    let key = |key: &str| Contents::read(&file).expect("sound").metadata.get(key).cloned();
    assert_eq!(key("llama.rope.scaling.type"), Some(Gguf::String("linear".into())));
    assert_eq!(key("llama.rope.scaling.factor"), Some(Gguf::F32(8.0)));
    let ids: Vec<u32> = (0..48).map(|id| (7 + 31 * id) % 440).collect();
    let found = logits(&read.weights(), &read.description, &ids, ids.len(), 1 << 30);
    let (ids_file, out) = (made.file("ids.json"), made.file("logits.f32"));
    fs::write(&ids_file, json!(ids).to_string()).expect("written");
    let Some(_) = llama(&["logits", text(&file), text(&ids_file), text(&out)]) else { return };
    let bytes = fs::read(out).expect("read");
    let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let difference = largest(&[found], &[expected]);
    assert!(difference < 1e-4, "{difference:.2e} from llama.cpp");
}

#[test]
fn a_factor_that_nothing_computes_is_written_as_the_converter_does() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
        "attn_factor": 0.8782488562869419});
    let model = planned("qwen3", &json!({"rope_scaling": scaling}), &Options::default());
    let key = |key: &str| model.metadata.get(&format!("qwen3.rope.scaling.{key}")).cloned();
    assert_eq!(key("yarn_attn_factor"), Some(Gguf::F32(0.878_248_856_286_941_9_f64 as f32)));
    assert_eq!(key("factor"), Some(Gguf::F32(4.0)));
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    let read = Description::of_plan(&model.metadata, &model.tensors).expect("all keys are there");
    assert_eq!(Some(&read), model.description.as_ref());
}

#[test]
fn lists_of_other_lengths_and_contradictory_counts_are_refused() {
    let full = |count: usize| json!(vec!["full_attention"; count]);
    for name in ["llama", "mixtral", "qwen2", "qwen3", "qwen2moe"] {
        let made = Made::new(name);
        made.refuses("layer_types", full(1));
        made.refuses("layer_types", full(3));
        made.refuses("layer_types", json!([]));
    }
    Made::new("minimax-m2").refuses("attn_type_list", json!([1, 1, 1]));
    Made::new("qwen2moe").refuses("num_local_experts", json!(8));
    for name in ["glm4moe", "deepseek32", "kimi-k2.5"] {
        let made = Made::new(name);
        if name == "kimi-k2.5" {
            let mut text_config = made.family.config["text_config"].clone();
            text_config["n_shared_experts"] = json!(0);
            made.refuses("text_config", text_config);
        } else {
            made.refuses("n_shared_experts", json!(0));
        }
    }
    // As many as there are layers, and the same number twice.
    let same = json!({"layer_types": full(2), "num_local_experts": 4});
    assert!(planned("qwen2moe", &same, &Options::default()).warnings.is_empty());
}

#[test]
fn what_sees_images_is_left_out_and_said() {
    for (name, parts) in [
        ("kimi-k2.5", ["mm_projector.", "vision_tower."]),
        ("mistral3", ["multi_modal_projector.", "vision_tower."]),
    ] {
        let made = Made::new(name);
        let file = made.quantize("q8.gguf", &["--recipe", "q8_0"]);
        let manifest = fs::read(file.with_extension("gguf.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let found: Vec<_> = manifest["left_out"].as_array().expect("a list").iter().collect();
        assert_eq!(found.len(), 2, "{found:?}");
        for (entry, part) in found.into_iter().zip(parts) {
            assert_eq!((&entry["tensors"], &entry["count"]), (&json!(part), &json!(1)));
        }
        succeed(&["verify", text(&file), "--against", text(&made.checkpoint())]);
    }
}

#[test]
fn text_models_are_found_by_either_name() {
    let made = Made::new("kimi-k2.5");
    let plan = |path: &Path| {
        Model::plan(&Checkpoint::open_folder(path).expect("sound"), &Options::default()).expect("planned")
    };
    let first = plan(&made.checkpoint());
    // As transformers saves it.
    let mut family = family("kimi-k2.5");
    for (name, ..) in &mut family.tensors {
        *name = match name.strip_prefix("language_model.") {
            Some(rest) if rest.starts_with("model.") => rest.replacen("model.", "model.language_model.", 1),
            Some(rest) => rest.to_owned(),
            None => format!("model.{name}"),
        };
    }
    family.config["architectures"] = json!(["Kimi_K25ForConditionalGeneration"]);
    let other = made.file("other");
    family.write(&other);
    let second = plan(&other);
    assert!(first.metadata.iter().eq(second.metadata.iter()));
    let names = |model: &Model| model.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    assert!(second.warnings.is_empty(), "{:?}", second.warnings);
    assert_eq!(second.left_out.iter().map(|left| left.count).sum::<usize>(), 2);
    // A part that is no tower and no projector is not to be lost.
    family.tensors.push(("model.adapter.weight".to_owned(), "BF16", vec![64]));
    family.write(&other);
    let stderr = fail(&["plan", text(&other)], 4);
    assert!(stderr.contains("model.adapter.weight"), "{stderr}");
}

/// Names of the tensors of a plan that have this part.
fn with(model: &Model, part: &str) -> Vec<String> {
    let names = model.tensors.iter().map(|tensor| tensor.name.clone());
    names.filter(|name| name.contains(part)).collect()
}

#[test]
fn what_chooses_tokens_is_kept_or_left_out_as_a_whole() {
    for (name, indexers, tensors) in [("deepseek32", 2, 15), ("glm-dsa", 2, 15)] {
        let model = planned(name, &json!({}), &Options::default());
        assert_eq!((&*model.arch, with(&model, "indexer").len()), (name, 5 * indexers));
        let mtp = planned(name, &json!({}), &Options { keep_mtp: true, ..Options::default() });
        assert_eq!(with(&mtp, "indexer").len(), 5 * (indexers + 1));
        let read = Description::of_plan(&mtp.metadata, &mtp.tensors).expect("all keys are there");
        assert_eq!(Some(&read), mtp.description.as_ref());

        let dense = Options { arch: Some("deepseek2".into()), ..Options::default() };
        let dense = planned(name, &json!({}), &dense);
        assert_eq!((&*dense.arch, with(&dense, "indexer").len()), ("deepseek2", 0));
        assert_eq!(dense.tensors.len() + 5 * indexers, model.tensors.len());
        let left: Vec<_> = dense.left_out.iter().map(|left| (left.tensors, left.count)).collect();
        assert_eq!(left, [("self_attn.indexer.", tensors)]);
        assert_eq!(dense.description.as_ref().and_then(Description::dense_length), None);
        assert!(dense.metadata.iter().all(|(key, _)| !key.contains("indexer")));

        let made = Made::new(name);
        let checkpoint = made.checkpoint();
        let extra = ["--recipe", "q8_0", "--arch", "deepseek2"];
        let file = made.quantize("dense.gguf", &extra);
        succeed(&["verify", text(&file), "--against", text(&checkpoint)]);
        let words = fixture("tiny-r1/evaluation.txt");
        let chunk = ["--text", text(&words), "--chunks", "1", "--context", "128"];
        let dense = ["evaluate", text(&checkpoint), text(&file)];
        succeed(&[&dense[..], &chunk].concat());
        let told = succeed(&["plan", text(&checkpoint), "--recipe", "q8_0", "--arch", "deepseek2"]);
        assert!(
            told.contains(&format!("{tensors} tensors with self_attn.indexer. in their names")),
            "{told}"
        );
        let stderr = fail(&["plan", text(&checkpoint), "--arch", "llama"], 2);
        let known = format!("--arch llama: this checkpoint can become {name} or deepseek2");
        assert!(stderr.contains(&known), "{stderr}");
        let stderr = fail(&["plan", text(&file), "--arch", "deepseek2"], 2);
        assert!(stderr.contains("keeps its architecture"), "{stderr}");

        // In longer texts tokens are chosen.
        let sparse = made.quantize("sparse.gguf", &["--recipe", "q8_0"]);
        let imatrix = made.file("longer.gguf");
        for command in [
            vec!["calibrate", text(&checkpoint), "-o", text(&imatrix)],
            vec!["evaluate", text(&checkpoint), text(&sparse)],
            vec!["evaluate", text(&sparse), text(&sparse)],
        ] {
            let stderr = fail(&[&command[..], &chunk].concat(), 4);
            assert!(stderr.contains("chunks of 128 tokens") && stderr.contains("up to 64"), "{stderr}");
        }
    }
}

#[test]
fn pieces_are_the_same_from_either_file() {
    let made = Made::new("llama2");
    let (folder, strings) = (made.checkpoint(), fixture("strings.json"));
    let texts: Vec<String> = serde_json::from_slice(&fs::read(&strings).expect("read")).expect("strings");
    let read = || {
        let checkpoint = Checkpoint::open_folder(&folder).expect("sound");
        let encoder = Encoder::read(&checkpoint).expect("read");
        let ids = |text: &String| encoder.encode(text, VOCABULARY as usize).expect("encoded");
        let ids: Vec<Vec<u32>> = texts.iter().map(ids).collect();
        (Model::plan(&checkpoint, &Options::default()).expect("planned"), ids)
    };
    let key = |model: &Model, key: &str| model.metadata.get(&format!("tokenizer.ggml.{key}")).cloned();
    let (both, ids) = read();
    assert!(both.warnings.is_empty(), "{:?}", both.warnings);

    // Scores follow from the order of the merges, which is all that counts; llama.cpp's converter makes all of them alike
    // here, and texts become other ids then.
    fs::rename(folder.join("tokenizer.model"), folder.join("kept")).expect("renamed");
    let (of_json, ids_of_json) = read();
    assert_eq!(key(&of_json, "tokens"), key(&both, "tokens"));
    assert_ne!(key(&of_json, "scores"), key(&both, "scores"));
    assert!(ids_of_json == ids);
    let file = made.quantize("json.gguf", &["--recipe", "q8_0"]);
    if let Some(found) = llama(&["tokens", text(&file), text(&strings)]) {
        assert_eq!(found, json!(ids));
    }

    fs::rename(folder.join("kept"), folder.join("tokenizer.model")).expect("renamed");
    fs::remove_file(folder.join("tokenizer.json")).expect("removed");
    let (of_model, ids_of_model) = read();
    for name in ["model", "pre", "tokens", "scores", "add_bos_token", "bos_token_id", "eos_token_id"] {
        assert_eq!(key(&of_model, name), key(&both, name), "{name}");
    }
    assert!(ids_of_model == ids);

    let stderr = fail(&["plan", text(&folder), "--pre", "llama-bpe"], 2);
    assert!(stderr.contains("--pre llama-bpe: tokenizer.model has SentencePiece's pieces"), "{stderr}");
    fs::write(folder.join("tokenizer.model"), b"no protobuf").expect("written");
    let stderr = fail(&["plan", text(&folder)], 3);
    assert!(stderr.contains("tokenizer.model: is no protobuf message"), "{stderr}");
}

#[test]
fn dynamic_presets_are_for_models_with_experts() {
    for (name, fits) in [("llama2", false), ("qwen3", false), ("qwen2moe", true), ("minimax-m2", true)] {
        let made = Made::new(name);
        let folder = made.checkpoint();
        for recipe in ["ud-iq1_s", "ud-iq1_m", "ud-iq2_xxs", "ud-q2_k_xl"] {
            let arguments = ["plan", text(&folder), "-r", recipe, "--json"];
            if fits {
                let plan: Value = serde_json::from_str(&succeed(&arguments)).expect("JSON");
                assert_eq!(plan["recipe"], recipe);
            } else {
                let stderr = fail(&arguments, 2);
                let words = "is for models with routed experts, and this one has none";
                assert!(stderr.contains(recipe) && stderr.contains(words), "{stderr}");
            }
        }
        let plan: Value = serde_json::from_str(&succeed(&["plan", text(&folder), "--json"])).expect("JSON");
        assert_eq!(plan["recipe"], if fits { "ud-iq1_s" } else { "q4_k_m" });
    }
}

#[test]
fn the_cache_is_that_of_each_kind_of_attention() {
    for (name, expected) in [
        // Latent and shared key, and with an indexer its key, 2 bytes each.
        ("glm4-lite", 2 * 2 * (256 + 32) * 4096),
        ("deepseek32", 2 * 2 * (256 + 32 + 64) * 4096),
        // One of three layers takes another's choice.
        ("glm-dsa", 2 * (3 * (256 + 32) + 2 * 64) * 4096),
        // Keys and values of two heads.
        ("qwen3", 2 * 2 * (2 * 2 * 96) * 4096),
        // A window of 16 tokens, and the 512 that llama.cpp computes at once, in whole pages of 256.
        ("gpt-oss", 2 * (2 * 2 * 64) * (4096 + 768)),
        // One layer of four attends; the others keep a matrix for each of six heads, and three tokens of 1,280 columns.
        ("qwen35", 2 * (2 * 2 * 64) * 4096 + 3 * 4 * (6 * 128 * 128 + 3 * 1280)),
    ] {
        let made = Made::new(name);
        let folder = made.checkpoint();
        let machine = ["--ram", "4GB", "--ctx-size", "4096", "-r", "q8_0", "--json"];
        let plan = succeed(&[&["plan", text(&folder)], &machine[..]].concat());
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        assert_eq!(plan["fit"]["kv_cache"], expected, "{name}");
    }
}

#[test]
fn texts_of_v32_begin_with_bos_whatever_the_tokenizer_says() {
    for name in ["deepseek32", "kimi-k2.5"] {
        let made = Made::new(name);
        let file = made.checkpoint().join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&file).expect("read")).expect("JSON");
        tokenizer["post_processor"] = Value::Null;
        fs::write(&file, tokenizer.to_string()).expect("written");
        let checkpoint = Checkpoint::open_folder(&made.checkpoint()).expect("sound");
        let model = Model::plan(&checkpoint, &Options::default()).expect("planned");
        let begins = model.metadata.get("tokenizer.ggml.add_bos_token");
        assert_eq!(begins, Some(&Gguf::Bool(name == "deepseek32")));
    }
}

#[test]
fn permuted_rows_are_the_same_on_any_number_of_threads() {
    for name in ["llama", "qwen35", "deepseek4"] {
        let made = Made::new(name);
        let bytes = |file: &str, threads: &str| {
            let file = made.quantize(file, &["--recipe", "q4_k_m", "--threads", threads]);
            hex(&fs::read(file).expect("read"))
        };
        assert_eq!(bytes("one.gguf", "1"), bytes("three.gguf", "3"), "{name}");
    }
}

/// Killed after a few pieces, the same command goes on from there.
#[cfg(unix)]
#[test]
fn permuted_rows_are_the_same_after_a_kill() {
    use crate::support::interrupted::{SLOWLY, killed_at};

    for name in ["qwen35", "qwen35moe", "deepseek4"] {
        let made = Made::new(name);
        let whole = made.quantize("whole.gguf", &["--recipe", "q4_k_m"]);
        let (checkpoint, output) = (made.checkpoint(), made.file("killed.gguf"));
        let arguments = ["quantize", text(&checkpoint), "-o", text(&output), "-r", "q4_k_m", "--quiet"];
        let slowly = [&arguments[..], &SLOWLY].concat();
        assert!(killed_at(&slowly, "recorded", 20), "{name} ended too soon");
        assert!(!output.exists(), "{name}");
        succeed(&arguments);
        let read = |file: &Path| hex(&fs::read(file).expect("read"));
        assert_eq!(read(&output), read(&whole), "{name}");
    }
}

fn plain(value: &Gguf) -> Value {
    let list = |texts: Vec<String>| json!(hex(texts.join("\n").as_bytes()));
    match value {
        Gguf::U32(n) => json!(n),
        Gguf::F32(x) => json!(f64::from(*x)),
        Gguf::Bool(flag) => json!(flag),
        Gguf::String(text) => json!(text),
        Gguf::Strings(texts) => list(texts.clone()),
        Gguf::Bools(flags) => {
            list(flags.iter().map(|flag| if *flag { "True" } else { "False" }.to_owned()).collect())
        }
        Gguf::F32s(numbers) => {
            // As Python writes them.
            list(numbers.iter().map(|x| format!("{x:?}")).collect())
        }
        Gguf::I32s(numbers) => list(numbers.iter().map(i32::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

fn largest(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    pairs.fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}

#[test]
fn deepseek4_is_the_converters() {
    Made::new("deepseek4").equals_with(&["--recipe", "bf16", "--override", "_exps=mxfp4"]);
}

#[test]
fn deepseek4_is_made_and_not_computed() {
    Made::new("deepseek4").converts();
}

#[test]
fn what_deepseek4_has_no_form_for_is_refused() {
    let made = Made::new("deepseek4");
    for (field, value) in [
        ("scoring_func", json!("sigmoid")),
        ("compress_ratios", json!([0, 8, 128, 4])),
        ("num_key_value_heads", json!(2)),
        ("n_group", json!(4)),
        ("rope_parameters", json!({"main": {"rope_type": "default"}})),
        ("tie_word_embeddings", json!(true)),
    ] {
        made.refuses(field, value);
    }
    let model = planned("deepseek4", &json!({"vision_n_layers": 2}), &Options::default());
    assert!(model.warnings.is_empty(), "{:?}", model.warnings);
    let left: Vec<_> = model.left_out.iter().map(|left| (left.tensors, left.count)).collect();
    assert_eq!(left, [("mtp.", 2), ("ffn.gate.bias", 1)]);
    let unknown = planned("deepseek4", &json!({"hc_other": 2}), &Options::default());
    assert!(unknown.warnings.len() == 1 && unknown.warnings[0].to_string().contains("hc_other"));
}

#[test]
fn values_of_token_ids_are_carried_and_checked() {
    let made = Made::new("deepseek4");
    let file = made.checkpoint().join("model.safetensors");
    let mut bytes = fs::read(&file).expect("read");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let start = header["layers.0.ffn.gate.tid2eid"]["data_offsets"][0].as_u64().expect("a number") as usize;
    // The second number of the third row.
    let place = 8 + length + start + 8 * 5;
    bytes[place..place + 8].copy_from_slice(&(1i64 << 40).to_le_bytes());
    fs::write(&file, bytes).expect("written");
    let (checkpoint, output) = (made.checkpoint(), made.file("q8.gguf"));
    let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&output), "-r", "q8_0"], 3);
    assert!(stderr.contains("tid2eid") && stderr.contains("row 2, column 1"), "{stderr}");
}

#[test]
fn the_layer_for_prediction_of_qwen35_is_kept_or_said() {
    let without = planned("qwen35", &json!({}), &Options::default());
    let left: Vec<_> = without.left_out.iter().map(|left| (left.tensors, left.count)).collect();
    assert_eq!(left, [("model.visual.", 1), ("mtp.", 15)]);
    assert_eq!((without.layers, without.warnings.len()), (4, 0), "{:?}", without.warnings);
    let with = planned("qwen35", &json!({}), &Options { keep_mtp: true, ..Options::default() });
    assert_eq!(with.left_out.len(), 1);
    assert_eq!(with.metadata.get("qwen35.nextn_predict_layers"), Some(&Gguf::U32(1)));
    let read = Description::of_plan(&with.metadata, &with.tensors).expect("all keys are there");
    assert_eq!(Some(&read), with.description.as_ref());
    let made = Made::new("qwen35moe");
    let file = made.quantize("mtp.gguf", &["--recipe", "q8_0", "--keep-mtp"]);
    let Some(said) = llama(&["generate", text(&file), "the rest is", "4"]) else { return };
    assert!(said[1].as_array().is_some_and(|tokens| !tokens.is_empty()), "{said}");
}

/// The tests of each family.
macro_rules! families {
    ($($family:ident $name:literal: $($field:literal = $value:tt),*;)*) => {$(
        mod $family {
            use super::*;

            #[test]
            fn its_file_is_the_converters() {
                let made = Made::new($name);
                made.equals_the_converters();
                made.describes_itself();
            }

            #[test]
            fn it_computes_what_others_compute() {
                Made::new($name).computes();
            }

            #[test]
            fn all_commands_work() {
                Made::new($name).works();
            }

            #[test]
            fn what_has_no_gguf_form_is_refused() {
                let made = Made::new($name);
                $(made.refuses($field, json!($value));)*
            }
        }
    )*};
}

families! {
    llama "llama":
        "hidden_act" = "gelu", "layer_types" = ["sliding_attention"],
        "rope_scaling" = {"type": "dynamic", "factor": 2.0};
    llama2 "llama2": "hidden_act" = "gelu";
    mixtral "mixtral": "hidden_act" = "gelu";
    qwen2 "qwen2":
        "use_sliding_window" = true, "layer_types" = ["full_attention", "sliding_attention"],
        "rope_scaling" = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16};
    qwen35 "qwen35": "text_config" = {"model_type": "qwen3_5_vision"};
    qwen35moe "qwen35moe":
        "layer_types" = ["linear_attention", "sliding_attention", "full_attention"],
        "layer_types" = ["linear_attention", "linear_attention", "linear_attention"],
        "attn_output_gate" = false, "linear_value_head_dim" = 64, "norm_topk_prob" = false,
        "mtp_use_dedicated_embeddings" = true;
    qwen3 "qwen3": "attention_bias" = true, "use_sliding_window" = true;
    glm4moe "glm4moe": "scoring_func" = "softmax", "hidden_act" = "gelu";
    qwen2moe "qwen2moe":
        "norm_topk_prob" = true, "decoder_sparse_step" = 2, "mlp_only_layers" = [0], "tie_word_embeddings" = true;
    glm4_lite "glm4-lite":
        "scoring_func" = "softmax", "attention_bias" = true, "mlp_layer_types" = ["sparse", "sparse"];
    deepseek32 "deepseek32":
        "layer_types" = ["full_attention", "indexed_attention"], "q_lora_rank" = null;
    glm_dsa "glm-dsa":
        "rope_scaling" = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        "indexer_types" = ["full", "other", "full"], "indexer_rope_interleave" = false;
    kimi "kimi-k2.5":
        "text_config" = {"model_type": "kimi_linear"},
        "text_config" = {"model_type": "kimi_k2", "architectures": ["KimiLinearForCausalLM"]};
    ministral3 "ministral3":
        "rope_parameters" = {"rope_type": "default", "rope_theta": 1000000.0},
        "rope_parameters" = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
            "original_max_position_embeddings": 16, "mscale": 0.5, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1};
    mistral3 "mistral3": "text_config" = {"model_type": "mistral4"};
    gpt_oss "gpt-oss":
        "layer_types" = ["full_attention", "sliding_attention"], "swiglu_limit" = 8, "attention_bias" = false;
    minimax_m2 "minimax-m2":
        "scoring_func" = "softmax", "attn_type_list" = [1, 0], "tie_word_embeddings" = true,
        "use_qk_norm" = false;
}
