use super::*;
use crate::evaluation::faces::made;

/// Each of some subjects with six faces, as made with a spread: the larger it is, the worse are they told apart.
fn vectors(subjects: usize, spread: f64) -> Vec<Vec<f32>> {
    let faces = made::faces(subjects, 6, spread, 3);
    (0..faces.len()).map(|face| faces.vector(face).to_vec()).collect()
}

/// Faces of subjects as both networks see them.
fn named(name: &str, subjects: usize, active: f64, candidate: f64) -> GateSet {
    let of: Vec<usize> = (0..subjects * 6).map(|face| face / 6).collect();
    GateSet::of_subjects((name, 0.01), &of, vectors(subjects, active), vectors(subjects, candidate)).unwrap()
}

fn set(active: f64, candidate: f64) -> GateSet {
    named("people", 12, active, candidate)
}

fn decide(target: &GateSet, protected: &[GateSet]) -> Verdict {
    Gate::default().decide(target, protected).unwrap()
}

#[test]
fn better_and_not_worse_elsewhere_passes() {
    let verdict = decide(&set(2.0, 1.5), &[set(1.0, 1.0)]);
    assert!(verdict.promote && verdict.reasons.is_empty() && verdict.notes.is_empty(), "{verdict:?}");
    assert_eq!((verdict.outcome, verdict.protected[0].outcome), (GateOutcome::Passed, GateOutcome::Passed));
    let change = verdict.target.change.unwrap();
    assert_eq!((change.subjects, change.mated, change.faces), (12, 12, 72));
    assert_eq!((change.genuine_pairs, change.impostor_pairs), (180, 2376));
    assert_eq!((change.mated_probes, change.stranger_probes), (60, 72));
    let Change { active, candidate, tar_change, fnir_change, .. } = &change;
    assert!((candidate.tar - active.tar - tar_change.value).abs() < 1e-12);
    assert!(0.0 < tar_change.low && tar_change.low < tar_change.value && tar_change.value < tar_change.high);
    assert!(active.fnir > candidate.fnir && fnir_change.value < 0.0);
    assert_eq!(decide(&set(2.0, 1.5), &[]).target.change.unwrap(), change, "the same draws each time");
}

#[test]
fn figures_are_taken_at_the_rate_in_use_if_the_sample_shows_it() {
    let at = |rates: RatesInUse| {
        let mut set = set(2.0, 1.5);
        set.rates = rates;
        let change = Change::of(&set, &Gate { draws: 10, ..Gate::default() }).unwrap();
        (change.fmr.at, change.fpir.at)
    };
    assert_eq!(at(RatesInUse { fmr: 0.1, fpir: 0.3 }), (0.1, 0.3));
    // Ten of 2,376 pairs, and of 72 probes.
    assert_eq!(at(RatesInUse { fmr: 1e-6, fpir: 0.01 }), (10.0 / 2376.0, 10.0 / 72.0));
    assert!((RatesInUse::of_fpir(0.01, 1000).fmr / 1.005e-5 - 1.0).abs() < 1e-3);
}

#[test]
fn an_equal_one_is_refused() {
    let verdict = decide(&set(2.0, 2.0), &[set(1.0, 1.0)]);
    assert!(verdict.outcome == GateOutcome::Refused && verdict.reasons.len() == 1, "{verdict:?}");
    assert!(verdict.reasons[0].starts_with("no improvement shown"), "{}", verdict.reasons[0]);
    assert_eq!(verdict.target.change.unwrap().tar_change, Estimate { value: 0.0, low: 0.0, high: 0.0 });
}

#[test]
fn a_slight_improvement_on_few_people_is_not_enough_evidence() {
    let verdict = decide(&set(1.5, 1.49), &[]);
    let rise = verdict.target.change.as_ref().unwrap().tar_change;
    assert!(rise.low <= 0.0 && rise.high > 0.0, "{rise:?}");
    assert!(verdict.outcome == GateOutcome::NotEnoughEvidence && !verdict.promote, "{verdict:?}");
    assert!(verdict.reasons[0].starts_with("not enough evidence of an improvement"), "{}", verdict.reasons[0]);
}

#[test]
fn few_subjects_show_nothing() {
    let verdict = decide(&named("door", 9, 2.0, 0.5), &[]);
    assert!(verdict.target.change.as_ref().unwrap().tar_change.low > 0.0, "{verdict:?}");
    assert_eq!(verdict.outcome, GateOutcome::NotEnoughEvidence);
    assert!(verdict.reasons[0].starts_with("too few to tell: 9 people of \"door\""), "{}", verdict.reasons[0]);
    // Nobody with two photos, and nobody at all.
    let of = |vectors: Vec<Vec<f32>>| {
        let subjects: Vec<usize> = (0..vectors.len()).collect();
        GateSet::of_subjects(("door", 0.01), &subjects, vectors.clone(), vectors).unwrap()
    };
    for set in [of(vectors(2, 1.0)), of(Vec::new())] {
        let verdict = decide(&set, &[]);
        assert!(verdict.target.change.is_none() && verdict.outcome == GateOutcome::NotEnoughEvidence, "{verdict:?}");
        assert!(verdict.reasons[0].contains("0 people"), "{}", verdict.reasons[0]);
    }
}

#[test]
fn each_protected_gallery_is_judged_by_itself() {
    let few = named("few", 5, 1.0, 1.0);
    let verdict = decide(&set(2.0, 1.0), &[named("kept", 30, 1.0, 1.0), named("lost", 30, 1.0, 2.2), few.clone()]);
    let outcomes: Vec<_> = verdict.protected.iter().map(|judged| (judged.name.as_str(), judged.outcome)).collect();
    let expected = [GateOutcome::Passed, GateOutcome::Refused, GateOutcome::NotEnoughEvidence];
    assert_eq!(outcomes, ["kept", "lost", "few"].into_iter().zip(expected).collect::<Vec<_>>());
    assert_eq!((verdict.outcome, verdict.target.outcome), (GateOutcome::Refused, GateOutcome::Passed));
    // What refuses comes first.
    assert!(verdict.reasons[0].starts_with("forgetting") && verdict.reasons[0].contains("\"lost\""), "{verdict:?}");
    assert_eq!(verdict.reasons.len(), 3, "two figures, and too few: {verdict:?}");
    assert_eq!(decide(&set(2.0, 1.0), &[few]).outcome, GateOutcome::NotEnoughEvidence);
}

/// A change by `value`, in the interval `low` to `high`.
fn changed(value: f64, low: f64, high: f64) -> Change {
    let mut change = Change::of(&set(1.0, 1.0), &Gate { draws: 2, ..Gate::default() }).unwrap();
    change.tar_change = Estimate { value, low, high };
    change
}

#[test]
fn what_is_allowed_in_a_protected_gallery() {
    let outcome = |change: Change| {
        let against = Gate::default().losses("x", &change);
        against.first().map_or(GateOutcome::Passed, |(outcome, _)| *outcome)
    };
    assert_eq!(outcome(changed(0.01, -0.05, 0.02)), GateOutcome::Passed);
    assert_eq!(outcome(changed(-0.02, -0.04, -0.01)), GateOutcome::Passed, "surely a fall, but allowed");
    assert_eq!(outcome(changed(-0.03, -0.04, 0.001)), GateOutcome::NotEnoughEvidence, "perhaps no fall");
    assert_eq!(outcome(changed(0.01, -0.051, 0.02)), GateOutcome::NotEnoughEvidence, "perhaps a large one");
    assert_eq!(outcome(changed(-0.03, -0.04, -0.001)), GateOutcome::Refused);
    // FNIR rises where the share that is found falls.
    let mut missed = changed(0.0, 0.0, 0.0);
    missed.fnir_change = Estimate { value: 0.03, low: 0.01, high: 0.05 };
    assert!(Gate::default().losses("x", &missed)[0].1.contains("1 - FNIR"));
    assert_eq!(outcome(missed), GateOutcome::Refused);
}

#[test]
fn a_target_where_fewer_are_found_is_refused() {
    let mut change = changed(0.1, 0.05, 0.2);
    assert_eq!(Gate::default().improvement(&change), []);
    change.fnir_change = Estimate { value: 0.03, low: 0.01, high: 0.05 };
    assert_eq!(Gate::default().improvement(&change)[0].0, GateOutcome::Refused);
}

#[test]
fn a_worse_one_is_refused_and_without_a_protected_set_it_is_said() {
    let worse = decide(&set(1.5, 2.2), &[]);
    assert!(worse.outcome == GateOutcome::Refused && worse.notes[0].starts_with("no protected set"), "{worse:?}");
    let better = decide(&set(2.0, 1.0), &[]);
    assert!(better.promote && better.protected.is_empty() && better.notes.len() == 1, "{better:?}");
}

#[test]
fn a_verdict_survives_json() {
    let gate = Gate { draws: 50, ..Gate::default() };
    let verdict = gate.decide(&set(2.0, 1.5), &[set(1.0, 1.0), named("few", 1, 1.0, 1.0)]).unwrap();
    let text = serde_json::to_string(&verdict).unwrap();
    let back: Verdict = serde_json::from_str(&text).unwrap();
    assert_eq!(back, verdict);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["target"]["faces"], &value["protected"][1]["outcome"]),
        (&72.into(), &"not_enough_evidence".into())
    );
    assert!(value["protected"][1].get("faces").is_none());
}

#[test]
fn what_is_no_number_is_an_error() {
    let broken = GateSet::of_subjects(("x", 0.01), &[0, 0, 1], vec![vec![1.0]; 3], vec![vec![f32::NAN]; 3]).unwrap();
    assert!(matches!(Gate::default().decide(&broken, &[]), Err(EvaluationError::NotFinite(..))));
    assert!(GateSet::of_subjects(("x", 0.01), &[0, 0], vec![vec![1.0]; 2], vec![vec![1.0]]).is_err());
}
