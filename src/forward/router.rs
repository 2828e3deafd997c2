//! Which experts a token goes to, and how much each counts. Pure: logits in, choice out.

use super::exp::exp;

/// The routing of a layer's experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Experts that a token uses.
    pub used: usize,
    /// Groups of experts, and how many of them a token may use.
    pub groups: [usize; 2],
    /// Whether scores are sigmoids of the logits (V3), else their softmax (V2).
    pub sigmoid: bool,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalised: bool,
    /// What the weights are multiplied by.
    pub scale: f32,
}

/// llama.cpp divides by no less than this, the smallest normal f16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

impl Router {
    /// The score of every expert.
    pub fn scores(&self, logits: &[f32]) -> Vec<f32> {
        if self.sigmoid {
            return logits.iter().map(|x| 1.0 / (1.0 + exp(-x))).collect();
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = logits.iter().map(|x| exp(x - largest)).collect();
        let sum: f32 = powers.iter().sum();
        powers.iter().map(|x| x / sum).collect()
    }

    /// The chosen experts with their weights, best first; of equals the first.
    ///
    /// With a bias (V3) it is added to choose by but not to weigh by, and a group is as good as its two best experts;
    /// without (V2) a group is as good as its best one.
    pub fn choose(&self, scores: &[f32], bias: Option<&[f32]>) -> Vec<(usize, f32)> {
        let mut merit: Vec<f32> = match bias {
            Some(bias) => scores.iter().zip(bias).map(|(score, bias)| score + bias).collect(),
            None => scores.to_vec(),
        };
        let [groups, usable] = self.groups;
        if groups > 1 && usable < groups {
            let size = merit.len() / groups;
            let best = if bias.is_some() { 2 } else { 1 };
            let of_group = |group: &[f32]| -> f32 { top(group, best).iter().map(|&i| group[i]).sum() };
            let values: Vec<f32> = merit.chunks_exact(size).map(of_group).collect();
            let open = top(&values, usable);
            for (group, merit) in merit.chunks_exact_mut(size).enumerate() {
                if !open.contains(&group) {
                    merit.fill(f32::NEG_INFINITY);
                }
            }
        }
        let chosen = top(&merit, self.used);
        let sum: f32 = chosen.iter().map(|&expert| scores[expert]).sum();
        let divisor = if self.normalised { sum.max(LEAST_SUM) } else { 1.0 };
        chosen.into_iter().map(|expert| (expert, scores[expert] / divisor * self.scale)).collect()
    }
}

/// Places of the `count` largest values, largest first, of equals the first.
fn top(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const V3: Router = Router { used: 2, groups: [3, 2], sigmoid: true, normalised: true, scale: 2.5 };

    #[test]
    fn v3_chooses_with_the_bias_inside_the_best_groups_and_weighs_without() {
        // Groups of two; the second has the best single expert but the least sum.
        let scores = [0.5, 0.4, 0.85, 0.0, 0.6, 0.3];
        let chosen = V3.choose(&scores, Some(&[0.0, 0.3, 0.0, 0.0, 0.0, 0.0]));
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 4]);
        assert!((chosen[0].1 - 0.4 / 1.0 * 2.5).abs() < 1e-6 && (chosen[1].1 - 0.6 * 2.5).abs() < 1e-6);
    }

    #[test]
    fn v2_takes_a_group_by_its_best_expert_and_equals_in_order() {
        let v2 = Router { sigmoid: false, normalised: false, scale: 1.0, groups: [3, 1], ..V3 };
        assert_eq!(v2.choose(&[0.1, 0.1, 0.5, 0.0, 0.2, 0.1], None), [(2, 0.5), (3, 0.0)]);
        let greedy = Router { groups: [1, 1], ..v2 };
        assert_eq!(greedy.choose(&[0.2, 0.4, 0.4, 0.0], None), [(1, 0.4), (2, 0.4)]);
        let scores = v2.scores(&[0.0, 1.0, 2.0]);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6 && scores[2] > scores[1]);
    }
}
