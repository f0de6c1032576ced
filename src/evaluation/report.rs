//! All figures of a set of faces or pairs, in one stable shape.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, Resampling, estimate};
use super::identification::{FpirPoint, one_shot, open_set};
use super::verification::{ErrorRates, Sums, measure};
use super::{Comparisons, Faces, GenuinePoint, LogisticFit, Tail};

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportPlan {
    /// Rates at which TAR is told, ascending.
    pub fars: Vec<f64>,
    /// Rates for which thresholds are told, falling.
    pub fmrs: Vec<f64>,
    /// Rates at which FNIR is told.
    pub fpirs: Vec<f64>,
    pub ranks: Vec<usize>,
    /// Photos of an enrolled subject in open-set identification.
    pub photos: usize,
    /// Halves of the subjects that are enrolled for it, one after the other.
    pub splits: usize,
    /// The threshold that is in use.
    pub threshold: f32,
    pub resampling: Resampling,
}

/// The figures of a set, in the order in which a table shows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// People with a face.
    pub subjects: usize,
    pub verification: Verification,
    /// `None` for pairs, and for sets that cannot tell.
    pub identification: Option<Identification>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    pub genuine_pairs: usize,
    pub impostor_pairs: usize,
    /// TAR@FAR and FNMR@FMR.
    pub at_far: Vec<FarPoint>,
    pub eer: Estimate,
    pub auc: Estimate,
    pub at_threshold: AtThreshold,
    /// The threshold for each FMR that the data can tell.
    pub thresholds: Vec<ThresholdPoint>,
    /// Similarities of genuine pairs: which share of them is below. Empty with too few.
    #[serde(default)]
    pub genuine: Vec<GenuinePoint>,
    /// From similarity to probability.
    pub logistic: Option<LogisticFit>,
}

/// `tar` and `fnmr` are `None` if there are fewer impostor pairs than it takes to have one of them accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FarPoint {
    pub far: f64,
    pub tar: Option<Estimate>,
    /// 1 - TAR.
    pub fnmr: Option<Estimate>,
}

/// What the threshold that is in use does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AtThreshold {
    pub threshold: f32,
    pub fmr: Estimate,
    pub fnmr: Estimate,
}

/// Where a threshold comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// From ten impostor pairs or more that reach it.
    Counted,
    /// From the fitted tail.
    Fitted,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThresholdPoint {
    pub fmr: f64,
    pub threshold: Estimate,
    pub basis: Basis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identification {
    /// Closed-set, one enrolled photo for each subject: photos that were looked for.
    pub probes: usize,
    pub ranks: Vec<Rank>,
    /// Open-set; `None` if there are too few photos or people.
    pub open_set: Option<OpenSetReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    pub rank: usize,
    /// The share of probes whose subject is among that many most similar ones.
    pub share: Estimate,
}

/// Open-set identification, mean over `splits` random halves of the subjects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenSetReport {
    pub splits: usize,
    /// Enrolled in each split, with as many photos each.
    pub subjects: usize,
    pub photos: usize,
    pub mated_probes: usize,
    pub stranger_probes: usize,
    pub at_fpir: Vec<FpirReport>,
}

/// `fnir` and `threshold` are `None` if there are fewer probes of strangers than it takes to have one of them accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FpirReport {
    pub fpir: f64,
    pub fnir: Option<Estimate>,
    pub threshold: Option<Estimate>,
}

/// Measures pairs.
pub fn verify(comparisons: &Comparisons, plan: &ReportPlan) -> Verification {
    let measured = |weights: &[f64]| measure(comparisons, weights, &plan.fars, plan.threshold);
    let draws: Vec<_> = plan.resampling.run(comparisons.subjects(), |weights| measured(weights));
    let draws: Vec<ErrorRates> = draws.into_iter().flatten().collect();
    // Every subject once: there are pairs of both kinds.
    let own = measured(&vec![1.0; comparisons.subjects()]);
    let of =
        |figure: &dyn Fn(&ErrorRates) -> f64| estimate(own.as_ref().map_or(f64::NAN, figure), draws.iter().map(figure));
    let tar = |n: usize, far: f64| {
        let told = far * comparisons.impostor() as f64 >= 1.0;
        told.then(|| of(&|measured| measured.tar[n]))
    };
    let at_far = plan.fars.iter().enumerate().map(|(n, far)| {
        let tar = tar(n, *far);
        FarPoint { far: *far, tar, fnmr: tar.map(Estimate::complement) }
    });
    Verification {
        genuine_pairs: comparisons.genuine(),
        impostor_pairs: comparisons.impostor(),
        at_far: at_far.collect(),
        eer: of(&|measured| measured.eer),
        auc: of(&|measured| measured.auc),
        at_threshold: AtThreshold {
            threshold: plan.threshold,
            fmr: of(&|measured| measured.fmr),
            fnmr: of(&|measured| measured.fnmr),
        },
        thresholds: thresholds(comparisons, plan),
        genuine: comparisons.genuine_shares(),
        logistic: LogisticFit::of(comparisons),
    }
}

/// The threshold for each rate, one power of ten beyond the number of pairs at most, with intervals over subjects.
fn thresholds(comparisons: &Comparisons, plan: &ReportPlan) -> Vec<ThresholdPoint> {
    let count = comparisons.impostor() as f64;
    let told = plan.fmrs.iter().copied().filter(|rate| rate * count * (1.0 + 1e-9) >= 0.1);
    let rates: Vec<f64> = told.collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let at_rates = |weights: &[f64]| -> Option<Vec<f64>> {
        let weighted = || comparisons.impostors().map(|pair| (pair.similarity, comparisons.weight(pair, weights)));
        let total = weighted().map(|(_, weight)| weight).sum();
        let tail = Tail::weighted(weighted(), total, highest)?;
        Some(rates.iter().map(|rate| tail.threshold_at(*rate).clamp(-1.0, 1.0)).collect())
    };
    let Some(own) = at_rates(&vec![1.0; comparisons.subjects()]) else { return Vec::new() };
    let draws = plan.resampling.run(comparisons.subjects(), at_rates);
    let point = |(n, rate): (usize, &f64)| ThresholdPoint {
        fmr: *rate,
        threshold: estimate(own[n], draws.iter().flatten().map(|draw| draw[n])),
        basis: if rate * count >= 10.0 { Basis::Counted } else { Basis::Fitted },
    };
    rates.iter().enumerate().map(point).collect()
}

/// Measures who is found among others. `None` if nobody has two photos.
pub fn identify(faces: &Faces, plan: &ReportPlan) -> Option<Identification> {
    let closed = one_shot(faces, &plan.ranks, plan.resampling)?;
    let ranks = plan.ranks.iter().zip(&closed.hits).map(|(rank, share)| Rank { rank: *rank, share: *share });
    let open = open_set(faces, plan.photos, &plan.fpirs, plan.splits, plan.resampling);
    let open_set = open.map(|open| OpenSetReport {
        splits: open.splits,
        subjects: open.enrolled,
        photos: open.photos,
        mated_probes: open.mated_probes,
        stranger_probes: open.stranger_probes,
        at_fpir: plan.fpirs.iter().zip(open.points).map(|(fpir, point)| FpirReport::new(*fpir, point)).collect(),
    });
    Some(Identification { probes: closed.probes, ranks: ranks.collect(), open_set })
}

impl FpirReport {
    pub(super) fn new(fpir: f64, point: Option<FpirPoint>) -> Self {
        let (fnir, threshold) = point.map(|point| (point.fnir, point.threshold)).unzip();
        Self { fpir, fnir, threshold }
    }
}

/// What plots show.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// FMR and FNMR of falling thresholds.
    pub det: Vec<(f64, f64)>,
    /// For bins of similarity from -1 to 1: the share of genuine and of impostor pairs.
    pub bins: Vec<(f64, f64)>,
}

impl Curve {
    /// A point wherever a rate changes, `most` at most beside the ends, and `bins` bins.
    pub fn of(comparisons: &Comparisons, most: usize, bins: usize) -> Self {
        let all = Sums { genuine: comparisons.genuine() as f64, impostor: comparisons.impostor() as f64 };
        let mut shares = vec![(0.0, 0.0); bins];
        let (mut sums, mut det) = (Sums::default(), Vec::new());
        for group in comparisons.pairs().chunk_by(|a, b| a.similarity == b.similarity) {
            for pair in group {
                let count = comparisons.stands_for(pair);
                sums.add(pair.is_genuine(), count);
                let bin = ((f64::from(pair.similarity) + 1.0) / 2.0 * bins as f64) as usize;
                let share = &mut shares[bin.min(bins - 1)];
                if pair.is_genuine() { share.0 += count / all.genuine } else { share.1 += count / all.impostor }
            }
            det.push((sums.fmr(&all), sums.fnmr(&all)));
        }
        // A bend is where the curve turns from one direction to the other.
        let bend = |w: &[(f64, f64)]| (w[0].0 == w[1].0) != (w[1].0 == w[2].0);
        let mut bends: Vec<_> = det.windows(3).filter(|w| bend(w)).map(|w| w[1]).collect();
        if bends.len() > most {
            let step = bends.len().div_ceil(most.max(1));
            bends = bends.into_iter().step_by(step).collect();
        }
        let (first, last) = (det.first().copied(), det.last().copied());
        Self { det: first.into_iter().chain(bends).chain(last).collect(), bins: shares }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;

    fn plan() -> ReportPlan {
        ReportPlan {
            fars: vec![1e-4, 1e-3, 1e-2, 1e-1],
            fmrs: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5],
            fpirs: vec![0.1, 0.01],
            ranks: vec![1, 5],
            photos: 1,
            splits: 10,
            threshold: 0.4,
            resampling: Resampling { draws: 200, seed: 1 },
        }
    }

    #[test]
    fn a_report_tells_what_the_data_can() {
        let faces = made::faces(20, 5, 1.2, 3);
        let comparisons = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let report = verify(&comparisons, &plan());
        assert_eq!((report.genuine_pairs, report.impostor_pairs), (200, 4750));
        assert_eq!(
            report.at_far.iter().map(|point| point.tar.is_some()).collect::<Vec<_>>(),
            [false, true, true, true]
        );
        let tars: Vec<f64> = report.at_far.iter().flat_map(|point| point.tar).map(|tar| tar.value).collect();
        assert!(tars.is_sorted() && tars[0] > 0.1, "{tars:?}");
        let thresholds: Vec<f64> = report.thresholds.iter().map(|point| point.threshold.value).collect();
        assert_eq!(thresholds.len(), 4, "1e-5 is too far beyond 4,750 pairs");
        assert!(thresholds.is_sorted(), "{thresholds:?}");
        assert_eq!(report.thresholds[3].basis, Basis::Fitted);
        for estimate in [report.eer, report.auc, report.at_threshold.fmr, report.at_threshold.fnmr] {
            assert!(estimate.low < estimate.value && estimate.value < estimate.high, "{estimate:?}");
        }
        let identified = identify(&faces, &plan()).unwrap();
        assert!(identified.ranks[0].share.value <= identified.ranks[1].share.value);
        assert!(identified.open_set.unwrap().at_fpir[0].fnir.is_some());
    }

    #[test]
    fn a_report_survives_json() {
        let faces = made::faces(6, 4, 1.0, 3);
        let comparisons = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let verification = verify(&comparisons, &plan());
        let report = Report { subjects: 6, verification, identification: identify(&faces, &plan()) };
        let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        // Its last digits may differ.
        assert!((back.verification.eer.value - report.verification.eer.value).abs() < 1e-12);
        assert_eq!(back.verification.at_far.len(), 4);
        assert_eq!(back.identification.unwrap().open_set.unwrap().at_fpir.len(), 2);
    }

    #[test]
    fn curves_start_and_end_where_they_must() {
        let faces = made::faces(10, 5, 1.5, 3);
        let comparisons = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        let curve = Curve::of(&comparisons, 20, 40);
        assert!(curve.det.len() <= 24 && curve.det.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1), "{:?}", curve.det);
        assert_eq!(curve.det.last(), Some(&(1.0, 0.0)));
        let sums = curve.bins.iter().fold((0.0, 0.0), |sums, bin| (sums.0 + bin.0, sums.1 + bin.1));
        assert!((sums.0 - 1.0).abs() < 1e-9 && (sums.1 - 1.0).abs() < 1e-9);
    }
}
