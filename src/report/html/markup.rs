//! The few pieces of HTML that all parts of the page are made of. Text becomes HTML only through [`escaped`].

use std::fmt::{self, Write};

/// Text from a file, safe between tags and in quoted attributes.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a str);

/// The text as HTML shows it. Characters that control a terminal or turn the direction of writing are shown as their
/// numbers, so that a name cannot pass for another.
pub fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "{}", letter.escape_unicode())?;
                }
                letter if letter.is_control() => write!(f, "{}", letter.escape_unicode())?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A chart under its heading, with a sentence that says how to read it; nothing without a chart.
pub fn figure(heading: &str, caption: &str, chart: &str) -> String {
    if chart.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"caption\">{}</p>\n<div class=\"scroll\">\n{chart}</div>\n</section>\n",
        escaped(heading),
        escaped(caption)
    )
}

/// A cell of a table.
pub enum Cell {
    /// Left.
    Text(String),
    /// Right, with figures of one width.
    Number(String),
    /// A swatch of this CSS class or colour before a text.
    Swatch(Fill, String),
}

/// The colour of a shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// A class of the style sheet.
    Class(&'static str),
    /// A colour by its number, `#rrggbb`.
    Color(String),
}

impl fmt::Display for Fill {
    /// As an attribute of an SVG element.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => write!(f, "class=\"{class}\""),
            Self::Color(color) => write!(f, "fill=\"{color}\""),
        }
    }
}

/// A table with its header.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut html = "<div class=\"scroll\"><table>\n<thead><tr>".to_owned();
    header.iter().for_each(|name| html += &format!("<th scope=\"col\">{}</th>", escaped(name)));
    html += "</tr></thead>\n<tbody>\n";
    for row in rows {
        html += "<tr>";
        for cell in row {
            html += &match cell {
                Cell::Text(text) => format!("<td>{}</td>", escaped(&text)),
                Cell::Number(text) => format!("<td class=\"n\">{}</td>", escaped(&text)),
                Cell::Swatch(fill, text) => format!(
                    "<td><svg width=\"12\" height=\"12\" aria-hidden=\"true\"><rect width=\"12\" height=\"12\" \
                     {fill}/></svg> {}</td>",
                    escaped(&text)
                ),
            };
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let text = "<b a='1' c=\"2\">&amp;\u{202e}\u{0}\n";
        let expected = "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;amp;\\u{202e}\\u{0}\\u{a}";
        assert_eq!(escaped(text).to_string(), expected);
        assert_eq!(figure("a", "b", ""), "");
    }
}
