//! An SVG drawing: on a narrow screen it shrinks as long as its letters can be read, and then scrolls (style.css).

use std::fmt::Write;

use super::markup::{Fill, escaped};

/// A drawing under way.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    label: String,
    content: String,
}

/// Where a text stands to its place.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

impl Svg {
    /// Nothing yet; the label is what a screen reader says.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self { width, height, label: label.to_owned(), content: String::new() }
    }

    /// A rectangle that says `tip` under the pointer.
    pub fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: &Fill, tip: &str) {
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escaped(tip)) };
        let _ = writeln!(
            self.content,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {fill}>{tip}</rect>",
            short(x),
            short(y),
            short(width),
            short(height)
        );
    }

    /// A dot that says `tip` under the pointer.
    pub fn dot(&mut self, [x, y]: [f64; 2], radius: f64, fill: &Fill, tip: &str) {
        let _ = writeln!(
            self.content,
            "<circle cx=\"{}\" cy=\"{}\" r=\"{radius}\" {fill}><title>{}</title></circle>",
            short(x),
            short(y),
            escaped(tip)
        );
    }

    /// A straight line between two points.
    pub fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &'static str) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(short);
        let _ = writeln!(
            self.content,
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\"/>"
        );
    }

    /// A line through all points.
    pub fn curve(&mut self, points: impl Iterator<Item = [f64; 2]>, class: &'static str) {
        let points: Vec<String> = points.map(|[x, y]| format!("{},{}", short(x), short(y))).collect();
        let _ = writeln!(self.content, "<polyline points=\"{}\" class=\"{class}\"/>", points.join(" "));
    }

    /// Rectangles of one colour and height in one path: for charts of tens of thousands.
    pub fn runs(&mut self, runs: &[[f64; 3]], height: f64, fill: &Fill) {
        let _ = write!(self.content, "<path {fill} d=\"");
        for [x, y, width] in runs {
            let [x, y, width, height] = [*x, *y, *width, height].map(short);
            let _ = write!(self.content, "M{x} {y}h{width}v{height}h-{width}z");
        }
        self.content.push_str("\"/>\n");
    }

    /// Text with its baseline at `y`.
    pub fn text(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        self.write(x, y, anchor, "", text);
    }

    /// Text in a lighter colour: ticks and units.
    pub fn soft(&mut self, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        self.write(x, y, anchor, " class=\"soft\"", text);
    }

    /// A letter in a coloured cell.
    pub fn in_cell(&mut self, [x, y]: [f64; 2], text: &str) {
        self.write(x, y, Anchor::Middle, " class=\"cell\"", text);
    }

    fn write(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.content,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\"{class}>{}</text>",
            short(x),
            short(y),
            escaped(text)
        );
    }

    /// The finished SVG element.
    pub fn finish(self) -> String {
        let [width, height] = [self.width, self.height].map(short);
        format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{}\">\n{}</svg>\n",
            escaped(&self.label),
            self.content
        )
    }
}

/// A tenth of a pixel is enough.
fn short(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
