//! How often are strangers taken for somebody of a gallery? What a model shows on thousands of people, corrected by what the
//! gallery shows itself.
//!
//! A stranger is taken for somebody when the most similar of the N subjects reaches the threshold. On real photos the N
//! comparisons are as good as independent: FPIR = 1 - (1 - f)^N holds from 50 to 2,400 people within a fifth, for rates
//! from 0.1 to 0.003 (docs/decisions.md). So a model's false match rate f, measured on thousands of people, tells the rate
//! at any N, as long as the gallery's people resemble one another as often as those.
//!
//! Whether they do, the gallery says: each of a sample of its faces plays the stranger, its own subject left out, and the
//! largest similarity that it meets is one observation. With Λ = N f(t), the model expects P(largest < t) = exp(-Λ). Two
//! numbers correct it: Λ' = exp((ln Λ + shift) / width), which is to a curve of rates what location and scale are to a
//! Gumbel distribution. They are drawn towards 0 and 1, as few faces show little, and fitted to the largest fifth
//! of the observations. Rates are means over what the fit leaves open (Laplace's approximation): what is asked for shall hold on
//! average, and a rate that may be twice or half as high is higher than its median.
//!
//! People who are enrolled twice meet themselves: a share of the observations is of genuine pairs, which the fit has as
//! a third number. Each observation then counts by the probability that it is of two people, however high it is, so neither
//! do double entries spoil the tail nor does a cut take strangers away.
//!
//! Last, where strangers were counted their number speaks: the fitted rate weighs as much as so many observations
//! (a gamma distribution before, a Poisson distribution of what was seen), so that with many faces the shape of the
//! model does not matter, and with few the counts do not.

use serde::{Deserialize, Serialize};

use super::curve::{FmrCurve, FmrPoint, each_of};

/// Share of the observations, the largest, that the fit takes; and how many at least and at most.
const SHARE: f64 = 0.2;
const LEAST: usize = 10;
const MOST: usize = 2000;

/// Fewer observations say nothing.
pub const LEAST_OBSERVATIONS: usize = 10;

/// Standard deviations of the shift and of the logarithm of the width from one gallery to another, beforehand. Galleries
/// of LFW whose people are 1.5 times as near to one another as all need shifts of 0.2 to 0.5.
const SHIFT: f64 = 0.3;
const WIDTH: f64 = 0.06;

/// An observation weighs half: two subjects that are nearest to one another are one pair, seen twice.
const WEIGHT: f64 = 0.5;

/// The mean share of people who are enrolled twice, beforehand; an exponential distribution.
const TWICE: f64 = 0.05;

/// As many strangers taken for somebody as the fitted rate stands for.
const FITTED: f64 = 10.0;

/// Standard deviation of the logarithm of a rate from one population to another, for a gallery that has shown nothing yet:
/// groups of like people within LFW differ by so much.
pub const SPREAD: f64 = 0.5;

/// Standard errors of 95 %.
const Z: f64 = 1.96;

/// Rates of the resulting curve, of a stranger who is taken for anybody.
const RATES: [f64; 14] = [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0003, 0.0001];

/// Step in which thresholds are looked for.
const STEP: f64 = 0.0005;

/// Which share of the pairs of one person is less similar than this.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenuinePoint {
    pub share: f64,
    pub similarity: f32,
}

/// How similar pairs of one person are.
#[derive(Debug, Clone, PartialEq)]
pub struct GenuineCurve(Vec<(f64, f64)>);

impl GenuineCurve {
    /// Shares and similarities must rise; `None` with fewer than two points.
    pub fn new(points: &[GenuinePoint]) -> Option<Self> {
        let points: Vec<(f64, f64)> = points.iter().map(|point| (point.share, f64::from(point.similarity))).collect();
        (points.len() > 1).then_some(Self(points))
    }

    /// The share of genuine pairs below a similarity and its density there. Beyond the points it falls to nothing within
    /// the same distance as between the last two.
    fn share_and_density(&self, at: f64) -> (f64, f64) {
        let points = &self.0;
        let last = points.len() - 1;
        let next = points.partition_point(|(_, similarity)| *similarity <= at);
        let (a, b) = match next {
            0 => ((0.0, 2.0 * points[0].1 - points[1].1), points[0]),
            next if next > last => (points[last], (1.0, 2.0 * points[last].1 - points[last - 1].1)),
            next => (points[next - 1], points[next]),
        };
        let width = (b.1 - a.1).max(1e-6);
        if at < a.1 || at > b.1 {
            return (if at < a.1 { 0.0 } else { 1.0 }, 0.0);
        }
        (a.0 + (b.0 - a.0) * (at - a.1) / width, (b.0 - a.0) / width)
    }
}

/// What a gallery showed of strangers.
#[derive(Debug, Clone, PartialEq)]
pub struct Strangers {
    /// Subjects of the gallery.
    subjects: f64,
    /// Observations, and their largest with the probability that all up to it are of two people, summed; largest first.
    observations: f64,
    largest: Vec<(f64, f64)>,
    fit: Correction,
    open: Open,
    prior: FmrCurve,
}

/// How a gallery differs from what its model expects.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Correction {
    shift: f64,
    /// The logarithm.
    width: f64,
    /// Share of people who are enrolled twice.
    twice: f64,
}

/// What the fit leaves open: variances of the shift and of the logarithm of the width, and their covariance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Open {
    shift: f64,
    width: f64,
    both: f64,
}

/// One observation, as far as it does not depend on the fit.
struct Observed {
    similarity: f64,
    /// ln Λ, and how fast it falls there.
    ln_expected: f64,
    slope: f64,
    /// Of the genuine pairs.
    below: f64,
    density: f64,
}

impl Strangers {
    /// `largest` are the similarities of the most similar other subject, of a sample of the faces of a gallery of `subjects`
    /// subjects. `None` with fewer than [`LEAST_OBSERVATIONS`].
    pub fn fit(prior: &FmrCurve, genuine: Option<&GenuineCurve>, largest: &[f32], subjects: u64) -> Option<Self> {
        let mut sorted: Vec<f64> = largest.iter().copied().map(f64::from).filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        if sorted.len() <= LEAST_OBSERVATIONS {
            return None;
        }
        let subjects = subjects.max(2) as f64;
        // Its own subject is left out.
        let others = (subjects - 1.0).ln();
        let observe = |similarity: f64| {
            let (below, density) = genuine.map_or((0.0, 0.0), |genuine| genuine.share_and_density(similarity));
            let near = (prior.ln_rate(similarity - STEP), prior.ln_rate(similarity + STEP));
            let slope = ((near.0 - near.1) / (2.0 * STEP)).max(1.0);
            Observed { similarity, ln_expected: others + prior.ln_rate(similarity), slope, below, density }
        };
        let taken = ((sorted.len() as f64 * SHARE) as usize).clamp(LEAST, MOST).min(sorted.len() - 1);
        let tail: Vec<Observed> = sorted[..taken].iter().map(|value| observe(*value)).collect();
        let level = observe(sorted[taken]);
        let rest = (sorted.len() - taken) as f64;
        let mixed = genuine.is_some();
        let cost = |fit: &Correction| fit.cost(&tail, &level, rest, mixed);
        let starts: &[f64] = if mixed { &[0.005, 0.15] } else { &[0.0] };
        let fits = starts.iter().map(|twice| search(Correction { shift: 0.0, width: 0.0, twice: *twice }, mixed, cost));
        let (fit, _) = fits.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let open = Open::around(fit, cost);
        let mut sum = 0.0;
        let largest = tail.iter().map(|seen| {
            sum += fit.of_two_people(seen);
            (seen.similarity, sum)
        });
        let largest = largest.collect();
        Some(Self { subjects, observations: sorted.len() as f64, largest, fit, open, prior: prior.clone() })
    }

    /// Share of the people who seem to be enrolled twice.
    pub fn twice(&self) -> f64 {
        self.fit.twice
    }

    /// The share of strangers who are expected to reach a similarity, and the standard deviation of its logarithm.
    fn rate(&self, threshold: f64) -> (f64, f64) {
        let ln_expected = self.subjects.ln() + self.prior.ln_rate(threshold);
        let open = self.open.of(&self.fit, ln_expected);
        let fitted = self.fit.expected(ln_expected) * (open / 2.0).exp();
        let fitted = (-f64::exp_m1(-fitted)).max(f64::MIN_POSITIVE);
        if self.largest.last().is_none_or(|(least, _)| threshold < *least) {
            return (fitted, (open + 1.0 / FITTED).sqrt());
        }
        let count = self.largest.partition_point(|(similarity, _)| *similarity >= threshold);
        let seen = WEIGHT * count.checked_sub(1).map_or(0.0, |last| self.largest[last].1);
        let trials = WEIGHT * self.observations * (1.0 - self.fit.twice);
        ((FITTED + seen) / (FITTED / fitted + trials), (open + 1.0 / (FITTED + seen)).sqrt())
    }

    /// False match rates of one comparison in this gallery, down to that at which one stranger in ten thousand is taken for
    /// somebody. Intervals are of 95 %.
    pub fn curve(&self) -> Option<FmrCurve> {
        let steps = (2.0 / STEP) as usize;
        let at = |step: usize| -1.0 + step as f64 * STEP;
        let rates: Vec<(f64, f64)> = (0..=steps).map(|step| self.rate(at(step))).collect();
        let from = |rate: f64, errors: f64| {
            let low_enough = |(expected, error): &(f64, f64)| expected * (errors * error).exp() <= rate;
            at(rates.iter().position(low_enough).unwrap_or(steps)) as f32
        };
        let mut points: Vec<FmrPoint> = Vec::new();
        for rate in RATES {
            let (threshold, low, high) = (from(rate, 0.0), from(rate, -Z), from(rate, Z));
            let point = FmrPoint { rate: each_of(self.subjects, rate), threshold, low, high };
            if points.last().is_none_or(|last| last.threshold < threshold) {
                points.push(point);
            }
        }
        FmrCurve::new(points)
    }
}

impl Correction {
    /// Λ' of ln Λ.
    fn expected(&self, ln_expected: f64) -> f64 {
        ((ln_expected + self.shift) / self.width.exp()).min(700.0).exp()
    }

    /// Densities of a largest similarity that is of two people, and of one that is of a person enrolled twice.
    fn densities(&self, seen: &Observed) -> (f64, f64) {
        let expected = self.expected(seen.ln_expected);
        let none = (-expected).exp();
        let density = none * expected * seen.slope / self.width.exp();
        (density * (1.0 - self.twice + self.twice * seen.below), none * self.twice * seen.density)
    }

    fn of_two_people(&self, seen: &Observed) -> f64 {
        let (of_two, of_one) = self.densities(seen);
        if of_two + of_one > 0.0 { of_two / (of_two + of_one) } else { 1.0 }
    }

    /// Minus the logarithm of what is proportional to the probability of the fit, after `tail` was seen and `rest` others below
    /// `level`.
    fn cost(&self, tail: &[Observed], level: &Observed, rest: f64, mixed: bool) -> f64 {
        let seen: f64 =
            tail.iter().map(|seen| self.densities(seen)).map(|(two, one)| (two + one).max(1e-300).ln()).sum();
        let below = (-self.expected(level.ln_expected)).exp() * (1.0 - self.twice + self.twice * level.below);
        let before = 0.5 * (self.shift / SHIFT).powi(2) + 0.5 * (self.width / WIDTH).powi(2);
        let twice = if mixed { self.twice / TWICE } else { 0.0 };
        before + twice - WEIGHT * (seen + rest * below.max(1e-300).ln())
    }
}

/// How far from the fit the cost is looked at.
const NEAR: f64 = 0.02;

impl Open {
    /// The inverse of the cost's second derivatives. What was known beforehand is the most that is open.
    fn around(fit: Correction, cost: impl Fn(&Correction) -> f64) -> Self {
        let at = |shift: f64, width: f64| {
            cost(&Correction { shift: fit.shift + shift * NEAR, width: fit.width + width * NEAR, ..fit })
        };
        let here = at(0.0, 0.0);
        let squared = NEAR * NEAR;
        let shift = ((at(1.0, 0.0) - 2.0 * here + at(-1.0, 0.0)) / squared).max(SHIFT.powi(-2));
        let width = ((at(0.0, 1.0) - 2.0 * here + at(0.0, -1.0)) / squared).max(WIDTH.powi(-2));
        let both = (at(1.0, 1.0) - at(1.0, -1.0) - at(-1.0, 1.0) + at(-1.0, -1.0)) / (4.0 * squared);
        let determinant = shift * width - both * both;
        if determinant <= 0.0 {
            return Self { shift: SHIFT * SHIFT, width: WIDTH * WIDTH, both: 0.0 };
        }
        Self { shift: width / determinant, width: shift / determinant, both: -both / determinant }
    }

    /// Variance of ln Λ'.
    fn of(&self, fit: &Correction, ln_expected: f64) -> f64 {
        let (by_shift, by_width) = ((-fit.width).exp(), -(ln_expected + fit.shift) / fit.width.exp());
        (self.shift * by_shift.powi(2) + self.width * by_width.powi(2) + 2.0 * self.both * by_shift * by_width).max(0.0)
    }
}

/// The correction of least cost near a start: a pattern search (Hooke and Jeeves 1961), which needs no derivatives and always
/// ends.
fn search(start: Correction, mixed: bool, cost: impl Fn(&Correction) -> f64) -> (Correction, f64) {
    let moves: [fn(Correction, f64) -> Correction; 3] = [
        |from, by| Correction { shift: from.shift + by, ..from },
        |from, by| Correction { width: from.width + by / 4.0, ..from },
        |from, by| Correction { twice: (from.twice + by / 4.0).clamp(0.0, 0.95), ..from },
    ];
    let moves = if mixed { &moves[..] } else { &moves[..2] };
    let (mut best, mut least, mut step) = (start, cost(&start), 0.5);
    while step > 1e-3 {
        let tried = moves.iter().flat_map(|go| [go(best, step), go(best, -step)]);
        let next = tried.map(|fit| (fit, cost(&fit))).min_by(|a, b| a.1.total_cmp(&b.1));
        match next {
            Some((fit, lower)) if lower < least => (best, least) = (fit, lower),
            _ => step /= 2.0,
        }
    }
    (best, least)
}

#[cfg(test)]
mod tests;
