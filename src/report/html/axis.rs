//! Axes of charts: from values to pixels, and the round numbers beside them.

use super::svg::{Anchor, Svg};

/// A range of values along a range of pixels.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    values: [f64; 2],
    pixels: [f64; 2],
    logarithmic: bool,
}

impl Axis {
    /// Equal steps are equal differences.
    pub fn linear(values: [f64; 2], pixels: [f64; 2]) -> Self {
        let [low, high] = values;
        // A single value still needs a range.
        let high = if high > low { high } else { low + low.abs().max(1.0) };
        Self { values: [low, high], pixels, logarithmic: false }
    }

    /// Equal steps are equal ratios; whole decades around the values, which are above 0.
    pub fn decades([low, high]: [f64; 2], pixels: [f64; 2]) -> Self {
        let low = low.max(1e-30).log10().floor();
        let high = high.max(1e-30).log10().ceil().max(low + 1.0);
        Self { values: [low, high], pixels, logarithmic: true }
    }

    /// Pixel of a value.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(1e-30).log10() } else { value };
        let [low, high] = self.values;
        let part = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.pixels[0] + (self.pixels[1] - self.pixels[0]) * part
    }

    /// Round values, about `count` of them, with their names.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let [low, high] = self.values;
        if self.logarithmic {
            let step = ((high - low) / count as f64).ceil().max(1.0) as i32;
            let decades = (low as i32..=high as i32).step_by(step as usize);
            return decades.map(|decade| (10f64.powi(decade), power(decade))).collect();
        }
        let rough = (high - low) / count as f64;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * unit).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let first = (low / step).ceil();
        // Numbers too near each other for a double would give ticks without end.
        let ticks = (0..3 * count).map(|nth| (first + nth as f64) * step);
        let ticks = ticks.take_while(|tick| *tick <= high + step * 1e-6);
        ticks.map(|tick| (tick, format!("{tick:.digits$}"))).collect()
    }

    /// Draws it at the left of a chart, with lines across to `right`.
    pub fn draw_left(&self, svg: &mut Svg, left: f64, right: f64, count: usize) {
        for (value, name) in self.ticks(count) {
            let y = self.place(value);
            svg.line([left, y], [right, y], "grid");
            svg.soft([left - 6.0, y + 4.0], Anchor::End, &name);
        }
        svg.line([left, self.pixels[0]], [left, self.pixels[1]], "axis");
    }

    /// Draws it under a chart.
    pub fn draw_bottom(&self, svg: &mut Svg, y: f64, count: usize) {
        for (value, name) in self.ticks(count) {
            let x = self.place(value);
            svg.line([x, y], [x, y + 5.0], "axis");
            svg.soft([x, y + 18.0], Anchor::Middle, &name);
        }
        svg.line([self.pixels[0], y], [self.pixels[1], y], "axis");
    }
}

/// 0.001 to 1000 in full, else 1e-5.
fn power(decade: i32) -> String {
    match decade {
        0..=3 => format!("{}", 10i32.pow(decade as u32)),
        -3..=-1 => format!("{:.*}", -decade as usize, 10f64.powi(decade)),
        _ => format!("1e{decade}"),
    }
}

/// Layers that get a number under a chart of `layers`.
pub fn layer_ticks(layers: u32) -> impl Iterator<Item = u32> {
    let step = if layers <= 16 { 1 } else { (layers / 60 + 1) * 5 };
    (0..layers).step_by(step as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let names = |axis: Axis| axis.ticks(5).into_iter().map(|tick| tick.1).collect::<Vec<_>>();
        assert_eq!(names(Axis::linear([130.0, 210.0], [0.0, 100.0])), ["140", "160", "180", "200"]);
        assert_eq!(names(Axis::linear([0.0, 0.9], [0.0, 100.0])), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(
            names(Axis::decades([3e-5, 0.2], [0.0, 100.0])),
            ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]
        );
        assert_eq!(Axis::linear([0.0, 4.0], [10.0, 50.0]).place(1.0), 20.0);
        assert_eq!(Axis::decades([0.01, 1.0], [100.0, 0.0]).place(0.1), 50.0);
        // A single value has an axis too.
        assert!(!Axis::linear([5.0, 5.0], [0.0, 1.0]).ticks(3).is_empty());
        for low in [1e9, 1e17, 1e300] {
            let near = Axis::linear([low, low * (1.0 + 1e-15)], [0.0, 1.0]);
            assert!(near.ticks(5).len() <= 15);
        }
        assert_eq!(layer_ticks(5).count(), 5);
        assert_eq!(layer_ticks(61).last(), Some(60));
    }
}
