//! The chips of each step, chosen and varied: a function of seed and step, by as many threads as a run may use.

use std::thread;

use image::RgbImage;

use super::TrainingError;
use super::augment::vary;
use super::config::{Architecture, TrainConfig};
use super::dataset::Dataset;
use super::sampler::{Sampler, deal};
use crate::evaluation::Random;
use crate::types::Chip;

/// Streams of random numbers for changes of chips and for the choice of those to replay.
const CHANGES: u64 = 5 << 40;
const REPLAY: u64 = 6 << 40;

/// The chips that a run sees.
#[derive(Clone, Copy)]
pub struct Sets<'a> {
    pub train: &'a Dataset,
    /// Decides when training stops.
    pub validation: &'a Dataset,
    /// What a base is to embed as before; the chips of `train` if it says nothing.
    pub replay: Option<&'a Dataset>,
}

/// What a step needs.
pub struct Batch<'a> {
    /// Whom each of `images` shows.
    pub subjects: Vec<usize>,
    /// Varied.
    pub images: Vec<RgbImage>,
    /// To be embedded as the base does.
    pub replay: Vec<&'a Chip>,
}

pub struct Feed<'a> {
    config: TrainConfig,
    sampler: Sampler,
    train: &'a Dataset,
    replay: &'a [Chip],
}

impl<'a> Feed<'a> {
    pub fn new(config: &TrainConfig, sets: &Sets<'a>) -> Result<Self, TrainingError> {
        let sampler = Sampler::new(sets.train, &config.batch, config.seed)?;
        let replay = match config.network {
            Architecture::Base => sets.replay.unwrap_or(sets.train).chips(),
            _ => &[],
        };
        Ok(Self { config: config.clone(), sampler, train: sets.train, replay })
    }

    /// The batch of a step, which counts from 0.
    pub fn batch(&self, step: u64) -> Batch<'a> {
        let chosen = self.sampler.batch(step);
        let seed = self.config.seed;
        let vary_one = |place: usize| {
            let mut random = Random::new(seed, CHANGES + (step << 12) + place as u64);
            vary(&self.train.chips()[chosen[place]], &self.config.augmentation, &mut random)
        };
        let replay = deal(self.replay.len(), self.config.fine_tuning.replay.into(), seed, REPLAY, step);
        Batch {
            subjects: chosen.iter().map(|chip| self.train.subjects()[*chip]).collect(),
            images: in_parts(chosen.len(), self.config.threads.into(), vary_one),
            replay: replay.into_iter().map(|(chip, _)| &self.replay[chip]).collect(),
        }
    }
}

/// `work` of 0..count in order, in as many parts as there are threads.
fn in_parts<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads == 1 {
        return (0..count).map(work).collect();
    }
    let work = &work;
    let part = count.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let spawn = |start: usize| scope.spawn(move || (start..(start + part).min(count)).map(work).collect());
        let parts: Vec<_> = (0..count).step_by(part).map(spawn).collect();
        let join = |part: thread::ScopedJoinHandle<Vec<T>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        parts.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::dataset::made;
    use super::*;

    #[test]
    fn batches_are_the_same_whatever_the_number_of_threads() {
        let dataset = made::stripes(&[4, 4, 4, 4], 1);
        let sets = Sets { train: &dataset, validation: &dataset, replay: None };
        let images = |threads| {
            let config = TrainConfig { threads, ..TrainConfig::fine_tune(true) };
            let batch = Feed::new(&config, &sets).unwrap().batch(3);
            assert_eq!((batch.images.len(), batch.replay.len()), (16, 8));
            batch.images
        };
        assert!(images(1) == images(3));
    }
}
