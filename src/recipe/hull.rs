//! The lower convex hull of a group's candidates (bytes, damage), and the sizes that they can give. Pure.

use serde::Serialize;

/// Bytes and damage: of a group in one type, or of all groups with a choice of types.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Bytes that the tensors take.
    pub bytes: u64,
    /// Damage that is expected of it; finite, 0 or more.
    pub damage: f64,
}

/// No choice has the size that is wanted: it is below the smallest or above the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// Bytes of the smallest choice.
    pub smallest: u64,
    /// Bytes of the largest choice.
    pub largest: u64,
}

/// Sizes from the smallest to the largest with the least damage at each: at most `points`, 2 or more, about evenly
/// apart, with ascending bytes and falling damage.
///
/// The points are those at which the hulls' steps are taken whole, so no choice of a point's size is better, and all of
/// them cost one sorting of the steps; [`allocate`](super::allocate) meets the sizes between them.
///
/// # Panics
/// If a group has no candidate.
pub fn curve(groups: &[Vec<Candidate>], points: u64) -> Vec<Candidate> {
    let Impossible { smallest, largest } = range(groups);
    let mut chosen: Vec<Candidate> = groups.iter().map(|group| group[hull(group)[0]]).collect();
    let mut curve = vec![sum(&chosen)];
    let part = (largest - smallest).div_ceil(points.max(2) - 1).max(1);
    let mut wanted = smallest + part;
    let mut bytes = smallest;
    for Step { group, to, .. } in steps(groups) {
        bytes = bytes - chosen[group].bytes + groups[group][to].bytes;
        chosen[group] = groups[group][to];
        // The first at or above each size, and so the last of all.
        if bytes >= wanted || bytes == largest {
            curve.push(sum(&chosen));
            wanted = smallest + ((bytes - smallest) / part + 1) * part;
        }
    }
    curve
}

/// Bytes and damage in all.
fn sum(chosen: &[Candidate]) -> Candidate {
    let add = |sum: Candidate, c: &Candidate| Candidate {
        bytes: sum.bytes + c.bytes,
        damage: sum.damage + c.damage,
    };
    chosen.iter().fold(Candidate { bytes: 0, damage: 0.0 }, add)
}

/// The smallest and the largest size that [`allocate`](super::allocate) can reach.
pub fn range(groups: &[Vec<Candidate>]) -> Impossible {
    let ends = groups.iter().map(|group| {
        let hull = hull(group);
        [group[hull[0]].bytes, group[hull[hull.len() - 1]].bytes]
    });
    ends.fold(Impossible { smallest: 0, largest: 0 }, |sum, [first, last]| Impossible {
        smallest: sum.smallest + first,
        largest: sum.largest + last,
    })
}

/// Places of the candidates on the lower convex hull, from the smallest to the one of least damage.
pub fn hull(group: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..group.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&group[a], &group[b]);
        a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage))
    });
    let mut hull: Vec<usize> = Vec::new();
    for index in order {
        if hull.last().is_some_and(|&last| group[index].damage >= group[last].damage) {
            continue;
        }
        while let [.., before, last] = hull[..] {
            if worth(&group[before], &group[last]) > worth(&group[last], &group[index]) {
                break;
            }
            hull.pop();
        }
        hull.push(index);
    }
    hull
}

/// Damage that a byte more saves.
fn worth(from: &Candidate, to: &Candidate) -> f64 {
    (from.damage - to.damage) / (to.bytes as f64 - from.bytes as f64)
}

/// From one candidate on a group's hull to the next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Damage that a byte more saves.
    worth: f64,
    /// Index of the group.
    pub group: usize,
    /// The place of the candidate that it leads to.
    pub to: usize,
}

/// The steps of all groups' hulls, the worthiest first; of equal ones the first groups'.
pub fn steps(groups: &[Vec<Candidate>]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (group, candidates) in groups.iter().enumerate() {
        let pairs = hull(candidates);
        let step = |pair: &[usize]| {
            let worth = worth(&candidates[pair[0]], &candidates[pair[1]]);
            Step { worth, group, to: pair[1] }
        };
        steps.extend(pairs.windows(2).map(step));
    }
    // Along a hull the worth falls, and the sort is stable: a group's steps stay in order.
    steps.sort_by(|a, b| b.worth.total_cmp(&a.worth));
    steps
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::allocate;
    use super::*;

    /// SplitMix64.
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % end
        }

        pub fn group(&mut self, candidates: u64) -> Vec<Candidate> {
            let weights = 1 + self.below(40);
            let harm = 1 + self.below(1000);
            let candidate = |index: u64, random: &mut Self| Candidate {
                bytes: weights * (2 + 2 * index),
                damage: harm as f64 * 0.4f64.powi(index as i32) * (0.8 + random.below(400) as f64 / 1000.0),
            };
            (0..candidates).map(|index| candidate(index, self)).collect()
        }
    }

    /// The least damage if steps could be taken in parts: no choice is better.
    pub fn relaxed(groups: &[Vec<Candidate>], budget: u64) -> f64 {
        let (mut steps, mut bytes, mut damage) = (Vec::new(), 0, 0.0);
        for group in groups {
            let hull = hull(group);
            bytes += group[hull[0]].bytes;
            damage += group[hull[0]].damage;
            steps.extend(hull.windows(2).map(|pair| (group[pair[0]], group[pair[1]])));
        }
        steps.sort_by(|a, b| worth(&b.0, &b.1).total_cmp(&worth(&a.0, &a.1)));
        let mut left = (budget - bytes) as f64;
        for (from, to) in steps {
            let part = (left / (to.bytes - from.bytes) as f64).min(1.0);
            damage -= part * (from.damage - to.damage);
            left -= part * (to.bytes - from.bytes) as f64;
        }
        damage
    }

    #[test]
    fn a_curve_goes_from_end_to_end_along_the_relaxed_optimum() {
        let mut random = Random(3);
        let groups: Vec<_> = (0..900).map(|_| random.group(10)).collect();
        let Impossible { smallest, largest } = range(&groups);
        let curve = curve(&groups, 48);
        assert!((40..=48).contains(&curve.len()), "{} points", curve.len());
        assert_eq!((curve[0].bytes, curve[curve.len() - 1].bytes), (smallest, largest));
        for pair in curve.windows(2) {
            assert!(pair[0].bytes < pair[1].bytes && pair[0].damage > pair[1].damage, "{pair:?}");
            assert!(pair[1].bytes - pair[0].bytes <= (largest - smallest) / 20, "{pair:?}");
        }
        for Candidate { bytes, damage } in curve {
            let least = relaxed(&groups, bytes);
            assert!((damage - least).abs() <= 1e-9 * least, "{damage}, at least {least}");
            let chosen = allocate(&groups, bytes).expect("possible");
            let found = groups.iter().zip(chosen).map(|(group, to)| group[to].damage).sum::<f64>();
            assert!((found - damage).abs() <= 1e-9 * damage, "{found}, on the curve {damage}");
        }
    }

    #[test]
    fn a_curve_of_few_steps_has_them_all() {
        let group = |first, second| {
            vec![first, second].into_iter().map(|(bytes, damage)| Candidate { bytes, damage })
        };
        let groups: Vec<Vec<Candidate>> =
            vec![group((10, 1.0), (20, 0.5)).collect(), group((10, 4.0), (15, 1.0)).collect()];
        let points: Vec<(u64, f64)> =
            curve(&groups, 48).iter().map(|point| (point.bytes, point.damage)).collect();
        assert_eq!(points, [(20, 5.0), (25, 2.0), (35, 1.5)]);
        let points: Vec<u64> = curve(&groups, 2).iter().map(|point| point.bytes).collect();
        assert_eq!(points, [20, 35]);
        assert_eq!(curve(&[vec![Candidate { bytes: 10, damage: 1.0 }]], 48).len(), 1);
    }

    #[test]
    fn candidates_above_the_hull_are_left_out() {
        let c = |bytes, damage| Candidate { bytes, damage };
        assert_eq!(hull(&[c(10, 8.0), c(12, 7.9), c(14, 4.0), c(16, 5.0), c(20, 3.0)]), [0, 2, 4]);
        assert_eq!(hull(&[c(10, 8.0), c(10, 4.0)]), [1]);
    }
}
