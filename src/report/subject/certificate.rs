//! What a text tells of a file: the output of `evaluate --json`.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::evaluate::Certificate;

/// Larger files are no certificates.
const MAX_FILE: u64 = 16 << 20;

/// More layers than a chart can show.
const MAX_LAYERS: usize = 4096;

/// The certificate in this file.
///
/// # Errors
/// If the file cannot be read, holds something else, or impossible figures.
pub fn read_certificate(path: &Path) -> Result<Certificate> {
    let fault = |problem: String| Error::Argument(format!("{}: {problem}", path.display()));
    let bytes = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if bytes > MAX_FILE {
        return Err(fault(format!("has {bytes} bytes; expected the output of evaluate --json")));
    }
    let text = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let certificate: Certificate =
        serde_json::from_slice(&text).map_err(|e| fault(format!("is no output of evaluate --json: {e}")))?;
    let s = &certificate.statistics;
    let figures = [s.perplexity_reference, s.perplexity, s.kl_median, s.kl_p99];
    let possible = figures.iter().all(|figure| (-1e-3..1e30).contains(figure))
        && s.kl_mean.abs() < 1e30
        && (0.0..=1.0).contains(&s.same_top)
        && certificate.layers.len() <= MAX_LAYERS
        && certificate
            .layers
            .iter()
            .zip(0..)
            .all(|(l, place)| l.layer == place && (0.0..1e30).contains(&l.error));
    if possible { Ok(certificate) } else { Err(fault("has impossible figures".into())) }
}
