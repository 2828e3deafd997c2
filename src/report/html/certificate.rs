//! The chart of `evaluate --json`: perplexities, divergence, and the error of the hidden states after each layer.

use super::axis::{Axis, layer_ticks};
use super::markup::{Fill, escaped, figure};
use super::svg::{Anchor, Svg};
use crate::evaluate::{Answers, Certificate, OfText, Statistics};
use crate::report::grouped;
use crate::report::subject::Subject;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 310.0;

/// The figures and the chart; nothing without a certificate.
pub fn section(subject: &Subject) -> String {
    let Some(certificate) = &subject.certificate else { return String::new() };
    let s = &certificate.statistics;
    let mean = |s: &Statistics| {
        let error = s.kl_mean_error.map_or(String::new(), |error| format!(" \u{b1} {error:.5}"));
        format!("mean {:.5}{error}", s.kl_mean)
    };
    let perplexity = |s: &Statistics| {
        format!("{}; the checkpoint's {}", shown(s.perplexity), shown(s.perplexity_reference))
    };
    let mut facts = vec![
        ("text", format!("{} tokens scored, chunks of {}", grouped(s.tokens as u64), certificate.context)),
        ("perplexity", perplexity(s)),
        ("KL divergence", format!("{}, median {:.5}, 99th percentile {:.4}", mean(s), s.kl_median, s.kl_p99)),
        ("same likeliest token", format!("{:.2} %", 100.0 * s.same_top)),
    ];
    for OfText { text, chunks, statistics: s } in &certificate.by_text {
        let of_text = format!("{chunks} chunks, KL divergence {}, perplexity {}", mean(s), perplexity(s));
        facts.push((text, of_text));
    }
    if let Some(Answers { count, right_reference, right, right_both }) = certificate.answers {
        let answers =
            format!("{right} of {count} right; the checkpoint has {right_reference}, both {right_both}");
        facts.push(("answers", answers));
    }
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(value)))
        .collect();
    let caption =
        "Norm of the difference of the hidden states over the norm of the checkpoint's, after each layer.";
    format!("<section>\n<h2>Against the checkpoint on a text</h2>\n<dl>\n{facts}</dl>\n</section>\n")
        + &figure("Error after each layer", caption, &chart(certificate))
}

/// A perplexity; those of models that are lost have many digits.
fn shown(perplexity: f64) -> String {
    if perplexity < 1e6 { format!("{perplexity:.4}") } else { format!("{perplexity:.3e}") }
}

fn chart(certificate: &Certificate) -> String {
    let layers = &certificate.layers;
    if layers.is_empty() {
        return String::new();
    }
    let most = layers.iter().map(|layer| layer.error).fold(0.0, f64::max);
    let errors = Axis::linear([0.0, if most > 0.0 { most } else { 1.0 }], [BOTTOM, TOP]);
    let step = (RIGHT - LEFT) / layers.len() as f64;
    let place = |layer: usize, error: f64| [LEFT + step * (layer as f64 + 0.5), errors.place(error)];
    let mut svg = Svg::new(WIDTH, HEIGHT, "error of the hidden states after each layer");
    svg.soft([LEFT - 50.0, 16.0], Anchor::Start, "relative error");
    errors.draw_left(&mut svg, LEFT, RIGHT, 6);
    svg.line([LEFT, BOTTOM], [RIGHT, BOTTOM], "axis");
    for layer in layer_ticks(layers.len() as u32) {
        let [x, _] = place(layer as usize, 0.0);
        svg.line([x, BOTTOM], [x, BOTTOM + 5.0], "axis");
        svg.soft([x, BOTTOM + 18.0], Anchor::Middle, &layer.to_string());
    }
    svg.soft([(LEFT + RIGHT) / 2.0, BOTTOM + 36.0], Anchor::Middle, "layer");
    svg.curve(layers.iter().map(|layer| place(layer.layer, layer.error)), "curve");
    for layer in layers {
        let tip = format!("layer {}: {:.5}", layer.layer, layer.error);
        svg.dot(place(layer.layer, layer.error), 3.5, &Fill::Color("#3b76c4".into()), &tip);
    }
    svg.finish()
}
