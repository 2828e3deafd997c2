//! Lines that are no wider than a terminal. Pure.

/// The text with its longer lines going on in the next ones, `indent` columns to the right; a word is never cut.
pub fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut column = 0;
        let beginning = line.len() - line.trim_start().len();
        for word in line.split_inclusive(' ') {
            let letters = word.trim_end().chars().count();
            if column > indent.max(beginning) && letters > 0 && column + letters > width {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                column = indent;
            }
            out.push_str(word);
            column += word.chars().count();
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_and_short_ones_stay() {
        assert_eq!(wrapped("run       a b c\n\nb\n", 80, 10), "run       a b c\n\nb\n");
        assert_eq!(wrapped("note      ab cd ef", 15, 10), "note      ab cd\n          ef\n");
        assert_eq!(wrapped("note      abcdefghijk l", 12, 10), "note      abcdefghijk\n          l\n");
        assert_eq!(wrapped("a", 0, 10), "a\n");
    }
}
