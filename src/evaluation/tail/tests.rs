use proptest::prelude::*;

use super::*;

/// Survival function of the standard normal distribution, by its continued fraction (Abramowitz and Stegun 26.2.14) in the
/// tail.
fn normal_survival(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x < 0.0 {
        return 1.0 - normal_survival(-x);
    }
    if x < 2.0 {
        // Its series (26.2.10).
        let (mut term, mut sum) = (x, x);
        for n in 1..30 {
            term *= x * x / (2.0 * f64::from(n) + 1.0);
            sum += term;
        }
        return 0.5 - density * sum;
    }
    density / (1..30).rev().fold(x, |fraction, n| x + f64::from(n) / fraction)
}

/// The x with that survival.
fn normal_quantile(survival: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..45 {
        let middle = (low + high) / 2.0;
        if normal_survival(middle) > survival { low = middle } else { high = middle }
    }
    low
}

/// A distribution by its quantile function: the value that a share of the mass exceeds.
type Quantile = fn(f64) -> f64;

/// Similarities of strangers: normal, standard deviation 0.1.
fn pair(rate: f64) -> f64 {
    0.1 * normal_quantile(rate)
}

/// The largest of a thousand of them.
fn maximum(rate: f64) -> f64 {
    pair(-f64::exp_m1(f64::ln_1p(-rate) / 1000.0))
}

fn exponential(rate: f64) -> f64 {
    -0.05 * rate.ln()
}

fn uniform(rate: f64) -> f64 {
    0.5 * (1.0 - rate)
}

fn sample(of: Quantile, n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, 1);
    (0..n).map(|_| of(random.unit()) as f32).collect()
}

/// Mean and root mean square of the errors of `threshold_at(rate)` over samples of size `n`.
fn errors(of: Quantile, n: usize, rate: f64) -> (f64, f64) {
    let error = |seed| Tail::fit(&sample(of, n, seed)).unwrap().threshold_at(rate) - of(rate);
    let errors: Vec<f64> = (0..(200_000 / n as u64).min(100)).map(error).collect();
    let mean = |of: fn(f64) -> f64| errors.iter().map(|error| of(*error)).sum::<f64>() / errors.len() as f64;
    (mean(|error| error), mean(|error| error * error).sqrt())
}

#[test]
fn thresholds_are_near_the_truth() {
    // Allowed: bias, root mean square.
    for (name, of, n, rate, bias, rms) in [
        ("maximum", maximum as Quantile, 30, 1e-2, 0.01, 0.035),
        ("maximum", maximum, 30, 1e-3, 0.03, 0.07),
        ("maximum", maximum, 100, 1e-2, 0.005, 0.02),
        ("maximum", maximum, 100, 1e-3, 0.015, 0.045),
        ("maximum", maximum, 1000, 1e-3, 0.01, 0.025),
        ("pair", pair, 1000, 1e-3, 0.01, 0.035),
        ("pair", pair, 20_000, 1e-4, 0.006, 0.025),
        ("pair", pair, 20_000, 1e-5, 0.02, 0.045),
        ("exponential", exponential, 300, 1e-2, 0.01, 0.025),
        ("exponential", exponential, 300, 1e-3, 0.02, 0.065),
        // A harder end than cosines have: the threshold errs on the side of strangers.
        ("uniform", uniform, 1000, 1e-2, 0.02, 0.02),
        ("uniform", uniform, 1000, 1e-3, 0.04, 0.04),
    ] {
        let (mean, root) = errors(of, n, rate);
        assert!(
            mean.abs() < bias && root < rms,
            "{name}, {n} observations, rate {rate}: bias {mean:.4}, rms {root:.4}"
        );
    }
}

#[test]
fn intervals_hold_the_truth() {
    for (of, n, rate) in
        [(maximum as Quantile, 30, 1e-3), (maximum, 100, 1e-2), (maximum, 300, 1e-3), (pair, 1000, 1e-3)]
    {
        let holds = |seed: &u64| {
            let (low, high) = Tail::fit(&sample(of, n, *seed)).unwrap().interval(rate, 200, *seed);
            (low..=high).contains(&of(rate))
        };
        let held = (0..100).filter(holds).count();
        assert!(held >= 84, "{n} observations, rate {rate}: {held} of 100");
    }
}

#[test]
fn what_can_be_counted_is_counted() {
    let samples: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).collect();
    let tail = Tail::fit(&samples).unwrap();
    for rate in [0.5, 0.1, 0.02] {
        assert!((tail.threshold_at(rate) - (1.0 - rate)).abs() < 2e-3);
        assert!((tail.rate_at(1.0 - rate) - rate).abs() < 2e-3);
    }
    assert_eq!((tail.threshold_at(1.0), tail.rate_at(-1.0)), (-1.0, 1.0));
}

#[test]
fn the_interval_holds_the_estimate_and_narrows_with_data() {
    let width = |n| {
        let tail = Tail::fit(&sample(maximum, n, 3)).unwrap();
        let (low, high) = tail.interval(0.01, 200, 1);
        assert!(low <= tail.threshold_at(0.01) && tail.threshold_at(0.01) <= high);
        assert_eq!(tail.interval(0.01, 200, 1), (low, high), "the same seed says the same");
        high - low
    };
    assert!(width(2000) < width(50));
}

#[test]
fn weights_count_as_repetitions() {
    let mut values = sample(pair, 200, 5);
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    let weights: Vec<usize> = (0..200).map(|i| i % 3).collect();
    let repeated: Vec<f32> =
        values.iter().zip(&weights).flat_map(|(value, n)| std::iter::repeat_n(*value, *n)).collect();
    let weighted = values.iter().copied().zip(weights.iter().map(|n| *n as f64));
    let (weighted, repeated) =
        (Tail::weighted(weighted, repeated.len() as f64, 0.1).unwrap(), Tail::fit(&repeated).unwrap());
    for rate in [0.1, 0.05, 1e-2, 1e-3, 1e-5] {
        // Up to an observation that is there twice at the edge of the tail.
        let difference = weighted.threshold_at(rate) - repeated.threshold_at(rate);
        assert!(difference.abs() < 0.03, "{rate}: {difference}");
    }
}

#[test]
fn too_little_is_no_tail() {
    assert_eq!(Tail::fit(&sample(pair, 29, 1)), None);
    assert_eq!(Tail::fit(&[0.1; 1000]), None);
    assert_eq!(Tail::fit(&[f32::NAN; 1000]), None);
    assert!(Tail::fit(&sample(pair, 30, 1)).is_some());
}

proptest! {
    /// A lower rate never asks for a lower threshold, a higher threshold never has a higher rate, and the two are one
    /// another's inverse beyond the data.
    #[test]
    fn thresholds_are_monotone(
        samples in prop::collection::vec(-0.3_f32..0.6, 40..400),
        mut rates in prop::collection::vec(1e-6_f64..0.9, 2..20),
    ) {
        let Some(tail) = Tail::fit(&samples) else { return Ok(()) };
        rates.sort_by(f64::total_cmp);
        let thresholds: Vec<f64> = rates.iter().map(|rate| tail.threshold_at(*rate)).collect();
        prop_assert!(thresholds.is_sorted_by(|a, b| a >= b), "{thresholds:?}");
        let back: Vec<f64> = thresholds.iter().map(|threshold| tail.rate_at(*threshold)).collect();
        prop_assert!(back.is_sorted(), "{back:?}");
        for (rate, back) in rates.iter().zip(&back) {
            prop_assert!(*back <= rate * 1.01 + 1e-9, "{rate} -> {back}");
            let fitted = tail.level + tail.excess_at(rate / tail.share) > tail.counted(COUNTED.next_down());
            if *rate < tail.share.min(COUNTED / tail.total) && fitted {
                prop_assert!((back / rate - 1.0).abs() < 1e-6, "{rate} -> {back}");
            }
        }
    }

    #[test]
    fn rates_fall_with_the_threshold(samples in prop::collection::vec(-0.3_f32..0.6, 40..400)) {
        let Some(tail) = Tail::fit(&samples) else { return Ok(()) };
        let rates: Vec<f64> = (-100..120).map(|percent| tail.rate_at(f64::from(percent) / 100.0)).collect();
        prop_assert!(rates.is_sorted_by(|a, b| a >= b), "{rates:?}");
        prop_assert!(rates.iter().all(|rate| (0.0..=1.0).contains(rate)));
    }
}
