//! The upper tail of similarities between different people: how often does one exceed a threshold that few do?
//!
//! Inside the data the answer is counted. Beyond, what exceeds a high level follows a generalised Pareto distribution,
//! whatever the similarities themselves follow (Pickands 1975; Balkema and de Haan 1974). Its two parameters are fitted by
//! probability-weighted moments (Hosking and Wallis 1987), which do better than maximum likelihood on few observations.

/// The share of the largest observations that the fit takes.
const SHARE: f64 = 0.2;

/// The fewest of them with which a fit means anything.
const LEAST_EXCEEDANCES: usize = 6;

/// The most: more would reach out of the tail, and cost time in a bootstrap.
const MOST_EXCEEDANCES: usize = 500;

/// Observations above a threshold from which on their number says more than the fit.
const COUNTED: usize = 10;

/// Shapes that a tail of cosines can have: they end at 1, so it is not heavier than exponential, but for chance.
const SHAPES: std::ops::RangeInclusive<f64> = -0.5..=0.05;

/// The fitted upper tail of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// The observations, ascending.
    sorted: Vec<f32>,
    /// Where the tail begins.
    level: f64,
    /// Share of the observations above `level`.
    share: f64,
    /// Of the generalised Pareto distribution: P(excess > x) = (1 + shape x / scale)^(-1 / shape).
    scale: f64,
    shape: f64,
}

impl Tail {
    /// Fits the tail of `samples`; `None` if there are fewer than thirty finite ones, or they hardly differ.
    pub fn fit(samples: &[f32]) -> Option<Self> {
        let mut sorted: Vec<f32> = samples.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        Self::of_sorted(sorted)
    }

    fn of_sorted(sorted: Vec<f32>) -> Option<Self> {
        let count = ((sorted.len() as f64 * SHARE) as usize).min(MOST_EXCEEDANCES);
        if count < LEAST_EXCEEDANCES {
            return None;
        }
        let (below, above) = sorted.split_at(sorted.len() - count);
        let level = f64::from(*below.last()?);
        // Probability-weighted moments: E[X] and E[X (1 - F(X))], with plotting positions of the sample.
        let n = count as f64;
        let excess = |value: &f32| f64::from(*value) - level;
        let mean = above.iter().map(excess).sum::<f64>() / n;
        let weighted = above.iter().enumerate().map(|(i, value)| (n - 1.0 - i as f64) / (n - 1.0) * excess(value));
        let weighted = weighted.sum::<f64>() / n;
        if mean < 1e-6 || mean - 2.0 * weighted <= 0.0 {
            return None;
        }
        let shape = (2.0 - mean / (mean - 2.0 * weighted)).clamp(*SHAPES.start(), *SHAPES.end());
        // Given the shape, the scale that keeps the mean.
        let scale = mean * (1.0 - shape);
        let share = n / sorted.len() as f64;
        Some(Self { sorted, level, share, scale, shape })
    }

    /// The share of observations that are to be expected at or above `threshold`, 0..=1.
    pub fn rate_at(&self, threshold: f64) -> f64 {
        let above = self.sorted.len() - self.sorted.partition_point(|value| f64::from(*value) < threshold);
        if threshold <= self.level || above >= COUNTED {
            return above as f64 / self.sorted.len() as f64;
        }
        self.share * self.survival(threshold - self.level)
    }

    /// The threshold that a share `rate` of observations is expected to reach.
    pub fn threshold_at(&self, rate: f64) -> f64 {
        let position = rate * self.sorted.len() as f64;
        if position >= COUNTED as f64 || rate >= self.share {
            // Just above the observation that would be one too many.
            let above = (position.floor() as usize).min(self.sorted.len());
            return match self.sorted.len() - above {
                0 => -1.0,
                below => f64::from(self.sorted[below - 1].next_up()),
            };
        }
        let fitted = self.level + self.excess_at(rate / self.share);
        // The fit does not contradict what was counted.
        let counted = self.sorted.len().checked_sub(COUNTED).map_or(-1.0, |at| f64::from(self.sorted[at].next_up()));
        fitted.max(counted)
    }

    /// 95 % interval of [`Self::threshold_at`], by a bootstrap of `draws` samples: what other samples of the same size would
    /// say. The same for the same `seed`.
    pub fn interval(&self, rate: f64, draws: usize, seed: u64) -> (f64, f64) {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let n = self.sorted.len();
        let mut thresholds: Vec<f64> = (0..draws)
            .filter_map(|_| {
                let mut draw: Vec<f32> = (0..n).map(|_| self.sorted[random.below(n)]).collect();
                draw.sort_unstable_by(f32::total_cmp);
                Self::of_sorted(draw).map(|tail| tail.threshold_at(rate))
            })
            .collect();
        thresholds.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| thresholds.get((thresholds.len() as f64 * share) as usize).copied();
        let own = self.threshold_at(rate);
        (at(0.025).unwrap_or(own).min(own), at(0.975).unwrap_or(own).max(own))
    }

    /// P(excess > x)
    fn survival(&self, x: f64) -> f64 {
        if self.shape.abs() < 1e-9 {
            return (-x / self.scale).exp();
        }
        (1.0 + self.shape * x / self.scale).max(0.0).powf(-1.0 / self.shape)
    }

    /// The inverse of [`Self::survival`].
    fn excess_at(&self, survival: f64) -> f64 {
        if self.shape.abs() < 1e-9 {
            return -self.scale * survival.ln();
        }
        self.scale / self.shape * (survival.powf(-self.shape) - 1.0)
    }
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers in 0..1.
    fn uniform(n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random(seed | 1);
        (0..n).map(|_| (random.below(1 << 24) as f64 + 0.5) / (1 << 24) as f64).collect()
    }

    #[test]
    fn rates_beyond_the_data_are_extrapolated() {
        // Exponential with mean 0.05: the threshold at rate r is -0.05 ln r.
        let mut errors = Vec::new();
        for seed in 1..40 {
            let samples: Vec<f32> = uniform(300, seed).iter().map(|u| (-0.05 * u.ln()) as f32).collect();
            let tail = Tail::fit(&samples).unwrap();
            errors.push(tail.threshold_at(1e-3) / (-0.05 * 1e-3_f64.ln()) - 1.0);
        }
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(mean.abs() < 0.12, "{mean}");
        assert!(errors.iter().all(|error| error.abs() < 0.5), "{errors:?}");
    }

    #[test]
    fn a_tail_with_an_end_does_not_reach_beyond_it_by_much() {
        let samples: Vec<f32> = uniform(200, 7).iter().map(|u| *u as f32 * 0.5).collect();
        let tail = Tail::fit(&samples).unwrap();
        assert!((0.48..0.56).contains(&tail.threshold_at(1e-3)), "{}", tail.threshold_at(1e-3));
    }

    #[test]
    fn what_can_be_counted_is_counted() {
        let samples: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).collect();
        let tail = Tail::fit(&samples).unwrap();
        for rate in [0.5, 0.1, 0.02] {
            assert!((tail.threshold_at(rate) - (1.0 - rate)).abs() < 2e-3);
            assert!((tail.rate_at(1.0 - rate) - rate).abs() < 2e-3);
        }
    }

    #[test]
    fn the_interval_holds_the_estimate_and_narrows_with_data() {
        let of = |n| Tail::fit(&uniform(n, 3).iter().map(|u| *u as f32).collect::<Vec<_>>()).unwrap();
        let width = |tail: &Tail| {
            let (low, high) = tail.interval(0.01, 200, 1);
            assert!(low <= tail.threshold_at(0.01) && tail.threshold_at(0.01) <= high);
            high - low
        };
        assert!(width(&of(2000)) < width(&of(50)));
    }

    #[test]
    fn too_little_is_no_tail() {
        assert_eq!(Tail::fit(&[0.1; 20]), None);
        assert_eq!(Tail::fit(&[0.1; 1000]), None);
        assert_eq!(Tail::fit(&[f32::NAN; 1000]), None);
    }

    proptest! {
        /// A lower rate never asks for a lower threshold, and rates and thresholds are one another's inverse beyond the data.
        #[test]
        fn thresholds_are_monotone(samples in prop::collection::vec(-0.3_f32..0.6, 40..200), rates in prop::collection::vec(1e-6_f64..0.9, 2..20)) {
            let Some(tail) = Tail::fit(&samples) else { return Ok(()) };
            let mut rates = rates;
            rates.sort_by(f64::total_cmp);
            let thresholds: Vec<f64> = rates.iter().map(|rate| tail.threshold_at(*rate)).collect();
            prop_assert!(thresholds.is_sorted_by(|a, b| a >= b), "{thresholds:?}");
            for (rate, threshold) in rates.iter().zip(&thresholds) {
                let back = tail.rate_at(*threshold);
                prop_assert!(back <= rate * 1.01 + 1e-9 , "{rate} -> {threshold} -> {back}");
            }
        }
    }
}
