//! Whether a network is of any use on people who are enrolled: not whether it is better than another one, but whether it tells
//! people apart at all, and does at its threshold what it promises.
//!
//! A good network is never to be refused by chance, however few people there are. So every figure gets the benefit of an interval that
//! holds both the one of the bootstrap over people, which knows that pairs of one person go together, and Wilson's (1927) for
//! as many trials as there are people with two photos, which knows that few people agree by chance.

use serde::{Deserialize, Serialize};

use super::Comparisons;
use super::bootstrap::{Estimate, Resampling, estimate};
use super::verification::{ErrorRates, measure};

/// With fewer people who have two photos nothing is said.
pub const LEAST_MATED: usize = 4;

/// Genuine pairs must be more similar than impostor pairs in so many cases; brightness of pixels alone reaches as much.
const LEAST_AUC: f64 = 0.8;

/// False match rate at the own threshold that no network may have: one stranger in twenty.
const MOST_FMR: f64 = 0.05;

/// How many times as large as promised it may be.
const PROMISE: f64 = 10.0;

/// False non-match rate at the own threshold from which on nobody is recognised, and what other people must have at least.
const MOST_FNMR: f64 = 0.95;
const SURE_FNMR: f64 = 0.7;

/// Standard errors of 95 %.
const Z: f64 = 1.96;

/// What a network is measured with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Its own.
    pub threshold: f32,
    /// The false match rate at it, if its calibration knows one.
    pub fmr: Option<f64>,
}

/// What enrolled people show, with intervals that are wide where people are few.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worth {
    /// People with two photos or more.
    pub mated: usize,
    pub genuine_pairs: usize,
    pub impostor_pairs: usize,
    /// Probability that a genuine pair is more similar than an impostor pair.
    pub auc: Estimate,
    pub threshold: f32,
    /// At the threshold.
    pub fmr: Estimate,
    pub fnmr: Estimate,
    pub promised_fmr: Option<f64>,
    /// Why the network is worthless; empty if it is not.
    pub reasons: Vec<String>,
}

impl Worth {
    /// `mated` people have two photos or more. `None` with fewer of them than can tell.
    pub fn of(comparisons: &Comparisons, mated: usize, claim: Claim, resampling: Resampling) -> Option<Self> {
        if mated < LEAST_MATED {
            return None;
        }
        let measured = |weights: &[f64]| measure(comparisons, weights, &[], claim.threshold);
        let draws: Vec<ErrorRates> = resampling.run(comparisons.subjects(), measured).into_iter().flatten().collect();
        let own = measured(&vec![1.0; comparisons.subjects()])?;
        let of = |figure: fn(&ErrorRates) -> f64| {
            let Estimate { value, low, high } = estimate(figure(&own), draws.iter().map(figure));
            let (least, most) = wilson(value, mated as f64);
            Estimate { value, low: low.min(least), high: high.max(most) }
        };
        let mut worth = Self {
            mated,
            genuine_pairs: comparisons.genuine(),
            impostor_pairs: comparisons.impostor(),
            auc: of(|measured| measured.auc),
            threshold: claim.threshold,
            fmr: of(|measured| measured.fmr),
            fnmr: of(|measured| measured.fnmr),
            promised_fmr: claim.fmr,
            reasons: Vec::new(),
        };
        worth.reasons = worth.faults();
        Some(worth)
    }

    fn faults(&self) -> Vec<String> {
        let Self { mated, auc, threshold, fmr, fnmr, promised_fmr, .. } = self;
        let mut faults = Vec::new();
        if auc.high < LEAST_AUC {
            faults.push(format!(
                "photos of one person and of different ones are not apart: AUC {:.3}, with other people {:.3} at most, where \
                 {LEAST_AUC} is the least",
                auc.value, auc.high
            ));
        }
        let allowed = promised_fmr.map_or(MOST_FMR, |promised| (PROMISE * promised).max(MOST_FMR));
        if fmr.low > allowed {
            let promised = promised_fmr.map(|promised| format!(", and {promised:.1e} is promised")).unwrap_or_default();
            faults.push(format!(
                "at its threshold of {threshold:.3} a share of {:.3} of the pairs of different people match, with other \
                 people {:.3} at least, where {allowed} is the most{promised}",
                fmr.value, fmr.low
            ));
        }
        if fnmr.value > MOST_FNMR && fnmr.low > SURE_FNMR {
            faults.push(format!(
                "at its threshold of {threshold:.3} a share of {:.3} of the pairs of one person do not match, with other \
                 people {:.3} at least",
                fnmr.value, fnmr.low
            ));
        }
        if let Some(first) = faults.first_mut() {
            *first = format!("measured on {mated} enrolled people with two photos, {first}");
        }
        faults
    }
}

/// Wilson's interval of a share that was seen in `n` trials.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    let square = Z * Z / n;
    let middle = share + square / 2.0;
    let half = Z * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt();
    (((middle - half) / (1.0 + square)).max(0.0), ((middle + half) / (1.0 + square)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;
    use crate::evaluation::{Pair, Random};

    const RESAMPLING: Resampling = Resampling { draws: 200, seed: 1 };

    fn worth(subjects: usize, each: usize, spread: f64, seed: u64, claim: Claim) -> Option<Worth> {
        let faces = made::faces(subjects, each, spread, seed);
        let comparisons = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        Worth::of(&comparisons, subjects, claim, RESAMPLING)
    }

    fn at(threshold: f32) -> Claim {
        Claim { threshold, fmr: Some(1e-3) }
    }

    #[test]
    fn a_good_network_is_never_refused_by_chance() {
        // Nearly a fifth of its genuine pairs are missed, as with photos that are hard; two photos each of few people.
        for subjects in [4, 5, 6, 8, 10, 20] {
            for seed in 0..100 {
                let found = worth(subjects, 2, 1.1, seed, at(0.38)).unwrap();
                assert!(found.reasons.is_empty(), "{subjects} people, seed {seed}: {found:?}");
            }
        }
        assert_eq!(worth(3, 5, 1.0, 1, at(0.4)), None);
    }

    #[test]
    fn what_tells_nobody_apart_is_refused() {
        // Faces of one person are no nearer to one another than to those of others.
        let none = worth(20, 3, 20.0, 1, at(0.9)).unwrap();
        assert!(none.reasons.iter().any(|reason| reason.contains("are not apart: AUC 0.")), "{none:?}");
        assert!(none.reasons[0].starts_with("measured on 20 enrolled people"), "{none:?}");
    }

    #[test]
    fn a_threshold_at_which_all_match_or_none_is_refused() {
        let all = worth(4, 2, 0.5, 1, at(-0.9)).unwrap();
        assert!(all.reasons.len() == 1 && all.reasons[0].contains("of different people match"), "{all:?}");
        assert_eq!((all.fmr.value, all.auc.value), (1.0, 1.0));
        let none = worth(10, 2, 0.5, 1, at(1.0)).unwrap();
        assert!(none.reasons.len() == 1 && none.reasons[0].contains("of one person do not match"), "{none:?}");
        // Of five people nobody can say so.
        assert!(worth(5, 2, 0.5, 1, at(1.0)).unwrap().reasons.is_empty());
        // Who says that one stranger in five matches has said so.
        let claim = Claim { threshold: -0.9, fmr: Some(0.2) };
        assert!(worth(10, 2, 0.5, 1, claim).unwrap().reasons.is_empty());
    }

    #[test]
    fn few_people_who_look_alike_refuse_nothing() {
        // Two of ten people are one person under two names.
        let mut random = Random::new(1, 0);
        let mut pairs = Vec::new();
        for a in 0..10_u32 {
            pairs.push(Pair { similarity: 0.7, a, b: a });
            for b in 0..a {
                let similarity = if (a, b) == (1, 0) { 0.8 } else { 0.2 * random.unit() as f32 };
                pairs.extend([Pair { similarity, a, b }; 4]);
            }
        }
        let found = Worth::of(&Comparisons::new(pairs).unwrap(), 10, at(0.4), RESAMPLING).unwrap();
        assert!(found.reasons.is_empty(), "{found:?}");
    }

    #[test]
    fn wilson_as_in_tables() {
        let (low, high) = wilson(0.5, 10.0);
        assert!((low - 0.237).abs() < 1e-3 && (high - 0.763).abs() < 1e-3, "{low} {high}");
        let (low, high) = wilson(1.0, 10.0);
        assert!((low - 0.722).abs() < 1e-3 && high > 1.0 - 1e-9, "{low} {high}");
    }
}
