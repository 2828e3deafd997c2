//! Signals end long commands with 130 and a word on how to go on; those that were ignored from the start stay
//! ignored. Messages that cannot be written change nothing.
#![cfg(unix)]

#[cfg(target_os = "linux")]
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::interrupted::{hear_signals, signal};
use crate::support::{fixture, text};

/// A command that goes on for hours, and says when it has begun: with its first line on stdout.
const ENDLESS: [&str; 8] = ["bench", "--type", "q8_0", "--threads", "1", "--seconds", "3600", "--json"];

/// Starts the program by way of a shell that first does `before`, and waits for its first line on stdout.
fn begin(before: &str, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    hear_signals();
    let script = format!("{before} exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_quantpress")]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "{:?}", child.wait_with_output());
    (child, stdout)
}

fn ended(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn signals_end_the_work_with_130_and_a_word() {
    // The table's head is there before the first type is measured.
    let endless: Vec<&str> = ENDLESS.into_iter().filter(|word| *word != "--json").collect();
    for name in ["INT", "TERM", "HUP"] {
        let (child, _stdout) = begin("", &endless);
        signal(&child, name);
        let (code, stderr) = ended(child);
        assert_eq!(code, Some(130), "{name}: {stderr}");
        assert_eq!(
            stderr, "quantpress: interrupted; nothing is kept: the same command begins anew\n",
            "{name}"
        );

        let folder = TempDir::new().expect("a temporary folder");
        let output = folder.path().join("out.gguf");
        let checkpoint = fixture("tiny-r1");
        // The plan is the first line.
        let quantize = ["quantize", text(&checkpoint), "-o", text(&output), "--json", "--threads", "1"];
        let (child, _stdout) = begin("", &[&quantize[..], &["--memory", "6MB"]].concat());
        signal(&child, name);
        let (code, stderr) = ended(child);
        assert_eq!(code, Some(130), "{name}: {stderr}");
        assert!(stderr.contains("interrupted"), "{name}: {stderr}");
        assert!(stderr.contains("the same command goes on") || stderr.contains("begins anew"), "{stderr}");
        assert!(!output.exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn signals_that_were_ignored_stay_ignored() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let output = folder.path().join("out.gguf");
    // As nohup does, and as a shell does with SIGINT for a job in the background.
    let quantize = ["quantize", text(&checkpoint), "-o", text(&output), "--json", "--threads", "1"];
    let (child, mut stdout) = begin("trap '' HUP INT;", &quantize);
    for name in ["HUP", "INT", "HUP", "INT"] {
        signal(&child, name);
    }
    let rest = std::io::read_to_string(&mut stdout).expect("read");
    let (code, stderr) = ended(child);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(rest.contains("\"done\"") && output.exists(), "{rest}");
    // The others are still heard.
    let endless: Vec<&str> = ENDLESS.into_iter().filter(|word| *word != "--json").collect();
    let (child, _stdout) = begin("trap '' HUP INT;", &endless);
    signal(&child, "INT");
    signal(&child, "TERM");
    assert_eq!(ended(child).0, Some(130));
}

#[cfg(target_os = "linux")]
#[test]
fn nobody_has_to_hear_what_is_said() {
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    let checkpoint = fixture("tiny-r1");
    let run = |arguments: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
        command.args(arguments).stdout(stdout).stderr(stderr).output().expect("it starts")
    };
    let folder = TempDir::new().expect("a temporary folder");
    let output = folder.path().join("out.gguf");
    let quantize = ["quantize", text(&checkpoint), "-o", text(&output)];
    assert!(run(&quantize, Stdio::null(), full().into()).status.success());
    for arguments in [&["plan", "--nonsense"][..], &["plan", "nowhere"], &[]] {
        assert_eq!(run(arguments, Stdio::null(), full().into()).status.code(), Some(2), "{arguments:?}");
        // Closed altogether.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>&- >&-", env!("CARGO_BIN_EXE_quantpress")]).args(arguments);
        assert_eq!(command.status().expect("sh starts").code(), Some(2), "{arguments:?}");
    }
    // Results are another matter.
    let plan = ["plan", text(&checkpoint), "--json"];
    for arguments in
        [&plan[..], &["--help"], &["--version"], &["plan", "--help"], &["inspect", text(&output)]]
    {
        let found = run(arguments, full().into(), Stdio::piped());
        let stderr = String::from_utf8_lossy(&found.stderr);
        assert_eq!(found.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("cannot write to stdout"), "{arguments:?}: {stderr}");
    }
}
