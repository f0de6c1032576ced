//! Figures by the size of the gallery and by groups of people, for people to read.

use super::super::say;
use super::table::{number, power, range};
use crate::evaluation::{ErrorRate, Estimate, Group, GroupReport, Growth, Worst};

pub fn growth(found: &Growth) {
    let Growth { splits, strangers, sizes } = found;
    say(format_args!(
        "\nAs a gallery grows, one enrolled photo of each person: {strangers} strangers, mean of {splits} draws"
    ));
    if sizes.iter().all(|size| size.at_fpir.iter().all(|point| point.fnir.is_none())) {
        say(format_args!("  too few strangers"));
        return;
    }
    say(format_args!(
        "  {:>8}{:>8}{:>9}   {:<20}{:>9}   95 % interval",
        "people", "FPIR", "FNIR", "95 % interval", "threshold"
    ));
    for size in sizes {
        for point in &size.at_fpir {
            let (Some(fnir), Some(threshold)) = (&point.fnir, &point.threshold) else { continue };
            say(format_args!(
                "  {:>8}{:>8}{}   {:<20}{}   {}",
                size.people,
                power(point.fpir),
                number(fnir.value),
                range(fnir),
                number(threshold.value),
                range(threshold)
            ));
        }
    }
}

pub fn groups(report: &GroupReport) {
    let GroupReport { field, without_value, groups, worst } = report;
    say(format_args!("\nBy {field}, at the thresholds of everybody:"));
    let widest = groups.iter().map(|group| group.value.chars().count()).max().unwrap_or(0).clamp(8, 24);
    say(format_args!("  {:<widest$}{:>8}{:>8}", "", "people", "photos"));
    for group in groups {
        say(format_args!("  {:<widest$}{:>8}{:>8}", group.value, group.people, group.photos));
    }
    if *without_value > 0 {
        say(format_args!("  {:<widest$}{without_value:>8}", "(unknown)"));
    }
    for at in 0..groups.first().map_or(0, |group| group.at.len()) {
        rates(groups, at, widest);
    }
    fnirs(groups, widest);
    worst.iter().for_each(|worst| say(format_args!("  {}", sentence(worst))));
    if worst.is_empty() {
        say(format_args!("  which is worst cannot be said: it takes two groups of ten people or more, and an error"));
    }
}

fn rates(groups: &[Group], at: usize, widest: usize) {
    let first = &groups[0].at[at];
    say(format_args!("  at {:.4}, FMR={} of everybody", first.threshold, power(first.overall_fmr)));
    say(format_args!("  {:<widest$}{:>9}   {:<20}{:>9}   95 % interval", "", "TAR", "95 % interval", "FMR"));
    for group in groups {
        let rates = &group.at[at];
        let of = |rate: &Option<Estimate>| {
            rate.map_or(("        -".to_owned(), "no pairs".to_owned()), |rate| (number(rate.value), range(&rate)))
        };
        let ((tar, tars), (fmr, fmrs)) = (of(&rates.tar), of(&rates.fmr));
        say(format_args!("  {:<widest$}{tar}   {tars:<20}{fmr}   {fmrs}", group.value));
    }
}

fn fnirs(groups: &[Group], widest: usize) {
    let told = groups.iter().filter_map(|group| Some((group, group.fnir.as_ref()?)));
    for (n, (group, found)) in told.enumerate() {
        if n == 0 {
            say(format_args!("  FNIR among {} people at FPIR={} of everybody", found.people, power(found.fpir)));
        }
        say(format_args!("  {:<widest$}{}   {}", group.value, number(found.fnir.value), range(&found.fnir)));
    }
}

/// The worst group by one rate at one threshold.
fn sentence(worst: &Worst) -> String {
    let Worst { by, overall_fmr, group, rate, is_clear } = worst;
    let by = match by {
        ErrorRate::Fnmr => "FNMR",
        ErrorRate::Fmr => "FMR",
    };
    let sure = if *is_clear { "worse than each other group" } else { "other people might name another group" };
    let (value, at) = (number(rate.value), power(*overall_fmr));
    format!("worst by {by} at FMR={at}: {group}, {} ({}); {sure}", value.trim(), range(rate))
}
