//! How a training goes on, for people and for programs.

use std::path::Path;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;

use super::super::{progress_bar, say};
use crate::training::{Event, Record, Trainer};

/// What a run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingStage {
    Reading,
    Training,
    Evaluating,
    Exporting,
}

/// A line of `--events`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Stage {
        stage: TrainingStage,
    },
    Step {
        #[serde(flatten)]
        record: Record,
        steps: u64,
        /// Of training, if it goes on as so far.
        seconds_left: f64,
    },
    Validation {
        step: u64,
        auc: f64,
    },
    Collapsed {
        step: u64,
    },
    StoppedEarly {
        step: u64,
    },
    Saved {
        step: u64,
    },
    /// The run begins anew, beside a checkpoint that does not fit.
    Restarted {
        reason: &'a str,
    },
    Interrupted {
        step: u64,
    },
    Done {
        /// The model card.
        done: &'a Path,
    },
}

/// A progress bar and warnings on standard error, and lines of JSON on standard output if they are wanted.
pub struct Reporter {
    bar: ProgressBar,
    events: bool,
    /// When training began, and after how many steps.
    began: (Instant, u64),
}

impl Reporter {
    pub fn new(events: bool) -> Self {
        Self { bar: ProgressBar::hidden(), events, began: (Instant::now(), 0) }
    }

    pub fn stage(&self, stage: TrainingStage) {
        self.line(&Line::Stage { stage });
    }

    /// Steps are made from here on.
    pub fn training(&mut self, trainer: &Trainer) {
        self.stage(TrainingStage::Training);
        let steps = trainer.config().steps;
        self.bar = progress_bar(Some(steps), "{bar:30} {pos}/{len} steps  {per_sec}  {eta} left  {msg}");
        // So that the rate is that of this process.
        self.bar.set_position(trainer.steps_made());
        self.bar.reset_eta();
        self.began = (Instant::now(), trainer.steps_made());
    }

    /// No more steps are made.
    pub fn trained(&self) {
        self.bar.finish_and_clear();
    }

    pub fn event(&self, trainer: &Trainer, event: Event) {
        match event {
            Event::Step(record) => self.step(trainer, record),
            Event::Validation(look) => self.line(&Line::Validation { step: look.step, auc: look.auc }),
            Event::Collapsed(record) => {
                self.line(&Line::Collapsed { step: record.step });
                self.warn(&format!(
                    "warning: at step {} all faces of a batch have nearly the same embedding (mean squared distance \
                     {:.4}); a lower learning rate or another loss may help",
                    record.step, record.distance
                ));
            }
            Event::StoppedEarly => {
                let step = trainer.steps_made();
                self.line(&Line::StoppedEarly { step });
                self.warn(&format!("stopped at step {step}: no better result on the validation people"));
            }
        }
    }

    fn step(&self, trainer: &Trainer, record: Record) {
        self.bar.set_position(record.step);
        let auc = trainer.validations().last().map(|look| format!("  validation AUC {:.3}", look.auc));
        let (loss, active) = (record.loss, record.active * 100.0);
        self.bar.set_message(format!("loss {loss:.4}  active {active:.0} %{}", auc.unwrap_or_default()));
        let (began, first) = self.began;
        let steps = trainer.config().steps;
        let each = began.elapsed().as_secs_f64() / (record.step - first).max(1) as f64;
        self.line(&Line::Step { record, steps, seconds_left: each * (steps - record.step) as f64 });
    }

    pub fn saved(&self, step: u64) {
        self.line(&Line::Saved { step });
    }

    pub fn restarted(&self, reason: &str) {
        self.line(&Line::Restarted { reason });
        self.warn(&format!("the run begins anew: {reason}"));
    }

    pub fn interrupted(&self, step: u64, saved: Option<&Path>) {
        self.line(&Line::Interrupted { step });
        let when = if step == 0 { "before the first step".to_owned() } else { format!("after step {step}") };
        match saved {
            Some(path) => eprintln!("interrupted {when}; go on with --resume {}", path.display()),
            None => eprintln!("interrupted {when}; nothing was saved"),
        }
    }

    pub fn done(&self, card: &Path) {
        self.line(&Line::Done { done: card });
    }

    fn warn(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    fn line(&self, line: &Line) {
        if self.events
            && let Ok(text) = serde_json::to_string(line)
        {
            say(format_args!("{text}"));
        }
    }
}
