//! The errors of groups of people, at the thresholds that all people share: one threshold serves them all, so what
//! differs between groups are the errors.
//!
//! Within a group, that is: genuine pairs of its people, and impostor pairs of two of its people, who resemble each other more
//! than people of different groups do (Grother, Ngan and Hanaoka 2019, NISTIR 8280).

use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, Resampling, estimate, in_parallel};
use super::{Faces, Missed};

/// With fewer people (for FNMR: who have two photos) a group is never called the worst.
const LEAST_PEOPLE: usize = 10;

/// Without an error in n trials, the rate is below `RULE_OF_THREE / n` with 95 % confidence.
const RULE_OF_THREE: f64 = 3.0;

/// Into which groups a field divides the subjects.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grouping {
    pub field: String,
    /// The groups.
    pub values: Vec<String>,
    /// Of each subject the number of its group; `None` if it is not known.
    pub of_subject: Vec<Option<usize>>,
}

/// A threshold, and the FMR that it has over all people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedThreshold {
    pub fmr: f64,
    pub threshold: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GroupPlan<'a> {
    pub thresholds: Vec<FixedThreshold>,
    /// Who was missed in a gallery of everybody.
    pub missed: Option<&'a Missed>,
    pub resampling: Resampling,
}

/// What a field shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    pub field: String,
    /// People of whom no value is known.
    pub without_value: usize,
    pub groups: Vec<Group>,
    /// By FNMR and by FMR, at each threshold; none where fewer than two groups have people enough, or no error was seen.
    pub worst: Vec<Worst>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub value: String,
    pub people: usize,
    /// Of them, those with two photos or more.
    pub with_two_photos: usize,
    pub photos: usize,
    pub genuine_pairs: usize,
    pub impostor_pairs: usize,
    pub at: Vec<GroupRates>,
    /// `None` if too few of these people were looked for.
    pub fnir: Option<GroupFnir>,
}

/// The rates of a group at one threshold; `None` without pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRates {
    /// Over all people.
    pub overall_fmr: f64,
    pub threshold: f64,
    pub tar: Option<Estimate>,
    /// 1 - TAR.
    pub fnmr: Option<Estimate>,
    pub fmr: Option<Estimate>,
}

/// The share of a group's probes that are missed in a gallery of all groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupFnir {
    /// In the gallery.
    pub people: usize,
    /// Over strangers of all groups.
    pub fpir: f64,
    pub fnir: Estimate,
}

/// The group with the largest rate of those with people enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worst {
    pub by: ErrorRate,
    /// Of the threshold, over all people.
    pub overall_fmr: f64,
    pub group: String,
    pub rate: Estimate,
    /// Whether it is worse than each of the others in 97.5 % of the draws of people; else other people might name another.
    pub is_clear: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorRate {
    Fnmr,
    Fmr,
}

/// Pairs of a group's people, who are numbered from 0.
struct Counted {
    photos: Vec<f64>,
    /// For each threshold, of each person the genuine pairs that match, and pairs of two people that do.
    genuine: Vec<Vec<f64>>,
    impostor: Vec<Vec<(usize, usize)>>,
}

/// FNMR and FMR at each threshold, and FNIR; NaN where nothing is known.
struct Rates {
    at: Vec<[f64; 2]>,
    fnir: f64,
}

struct MeasuredGroup {
    group: Group,
    draws: Vec<Rates>,
}

/// The rates of each group. Intervals are over the people of a group.
pub fn by_group(faces: &Faces, grouping: &Grouping, plan: &GroupPlan) -> GroupReport {
    let is_there = |subject: usize| faces.by_subject().get(subject).is_some_and(|faces| !faces.is_empty());
    let people_of = |group: Option<usize>| -> Vec<usize> {
        let all = grouping.of_subject.iter().enumerate();
        all.filter(|(subject, of)| **of == group && is_there(*subject)).map(|(subject, _)| subject).collect()
    };
    let groups: Vec<MeasuredGroup> = (0..grouping.values.len())
        .map(|group| (group, people_of(Some(group))))
        .filter(|(_, people)| !people.is_empty())
        .map(|(group, people)| measure(faces, grouping.values[group].clone(), &people, group, plan))
        .collect();
    let worst = (0..plan.thresholds.len())
        .flat_map(|at| [ErrorRate::Fnmr, ErrorRate::Fmr].map(|by| worst(&groups, by, at)))
        .flatten()
        .collect();
    GroupReport {
        field: grouping.field.clone(),
        without_value: people_of(None).len(),
        groups: groups.into_iter().map(|measured| measured.group).collect(),
        worst,
    }
}

fn measure(faces: &Faces, value: String, people: &[usize], number: usize, plan: &GroupPlan) -> MeasuredGroup {
    let counted = Counted::of(faces, people, &plan.thresholds);
    let missed: Vec<(f64, f64)> = match plan.missed {
        Some(missed) => people.iter().map(|subject| missed.of_subject[*subject]).collect(),
        None => Vec::new(),
    };
    let rates = |weights: &[f64]| counted.rates(weights, &missed);
    let own = rates(&vec![1.0; people.len()]);
    // Draws of their own: the people of two groups are independent.
    let seed = plan.resampling.seed.wrapping_add(1000 + number as u64);
    let draws = Resampling { seed, ..plan.resampling }.run(people.len(), rates);
    let of = |rate: &dyn Fn(&Rates) -> f64| {
        Some(rate(&own)).filter(|value| value.is_finite()).map(|value| estimate(value, draws.iter().map(rate)))
    };
    let at = plan.thresholds.iter().enumerate().map(|(n, fixed)| {
        let (fnmr, fmr) = (of(&|rates| rates.at[n][0]), of(&|rates| rates.at[n][1]));
        let tar = fnmr.map(Estimate::complement);
        GroupRates { overall_fmr: fixed.fmr, threshold: fixed.threshold, tar, fnmr, fmr }
    });
    let looked_for = missed.iter().filter(|(_, probes)| *probes > 0.0).count();
    let fnir = plan.missed.filter(|_| looked_for >= LEAST_PEOPLE).zip(of(&|rates| rates.fnir));
    let group = Group {
        value,
        people: people.len(),
        with_two_photos: counted.photos.iter().filter(|photos| **photos > 1.0).count(),
        photos: counted.photos.iter().sum::<f64>() as usize,
        genuine_pairs: counted.pairs(&vec![1.0; people.len()]).0 as usize,
        impostor_pairs: counted.pairs(&vec![1.0; people.len()]).1 as usize,
        at: at.collect(),
        fnir: fnir.map(|(missed, fnir)| GroupFnir { people: missed.people, fpir: missed.fpir, fnir }),
    };
    MeasuredGroup { group, draws }
}

impl Counted {
    /// Compares all photos of these people.
    fn of(faces: &Faces, people: &[usize], thresholds: &[FixedThreshold]) -> Self {
        let of_person = in_parallel(people.len(), |a| {
            let mut genuine = vec![0.0; thresholds.len()];
            let mut impostor = vec![Vec::new(); thresholds.len()];
            for (n, photo) in faces.by_subject()[people[a]].iter().enumerate() {
                for (b, person) in people[..=a].iter().enumerate() {
                    let others = &faces.by_subject()[*person];
                    for other in if a == b { &others[..n] } else { others } {
                        let similarity = f64::from(faces.similarity(*photo, *other));
                        for at in (0..thresholds.len()).filter(|at| similarity >= thresholds[*at].threshold) {
                            if a == b { genuine[at] += 1.0 } else { impostor[at].push((a, b)) }
                        }
                    }
                }
            }
            (genuine, impostor)
        });
        let at = 0..thresholds.len();
        Self {
            photos: people.iter().map(|person| faces.by_subject()[*person].len() as f64).collect(),
            genuine: at.clone().map(|at| of_person.iter().map(|(genuine, _)| genuine[at]).collect()).collect(),
            impostor: at.map(|at| of_person.iter().flat_map(|(_, impostor)| impostor[at].clone()).collect()).collect(),
        }
    }

    /// Genuine and impostor pairs, if each person counts as often as a weight says.
    fn pairs(&self, weights: &[f64]) -> (f64, f64) {
        let (mut genuine, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for (photos, weight) in self.photos.iter().zip(weights) {
            genuine += weight * photos * (photos - 1.0) / 2.0;
            sum += weight * photos;
            squares += (weight * photos).powi(2);
        }
        (genuine, (sum * sum - squares) / 2.0)
    }

    fn rates(&self, weights: &[f64], missed: &[(f64, f64)]) -> Rates {
        let (genuine, impostor) = self.pairs(weights);
        let at = self.genuine.iter().zip(&self.impostor).map(|(matched, false_ones)| {
            let matched: f64 = matched.iter().zip(weights).map(|(pairs, weight)| pairs * weight).sum();
            // The sum of nothing is -0.
            let false_ones = 0.0 + false_ones.iter().map(|(a, b)| weights[*a] * weights[*b]).sum::<f64>();
            [1.0 - matched / genuine, false_ones / impostor]
        });
        let weighted = || missed.iter().zip(weights);
        let (of, all) = weighted().fold((0.0, 0.0), |(of, all), (one, w)| (of + w * one.0, all + w * one.1));
        Rates { at: at.collect(), fnir: of / all }
    }
}

fn worst(groups: &[MeasuredGroup], by: ErrorRate, at: usize) -> Option<Worst> {
    let rate = |measured: &MeasuredGroup| match by {
        ErrorRate::Fnmr => measured.group.at[at].fnmr,
        ErrorRate::Fmr => measured.group.at[at].fmr,
    };
    let has_enough = |group: &Group| match by {
        ErrorRate::Fnmr => group.with_two_photos >= LEAST_PEOPLE,
        ErrorRate::Fmr => group.people >= LEAST_PEOPLE,
    };
    let known: Vec<(&MeasuredGroup, Estimate)> = groups
        .iter()
        .filter(|measured| has_enough(&measured.group))
        .filter_map(|measured| Some((measured, rate(measured)?)))
        .collect();
    let largest = known.iter().max_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let (first, largest) = *largest.filter(|(_, rate)| known.len() > 1 && rate.value > 0.0)?;
    let mut others = known.iter().filter(|(other, _)| other.group.value != first.group.value);
    let is_clear = others.all(|(other, rate)| {
        is_worse(first, other, by, at) && (rate.value > 0.0 || largest.low > without_error(&other.group, by))
    });
    let overall_fmr = first.group.at[at].overall_fmr;
    Some(Worst { by, overall_fmr, group: first.group.value.clone(), rate: largest, is_clear })
}

/// Whether the rate of one group exceeds that of another one in 97.5 % of the draws.
fn is_worse(one: &MeasuredGroup, other: &MeasuredGroup, by: ErrorRate, at: usize) -> bool {
    let part = usize::from(by == ErrorRate::Fmr);
    let draws = one.draws.iter().zip(&other.draws);
    let differences = draws.map(|(one, other)| one.at[at][part] - other.at[at][part]);
    estimate(f64::INFINITY, differences).low > 0.0
}

/// What the rate of a group may be of which no error was seen: people are the trials, or pairs of people.
fn without_error(group: &Group, by: ErrorRate) -> f64 {
    let n = match by {
        ErrorRate::Fnmr => group.with_two_photos as f64,
        ErrorRate::Fmr => group.people as f64 * (group.people as f64 - 1.0) / 2.0,
    };
    RULE_OF_THREE / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::faces::made;
    use crate::evaluation::{Comparisons, measure};

    const AT: FixedThreshold = FixedThreshold { fmr: 1e-2, threshold: 0.3 };

    /// The first `easy` people are told apart more easily than as many others.
    fn faces(easy: usize) -> (Faces, Grouping) {
        let (good, bad) = (made::faces(easy, 4, 1.0, 1), made::faces(easy, 4, 1.8, 2));
        let all = |faces: &Faces| (0..faces.len()).map(|face| faces.vector(face).to_vec()).collect::<Vec<_>>();
        let vectors = [all(&good), all(&bad)].concat();
        let subjects: Vec<usize> = (0..vectors.len()).map(|face| face / 4).collect();
        let of_subject = (0..2 * easy).map(|subject| Some(subject / easy)).collect();
        let grouping = Grouping { field: "kind".into(), values: vec!["easy".into(), "hard".into()], of_subject };
        (Faces::new(vectors, subjects).unwrap(), grouping)
    }

    fn plan(missed: Option<&Missed>) -> GroupPlan<'_> {
        GroupPlan { thresholds: vec![AT], missed, resampling: Resampling { draws: 200, seed: 1 } }
    }

    #[test]
    fn rates_are_those_of_the_pairs_within_a_group() {
        let (faces, mut grouping) = faces(12);
        grouping.of_subject[23] = None;
        let report = by_group(&faces, &grouping, &plan(None));
        assert_eq!((report.without_value, report.groups.len()), (1, 2));
        let hard = &report.groups[1];
        assert_eq!((hard.people, hard.with_two_photos, hard.photos), (11, 11, 44));
        let pairs = |i: usize, j: usize| [i, j].into_iter().all(|face| (12..23).contains(&faces.subject(face)));
        let pairs = Comparisons::of_faces_where(&faces, usize::MAX, 0, pairs).unwrap();
        assert_eq!((hard.genuine_pairs, hard.impostor_pairs), (pairs.genuine(), pairs.impostor()));
        let own = measure(&pairs, &[1.0; 24], &[], AT.threshold as f32).unwrap();
        let rates = &hard.at[0];
        assert!((rates.fnmr.unwrap().value - own.fnmr).abs() < 1e-9, "{rates:?} {own:?}");
        assert!((rates.fmr.unwrap().value - own.fmr).abs() < 1e-9, "{rates:?} {own:?}");
        assert!((rates.tar.unwrap().value - 1.0 + own.fnmr).abs() < 1e-9);
    }

    #[test]
    fn the_worst_group_is_named_if_there_are_people_enough() {
        let (many, grouping) = faces(30);
        let report = by_group(&many, &grouping, &plan(None));
        let worst = report.worst.iter().find(|worst| worst.by == ErrorRate::Fnmr).unwrap();
        assert!(worst.group == "hard" && worst.is_clear && worst.overall_fmr == 1e-2, "{worst:?}");
        let (few, grouping) = faces(9);
        assert_eq!(by_group(&few, &grouping, &plan(None)).worst, []);
    }

    #[test]
    fn groups_that_differ_by_chance_are_not_clear() {
        let faces = made::faces(60, 4, 1.8, 3);
        let of_subject = (0..60).map(|subject| Some(subject % 3)).collect();
        let grouping = Grouping { field: "x".into(), values: ["a", "b", "c"].map(String::from).to_vec(), of_subject };
        let report = by_group(&faces, &grouping, &plan(None));
        assert!(!report.worst.is_empty() && report.worst.iter().all(|worst| !worst.is_clear), "{:?}", report.worst);
    }

    #[test]
    fn who_is_missed_counts_for_its_group() {
        let (faces, grouping) = faces(12);
        let of_subject = (0..24).map(|subject| if subject < 12 { (0.0, 4.0) } else { (1.0, 4.0) }).collect();
        let missed = Missed { people: 24, fpir: 0.01, of_subject };
        let report = by_group(&faces, &grouping, &plan(Some(&missed)));
        let fnirs: Vec<f64> = report.groups.iter().map(|group| group.fnir.as_ref().unwrap().fnir.value).collect();
        assert_eq!(fnirs, [0.0, 0.25]);
    }
}
