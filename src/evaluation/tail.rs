//! The upper tail of similarities between different people: how often does one exceed a threshold that few do?
//!
//! Inside the data the answer is counted. Beyond, what exceeds a high level follows a generalised Pareto distribution,
//! whatever the similarities themselves follow (Pickands 1975; Balkema and de Haan 1974). Its two parameters are fitted
//! by probability-weighted moments (Hosking and Wallis 1987), which do better than maximum likelihood on few observations.
//! As a handful of observations hardly tells the shape, it is drawn towards what maxima of cosines have.

use super::random::Random;

/// The share of the largest observations that the fit takes.
const SHARE: f64 = 0.15;

/// The fewest observations that it takes, from however few.
const LEAST_EXCEEDANCES: f64 = 20.0;

/// The most: more would reach out of the tail.
const MOST_EXCEEDANCES: f64 = 500.0;

/// The fewest observations with which anything is said.
const LEAST_OBSERVATIONS: f64 = 30.0;

/// Observations above a threshold from which on their number says more than the fit.
const COUNTED: f64 = 10.0;

/// Shapes that a tail of cosines can have: they end at 1, so it is not heavier than exponential, but for chance.
const SHAPES: std::ops::RangeInclusive<f64> = -0.5..=0.1;

/// Where the shape is drawn to, as if that many observations said so. Maxima of normal variates, which similarities of
/// strangers resemble, have about this shape at the levels in question. It halves the error of a shape from 20
/// observations and is without effect on one from hundreds.
const EXPECTED_SHAPE: f64 = -0.15;
const EXPECTATION_WEIGHT: f64 = 10.0;

/// The fitted upper tail of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// The observations, largest first; of weighted ones only as many as any answer needs.
    values: Vec<f32>,
    /// The weight of each observation and all larger ones.
    above: Vec<f64>,
    /// The weight of all observations, their number if they have none.
    total: f64,
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
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let total = sorted.len() as f64;
        Self::weighted(sorted.into_iter().map(|value| (value, 1.0)), total, 1.0)
    }

    /// Fits observations that count as often as their whole-numbered weights say. They come largest first, weigh `total`
    /// together, and are read until rates up to `rate` can be answered.
    pub(super) fn weighted(observations: impl Iterator<Item = (f32, f64)>, total: f64, rate: f64) -> Option<Self> {
        if total < LEAST_OBSERVATIONS {
            return None;
        }
        let wanted = (total * SHARE).clamp(LEAST_EXCEEDANCES, MOST_EXCEEDANCES);
        let needed = wanted.max(total * rate);
        let (mut values, mut above, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for (value, weight) in observations.filter(|(_, weight)| *weight > 0.0) {
            values.push(value);
            sum += weight;
            above.push(sum);
            if sum > needed {
                break;
            }
        }
        // All above the first observation that is one too many.
        let count = above.partition_point(|sum| *sum <= wanted);
        let level = f64::from(*values.get(count)?);
        let weight = above[count.checked_sub(1)?];
        let (scale, shape) = fit_excesses(&values[..count], &above, level)?;
        Some(Self { values, above, total, level, share: weight / total, scale, shape })
    }

    /// The share of observations that are to be expected at or above `threshold`, 0..=1.
    pub fn rate_at(&self, threshold: f64) -> f64 {
        let count = self.values.partition_point(|value| f64::from(*value) >= threshold);
        let weight = count.checked_sub(1).map_or(0.0, |last| self.above[last]);
        if threshold <= self.level || weight >= COUNTED {
            return weight / self.total;
        }
        // The fit does not contradict what was counted.
        (self.share * self.survival(threshold - self.level)).min(COUNTED / self.total)
    }

    /// The threshold that a share `rate` of observations is expected to reach.
    pub fn threshold_at(&self, rate: f64) -> f64 {
        let position = rate * self.total;
        if position >= COUNTED || rate >= self.share {
            return self.counted(position);
        }
        let fitted = self.level + self.excess_at(rate / self.share);
        // Nor does it reach into what is counted.
        fitted.max(self.counted(COUNTED.next_down()))
    }

    /// 95 % interval of [`Self::threshold_at`] for observations that are independent: what other samples of the same size
    /// would say, by a bootstrap of `draws` samples. They are drawn from the fit above the level and from the
    /// observations below; resampling the observations alone would give too narrow intervals (Kysely 2008). The same for
    /// the same `seed`.
    pub fn interval(&self, rate: f64, draws: usize, seed: u64) -> (f64, f64) {
        let mut random = Random::new(seed, 0);
        let refit = || Self::weighted(self.draw(&mut random), self.total, rate).map(|tail| tail.threshold_at(rate));
        let mut thresholds: Vec<f64> = std::iter::repeat_with(refit).take(draws).flatten().collect();
        thresholds.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| thresholds.get((thresholds.len() as f64 * share) as usize).copied();
        let own = self.threshold_at(rate);
        (at(0.025).unwrap_or(own).min(own), at(0.975).unwrap_or(own).max(own))
    }

    /// Another sample of the same size, largest first: the order statistics of uniform variates, one after the other
    /// (Devroye 1986, V.3), through the quantile function.
    fn draw(&self, random: &mut Random) -> impl Iterator<Item = (f32, f64)> {
        let mut below = 1.0;
        (0..self.total as usize).map(move |drawn| {
            below *= random.unit().powf(1.0 / (self.total - drawn as f64));
            let rate = 1.0 - below;
            let fitted = || (self.level + self.excess_at(rate / self.share)) as f32;
            let counted = || self.observation(rate * self.total);
            (if rate < self.share { fitted() } else { counted().unwrap_or(-1.0) }, 1.0)
        })
    }

    /// The largest observation that is one too many if `weight` of them may be taken.
    fn observation(&self, weight: f64) -> Option<f32> {
        self.values.get(self.above.partition_point(|sum| *sum <= weight)).copied()
    }

    /// Just above it.
    fn counted(&self, weight: f64) -> f64 {
        self.observation(weight).map_or(-1.0, |value| f64::from(value.next_up()))
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

/// Scale and shape from E[X] and E[X (1 - F(X))] of the excesses over `level`, with plotting positions of the sample.
/// `values` come largest first, `above` is as in [`Tail`].
fn fit_excesses(values: &[f32], above: &[f64], level: f64) -> Option<(f64, f64)> {
    let (mut mean, mut moment, mut before) = (0.0, 0.0, 0.0);
    for (value, sum) in values.iter().zip(above) {
        let (excess, weight) = (f64::from(*value) - level, sum - before);
        mean += weight * excess;
        // As if it were there `weight` times.
        moment += weight * (before + (weight - 1.0) / 2.0) * excess;
        before = *sum;
    }
    let n = before;
    (mean, moment) = (mean / n, moment / (n * (n - 1.0)));
    if mean.is_nan() || mean < 1e-6 || mean - 2.0 * moment <= 0.0 {
        return None;
    }
    let fitted = 2.0 - mean / (mean - 2.0 * moment);
    let drawn = (n * fitted + EXPECTATION_WEIGHT * EXPECTED_SHAPE) / (n + EXPECTATION_WEIGHT);
    let shape = drawn.clamp(*SHAPES.start(), *SHAPES.end());
    // Given the shape, the scale that keeps the mean.
    Some((mean * (1.0 - shape), shape))
}

#[cfg(test)]
mod tests;
