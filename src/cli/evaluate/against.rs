//! Whether an embedder may take the place of another, on photos.

use std::path::{Path, PathBuf};

use super::super::photos::{Outcome, WhichFace};
use super::super::{CliError, print_json, say};
use super::embed::embed;
use super::names::{LeftOut, Names};
use super::sources::{self, Copies, Source};
use crate::config::Config;
use crate::evaluation::{Change, Estimate, Gate, GateOutcome, GateSet, Judged, Verdict};
use crate::service::ServiceError;

/// Compares the configured embedder with `other` by the rules of a promotion: on `target`, and on the photos of the folders
/// `protected` if there are any, which are one gallery. Both decide at the server's share of strangers.
pub async fn decide(
    config: &Config,
    other: &Path,
    target: &Source,
    protected: &[PathBuf],
    (which, names): (WhichFace, &Names),
) -> Result<Verdict, CliError> {
    let mut notes = left_out("target", target);
    let target = set(config, other, ("these photos", target), which).await?;
    let mut others = Vec::new();
    if !protected.is_empty() {
        let source = sources::of_folders_without(protected, names)?;
        notes.extend(left_out("protected", &source));
        others.push(set(config, other, ("protected photos", &source), which).await?);
    }
    let decided = tokio::task::spawn_blocking(move || Gate::default().decide(&target, &others)).await;
    let mut verdict = decided.map_err(|error| ServiceError::Internal(error.to_string()))??;
    verdict.notes.extend(notes);
    Ok(verdict)
}

fn left_out(set: &str, source: &Source) -> Vec<String> {
    let Copies { photos, under_several_names, .. } = source.copies;
    let copies = (photos + under_several_names > 0).then(|| {
        format!(
            "{set} set: {photos} photos that are there already, and {under_several_names} under several names, were left out"
        )
    });
    let LeftOut { of_second_names, excluded, not_found, .. } = &source.by_name;
    let by_name = (of_second_names + excluded > 0).then(|| {
        format!("{set} set: {of_second_names} photos of second names, and {excluded} that were excluded, were left out")
    });
    let not_there = (!not_found.is_empty()).then(|| format!("{set} set: not there are {}", not_found.join(", ")));
    let nobody = source.files.iter().filter(|file| file.may_be_meant).count();
    let files = (nobody > 0).then(|| format!("{set} set: {nobody} files that are no photos of anybody were left out"));
    copies.into_iter().chain(by_name).chain(not_there).chain(files).collect()
}

/// The faces that both embed.
async fn set(
    config: &Config,
    active: &Path,
    (name, source): (&str, &Source),
    which: WhichFace,
) -> Result<GateSet, CliError> {
    let candidate = config.engine.embedder.as_path();
    let (of_active, of_candidate) = (crate::app::manifest(active).await?, crate::app::manifest(candidate).await?);
    let outcomes = embed(config, [(active, &of_active), (candidate, &of_candidate)], &source.photos, which).await?;
    let (mut subjects, mut old, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for (subject, outcome) in source.subjects.iter().zip(outcomes) {
        if let Outcome::Face([before, after]) = outcome {
            subjects.push(*subject);
            old.push(before);
            new.push(after);
        }
    }
    Ok(GateSet::of_subjects((name, config.recognition.fpir), &subjects, old, new)?)
}

pub fn print(verdict: &Verdict, json: bool) -> Result<(), CliError> {
    if json {
        return print_json(verdict);
    }
    std::iter::once(&verdict.target).chain(&verdict.protected).for_each(print_judged);
    verdict.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    let outcome = match verdict.outcome {
        GateOutcome::Refused => "refused",
        GateOutcome::NotEnoughEvidence => "not decided",
        GateOutcome::Passed => "it may be promoted",
    };
    match verdict.reasons.is_empty() {
        true => say(format_args!("{outcome}")),
        false => verdict.reasons.iter().for_each(|reason| say(format_args!("{outcome}: {reason}"))),
    }
    Ok(())
}

fn print_judged(Judged { name, change, .. }: &Judged) {
    let Some(change) = change else { return };
    let Change { subjects, faces, fmr, fpir, active, candidate, .. } = change;
    say(format_args!("{name}: {faces} faces of {subjects} people   before    after   change, 95 % interval"));
    row(&format!("TAR@FMR={:.1e}", fmr.at), active.tar, candidate.tar, &change.tar_change);
    row(&format!("FNIR@FPIR={:.1e}", fpir.at), active.fnir, candidate.fnir, &change.fnir_change);
    row("AUC", active.auc, candidate.auc, &change.auc_change);
}

fn row(figure: &str, before: f64, after: f64, Estimate { value, low, high }: &Estimate) {
    say(format_args!("  {figure:<26}{before:>9.4}{after:>9.4}   {value:+.4}, {low:+.4} to {high:+.4}"));
}
