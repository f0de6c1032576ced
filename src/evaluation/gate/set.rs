//! The faces of one gallery by two networks, and at which rates it decides.

use serde::{Deserialize, Serialize};

use crate::evaluation::curve::each_of;
use crate::evaluation::{EvaluationError, Faces};

/// What a face of a set shows, each numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub subject: usize,
    /// Faces of one photo are not compared: they tell nothing, whatever their names.
    pub photo: usize,
}

/// The rates at which a gallery takes strangers for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RatesInUse {
    /// Of one comparison.
    pub fmr: f64,
    /// Of one probe among all subjects.
    pub fpir: f64,
}

impl RatesInUse {
    /// A share `fpir` of strangers is taken for one of `subjects`.
    pub fn of_fpir(fpir: f64, subjects: usize) -> Self {
        Self { fmr: each_of(subjects as f64, fpir), fpir }
    }
}

/// The same faces of one gallery by two networks: the active one and the candidate.
#[derive(Debug, Clone)]
pub struct GateSet {
    /// Of the gallery, for people.
    pub(super) name: String,
    pub(super) rates: RatesInUse,
    pub(super) active: Faces,
    pub(super) candidate: Faces,
    /// Of each face, the photo.
    pub(super) photos: Vec<usize>,
}

impl GateSet {
    /// `shown[i]` is what face `i` shows; the vectors, of length 1, are in the same order. The lengths of the two networks'
    /// vectors may differ.
    pub fn new(
        (name, rates): (&str, RatesInUse),
        shown: &[Shown],
        active: Vec<Vec<f32>>,
        candidate: Vec<Vec<f32>>,
    ) -> Result<Self, EvaluationError> {
        let subjects: Vec<usize> = shown.iter().map(|shown| shown.subject).collect();
        let photos = shown.iter().map(|shown| shown.photo).collect();
        let (active, candidate) = (Faces::new(active, subjects.clone())?, Faces::new(candidate, subjects)?);
        Ok(Self { name: name.to_owned(), rates, active, candidate, photos })
    }

    /// As [`Self::new`], of as many photos as faces, where a share `fpir` of strangers may be taken for one of these subjects.
    pub fn of_subjects(
        (name, fpir): (&str, f64),
        subjects: &[usize],
        active: Vec<Vec<f32>>,
        candidate: Vec<Vec<f32>>,
    ) -> Result<Self, EvaluationError> {
        let people = subjects.iter().collect::<std::collections::HashSet<_>>().len();
        let shown: Vec<Shown> =
            (0..).zip(subjects).map(|(photo, subject)| Shown { subject: *subject, photo }).collect();
        Self::new((name, RatesInUse::of_fpir(fpir, people)), &shown, active, candidate)
    }

    pub(super) fn subjects(&self) -> usize {
        self.active.by_subject().iter().filter(|faces| !faces.is_empty()).count()
    }

    /// Whether two faces are of different photos.
    pub(super) fn is_compared(&self, a: usize, b: usize) -> bool {
        self.photos[a] != self.photos[b]
    }

    /// Subjects with two photos or more.
    pub(super) fn mated(&self) -> usize {
        let is_mated = |faces: &&Vec<usize>| faces.iter().any(|face| self.is_compared(*face, faces[0]));
        self.active.by_subject().iter().filter(is_mated).count()
    }
}
