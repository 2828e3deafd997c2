//! `OUT.gguf.json`, the manifest of a file: what was made, of what, how and how well. No paths and no times: the same
//! work gives the same manifest, and a file of a split has its own, whether its parts are made together or apart.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::seal::Digests;
use super::session::{Session, file_name};
use super::{Deviation, Job, Work};
use crate::checkpoint::Shard;
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::{Split, beside};

/// The manifest of one file of the plan.
pub fn manifest(job: &Job, work: &Work, session: &Session, number: usize, digests: &Digests) -> Value {
    let plan = job.plan;
    let file = &plan.files[number];
    let name = file_name(plan, job.output, number);
    let tensor = |(tensor, digest): (usize, &[u8; 32])| {
        let planned = &plan.model.tensors[tensor];
        let mut deviation = Deviation::default();
        for unit in work.of_tensor(tensor) {
            deviation += session.done[unit as usize].unwrap_or_default();
        }
        json!({
            "name": planned.name,
            "type": plan.format(tensor).name(),
            "shape": planned.shape,
            "offset": plan.place(tensor).1,
            "bytes": plan.bytes(tensor),
            "relative_error": deviation.relative(),
            "weighted_error": deviation.weighted(),
            "sha256": text(digest),
            "reason": plan.choices[tensor].reason,
        })
    };
    let shard = |shard: &Shard| json!({"file": shard.file, "bytes": shard.bytes, "header_sha256": shard.header_sha256});
    json!({
        "tool": concat!("quantpress ", env!("CARGO_PKG_VERSION")),
        "file": name.file_name().unwrap_or_default().to_string_lossy(),
        "bytes": file.layout.file_size,
        "sha256": text(&digests.file),
        "split": (plan.split != Split::Whole).then(|| json!({"number": number + 1, "of": plan.files.len()})),
        "architecture": plan.model.arch,
        "recipe": {"name": plan.recipe, "overrides": plan.overrides},
        "options": {
            "keep_mtp": plan.options.keep_mtp,
            "name": plan.options.name,
            "pre": plan.options.pre,
        },
        "source": {
            "sha256": plan.source.sha256(),
            "settings_sha256": plan.source.settings,
            "tensors_sha256": plan.source.tensors,
            "sample_sha256": plan.source.sample,
            "shards": job.checkpoint.shards().iter().map(shard).collect::<Vec<_>>(),
        },
        "imatrix": plan.imatrix.as_ref().map(|sha256| json!({"sha256": sha256})),
        "tensors": file.tensors.clone().zip(&digests.tensors).map(tensor).collect::<Vec<_>>(),
    })
}

/// Writes the manifest beside its file, whole or not at all.
///
/// # Errors
/// If the system cannot.
pub fn write(manifest: &Value, output: &Path) -> Result<()> {
    let path = beside(output, ".json");
    let unfinished = beside(output, ".json.part");
    let text = serde_json::to_string_pretty(manifest).expect("a tree of values is JSON");
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)
    };
    write().map_err(|e| Error::io("write", &path, e))?;
    disk::sync_folder(&path);
    Ok(())
}

fn text(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
