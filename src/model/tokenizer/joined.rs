//! Text to ids by pieces with scores, as SentencePiece and llama.cpp do it: characters first, then again and again the two
//! neighbours that make the piece with the highest score are joined, of equals the first. What is no piece then is
//! written as bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Kind;
use super::pieces::{Borders, Literal};
use super::sentencepiece::{SPACE, Scores, byte};

/// Pieces, ready to read text.
#[derive(Debug)]
pub struct Joiner {
    ids: HashMap<String, u32>,
    scores: Scores,
    bytes: HashMap<u8, u32>,
    unknown: Option<u32>,
    /// Tokens that are searched for in a text before it is cut into pieces, longest first.
    literals: Vec<(String, u32)>,
}

/// Part of a text: a character, or what was joined.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
    /// Places of the neighbours.
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that make a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both together, by which a pair is known that is no more.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Joiner {
    /// Of these tokens, by their ids.
    pub fn new<'a>(tokens: impl Iterator<Item = (&'a str, Kind)>, scores: Scores) -> Self {
        let (mut ids, mut bytes, mut unknown) = (HashMap::new(), HashMap::new(), None);
        let mut literals = Vec::new();
        for (id, (text, kind)) in (0..).zip(tokens) {
            match kind {
                Kind::Byte => {
                    bytes.extend(byte(text).map(|byte| (byte, id)));
                }
                Kind::UserDefined if !text.is_empty() => literals.push((text.to_owned(), id)),
                Kind::Unknown => unknown = Some(id),
                _ => {}
            }
            ids.insert(text.to_owned(), id);
        }
        literals.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self { ids, scores, bytes, unknown, literals }
    }

    /// The ids of a text, or of the part of one that goes on.
    pub fn encode(&self, text: &str, goes_on: bool) -> Vec<u32> {
        // Texts, and literals between them.
        let mut parts = vec![Ok(text)];
        for (literal, id) in &self.literals {
            let cut = |part| match part {
                Ok(text) => between(text, literal, *id),
                id => vec![id],
            };
            parts = parts.into_iter().flat_map(cut).collect();
        }
        let mut ids = Vec::new();
        let mut prefix = self.scores.prefix && !goes_on;
        for part in parts {
            match part {
                Ok(text) => {
                    let escaped: String = prefix.then_some(' ').into_iter().chain(text.chars()).collect();
                    self.join(&escaped.replace(' ', &SPACE.to_string()), &mut ids);
                    prefix = false;
                }
                Err(id) => {
                    ids.push(id);
                    prefix = self.scores.prefix;
                }
            }
        }
        ids
    }

    /// Where a text may be cut; None if pieces may lie across any place.
    pub fn borders(&self) -> Option<Borders> {
        // Before a space behind a letter, unless a piece has the two.
        let crosses = |text: &str| {
            let mut before = SPACE;
            text.chars().any(|c| std::mem::replace(&mut before, c) != SPACE && c == SPACE)
        };
        if self.ids.keys().any(|text| crosses(text)) {
            return None;
        }
        let literal = |(text, _): &(String, u32)| Literal {
            text: text.clone(),
            strips: [false; 2],
            single_word: false,
        };
        Some(Borders { classes: false, lines: false, literals: self.literals.iter().map(literal).collect() })
    }

    fn join(&self, text: &str, ids: &mut Vec<u32>) {
        let mut parts: Vec<Part> = Vec::with_capacity(text.len());
        for (from, letter) in text.char_indices() {
            let place = parts.len();
            let before = place.checked_sub(1);
            parts.push(Part { from, to: from + letter.len_utf8(), before, after: Some(place + 1) });
        }
        let Some(last) = parts.last_mut() else { return };
        last.after = None;

        let mut pairs = BinaryHeap::new();
        let pair = |parts: &[Part], left: usize, right: usize| {
            let (from, to) = (parts[left].from, parts[right].to);
            let id = *self.ids.get(&text[from..to])?;
            Some(Pair { score: self.scores.of[id as usize], left, right, length: to - from })
        };
        pairs.extend((1..parts.len()).filter_map(|right| pair(&parts, right - 1, right)));
        while let Some(Pair { left, right, length, .. }) = pairs.pop() {
            let (a, b) = (parts[left], parts[right]);
            let is_there =
                a.from < a.to && b.from < b.to && a.after == Some(right) && b.to - a.from == length;
            if !is_there {
                continue;
            }
            parts[left].to = b.to;
            parts[left].after = b.after;
            parts[right].to = b.from;
            if let Some(after) = b.after {
                parts[after].before = Some(left);
                pairs.extend(pair(&parts, left, after));
            }
            if let Some(before) = a.before {
                pairs.extend(pair(&parts, before, left));
            }
        }
        let mut next = Some(0);
        while let Some(place) = next {
            let Part { from, to, after, .. } = parts[place];
            let piece = &text[from..to];
            match self.ids.get(piece) {
                Some(id) => ids.push(*id),
                None => ids
                    .extend(piece.bytes().filter_map(|byte| self.bytes.get(&byte).copied().or(self.unknown))),
            }
            next = after;
        }
    }
}

/// A text cut at every place of a literal: texts that are not empty, and ids.
fn between<'a>(text: &'a str, literal: &str, id: u32) -> Vec<Result<&'a str, u32>> {
    let mut parts = Vec::new();
    for (number, part) in text.split(literal).enumerate() {
        if number > 0 {
            parts.push(Err(id));
        }
        if !part.is_empty() {
            parts.push(Ok(part));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joiner(own: &[(&str, f32)], prefix: bool) -> Joiner {
        let kind = |text: &str| match text {
            "<unk>" => Kind::Unknown,
            "#own" => Kind::UserDefined,
            _ if byte(text).is_some() => Kind::Byte,
            _ => Kind::Normal,
        };
        let tokens = own.iter().map(|(text, _)| (*text, kind(text)));
        Joiner::new(tokens, Scores { of: own.iter().map(|token| token.1).collect(), prefix })
    }

    const WORDS: &[(&str, f32)] = &[
        ("<unk>", 0.0),
        ("<0xC3>", 0.0),
        ("<0xA9>", 0.0),
        ("\u{2581}", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("ab", -2.0),
        ("ba", -1.0),
        ("\u{2581}a", -3.0),
        ("aba", -4.0),
        ("#own", 0.0),
    ];

    #[test]
    fn the_highest_score_goes_first_and_of_equals_the_left_one() {
        let joiner = joiner(WORDS, true);
        for (text, expected) in [
            // "ba" goes before "ab", and then the space finds its letter.
            ("aba", &[8, 7][..]),
            ("b", &[3, 5]),
            ("bb é", &[3, 5, 5, 3, 1, 2]),
            ("", &[]),
            ("\u{4e00}", &[3, 0, 0, 0]),
            ("a#owna", &[8, 10, 8]),
        ] {
            assert_eq!(joiner.encode(text, false), expected, "{text:?}");
        }
        // Without a space before it all is one piece.
        assert_eq!(joiner.encode("aba", true), [9]);
        assert_eq!(self::joiner(WORDS, false).encode("aba", false), [9]);
    }

    #[test]
    fn a_text_may_be_cut_unless_a_piece_lies_across() {
        assert!(joiner(WORDS, true).borders().is_some());
        assert!(joiner(&[WORDS, &[("a\u{2581}b", -1.0)]].concat(), true).borders().is_none());
        let whole = joiner(WORDS, true);
        let text = "aba ab ba  b é a#own aab";
        for at in [3, 6, 17] {
            let cut = [whole.encode(&text[..at], false), whole.encode(&text[at..], true)].concat();
            assert_eq!(cut, whole.encode(text, false), "{at}");
        }
    }
}
