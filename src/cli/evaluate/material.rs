//! Faces to measure on, and what is measured on them.

use std::collections::HashMap;

use super::super::CliError;
use super::super::photos::Outcome;
use super::grouping::Person;
use super::sources::Source;
use super::{Photos, Unreadable};
use crate::evaluation::{
    Comparisons, Faces, FixedThreshold, GroupPlan, GroupReport, Grouping, Growth, GrowthPlan, Missed, Pair, Report,
    ReportPlan, Verification, by_group, growth, identify, verify,
};

/// Impostor pairs that are kept one by one or as a sample.
const MOST_IMPOSTORS: usize = 1_000_000;

/// FMR over everybody of the thresholds at which groups are compared, if the photos tell them.
const GROUP_FMRS: [f64; 2] = [1e-3, 1e-4];

/// FPIR at which they are, if there are strangers enough.
const GROUP_FPIR: f64 = 0.01;

/// Embedded faces.
pub struct Material {
    pub photos: Photos,
    pub faces: Faces,
    /// Pairs to compare; all of them if `None`.
    pub pairs: Option<Vec<Pair>>,
    /// Of the faces' subjects, by number; nobody for pairs.
    pub people: Vec<Person>,
}

/// What was measured.
pub struct MeasuredFaces {
    pub comparisons: Comparisons,
    pub report: Report,
    pub growth: Option<Growth>,
    pub groups: Vec<GroupReport>,
}

/// What to measure on faces.
pub struct Plans {
    pub plan: ReportPlan,
    pub growth: GrowthPlan,
    pub groupings: Vec<Grouping>,
}

impl Material {
    /// Of the photos of a source.
    pub fn of(source: Source, outcomes: Vec<Outcome<[Vec<f32>; 1]>>) -> Result<Self, CliError> {
        let Source { photos: paths, subjects, pairs, copies, by_name, files, people: names } = source;
        let mut photos = Photos {
            total: paths.len()
                + copies.photos
                + copies.under_several_names
                + by_name.of_second_names
                + by_name.excluded,
            copies: copies.photos,
            under_several_names: copies.under_several_names,
            second_names: by_name.second_names,
            of_second_names: by_name.of_second_names,
            excluded: by_name.excluded,
            not_found: by_name.not_found,
            files_left_out: files,
            ..Photos::default()
        };
        let mut face_of = Vec::with_capacity(paths.len());
        let (mut vectors, mut shown, mut people) = (Vec::new(), Vec::new(), Vec::new());
        // Numbered anew: people of whom no face was found do not count.
        let mut numbers = HashMap::new();
        for ((path, subject), outcome) in paths.into_iter().zip(subjects).zip(outcomes) {
            face_of.push(matches!(outcome, Outcome::Face(_)).then_some(vectors.len()));
            match outcome {
                Outcome::Face([vector]) => {
                    shown.push(*numbers.entry(subject).or_insert_with(|| {
                        people.push(Person {
                            name: names.get(subject).cloned().unwrap_or_default(),
                            ..Person::default()
                        });
                        people.len() - 1
                    }));
                    vectors.push(vector);
                }
                Outcome::NoFace => photos.without_face.push(path),
                Outcome::Unreadable(reason) => photos.unreadable.push(Unreadable { path, reason }),
            }
        }
        photos.embedded = vectors.len();
        let faces = Faces::new(vectors, shown)?;
        let pairs = pairs.map(|pairs| {
            let both = |(a, b): &(usize, usize)| face_of[*a].zip(face_of[*b]);
            let compared: Vec<Pair> = pairs.iter().filter_map(both).map(|(a, b)| pair(&faces, a, b)).collect();
            photos.pairs_left_out = pairs.len() - compared.len() + copies.pairs;
            compared
        });
        Ok(Self { photos, faces, pairs, people })
    }
}

fn pair(faces: &Faces, a: usize, b: usize) -> Pair {
    let subject = |face| faces.subject(face) as u32;
    Pair { similarity: faces.similarity(a, b), a: subject(a), b: subject(b) }
}

impl Plans {
    pub fn measure(&self, faces: &Faces, pairs: Option<Vec<Pair>>) -> Result<MeasuredFaces, CliError> {
        let subjects = faces.by_subject().len();
        if let Some(pairs) = pairs {
            let comparisons = Comparisons::new(pairs)?;
            let report = Report { subjects, verification: verify(&comparisons, &self.plan), identification: None };
            return Ok(MeasuredFaces { comparisons, report, growth: None, groups: Vec::new() });
        }
        let comparisons = Comparisons::of_all(faces, MOST_IMPOSTORS, self.plan.resampling.seed)?;
        let verification = verify(&comparisons, &self.plan);
        let identification = identify(faces, &self.plan);
        let (growth, missed) = growth(faces, &self.growth).unzip();
        let groups = self.groups(faces, &verification, &missed.unwrap_or_default());
        Ok(MeasuredFaces { comparisons, report: Report { subjects, verification, identification }, growth, groups })
    }

    fn groups(&self, faces: &Faces, measured: &Verification, missed: &[Missed]) -> Vec<GroupReport> {
        let told = measured.thresholds.iter().filter(|point| GROUP_FMRS.contains(&point.fmr));
        let mut thresholds: Vec<FixedThreshold> =
            told.map(|point| FixedThreshold { fmr: point.fmr, threshold: point.threshold.value }).collect();
        if thresholds.is_empty() {
            let used = &measured.at_threshold;
            thresholds.push(FixedThreshold { fmr: used.fmr.value, threshold: used.threshold.into() });
        }
        let missed = missed.iter().find(|missed| missed.fpir == GROUP_FPIR).or(missed.first());
        let plan = GroupPlan { thresholds, missed, resampling: self.plan.resampling };
        self.groupings.iter().map(|grouping| by_group(faces, grouping, &plan)).collect()
    }
}
