//! No output replaces an input, another output, or a file that is there, by whatever name.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::checkpoint::Copy;
use crate::support::{fail, fixture, hex, quantize_fixture, quantpress, succeed, text};

/// SHA-256 of every file below a folder, links followed.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => all.push((path.clone(), fs::read(&path).map_or("gone".into(), |bytes| hex(&bytes)))),
        }
    }
    all.sort();
    all
}

#[test]
fn no_file_of_the_checkpoint_is_an_output() {
    let copy = Copy::new();
    copy.write("README.md", b"a card");
    fs::create_dir(copy.file("inference")).expect("a folder");
    fs::write(copy.file("inference/model.py"), "import torch").expect("written");
    let words = fixture("tiny-r1/evaluation.txt");
    let outside = TempDir::new().expect("a temporary folder");
    let before = contents(copy.path());
    let files: Vec<&PathBuf> = before
        .iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_none_or(|e| e != "gguf" && e != "dat"))
        .collect();
    assert!(files.len() > 10, "{files:?}");
    let refused = |output: &Path| {
        for force in [&[][..], &["--force"]] {
            let quantize = ["quantize", text(copy.path()), "-o", text(output)];
            let stderr = fail(&[&quantize[..], force].concat(), 2);
            assert!(stderr.contains("is the file that the checkpoint has"), "{stderr}");
        }
        let calibrate =
            ["calibrate", text(copy.path()), "--text", text(&words), "-o", text(output), "--force"];
        fail(&calibrate, 2);
        let table = outside.path().join("im.gguf");
        let arguments =
            ["calibrate", text(copy.path()), "--text", text(&words), "-o", text(&table), "--force"];
        fail(&[&arguments[..], &["--sensitivity", text(output)]].concat(), 2);
        let plan = ["plan", text(copy.path()), "--size", "7MB", "--save-recipe", text(output), "--force"];
        fail(&plan, 2);
    };
    for file in files {
        refused(file);
    }
    // By other spellings, links and hard links.
    let shard = copy.shard_of("model.norm.weight");
    let real = copy.file(&shard).canonicalize().expect("a shard");
    copy.remove(&shard);
    fs::copy(&real, copy.file(&shard)).expect("a copy");
    refused(&copy.path().join("inference/..").join(&shard));
    let [hard, soft, far] = ["hard", "soft", "far"].map(|name| outside.path().join(name));
    if fs::hard_link(copy.file(&shard), &hard).is_ok() {
        refused(&hard);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(copy.file(&shard), &soft).expect("a link");
        std::os::unix::fs::symlink(&soft, &far).expect("a link");
        refused(&soft);
        refused(&far);
    }
    let _ = (soft, far);
    assert_eq!(contents(copy.path()), before);
}

#[test]
fn what_a_command_reads_it_does_not_write() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let checkpoint = fixture("tiny-r1");
    let [matrix, words, recipe, manifest] = ["m.gguf", "words.txt", "r.toml", "q.gguf.json"].map(file);
    fs::copy(fixture("tiny-r1/imatrix.gguf"), &matrix).expect("copied");
    fs::copy(fixture("tiny-r1/evaluation.txt"), &words).expect("copied");
    fs::write(&recipe, "name = \"m\"\nfile_type = 7\n[[rule]]\ntype = \"auto\"\nreason = \"r\"\n")
        .expect("written");
    quantize_fixture(folder.path(), "q.gguf", &[]);
    let events = file("events.json");
    fs::write(&events, "{}").expect("written");
    let (beside, begun) = (file("o.gguf.json"), file("p.gguf.part"));
    fs::copy(&matrix, &beside).expect("copied");
    fs::copy(&matrix, &begun).expect("copied");
    let table = file("table.json");
    succeed(&["plan", text(&checkpoint), "--size", "7MB", "--sensitivity", text(&table)]);
    let before = contents(folder.path());

    let [of_beside, of_begun] = [&beside, &begun].map(|path| path.with_extension(""));
    let c = text(&checkpoint);
    let new = text(&file("new")).to_owned();
    let absent = text(&file("new-00002-of-00003.gguf")).to_owned();
    let sized = ["--size", "9MB", "--types", "q2_k,q4_k,q8_0"];
    let cases: Vec<Vec<&str>> = vec![
        vec!["quantize", c, "--imatrix", text(&matrix), "-o", text(&matrix)],
        // The manifest's name, and that of the unfinished file.
        vec!["quantize", c, "--imatrix", text(&beside), "-o", text(&of_beside)],
        vec!["quantize", c, "--imatrix", text(&begun), "-o", text(&of_begun)],
        vec!["quantize", c, "-r", text(&recipe), "--size", "7MB", "-o", text(&recipe)],
        vec!["quantize", c, "--feedback", "--text", text(&words), "-o", text(&words)],
        vec!["quantize", c, "--size", "7MB", "--sensitivity", text(&table), "-o", text(&table)],
        [&["quantize", c, "-o", &new, "--save-recipe", &new], &sized[..]].concat(),
        [&["quantize", c, "-o", &new, "--sensitivity", &new], &sized[..]].concat(),
        [&["quantize", c, "-o", &new, "--split", "3", "--save-recipe", &absent], &sized[..]].concat(),
        [&["quantize", c, "-o", &new, "--part", "2/3", "--save-recipe", &absent], &sized[..]].concat(),
        vec!["plan", c, "--size", "7MB", "-r", text(&recipe), "--save-recipe", text(&recipe)],
        vec!["plan", c, "--size", "7MB", "--imatrix", text(&matrix), "--save-recipe", text(&matrix)],
        vec!["plan", c, "--size", "7MB", "--sensitivity", text(&table), "--save-recipe", text(&table)],
        vec!["plan", c, "--size", "7MB", "--sensitivity", &new, "--save-recipe", &new],
        vec!["calibrate", c, "--text", text(&words), "-o", text(&words)],
        vec!["calibrate", c, "--text", text(&words), "-o", &new, "--sensitivity", &new],
        vec!["calibrate", c, "--text", text(&words), "-o", &new, "--sensitivity", text(&words)],
        vec!["report", text(&manifest), "-o", text(&manifest)],
        vec!["report", text(&manifest), "--events", text(&events), "-o", text(&events)],
        vec!["report", text(&manifest), "--certificate", text(&events), "-o", text(&events)],
        vec!["bench", "--type", "q8_0", "--rows", text(&words), "--cols", "32", "--blocks", text(&words)],
    ];
    for case in cases {
        let forced = [&case[..], &["--force"]].concat();
        for arguments in [&case, &forced] {
            let stderr = fail(arguments, 2);
            assert!(stderr.contains("is the file that"), "{arguments:?}: {stderr}");
            // A recipe or table that is made on the way is found out when the names of the split are known.
            assert!(!Path::new(&new).exists() && !Path::new(&absent).exists(), "{arguments:?}");
        }
    }
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn files_that_are_there_are_replaced_by_force_alone() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let file = quantize_fixture(folder.path(), "q.gguf", &[]);
    let manifest = format!("{}.json", text(&file));
    let [page, recipe, blocks] = ["page.html", "saved.toml", "blocks"].map(|name| folder.path().join(name));
    let sized =
        |size| ["plan", text(&checkpoint), "--bpw", size, "--types", "q4_k,q5_k,q8_0", "--save-recipe"];
    let bench = ["bench", "--type", "q8_0", "--seconds", "0", "--threads", "1", "--json", "--blocks"];
    for (arguments, path) in [
        (vec!["report", &manifest, "-o", text(&page)], &page),
        ([&sized("4.6")[..], &[text(&recipe)]].concat(), &recipe),
        ([&bench[..], &[text(&blocks)]].concat(), &blocks),
    ] {
        fs::write(path, "precious").expect("written");
        let stderr = fail(&arguments, 2);
        assert!(stderr.contains("is there already; --force replaces it"), "{stderr}");
        assert_eq!(fs::read_to_string(path).expect("read"), "precious", "{arguments:?}");
        succeed(&[&arguments[..], &["--force"]].concat());
        assert_ne!(fs::read(path).expect("read"), b"precious", "{arguments:?}");
    }
    // The same page and the same recipe are made already; others are not.
    let modified = |path: &Path| path.metadata().and_then(|found| found.modified()).expect("a time");
    let before = [modified(&page), modified(&recipe)];
    assert!(succeed(&["report", &manifest, "-o", text(&page)]).contains("already made"));
    succeed(&[&sized("4.6")[..], &[text(&recipe)]].concat());
    assert_eq!([modified(&page), modified(&recipe)], before);
    fail(&[&sized("4.8")[..], &[text(&recipe)]].concat(), 2);
    assert_eq!(modified(&recipe), before[1]);
    // Without -o it is the same rule.
    let here = |page: &str| {
        fs::write(folder.path().join("report.html"), page).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quantpress"));
        command.args(["report", &manifest]).current_dir(folder.path()).output().expect("it starts")
    };
    assert_eq!(here("another model's").status.code(), Some(2));
    assert!(here(&fs::read_to_string(&page).expect("read")).status.success());
    // A manifest that stayed behind may be replaced by one, and nothing else that has its name.
    fs::remove_file(&file).expect("removed");
    succeed(&["quantize", text(&checkpoint), "-o", text(&file), "--quiet"]);
    fs::remove_file(&file).expect("removed");
    fs::write(&manifest, "{\"my\": \"notes\"}").expect("written");
    let stderr = fail(&["quantize", text(&checkpoint), "-o", text(&file)], 2);
    assert!(stderr.contains("q.gguf.json is there already"), "{stderr}");
    assert!(Path::new(&manifest).exists() && !file.exists());
}

#[test]
fn folders_where_files_are_to_be_are_found_before_the_work() {
    let folder = TempDir::new().expect("a temporary folder");
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let [single, split] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    let new = format!("{}/new/", text(folder.path()));
    for name in ["a.gguf.json", "b-00002-of-00002.gguf.json"] {
        fs::create_dir(folder.path().join(name)).expect("created");
    }
    let quantize = |output| ["quantize", text(&checkpoint), "--force", "-o", output];
    let calibrate =
        |output| ["calibrate", text(&checkpoint), "--text", text(&words), "--force", "-o", output];
    for (arguments, problem) in [
        (quantize(text(&single)).to_vec(), "a.gguf.json is a folder"),
        (calibrate(text(&single)).to_vec(), "a.gguf.json is a folder"),
        ([&quantize(text(&split))[..], &["--split", "2"]].concat(), "b-00002-of-00002.gguf.json is a folder"),
        (quantize(&new).to_vec(), "new/: ends as a folder's name"),
        (calibrate(&new).to_vec(), "new/: ends as a folder's name"),
    ] {
        let stderr = fail(&arguments, 2);
        assert!(stderr.contains(problem), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 2);
}

#[test]
fn a_report_does_not_take_the_place_of_what_it_is_of() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "q.gguf", &["-r", "q8_0"]);
    let before = fs::read(&file).expect("read");
    let manifest = format!("{}.json", text(&file));
    let [other, link] = ["other.json", "link.html"].map(|name| folder.path().join(name));
    fs::copy(&manifest, &other).expect("copied");
    fs::hard_link(&file, &link).expect("a link");
    for (manifest, page) in [(manifest.as_str(), &file), (text(&other), &file), (&manifest, &link)] {
        let stderr = fail(&["report", manifest, "-o", text(page), "--force"], 2);
        assert!(stderr.contains("the file that the manifest describes"), "{stderr}");
    }
    assert!(fs::read(&file).expect("read") == before);
}

#[test]
fn a_table_of_sensitivities_is_read_and_never_replaced() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let words = fixture("tiny-r1/evaluation.txt");
    let [table, output] = ["notes.json", "im.gguf"].map(|name| folder.path().join(name));
    fs::write(&table, "{\"my\": \"notes\"}").expect("written");
    fail(&["plan", text(&checkpoint), "--size", "7MB", "--sensitivity", text(&table)], 2);
    let calibrate = ["calibrate", text(&checkpoint), "--text", text(&words), "-o", text(&output)];
    let stderr = fail(&[&calibrate[..], &["--sensitivity", text(&table)]].concat(), 2);
    assert!(stderr.contains("notes.json: is there already"), "{stderr}");
    // Beside a finished matrix it may be of the same work, but this one is not.
    fs::copy(fixture("tiny-r1/imatrix.gguf"), &output).expect("copied");
    let stderr = fail(&[&calibrate[..], &["--sensitivity", text(&table)]].concat(), 2);
    assert!(stderr.contains("is no table of"), "{stderr}");
    assert_eq!(fs::read_to_string(&table).expect("read"), "{\"my\": \"notes\"}");
}

#[cfg(unix)]
#[test]
fn devices_and_links_to_nothing_are_no_outputs() {
    use std::os::unix::fs::symlink;
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "q.gguf", &[]);
    let manifest = format!("{}.json", text(&file));
    let link = |name: &str, target: &str| {
        let link = folder.path().join(name);
        symlink(target, &link).expect("a link");
        text(&link).to_owned()
    };
    let [out, null, nothing] =
        [link("out", "/dev/stdout"), link("null", "/dev/null"), link("nothing", "not-there")];
    let pipe = text(&folder.path().join("pipe")).to_owned();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let checkpoint = fixture("tiny-r1");
    for output in [&*out, &*null, &*pipe, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"] {
        for command in [&["quantize", text(&checkpoint)][..], &["report", &manifest]] {
            // Stdout is a file, so that what /dev/stdout leads to is one too.
            let stdout = fs::File::create(folder.path().join("stdout")).expect("a file");
            let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_quantpress"));
            let run = run.args(command).args(["-o", output, "--force"]).stdout(stdout);
            let found = run.output().expect("it starts");
            let stderr = String::from_utf8_lossy(&found.stderr);
            assert_eq!(found.status.code(), Some(2), "{output}: {stderr}");
            assert!(stderr.contains("is no regular file and will not be replaced"), "{output}: {stderr}");
        }
    }
    let stderr = fail(&["report", &manifest, "-o", &nothing], 2);
    assert!(stderr.contains("is a link to a file that is not there"), "{stderr}");
    succeed(&["report", &manifest, "-o", &nothing, "--force"]);
    assert!(!folder.path().join("not-there").exists());
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_read() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = quantize_fixture(folder.path(), "q.gguf", &[]);
    let manifest = format!("{}.json", text(&file));
    let pipe = text(&folder.path().join("pipe")).to_owned();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let endless = text(&folder.path().join("endless")).to_owned();
    std::os::unix::fs::symlink("/dev/zero", &endless).expect("a link");
    let checkpoint = fixture("tiny-r1");
    let c = text(&checkpoint);
    for odd in [&*pipe, &*endless] {
        for arguments in [
            &["report", odd][..],
            &["report", &manifest, "--events", odd],
            &["plan", c, "-r", odd],
            &["plan", c, "--imatrix", odd],
            &["plan", c, "--size", "7MB", "--sensitivity", odd],
            &["bench", "--rows", odd, "--cols", "32"],
            &["inspect", odd],
        ] {
            let run = quantpress(arguments);
            let stderr = String::from_utf8_lossy(&run.stderr);
            assert!(matches!(run.status.code(), Some(2 | 3)), "{arguments:?}: {stderr}");
            assert!(stderr.contains("is no regular file"), "{arguments:?}: {stderr}");
        }
    }
}
