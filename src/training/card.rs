//! The model card: what a network was made from, how, and how good it is; for programs and for people.

use std::fmt::Write;

use serde::Serialize;

use super::config::TrainConfig;
use super::dataset::Repeated;
use super::trainer::{Record, Trainer, Validation};
use crate::evaluation::{Estimate, Report};

/// Points of the curves that the card keeps.
const POINTS: usize = 200;

/// What is known of a trained network.
#[derive(Debug, Clone, Serialize)]
pub struct Card {
    pub name: String,
    /// Version of the program that trained it.
    pub faceid: String,
    /// The network that training began with; `None` from scratch.
    pub base: Option<Base>,
    /// Numbers that were trained.
    pub parameters: usize,
    pub data: Data,
    pub settings: TrainConfig,
    pub training: Course,
    /// `None` if no set has pairs of both kinds.
    pub evaluation: Option<Evaluation>,
}

/// A network that another one was made from, and the licence that comes with it, if it is known.
#[derive(Debug, Clone, Serialize)]
pub struct Base {
    pub name: String,
    /// Of its file, in hexadecimal.
    pub sha256: String,
    pub licence: Option<String>,
}

/// The photos by their use. Nobody is in two of the sets.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    pub train: Counts,
    pub validation: Counts,
    pub test: Counts,
    /// Names of those who were not trained on: a comparison with another network may rest on the first only.
    pub test_subjects: Vec<String>,
    pub validation_subjects: Vec<String>,
    /// Photos on which a base was to be kept, if they were of a set of their own.
    pub replay: Option<Counts>,
    pub without_face: usize,
    pub unreadable: usize,
    #[serde(flatten)]
    pub repeated: Repeated,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub subjects: usize,
    pub photos: usize,
    /// Subjects who have but one.
    pub with_one_photo: usize,
}

/// How training went.
#[derive(Debug, Clone, Serialize)]
pub struct Course {
    pub steps: u64,
    /// The step whose weights are the result.
    pub result_step: u64,
    pub stopped_early: bool,
    /// Whether embeddings of some batch were nearly all the same.
    pub collapsed: bool,
    /// Of this process: without the time before a resumption.
    pub seconds: f64,
    pub validations: Vec<Validation>,
    /// Evenly spaced steps.
    pub curves: Vec<Record>,
}

impl Course {
    pub fn of(trainer: &Trainer, seconds: f64) -> Self {
        let history = trainer.history();
        let apart = history.len().div_ceil(POINTS).max(1);
        Self {
            steps: trainer.steps_made(),
            result_step: trainer.result_step(),
            stopped_early: trainer.stopped_early(),
            collapsed: trainer.collapsed(),
            seconds,
            validations: trainer.validations().to_vec(),
            curves: history.iter().copied().step_by(apart).collect(),
        }
    }
}

/// Whose photos figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// People who had no say in the result.
    Test,
    /// People who decided when to stop: a little too good.
    Validation,
    /// People who were trained on: far too good.
    Train,
}

#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub basis: Basis,
    #[serde(flatten)]
    pub report: Report,
}

impl Card {
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The card for people. `curves` is the name of a picture beside it.
    pub fn to_markdown(&self, curves: &str) -> String {
        let mut text = String::new();
        // Writing to a string never fails.
        let _ = self.write_markdown(&mut text, curves);
        text
    }

    fn write_markdown(&self, text: &mut String, curves: &str) -> std::fmt::Result {
        let Self { name, faceid, base, parameters, data, settings, training, evaluation } = self;
        writeln!(text, "# {name}\n\nFace embedder, trained by faceid {faceid}.\n")?;
        match base {
            None => writeln!(
                text,
                "- Base: none, trained from scratch; its licence is yours to choose, as far as the photos' allows"
            )?,
            Some(Base { name, sha256, licence }) => {
                let licence = licence.as_deref().unwrap_or("a licence that its manifest does not name");
                writeln!(text, "- Base: {name}, under {licence}; sha256 {sha256}")?;
            }
        }
        writeln!(text, "- Network: {:?}, {parameters} parameters trained", settings.network)?;
        writeln!(text, "- Loss: {:?}; seed {}", settings.loss, settings.seed)?;
        let Course { steps, result_step, stopped_early, collapsed, seconds, .. } = training;
        let early = if *stopped_early { ", stopped early" } else { "" };
        writeln!(
            text,
            "- Training: {steps} steps{early} in {seconds:.0} s; the weights are those of step {result_step}"
        )?;
        if *collapsed {
            writeln!(text, "- **Warning**: embeddings of a batch were nearly all the same")?;
        }
        writeln!(text, "\n| photos for | people | photos | people with one photo |\n| --- | --- | --- | --- |")?;
        for (purpose, counts) in [("training", data.train), ("validation", data.validation), ("test", data.test)] {
            writeln!(text, "| {purpose} | {} | {} | {} |", counts.subjects, counts.photos, counts.with_one_photo)?;
        }
        let Data { without_face, unreadable, repeated, replay, .. } = data;
        if let Some(Counts { subjects, photos, .. }) = replay {
            writeln!(text, "\nKept as it was on {photos} other photos of {subjects} people.")?;
        }
        let Repeated { copies, under_several_names } = repeated;
        writeln!(
            text,
            "\nLeft out: {without_face} photos without a face, {unreadable} that cannot be read, {copies} copies of photos of the \
             same person, {under_several_names} that are there under several names.\n"
        )?;
        match evaluation {
            Some(evaluation) => evaluation.write_markdown(text)?,
            None => writeln!(text, "Not evaluated: no set has two people, one of them with two photos.")?,
        }
        writeln!(text, "\n![curves of the training]({curves})")
    }
}

impl Evaluation {
    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let whose = match self.basis {
            Basis::Test => "people who had no part in training",
            Basis::Validation => "people who decided when training stopped, so the figures are a little too good",
            Basis::Train => "the people who were trained on, **so the figures are far too good**",
        };
        let verification = &self.report.verification;
        let (genuine, impostor) = (verification.genuine_pairs, verification.impostor_pairs);
        writeln!(text, "Measured on {whose}: {genuine} genuine and {impostor} impostor pairs.\n")?;
        writeln!(text, "| figure | value | 95 % interval, over people |\n| --- | --- | --- |")?;
        let mut row = |figure: &str, estimate: Option<Estimate>| match estimate {
            Some(Estimate { value, low, high }) => writeln!(text, "| {figure} | {value:.3} | {low:.3} to {high:.3} |"),
            None => Ok(()),
        };
        row("AUC", Some(verification.auc))?;
        row("EER", Some(verification.eer))?;
        for point in verification.at_far.iter().rev() {
            row(&format!("TAR@FAR={:e}", point.far), point.tar)?;
        }
        for rank in self.report.identification.iter().flat_map(|found| &found.ranks) {
            row(&format!("rank-{}, one enrolled photo", rank.rank), Some(rank.share))?;
        }
        Ok(())
    }
}
