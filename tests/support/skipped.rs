//! Tests that cannot be made on this machine: without a network or without root. They pass, so they are listed below
//! the line of results, where nobody misses them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Names of tests by what they lack.
static SKIPPED: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// The test that calls this is not made, or not all of it, for this reason.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    skipped.entry(reason.to_owned()).or_default().insert(test);
}

/// When all tests have ended.
#[dtor::dtor(unsafe)]
fn tell() {
    let skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    for (reason, tests) in skipped.iter() {
        let names: Vec<&str> = tests.iter().map(String::as_str).collect();
        let _ = writeln!(std::io::stderr(), "SKIPPED {} tests, {reason}: {}", tests.len(), names.join(", "));
    }
}
