//! Options: none without effect, none with two meanings, and what plan says is what quantize makes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::sizes::{Random, plan};
use crate::support::{fail, fixture, presets, quantize_fixture, succeed, text};

#[test]
fn an_option_without_effect_is_an_error() {
    let checkpoint = fixture("tiny-r1");
    let c = text(&checkpoint);
    let folder = TempDir::new().expect("a temporary folder");
    let new = text(&folder.path().join("new")).to_owned();
    let words = text(&fixture("tiny-r1/evaluation.txt")).to_owned();
    let both: &[(&[&str], &[&str])] = &[
        (&["--types", "q4_k"], &["--size", "--bpw"]),
        (&["--save-recipe", &new], &["--size", "--bpw"]),
        (&["--sensitivity", &new], &["--size", "--bpw"]),
        (&["--bpw", "3", "--size", "8MB"], &["cannot be used with", "--bpw"]),
        (&["--size", "auto"], &["--ram"]),
        (&["--vram", "1GB"], &["--ram"]),
        (&["--ctx-size", "512"], &["--ram"]),
        (&["-c", "512"], &["--ram"]),
        (&["--disk", "1GB"], &["--ram"]),
        (&["--slowest", "1"], &["--ram"]),
        (&["--split", "2", "--part", "1/2"], &["cannot be used with"]),
        (&["--text", &words], &["--feedback"]),
        (&["--chunks", "2"], &["--text"]),
        (&["--context", "512"], &["--text", "the KV cache is --ctx-size"]),
        (&["--feedback", "--chunks", "2"], &["--text"]),
        (&["--feedback", "--context", "2"], &["--text"]),
    ];
    let refused = |arguments: &[&str], words: &[&str]| {
        let stderr = fail(arguments, 2);
        for word in words {
            assert!(stderr.contains(word), "{arguments:?}: \"{word}\" is not in: {stderr}");
        }
    };
    for (options, words) in both {
        refused(&[&["plan", c], *options].concat(), words);
        refused(&[&["quantize", c, "-o", &new], *options].concat(), words);
    }
    for (arguments, words) in [
        (&["plan", c, "--force"][..], &["--save-recipe"][..]),
        (&["plan", c, "--json", "--tensors"], &["cannot be used with"]),
        (&["quantize", c, "-o", &new, "--json", "--quiet"], &["cannot be used with"]),
        (&["quantize", c, "-o", &new, "--ram", "2GB"], &["--size auto"]),
        (&["calibrate", c, "-o", &new, "--text", &words, "--types", "q4_k"], &["--sensitivity"]),
        (&["quantize", c, "-o", &new, "--device", "cpu"], &["--feedback"]),
        (&["calibrate", c, "-o", &new, "--text", &words, "--device-memory", "1GB"], &["--device"]),
        (
            &["calibrate", c, "-o", &new, "--text", &words, "--device", "cpu", "--device-memory", "1GB"],
            &["--device cpu uses none"],
        ),
        (&["evaluate", c, &new, "--text", &words, "--device", "gpu"], &["cuda:N"]),
        (&["inspect", &words, "--json", "--tensors"], &["cannot be used with"]),
        (&["bench", "--blocks", &new], &["--type"]),
        (&["bench", "--blocks", &new, "--type", "q8_0,q4_0"], &["exactly one type"]),
        (&["bench", "--type", "q8_0", "--force"], &["--blocks"]),
        (&["bench", "--cols", "32"], &["--rows"]),
        (&["bench", "--importance", &words], &["--rows"]),
    ] {
        refused(arguments, words);
    }
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
}

#[test]
fn words_of_other_tools_and_slips_are_answered() {
    let checkpoint = fixture("tiny-r1");
    for (arguments, words) in [
        (&["--dry-run"][..], "quantpress plan shows"),
        (&["--tensor-type", "a=b"], "--override 'REGEX=TYPE'"),
        (&["--text", "words.txt"], "--text is the text of --feedback"),
        (&["--context", "4096"], "the KV cache is --ctx-size"),
        (&["--size", "-5MB"], "\"-5MB\" is no size"),
        (&["--recipe", "q6k"], "did you mean q6_k?"),
        (&["--recipe", "ud-iq1s"], "did you mean ud-iq1_s?"),
        (&["--override", "ffn=q4k"], "did you mean Q4_K?"),
        (&["--size", "7MB", "--types", "iq2xxs"], "did you mean IQ2_XXS?"),
        (&["--override", "=q4_k"], "is found in every name"),
        (&["--override", "ffn|=q4_k"], "is found in every name"),
        (&["--pre", "deepseek_v3"], "did you mean deepseek-v3?"),
        (&["--pre", "foo"], "llama.cpp has no pre-tokenizer of this name"),
    ] {
        let stderr = fail(&[&["plan", text(&checkpoint)], arguments].concat(), 2);
        assert!(stderr.contains(words), "\"{words}\" is not in: {stderr}");
    }
    let fit = |more: &[&str]| plan(text(&checkpoint), &[&["--ram", "1GB"], more].concat())["fit"].to_string();
    assert_eq!(fit(&["-c", "1k", "--disk", "500MB/s"]), fit(&["--kv-context", "1024", "--disk", "500MB"]));
    assert_ne!(fit(&["-c", "1k"]), fit(&["-c", "512"]));
    succeed(&["plan", text(&checkpoint), "--override", ".*=q4_k"]);
}

#[test]
fn rules_that_decide_nothing_are_told_of() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let file = folder.path().join("mine.toml");
    let recipe = |rules: &str| {
        let last = "[[rule]]\ntype = \"q8_0\"\nreason = \"all others\"\n";
        fs::write(&file, format!("name = \"mine\"\nfile_type = 7\n{rules}{last}")).expect("written");
    };
    let rule =
        |conditions: &str, kind: &str| format!("[[rule]]\n{conditions}\ntype = \"{kind}\"\nreason = \"r\"\n");
    let arguments = ["plan", text(&checkpoint), "--recipe", text(&file)];
    for (conditions, words) in [
        (
            "name = \"ffn_dwn\"",
            "rule 1 (name = \"ffn_dwn\") matches no tensor; the nearest name is blk.0.ffn_down.weight",
        ),
        ("name = \"blk[.]2[.]atn_q_a\"", "the nearest name is blk.0.attn_q_a.weight"),
        ("name = \"something_else\"", "(name = \"something_else\") matches no tensor"),
        ("layers = \"58-60\"", "rule 1 is for layers that the model does not have; its last one is 4"),
        ("name = \"ffn_down\"\nlayers = \"58\"", "is for layers that the model does not have"),
        ("name = \"ffn_down\"\nrole = \"attention\"", "its conditions exclude each other"),
        ("name = \"attn_norm\"", "llama.cpp computes all that it matches in F32"),
    ] {
        recipe(&rule(conditions, "q4_k"));
        let shown = succeed(&arguments);
        let line = shown.lines().find(|line| line.starts_with("warning   recipe mine: rule 1"));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{conditions}: \"{words}\" is not in:\n{shown}"
        );
        let stderr = fail(&[&arguments[..], &["--strict"]].concat(), 2);
        assert!(stderr.contains(words) && stderr.contains("--strict"), "{stderr}");
    }
    // Also where a size chooses among what the rules leave open.
    recipe(&(rule("name = \"ffn_dwn\"", "q4_k") + &rule("name = \"exps\"", "auto")));
    let sized = [&arguments[..], &["--size", "15MB", "--types", "q4_k,q5_k,q8_0"]].concat();
    assert!(succeed(&sized).contains("rule 1 (name = \"ffn_dwn\") matches no tensor"));
    fail(&[&sized[..], &["--strict"]].concat(), 2);
    // A rule that others leave nothing to.
    recipe(&(rule("name = \"ffn\"", "q4_k") + &rule("name = \"ffn_down\"", "q6_k")));
    assert!(succeed(&arguments).contains("rule 2 (name = \"ffn_down\") has no effect: rules before it"));
    recipe(&rule("name = \"ffn_down\"", "q6_k"));
    let overridden = [&arguments[..], &["--override", "ffn_(down|up)=q5_k"]].concat();
    assert!(
        succeed(&overridden).contains("rule 1 (name = \"ffn_down\") has no effect: --override takes all")
    );
    assert!(
        !succeed(&[&arguments[..], &["--override", "ffn_down_exps=q5_k"]].concat())
            .contains("warning   recipe")
    );
    // What may well come to nothing: presets, rules about importances, shares, and roles that a model lacks.
    recipe(
        &(rule("name = \"ffn_down\"\nimatrix = \"present\"", "q4_k")
            + &rule("name = \"ffn_down\"\nfirst = \"1/16\"", "q4_k")
            + &rule("name = \"ffn_down\"\nlayers = \"first 1/16\"", "q4_k")
            + &rule("role = \"mtp\"", "q4_k")
            + &rule("name = \"ffn_down\"", "q5_k")),
    );
    let shown = succeed(&[&arguments[..], &["--strict"]].concat());
    assert!(!shown.contains("warning   recipe"), "{shown}");
    for preset in presets().iter().map(String::as_str) {
        let shown = succeed(&["plan", text(&checkpoint), "--recipe", preset]);
        assert!(!shown.contains("warning   recipe"), "{preset}: {shown}");
    }
    // An empty pattern takes all, which a rule without a name says.
    recipe(&rule("name = \"\"", "q4_k"));
    assert!(fail(&arguments, 2).contains("is found in every name"));
}

/// The first event of quantize, which has made nothing yet.
/// What changes no weight, because of the types.
#[test]
fn measurements_that_no_type_looks_at_are_told_of() {
    let (checkpoint, imatrix) = (fixture("tiny-r1"), fixture("tiny-r1/imatrix.gguf"));
    let plan = |more: &[&str]| succeed(&[&["plan", text(&checkpoint)], more].concat());
    for recipe in ["bf16", "f16", "q8_0"] {
        let told = plan(&["-r", recipe, "--imatrix", text(&imatrix)]);
        assert!(told.contains("--imatrix has no effect"), "{recipe}: {told}");
    }
    assert!(plan(&["-r", "f16", "--feedback"]).contains("--feedback has no effect"));
    for more in
        [&["-r", "q8_0", "--feedback"][..], &["-r", "f16"], &["-r", "q4_k_m", "--imatrix", text(&imatrix)]]
    {
        assert!(!plan(more).contains("has no effect"), "{more:?}");
    }
    let some = ["-r", "bf16", "--override", "ffn_down_exps=iq2_xxs", "--imatrix", text(&imatrix)];
    assert!(!plan(&some).contains("has no effect"));
    fail(&["plan", text(&checkpoint), "-r", "f16", "--imatrix", text(&imatrix), "--strict"], 2);
}

fn planned(arguments: &[&str]) -> Value {
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
    command.args(["quantize", text(&fixture("tiny-r1")), "-o", text(&output), "--json"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let _ = child.kill();
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {line}\n{stderr}"))
}

#[test]
fn the_same_flags_in_plan_and_quantize_mean_the_same_file() {
    let checkpoint = fixture("tiny-r1");
    let words = text(&fixture("tiny-r1/evaluation.txt")).to_owned();
    let imatrix = text(&fixture("tiny-r1/imatrix.gguf")).to_owned();
    let folder = TempDir::new().expect("a temporary folder");
    let table = text(&folder.path().join("table.json")).to_owned();
    let measured = ["--types", "iq2_xxs,q2_k,q4_k,q8_0", "--sensitivity", &table];
    succeed(&[&["plan", text(&checkpoint), "--size", "9MB", "--imatrix", &imatrix], &measured[..]].concat());
    let sized = |size: &[&'static str]| [size, &["--imatrix", "I"], &measured_flags()].concat();
    // Of each list one, so that all flags meet in some case.
    let types: [Vec<&str>; 9] = [
        vec![],
        vec!["--recipe", "q4_k_m"],
        vec!["--recipe", "ud-q2_k_xl", "--imatrix", "I"],
        vec!["--recipe", "bf16", "--override", "_exps=iq4_nl"],
        vec!["--imatrix", "I", "--override", "ffn_down=q5_0", "--override", "attn=q6_k"],
        sized(&["--size", "9MB"]),
        sized(&["--bpw", "3.5"]),
        sized(&["--size", "auto", "--ram", "1.02GB"]),
        sized(&["--size", "auto", "--ram", "1.02GB", "-c", "300", "--disk", "1GB", "--slowest", "2"]),
    ];
    let files: [&[&str]; 4] = [&[], &["--split", "3"], &["--split", "5MB"], &["--part", "2/3"]];
    let models: [&[&str]; 4] =
        [&[], &["--keep-mtp"], &["--name", "A name of some length"], &["--pre", "joyai-llm"]];
    let feedback: [&[&str]; 4] = [
        &[],
        &["--feedback", "--text", "W"],
        &["--feedback", "--text", "W", "--context", "256"],
        &["--feedback", "--text", "W", "--chunks", "3", "--context", "128"],
    ];
    let mut random = Random(13);
    let mut pick = |length: usize| random.between(0, length as u64 - 1) as usize;
    for round in 0..18 {
        let of_types = &types[if round < types.len() { round } else { pick(types.len()) }];
        let of_feedback = feedback[pick(feedback.len())];
        let mut of_files = files[pick(files.len())];
        // A single part is not made with feedback.
        if !of_feedback.is_empty() && of_files.first() == Some(&"--part") {
            of_files = files[1];
        }
        let mut of_model = models[pick(models.len())];
        // The table has no entry for the layer of multi-token prediction.
        if of_types.contains(&"T") && of_model == ["--keep-mtp"] {
            of_model = models[2];
        }
        let arguments: Vec<&str> = [&of_types[..], of_files, of_model, of_feedback]
            .concat()
            .into_iter()
            .map(|word| match word {
                "I" => &*imatrix,
                "W" => &*words,
                "T" => &*table,
                word => word,
            })
            .collect();
        let (plan, made) = (plan(text(&checkpoint), &arguments), planned(&arguments));
        for field in
            ["headers_sha256", "file_bytes", "tensor_bytes", "types", "groups", "files", "fit", "chosen"]
        {
            assert_eq!(plan[field], made[field], "{field} of {arguments:?}");
        }
        assert!(plan["headers_sha256"].as_array().is_some_and(|list| !list.is_empty()));
    }
}

fn measured_flags() -> [&'static str; 4] {
    ["--types", "iq2_xxs,q2_k,q4_k,q8_0", "--sensitivity", "T"]
}

#[test]
fn a_plan_with_feedback_and_no_text_has_the_files_size() {
    let checkpoint = fixture("tiny-r1");
    let words = text(&fixture("tiny-r1/evaluation.txt")).to_owned();
    let (without, with) = (["--feedback"], ["--feedback", "--text", &words]);
    let [without, with] = [&without[..], &with].map(|arguments| plan(text(&checkpoint), arguments));
    assert_eq!(without["file_bytes"], with["file_bytes"]);
    assert_eq!(without["types"], with["types"]);
    // It would be that of plain quantizing.
    assert!(with.get("estimate").is_none_or(Value::is_null));
    assert_ne!(without["headers_sha256"], with["headers_sha256"]);
    assert!(plan(text(&checkpoint), &[])["file_bytes"].as_u64() < with["file_bytes"].as_u64());
}

#[test]
fn the_file_that_is_made_is_the_one_that_was_planned() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    for arguments in
        [&["--override", "_exps=q4_0", "--name", "A"][..], &["--recipe", "iq4_xs", "--split", "2"]]
    {
        quantize_fixture(folder.path(), "a.gguf", arguments);
        let plan = plan(text(&checkpoint), arguments);
        let headers = plan["headers_sha256"].as_array().expect("a list");
        for (number, header) in headers.iter().enumerate() {
            let name = match headers.len() {
                1 => "a.gguf".to_owned(),
                count => format!("a-{:05}-of-{count:05}.gguf", number + 1),
            };
            let bytes = fs::read(folder.path().join(&name)).expect("read");
            let data = quantpress::gguf::Contents::read(&folder.path().join(&name)).expect("sound").data;
            assert_eq!(*header, crate::support::hex(&bytes[..data as usize]), "{name}");
            let listed = plan["tensor_list"].as_array().expect("a list").iter();
            let listed = listed.filter(|tensor| tensor["file"] == number + 1);
            let manifest = fs::read(folder.path().join(format!("{name}.json"))).expect("read");
            let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
            for (planned, made) in listed.zip(manifest["tensors"].as_array().expect("a list")) {
                for field in ["name", "type", "shape", "bytes", "offset"] {
                    assert_eq!(planned[field], made[field], "{name}: {field}");
                }
            }
        }
    }
}
