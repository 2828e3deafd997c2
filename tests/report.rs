//! The report: one page that loads nothing, has the file's figures, and lets no name become markup.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::interrupted::beside;
use crate::support::{fail, fixture, quantize_fixture, succeed, text};

/// The page of these files.
fn report(folder: &Path, arguments: &[&str]) -> String {
    let page = folder.join("report.html");
    let mut all = vec!["report", "-o", text(&page), "--force"];
    all.extend(arguments);
    succeed(&all);
    fs::read_to_string(&page).expect("the page")
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("written");
}

fn has(page: &str, words: &[&str]) {
    for word in words {
        assert!(page.contains(word), "\"{word}\" is not in the page");
    }
}

/// Everything by which a page can load or run something is absent, and forbidden besides.
fn loads_nothing(page: &str) {
    let page = page.to_lowercase();
    for way in [
        "http:", "https:", "//", "src=", "href", "url(", "@import", "<script", "<link", "<iframe", "<object",
        "<img",
    ] {
        assert!(!page.contains(way), "\"{way}\" is in the page");
    }
    has(&page, &["content=\"default-src 'none'; style-src 'unsafe-inline'\"", "prefers-color-scheme: dark"]);
}

/// A manifest of one small tensor.
fn small() -> Value {
    json!({
        "file": "small.gguf", "bytes": 1000, "sha256": "00", "architecture": "deepseek2",
        "recipe": {"name": "mine", "overrides": []}, "source": {"sha256": "11"}, "imatrix": null,
        "tensors": [{
            "name": "blk.0.ffn_down.weight", "role": "dense-ffn", "type": "Q8_0", "shape": [32, 2], "bytes": 68,
            "relative_error": 0.001, "reason": "why not",
        }],
    })
}

#[test]
fn a_manifests_page_has_its_figures_and_loads_nothing() {
    let folder = TempDir::new().expect("a temporary folder");
    let imatrix = fixture("tiny-r1/imatrix.gguf");
    let file = quantize_fixture(folder.path(), "a.gguf", &["--imatrix", text(&imatrix)]);
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(beside(&file, ".json")).expect("read")).expect("JSON");
    let page = report(folder.path(), &[text(&beside(&file, ".json"))]);
    loads_nothing(&page);
    let sha256 = manifest["sha256"].as_str().expect("a digest");
    has(&page, &[sha256, "a.gguf", "ud-iq1_s", "6.64 MB (6.33 MiB)"]);
    has(&page, &["Size by role", "Bits per weight by layer", "Error by tensor", "Error by expert"]);
    // All tensors are listed; of their errors all that are not zero are dots.
    let tensors = manifest["tensors"].as_array().expect("tensors");
    for tensor in tensors {
        has(&page, &[&format!("<td>{}</td>", tensor["name"].as_str().expect("a name"))]);
    }
    let wrong = tensors.iter().filter(|tensor| tensor["relative_error"].as_f64() > Some(0.0)).count();
    assert!(wrong > 40 && page.matches(", error ").count() == wrong, "{wrong} tensors with errors");
    assert!(!page.contains("feedback"));
    // The worst expert of a tensor is in the table with its error.
    let worst = |tensor: &Value| {
        let errors = tensor["expert_errors"].as_array()?;
        let mut errors: Vec<f64> = errors.iter().filter_map(Value::as_f64).collect();
        errors.sort_by(f64::total_cmp);
        Some((errors[errors.len() - 1] / errors[errors.len() / 2], errors[errors.len() - 1]))
    };
    let (ratio, error) =
        tensors.iter().filter_map(worst).max_by(|a, b| a.0.total_cmp(&b.0)).expect("experts");
    has(&page, &[&format!("<td class=\"n\">{error:.3e}</td><td class=\"n\">{ratio:.3}</td>")]);
    // Neither a run nor a trade-off was given.
    assert!(!page.contains("Where the time went") && !page.contains("Trade-off"));
    // What a file with feedback has besides.
    manifest["feedback"] = json!({"sha256": "ab12"});
    write(&beside(&file, ".json"), &manifest);
    let page = report(folder.path(), &[text(&beside(&file, ".json"))]);
    has(&page, &["<dt>text of the error feedback</dt><dd>SHA-256 ab12</dd>"]);
}

#[test]
fn a_plans_page_has_its_estimate_and_warnings() {
    let folder = TempDir::new().expect("a temporary folder");
    let checkpoint = fixture("tiny-r1");
    let plan = succeed(&["plan", text(&checkpoint), "--ram", "2GB", "--json"]);
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let file = folder.path().join("plan.json");
    write(&file, &plan);
    let page = report(folder.path(), &[text(&file)]);
    loads_nothing(&page);
    let warning = plan["warnings"][0].as_str().expect("a warning without a matrix");
    has(
        &page,
        &["<h1>deepseek2</h1>", warning, "Where the time will go", "Types by role", "which do not fit"],
    );
    has(&page, &["On this machine", "<dt>run</dt><dd><code>llama-server -m MODEL.gguf -c 1024</code></dd>"]);
    assert!(!page.contains("Error by tensor") && !page.contains("Trade-off"));

    // The curve and the choice are drawn when the plan has them.
    let mut plan = plan;
    plan["tradeoff"] = json!([{"bytes": 5_000_000, "damage": 0.5}, {"bytes": 9_000_000, "damage": 0.002}]);
    plan["chosen"] = json!({"bytes": 7_000_000, "damage": 0.03});
    plan["name"] = json!("Tiny & R1");
    write(&file, &plan);
    let page = report(folder.path(), &[text(&file)]);
    loads_nothing(&page);
    has(
        &page,
        &[
            "<h1>Tiny &amp; R1</h1>",
            "Trade-off of size and damage",
            "chosen: 7.00 MB (6.68 MiB), damage 3.0000e-2",
        ],
    );
    assert_eq!(page.matches("<polyline points=").count(), 1);
}

#[test]
fn a_runs_events_tell_where_the_time_went() {
    let folder = TempDir::new().expect("a temporary folder");
    let (output, events) = (folder.path().join("a.gguf"), folder.path().join("events"));
    let checkpoint = fixture("tiny-r1");
    let said = succeed(&["quantize", text(&checkpoint), "-o", text(&output), "--recipe", "q8_0", "--json"]);
    fs::write(&events, &said).expect("written");
    let manifest = beside(&output, ".json");
    let page = report(folder.path(), &[text(&manifest), "--events", text(&events)]);
    loads_nothing(&page);
    let done: Value = serde_json::from_str(said.lines().last().expect("events")).expect("JSON");
    let busy = format!("{:.0} % busy", done["busy"]["read"].as_f64().expect("a share") * 100.0);
    has(
        &page,
        &["Where the time went", &busy, &format!("limited by {}", done["limit"].as_str().expect("a stage"))],
    );
    // A run that did not finish, and what is no run.
    for (text_of, words) in
        [("{\"event\": \"started\"}\n", "did not finish"), ("no event", "line 1 is no event")]
    {
        fs::write(&events, text_of).expect("written");
        let stderr = fail(&["report", text(&manifest), "--events", text(&events), "-o", text(&output)], 2);
        assert!(stderr.contains(words), "{stderr}");
    }
    let mut done = done;
    let mut with = |digests: Value| {
        done["files_sha256"] = digests;
        fs::write(&events, done.to_string()).expect("written");
    };
    let made: Value = serde_json::from_slice(&fs::read(&manifest).expect("read")).expect("JSON");
    with(json!([made["sha256"]]));
    report(folder.path(), &[text(&manifest), "--events", text(&events)]);
    with(json!(["ab"]));
    let stderr = fail(&["report", text(&manifest), "--events", text(&events), "-o", text(&output)], 2);
    assert!(stderr.contains("is of another file"), "{stderr}");
}

#[test]
fn a_certificate_tells_how_far_the_file_is_from_the_checkpoint() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q4_k_m"]);
    let (checkpoint, words) = (fixture("tiny-r1"), fixture("tiny-r1/evaluation.txt"));
    let said = succeed(&[
        "evaluate",
        text(&checkpoint),
        text(&output),
        "--text",
        text(&words),
        "--context",
        "64",
        "--chunks",
        "2",
        "--quiet",
        "--json",
    ]);
    let (certificate, manifest) = (folder.path().join("certificate.json"), beside(&output, ".json"));
    fs::write(&certificate, &said).expect("written");
    let page = report(folder.path(), &[text(&manifest), "--certificate", text(&certificate)]);
    loads_nothing(&page);
    let found: Value = serde_json::from_str(&said).expect("JSON");
    let number = |value: &Value| value.as_f64().expect("a number");
    let mean = format!("mean {:.5}", number(&found["kl_mean"]));
    let last = format!("layer 4: {:.5}", number(&found["layers"][4]["error"]));
    has(
        &page,
        &["Against the checkpoint on a text", "Error after each layer", "64 tokens scored", &mean, &last],
    );
    // What is no certificate, one whose layers are out of order, of another file, and of none.
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut other = found.clone();
        change(&mut other);
        other.to_string()
    };
    let digest = &found["files_sha256"][0];
    for (text_of, words) in [
        ("{}".to_owned(), "is no output of evaluate --json"),
        (changed(&|other| other["layers"][1]["layer"] = json!(7)), "impossible figures"),
        (changed(&|other| other["files_sha256"] = json!(["ab"])), "is of another file: its SHA-256 is ab"),
        (changed(&|other| other["files_sha256"] = json!([digest, "ab"])), "is of another file"),
        (changed(&|other| other["files_sha256"] = json!([])), "is not among them"),
        (
            changed(&|other| drop(other.as_object_mut().expect("an object").remove("files_sha256"))),
            "of which file",
        ),
    ] {
        fs::write(&certificate, text_of).expect("written");
        let arguments = ["report", text(&manifest), "--certificate", text(&certificate), "-o", text(&output)];
        let stderr = fail(&arguments, 2);
        assert!(stderr.contains(words), "{stderr}");
    }
    // A plan is no file yet.
    let plan = folder.path().join("plan.json");
    fs::write(&plan, succeed(&["plan", text(&checkpoint), "--json"])).expect("written");
    fs::write(&certificate, &said).expect("written");
    let page = folder.path().join("page.html");
    let arguments = ["report", text(&plan), "--certificate", text(&certificate), "-o", text(&page)];
    assert!(fail(&arguments, 2).contains("a plan is none"));
}

#[test]
fn the_files_of_a_split_are_one_page() {
    let folder = TempDir::new().expect("a temporary folder");
    let whole = quantize_fixture(folder.path(), "a.gguf", &["--recipe", "q8_0"]);
    quantize_fixture(folder.path(), "b.gguf", &["--recipe", "q8_0", "--split", "2"]);
    let part = |number: u32| folder.path().join(format!("b-0000{number}-of-00002.gguf.json"));
    let [one, two] = [part(1), part(2)];
    let page = report(folder.path(), &[text(&one), text(&two)]);
    let alone = report(folder.path(), &[text(&beside(&whole, ".json"))]);
    // The drawings know tensors only, which are the same; the lists of facts differ.
    let drawings = |page: &str| page[page.find("<section>").expect("a figure")..].to_owned();
    assert_eq!(drawings(&page), drawings(&alone));
    let stderr = fail(&["report", text(&one), text(&beside(&whole, ".json")), text(&two)], 3);
    assert!(stderr.contains("a.gguf.json: lists tensor") || stderr.contains("twice"), "{stderr}");
    let other = quantize_fixture(folder.path(), "c.gguf", &["--recipe", "q6_k"]);
    let stderr = fail(&["report", text(&one), text(&beside(&other, ".json"))], 3);
    assert!(stderr.contains("c.gguf.json: is not of the same split"), "{stderr}");
}

#[test]
fn names_cannot_become_markup() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("manifest.json");
    let hostile = "\"><script>alert('1')</script><img src=x onerror=y>&\u{202e}\u{0}";
    let mut manifest = small();
    for path in ["/file", "/sha256", "/architecture", "/recipe/name", "/source/sha256", "/tensors/0/reason"] {
        *manifest.pointer_mut(path).expect("a field") = hostile.into();
    }
    manifest["recipe"]["overrides"] = json!([hostile]);
    manifest["imatrix"] = json!({"sha256": hostile});
    // The name is a label, a tip, a cell; its class labels a chart.
    manifest["tensors"][0]["name"] = format!("blk.0.{hostile}").into();
    manifest["tensors"][0]["role"] = "experts".into();
    manifest["tensors"][0]["expert_errors"] = json!([0.1, 0.2]);
    manifest["bytes"] = 100.into();
    write(&file, &manifest);
    let page = report(folder.path(), &[text(&file)]);
    for danger in ["<script", "<img", "'1'", "\u{202e}", "\u{0}"] {
        assert!(!page.contains(danger), "{danger:?} is in the page");
    }
    let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;img src=x onerror=y&gt;&amp;\\u{202e}\\u{0}";
    // Heading, title, facts and charts: as often as it was put in, and more.
    assert!(page.matches(escaped).count() >= 12, "{}", page.matches(escaped).count());

    let checkpoint = fixture("tiny-r1");
    let plan = succeed(&["plan", text(&checkpoint), "--ram", "2GB", "--json"]);
    let mut plan: Value = serde_json::from_str(&plan).expect("JSON");
    plan["warnings"] = json!([hostile]);
    let fallback = json!({"class": hostile, "columns": 1, "wanted": hostile, "type": hostile, "tensors": 1});
    plan["fallbacks"] = json!([fallback]);
    plan["estimate"]["mw_per_s"] = json!({hostile: 1.0, "Q4_K": 2.0});
    plan["fit"]["command"] = hostile.into();
    write(&file, &plan);
    let page = report(folder.path(), &[text(&file)]);
    assert!(!page.contains("<script") && !page.contains("<img") && page.matches(escaped).count() == 5);
}

#[test]
fn a_named_size_is_shown_on_its_curve() {
    let folder = TempDir::new().expect("a temporary folder");
    let table = folder.path().join("table.json");
    let size = ["--size", "7MB", "--sensitivity", text(&table)];
    let split = [&size[..], &["--split", "2"]].concat();
    let first = quantize_fixture(folder.path(), "a.gguf", &split).with_file_name("a-00001-of-00002.gguf");
    let second = first.with_file_name("a-00002-of-00002.gguf");
    let plan = folder.path().join("plan.json");
    let checkpoint = fixture("tiny-r1");
    let planned = succeed(&[&["plan", text(&checkpoint), "--json"], &split[..]].concat());
    fs::write(&plan, &planned).expect("written");
    let planned: Value = serde_json::from_str(&planned).expect("JSON");
    let points = planned["tradeoff"].as_array().expect("a curve").len();
    let manifests = [&first, &second].map(|file| beside(file, ".json"));
    for files in [vec![text(&plan)], manifests.iter().map(|file| text(file)).collect()] {
        let page = report(folder.path(), &files);
        loads_nothing(&page);
        has(&page, &["Trade-off of size and damage", "chosen: 7.00 MB (6.67 MiB), damage "]);
        let dots = page.matches(", damage ").count();
        // A tip for each point, and of the chosen one a tip and a text.
        assert_eq!(dots, points + 2, "{files:?}");
    }
    let page = report(folder.path(), &{
        fs::write(&plan, succeed(&["plan", text(&checkpoint), "--json"])).expect("written");
        [text(&plan)]
    });
    assert!(!page.contains("Trade-off of size and damage"));
}

#[test]
fn what_is_no_plan_and_no_manifest_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let (file, page) = (folder.path().join("bad.json"), folder.path().join("bad.html"));
    let refused = |content: &str, words: &str| {
        fs::write(&file, content).expect("written");
        let stderr = fail(&["report", text(&file), "-o", text(&page)], 3);
        assert!(stderr.contains("bad.json") && stderr.contains(words), "\"{words}\" is not in: {stderr}");
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1, "no page is left behind");
    };
    refused("", "neither a plan's JSON nor a manifest");
    refused("GGUF", "neither a plan's JSON nor a manifest");
    refused("{}", "no tensor_list");
    refused("{\"sha256\": 1}", "is no manifest");
    refused("{\"tensor_list\": 1}", "is no JSON of quantpress plan");
    let changed = |path: &str, value: Value| {
        let mut manifest = small();
        match manifest.pointer_mut(path) {
            Some(field) => *field = value,
            None => manifest["tensors"][0][path] = value,
        }
        manifest.to_string()
    };
    fs::write(&file, small().to_string()).expect("written");
    let kept = folder.path().join("kept.html");
    succeed(&["report", text(&file), "-o", text(&kept)]);
    fs::remove_file(&kept).expect("removed");
    for (path, value, words) in [
        ("/tensors", json!([]), "lists no tensors"),
        ("/tensors/0/type", json!("Q9_Z"), "Q9_Z"),
        ("/tensors/0/role", json!("cook"), "cook"),
        ("/tensors/0/shape", json!([]), "impossible shape"),
        ("/tensors/0/shape", json!([0]), "impossible shape"),
        ("/tensors/0/shape", json!([4_294_967_296u64, 4_294_967_296u64]), "impossible shape"),
        ("/tensors/0/shape", json!([33, 2]), "cannot have 68 bytes"),
        ("/tensors/0/bytes", json!(69), "cannot have 69 bytes"),
        ("/tensors/0/name", json!("blk.4000000000.x"), "no layer below"),
        ("/tensors/0/relative_error", json!(-1.0), "impossible error"),
        ("expert_errors", json!([1.0, -2.0]), "impossible error"),
        ("expert_errors", json!(vec![0.0; 5000]), "5000 experts"),
        ("importances", json!("guess"), "guess"),
        ("/bytes", json!(67), "larger than the file's 67 bytes"),
        ("/bytes", json!(u64::MAX), "expected up to"),
        ("/tensors", json!([small()["tensors"][0], small()["tensors"][0]]), "twice"),
    ] {
        refused(&changed(path, value), words);
    }
    // Numbers that are possible, but hard to draw.
    let mut manifest = small();
    manifest["tradeoff"] = json!([
        {"bytes": 1_000_000_000_000_000_000u64, "damage": 0.0}, {"bytes": 1_000_000_000_000_000_001u64, "damage": 1e308},
    ]);
    manifest["chosen"] = json!({"bytes": 1, "damage": 1e-320});
    manifest["tensors"][0]["relative_error"] = json!(1e-310);
    fs::write(&file, manifest.to_string()).expect("written");
    succeed(&["report", text(&file), "-o", text(&kept)]);
    let drawn = fs::read_to_string(&kept).expect("the page");
    assert!(!["NaN", "\"inf", ",inf", "-inf"].iter().any(|number| drawn.contains(number)));
    fs::remove_file(&kept).expect("removed");
    let mut manifest = small();
    manifest["tradeoff"] = json!([{"bytes": 1, "damage": -1.0}]);
    refused(&manifest.to_string(), "impossible trade-off");
    fail(&["report", text(&folder.path().join("absent.json"))], 1);
    fail(&["report"], 2);
}
