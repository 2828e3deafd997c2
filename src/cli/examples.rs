//! Every command in README.md and docs/ is one that the program takes: names of options and values, and what goes
//! together.

use std::fs;
use std::path::Path;

use clap::Parser;

use super::Cli;

/// Commands in the shell blocks of a document, each on one line.
fn commands(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fence = None;
    let mut line = String::new();
    for text in document.lines() {
        if let Some(language) = text.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.starts_with("sh")) };
            continue;
        }
        let Some(true) = fence else { continue };
        line.push_str(text.trim());
        if line.ends_with('\\') {
            line.pop();
            continue;
        }
        let command = std::mem::take(&mut line);
        if command.starts_with("quantpress ") {
            found.push(command);
        }
    }
    found
}

/// The words of a command as a shell has them; it ends where another program, a file or a comment begins.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | '&' | '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn words_are_those_of_a_shell() {
    let found = words("quantpress plan X --override 'a b=q4_k' -r \"q\" '' | tee log # why");
    assert_eq!(found, ["quantpress", "plan", "X", "--override", "a b=q4_k", "-r", "q", ""]);
}

#[test]
fn every_command_of_the_documents_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = fs::read_dir(root.join("docs")).expect("docs").map(|file| file.expect("a file").path());
    let documents = documents.filter(|file| file.extension().is_some_and(|end| end == "md"));
    let mut count = 0;
    for file in documents.chain([root.join("README.md")]) {
        for command in commands(&fs::read_to_string(&file).expect("read")) {
            count += 1;
            if let Err(error) = Cli::try_parse_from(words(&command)) {
                panic!("{}: {command}\n{error}", file.display());
            }
        }
    }
    assert!(count >= 30, "{count} commands");
}
