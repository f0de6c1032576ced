//! The loop: data, loss, step.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::thread;

use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::TrainingError;
use super::config::TrainConfig;
use super::dataset::Dataset;
use super::feed::{Batch, Feed, Sets};
use super::loss::{self, squared_distances};
use super::model::{Model, Setup};
use super::optimiser::{self, AdamW};
use super::params::{Params, numbers};
use super::replicas::Replicas;
use crate::evaluation::{Comparisons, Faces, Random, measure};
use crate::types::Chip;

/// Chips that go through the network at once when nothing is learned.
const CHIPS_PER_RUN: usize = 32;

/// Stream of random numbers for triplets.
const TRIPLETS: u64 = 4 << 40;

/// Below this mean distance between faces of a batch, of the up to 2 that strangers have, embeddings say nothing.
const COLLAPSED: f64 = 0.05;

/// Batches that are prepared while a GPU works.
const AHEAD: usize = 2;

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
    /// Mean squared distance of the replayed chips to their embeddings by the base; 0 without any.
    pub drift: f64,
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
    pub(super) model: Model,
    /// sha256 of the file that the run began with.
    pub(super) base: Option<String>,
    pub(super) params: Params,
    /// On the other devices.
    replicas: Replicas,
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
    /// A run that has not begun, on the CPU, of a network that is built here.
    pub fn new(config: TrainConfig) -> Result<Self, TrainingError> {
        Self::begin(config, &Setup::default())
    }

    /// A run that has not begun.
    pub fn begin(config: TrainConfig, setup: &Setup) -> Result<Self, TrainingError> {
        config.check()?;
        crate::nn::keep_heap();
        // All batches are alike, so it pays to try which of cuDNN's kernels are fastest.
        tch::Cuda::cudnn_set_benchmark(true);
        tch::set_num_threads(config.threads.into());
        let first = setup.devices.first().copied().unwrap_or(Device::Cpu);
        let (model, params) = Model::new(&config, setup.base, first)?;
        let replicas = Replicas::new(&config, setup)?;
        let (averages, optimiser) = (params.detached_copy(), AdamW::new(&params));
        let (history, validations) = (Vec::new(), Vec::new());
        Ok(Self {
            config,
            model,
            base: setup.base.map(|base| base.sha256()),
            params,
            replicas,
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

    /// Multiplications, each with an addition, of the network for a chip; `None` if it came in a file.
    pub fn multiply_adds(&self) -> Option<u64> {
        match &self.model {
            Model::Built(network) => Some(network.multiply_adds(&self.params)),
            Model::Base(_) => None,
        }
    }

    /// Trains until the last step, until validation says so, or until `observe` breaks off, which is asked after each
    /// step. Without validation subjects, the averaged weights of the last step are the result.
    pub fn run(
        &mut self,
        sets: &Sets,
        mut observe: impl FnMut(&Self, Event) -> Result<ControlFlow<()>, TrainingError>,
    ) -> Result<(), TrainingError> {
        tch::set_num_threads(self.config.threads.into());
        // Those of a run that goes on came from a file.
        self.replicas.copy(&self.params);
        let feed = Feed::new(&self.config, sets)?;
        if self.validations.is_empty() && matches!(self.model, Model::Base(_)) && sets.validation.can_tell() {
            let look = self.validate(sets.validation)?;
            if observe(self, Event::Validation(look))?.is_break() {
                return Ok(());
            }
        }
        thread::scope(|scope| {
            let (sender, ahead) = sync_channel(AHEAD);
            let (steps, feed) = (self.step..self.config.steps, &feed);
            // On the CPU, the threads are those that the settings name.
            let is_gpu = self.device() != Device::Cpu;
            if is_gpu {
                scope.spawn(move || steps.map(|step| feed.batch(step)).all(|batch| sender.send(batch).is_ok()));
            }
            while !self.is_done() {
                let ready = if is_gpu { ahead.recv().ok() } else { None };
                let batch = ready.unwrap_or_else(|| feed.batch(self.step));
                if self.one_step(&batch, sets.validation, &mut observe)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// A batch, and what is to be told of it.
    fn one_step(
        &mut self,
        batch: &Batch,
        validation: &Dataset,
        observe: &mut impl FnMut(&Self, Event) -> Result<ControlFlow<()>, TrainingError>,
    ) -> Result<ControlFlow<()>, TrainingError> {
        let record = self.train_step(batch)?;
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
        Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn train_step(&mut self, batch: &Batch) -> Result<Record, TrainingError> {
        let images: Vec<&[u8]> = batch.images.iter().map(|image| image.as_raw().as_slice()).collect();
        let replay: Vec<&[u8]> = batch.replay.iter().map(|chip| chip.as_rgb()).collect();
        let kind = self.kind();
        let pass = self.replicas.forward((&self.model, &self.params), &images, &replay, kind)?;
        let (rows, replayed) = (batch.subjects.len() as i64, batch.replay.len() as i64);
        let embeddings = pass.embeddings.narrow(0, 0, rows);
        let mut random = Random::new(self.config.seed, TRIPLETS + self.step);
        let measured = loss::measure(&embeddings, &batch.subjects, &self.config.loss, &mut random);
        // Mean squared distance of what is replayed to what the base makes of it.
        let drift = pass.before.as_ref().map(|before| {
            (pass.embeddings.narrow(0, rows, replayed) - before).square().sum(Kind::Float) / replayed as f64
        });
        let value = measured.loss.double_value(&[]);
        if !value.is_finite() {
            return Err(TrainingError::Diverged { step: self.step + 1, loss: value });
        }
        let whole = match &drift {
            Some(drift) => &measured.loss + drift * self.config.fine_tuning.replay_weight,
            None => measured.loss,
        };
        let distance = no_grad(|| squared_distances(&embeddings.detach()).sum(Kind::Double).double_value(&[]));
        let gradient = Tensor::run_backward(&[whole], &[&pass.embeddings], false, false).remove(0);
        let gradient = self.replicas.backward(&self.params, pass, &gradient);
        let learning_rate = optimiser::learning_rate(&self.config.optimiser, self.step, self.config.steps);
        self.step += 1;
        let gradient = self.optimiser.step(&self.params, gradient, &self.config.optimiser, learning_rate, self.step);
        if !gradient.is_finite() {
            // The weights are no numbers any more, and must not take the place of those that were saved.
            return Err(TrainingError::Diverged { step: self.step, loss: value });
        }
        self.replicas.agree(&self.params);
        optimiser::average(&mut self.averages, &self.params, self.config.optimiser.average_decay, self.step);
        Ok(Record {
            step: self.step,
            loss: value,
            active: measured.active.double_value(&[]),
            gradient,
            distance: distance / (rows * (rows - 1)) as f64,
            drift: drift.map_or(0.0, |drift| drift.double_value(&[])),
            learning_rate,
        })
    }

    fn device(&self) -> Device {
        self.params.device()
    }

    fn kind(&self) -> Kind {
        self.config.precision.kind()
    }

    /// Embeddings of length 1 start about as far apart as strangers; others have no such scale.
    fn has_collapsed(&self, record: &Record) -> bool {
        self.model.is_normalised() && record.distance < COLLAPSED
    }

    fn validate(&mut self, validation: &Dataset) -> Result<Validation, TrainingError> {
        let params = self.averaged();
        let vectors = self.embed_by(&params, validation.chips())?;
        let faces = Faces::new(vectors, validation.subjects().to_vec());
        let comparisons = faces.and_then(|faces| Comparisons::of_faces(&faces, usize::MAX, 0));
        let comparisons = comparisons.map_err(|error| TrainingError::Data(error.to_string()))?;
        let measured = measure(&comparisons, &vec![1.0; comparisons.subjects()], &[], 0.0);
        let look = Validation { step: self.step, auc: measured.map_or(0.5, |measured| measured.auc) };
        self.validations.push(look);
        // The later of two equal ones: it was trained on more.
        if self.best.as_ref().is_none_or(|best| look.auc >= best.validation.auc) {
            self.best = Some(Best { validation: look, params });
        }
        let since = self.best.as_ref().map_or(0, |best| look.step - best.validation.step);
        self.stopped = since >= self.config.stopping.every * self.config.stopping.patience;
        Ok(look)
    }

    /// The averaged weights, and of a base as much as the settings say.
    fn averaged(&self) -> Params {
        let averages = self.averages.detached_copy();
        let share = self.config.fine_tuning.blend;
        if let Model::Base(base) = &self.model
            && share < 1.0
        {
            let of_base = &base.original.trained * (1.0 - share);
            let _ = no_grad(|| averages.trained.detach().g_mul_scalar_(share).g_add_(&of_base));
        }
        averages
    }

    /// The weights that are the result: averaged, of the best look if there was one.
    pub(super) fn result(&self) -> Params {
        self.best.as_ref().map_or_else(|| self.averaged(), |best| best.params.detached_copy())
    }

    /// The step whose weights are the result.
    pub fn result_step(&self) -> u64 {
        self.best.as_ref().map_or(self.step, |best| best.validation.step)
    }

    /// Embeddings of chips by the result, of length 1.
    pub fn embed(&self, chips: &[Chip]) -> Result<Vec<Vec<f32>>, TrainingError> {
        self.embed_by(&self.result(), chips)
    }

    /// The same in float32, in whatever the training works.
    pub(super) fn embed_precisely(&self, chips: &[Chip]) -> Result<Vec<Vec<f32>>, TrainingError> {
        match self.model.in_float32(&self.config, self.device())? {
            None => self.embed_with((&self.model, Kind::Float), &self.result(), chips),
            Some(model) => self.embed_with((&model, Kind::Float), &self.result(), chips),
        }
    }

    fn embed_by(&self, params: &Params, chips: &[Chip]) -> Result<Vec<Vec<f32>>, TrainingError> {
        self.embed_with((&self.model, self.kind()), params, chips)
    }

    fn embed_with(
        &self,
        (model, kind): (&Model, Kind),
        params: &Params,
        chips: &[Chip],
    ) -> Result<Vec<Vec<f32>>, TrainingError> {
        tch::set_num_threads(self.config.threads.into());
        let mut rows = Vec::with_capacity(chips.len());
        for chips in chips.chunks(CHIPS_PER_RUN) {
            let images: Vec<&[u8]> = chips.iter().map(Chip::as_rgb).collect();
            let input = model.input(&images, self.device())?;
            let output = no_grad(|| model.forward(params, &input, false, kind))?;
            let width = output.size()[1] as usize;
            rows.extend(numbers(&output).chunks_exact(width).map(|row| {
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                row.iter().map(|value| value / length).collect::<Vec<f32>>()
            }));
        }
        Ok(rows)
    }

    /// All numbers of the result, to compare runs by.
    pub fn weights(&self) -> Vec<f32> {
        self.result().iter().flat_map(|param| numbers(&param.tensor)).collect()
    }
}

#[cfg(test)]
mod tests;
