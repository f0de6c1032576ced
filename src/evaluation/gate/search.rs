//! One photo of each subject enrolled, and all others looked for: who is missed at a rate of strangers.

use super::GateSet;
use crate::evaluation::Faces;
use crate::evaluation::bootstrap::in_parallel;

/// Other subjects of each face, most similar first, that are kept: that a draw misses all of them has a probability of e^-40.
const NEAREST: usize = 40;

/// The searches of one network.
pub(super) struct Search {
    probes: Vec<Probe>,
}

/// A face, looked for among the first faces of all subjects.
struct Probe {
    subject: usize,
    /// Similarity to the enrolled face of its own subject, if it is not that one.
    own: Option<f32>,
    /// Other subjects and their similarities, most similar first.
    others: Vec<(usize, f32)>,
}

impl Search {
    pub fn of(set: &GateSet, faces: &Faces) -> Self {
        let enrolled: Vec<usize> = faces.by_subject().iter().filter_map(|faces| faces.first().copied()).collect();
        let probe = |face: usize| {
            let subject = faces.subject(face);
            let compared = enrolled.iter().filter(|other| set.is_compared(face, **other));
            let similarities = compared.map(|other| (faces.subject(*other), faces.similarity(face, *other)));
            let (own, mut others): (Vec<_>, Vec<_>) = similarities.partition(|(other, _)| *other == subject);
            others.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            others.truncate(NEAREST);
            Probe { subject, own: own.first().map(|(_, similarity)| *similarity), others }
        };
        Self { probes: in_parallel(faces.len(), probe) }
    }

    /// Faces that are looked for as photos of somebody who is enrolled.
    pub fn mated(&self) -> usize {
        self.probes.iter().filter(|probe| probe.own.is_some()).count()
    }

    /// Faces that play the stranger: all, among the subjects that are not their own.
    pub fn strangers(&self) -> usize {
        self.probes.len()
    }

    /// The share of mated probes whose own subject is not the most similar, or is below the threshold that a share `fpir` of
    /// the strangers reaches, if each subject occurs as often as its weight says. `None` if no probe of a kind has any weight.
    pub fn fnir(&self, fpir: f64, weights: &[f64]) -> Option<f64> {
        let drawn: Vec<(f64, Option<f32>, f32)> = self
            .probes
            .iter()
            .filter(|probe| weights[probe.subject] > 0.0)
            .map(|probe| {
                let nearest = probe.others.iter().find(|(other, _)| weights[*other] > 0.0);
                (weights[probe.subject], probe.own, nearest.map_or(-1.0, |(_, similarity)| *similarity))
            })
            .collect();
        let threshold = threshold(drawn.iter().map(|(weight, _, nearest)| (*weight, *nearest)), fpir)?;
        let (mut missed, mut all) = (0.0, 0.0);
        for (weight, own, nearest) in &drawn {
            let Some(own) = own else { continue };
            all += weight;
            missed += if *own < threshold || own < nearest { *weight } else { 0.0 };
        }
        (all > 0.0).then(|| missed / all)
    }
}

/// The lowest threshold that at most a share `fpir` of the strangers reaches.
fn threshold(strangers: impl Iterator<Item = (f64, f32)>, fpir: f64) -> Option<f32> {
    let mut strangers: Vec<(f64, f32)> = strangers.collect();
    strangers.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = strangers.iter().map(|(weight, _)| weight).sum();
    let mut taken = 0.0;
    let one_too_many = strangers.iter().find(|(weight, _)| {
        taken += weight;
        taken > fpir * all * (1.0 + 1e-12)
    });
    (all > 0.0).then(|| one_too_many.map_or(-1.0, |(_, similarity)| similarity.next_up()))
}

#[cfg(test)]
mod tests {
    use super::super::{RatesInUse, Shown};
    use super::*;

    /// Three subjects with two faces each in a plane, at these angles in degrees.
    fn search(angles: [f32; 6], photos: [usize; 6]) -> Search {
        let vectors: Vec<Vec<f32>> =
            angles.iter().map(|angle| vec![angle.to_radians().cos(), angle.to_radians().sin()]).collect();
        let shown: Vec<Shown> = (0..6).map(|face| Shown { subject: face / 2, photo: photos[face] }).collect();
        let rates = RatesInUse { fmr: 0.1, fpir: 0.1 };
        let set = GateSet::new(("people", rates), &shown, vectors.clone(), vectors).unwrap();
        Search::of(&set, &set.active)
    }

    #[test]
    fn small_cases_by_hand() {
        // The second face of the last subject is nearer to the second subject than to its own.
        let search = search([0.0, 5.0, 60.0, 70.0, 120.0, 80.0], [0, 1, 2, 3, 4, 5]);
        assert_eq!((search.mated(), search.strangers()), (3, 6));
        let ones = [1.0; 3];
        assert_eq!(search.fnir(0.5, &ones), Some(1.0 / 3.0));
        // Who is not drawn is not enrolled either.
        assert_eq!(search.fnir(0.5, &[1.0, 0.0, 1.0]), Some(0.0));
        assert_eq!(search.fnir(0.5, &[0.0; 3]), None);
        // The most similar stranger, 20 degrees away, may not pass, and the own face at 40 degrees neither.
        assert_eq!(search.fnir(0.0, &[2.0, 1.0, 1.0]), Some(0.25));
    }

    #[test]
    fn one_photo_is_not_compared_with_itself() {
        let search = search([0.0, 5.0, 0.0, 70.0, 120.0, 120.0], [0, 1, 0, 3, 4, 4]);
        assert_eq!((search.mated(), search.strangers()), (2, 6));
        assert!(search.probes[0].others.iter().all(|(other, _)| *other == 2));
    }
}
