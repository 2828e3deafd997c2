//! Every command of README.md and docs/ runs as it is written there, by a shell, in the order of the document: on the
//! test model in the place of DeepSeek-R1, a hub of this machine, and sizes that fit. `tests/slurm.sh` and
//! `tests/jobs.py` run the jobs of docs/distributed.md.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::llama::bf16;
use crate::support::bench::Bench;
use crate::support::s3::S3;
use crate::support::{fixture, text};

/// What the documents say of R1, and what is as much for a model of 7 MB.
const SIZES: [(&str, &str); 10] = [
    ("--ctx-size 8192", "--ctx-size 1024"),
    ("--split 48GB", "--split 2500KB"),
    ("--size 131GiB", "--size 8MB"),
    ("--chunks 200", "--chunks 2"),
    ("--chunks 96", "--chunks 4"),
    ("--chunks 20 ", "--chunks 1 "),
    ("YOUR-NAME/DeepSeek-R1-GGUF", "deepseek-ai/DeepSeek-R1"),
    ("hf://me/DeepSeek-R1-GGUF", "hf://deepseek-ai/DeepSeek-R1"),
    ("/scratch", "scratch"),
    // Three types are measured, and not all that a size may choose from.
    ("-sensitivity.json", "-sensitivity.json --types q2_k,q4_k,q6_k"),
];

/// What wants a graphics card: where there is none, the command is right if only that is missing.
const CARD: &str = "--device cuda";

/// The shell's lines in the blocks of a document, as far as they are this program's or make folders.
fn commands(document: &str) -> Vec<String> {
    let (mut found, mut is_shell, mut line) = (Vec::new(), None, String::new());
    for text in document.lines() {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            is_shell = if is_shell.is_some() { None } else { Some(language == "sh") };
            continue;
        }
        if is_shell != Some(true) {
            continue;
        }
        line.push_str(text.trim());
        if line.ends_with('\\') {
            line.pop();
            continue;
        }
        let command = std::mem::take(&mut line);
        if command.starts_with("quantpress ") || command.starts_with("mkdir ") {
            found.push(command);
        }
    }
    found
}

/// The command for the test model.
fn smaller(command: &str) -> String {
    let command = format!("{command} ");
    let command = command.replace(" sensitivity.json", " R1-sensitivity.json");
    SIZES.iter().fold(command, |command, (from, to)| command.replace(from, to))
}

/// What a reader of the document has in the folder.
fn lay_out(folder: &Path, document: &str) {
    let link = |to: &Path, name: &str| symlink(to, folder.join(name)).expect("linked");
    link(&fixture("tiny-r1"), "DeepSeek-R1");
    link(&fixture(""), "fixtures");
    for name in ["imatrix.gguf", "R1-imatrix.gguf"] {
        if !document.contains(&format!("-o {name}")) {
            link(&fixture("tiny-r1/imatrix.gguf"), name);
        }
    }
    if document.contains("MODEL-BF16.gguf") {
        link(bf16(), "MODEL-BF16.gguf");
    }
    fs::create_dir(folder.join("scratch")).expect("a folder");
    for (name, of) in
        [("calibration.txt", "calibration"), ("text.txt", "calibration"), ("held-out.txt", "evaluation")]
    {
        let all = fs::read_to_string(fixture(&format!("tiny-r1/{of}.txt"))).expect("read");
        let lines: Vec<&str> = all.lines().take(100).collect();
        fs::write(folder.join(name), lines.join("\n")).expect("written");
    }
}

/// The documents, README.md first.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("docs").map(|file| file.expect("a file").path());
    let mut all: Vec<PathBuf> = docs.filter(|file| file.extension().is_some_and(|end| end == "md")).collect();
    all.sort();
    all.insert(0, root.join("README.md"));
    all
}

#[test]
fn every_command_of_the_documents_runs() {
    let s3 = S3::start();
    let program = Path::new(env!("CARGO_BIN_EXE_quantpress")).parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths([program].into_iter().chain(std::env::split_paths(&path))).expect("names");
    let (mut known, mut ran) = (HashSet::new(), 0);
    for file in documents() {
        let document = fs::read_to_string(&file).expect("read");
        let commands = commands(&document);
        // Some documents begin with the same commands.
        if commands.is_empty() || !known.insert(commands.clone()) {
            continue;
        }
        // A hub for each document, since some write to it.
        let served = TempDir::new().expect("a temporary folder");
        for file in fs::read_dir(fixture("tiny-r1")).expect("read").map(|file| file.expect("a file").path()) {
            symlink(&file, served.path().join(file.file_name().expect("a name"))).expect("linked");
        }
        let bench = Bench::of("deepseek-ai/DeepSeek-R1", served.path());
        let folder = bench.folder.path();
        lay_out(folder, &document);
        for command in commands {
            let [wants_card, is_on_s3] = [CARD, "s3://"].map(|part| command.contains(part));
            let command = smaller(&command);
            let mut shell = bench.shell(&command);
            shell.current_dir(folder).env("PATH", &path).env("HOME", folder);
            match (&s3, is_on_s3) {
                (Some(s3), true) => {
                    shell.env("AWS_ENDPOINT_URL_S3", s3.endpoint());
                    shell.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
                }
                (None, true) => continue,
                (_, false) => {}
            }
            let output = shell.output().expect("a shell");
            let stderr = String::from_utf8_lossy(&output.stderr);
            let is_missed = wants_card && output.status.code() == Some(1);
            assert!(output.status.success() || is_missed, "{}: {command}\n{stderr}", text(&file));
            ran += 1;
        }
    }
    assert!(ran >= 30, "{ran} commands");
}
