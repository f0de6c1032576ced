//! From similarity to probability.

use super::Comparisons;

const ITERATIONS: usize = 100;

/// probability = 1 / (1 + exp(-(slope * similarity + intercept))) that a pair is genuine, if both kinds are equally likely
/// beforehand.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LogisticFit {
    pub slope: f64,
    pub intercept: f64,
}

impl LogisticFit {
    /// Logistic regression by Newton's method with step halving. Each kind of pairs has the same weight in sum. Targets are
    /// (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0 (Platt 1999), n the number of pairs of a kind: so the slope
    /// stays finite when a threshold separates the kinds without error. `None` if similarity does not speak for a genuine
    /// pair.
    pub fn of(comparisons: &Comparisons) -> Option<Self> {
        let (genuine, impostor) = (comparisons.genuine() as f64, comparisons.impostor() as f64);
        let samples: Vec<[f64; 3]> = (comparisons.pairs().iter())
            .map(|pair| {
                let similarity = f64::from(pair.similarity);
                if pair.is_genuine() {
                    [similarity, (genuine + 1.0) / (genuine + 2.0), 0.5 / genuine]
                } else {
                    [similarity, 1.0 / (impostor + 2.0), 0.5 / impostor]
                }
            })
            .collect();
        let mut fit = Self { slope: 10.0, intercept: -3.0 };
        let mut loss = fit.loss(&samples);
        for _ in 0..ITERATIONS {
            let step = fit.newton_step(&samples)?;
            let mut part = 1.0;
            let better = loop {
                let next = Self { slope: fit.slope - part * step.0, intercept: fit.intercept - part * step.1 };
                let next_loss = next.loss(&samples);
                if next_loss <= loss {
                    break Some((next, next_loss));
                }
                part /= 2.0;
                if part < 1e-9 {
                    break None;
                }
            };
            let Some((next, next_loss)) = better else { break };
            let done = loss - next_loss < 1e-13;
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

    /// Cross-entropy of samples of similarity, target and weight.
    fn loss(&self, samples: &[[f64; 3]]) -> f64 {
        let one = |[similarity, target, weight]: &[f64; 3]| {
            let z = self.slope * similarity + self.intercept;
            // ln(1 + e^z) without overflow.
            weight * (z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z)
        };
        samples.iter().map(one).sum()
    }

    fn newton_step(&self, samples: &[[f64; 3]]) -> Option<(f64, f64)> {
        let (mut gradient, mut hessian) = ([0.0; 2], [0.0; 3]);
        for &[similarity, target, weight] in samples {
            let p = self.probability(similarity);
            let (error, curvature) = (weight * (p - target), weight * p * (1.0 - p));
            gradient = [gradient[0] + error * similarity, gradient[1] + error];
            let [ss, s, one] = hessian;
            hessian = [ss + curvature * similarity * similarity, s + curvature * similarity, one + curvature];
        }
        let [ss, s, one] = hessian;
        let determinant = ss * one - s * s;
        // All similarities are the same, or every answer is certain.
        if determinant.is_nan() || determinant < 1e-18 {
            return None;
        }
        Some(((one * gradient[0] - s * gradient[1]) / determinant, (ss * gradient[1] - s * gradient[0]) / determinant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Pair;
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
        assert!((fit.probability(0.7) - 51.0 / 52.0).abs() < 0.001, "{fit:?}");
    }

    #[test]
    fn nonsense_has_no_fit() {
        assert_eq!(of([(0.1, true), (0.9, false)].into_iter()), None);
        assert_eq!(of([(0.5, true), (0.5, false)].into_iter()), None);
    }
}
