//! How a run went, from the events that `quantize --json` printed. A manifest has no times: the same work gives the
//! same manifest.

use std::path::Path;

use serde::Deserialize;

use super::Subject;
use super::bound::bound;
use crate::error::{Error, Result};
use crate::pipeline::Stages;
use crate::whole;

/// Larger files are no events: there is one a second.
const MAX_FILE: u64 = 256 << 20;

/// The last event of a run.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Run {
    /// Seconds from the first read to the final name.
    pub seconds: f64,
    /// How busy each stage was.
    pub busy: Stages,
    /// Seconds for reading the files back.
    pub sealing_seconds: f64,
    /// Peak of the process.
    pub peak_memory_bytes: Option<u64>,
    /// SHA-256 of each file that was made, if the events have them.
    pub files_sha256: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Event {
    event: String,
}

/// The run that these events are of, which must have made what the subject shows.
///
/// # Errors
/// If the file cannot be read, holds something else, the run did not finish, or it made another file.
pub fn read_run(path: &Path, subject: &Subject) -> Result<Run> {
    let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
    let text = whole::read_text(path, MAX_FILE, fault)?;
    let mut run = None;
    for (line, number) in text.lines().zip(1..) {
        let fault =
            |e: serde_json::Error| fault(format!("line {number} is no event of quantize --json: {e}"));
        if serde_json::from_str::<Event>(line).map_err(fault)?.event == "done" {
            run = Some(serde_json::from_str::<Run>(line).map_err(fault)?);
        }
    }
    let run = run.ok_or_else(|| fault("has no event \"done\": the run did not finish".into()))?;
    let Run { seconds, busy, sealing_seconds, .. } = &run;
    let shares = [busy.read, busy.quantize, busy.write, busy.sync];
    if ![*seconds, busy.seconds, *sealing_seconds].iter().chain(&shares).all(|n| (0.0..1e12).contains(n)) {
        return Err(fault("has impossible times".into()));
    }
    if let Some(digests) = &run.files_sha256 {
        bound(subject, digests).map_err(fault)?;
    }
    Ok(run)
}
