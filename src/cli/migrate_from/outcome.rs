//! What a migration says at its end.

use crate::cli::say;
use crate::migration::{Comparison, KeyOutcome, Migrated, TakenKey};

pub fn describe(migrated: &Migrated) {
    let Migrated { taken_over, already_there, refused, subjects_created, model, photos_per_second, .. } = migrated;
    say(format_args!(
        "taken over: {taken_over} faces and {subjects_created} new subjects, embedded by {model} ({photos_per_second:.1} photos/s)"
    ));
    for (gallery, faces) in migrated.galleries.iter().filter(|(_, faces)| **faces > 0) {
        let new = if migrated.galleries_created.contains(gallery) { "new " } else { "" };
        say(format_args!("  {faces} into the {new}gallery {gallery}"));
    }
    if *already_there > 0 {
        say(format_args!("already there: {already_there}"));
    }
    if *refused > 0 {
        let reasons: Vec<String> = migrated.reasons.iter().map(|(code, count)| format!("{code} {count}")).collect();
        say(format_args!("refused: {refused} ({}); --report FILE lists them", reasons.join(", ")));
    }
    if migrated.several_faces > 0 {
        say(format_args!("of {} photos with several faces, the largest was taken", migrated.several_faces));
    }
    if migrated.whole_crops > 0 {
        say(format_args!("{} crops in which no face was found were taken as a whole", migrated.whole_crops));
    }
    describe_keys(&migrated.keys);
    if let Some(comparison) = &migrated.comparison {
        describe_comparison(comparison);
    }
}

fn describe_keys(keys: &[TakenKey]) {
    for TakenKey { service, name, prefix, gallery, role, outcome } in keys {
        let key = format!("key {prefix}... of {service}");
        match outcome {
            KeyOutcome::TakenOver => {
                say(format_args!("{key}: works here for the gallery {gallery}, with role {}", role.as_str()));
            }
            KeyOutcome::AlreadyThere => say(format_args!("{key}: there already")),
            KeyOutcome::NameTaken => {
                let name = name.as_deref().unwrap_or_default();
                say(format_args!("{key}: left out, as there is a key {name:?} of another value"));
            }
            KeyOutcome::KnownToAll => {
                say(format_args!("{key}: left out, as CompreFace brings it with it and everybody knows it"));
            }
            KeyOutcome::NoKey => say(format_args!("{key}: left out, as it is no UUID")),
        }
    }
    if keys.iter().any(|key| key.outcome == KeyOutcome::TakenOver) {
        say(format_args!("from the first key on, servers of this database answer nobody without one"));
    }
}

fn describe_comparison(comparison: &Comparison) {
    let Comparison { probes, not_comparable, same, changed, .. } = comparison;
    let Comparison { right_before, right_after, wrong_before, wrong_after, .. } = comparison;
    say(format_args!(
        "decisions: of {probes} examples, each looked for among the others, {same} stay as they were and {changed} change"
    ));
    say(format_args!("  their own subject was named for {right_before} before, and is for {right_after} now"));
    say(format_args!("  another subject was named for {wrong_before} before, and is for {wrong_after} now"));
    if *not_comparable > 0 {
        say(format_args!("  {not_comparable} more cannot be compared"));
    }
}
