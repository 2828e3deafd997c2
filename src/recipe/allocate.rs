//! A type for each group under a budget of bytes: least damage in all. Pure, and the same answer every time.
//!
//! The lower convex hull of each group's (bytes, damage) gives steps of falling worth per byte, and the steps of all
//! groups in the order of their worth give an optimum for each size that they reach (the Lagrangian relaxation's).
//! Between these sizes groups are exchanged, alone and in pairs, as long as the damage falls.

use std::cmp::Ordering;

use super::hull::{Candidate, Impossible, Step, hull, range, steps};

/// A size below the budget by more than this share is filled up, even where that does not lower the damage.
const TOLERANCE: u64 = 1000;

/// The place of the chosen candidate in each group: bytes in all at most `budget`, damage as low as is found.
///
/// Of equal choices the first groups' candidates come first.
///
/// # Errors
/// If the smallest candidates take more than the budget, or the largest fall short of it by more than 0.1 %.
///
/// # Panics
/// If a group has no candidate.
pub fn allocate(groups: &[Vec<Candidate>], budget: u64) -> Result<Vec<usize>, Impossible> {
    let impossible @ Impossible { smallest, largest } = range(groups);
    if budget < smallest || largest + budget / TOLERANCE < budget {
        return Err(impossible);
    }
    let mut search = Search::new(groups, budget);
    search.climb();
    search.exchange(|_| true);
    if search.slack() > budget / TOLERANCE {
        search.fill();
        // Only upwards, or it would go back to where it came from.
        search.exchange(|change| change.bytes > 0);
    }
    Ok(search.chosen)
}

/// A choice on its way.
struct Search<'a> {
    groups: &'a [Vec<Candidate>],
    budget: u64,
    bytes: u64,
    chosen: Vec<usize>,
}

/// Another candidate for a group.
#[derive(Clone, Copy, Debug)]
struct Move {
    group: usize,
    to: usize,
    /// Bytes more, or less.
    bytes: i64,
    /// Damage more, or less.
    damage: f64,
}

impl Move {
    /// By damage; of equal ones the smaller, then the first.
    fn order(&self, other: &Self) -> Ordering {
        let key = |m: &Self| (m.bytes, m.group, m.to);
        self.damage.total_cmp(&other.damage).then_with(|| key(self).cmp(&key(other)))
    }
}

impl<'a> Search<'a> {
    fn new(groups: &'a [Vec<Candidate>], budget: u64) -> Self {
        let chosen: Vec<usize> = groups.iter().map(|group| hull(group)[0]).collect();
        let bytes = groups.iter().zip(&chosen).map(|(group, &chosen)| group[chosen].bytes).sum();
        Self { groups, budget, bytes, chosen }
    }

    fn slack(&self) -> u64 {
        self.budget - self.bytes
    }

    fn to(&self, group: usize, to: usize) -> Move {
        let (old, new) = (&self.groups[group][self.chosen[group]], &self.groups[group][to]);
        let bytes = new.bytes as i64 - old.bytes as i64;
        Move { group, to, bytes, damage: new.damage - old.damage }
    }

    fn apply(&mut self, change: Move) {
        self.bytes = self.bytes.checked_add_signed(change.bytes).expect("sizes are not negative");
        self.chosen[change.group] = change.to;
    }

    /// Takes the steps in their order; a group whose next step does not fit stays.
    fn climb(&mut self) {
        let mut stuck = vec![false; self.groups.len()];
        for Step { group, to, .. } in steps(self.groups) {
            let step = self.to(group, to);
            if stuck[group] || step.bytes > self.slack() as i64 {
                stuck[group] = true;
            } else {
                self.apply(step);
            }
        }
    }

    /// All moves but those to the same bytes and more damage, by bytes.
    fn moves(&self) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        for (group, candidates) in self.groups.iter().enumerate() {
            let others = (0..candidates.len()).filter(|&to| to != self.chosen[group]);
            moves.extend(others.map(|to| self.to(group, to)).filter(|m| m.bytes < 0 || m.damage < 0.0));
        }
        moves.sort_by(|a, b| a.bytes.cmp(&b.bytes).then_with(|| a.order(b)));
        moves
    }

    /// Changes one group or two at a time, each time the best change that fits, while the damage falls.
    fn exchange(&mut self, allowed: impl Fn(&Move) -> bool) {
        // Each change lowers the damage, so this ends; the bound keeps a pathological table from taking long.
        for _ in 0..8 * self.groups.len() + 8 {
            let mut moves = self.moves();
            moves.retain(&allowed);
            let slack = self.slack() as i64;
            let Some((damage, first, second)) = best(&moves, slack) else { break };
            if damage >= 0.0 {
                break;
            }
            self.apply(first);
            if let Some(second) = second {
                self.apply(second);
            }
        }
    }

    /// Makes room for one large step by many small ones back, of the least worth, such that the budget is used; the
    /// best of all large steps, or nothing if none comes near the budget.
    fn fill(&mut self) {
        let mut best: Option<(f64, Vec<usize>, u64)> = None;
        let mut ups: Vec<Move> =
            self.moves().into_iter().filter(|m| m.bytes > self.slack() as i64 && m.damage < 0.0).collect();
        ups.sort_by_key(|m| (m.bytes, m.group, m.to));
        ups.dedup_by_key(|m| (m.bytes, m.damage.to_bits()));
        for up in ups {
            let mut chosen = self.chosen.clone();
            chosen[up.group] = up.to;
            let mut bytes = self.bytes as i64 + up.bytes;
            let mut damage = up.damage;
            let mut downs: Vec<Move> = self.moves();
            downs.retain(|m| m.bytes < 0 && m.group != up.group);
            let price = |m: &Move| m.damage / -m.bytes as f64;
            downs.sort_by(|a, b| price(a).total_cmp(&price(b)).then_with(|| a.order(b)));
            let mut taken = vec![false; self.groups.len()];
            let floor = (self.budget - self.budget / TOLERANCE) as i64;
            for down in downs {
                if bytes <= self.budget as i64 {
                    break;
                }
                if !taken[down.group] && bytes + down.bytes >= floor {
                    taken[down.group] = true;
                    chosen[down.group] = down.to;
                    bytes += down.bytes;
                    damage += down.damage;
                }
            }
            let fits = (floor..=self.budget as i64).contains(&bytes);
            if fits && best.as_ref().is_none_or(|(least, ..)| damage < *least) {
                best = Some((damage, chosen, bytes as u64));
            }
        }
        if let Some((_, chosen, bytes)) = best {
            (self.chosen, self.bytes) = (chosen, bytes);
        }
    }
}

/// The change of one or two groups that fits `slack` and lowers the damage most. `moves` ascend by bytes.
fn best(moves: &[Move], slack: i64) -> Option<(f64, Move, Option<Move>)> {
    // The best two of different groups among the moves up to each: the partner of a move is one of them.
    let mut leaders: Vec<[Option<Move>; 2]> = Vec::with_capacity(moves.len());
    let mut two: [Option<Move>; 2] = [None; 2];
    for &m in moves {
        let before = |a: &Move, b: Option<Move>| b.is_none_or(|b| a.order(&b) == Ordering::Less);
        if two[0].is_some_and(|first| first.group == m.group) {
            if before(&m, two[0]) {
                two[0] = Some(m);
            }
        } else if before(&m, two[0]) {
            two = [Some(m), two[0]];
        } else if before(&m, two[1]) {
            two[1] = Some(m);
        }
        leaders.push(two);
    }
    let mut best: Option<(f64, Move, Option<Move>)> = None;
    let mut offer = |damage: f64, first: Move, second: Option<Move>| {
        if best.as_ref().is_none_or(|best| damage < best.0) {
            best = Some((damage, first, second));
        }
    };
    for &m in moves {
        if m.bytes <= slack {
            offer(m.damage, m, None);
        }
        let partners = moves.partition_point(|other| other.bytes <= slack - m.bytes);
        let leaders = partners.checked_sub(1).map_or([None; 2], |last| leaders[last]);
        if let Some(partner) = leaders.into_iter().flatten().find(|partner| partner.group != m.group) {
            offer(m.damage + partner.damage, m, Some(partner));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::hull::tests::{Random, relaxed};
    use super::*;

    fn sums(groups: &[Vec<Candidate>], chosen: &[usize]) -> (u64, f64) {
        let picked = groups.iter().zip(chosen).map(|(group, &index)| group[index]);
        picked.fold((0, 0.0), |(bytes, damage), c| (bytes + c.bytes, damage + c.damage))
    }

    fn least_damage(groups: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = groups.split_first() else { return Some(0.0) };
        let fitting = first.iter().filter(|c| c.bytes <= budget);
        let all = fitting.filter_map(|c| Some(c.damage + least_damage(rest, budget - c.bytes)?));
        all.min_by(f64::total_cmp)
    }

    #[test]
    fn small_cases_are_close_to_the_best_of_all_choices() {
        let mut random = Random(1);
        let (mut exact, mut excess) = (0, 0.0);
        for case in 0..300 {
            let number = 2 + random.below(4);
            let groups: Vec<_> = (0..number).map(|_| random.group(2 + case % 3)).collect();
            let Impossible { smallest, largest } = range(&groups);
            let budget = smallest + random.below(largest - smallest + 1);
            let chosen = allocate(&groups, budget).expect("possible");
            let (bytes, damage) = sums(&groups, &chosen);
            assert!(bytes <= budget);
            let best = least_damage(&groups, budget).expect("possible");
            excess += damage / best - 1.0;
            exact += u32::from(damage <= best * (1.0 + 1e-12));
        }
        // The last few of so few groups are those where three would have to change at once.
        let excess = excess / 300.0;
        assert!(exact >= 280 && excess < 0.02, "{exact} of 300 are the best, in the mean {excess} above");
    }

    #[test]
    fn many_groups_fill_the_budget_and_come_near_the_relaxed_optimum() {
        let mut random = Random(2);
        let groups: Vec<_> = (0..900).map(|_| random.group(10)).collect();
        let Impossible { smallest, largest } = range(&groups);
        for _ in 0..20 {
            let budget = smallest + random.below(largest - smallest);
            let chosen = allocate(&groups, budget).expect("possible");
            let (bytes, damage) = sums(&groups, &chosen);
            assert!(bytes <= budget && budget - bytes <= budget / 1000, "{bytes} of {budget}");
            assert!(damage <= relaxed(&groups, budget) * 1.001, "{damage}");
            assert_eq!(allocate(&groups, budget).expect("possible"), chosen);
        }
    }

    #[test]
    fn a_large_step_makes_room_by_small_ones_back() {
        // All small groups are at their best at 110,000; more is used only if the large one grows and they shrink.
        let large =
            vec![Candidate { bytes: 100_000, damage: 1.0 }, Candidate { bytes: 104_000, damage: 0.999 }];
        let small = vec![Candidate { bytes: 100, damage: 0.1 }, Candidate { bytes: 500, damage: 0.0 }];
        let mut groups = vec![small; 20];
        groups.push(large);
        let budget = 112_000;
        let (bytes, _) = sums(&groups, &allocate(&groups, budget).expect("possible"));
        assert!(bytes <= budget && bytes >= budget - budget / 1000, "{bytes}");
    }

    #[test]
    fn impossible_sizes_name_the_possible_ones() {
        let group = vec![Candidate { bytes: 10, damage: 1.0 }, Candidate { bytes: 20, damage: 0.5 }];
        let groups = vec![group; 3];
        let wrong = Impossible { smallest: 30, largest: 60 };
        assert_eq!(allocate(&groups, 29), Err(wrong));
        assert_eq!(allocate(&groups, 61), Err(wrong));
        assert_eq!(allocate(&groups, 30), Ok(vec![0, 0, 0]));
        assert_eq!(allocate(&groups, 60), Ok(vec![1, 1, 1]));
    }
}
