//! Rows for the tests of this crate, and of the whole program, which takes this file as a module.

use quant_kernels::LARGEST;

/// Seeded numbers, the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// Sixty-four bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in 0..1.
    pub fn even(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Normally distributed, near enough: a sum of twelve, without the tails beyond six.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.even()).sum::<f32>() - 6.0
    }

    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 0.02 * self.normal()).collect()
    }

    /// Importances over some decades, as calibration gives them.
    pub fn importances(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal().exp()).collect()
    }
}

/// Rows that break encoders: each as long as `columns`, in a list.
pub fn hostile_rows(columns: usize) -> Vec<Vec<f32>> {
    let mut random = Random(2);
    let row = |weight: &mut dyn FnMut(usize) -> f32| (0..columns).map(weight).collect::<Vec<f32>>();
    let normal = |random: &mut Random| random.normal();
    let mut rows = vec![
        row(&mut |_| 0.0),
        row(&mut |_| -0.0),
        row(&mut |i| if i % 2 == 0 { 0.0 } else { -0.0 }),
        row(&mut |_| 0.7),
        row(&mut |_| -3e-3),
        row(&mut |_| LARGEST),
        row(&mut |_| -LARGEST),
        row(&mut |i| if i % 2 == 0 { LARGEST } else { -LARGEST }),
        row(&mut |i| (i % 9) as f32 - 4.0),
        row(&mut |i| (i % 5) as f32 * 0.5),
        row(&mut |i| if i % 67 == 0 { 1.0 } else { 0.0 }),
        row(&mut |i| if i == 300 { -5.0 } else { 1e-4 }),
        row(&mut |i| if i % 256 == 255 { LARGEST } else { 0.01 }),
        row(&mut |i| f32::from_bits(1 + i as u32)),
        row(&mut |_| f32::MIN_POSITIVE),
        row(&mut |i| if i % 3 == 0 { -f32::MIN_POSITIVE } else { 1e-38 }),
    ];
    for exponent in [-45, -38, -20, -12, -8, -7, -6, -5, -4, -3, 0, 3, 4] {
        rows.push(row(&mut |_| (normal(&mut random) * 10f32.powi(exponent)).clamp(-LARGEST, LARGEST)));
    }
    for widest in [4, 20, 60] {
        rows.push(row(&mut |_| {
            let exponent = (random.bits() % widest) as i32;
            (normal(&mut random) * 4f32.powi(6 - exponent)).clamp(-LARGEST, LARGEST)
        }));
    }
    rows.push(row(&mut |_| (LARGEST * normal(&mut random)).clamp(-LARGEST, LARGEST)));
    rows.push(row(&mut |_| (normal(&mut random) * 4.0).round() / 64.0));
    rows.push(row(&mut |_| normal(&mut random).abs()));
    rows.push(row(&mut |_| -normal(&mut random).abs() - 100.0));
    rows
}

/// Importances that break encoders.
pub fn hostile_importances(columns: usize) -> Vec<Option<Vec<f32>>> {
    let mut random = Random(3);
    vec![
        None,
        Some(vec![0.0; columns]),
        Some(vec![1e-40; columns]),
        Some(vec![f32::MAX; columns]),
        Some((0..columns).map(|i| if i % 37 == 0 { 1.0 } else { 0.0 }).collect()),
        Some((0..columns).map(|i| if i / 32 % 3 == 0 { 0.0 } else { 1e30 }).collect()),
        Some((0..columns).map(|_| 10f32.powf(12.0 * random.normal())).map(|w| w.min(f32::MAX)).collect()),
    ]
}
