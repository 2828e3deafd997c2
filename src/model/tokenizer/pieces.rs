//! Places where a text may be cut so that the pieces' token ids are those of the whole text: there every step of the
//! splitting rules ends a match, whatever follows. So a text goes through the tokenizer piece by piece, and memory
//! does not grow with it.

/// Bytes of a piece that is large enough to be fast and small enough for memory.
pub const TEXT_PIECE: usize = 1 << 16;

/// A text without a safe place in so many bytes is cut anywhere: its ids then differ from those of the whole around
/// one place in a megabyte. (Lines and words are safe places; this is for data without any.)
const MOST: usize = 1 << 20;

/// A token that is searched for in the text before it is split.
#[derive(Clone, Debug)]
pub struct Literal {
    pub text: String,
    /// Whether it takes the blanks before it, and after it.
    pub strips: [bool; 2],
    /// Whether it is one only between characters of no word.
    pub single_word: bool,
}

/// Where a tokenizer's splitting rules allow cuts.
#[derive(Clone, Debug)]
pub struct Borders {
    /// Whether digits and ideographs are split out before all else.
    pub classes: bool,
    /// Whether a match ends with a line.
    pub lines: bool,
    /// Tokens that are searched for before splitting.
    pub literals: Vec<Literal>,
}

impl Borders {
    /// Bytes that must follow a place for it to be judged.
    fn ahead(&self) -> usize {
        self.literals.iter().map(|literal| literal.text.len()).max().unwrap_or(0).max(8)
    }

    /// Whether the text may be cut before its byte `at`.
    fn is_safe(&self, text: &str, at: usize) -> bool {
        if !text.is_char_boundary(at) {
            return false;
        }
        let mut after = text[at..].chars();
        let (Some(before), Some(next)) = (text[..at].chars().next_back(), after.next()) else { return false };
        let second = after.next();
        // A run of blanks ends with its last line end, and no match goes on from there; but slashes may do.
        let line = self.lines && before == '\n' && !next.is_whitespace() && next != '/';
        // One blank belongs to the word behind it.
        let word =
            before.is_ascii_alphabetic() && next == ' ' && second.is_some_and(|c| c.is_ascii_alphabetic());
        let class = self.classes && class(before) != class(next);
        (line || word || class) && !self.literals.iter().any(|literal| literal.is_in_the_way(text, at, next))
    }

    /// The last safe place among bytes `from..to`.
    fn last(&self, text: &str, from: usize, to: usize) -> Option<usize> {
        (from.max(1)..to).rev().find(|&at| self.is_safe(text, at))
    }
}

impl Literal {
    /// Whether a cut at the byte could change what the literal takes of the text.
    fn is_in_the_way(&self, text: &str, at: usize, next: char) -> bool {
        let (bytes, literal) = (text.as_bytes(), self.text.as_bytes());
        let lies_at = |start: usize| bytes[start..].starts_with(literal);
        let across = (1..literal.len().min(at + 1)).any(|before| lies_at(at - before));
        let (begins, ends) = (lies_at(at), bytes[..at].ends_with(literal));
        let [left, right] = self.strips;
        across
            || (begins && (left || self.single_word))
            || (ends && ((right && next.is_whitespace()) || self.single_word))
    }
}

/// Digits 1, ideographs and kana 2, all else 0, by the ranges of deepseek-v3's first two rules.
fn class(c: char) -> u8 {
    match c {
        '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}' => 2,
        c if c.is_numeric() => 1,
        _ => 0,
    }
}

/// Cuts a text that comes in parts.
#[derive(Debug)]
pub struct Cutter {
    /// None for unknown splitting rules: the text stays whole.
    borders: Option<Borders>,
    text: String,
    /// Bytes of a character that is not complete yet.
    rest: Vec<u8>,
    /// Bytes of the text in which there is no safe place.
    searched: usize,
    piece: usize,
}

impl Cutter {
    /// With pieces of about so many bytes.
    pub fn new(borders: Option<Borders>, piece: usize) -> Self {
        Self { borders, text: String::new(), rest: Vec::new(), searched: 0, piece }
    }

    /// Takes more of the text; false if it is not UTF-8.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let valid = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => return false,
        };
        self.text.push_str(std::str::from_utf8(&self.rest[..valid]).expect("just checked"));
        self.rest.drain(..valid);
        true
    }

    /// Whether the text ends inside of a character.
    pub fn is_cut_short(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The next piece, if there is enough text for one.
    pub fn cut(&mut self) -> Option<String> {
        let borders = self.borders.as_ref()?;
        if self.text.len() < self.piece {
            return None;
        }
        let to = self.text.len().saturating_sub(borders.ahead());
        let at = match borders.last(&self.text, self.searched, to) {
            Some(at) => at,
            None if self.text.len() >= MOST.max(self.piece) => {
                (1..=self.text.len()).rev().find(|&at| self.text.is_char_boundary(at))?
            }
            None => {
                self.searched = to;
                return None;
            }
        };
        self.searched = 0;
        let rest = self.text.split_off(at);
        Some(std::mem::replace(&mut self.text, rest))
    }

    /// What is left at the end.
    pub fn last(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every safe place of a text.
    fn safe(borders: &Borders, text: &str) -> Vec<usize> {
        (1..text.len()).filter(|&at| borders.is_safe(text, at)).collect()
    }

    fn borders(literals: &[(&str, [bool; 2], bool)]) -> Borders {
        let literal = |(text, strips, single_word): &(&str, [bool; 2], bool)| Literal {
            text: (*text).to_owned(),
            strips: *strips,
            single_word: *single_word,
        };
        Borders { classes: false, lines: true, literals: literals.iter().map(literal).collect() }
    }

    #[test]
    fn lines_and_words_are_safe_and_literals_are_not_cut() {
        let none = borders(&[]);
        assert_eq!(safe(&none, "one two\n\nthree\n  four"), [3, 9]);
        assert_eq!(safe(&none, "a  b 1 \n c"), [0usize; 0]);
        assert_eq!(safe(&borders(&[("e t", [false; 2], false)]), "one two"), [0usize; 0]);
        assert_eq!(safe(&borders(&[("<x>", [true, false], false)]), "a\n<x>"), [0usize; 0]);
        assert_eq!(safe(&borders(&[("one", [false, true], false)]), "one two"), [0usize; 0]);
        assert_eq!(safe(&borders(&[("two", [false; 2], false)]), "one two"), [3]);
        let classes = Borders { classes: true, lines: true, literals: Vec::new() };
        assert_eq!(safe(&classes, "a12一b"), [1, 3, 6]);
    }

    #[test]
    fn pieces_are_the_text_however_it_comes() {
        let text = "one two three\nfour — fünf 一二三\n".repeat(50);
        for (part, piece) in [(1, 1), (3, 20), (7, 100), (1000, 64), (64, 100_000)] {
            let mut cutter = Cutter::new(Some(borders(&[])), piece);
            let (mut whole, mut pieces) = (String::new(), 0);
            for bytes in text.as_bytes().chunks(part) {
                assert!(cutter.push(bytes));
                while let Some(piece) = cutter.cut() {
                    whole += &piece;
                    pieces += 1;
                }
            }
            assert!(!cutter.is_cut_short());
            whole += &cutter.last();
            assert_eq!(whole, text);
            assert_eq!(pieces > 1, piece < 100_000, "{part} {piece}");
        }
        assert!(!Cutter::new(None, 1).push(b"a\xffb"));
    }
}
