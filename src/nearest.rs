//! The name that was probably meant.

/// Likeness below which a guess helps nobody.
const LEAST: f64 = 0.6;

/// Likeness of a name that goes on where the wanted one ends.
const BEGUN: f64 = 0.8;

/// The most like of the names, if it is like enough; the first of equals.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        let begun = if wanted.len() > 1 && name.starts_with(&wanted) { BEGUN } else { 0.0 };
        strsim::normalized_damerau_levenshtein(&wanted, &name).max(begun)
    };
    let mut best = None;
    for name in names {
        let likeness = likeness(name);
        if likeness >= LEAST && best.is_none_or(|(most, _)| likeness > most) {
            best = Some((likeness, name));
        }
    }
    best.map(|(_, name)| name)
}

/// The same as the end of a message: nothing, or `; did you mean NAME?`.
pub fn did_you_mean<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_a_stranger_is_not() {
        let names = ["ud-iq1_s", "q2_k", "q4_k_m", "q5_k_m", "q8_0"];
        assert_eq!(nearest("q4_k", names), Some("q4_k_m"));
        assert_eq!(nearest("UD-IQ1S", names), Some("ud-iq1_s"));
        assert_eq!(nearest("q4km", names), Some("q4_k_m"));
        assert_eq!(nearest("mxfp4", names), None);
        assert_eq!(did_you_mean("", names), "");
    }
}
