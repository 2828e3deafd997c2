//! Where the time goes: by type in a plan's estimate, by stage in a run.

use std::collections::BTreeMap;

use super::axis::Axis;
use super::markup::{Fill, figure};
use super::palette;
use super::svg::{Anchor, Svg};
use crate::report::subject::{Run, Subject};
use crate::report::{Estimate, Size, about, counted};

const LEFT: f64 = 110.0;
const RIGHT: f64 = 560.0;
const WIDTH: f64 = 1000.0;
const ROW: f64 = 26.0;

/// The charts of the times that the subject has.
pub fn section(subject: &Subject) -> String {
    let planned = subject.estimate.as_ref().map_or(String::new(), |estimate| of_types(subject, estimate));
    let run = subject.run.as_ref().map_or(String::new(), of_stages);
    planned + &run
}

fn of_types(subject: &Subject, estimate: &Estimate) -> String {
    let mut weights: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in &subject.tensors {
        *weights.entry(tensor.format.to_string()).or_default() += tensor.weights;
    }
    let mut rows = Vec::new();
    for (name, weights) in &weights {
        let Some(rate) = estimate.mw_per_s.get(name).filter(|rate| (1e-6..1e12).contains(*rate)) else {
            continue;
        };
        rows.push((name, *weights as f64 / 1e6 / rate / estimate.threads.max(1) as f64, *rate));
    }
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    let most = rows.iter().map(|row| row.1).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let (unit, name) = match most {
        0.0..300.0 => (1.0, "seconds"),
        300.0..7200.0 => (60.0, "minutes"),
        _ => (3600.0, "hours"),
    };
    let axis = Axis::linear([0.0, most / unit], [LEFT, RIGHT]);
    let bottom = ROW * rows.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 44.0, "estimated time by type");
    for (row, (format, seconds, rate)) in rows.iter().enumerate() {
        let y = ROW * row as f64;
        let fill = format.parse().map_or(Fill::Class("busy"), palette::of_type);
        svg.text([LEFT - 8.0, y + 17.0], Anchor::End, format);
        svg.rect([LEFT, y + 4.0, axis.place(seconds / unit) - LEFT, ROW - 8.0], &fill, "");
        let time = seconds / unit;
        let digits = if time < 10.0 { 1 } else { 0 };
        let text = format!("{time:.digits$} {name}, {rate:.0} million weights a second and thread");
        svg.text([axis.place(seconds / unit) + 8.0, y + 17.0], Anchor::Start, &text);
    }
    axis.draw_bottom(&mut svg, bottom, 8);
    svg.soft([LEFT, bottom + 36.0], Anchor::Start, name);
    let caption = format!(
        "Estimated from encoding a few rows of noise where the plan was made: {} on {}, if the disk keeps up.",
        about(estimate.seconds),
        counted(estimate.threads, "thread")
    );
    figure("Where the time will go", &caption, &svg.finish())
}

fn of_stages(run: &Run) -> String {
    let stages = [
        ("read", run.busy.read),
        ("quantize", run.busy.quantize),
        ("write", run.busy.write),
        ("sync", run.busy.sync),
    ];
    let axis = Axis::linear([0.0, 100.0], [LEFT, RIGHT]);
    let bottom = ROW * stages.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 44.0, "how busy each stage was");
    for (row, (name, share)) in stages.into_iter().enumerate() {
        let (y, x) = (ROW * row as f64, axis.place(share * 100.0));
        svg.text([LEFT - 8.0, y + 17.0], Anchor::End, name);
        svg.rect([LEFT, y + 4.0, x - LEFT, ROW - 8.0], &Fill::Class("busy"), "busy");
        svg.rect([x, y + 4.0, RIGHT - x, ROW - 8.0], &Fill::Class("idle"), "waiting");
        svg.text([RIGHT + 8.0, y + 17.0], Anchor::Start, &format!("{:.0} % busy", share * 100.0));
    }
    axis.draw_bottom(&mut svg, bottom, 10);
    svg.soft([LEFT, bottom + 36.0], Anchor::Start, "percent of the time");
    let memory =
        run.peak_memory_bytes.map_or(String::new(), |bytes| format!("; at most {} of memory", Size(bytes)));
    let caption = format!(
        "{:.1} s in all, limited by {}; of them {:.1} s to read the file back for its digests{memory}.",
        run.seconds,
        run.busy.limit(),
        run.sealing_seconds
    );
    figure("Where the time went", &caption, &svg.finish())
}
