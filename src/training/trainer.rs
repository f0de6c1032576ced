//! The loop: data, loss, step.

use std::ops::ControlFlow;

use serde::Serialize;
use tch::{Kind, Tensor, no_grad};

use super::TrainingError;
use super::augment::{to_input, vary};
use super::config::TrainConfig;
use super::dataset::Dataset;
use super::loss::{self, squared_distances};
use super::network::Network;
use super::optimiser::{self, AdamW};
use super::params::{Params, numbers};
use super::sampler::Sampler;
use crate::evaluation::{Comparisons, Faces, Random, measure};
use crate::types::Chip;

/// Chips that go through the network at once when nothing is learned.
const CHIPS_PER_RUN: usize = 32;

/// Streams of random numbers for triplets and changes of chips.
const TRIPLETS: u64 = 4 << 40;
const CHANGES: u64 = 5 << 40;

/// Below this mean distance between faces of a batch, of the up to 2 that strangers have, embeddings say nothing.
const COLLAPSED: f64 = 0.05;

/// What a step gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Record {
    /// Counts from 1.
    pub step: u64,
    pub loss: f64,
    /// The share of triplets that still matter.
    pub active: f64,
    /// Length of the gradient before it was clipped.
    pub gradient: f64,
    /// Mean squared distance of two faces of the batch; near 0, all embeddings are one.
    pub distance: f64,
    pub learning_rate: f64,
}

/// A look at subjects that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Validation {
    pub step: u64,
    /// Probability that a genuine pair is more similar than an impostor pair.
    pub auc: f64,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    Step(Record),
    Validation(Validation),
    /// Embeddings have collapsed: they are all nearly the same. Told once.
    Collapsed(Record),
    /// There was no better result for as long as the settings allow.
    StoppedEarly,
}

/// The best weights on the validation subjects.
pub(super) struct Best {
    pub validation: Validation,
    pub params: Params,
}

/// A run between two steps: all that decides how it goes on.
pub struct Trainer {
    pub(super) config: TrainConfig,
    pub(super) network: Network,
    pub(super) params: Params,
    pub(super) averages: Params,
    pub(super) optimiser: AdamW,
    /// Steps that were made.
    pub(super) step: u64,
    pub(super) history: Vec<Record>,
    pub(super) validations: Vec<Validation>,
    pub(super) best: Option<Best>,
    pub(super) stopped: bool,
}

impl Trainer {
    /// A run that has not begun.
    pub fn new(config: TrainConfig) -> Result<Self, TrainingError> {
        config.check()?;
        let (network, params) = Network::new(&config.network, config.seed);
        let (averages, optimiser) = (params.detached_copy(), AdamW::new(&params));
        let (history, validations) = (Vec::new(), Vec::new());
        Ok(Self {
            config,
            network,
            params,
            averages,
            optimiser,
            step: 0,
            history,
            validations,
            best: None,
            stopped: false,
        })
    }

    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Steps that were made.
    pub fn steps_made(&self) -> u64 {
        self.step
    }

    pub fn history(&self) -> &[Record] {
        &self.history
    }

    pub fn validations(&self) -> &[Validation] {
        &self.validations
    }

    /// Whether validation ended the run before its last step.
    pub fn stopped_early(&self) -> bool {
        self.stopped
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.stopped || self.step >= self.config.steps
    }

    /// Whether embeddings of some batch were nearly all the same.
    pub fn collapsed(&self) -> bool {
        self.history.iter().any(|record| self.has_collapsed(record))
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        self.params.count()
    }

    /// Trains until the last step, until validation says so, or until `observe` breaks off, which is asked after each
    /// step. Without validation subjects, the averaged weights of the last step are the result.
    pub fn run(
        &mut self,
        train: &Dataset,
        validation: &Dataset,
        mut observe: impl FnMut(&Self, Event) -> Result<ControlFlow<()>, TrainingError>,
    ) -> Result<(), TrainingError> {
        tch::set_num_threads(self.config.threads.into());
        let sampler = Sampler::new(train, &self.config.batch, self.config.seed)?;
        while !self.is_done() {
            let record = self.train_step(train, &sampler)?;
            let mut events = vec![Event::Step(record)];
            if self.has_collapsed(&record) && !self.collapsed() {
                events.push(Event::Collapsed(record));
            }
            self.history.push(record);
            let is_look = self.step.is_multiple_of(self.config.stopping.every) || self.step == self.config.steps;
            if is_look && validation.can_tell() {
                events.push(Event::Validation(self.validate(validation)?));
            }
            if self.stopped {
                events.push(Event::StoppedEarly);
            }
            let mut goes_on = true;
            for event in events {
                goes_on &= observe(self, event)?.is_continue();
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// One batch.
    fn train_step(&mut self, train: &Dataset, sampler: &Sampler) -> Result<Record, TrainingError> {
        let chosen = sampler.batch(self.step);
        let subjects: Vec<usize> = chosen.iter().map(|chip| train.subjects()[*chip]).collect();
        let input = self.varied(train, &chosen);
        let embeddings = self.network.forward(&self.params, &input, true);
        let mut random = Random::new(self.config.seed, TRIPLETS + self.step);
        let measured = loss::measure(&embeddings, &subjects, &self.config.loss, &mut random);
        let value = measured.loss.double_value(&[]);
        if !value.is_finite() {
            return Err(TrainingError::Diverged { step: self.step + 1, loss: value });
        }
        measured.loss.backward();
        let learning_rate = optimiser::learning_rate(&self.config.optimiser, self.step, self.config.steps);
        self.step += 1;
        let gradient = self.optimiser.step(&self.params, &self.config.optimiser, learning_rate, self.step);
        optimiser::average(&mut self.averages, &self.params, self.config.optimiser.average_decay, self.step);
        let rows = chosen.len() as f64;
        let distance = no_grad(|| squared_distances(&embeddings.detach()).sum(Kind::Double).double_value(&[]));
        Ok(Record {
            step: self.step,
            loss: value,
            active: measured.active.double_value(&[]),
            gradient,
            distance: distance / (rows * (rows - 1.0)),
            learning_rate,
        })
    }

    /// `N x C x S x S` of the chips, each varied in its own way.
    fn varied(&self, train: &Dataset, chosen: &[usize]) -> Tensor {
        let input = self.network.input;
        let mut values: Vec<f32> = Vec::new();
        for (place, chip) in (0_u64..).zip(chosen) {
            let mut random = Random::new(self.config.seed, CHANGES + (self.step << 12) + place);
            let image = vary(&train.chips()[*chip], &self.config.augmentation, &mut random);
            values.append(&mut to_input(image.as_raw(), input));
        }
        Tensor::from_slice(&values).reshape([chosen.len() as i64, input.channels(), input.side(), input.side()])
    }

    /// Embeddings of length 1 start about as far apart as strangers; others have no such scale.
    fn has_collapsed(&self, record: &Record) -> bool {
        self.config.network.normalised() && record.distance < COLLAPSED
    }

    fn validate(&mut self, validation: &Dataset) -> Result<Validation, TrainingError> {
        let vectors = embed(&self.network, &self.averages, validation.chips());
        let faces = Faces::new(vectors, validation.subjects().to_vec());
        let comparisons = faces.and_then(|faces| Comparisons::of_faces(&faces, usize::MAX, 0));
        let comparisons = comparisons.map_err(|error| TrainingError::Data(error.to_string()))?;
        let measured = measure(&comparisons, &vec![1.0; comparisons.subjects()], &[], 0.0);
        let look = Validation { step: self.step, auc: measured.map_or(0.5, |measured| measured.auc) };
        self.validations.push(look);
        // The later of two equal ones: it was trained on more.
        if self.best.as_ref().is_none_or(|best| look.auc >= best.validation.auc) {
            self.best = Some(Best { validation: look, params: self.averages.detached_copy() });
        }
        let since = self.best.as_ref().map_or(0, |best| look.step - best.validation.step);
        self.stopped = since >= self.config.stopping.every * self.config.stopping.patience;
        Ok(look)
    }

    /// The weights that are the result: the averages, of the best look if there was one.
    pub(super) fn result(&self) -> &Params {
        self.best.as_ref().map_or(&self.averages, |best| &best.params)
    }

    /// The step whose weights are the result.
    pub fn result_step(&self) -> u64 {
        self.best.as_ref().map_or(self.step, |best| best.validation.step)
    }

    /// Embeddings of chips by the result, of length 1.
    pub fn embed(&self, chips: &[Chip]) -> Vec<Vec<f32>> {
        embed(&self.network, self.result(), chips)
    }

    /// All numbers of the result, to compare runs by.
    pub fn weights(&self) -> Vec<f32> {
        self.result().0.iter().flat_map(|param| numbers(&param.tensor)).collect()
    }
}

fn embed(network: &Network, params: &Params, chips: &[Chip]) -> Vec<Vec<f32>> {
    let input = network.input;
    let mut rows = Vec::with_capacity(chips.len());
    for chips in chips.chunks(CHIPS_PER_RUN) {
        let values: Vec<f32> = chips.iter().flat_map(|chip| to_input(chip.as_rgb(), input)).collect();
        let shape = [chips.len() as i64, input.channels(), input.side(), input.side()];
        let output = no_grad(|| network.forward(params, &Tensor::from_slice(&values).reshape(shape), false));
        let width = output.size()[1] as usize;
        rows.extend(numbers(&output).chunks_exact(width).map(|row| {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            row.iter().map(|value| value / length).collect::<Vec<f32>>()
        }));
    }
    rows
}

#[cfg(test)]
mod tests;
