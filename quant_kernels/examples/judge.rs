//! Speed and error of every format on a file of raw f32 weights.
//!
//! usage: judge FILE.f32 COLUMNS [IMPORTANCE.f32] [--types q4_k,iq4_xs] [--blocks FOLDER]
//!
//! One thread; Mw/s of encoding and GB/s of decoded f32, then nmse = sum(w (x - y)^2) / sum(w x^2), the gain
//! sum(w x y) / sum(w x^2) and the error at unit gain 1 / cos^2 - 1. With --blocks the blocks are written too, for
//! another decoder.

use std::path::Path;
use std::time::Instant;

use quant_kernels::{Format, dequantize, quantize};

fn main() {
    let mut files = Vec::new();
    let (mut types, mut folder) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--types" => types = arguments.next(),
            "--blocks" => folder = arguments.next(),
            _ => files.push(argument),
        }
    }
    let x = read(&files[0]);
    let columns: usize = files[1].parse().expect("columns are a number");
    let importance = files.get(2).map(|file| read(file));
    let formats: Vec<Format> = match &types {
        Some(types) => types.split(',').map(|name| name.parse().expect("a known type")).collect(),
        None => Format::all().collect(),
    };
    println!("{:8} {:>8} {:>8} {:>9} {:>7} {:>10}", "type", "Mw/s", "GB/s", "nmse", "gain", "unit");
    for format in formats {
        let mut blocks = vec![0; format.row_bytes(columns as u64) as usize * (x.len() / columns)];
        let mut y = vec![0.0; x.len()];
        let encoding = fastest(|| quantize(format, &x, columns, importance.as_deref(), &mut blocks));
        let decoding = fastest(|| dequantize(format, &blocks, &mut y));
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (row, decoded) in x.chunks(columns).zip(y.chunks(columns)) {
            for (i, (&x, &y)) in row.iter().zip(decoded).enumerate() {
                let w = importance.as_ref().map_or(1.0, |w| f64::from(w[i]));
                let (x, y) = (f64::from(x), f64::from(y));
                xx += w * x * x;
                xy += w * x * y;
                yy += w * y * y;
            }
        }
        println!(
            "{:8} {:8.2} {:8.2} {:9.3e} {:7.4} {:10.5e}",
            format.name().to_lowercase(),
            x.len() as f64 / encoding / 1e6,
            x.len() as f64 * 4.0 / decoding / 1e9,
            (xx - 2.0 * xy + yy) / xx,
            xy / xx,
            xx * yy / (xy * xy) - 1.0,
        );
        if let Some(folder) = &folder {
            let file = Path::new(folder).join(format!("{}.blocks", format.name().to_lowercase()));
            std::fs::write(file, &blocks).expect("blocks are written");
        }
    }
}

fn read(file: &str) -> Vec<f32> {
    let bytes = std::fs::read(file).expect("a file of f32");
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Seconds of the fastest run within half a second, or of three.
fn fastest(mut run: impl FnMut()) -> f64 {
    let (begin, mut fastest, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || begin.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        run();
        fastest = fastest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}
