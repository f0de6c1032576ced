//! How often a stranger reaches a similarity, and from which similarity on few enough do.

use serde::{Deserialize, Serialize};

/// Decades of the lowest measured rates whose mean slope carries on beyond them: the slope between two neighbours would follow
/// the few pairs that the last one rests on.
const DECADES: f64 = 2.0;

/// The threshold at which two faces of different people match at a certain rate, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FmrPoint {
    pub rate: f64,
    pub threshold: f32,
    pub low: f32,
    pub high: f32,
}

/// False match rates of one comparison over the threshold, measured at some points: linear in the logarithm of the rate between
/// them, and continued beyond.
#[derive(Debug, Clone, PartialEq)]
pub struct FmrCurve {
    /// Rates fall, thresholds rise; two at least.
    points: Vec<FmrPoint>,
    /// Per unit of the logarithm of the rate: how much the threshold, and the ends of its interval, rise beyond the last point.
    beyond: [f64; 3],
}

impl FmrCurve {
    /// `None` with fewer than two points. Rates must fall and thresholds rise.
    pub fn new(points: Vec<FmrPoint>) -> Option<Self> {
        let (last, from) = (points.last()?, points.len().checked_sub(2)?);
        let far = |point: &FmrPoint| (point.rate / last.rate).log10() >= DECADES - 1e-6;
        let from = points.iter().rposition(far).unwrap_or(0).min(from);
        let run = (points[from].rate / last.rate).ln();
        let slope = |of: fn(&FmrPoint) -> f32| f64::from(of(last) - of(&points[from])) / run;
        let own = slope(|point| point.threshold);
        // An interval narrows for no rate.
        let beyond = [own, slope(|point| point.low).min(own), slope(|point| point.high).max(own)];
        Some(Self { points, beyond })
    }

    /// What was measured.
    pub fn points(&self) -> &[FmrPoint] {
        &self.points
    }

    /// The lowest rate that was measured.
    pub fn least_rate(&self) -> f64 {
        self.points[self.points.len() - 1].rate
    }

    /// The threshold at a rate of one comparison, above 0 to 1, with its interval. Beyond the lowest measured rate that is an
    /// extrapolation.
    pub fn at(&self, rate: f64) -> FmrPoint {
        let last = self.points.len() - 1;
        let next = self.points.iter().position(|point| point.rate <= rate).unwrap_or(last + 1);
        let step = |values: [f64; 3]| {
            let [threshold, low, high] = values.map(|value| value.clamp(-1.0, 1.0) as f32);
            FmrPoint { rate, threshold, low: low.min(threshold), high: high.max(threshold) }
        };
        let of = |point: &FmrPoint| [point.threshold, point.low, point.high].map(f64::from);
        if next > last {
            let run = (self.points[last].rate / rate).ln();
            let from = of(&self.points[last]);
            return step([0, 1, 2].map(|i| from[i] + self.beyond[i] * run));
        }
        let (a, b) = (&self.points[next.max(1) - 1], &self.points[next.max(1)]);
        let part = (a.rate / rate).ln() / (a.rate / b.rate).ln();
        let (from, to) = (of(a), of(b));
        step([0, 1, 2].map(|i| from[i] + (to[i] - from[i]) * part))
    }

    /// The logarithm of the rate at a threshold, at most 0: the inverse of [`Self::at`].
    pub fn ln_rate(&self, threshold: f64) -> f64 {
        let last = self.points.len() - 1;
        let of = |point: &FmrPoint| (f64::from(point.threshold), point.rate.ln());
        let next = self.points.partition_point(|point| f64::from(point.threshold) <= threshold);
        if next > last {
            let (at, ln_rate) = of(&self.points[last]);
            return ln_rate - (threshold - at) / self.beyond[0].max(f64::MIN_POSITIVE);
        }
        let (a, b) = (of(&self.points[next.max(1) - 1]), of(&self.points[next.max(1)]));
        (a.1 + (b.1 - a.1) * (threshold - a.0) / (b.0 - a.0)).min(0.0)
    }

    /// The rate at a threshold, 0..=1.
    pub fn rate(&self, threshold: f64) -> f64 {
        self.ln_rate(threshold).exp()
    }
}

/// How often one of `comparisons` independent ones matches, of which each does at `rate`.
pub fn any_of(comparisons: f64, rate: f64) -> f64 {
    -f64::exp_m1(f64::ln_1p(-rate.min(1.0 - f64::EPSILON)) * comparisons)
}

/// The rate that each of `comparisons` independent ones may have so that one of them matches at `rate`.
pub fn each_of(comparisons: f64, rate: f64) -> f64 {
    -f64::exp_m1(f64::ln_1p(-rate) / comparisons.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> FmrCurve {
        let points = [(1e-1, 0.2), (1e-2, 0.3), (1e-3, 0.37), (1e-4, 0.42), (1e-5, 0.47), (1e-6, 0.53)];
        let point = |(rate, threshold)| FmrPoint { rate, threshold, low: threshold - 0.01, high: threshold + 0.02 };
        FmrCurve::new(points.map(point).into()).unwrap()
    }

    #[test]
    fn rates_and_thresholds_are_one_anothers_inverse() {
        let curve = curve();
        for rate in [0.5, 1e-1, 3e-2, 1e-3, 2.5e-5, 1e-6, 1e-9] {
            let point = curve.at(rate);
            assert!(point.low <= point.threshold && point.threshold <= point.high);
            let back = curve.rate(f64::from(point.threshold));
            assert!((back / rate - 1.0).abs() < 1e-3, "{rate}: {back}");
        }
        assert!((curve.at(1e-3).threshold - 0.37).abs() < 1e-6);
        // 0.055 a decade, the mean of the last two.
        assert!((curve.at(1e-8).threshold - 0.64).abs() < 1e-6);
        assert_eq!((curve.at(1e-300).threshold, curve.rate(-1.0)), (1.0, 1.0));
    }

    #[test]
    fn fewer_points_tell_no_slope() {
        assert_eq!(FmrCurve::new(Vec::new()), None);
        assert_eq!(FmrCurve::new(vec![FmrPoint { rate: 0.1, threshold: 0.2, low: 0.2, high: 0.2 }]), None);
    }

    #[test]
    fn one_of_many_comparisons() {
        assert!((any_of(1000.0, 1e-6) - 1e-3).abs() < 1e-6);
        assert!((each_of(1000.0, any_of(1000.0, 1e-5)) - 1e-5).abs() < 1e-12);
        assert!((any_of(1.0, 0.3) - 0.3).abs() < 1e-12 && (each_of(0.0, 0.25) - 0.25).abs() < 1e-12);
    }
}
