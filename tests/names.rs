//! Names of files and strings of others: not UTF-8, too long, or made to fool a terminal.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{fail, fixture, quantize_fixture, quantpress, succeed, text};

#[cfg(unix)]
#[test]
fn names_that_are_no_utf8_are_told_of() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = TempDir::new().expect("a temporary folder");
    let name = |bytes: &[u8]| folder.path().join(OsStr::from_bytes(bytes));
    let last = |arguments: &mut Command| -> Value {
        let run = arguments.output().expect("it starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let stdout = String::from_utf8(run.stdout).expect("JSON is UTF-8");
        serde_json::from_str(stdout.trim().lines().last().expect("a line")).expect("JSON")
    };
    let program = || Command::new(env!("CARGO_BIN_EXE_quantpress"));
    let output = name(b"made-\xff.gguf");
    let done = last(program().arg("quantize").arg(fixture("tiny-r1")).arg("-o").arg(&output).arg("--json"));
    assert!(done["output"].as_str().is_some_and(|name| name.ends_with("made-\u{fffd}.gguf")), "{done}");
    assert!(done["manifests"][0].as_str().is_some_and(|name| name.ends_with("made-\u{fffd}.gguf.json")));
    assert!(output.exists());
    let mut calibrate = program();
    calibrate.arg("calibrate").arg(fixture("tiny-r1")).arg("--text").arg(fixture("tiny-r1/evaluation.txt"));
    calibrate.args(["--chunks", "1", "--context", "64", "--quiet", "--json", "-o"]).arg(name(b"i\xff.gguf"));
    assert!(last(&mut calibrate)["output"].as_str().is_some_and(|name| name.ends_with("i\u{fffd}.gguf")));
}

#[cfg(unix)]
#[test]
fn names_are_measured_before_the_work() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let named = |length: usize| folder.path().join(format!("{}.gguf", "x".repeat(length - 5)));
    // `.feedback` has nine bytes.
    for length in [247, 250, 255] {
        let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&named(length)), "--quiet"], 2);
        assert!(stderr.contains("the name is too long"), "{stderr}");
    }
    // The number of a split file has fifteen more.
    let stderr =
        fail(&["quantize", text(&checkpoint), "-o", text(&named(232)), "--split", "2", "--quiet"], 2);
    assert!(stderr.contains("the name is too long"), "{stderr}");
    let words = fixture("tiny-r1/evaluation.txt");
    fail(&["calibrate", text(&checkpoint), "--text", text(&words), "-o", text(&named(244))], 2);
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "nothing was made");
    quantize_fixture(folder.path(), text(&named(246)), &[]);
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 2, "a file and its manifest");
}

/// What a terminal would act on, or take for a line of the program.
const NAME: &str = "x\npass: all is well\u{1b}[2K\u{9b}1A\u{202e}";

fn harmless(shown: &[u8]) {
    let shown = String::from_utf8_lossy(shown);
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");
    assert!(!shown.lines().any(|line| line.starts_with("pass: all is well")), "{shown:?}");
    assert!(shown.contains("\\npass: all is well"), "{shown:?}");
}

#[test]
fn strings_of_files_cannot_act_on_the_terminal() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--name", NAME]);
    harmless(succeed(&["inspect", text(&file)]).as_bytes());
    // The key itself, and a tensor's name, of the same length each.
    let replaced = |old: &str, new: &str| {
        assert_eq!(old.len(), new.len());
        let mut bytes = fs::read(&file).expect("read");
        let at = bytes.windows(old.len()).position(|found| found == old.as_bytes()).expect("it is there");
        bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
        let path = folder.path().join("b.gguf");
        fs::write(&path, bytes).expect("written");
        path
    };
    let odd = replaced("quantpress.source.sha256", "x\npass: all is well\u{1b}[2Km");
    harmless(succeed(&["inspect", text(&odd)]).as_bytes());
    let odd = replaced("blk.1.ffn_gate_shexp.weight", "x\npass: all is well\u{1b}[2K....");
    harmless(succeed(&["inspect", text(&odd), "--tensors"]).as_bytes());
}

#[cfg(unix)]
#[test]
fn names_of_files_cannot_act_on_the_terminal() {
    let folder = TempDir::new().expect("a temporary folder");
    let odd = folder.path().join(NAME);
    let checkpoint = fixture("tiny-r1");
    for arguments in [
        &["inspect", text(&odd)][..],
        &["report", text(&odd)],
        &["plan", text(&odd)],
        &["plan", text(&checkpoint), "--imatrix", text(&odd)],
        &["plan", text(&checkpoint), "--recipe", text(&odd)],
    ] {
        let run = quantpress(arguments);
        assert!(!run.status.success());
        harmless(&run.stderr);
    }
    let made = quantpress(&["quantize", text(&checkpoint), "-o", text(&odd)]);
    assert!(made.status.success());
    harmless(&made.stdout);
    // A recipe's own words.
    let recipe = folder.path().join("r.toml");
    let quoted = NAME.escape_unicode();
    let quoted: String = quoted.to_string().replace("\\u{", "\\U").replace('}', " ");
    let quoted: String = quoted.split_whitespace().map(|c| format!("\\U{:0>8}", &c[2..])).collect();
    let rules =
        format!("name = \"{quoted}\"\nfile_type = 7\n[[rule]]\ntype = \"q8_0\"\nreason = \"{quoted}\"\n");
    fs::write(&recipe, rules).expect("written");
    harmless(succeed(&["plan", text(&checkpoint), "-r", text(&recipe), "--tensors"]).as_bytes());
}

#[test]
fn a_header_that_nobody_reads_is_refused_before_the_work() {
    let copy = crate::support::checkpoint::Copy::new();
    copy.write("chat_template.jinja", &vec![b'a'; 64 << 20]);
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    for arguments in [&["plan", text(copy.path())][..], &["quantize", text(copy.path()), "-o", text(&output)]]
    {
        let stderr = fail(arguments, 4);
        assert!(stderr.contains("the header would have 6"), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
}
