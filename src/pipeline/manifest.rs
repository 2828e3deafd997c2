//! `OUT.gguf.json`, the manifest: what was made, of what, how and how well. No paths and no times: the same work gives
//! the same manifest.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::seal::Digests;
use super::session::{Session, file_name};
use super::{Deviation, Job, Work};
use crate::disk;
use crate::error::{Error, Result};
use crate::gguf::beside;

/// The manifest of the files that were made.
pub fn manifest(job: &Job, work: &Work, session: &Session, digests: &[Digests]) -> Value {
    let plan = job.plan;
    let mut files = Vec::new();
    let mut tensors = Vec::new();
    for (number, digests) in job.files().zip(digests) {
        let file = &plan.files[number];
        let name = file_name(plan, job.output, number);
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(json!({
            "name": name,
            "bytes": file.layout.file_size,
            "tensors": file.tensors.len(),
            "sha256": text(&digests.file),
        }));
        for (tensor, digest) in file.tensors.clone().zip(&digests.tensors) {
            let planned = &plan.model.tensors[tensor];
            let mut deviation = Deviation::default();
            for unit in work.of_tensor(tensor) {
                deviation += session.done[unit as usize].unwrap_or_default();
            }
            tensors.push(json!({
                "name": planned.name,
                "file": name,
                "type": plan.format(tensor).name(),
                "shape": planned.shape,
                "offset": plan.place(tensor).1,
                "bytes": plan.bytes(tensor),
                "relative_error": deviation.relative(),
                "weighted_error": deviation.weighted(),
                "sha256": text(digest),
                "reason": plan.choices[tensor].reason,
            }));
        }
    }
    let shard = |shard: &crate::checkpoint::Shard| json!({"file": shard.file, "bytes": shard.bytes, "header_sha256": shard.header_sha256});
    json!({
        "tool": concat!("quantpress ", env!("CARGO_PKG_VERSION")),
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
        "part": job.part.map(|part| json!({"number": part, "of": plan.files.len()})),
        "files": files,
        "tensors": tensors,
    })
}

/// Writes the manifest beside the output, whole or not at all.
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
