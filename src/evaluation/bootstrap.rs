//! Intervals by resampling subjects: what other people, as many and of the same kind, would have given.
//!
//! Pairs are not independent: some people resemble many others, and each photo is part of many pairs. So it is not pairs
//! that are drawn but subjects, with replacement. One that was drawn w times counts w times, and a pair of two as often as
//! the product of their counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// `1 - self`, of a share.
    pub fn complement(self) -> Self {
        Self { value: 1.0 - self.value, low: 1.0 - self.high, high: 1.0 - self.low }
    }
}

/// How subjects are resampled. Two evaluations of the same subjects with the same resampling see the same draws, so that
/// differences between them can be had draw by draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    pub draws: usize,
    pub seed: u64,
}

impl Resampling {
    /// `measure` of each draw, given how often each of `subjects` was drawn. The same whatever the number of processors.
    pub fn run<T: Send>(self, subjects: usize, measure: impl Fn(&[f64]) -> T + Sync) -> Vec<T> {
        in_parallel(self.draws, |draw| {
            let mut random = Random::new(self.seed, draw as u64 + 1);
            let mut weights = vec![0.0; subjects];
            for _ in 0..subjects {
                weights[random.below(subjects)] += 1.0;
            }
            measure(&weights)
        })
    }
}

/// `value` with the 95 % interval of what its resampling gave: between the 2.5 % and 97.5 % quantiles, and holding `value`.
pub fn estimate(value: f64, draws: impl Iterator<Item = f64>) -> Estimate {
    let mut draws: Vec<f64> = draws.filter(|draw| draw.is_finite()).collect();
    draws.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| draws.get(((draws.len().max(1) - 1) as f64 * share).round() as usize).copied();
    Estimate { value, low: at(0.025).unwrap_or(value).min(value), high: at(0.975).unwrap_or(value).max(value) }
}

/// `work` of 0..count, on all processors, in order.
pub(super) fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let (next, work) = (AtomicUsize::new(0), &work);
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let one = || {
            let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count));
            numbers.map(|n| (n, work(n))).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_and_have_the_size_of_the_sample() {
        let resampling = Resampling { draws: 50, seed: 9 };
        let draws = resampling.run(12, <[f64]>::to_vec);
        assert_eq!(draws, resampling.run(12, <[f64]>::to_vec));
        assert!(draws.iter().all(|weights| weights.iter().sum::<f64>() == 12.0));
        assert!(draws[0] != draws[1]);
    }

    #[test]
    fn the_interval_of_a_mean_is_as_theory_says() {
        // A hundred subjects, half of them 1: the standard error of the mean is 0.05.
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let mean = |weights: &[f64]| weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>() / 100.0;
        let draws = Resampling { draws: 2000, seed: 1 }.run(100, mean);
        let Estimate { low, high, .. } = estimate(0.5, draws.into_iter());
        assert!((low - 0.402).abs() < 0.015 && (high - 0.598).abs() < 0.015, "{low} {high}");
    }

    #[test]
    fn no_draws_no_interval() {
        assert_eq!(estimate(0.5, std::iter::empty()), Estimate { value: 0.5, low: 0.5, high: 0.5 });
        assert!(in_parallel(0, |n| n).is_empty());
    }
}
