//! Which faces a batch is made of: P subjects with K photos each (Hermans et al. 2017, arXiv:1703.07737).
//!
//! A batch is a function of seed and step, so a run that is resumed needs no other state. Subjects are dealt like
//! cards, so that each is seen as often whether they have two photos or a hundred, and so are the photos of a subject.
//! Nobody is in a batch twice, and no photo: a photo beside itself would be a positive that teaches nothing.

use super::TrainingError;
use super::config::BatchShape;
use super::dataset::Dataset;
use crate::evaluation::Random;

/// Streams of random numbers, one for each use.
const SUBJECTS: u64 = 1 << 40;
const SINGLES: u64 = 2 << 40;
const PHOTOS: u64 = 3 << 40;

pub struct Sampler {
    seed: u64,
    batch: BatchShape,
    /// The chips of those with two or more.
    mated: Vec<Vec<usize>>,
    /// The chips of those with one: negatives of everybody.
    singles: Vec<usize>,
}

impl Sampler {
    pub fn new(dataset: &Dataset, batch: &BatchShape, seed: u64) -> Result<Self, TrainingError> {
        let (mated, singles): (Vec<_>, Vec<_>) =
            dataset.by_subject().iter().cloned().partition(|chips| chips.len() > 1);
        let sampler = Self { seed, batch: batch.clone(), mated, singles: singles.into_iter().flatten().collect() };
        if sampler.mated.is_empty() || sampler.mated.len() + sampler.singles.len() < 2 {
            let reason = "at least two people are needed, one of them with two photos";
            return Err(TrainingError::Data(reason.to_owned()));
        }
        Ok(sampler)
    }

    /// Chips of the batch, which counts from 0.
    pub fn batch(&self, step: u64) -> Vec<usize> {
        let mut chosen = Vec::new();
        for (subject, visit) in deal(self.mated.len(), self.batch.subjects.into(), self.seed, SUBJECTS, step) {
            let chips = &self.mated[subject];
            let photos = deal(chips.len(), self.batch.photos.into(), self.seed, PHOTOS + subject as u64, visit);
            chosen.extend(photos.into_iter().map(|(photo, _)| chips[photo]));
        }
        let singles = deal(self.singles.len(), self.batch.singles.into(), self.seed, SINGLES, step);
        chosen.extend(singles.into_iter().map(|(single, _)| self.singles[single]));
        chosen
    }
}

/// Hand number `turn` of `size` cards, or of all if there are fewer, out of `count` that are shuffled anew whenever there
/// are too few left for a hand. Comes with the number of the shuffle, by which each card was in at most one hand.
pub(super) fn deal(count: usize, size: usize, seed: u64, stream: u64, turn: u64) -> Vec<(usize, u64)> {
    let size = size.min(count);
    if size == 0 {
        return Vec::new();
    }
    let hands = (count / size) as u64;
    let (shuffle, hand) = (turn / hands, (turn % hands) as usize);
    let mut cards: Vec<usize> = (0..count).collect();
    let mut random = Random::new(seed ^ shuffle.wrapping_mul(0x9E37_79B9_7F4A_7C15), stream);
    random.shuffle(&mut cards);
    cards[hand * size..(hand + 1) * size].iter().map(|card| (*card, shuffle)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::dataset::made;
    use super::*;

    fn sampler(photos: &[usize], batch: BatchShape) -> (Dataset, Sampler) {
        let dataset = made::stripes(photos, 1);
        let sampler = Sampler::new(&dataset, &batch, 5).unwrap();
        (dataset, sampler)
    }

    #[test]
    fn few_photos_are_seen_as_often_as_many() {
        let (dataset, sampler) = sampler(&[2, 9, 3, 2, 5], BatchShape { subjects: 2, photos: 3, singles: 2 });
        let mut visits = [0; 5];
        for step in 0..200 {
            let batch = sampler.batch(step);
            let unique: HashSet<_> = batch.iter().collect();
            assert_eq!(unique.len(), batch.len(), "a photo is in the batch twice");
            let subjects: HashSet<_> = batch.iter().map(|chip| dataset.subjects()[*chip]).collect();
            assert_eq!(subjects.len(), 2);
            subjects.iter().for_each(|subject| visits[*subject] += 1);
        }
        assert!(visits.iter().all(|count| (60..=100).contains(count)), "{visits:?}");
    }

    #[test]
    fn single_photos_are_negatives_beside_the_others() {
        let (dataset, sampler) = sampler(&[1, 4, 4, 1, 1], BatchShape { subjects: 2, photos: 4, singles: 2 });
        for step in 0..10 {
            let batch = sampler.batch(step);
            let single = |chip: &&usize| dataset.by_subject()[dataset.subjects()[**chip]].len() == 1;
            assert_eq!((batch.len(), batch.iter().filter(single).count()), (10, 2));
        }
    }

    #[test]
    fn all_photos_have_their_turn() {
        let (_, sampler) = sampler(&[8, 8], BatchShape { subjects: 2, photos: 4, singles: 0 });
        let seen: HashSet<_> = (0..2).flat_map(|step| sampler.batch(step)).collect();
        assert_eq!(seen.len(), 16);
        assert_eq!(sampler.batch(7), sampler.batch(7));
    }

    #[test]
    fn too_little_is_refused() {
        for photos in [&[][..], &[5], &[1, 1, 1]] {
            let refused = Sampler::new(&made::stripes(photos, 1), &BatchShape::default(), 1);
            assert!(matches!(refused, Err(TrainingError::Data(_))), "{photos:?}");
        }
    }
}
