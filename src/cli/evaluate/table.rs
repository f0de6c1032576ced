//! The figures for people to read.

use super::super::say;
use super::{Evaluated, Photos, breakdown};
use crate::evaluation::{Basis, Estimate, Identification, Verification};

/// Files that are named one by one; of more, only the number is said.
const NAMED: usize = 20;

pub fn print(evaluated: &Evaluated) {
    let Evaluated { model, photos, report, growth, groups } = evaluated;
    say(format_args!("{model}: {} people, {} photos, {} embedded", report.subjects, photos.total, photos.embedded));
    let without_face = photos.without_face.iter().map(|path| path.display().to_string());
    list("without a face", without_face.collect());
    let unreadable = photos.unreadable.iter().map(|photo| format!("{}: {}", photo.path.display(), photo.reason));
    list("cannot be read", unreadable.collect());
    let left_out = photos.files_left_out.iter().map(|file| format!("{}: {}", file.path, file.reason));
    list("left out", left_out.collect());
    if photos.copies > 0 {
        say(format_args!("left out, the same file is there for the same person: {}", photos.copies));
    }
    if photos.under_several_names > 0 {
        say(format_args!("left out, the same file is there under another name: {}", photos.under_several_names));
    }
    if photos.without_embedding > 0 {
        say(format_args!("left out, enrolled faces without an embedding of this model: {}", photos.without_embedding));
    }
    left_out_by_name(photos);
    if photos.pairs_left_out > 0 {
        say(format_args!(
            "pairs left out because of such photos, of a photo with itself, or named before: {}",
            photos.pairs_left_out
        ));
    }
    verification(&report.verification);
    if let Some(found) = &report.identification {
        identification(found);
    }
    if let Some(growth) = growth {
        breakdown::growth(growth);
    }
    groups.iter().for_each(breakdown::groups);
    thresholds(&report.verification);
}

fn left_out_by_name(photos: &Photos) {
    let Photos { second_names, of_second_names, excluded, not_found, .. } = photos;
    if *second_names > 0 {
        say(format_args!("left out, people under a second name: {second_names}, with {of_second_names} photos"));
    }
    if *excluded > 0 {
        say(format_args!("left out, excluded by name: {excluded}"));
    }
    list("named in --alias or --exclude, but not there", not_found.clone());
}

fn list(what: &str, files: Vec<String>) {
    if !files.is_empty() {
        say(format_args!("{what}: {}", files.len()));
        files.iter().take(NAMED).for_each(|file| say(format_args!("  {file}")));
    }
}

fn verification(measured: &Verification) {
    let Verification { genuine_pairs, impostor_pairs, at_far, eer, auc, at_threshold, .. } = measured;
    say(format_args!("\nVerification: {genuine_pairs} genuine and {impostor_pairs} impostor pairs"));
    say(format_args!("  {:<22}{:>9}   95 % interval", "", ""));
    // Of the rates that so few pairs cannot tell, the first says so.
    let told = at_far.iter().filter(|point| point.tar.is_some()).count();
    let at_far = || at_far.iter().rev().take(told + 1);
    for point in at_far() {
        row(&format!("TAR@FAR={}", power(point.far)), point.tar.as_ref());
    }
    for point in at_far() {
        row(&format!("FNMR@FMR={}", power(point.far)), point.fnmr.as_ref());
    }
    row("EER", Some(eer));
    row("AUC", Some(auc));
    row(&format!("FMR at {:.3}, in use", at_threshold.threshold), Some(&at_threshold.fmr));
    row("FNMR at it", Some(&at_threshold.fnmr));
}

fn identification(found: &Identification) {
    say(format_args!("\nIdentification, one enrolled photo for each person: {} probes", found.probes));
    for rank in &found.ranks {
        row(&format!("rank-{}", rank.rank), Some(&rank.share));
    }
    let Some(open) = &found.open_set else { return };
    say(format_args!(
        "\nOpen set, mean of {} random halves: {} people enrolled, photos of each: {}; {} probes of them, {} of strangers",
        open.splits, open.subjects, open.photos, open.mated_probes, open.stranger_probes
    ));
    for point in &open.at_fpir {
        row(&format!("FNIR@FPIR={}", power(point.fpir)), point.fnir.as_ref());
        row("  threshold", point.threshold.as_ref());
    }
}

fn thresholds(measured: &Verification) {
    say(format_args!("\nThresholds"));
    for point in &measured.thresholds {
        let basis = match point.basis {
            Basis::Counted => "",
            Basis::Fitted => "   by the fitted tail",
        };
        let Estimate { value, low, high } = point.threshold;
        say(format_args!("  {:<22}{value:>9.4}   {low:.4} .. {high:.4}{basis}", format!("FMR={}", power(point.fmr))));
    }
    if measured.thresholds.is_empty() {
        say(format_args!("  too few impostor pairs"));
    }
    if let Some(fit) = measured.logistic {
        let (sign, intercept) = (if fit.intercept < 0.0 { '-' } else { '+' }, fit.intercept.abs());
        say(format_args!("  probability = 1 / (1 + exp(-({:.2} * similarity {sign} {intercept:.2})))", fit.slope));
    }
}

fn row(name: &str, figure: Option<&Estimate>) {
    match figure {
        Some(figure) => say(format_args!("  {name:<22}{}   {}", number(figure.value), range(figure))),
        None => say(format_args!("  {name:<22}{:>9}   too few pairs or probes", "-")),
    }
}

/// The interval.
pub fn range(Estimate { low, high, .. }: &Estimate) -> String {
    format!("{} .. {}", number(*low).trim(), number(*high).trim())
}

/// Four decimals, or what it takes to tell it from 0 or 1.
pub fn number(value: f64) -> String {
    match value {
        _ if value != 0.0 && value.abs() < 1e-3 => format!("{value:>9.1e}"),
        _ if value != 1.0 && (1.0 - value).abs() < 1e-3 => format!("{value:>9.6}"),
        _ => format!("{value:>9.4}"),
    }
}

pub fn power(rate: f64) -> String {
    format!("{rate:e}")
}
