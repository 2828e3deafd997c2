//! How a manifest's JSON is laid out: indented, but long lists of numbers on one line.

use std::io::{self, Write};

use serde_json::ser::{Formatter, PrettyFormatter};

/// Indents, and writes arrays from a depth of nesting on without new lines.
#[derive(Debug)]
pub struct Lists {
    pretty: PrettyFormatter<'static>,
    /// Arrays at this depth or deeper, objects counted, stay on their line.
    flat: usize,
    depth: usize,
}

impl Lists {
    /// Arrays inside of `flat - 1` others, or objects, stay on their line. They must hold no objects.
    pub fn new(flat: usize) -> Self {
        Self { pretty: PrettyFormatter::new(), flat, depth: 0 }
    }
}

impl Formatter for Lists {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.depth >= self.flat { writer.write_all(b"[") } else { self.pretty.begin_array(writer) }
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.depth + 1 >= self.flat { writer.write_all(b"]") } else { self.pretty.end_array(writer) }
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        match self.depth >= self.flat {
            true if first => Ok(()),
            true => writer.write_all(b", "),
            false => self.pretty.begin_array_value(writer, first),
        }
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.depth >= self.flat { Ok(()) } else { self.pretty.end_array_value(writer) }
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.pretty.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        self.pretty.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.pretty.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn inner_lists_stay_on_their_line() {
        let value = json!({"tensors": [{"shape": [1, 2], "errors": [], "name": "a"}], "none": []});
        let mut text = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, Lists::new(4));
        value.serialize(&mut serializer).expect("written");
        let expected = "{\n  \"tensors\": [\n    {\n      \"shape\": [1, 2],\n      \"errors\": [],\n      \
                        \"name\": \"a\"\n    }\n  ],\n  \"none\": []\n}";
        assert_eq!(String::from_utf8(text).expect("text"), expected);
    }
}
