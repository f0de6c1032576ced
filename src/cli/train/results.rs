//! What a training leaves: the network, its manifest, its card and its curves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::evaluate::write_calibration;
use super::super::{CliError, say};
use super::chips::{BaseModel, LeftOut};
use super::{beside, curves};
use crate::app::AppError;
use crate::evaluation::{Comparisons, Estimate, Faces, Report, ReportPlan, Resampling, identify, verify};
use crate::registry::Manifest;
use crate::training::{Base, Basis, Card, Course, Data, Dataset, Evaluation, Split, Trainer, write_atomically};

/// The rate for which the manifest's threshold is chosen, if the photos can tell it; else the next one that they can.
const FMR: f64 = 1e-3;

/// Impostor pairs that are looked at; of more, as many are chosen at random.
const MOST_IMPOSTORS: usize = 1_000_000;

/// Draws of people for the intervals; figures do not change from run to run.
const RESAMPLING: Resampling = Resampling { draws: 500, seed: 1 };

/// A trained network, and what it was made from.
pub struct Made<'a> {
    pub trainer: &'a Trainer,
    pub split: &'a Split,
    pub left_out: &'a LeftOut,
    pub base: Option<&'a BaseModel>,
    pub replay: Option<&'a Dataset>,
}

/// Writes everything beside the network `output`, the manifest last but for the card: a network without one is not served. Comes
/// with the path of the card.
pub fn write(
    made: &Made,
    evaluation: Option<Evaluation>,
    output: &Path,
    elapsed: Duration,
) -> Result<(Card, PathBuf), CliError> {
    let Made { trainer, .. } = made;
    let name = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    curves::write(&beside(output, "curves.svg"), trainer.history(), trainer.validations())?;
    let manifest = match made.base {
        Some(base) => base.manifest.successor(name.clone()),
        None => Manifest::uncalibrated(name.clone()),
    };
    write_manifest(&beside(output, "toml"), &manifest, evaluation.as_ref())?;
    let card = Card {
        name: name.clone(),
        faceid: env!("CARGO_PKG_VERSION").to_owned(),
        base: made.base.map(|BaseModel { manifest, sha256, .. }| Base {
            name: manifest.name.clone(),
            sha256: sha256.clone(),
            licence: manifest.licence.clone(),
        }),
        parameters: trainer.parameters(),
        data: made.data(),
        settings: trainer.config().clone(),
        training: Course::of(trainer, elapsed.as_secs_f64()),
        evaluation,
    };
    let json = card.to_json().map_err(|error| CliError::Render(error.to_string()))?;
    let path = beside(output, "card.json");
    write_atomically(&path, json.as_bytes())?;
    write_atomically(&beside(output, "card.md"), card.to_markdown(&format!("{name}.curves.svg")).as_bytes())?;
    Ok((card, path))
}

impl Made<'_> {
    fn data(&self) -> Data {
        let Self { split: Split { train, validation, test }, left_out, .. } = self;
        Data {
            train: train.counts(),
            validation: validation.counts(),
            test: test.counts(),
            test_subjects: test.names().to_vec(),
            validation_subjects: validation.names().to_vec(),
            replay: self.replay.map(Dataset::counts),
            without_face: left_out.without_face,
            unreadable: left_out.unreadable,
            repeated: left_out.repeated,
        }
    }

    /// Measures the result on the people who had least to do with it.
    pub fn evaluate(&self) -> Result<Option<Evaluation>, CliError> {
        let Split { train, validation, test } = self.split;
        let sets = [(Basis::Test, test), (Basis::Validation, validation), (Basis::Train, train)];
        let Some((basis, set)) = sets.into_iter().find(|(_, set)| set.can_tell()) else { return Ok(None) };
        let faces = Faces::new(self.trainer.embed(set.chips())?, set.subjects().to_vec())?;
        let comparisons = Comparisons::of_faces(&faces, MOST_IMPOSTORS, RESAMPLING.seed)?;
        let plan = ReportPlan {
            fars: vec![1e-3, 1e-2, 1e-1],
            fmrs: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6],
            fpirs: vec![0.1, 0.01],
            ranks: vec![1, 5],
            photos: 1,
            splits: 20,
            threshold: 1.0,
            resampling: RESAMPLING,
        };
        let (verification, identification) = (verify(&comparisons, &plan), identify(&faces, &plan));
        let subjects = set.counts().subjects;
        Ok(Some(Evaluation { basis, report: Report { subjects, verification, identification } }))
    }
}

/// A manifest with the threshold for [`FMR`]. Where nothing can be measured, nothing is taken for a match.
fn write_manifest(path: &Path, manifest: &Manifest, evaluation: Option<&Evaluation>) -> Result<(), CliError> {
    let measured = evaluation.map(|evaluation| &evaluation.report.verification);
    let rates = measured.iter().flat_map(|measured| &measured.thresholds).map(|point| point.fmr);
    match (measured, rates.filter(|rate| *rate >= FMR).reduce(f64::min)) {
        (Some(measured), Some(rate)) => write_calibration(path, manifest, measured, rate, "faceid train"),
        _ => {
            let text = manifest.to_toml().map_err(AppError::from)?;
            let head =
                "# Not calibrated: there were too few people to measure on. Nothing matches at this threshold.\n";
            Ok(write_atomically(path, (head.to_owned() + &text).as_bytes())?)
        }
    }
}

/// The figures that matter most, for people.
pub fn print(card: &Card) {
    let Card { name, parameters, data, training, evaluation, .. } = card;
    let (people, photos) = (data.train.subjects, data.train.photos);
    say(format_args!("{name}: {parameters} parameters, trained on {photos} photos of {people} people"));
    let Course { steps, result_step, seconds, .. } = training;
    say(format_args!("{steps} steps in {seconds:.0} s; the weights are those of step {result_step}"));
    let Some(Evaluation { basis, report }) = evaluation else {
        say(format_args!("not evaluated: no set has two people, one of them with two photos"));
        return;
    };
    let whose = match basis {
        Basis::Test => "people who had no part in training",
        Basis::Validation => "people who decided when training stopped: a little too good",
        Basis::Train => "the people who were trained on: FAR TOO GOOD",
    };
    say(format_args!("\nOn {} {whose}:\n  {:<26}{:>9}   95 % interval", report.subjects, "", ""));
    row("AUC", &report.verification.auc);
    for (far, tar) in report.verification.at_far.iter().rev().filter_map(|point| Some((point.far, point.tar?))) {
        row(&format!("TAR@FAR={far:e}"), &tar);
    }
    for rank in report.identification.iter().flat_map(|found| &found.ranks) {
        row(&format!("rank-{}, one enrolled photo", rank.rank), &rank.share);
    }
}

fn row(figure: &str, Estimate { value, low, high }: &Estimate) {
    say(format_args!("  {figure:<26}{value:>9.4}   {low:.4} to {high:.4}"));
}
