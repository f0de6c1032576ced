//! Whether a network may take the place of another: not because it looks better on a few people, but because it is
//! better on people whom it never saw, and still good where the other one was.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, Resampling, estimate};
use super::verification::measure;
use super::{Comparisons, EvaluationError, Faces};

/// The rate at which TAR is compared.
const FAR: f64 = 1e-2;

/// What a face of a set shows, each numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Only faces of one gallery are compared, for nobody knows whether subjects of different ones are one person.
    pub gallery: usize,
    pub subject: usize,
    /// Faces of one photo are not compared: they tell nothing, whatever their names.
    pub photo: usize,
}

/// The same faces by two networks: the active one and the candidate.
#[derive(Debug, Clone)]
pub struct GateSet {
    active: Faces,
    candidate: Faces,
    /// Of each face.
    shown: Vec<Shown>,
}

impl GateSet {
    /// `shown[i]` is what face `i` shows; the vectors, of length 1, are in the same order. The lengths of the two networks'
    /// vectors may differ.
    pub fn new(shown: Vec<Shown>, active: Vec<Vec<f32>>, candidate: Vec<Vec<f32>>) -> Result<Self, EvaluationError> {
        let subjects: Vec<usize> = shown.iter().map(|shown| shown.subject).collect();
        Ok(Self { active: Faces::new(active, subjects.clone())?, candidate: Faces::new(candidate, subjects)?, shown })
    }

    /// As [`Self::new`], of one gallery and as many photos as faces.
    pub fn of_subjects(
        subjects: Vec<usize>,
        active: Vec<Vec<f32>>,
        candidate: Vec<Vec<f32>>,
    ) -> Result<Self, EvaluationError> {
        let shown = (0..).zip(subjects).map(|(photo, subject)| Shown { gallery: 0, subject, photo });
        Self::new(shown.collect(), active, candidate)
    }
}

/// What a candidate must show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// By how much AUC and TAR at FAR 1e-2 may fall on the protected set.
    pub auc_fall: f64,
    pub tar_fall: f64,
    /// Draws of subjects, and from which seed.
    pub draws: usize,
    pub seed: u64,
    /// Impostor pairs of a set that are looked at; of more, as many are chosen at random.
    pub most_impostors: usize,
}

/// With fewer subjects, most draws have no pair of one kind, and those that are left are nearly all the same: the interval
/// would promise what it does not know.
const LEAST_SUBJECTS: usize = 4;

impl Default for Gate {
    fn default() -> Self {
        Self { auc_fall: 0.01, tar_fall: 0.02, draws: 1000, seed: 1, most_impostors: 200_000 }
    }
}

/// The figures of a network on a set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Probability that a genuine pair is more similar than an impostor pair.
    pub auc: f64,
    /// TAR at FAR 1e-2.
    pub tar: f64,
}

/// Both networks on one set. Changes are the candidate's figure less the active one's, with intervals over subjects of
/// whom each draw takes the same ones for both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub subjects: usize,
    pub faces: usize,
    pub genuine_pairs: usize,
    pub impostor_pairs: usize,
    pub active: Figures,
    pub candidate: Figures,
    pub auc_change: Estimate,
    pub tar_change: Estimate,
}

/// What the gate decided, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub promote: bool,
    /// Why not; empty if it may be promoted.
    pub reasons: Vec<String>,
    /// What weakens the decision.
    pub notes: Vec<String>,
    /// On subjects of the kind that the candidate was made for.
    pub target: Change,
    /// On subjects whom it must not be worse for.
    pub protected: Option<Change>,
    /// The rules that were applied.
    pub gate: Gate,
}

impl Gate {
    /// Compares on subjects whom the candidate never saw.
    pub fn decide(&self, target: &GateSet, protected: Option<&GateSet>) -> Result<Verdict, EvaluationError> {
        let target = self.compare(target)?;
        let protected = protected.map(|set| self.compare(set)).transpose()?;
        let reasons: Vec<String> = [self.improvement(&target)]
            .into_iter()
            .chain(protected.iter().flat_map(|change| self.losses(change)))
            .flatten()
            .collect();
        let mut notes = Vec::new();
        if protected.is_none() {
            notes.push("no protected set: what the candidate has forgotten is not known".to_owned());
        }
        for (name, change) in [("target", Some(&target)), ("protected", protected.as_ref())] {
            let Some(Change { impostor_pairs, .. }) = change else { continue };
            if (*impostor_pairs as f64) < 1.0 / FAR {
                notes.push(format!("{name} set: {impostor_pairs} impostor pairs do not tell TAR at FAR {FAR}"));
            }
        }
        Ok(Verdict { promote: reasons.is_empty(), reasons, notes, target, protected, gate: self.clone() })
    }

    fn compare(&self, set: &GateSet) -> Result<Change, EvaluationError> {
        // The same seed chooses the same pairs of both.
        let of = |faces: &Faces| {
            let compared = |i: usize, j: usize| {
                let (a, b) = (set.shown[i], set.shown[j]);
                a.gallery == b.gallery && a.photo != b.photo
            };
            Comparisons::of_faces_where(faces, self.most_impostors, self.seed, compared)
        };
        let (active, candidate) = (of(&set.active)?, of(&set.candidate)?);
        let both = |weights: &[f64]| Some((figures(&active, weights)?, figures(&candidate, weights)?));
        let resampling = Resampling { draws: self.draws, seed: self.seed };
        let draws: Vec<_> = resampling.run(active.subjects(), both).into_iter().flatten().collect();
        // Every subject once: there are pairs of both kinds.
        let (before, after) = both(&vec![1.0; active.subjects()]).ok_or(EvaluationError::NoGenuinePair)?;
        let change = |figure: fn(&Figures) -> f64| {
            estimate(figure(&after) - figure(&before), draws.iter().map(|(a, b)| figure(b) - figure(a)))
        };
        Ok(Change {
            subjects: set.active.by_subject().iter().filter(|faces| !faces.is_empty()).count(),
            faces: set.active.len(),
            genuine_pairs: active.genuine(),
            impostor_pairs: active.pairs().len() - active.genuine(),
            active: before,
            candidate: after,
            auc_change: change(|figures| figures.auc),
            tar_change: change(|figures| figures.tar),
        })
    }

    fn improvement(&self, change: &Change) -> Option<String> {
        if change.subjects < LEAST_SUBJECTS {
            return Some(format!(
                "no improvement shown: {} subjects whom the candidate never saw are too few to tell, {LEAST_SUBJECTS} \
                 are needed",
                change.subjects
            ));
        }
        let Estimate { value, low, .. } = change.auc_change;
        (low <= 0.0).then(|| {
            format!(
                "no improvement shown: AUC changes by {value:+.4} on {} subjects whom the candidate never saw, and with \
                 other subjects that may be {low:+.4}, which is not above 0",
                change.subjects
            )
        })
    }

    fn losses(&self, change: &Change) -> [Option<String>; 2] {
        let loss = |what: &str, fall: f64, allowed: f64| {
            // Room for rounding where the fall is just what is allowed.
            (fall > allowed + 1e-9).then(|| {
                format!("forgetting: {what} falls by {fall:.4} on the protected set, by at most {allowed} allowed")
            })
        };
        [
            loss("AUC", -change.auc_change.value, self.auc_fall),
            loss(&format!("TAR at FAR {FAR}"), -change.tar_change.value, self.tar_fall),
        ]
    }
}

/// `None` if the draw has no pair of a kind.
fn figures(comparisons: &Comparisons, weights: &[f64]) -> Option<Figures> {
    let measured = measure(comparisons, weights, &[FAR], 1.0)?;
    Some(Figures { auc: measured.auc, tar: measured.tar[0] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;

    /// Faces of 12 subjects as made with two spreads: the larger one, the worse are they told apart.
    fn set(active: f64, candidate: f64) -> GateSet {
        let vectors = |spread| {
            let faces = made::faces(12, 6, spread, 3);
            (0..faces.len()).map(|face| faces.vector(face).to_vec()).collect::<Vec<_>>()
        };
        let subjects = (0..72).map(|face| face / 6).collect();
        GateSet::of_subjects(subjects, vectors(active), vectors(candidate)).unwrap()
    }

    #[test]
    fn better_and_not_worse_elsewhere_is_promoted() {
        let verdict = Gate::default().decide(&set(2.0, 1.5), Some(&set(1.0, 1.0))).unwrap();
        assert!(verdict.promote && verdict.reasons.is_empty() && verdict.notes.is_empty(), "{verdict:?}");
        let Change { subjects, faces, genuine_pairs, impostor_pairs, active, candidate, auc_change, .. } =
            verdict.target;
        assert_eq!((subjects, faces, genuine_pairs, impostor_pairs), (12, 72, 180, 2376));
        assert!((candidate.auc - active.auc - auc_change.value).abs() < 1e-12);
        assert!(0.0 < auc_change.low && auc_change.low < auc_change.value && auc_change.value < auc_change.high);
        assert_eq!(Gate::default().decide(&set(2.0, 1.5), Some(&set(1.0, 1.0))).unwrap().target.auc_change, auc_change);
    }

    #[test]
    fn faces_of_different_galleries_or_of_one_photo_are_not_compared() {
        let vectors = |spread| {
            let faces = made::faces(12, 6, spread, 3);
            (0..faces.len()).map(|face| faces.vector(face).to_vec()).collect::<Vec<_>>()
        };
        let pairs = |shown: Vec<Shown>| {
            let set = GateSet::new(shown, vectors(2.0), vectors(1.5)).unwrap();
            let target = Gate::default().decide(&set, None).unwrap().target;
            (target.genuine_pairs, target.impostor_pairs)
        };
        let shown: Vec<Shown> =
            (0..72).map(|face| Shown { gallery: face / 36, subject: face / 6, photo: face }).collect();
        assert_eq!(pairs(shown.clone()), (180, 2 * 15 * 36));
        // One photo under two names, and another one twice under one.
        let mut copied = shown;
        (copied[6].photo, copied[1].photo) = (copied[0].photo, copied[2].photo);
        assert_eq!(pairs(copied), (179, 2 * 15 * 36 - 1));
    }

    #[test]
    fn an_equal_one_is_refused() {
        let verdict = Gate::default().decide(&set(2.0, 2.0), Some(&set(1.0, 1.0))).unwrap();
        assert!(!verdict.promote && verdict.reasons.len() == 1, "{verdict:?}");
        assert!(verdict.reasons[0].starts_with("no improvement shown"), "{}", verdict.reasons[0]);
        assert_eq!(verdict.target.auc_change, Estimate { value: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn few_subjects_show_nothing() {
        let vectors = |spread| {
            let faces = made::faces(3, 6, spread, 3);
            (0..faces.len()).map(|face| faces.vector(face).to_vec()).collect::<Vec<_>>()
        };
        let set = GateSet::of_subjects((0..18).map(|face| face / 6).collect(), vectors(2.0), vectors(0.5)).unwrap();
        let verdict = Gate::default().decide(&set, None).unwrap();
        assert!(verdict.target.auc_change.value > 0.0 && !verdict.promote, "{verdict:?}");
        assert!(verdict.reasons[0].contains("too few to tell"), "{}", verdict.reasons[0]);
    }

    #[test]
    fn a_worse_one_and_one_that_forgot_are_refused() {
        let worse = Gate::default().decide(&set(1.5, 2.0), None).unwrap();
        assert!(!worse.promote && worse.notes[0].starts_with("no protected set"), "{worse:?}");
        let forgot = Gate::default().decide(&set(2.0, 1.0), Some(&set(1.0, 2.2))).unwrap();
        assert!(!forgot.promote && forgot.reasons.len() == 2, "{forgot:?}");
        assert!(forgot.reasons.iter().all(|reason| reason.starts_with("forgetting")), "{forgot:?}");
    }

    #[test]
    fn without_a_protected_set_it_is_said() {
        let verdict = Gate::default().decide(&set(2.0, 1.0), None).unwrap();
        assert!(verdict.promote && verdict.protected.is_none() && verdict.notes.len() == 1, "{verdict:?}");
    }

    #[test]
    fn a_verdict_survives_json() {
        let verdict = Gate { draws: 50, ..Gate::default() }.decide(&set(2.0, 1.5), None).unwrap();
        let back: Verdict = serde_json::from_str(&serde_json::to_string(&verdict).unwrap()).unwrap();
        assert_eq!(back, verdict);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let gate = Gate::default();
        let alone = GateSet::of_subjects(vec![0, 0], vec![vec![1.0]; 2], vec![vec![1.0]; 2]).unwrap();
        assert_eq!(gate.decide(&alone, None).unwrap_err(), EvaluationError::NoImpostorPair);
        assert!(GateSet::of_subjects(vec![0, 0], vec![vec![1.0]; 2], vec![vec![1.0]]).is_err());
    }
}
