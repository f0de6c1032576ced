//! From similarity to probability.

use super::{Comparisons, Pair};

const ITERATIONS: usize = 100;
const HALVINGS: i32 = 30;

/// probability = 1 / (1 + exp(-(slope * similarity + intercept))) that a pair is genuine, if both kinds are equally likely
/// beforehand.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LogisticFit {
    pub slope: f64,
    pub intercept: f64,
}

impl LogisticFit {
    /// Logistic regression in which each kind of pairs has the same weight in sum, penalised by Jeffreys' prior (Firth
    /// 1993): so the slope stays finite when a threshold separates the kinds without error (Heinze and Schemper 2002),
    /// and hardly changes otherwise. The scarcer kind counts one for each pair. `None` if similarity does not speak for a
    /// genuine pair.
    pub fn of(comparisons: &Comparisons) -> Option<Self> {
        let (genuine, impostor) = (comparisons.genuine() as f64, comparisons.impostor() as f64);
        let scarcer = genuine.min(impostor);
        let sample = |pair: &Pair| {
            let (genuine, count) = if pair.is_genuine() { (1.0, genuine) } else { (0.0, impostor) };
            Sample {
                similarity: f64::from(pair.similarity),
                genuine,
                weight: comparisons.stands_for(pair) * scarcer / count,
            }
        };
        let samples: Vec<Sample> = comparisons.pairs().iter().map(sample).collect();
        let mut fit = Self { slope: 10.0, intercept: -3.0 };
        let mut loss = fit.loss(&samples);
        for _ in 0..ITERATIONS {
            let step = fit.step(&samples)?;
            let halved = (0..HALVINGS).map(|n| fit.less(step, 0.5_f64.powi(n))).map(|next| (next, next.loss(&samples)));
            let Some((next, next_loss)) = halved.into_iter().find(|(_, next)| *next < loss) else { break };
            let done = loss - next_loss < 1e-10 * scarcer;
            (fit, loss) = (next, next_loss);
            if done {
                break;
            }
        }
        (fit.slope.is_finite() && fit.intercept.is_finite() && fit.slope > 0.0).then_some(fit)
    }

    pub fn probability(&self, similarity: f64) -> f64 {
        1.0 / (1.0 + (-(self.slope * similarity + self.intercept)).exp())
    }

    fn less(self, step: [f64; 2], part: f64) -> Self {
        Self { slope: self.slope - part * step[0], intercept: self.intercept - part * step[1] }
    }

    /// Cross-entropy less half the logarithm of the information's determinant.
    fn loss(&self, samples: &[Sample]) -> f64 {
        let one = |sample: &Sample| {
            let z = self.slope * sample.similarity + self.intercept;
            // ln(1 + e^z) without overflow.
            sample.weight * (z.max(0.0) + (-z.abs()).exp().ln_1p() - sample.genuine * z)
        };
        samples.iter().map(one).sum::<f64>() - self.information(samples).determinant().ln() / 2.0
    }

    fn information(&self, samples: &[Sample]) -> Information {
        let mut sum = Information { ss: 0.0, s: 0.0, one: 0.0 };
        for sample in samples {
            let p = self.probability(sample.similarity);
            let curvature = sample.weight * p * (1.0 - p);
            sum.ss += curvature * sample.similarity * sample.similarity;
            sum.s += curvature * sample.similarity;
            sum.one += curvature;
        }
        sum
    }

    /// What a step of Fisher scoring takes off slope and intercept.
    fn step(&self, samples: &[Sample]) -> Option<[f64; 2]> {
        let information = self.information(samples);
        // All similarities are the same, or every answer is certain.
        if information.determinant().is_nan() || information.determinant() < 1e-18 {
            return None;
        }
        let mut gradient = [0.0; 2];
        for Sample { similarity, genuine, weight } in samples {
            let p = self.probability(*similarity);
            let [a, b] = information.solve([*similarity, 1.0]);
            let leverage = weight * p * (1.0 - p) * (a * similarity + b);
            let error = weight * (p - genuine) + leverage * (p - 0.5);
            gradient = [gradient[0] + error * similarity, gradient[1] + error];
        }
        Some(information.solve(gradient))
    }
}

struct Sample {
    similarity: f64,
    /// 1 or 0.
    genuine: f64,
    weight: f64,
}

/// Fisher's information of slope and intercept.
struct Information {
    ss: f64,
    s: f64,
    one: f64,
}

impl Information {
    fn determinant(&self) -> f64 {
        self.ss * self.one - self.s * self.s
    }

    fn solve(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let determinant = self.determinant();
        [(self.one * x - self.s * y) / determinant, (self.ss * y - self.s * x) / determinant]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::random::Random;

    fn of(pairs: impl Iterator<Item = (f32, bool)>) -> Option<LogisticFit> {
        let pair = |(similarity, genuine): (f32, bool)| Pair { similarity, a: 0, b: u32::from(!genuine) };
        LogisticFit::of(&Comparisons::new(pairs.map(pair).collect()).unwrap())
    }

    #[test]
    fn a_known_curve_is_found() {
        let mut random = Random::new(5, 0);
        let pairs = (0..100_000).map(|_| {
            let similarity = random.unit() as f32;
            (similarity, random.unit() < 1.0 / (1.0 + (-(20.0 * f64::from(similarity) - 10.0)).exp()))
        });
        let fit = of(pairs).unwrap();
        assert!((fit.slope - 20.0).abs() < 0.5 && (fit.intercept + 10.0).abs() < 0.3, "{fit:?}");
    }

    #[test]
    fn both_kinds_weigh_the_same_however_many_there_are() {
        let pairs = |impostors| {
            let genuine = std::iter::repeat_n([(0.6, true), (0.3, true)], 500).flatten();
            of(genuine.chain(std::iter::repeat_n([(0.5, false), (0.2, false)], impostors).flatten())).unwrap()
        };
        let (few, many) = (pairs(500), pairs(20_000));
        assert!((few.probability(0.4) - many.probability(0.4)).abs() < 0.01, "{few:?} {many:?}");
    }

    #[test]
    fn what_is_separated_has_a_finite_slope() {
        let fit = of((0..100).map(|i| (if i % 2 == 0 { 0.7 } else { 0.1 }, i % 2 == 0))).unwrap();
        assert!(fit.slope.is_finite() && fit.slope > 0.0);
        assert!((fit.probability(0.4) - 0.5).abs() < 0.01, "{fit:?}");
        assert!((fit.probability(0.7) - 50.5 / 51.0).abs() < 0.001, "{fit:?}");
    }

    #[test]
    fn nonsense_has_no_fit() {
        assert_eq!(of([(0.1, true), (0.9, false)].into_iter()), None);
        assert_eq!(of([(0.5, true), (0.5, false)].into_iter()), None);
    }
}
