//! tiktoken.model of Kimi-K2 and Moonlight: tokens by rank, from which the merges follow. Pure.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Around, Kind, Vocabulary, place, split};
use crate::checkpoint::Config;
use crate::error::{Error, Result};

pub const FILE: &str = "tiktoken.model";

/// The class in tokenizer_config.json whose Python code holds Kimi's splitting rules.
const CLASS: &str = "TikTokenTokenizer";

/// Finding the halves of a token takes the square of its length: the sum over all tokens, of which Kimi-K2's have ten
/// million, is bounded.
const MAX_WORK: usize = 1 << 26;

/// The vocabulary of `size` ids; `pre` overrides the splitter that the tokenizer's class stands for.
pub fn read(text: &[u8], config: &Config, size: u32, pre: Option<&str>) -> Result<Vocabulary> {
    let class: Option<String> = config.find("tokenizer_class")?;
    let splitter = match pre {
        Some(name) => split::Splitter::named(name),
        None if class.as_deref() == Some(CLASS) => split::Splitter::named(split::KIMI),
        None => {
            return Err(Error::Unsupported(format!(
                "{FILE}: tokenizer_config.json's tokenizer_class is {class:?}, whose splitting rules are not known \
                 (\"{CLASS}\" is {}); give llama.cpp's name for them with --pre",
                split::KIMI
            )));
        }
    };
    let ranked = ranks(text)?;
    let mut tokens = vec![None; size as usize];
    for (rank, bytes) in ranked.iter().enumerate() {
        place(FILE, &mut tokens, rank as u32, alphabet(bytes), Kind::Normal)?;
    }
    let by_bytes: HashMap<&[u8], usize> =
        ranked.iter().enumerate().map(|(rank, b)| (b.as_slice(), rank)).collect();
    let (mut merges, mut lost) = (Vec::with_capacity(ranked.len()), Vec::new());
    for (rank, bytes) in ranked.iter().enumerate().filter(|(_, bytes)| bytes.len() > 1) {
        match halves(bytes, rank, &by_bytes) {
            Some([left, right]) => merges.push(format!("{} {}", alphabet(left), alphabet(right))),
            None => lost.push(rank),
        }
    }
    // tiktoken takes a word whole that is a token; llama.cpp joins it, with these rules as with most.
    let doubts = lost.first().map(|rank| {
        let more = if lost.len() > 1 { format!(" (and {} more)", lost.len() - 1) } else { String::new() };
        format!("no two tokens of lower rank make the token of rank {rank}{more}; llama.cpp never makes it of a text")
    });
    let doubts = doubts.into_iter().collect();
    Ok(Vocabulary { tokens, merges, scores: None, splitter, around: Around::Unsaid, doubts })
}

/// The token of each rank, from lines of base64 and rank.
fn ranks(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let fault = |line: usize, what: &str| Error::file(FILE, format!("line {}: {what}", line + 1));
    let text = std::str::from_utf8(text).map_err(|e| Error::file(FILE, format!("is not text: {e}")))?;
    let mut tokens = Vec::new();
    let mut work = 0usize;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (base64, rank) =
            line.split_once(' ').ok_or_else(|| fault(number, "expected base64 and a rank"))?;
        let bytes = STANDARD.decode(base64).map_err(|_| fault(number, "the token is not base64"))?;
        work = work.saturating_add(bytes.len().saturating_mul(bytes.len()));
        if work > MAX_WORK {
            return Err(fault(
                number,
                &format!("a token of {} bytes: too long, with those before", bytes.len()),
            ));
        }
        if rank.parse() != Ok(tokens.len()) {
            return Err(fault(number, &format!("expected rank {}, found \"{rank}\"", tokens.len())));
        }
        tokens.push(bytes);
    }
    Ok(tokens)
}

/// The two tokens of lower rank that BPE joins into this one, None for single bytes.
fn halves<'a>(token: &'a [u8], rank: usize, ranks: &HashMap<&[u8], usize>) -> Option<[&'a [u8]; 2]> {
    let mut parts: Vec<&[u8]> = token.chunks(1).collect();
    let mut ends = Vec::new();
    while parts.len() > 2 {
        ends.clear();
        ends.extend(parts.iter().scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        }));
        let joined = |i: usize| &token[ends[i] - parts[i].len()..ends[i + 1]];
        let best = (0..parts.len() - 1)
            .filter_map(|i| Some((*ranks.get(joined(i))?, i)))
            .filter(|&(r, _)| r < rank)
            .min()?;
        let whole = joined(best.1);
        parts[best.1] = whole;
        parts.remove(best.1 + 1);
    }
    (parts.len() == 2).then(|| [parts[0], parts[1]])
}

/// Bytes in GPT-2's alphabet: printable ones as themselves, the rest moved up to U+0100.
pub fn alphabet(bytes: &[u8]) -> String {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let moved = |b: u8| (0..b).filter(|&b| !printable(b)).count() as u32;
    let letter =
        |&b: &u8| if printable(b) { char::from(b) } else { char::from_u32(256 + moved(b)).unwrap_or('?') };
    bytes.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bytes, then "he", "ll", "hell", "hello" in tiktoken's form.
    fn model() -> String {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|b| vec![b]).collect();
        tokens.extend([b"he".to_vec(), b"ll".to_vec(), b"hell".to_vec(), b"hello".to_vec()]);
        let line = |(rank, token): (usize, &Vec<u8>)| format!("{} {rank}\n", STANDARD.encode(token));
        tokens.iter().enumerate().map(line).collect()
    }

    #[test]
    fn merges_follow_from_ranks() {
        let config = br#"{"tokenizer_class": "TikTokenTokenizer"}"#;
        let config = Config::parse_as("tokenizer_config.json", config).expect("config");
        let vocabulary = read(model().as_bytes(), &config, 264, None).expect("vocabulary");
        assert_eq!(vocabulary.splitter.name, "kimi-k2");
        assert_eq!(vocabulary.merges, ["h e", "l l", "he ll", "hell o"]);
        assert_eq!(vocabulary.tokens[32], Some(("\u{120}".to_owned(), Kind::Normal)));
        assert_eq!(vocabulary.tokens[10], Some(("\u{10a}".to_owned(), Kind::Normal)));
        assert_eq!(vocabulary.tokens[262], None);
        assert!(vocabulary.doubts.is_empty(), "{:?}", vocabulary.doubts);
    }

    #[test]
    fn tokens_that_nothing_is_joined_to_are_told_of() {
        let config = br#"{"tokenizer_class": "TikTokenTokenizer"}"#;
        let config = Config::parse_as("tokenizer_config.json", config).expect("config");
        let text = model() + &format!("{} 260\n{} 261\n", STANDARD.encode("xyz"), STANDARD.encode("uvw"));
        let vocabulary = read(text.as_bytes(), &config, 264, None).expect("vocabulary");
        assert_eq!(vocabulary.merges.len(), 4);
        let doubts = &vocabulary.doubts[..];
        assert!(doubts.len() == 1 && doubts[0].contains("rank 260 (and 1 more)"), "{doubts:?}");
    }

    #[test]
    fn tokens_that_would_take_hours_are_refused() {
        let config = br#"{"tokenizer_class": "TikTokenTokenizer"}"#;
        let config = Config::parse_as("tokenizer_config.json", config).expect("config");
        let line =
            |(rank, length): (usize, u32)| format!("{} {rank}\n", STANDARD.encode(vec![97; 1 << length]));
        let text: String = (0..20).map(|length| line((length as usize, length))).collect();
        let error = read(text.as_bytes(), &config, 300, None).expect_err("too long").to_string();
        assert!(error.contains("line 14: a token of 8192 bytes"), "{error}");
    }

    #[test]
    fn a_line_that_is_no_rank_is_named() {
        let config = br#"{"tokenizer_class": "TikTokenTokenizer"}"#;
        let config = Config::parse_as("tokenizer_config.json", config).expect("config");
        for (text, expected) in
            [("AA= 0", "line 1"), ("AA== 0\nAQ== 2", "line 2"), ("AA==", "base64 and a rank")]
        {
            let error = read(text.as_bytes(), &config, 300, None).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
