//! `OUT.gguf.json`, the manifest of a file: what was made, of what, how and how well. No paths and no times: the same
//! work gives the same manifest (but for `seen`, which has a digest of the shards' sizes and times), and a file of a
//! split has its own, whether its parts are made together or apart.

use serde::Serialize;
use serde_json::ser::Serializer;
use serde_json::{Value, json};

use super::layout::Lists;
use super::seal::Digests;
use super::session::{Session, file_name};
use super::{Deviation, Job, Work, damage};
use crate::checkpoint::{Seen, Shard};
use crate::error::Warning;
use crate::gguf::{File, Split};
use crate::identity::{TOOL, hex as text};
use crate::model::Role;
use crate::recipe::{Origin, Plan, Tradeoff};

/// Lists in a tensor's entry are written on one line.
const LIST_DEPTH: usize = 4;

/// The manifest of one file of the plan.
pub fn manifest(
    job: &Job,
    work: &Work,
    session: &Session,
    seen: &Seen,
    number: usize,
    digests: &Digests,
) -> Value {
    let plan = job.plan;
    let file = &plan.files[number];
    let name = file_name(plan, job.output, number);
    let slices = of_slices(work, session, plan, file);
    let tensor = |(tensor, digest): (usize, &[u8; 32])| {
        let planned = &plan.model.tensors[tensor];
        let mut deviation = Deviation::default();
        for number in work.numbers(tensor) {
            deviation += of_unit(session, number);
        }
        let (importances, unseen) = match job.importances.origin(tensor) {
            Origin::Imatrix { unseen } => ("imatrix", unseen),
            Origin::Norm => ("norm", 0),
            Origin::Even => ("even", 0),
        };
        let mut entry = json!({
            "name": planned.name,
            "role": planned.role,
            "type": plan.format(tensor).name(),
            "shape": planned.shape,
            "offset": plan.place(tensor).1,
            "bytes": plan.bytes(tensor),
            "relative_error": deviation.relative(),
            "weighted_error": deviation.weighted(),
            "sha256": text(digest),
            "reason": plan.choices[tensor].reason,
            "importances": importances,
        });
        if let Some(wanted) = plan.choices[tensor].wanted {
            entry["wanted"] = wanted.name().into();
        }
        if unseen > 0 {
            entry["unseen_experts"] = unseen.into();
        }
        if planned.role == Role::Experts {
            let errors = &slices[tensor - file.tensors.start];
            entry["expert_errors"] = errors.iter().map(|expert| short(expert.relative())).collect();
        }
        entry
    };
    let shard = |shard: &Shard| json!({"file": shard.file, "bytes": shard.bytes, "header_sha256": shard.header_sha256});
    let mut manifest = json!({
        "tool": TOOL,
        "file": name.file_name().unwrap_or_default().to_string_lossy(),
        "bytes": file.layout.file_size,
        "sha256": text(&digests.file),
        "work": text(&session.work),
        "seen": seen,
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
        "feedback": plan.feedback,
        "imatrix": plan.imatrix.as_ref().map(|sha256| json!({"sha256": sha256})),
        "tensors": file.tensors.clone().zip(&digests.tensors).map(tensor).collect::<Vec<_>>(),
    });
    if plan.options.mtp_only {
        manifest["options"]["mtp_only"] = json!(true);
    }
    if let Some(arch) = &plan.options.arch {
        manifest["options"]["arch"] = json!(arch);
    }
    let warnings = damage::found(job, work, &session.done, file.tensors.clone());
    if !warnings.is_empty() {
        manifest["warnings"] = warnings.iter().map(Warning::to_string).collect();
    }
    if !plan.model.left_out.is_empty() {
        manifest["left_out"] = json!(plan.model.left_out);
    }
    if let Some(Tradeoff { curve, chosen }) = &plan.tradeoff {
        manifest["tradeoff"] = json!(curve);
        manifest["chosen"] = json!(chosen);
    }
    manifest
}

/// The deviation of each slice of the file's expert tensors. Pieces of a slice are added in the order of its rows.
fn of_slices(work: &Work, session: &Session, plan: &Plan, file: &File) -> Vec<Vec<Deviation>> {
    let mut sums: Vec<Vec<Deviation>> = Vec::with_capacity(file.tensors.len());
    sums.extend(plan.model.tensors[file.tensors.clone()].iter().map(|tensor| {
        let slices = if tensor.role == Role::Experts { tensor.slices.len() } else { 0 };
        vec![Deviation::default(); slices]
    }));
    for unit in work.all(plan).filter(|unit| file.tensors.contains(&unit.tensor)) {
        if let Some(sum) = sums[unit.tensor - file.tensors.start].get_mut(unit.slice) {
            *sum += of_unit(session, unit.number);
        }
    }
    sums
}

fn of_unit(session: &Session, number: u32) -> Deviation {
    session.done[number as usize].map_or_else(Deviation::default, |done| done.deviation)
}

/// Bytes that the manifests of a job's files have, about: a tensor's entry has 700, an expert's error 12.
pub fn size(job: &Job) -> u64 {
    let of = |tensor: usize| 1000 + 12 * job.plan.model.tensors[tensor].slices.len() as u64;
    let shards = job.checkpoint.shards().len() as u64 * 200 * job.files().len() as u64;
    job.tensors().map(of).sum::<u64>() + shards
}

/// Four digits: R1 has 44,544 of them.
fn short(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

/// The manifest as it is written.
pub fn bytes(manifest: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Lists::new(LIST_DEPTH));
    manifest.serialize(&mut serializer).expect("a tree of values is JSON");
    text.push(b'\n');
    text
}
