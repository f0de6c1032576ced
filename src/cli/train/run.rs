//! A training from its chips to its files.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use super::super::CliError;
use super::chips::{BaseModel, LeftOut};
use super::report::{Reporter, TrainingStage};
use super::results::{self, Made};
use super::stop::Stop;
use crate::nn::Target;
use crate::training::{Card, Dataset, Event, Sets, Setup, Split, TrainConfig, Trainer, TrainingError, check_writable};
use crate::types::Chip;

/// Chips by which the written network is compared with the trained one, at most.
const PROBES: usize = 8;

/// What a training needs beside its settings.
pub struct Run {
    pub split: Split,
    pub left_out: LeftOut,
    pub base: Option<BaseModel>,
    /// Photos on which the base is kept; those of the training if there are none.
    pub replay: Option<Dataset>,
    /// Each takes a part of every batch.
    pub targets: Vec<Target>,
    pub output: PathBuf,
    /// The run of this file goes on, or it is an error.
    pub resume: Option<PathBuf>,
    /// Where the run is saved, so often.
    pub checkpoint: Option<PathBuf>,
    pub every: u64,
    /// Whether a run that was saved there goes on, if it is the same.
    pub goes_on: bool,
}

impl Run {
    /// Trains and writes the results; `None` if it was interrupted.
    pub fn work(self, settings: TrainConfig, mut report: Reporter, stop: &Stop) -> Result<Option<Card>, CliError> {
        let digest = self.digest();
        let mut trainer = self.begin(settings, &digest, &report)?;
        check_writable(&self.output)?;
        self.try_export(&trainer)?;
        report.training(&trainer);
        let began = Instant::now();
        let Split { train, validation, .. } = &self.split;
        let sets = Sets { train, validation, replay: self.replay.as_ref() };
        let trained = trainer.run(&sets, |trainer, event| {
            report.event(trainer, event);
            self.look_early(trainer, event)?;
            self.save_in_time(trainer, event, &digest, &report)?;
            Ok(if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        report.trained();
        trained?;
        if let Some(path) = &self.checkpoint {
            trainer.save(path, &digest)?;
            report.saved(trainer.steps_made());
        }
        if !trainer.is_done() {
            report.interrupted(trainer.steps_made(), self.checkpoint.as_deref());
            return Ok(None);
        }
        let elapsed = began.elapsed();
        report.stage(TrainingStage::Evaluating);
        let interrupted = |report: &Reporter| {
            report.interrupted(trainer.steps_made(), self.checkpoint.as_deref());
            Ok(None)
        };
        if stop.is_asked() {
            return interrupted(&report);
        }
        let made = Made {
            trainer: &trainer,
            split: &self.split,
            left_out: &self.left_out,
            base: self.base.as_ref(),
            replay: self.replay.as_ref(),
        };
        let evaluation = made.evaluate()?;
        if stop.is_asked() {
            return interrupted(&report);
        }
        report.stage(TrainingStage::Exporting);
        trainer.export(&self.output, self.probes())?;
        let (card, path) = results::write(&made, evaluation, &self.output, elapsed)?;
        report.done(&path);
        Ok(Some(card))
    }

    /// Which photos the run sees.
    fn digest(&self) -> String {
        let sets = [Some(&self.split.train), Some(&self.split.validation), self.replay.as_ref()];
        sets.into_iter().flatten().map(Dataset::digest).collect()
    }

    fn begin(&self, settings: TrainConfig, digest: &str, report: &Reporter) -> Result<Trainer, TrainingError> {
        let devices: Vec<_> = self.targets.iter().map(|target| target.device).collect();
        let setup = Setup { base: self.base.as_ref().map(|base| &base.file), devices: &devices };
        if let Some(path) = &self.resume {
            return Trainer::resume(path, digest, &setup);
        }
        let saved = self.checkpoint.as_ref().filter(|path| self.goes_on && path.exists());
        match saved.map(|path| Trainer::resume(path, digest, &setup)) {
            Some(Ok(trainer)) if trainer.config() == &settings => return Ok(trainer),
            Some(Ok(_)) => report.restarted("the checkpoint is of a run with other settings"),
            Some(Err(error @ TrainingError::Checkpoint { .. })) => report.restarted(&error.to_string()),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Trainer::begin(settings, &setup)
    }

    /// Fails in the first minute of a run whose result could not be written, not after its last.
    fn look_early(&self, trainer: &Trainer, event: Event) -> Result<(), TrainingError> {
        match event {
            Event::Step(record) if [1, self.every].contains(&record.step) && !trainer.is_done() => {
                self.try_export(trainer)
            }
            _ => Ok(()),
        }
    }

    fn try_export(&self, trainer: &Trainer) -> Result<(), TrainingError> {
        match self.probes() {
            // There is nothing to train on, as the training will say.
            [] => Ok(()),
            probes => trainer.exported(&self.output, probes).map(drop),
        }
    }

    /// Chips by which the written network is compared with the trained one.
    fn probes(&self) -> &[Chip] {
        let chips = self.split.train.chips();
        &chips[..chips.len().min(PROBES)]
    }

    /// After all that a step brings; the last step is saved in any case.
    fn save_in_time(
        &self,
        trainer: &Trainer,
        event: Event,
        digest: &str,
        report: &Reporter,
    ) -> Result<(), TrainingError> {
        if let (Event::Step(record), Some(path)) = (event, &self.checkpoint)
            && record.step.is_multiple_of(self.every)
            && !trainer.is_done()
        {
            trainer.save(path, digest)?;
            report.saved(record.step);
        }
        Ok(())
    }
}
