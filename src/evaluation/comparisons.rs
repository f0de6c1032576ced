//! Pairs of faces: whom they show, and how similar they are.

use super::random::Random;
use super::{EvaluationError, Faces, GenuinePoint};

/// Shares of genuine pairs for which similarities are told.
const SHARES: [f64; 14] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// Genuine pairs that are too few to tell them.
const LEAST_GENUINE: usize = 20;

/// Two faces that were compared. The subjects are numbered from 0; the pair is genuine if they are the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Cosine, -1..=1.
    pub similarity: f32,
    pub a: u32,
    pub b: u32,
}

impl Pair {
    pub fn is_genuine(&self) -> bool {
        self.a == self.b
    }

    /// How often the pair occurs among subjects of whom each occurs as often as its weight says (Owen 2007, "The pigeonhole
    /// bootstrap").
    pub(super) fn weight(&self, weights: &[f64]) -> f64 {
        let a = weights[self.a as usize];
        if self.is_genuine() { a } else { a * weights[self.b as usize] }
    }
}

/// Pairs of both kinds, most similar first.
#[derive(Debug, Clone)]
pub struct Comparisons {
    pairs: Vec<Pair>,
    subjects: usize,
    genuine: usize,
    impostor: usize,
    /// Impostor pairs that are less similar than this are a sample, and each of them stands for so many.
    sampled_below: f32,
    stands_for: f64,
}

impl Comparisons {
    pub fn new(mut pairs: Vec<Pair>) -> Result<Self, EvaluationError> {
        if let Some(pair) = pairs.iter().find(|pair| !pair.similarity.is_finite()) {
            return Err(EvaluationError::NotFinite(pair.a as usize, pair.b as usize));
        }
        let genuine = pairs.iter().filter(|pair| pair.is_genuine()).count();
        if genuine == 0 {
            return Err(EvaluationError::NoGenuinePair);
        }
        if genuine == pairs.len() {
            return Err(EvaluationError::NoImpostorPair);
        }
        // Ties in an order of their own, so that it does not depend on where the pairs came from.
        pairs.sort_unstable_by(|x, y| y.similarity.total_cmp(&x.similarity).then((x.a, x.b).cmp(&(y.a, y.b))));
        let subjects = pairs.iter().map(|pair| pair.a.max(pair.b) as usize + 1).max().unwrap_or(0);
        let impostor = pairs.len() - genuine;
        Ok(Self { pairs, subjects, genuine, impostor, sampled_below: f32::NEG_INFINITY, stands_for: 1.0 })
    }

    /// The same pairs, of which impostor pairs below a similarity are a sample of `of` such pairs.
    pub(super) fn with_sample_below(mut self, similarity: f32, of: usize) -> Self {
        let sampled = self.impostors().filter(|pair| pair.similarity < similarity).count();
        if sampled > 0 {
            self.impostor = self.impostor - sampled + of;
            (self.sampled_below, self.stands_for) = (similarity, of as f64 / sampled as f64);
        }
        self
    }

    /// How many pairs one of these stands for: 1, but where impostor pairs are a sample.
    pub(super) fn stands_for(&self, pair: &Pair) -> f64 {
        if pair.similarity < self.sampled_below && !pair.is_genuine() { self.stands_for } else { 1.0 }
    }

    /// As [`Pair::weight`], of all pairs that this one stands for.
    pub(super) fn weight(&self, pair: &Pair, weights: &[f64]) -> f64 {
        pair.weight(weights) * self.stands_for(pair)
    }

    /// All genuine pairs of `faces`, and all impostor pairs or about `most` of them, chosen at random.
    pub fn of_faces(faces: &Faces, most: usize, seed: u64) -> Result<Self, EvaluationError> {
        let count = |n: usize| n * n.saturating_sub(1) / 2;
        let genuine: usize = faces.by_subject().iter().map(|faces| count(faces.len())).sum();
        let all = (0..faces.len()).collect();
        Self::sample(faces, &[all], (count(faces.len()) - genuine, most), seed, |_, _| true)
    }

    /// As [`Self::of_faces`], of the pairs of faces that `compared` says yes to.
    pub fn of_faces_where(
        faces: &Faces,
        most: usize,
        seed: u64,
        compared: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, EvaluationError> {
        Self::within(faces, &[(0..faces.len()).collect()], most, seed, compared)
    }

    /// As [`Self::of_faces_where`], of the pairs within each of some groups of faces: the cost is that of those pairs, not of
    /// all that there are.
    pub fn within(
        faces: &Faces,
        groups: &[Vec<usize>],
        most: usize,
        seed: u64,
        compared: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, EvaluationError> {
        let is_impostor = |i: usize, j: usize| faces.subject(i) != faces.subject(j) && compared(i, j);
        let of_group = |group: &Vec<usize>| -> usize {
            group.iter().enumerate().map(|(n, i)| group[..n].iter().filter(|j| is_impostor(*i, **j)).count()).sum()
        };
        Self::sample(faces, groups, (groups.iter().map(of_group).sum(), most), seed, compared)
    }

    /// Of `impostors` impostor pairs about `most`.
    fn sample(
        faces: &Faces,
        groups: &[Vec<usize>],
        (impostors, most): (usize, usize),
        seed: u64,
        compared: impl Fn(usize, usize) -> bool,
    ) -> Result<Self, EvaluationError> {
        let share = most as f64 / impostors.max(1) as f64;
        let mut random = Random::new(seed, 0);
        let mut pairs = Vec::new();
        for group in groups {
            for (n, &i) in group.iter().enumerate() {
                for &j in group[..n].iter().filter(|j| compared(i, **j)) {
                    let (a, b) = (faces.subject(i), faces.subject(j));
                    if a == b || share >= 1.0 || random.unit() < share {
                        pairs.push(Pair { similarity: faces.similarity(i, j), a: a as u32, b: b as u32 });
                    }
                }
            }
        }
        Self::new(pairs)
    }

    /// Most similar first.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Most similar first.
    pub fn impostors(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(|pair| !pair.is_genuine())
    }

    /// How similar genuine pairs are, each subject counting once however many photos there are. Empty with fewer than twenty.
    pub fn genuine_shares(&self) -> Vec<GenuinePoint> {
        if self.genuine < LEAST_GENUINE {
            return Vec::new();
        }
        let mut counts = vec![0.0_f64; self.subjects];
        let genuine = || self.pairs.iter().rev().filter(|pair| pair.is_genuine());
        genuine().for_each(|pair| counts[pair.a as usize] += 1.0);
        let total = counts.iter().filter(|count| **count > 0.0).count() as f64;
        let (mut points, mut below): (Vec<GenuinePoint>, f64) = (Vec::new(), 0.0);
        for pair in genuine() {
            below += 1.0 / counts[pair.a as usize];
            while let Some(share) = SHARES.get(points.len()).filter(|share| below >= **share * total) {
                points.push(GenuinePoint { share: *share, similarity: pair.similarity });
            }
        }
        points
    }

    /// One more than the largest number of a subject.
    pub fn subjects(&self) -> usize {
        self.subjects
    }

    /// Number of genuine pairs.
    pub fn genuine(&self) -> usize {
        self.genuine
    }

    /// Number of impostor pairs that were compared.
    pub fn impostor(&self) -> usize {
        self.impostor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;

    #[test]
    fn all_pairs_or_some() {
        let faces = made::faces(10, 4, 1.0, 1);
        let all = Comparisons::of_faces(&faces, usize::MAX, 0).unwrap();
        assert_eq!((all.genuine(), all.impostor(), all.subjects()), (60, 720, 10));
        assert!(all.pairs().is_sorted_by(|x, y| x.similarity >= y.similarity));
        let some = Comparisons::of_faces(&faces, 200, 0).unwrap();
        assert_eq!(some.genuine(), 60);
        assert!((150..250).contains(&some.impostor()), "{}", some.impostor());
    }

    #[test]
    fn groups_hold_the_pairs_of_their_own_faces() {
        let faces = made::faces(10, 4, 1.0, 1);
        let group = |face: usize| usize::from(face >= 12);
        let groups = [(0..12).collect(), (12..40).rev().collect::<Vec<_>>()];
        let within = Comparisons::within(&faces, &groups, usize::MAX, 0, |i, j| i + j != 1).unwrap();
        let filtered = |i: usize, j: usize| group(i) == group(j) && i + j != 1;
        let filtered = Comparisons::of_faces_where(&faces, usize::MAX, 0, filtered).unwrap();
        assert_eq!((within.genuine(), within.impostor()), (59, 3 * 16 + 21 * 16));
        let similarities = |all: &Comparisons| all.pairs().iter().map(|pair| pair.similarity).collect::<Vec<_>>();
        assert_eq!(similarities(&within), similarities(&filtered));
    }

    #[test]
    fn both_kinds_are_needed() {
        let pair = |similarity, a, b| Pair { similarity, a, b };
        assert_eq!(Comparisons::new(vec![pair(0.5, 0, 0)]).unwrap_err(), EvaluationError::NoImpostorPair);
        assert_eq!(Comparisons::new(vec![pair(0.5, 0, 1)]).unwrap_err(), EvaluationError::NoGenuinePair);
        let nan = Comparisons::new(vec![pair(0.5, 0, 0), pair(f32::NAN, 0, 1)]);
        assert_eq!(nan.unwrap_err(), EvaluationError::NotFinite(0, 1));
    }
}
