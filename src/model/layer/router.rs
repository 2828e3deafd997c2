//! The router: which experts a token uses and with which weights. Pure: logits in, choice out.

use super::exp::exp;
use super::norm::{sigmoid, softmax_back, softplus};

/// The routing of a layer's experts: one formula with switches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Experts that a token uses.
    pub used: u32,
    /// Groups of experts, of which a token may use some only.
    pub groups: Option<Groups>,
    /// How scores follow from the logits.
    pub gating: Gating,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalised: bool,
    /// The factor of the experts' weights.
    pub scale: f32,
    /// Whether a learnt bias is added to the scores when experts are chosen.
    pub bias: bool,
}

/// Groups of experts, of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: u32,
    /// How many of them a token may use.
    pub used: u32,
}

/// How a router's scores follow from its logits, with GGUF's numbers (`expert_gating_func`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// The softmax of the logits.
    Softmax = 1,
    /// The sigmoid of each logit.
    Sigmoid = 2,
    /// The logits; the weights are the softmax over those of the chosen.
    SoftmaxOfChosen = 3,
    /// The square root of ln(1 + e^logit).
    RootOfSoftplus = 4,
}

impl Gating {
    /// The one with this number in GGUF.
    pub fn of(number: u32) -> Option<Self> {
        [Self::Softmax, Self::Sigmoid, Self::SoftmaxOfChosen, Self::RootOfSoftplus]
            .into_iter()
            .find(|g| *g as u32 == number)
    }
}

/// llama.cpp divides by no less than this, the smallest normal f16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

impl Router {
    /// The score of every expert.
    pub fn scores(&self, logits: &[f32]) -> Vec<f32> {
        match self.gating {
            Gating::Softmax => softmax(logits),
            Gating::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + exp(-x))).collect(),
            Gating::SoftmaxOfChosen => logits.to_vec(),
            Gating::RootOfSoftplus => logits.iter().map(|x| softplus(*x).sqrt()).collect(),
        }
    }

    /// The chosen experts with their weights, best first; of equals the first.
    ///
    /// A bias (V3) is added to the scores for choosing, but not to the weights, and a group counts by the sum of its
    /// two best experts; without one (V2) a group counts by its best expert.
    pub fn choose(&self, scores: &[f32], bias: Option<&[f32]>) -> Vec<(usize, f32)> {
        let mut merit: Vec<f32> = match bias {
            Some(bias) => scores.iter().zip(bias).map(|(score, bias)| score + bias).collect(),
            None => scores.to_vec(),
        };
        if let Some(Groups { count, used }) = self.groups
            && count > 1
            && used < count
        {
            let size = merit.len() / count as usize;
            let best = if bias.is_some() { 2 } else { 1 };
            let of_group = |group: &[f32]| -> f32 { top(group, best).iter().map(|&i| group[i]).sum() };
            let values: Vec<f32> = merit.chunks_exact(size).map(of_group).collect();
            let open = top(&values, used as usize);
            for (group, merit) in merit.chunks_exact_mut(size).enumerate() {
                if !open.contains(&group) {
                    merit.fill(f32::NEG_INFINITY);
                }
            }
        }
        let chosen = top(&merit, self.used as usize);
        let mut weights: Vec<f32> = chosen.iter().map(|&expert| scores[expert]).collect();
        if self.gating == Gating::SoftmaxOfChosen {
            weights = softmax(&weights);
        }
        let divisor = if self.normalised { weights.iter().sum::<f32>().max(LEAST_SUM) } else { 1.0 };
        chosen
            .into_iter()
            .zip(weights)
            .map(|(expert, weight)| (expert, weight / divisor * self.scale))
            .collect()
    }
}

impl Router {
    /// From gradients at the weights of the chosen experts to those at all logits. Which ones are chosen is taken as given.
    pub fn back(
        &self,
        scores: &[f32],
        logits: &[f32],
        chosen: &[(usize, f32)],
        gradients: &[f32],
    ) -> Vec<f32> {
        let mut back = vec![0.0; scores.len()];
        // Each weight is `scale` times its share, or times its score.
        let mean = |part: &dyn Fn(f32) -> f32| -> f32 {
            chosen.iter().zip(gradients).map(|((_, weight), d)| d * part(weight / self.scale)).sum()
        };
        if self.gating == Gating::SoftmaxOfChosen {
            let mean = mean(&|share| share);
            for ((expert, weight), d) in chosen.iter().zip(gradients) {
                back[*expert] = weight * (d - mean);
            }
            return back;
        }
        let sum: f32 = chosen.iter().map(|&(expert, _)| scores[expert]).sum();
        let [divisor, mean] = match self.normalised && sum > LEAST_SUM {
            true => [sum, mean(&|share| share)],
            false => [if self.normalised { LEAST_SUM } else { 1.0 }, 0.0],
        };
        for (&(expert, _), d) in chosen.iter().zip(gradients) {
            let of_score = self.scale / divisor * (d - mean);
            back[expert] = match self.gating {
                Gating::Sigmoid => of_score * scores[expert] * (1.0 - scores[expert]),
                Gating::RootOfSoftplus => of_score * sigmoid(logits[expert]) / (2.0 * scores[expert]),
                Gating::Softmax | Gating::SoftmaxOfChosen => of_score,
            };
        }
        if self.gating == Gating::Softmax {
            softmax_back(&mut back, scores, 1.0);
        }
        back
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|x| exp(x - largest)).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|x| x / sum).collect()
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

    const V3: Router = Router {
        used: 2,
        groups: Some(Groups { count: 3, used: 2 }),
        gating: Gating::Sigmoid,
        normalised: true,
        scale: 2.5,
        bias: true,
    };

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
        let groups = Some(Groups { count: 3, used: 1 });
        let v2 = Router { gating: Gating::Softmax, normalised: false, scale: 1.0, groups, bias: false, ..V3 };
        assert_eq!(v2.choose(&[0.1, 0.1, 0.5, 0.0, 0.2, 0.1], None), [(2, 0.5), (3, 0.0)]);
        let greedy = Router { groups: None, ..v2 };
        assert_eq!(greedy.choose(&[0.2, 0.4, 0.4, 0.0], None), [(1, 0.4), (2, 0.4)]);
        let scores = v2.scores(&[0.0, 1.0, 2.0]);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6 && scores[2] > scores[1]);
    }

    #[test]
    fn gradients_at_logits_are_the_slopes() {
        let logits = [0.3, -0.8, 1.2, 0.1, 0.9, -0.2];
        for gating in [Gating::Softmax, Gating::Sigmoid, Gating::SoftmaxOfChosen, Gating::RootOfSoftplus] {
            for normalised in [false, true] {
                let router = Router { gating, normalised, groups: None, ..V3 };
                let d = [0.7, -1.1];
                let chosen = router.choose(&router.scores(&logits), None);
                let loss = |logits: &[f32]| -> f32 {
                    let weights = router.choose(&router.scores(logits), None);
                    weights.iter().zip(d).map(|((_, weight), d)| weight * d).sum()
                };
                let found = router.back(&router.scores(&logits), &logits, &chosen, &d);
                for (i, found) in found.iter().enumerate() {
                    let [mut up, mut down] = [logits; 2];
                    up[i] += 2e-3;
                    down[i] -= 2e-3;
                    let slope = (loss(&up) - loss(&down)) / (up[i] - down[i]);
                    assert!((found - slope).abs() < 2e-3, "{gating:?} {normalised} {i}: {found} {slope}");
                }
            }
        }
    }

    #[test]
    fn a_softmax_over_the_chosen_leaves_the_others_out() {
        let router =
            Router { gating: Gating::SoftmaxOfChosen, groups: None, normalised: false, scale: 1.0, ..V3 };
        let chosen = router.choose(&router.scores(&[1.0, 3.0, -9.0, 2.0]), None);
        let weight = 1.0 / (1.0 + (-1f32).exp());
        assert_eq!(chosen.iter().map(|c| c.0).collect::<Vec<_>>(), [1, 3]);
        assert!((chosen[0].1 - weight).abs() < 1e-6 && (chosen[1].1 - (1.0 - weight)).abs() < 1e-6);
    }
}
