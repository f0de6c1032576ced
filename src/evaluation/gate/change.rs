//! What changes on a set of faces if the candidate takes the place of the active network.

use serde::{Deserialize, Serialize};

use super::search::Search;
use super::{Gate, GateSet};
use crate::evaluation::bootstrap::{Estimate, Resampling, estimate};
use crate::evaluation::verification::measure;
use crate::evaluation::{Comparisons, EvaluationError, Faces};

/// Impostor pairs, or probes of strangers, that must be expected above a threshold so that a sample shows its rate: their count
/// has a standard error of a third then (Poisson).
const EXPECTED: f64 = 10.0;

/// No figure is taken at a higher rate: nobody decides there.
const MOST_RATE: f64 = 0.5;

/// A rate of strangers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GateRate {
    /// At which the gallery decides.
    pub in_use: f64,
    /// At which figures were taken: the lowest that the sample can show, if that is higher.
    pub at: f64,
}

impl GateRate {
    /// What `trials` strangers can show.
    fn shown(in_use: f64, trials: usize) -> Self {
        Self { in_use, at: in_use.max(EXPECTED / trials.max(1) as f64).min(MOST_RATE) }
    }
}

/// The figures of a network on a set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Probability that a genuine pair is more similar than an impostor pair. For people to see; nothing is judged by it.
    pub auc: f64,
    /// TAR at the FMR.
    pub tar: f64,
    /// FNIR at the FPIR.
    pub fnir: f64,
}

/// Both networks on one set. Changes are the candidate's figure less the active one's, with intervals over subjects of
/// whom each draw takes the same ones for both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub subjects: usize,
    /// Subjects with two photos or more.
    pub mated: usize,
    pub faces: usize,
    pub genuine_pairs: usize,
    pub impostor_pairs: usize,
    /// Photos that were looked for among the first ones of all subjects, as their own subject's and as a stranger's.
    pub mated_probes: usize,
    pub stranger_probes: usize,
    pub fmr: GateRate,
    pub fpir: GateRate,
    pub active: Figures,
    pub candidate: Figures,
    pub auc_change: Estimate,
    pub tar_change: Estimate,
    /// A rise is a loss.
    pub fnir_change: Estimate,
}

/// What the figures of one network are taken from.
struct Measurable {
    comparisons: Comparisons,
    search: Search,
}

impl Measurable {
    /// `None` if the draw has nothing of a kind.
    fn figures(&self, weights: &[f64], (fmr, fpir): (f64, f64)) -> Option<Figures> {
        let measured = measure(&self.comparisons, weights, &[fmr], 1.0)?;
        Some(Figures { auc: measured.auc, tar: measured.tar[0], fnir: self.search.fnir(fpir, weights)? })
    }
}

impl Change {
    pub(super) fn of(set: &GateSet, gate: &Gate) -> Result<Self, EvaluationError> {
        let of = |faces: &Faces| {
            // The same seed chooses the same pairs of both.
            let compared = |i: usize, j: usize| set.is_compared(i, j);
            let comparisons = Comparisons::of_faces_where(faces, gate.most_impostors, gate.seed, compared)?;
            Ok(Measurable { comparisons, search: Search::of(set, faces) })
        };
        let (active, candidate) = (of(&set.active)?, of(&set.candidate)?);
        let Measurable { comparisons, search } = &active;
        let impostor_pairs = comparisons.pairs().len() - comparisons.genuine();
        let fmr = GateRate::shown(set.rates.fmr, impostor_pairs);
        let fpir = GateRate::shown(set.rates.fpir, search.strangers());
        let both = |weights: &[f64]| {
            let rates = (fmr.at, fpir.at);
            Some((active.figures(weights, rates)?, candidate.figures(weights, rates)?))
        };
        let people = set.active.by_subject().len();
        let resampling = Resampling { draws: gate.draws, seed: gate.seed };
        let draws: Vec<_> = resampling.run(people, both).into_iter().flatten().collect();
        let (before, after) = both(&vec![1.0; people]).ok_or(EvaluationError::NoGenuinePair)?;
        let change = |figure: fn(&Figures) -> f64| {
            estimate(figure(&after) - figure(&before), draws.iter().map(|(a, b)| figure(b) - figure(a)))
        };
        Ok(Self {
            subjects: set.subjects(),
            mated: set.mated(),
            faces: set.active.len(),
            genuine_pairs: comparisons.genuine(),
            impostor_pairs,
            mated_probes: search.mated(),
            stranger_probes: search.strangers(),
            fmr,
            fpir,
            active: before,
            candidate: after,
            auc_change: change(|figures| figures.auc),
            tar_change: change(|figures| figures.tar),
            fnir_change: change(|figures| figures.fnir),
        })
    }

    /// TAR and 1 - FNIR by their names, with their changes: a fall is a loss.
    pub(super) fn judged_by(&self) -> [(String, Estimate); 2] {
        let Estimate { value, low, high } = self.fnir_change;
        let found = Estimate { value: -value, low: -high, high: -low };
        [
            (format!("TAR at an FMR of {:.1e}", self.fmr.at), self.tar_change),
            (format!("the share found (1 - FNIR) at an FPIR of {:.1e}", self.fpir.at), found),
        ]
    }
}
