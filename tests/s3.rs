//! Checkpoints in a bucket of S3, and files that go to one: the bytes of local ones, whatever goes wrong on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::bench::{failed, succeeded};
#[cfg(unix)]
use crate::support::interrupted::SLOWLY;
use crate::support::s3::{BUCKET, S3};
use crate::support::{FAST, fixture, quantize_fixture, text};

/// The program, which knows a bucket of this machine.
struct Bench {
    s3: S3,
    folder: TempDir,
}

impl Bench {
    fn start() -> Option<Self> {
        Some(Self { s3: S3::start()?, folder: TempDir::new().expect("a temporary folder") })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantpress"));
        for name in
            ["AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"]
        {
            command.env_remove(name);
        }
        command
            .env("AWS_ENDPOINT_URL_S3", self.s3.endpoint())
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("NO_PROXY", "127.0.0.1")
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }
}

const FILE: &str = "s3://models/made/a.gguf";

#[test]
fn a_checkpoint_is_read_though_the_line_breaks() {
    let Some(bench) = Bench::start() else { return };
    bench.s3.fill("tiny/R1", &fixture("tiny-r1"));
    let output = bench.at("a.gguf");
    let arguments = ["quantize", "s3://models/tiny/R1", "-o", text(&output), "-r", FAST, "-q"];
    let mut command = bench.command(&arguments);
    command.env("AWS_ENDPOINT_URL_S3", bench.s3.breaking(3, 300_000));
    succeeded(&command.output().expect("it starts"));
    let expected = quantize_fixture(bench.folder.path(), "expected.gguf", &["-r", FAST]);
    assert!(fs::read(&output).expect("read") == fs::read(expected).expect("read"));
    failed(
        &bench.run(&["plan", "s3://models/elsewhere"]),
        1,
        &["s3://models/elsewhere/", "nothing is there"],
    );
    failed(&bench.run(&["plan", "s3://absent/tiny"]), 1, &["s3://absent/tiny", "404"]);
}

#[test]
fn files_go_to_a_bucket() {
    let Some(bench) = Bench::start() else { return };
    let (checkpoint, staging) = (fixture("tiny-r1"), bench.at("staging"));
    fs::create_dir(&staging).expect("a folder");
    let arguments = ["quantize", text(&checkpoint), "-o", FILE, "-r", FAST, "--split", "2"];
    let arguments = [&arguments[..], &["--staging", text(&staging), "--drop"]].concat();
    let (stdout, _) = succeeded(&bench.run(&arguments));
    assert!(stdout.contains("2 files") && stdout.contains("uploaded"), "{stdout}");
    quantize_fixture(bench.folder.path(), "a.gguf", &["-r", FAST, "--split", "2"]);
    for name in ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"] {
        for name in [name.to_owned(), format!("{name}.json")] {
            assert!(
                bench.s3.get(&format!("made/{name}")).expect("it is there")
                    == fs::read(bench.at(&name)).expect("read")
            );
        }
    }
    let card = bench.s3.get("made/README.md").expect("a card");
    assert!(String::from_utf8_lossy(&card).contains("a-00002-of-00002.gguf"));
    assert_eq!(fs::read_dir(&staging).expect("read").count(), 0);
    assert!(!bench.s3.has_unfinished());
    // Nothing is made or sent again, and other work is not lost.
    let (stdout, _) = succeeded(&bench.run(&arguments));
    assert!(stdout.contains("already there"), "{stdout}");
    let other = [
        "quantize",
        text(&checkpoint),
        "-o",
        FILE,
        "-r",
        "q6_k",
        "--split",
        "2",
        "--staging",
        text(&staging),
    ];
    failed(&bench.run(&other), 2, &["s3://models/made/a-00001-of-00002.gguf is there already; --force"]);
}

/// The first run is killed when two of three parts are there.
#[cfg(unix)]
#[test]
fn an_upload_goes_on_with_the_parts_that_are_there() {
    let Some(bench) = Bench::start() else { return };
    let checkpoint = fixture("tiny-r1");
    // F32, which has three parts of 16 MiB.
    let arguments =
        ["quantize", text(&checkpoint), "-o", FILE, "-r", "f32", "--staging", text(bench.folder.path())];
    let run = bench
        .command(&arguments)
        .env("QUANTPRESS_AT", "sent:2:kill")
        .args(SLOWLY)
        .output()
        .expect("it starts");
    assert!(run.status.code().is_none(), "it ended before: {}", String::from_utf8_lossy(&run.stderr));
    assert!(bench.s3.get("made/a.gguf").is_none() && bench.s3.has_unfinished());
    let note = bench.at("a.gguf.upload");
    let begun = fs::read_to_string(&note).expect("what was begun");
    assert!(begun.contains(BUCKET) && begun.contains("made/a.gguf"), "{begun}");
    // One part more at least is sent, and not all three again.
    let run = bench.command(&arguments).env("QUANTPRESS_AT", "sent:2:kill").output().expect("it starts");
    succeeded(&run);
    let made = fs::read(bench.at("a.gguf")).expect("read");
    assert!(bench.s3.get("made/a.gguf").expect("it is there") == made);
    assert!(!note.exists() && !bench.s3.has_unfinished());
    // Killed between manifest and file, and when both are there.
    for (moment, name) in [("put:1", "b.gguf"), ("uploaded:1", "c.gguf")] {
        let output = format!("s3://models/made/{name}");
        let arguments = ["quantize", text(&checkpoint), "-o", &output, "-r", FAST, "--drop", "--staging"];
        let arguments = [&arguments[..], &[text(bench.folder.path())]].concat();
        let run = bench.command(&arguments).env("QUANTPRESS_AT", format!("{moment}:kill")).output();
        assert!(run.expect("it starts").status.code().is_none(), "it ended before {moment}");
        succeeded(&bench.run(&arguments));
        assert!(bench.s3.get(&format!("made/{name}")).is_some() && !bench.at(name).exists());
    }
    let expected = quantize_fixture(Path::new(&bench.at("")), "expected.gguf", &["-r", "f32"]);
    assert!(made == fs::read(expected).expect("read"));
}
