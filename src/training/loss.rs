//! How badly a batch's subjects are told apart: triplet losses over all embeddings of a batch.

use tch::{Kind, Tensor};

use super::config::Loss;
use crate::evaluation::Random;

/// Above every distance that is compared with it.
const FAR: f64 = 1e9;

/// The loss of a batch.
pub struct BatchLoss {
    /// A scalar that gradients can be taken of.
    pub loss: Tensor,
    /// The share of triplets that the loss still changes something for; under a soft margin, of those in which the
    /// negative is nearer than the positive.
    pub active: Tensor,
}

/// Measures `N x D` embeddings; `subjects[i]` is whom row `i` shows. A subject with one row is a negative only. There must
/// be a subject with two rows, and two subjects.
pub fn measure(embeddings: &Tensor, subjects: &[usize], loss: &Loss, random: &mut Random) -> BatchLoss {
    let labels = Tensor::from_slice(&subjects.iter().map(|subject| *subject as i64).collect::<Vec<_>>());
    let labels = labels.to_device(embeddings.device());
    let same = labels.unsqueeze(0).eq_tensor(&labels.unsqueeze(1));
    let itself = Tensor::eye(labels.numel() as i64, (Kind::Bool, embeddings.device()));
    let batch = Triplets {
        distances: squared_distances(embeddings),
        positive: same.logical_and(&itself.logical_not()),
        negative: same.logical_not(),
    };
    match *loss {
        Loss::SemiHard { margin } => batch.semi_hard(margin),
        Loss::BatchHard { margin } => batch.hard(Some(margin)),
        Loss::BatchHardSoft => batch.hard(None),
        Loss::RandomMeanSquare { margin } => {
            let dimension = embeddings.size()[1] as f64;
            Triplets { distances: batch.distances / dimension, ..batch }.random(subjects, margin, random)
        }
    }
}

/// `N x N` squared Euclidean distances of rows.
pub fn squared_distances(embeddings: &Tensor) -> Tensor {
    let squares = (embeddings * embeddings).sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
    let products = embeddings.matmul(&embeddings.tr());
    (squares.unsqueeze(0) + squares.unsqueeze(1) - products * 2.0).clamp_min(0.0)
}

struct Triplets {
    /// `N x N`.
    distances: Tensor,
    /// Whether row and column are different faces of one subject.
    positive: Tensor,
    negative: Tensor,
}

impl Triplets {
    /// The mean over all pairs of one subject, each with one negative.
    fn semi_hard(&self, margin: f64) -> BatchLoss {
        let to_positive = self.distances.unsqueeze(2);
        let to_negative = self.distances.unsqueeze(1);
        let farther = to_negative.gt_tensor(&to_positive).logical_and(&self.negative.unsqueeze(1));
        let nearest_farther = to_negative.masked_fill(&farther.logical_not(), FAR).amin([2_i64].as_slice(), false);
        let farthest = self.distances.masked_fill(&self.negative.logical_not(), -1.0).amax([1_i64].as_slice(), true);
        let exists = farther.any_dim(2, false);
        let negative = nearest_farther.where_self(&exists, &farthest);
        mean_of(&(&self.distances - negative + margin).relu(), &self.positive)
    }

    /// The mean over all faces that have a positive; `None` is the soft margin.
    fn hard(&self, margin: Option<f64>) -> BatchLoss {
        let farthest = self.distances.masked_fill(&self.positive.logical_not(), -1.0).amax([1_i64].as_slice(), false);
        let nearest = self.distances.masked_fill(&self.negative.logical_not(), FAR).amin([1_i64].as_slice(), false);
        let excess = farthest - nearest;
        let anchors = self.positive.any_dim(1, false);
        match margin {
            Some(margin) => mean_of(&(excess + margin).relu(), &anchors),
            None => BatchLoss {
                loss: mean_of(&excess.softplus(), &anchors).loss,
                active: mean_of(&excess.relu(), &anchors).active,
            },
        }
    }

    fn random(&self, subjects: &[usize], margin: f64, random: &mut Random) -> BatchLoss {
        let (mut anchors, mut positives, mut negatives) = (Vec::new(), Vec::new(), Vec::new());
        for (anchor, subject) in subjects.iter().enumerate() {
            let others = |same: bool| {
                let chosen = move |(row, other): (usize, &usize)| {
                    (row != anchor && (other == subject) == same).then_some(row as i64)
                };
                subjects.iter().enumerate().filter_map(chosen).collect::<Vec<_>>()
            };
            let (same, different) = (others(true), others(false));
            if !same.is_empty() && !different.is_empty() {
                anchors.push(anchor as i64);
                positives.push(same[random.below(same.len())]);
                negatives.push(different[random.below(different.len())]);
            }
        }
        let there = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(self.distances.device());
        let rows = self.distances.index_select(0, &there(&anchors));
        let to = |columns: &[i64]| rows.gather(1, &there(columns).unsqueeze(1), false).squeeze_dim(1);
        let excess = (to(&positives) - to(&negatives) + margin).relu();
        let all = excess.ones_like().to_kind(Kind::Bool);
        mean_of(&excess, &all)
    }
}

/// Mean and share of positive values where `chosen` is true.
fn mean_of(values: &Tensor, chosen: &Tensor) -> BatchLoss {
    let weights = chosen.to_kind(Kind::Float);
    let count = weights.sum(Kind::Float).clamp_min(1.0);
    let active = (values.detach().gt(0.0).to_kind(Kind::Float) * &weights).sum(Kind::Float) / &count;
    BatchLoss { loss: (values * &weights).sum(Kind::Float) / &count, active }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a line, so that distances are squares of differences: two faces of subject 0, one of subject 1, one of 2.
    fn line() -> (Tensor, [usize; 4]) {
        (Tensor::from_slice(&[0.0_f32, 1.0, 1.5, 3.0]).unsqueeze(1), [0, 0, 1, 2])
    }

    fn of(loss: &Loss) -> (f64, f64) {
        let (embeddings, subjects) = line();
        let measured = measure(&embeddings, &subjects, loss, &mut Random::new(1, 0));
        (measured.loss.double_value(&[]), measured.active.double_value(&[]))
    }

    #[test]
    fn small_cases_by_hand() {
        // Distances: 0-1: 1, 0-2: 2.25, 0-3: 9, 1-2: 0.25, 1-3: 4. The single faces of 1 and 2 are no anchors.
        // Nearest negatives are 2.25 away of the first and 0.25 of the second.
        let close = |(a, b): (f64, f64), (c, d): (f64, f64)| assert!((a - c).abs() < 1e-6 && b == d, "{a} {b}");
        close(of(&Loss::BatchHard { margin: 0.5 }), ((0.0 + 1.25) / 2.0, 0.5));
        let soft = |x: f64| (1.0 + x.exp()).ln();
        close(of(&Loss::BatchHardSoft), ((soft(-1.25) + soft(0.75)) / 2.0, 0.5));
        // The nearest that are farther than the positive: 2.25 and 4.
        close(of(&Loss::SemiHard { margin: 2.0 }), (0.75 / 2.0, 0.5));
    }

    #[test]
    fn semi_hard_falls_back_to_the_farthest() {
        let embeddings = Tensor::from_slice(&[0.0_f32, 3.0, 1.0, 2.0]).unsqueeze(1);
        let measured = measure(&embeddings, &[0, 0, 1, 2], &Loss::SemiHard { margin: 0.5 }, &mut Random::new(1, 0));
        // Both negatives of either anchor are nearer than 9; the farther of them is 4 away.
        assert!((measured.loss.double_value(&[]) - 5.5).abs() < 1e-5);
    }

    #[test]
    fn random_triplets_take_the_mean_over_dimensions() {
        let embeddings = Tensor::from_slice(&[0.0_f32, 0.0, 2.0, 0.0, 0.0, 4.0]).reshape([3, 2]);
        let loss = Loss::RandomMeanSquare { margin: 1.0 };
        let measured = measure(&embeddings, &[5, 5, 9], &loss, &mut Random::new(1, 0));
        // Anchor 0: 4/2 - 16/2 + 1 < 0; anchor 1: 4/2 - 20/2 + 1 < 0.
        assert_eq!(measured.loss.double_value(&[]), 0.0);
    }

    #[test]
    fn gradients_pull_the_positive_and_push_the_negative() {
        let (embeddings, subjects) = line();
        let embeddings = embeddings.set_requires_grad(true);
        let measured = measure(&embeddings, &subjects, &Loss::BatchHard { margin: 0.5 }, &mut Random::new(1, 0));
        measured.loss.backward();
        let gradient = super::super::params::numbers(&embeddings.grad());
        // Against the gradient the second face moves to the first and away from the third.
        assert!(gradient[1] > 0.0 && gradient[2] < 0.0 && gradient[3] == 0.0, "{gradient:?}");
    }
}
