//! What is wrong with a subject: plain geometry on its faces and on whom they resemble.

use serde_json::json;

use crate::gallery::{FaceToReview, FindingKind, NewFinding};
use crate::index::Hit;
use crate::types::{FaceId, StoredEmbedding, SubjectId};

/// From which anomaly score on a face is reported.
const LEAST_ANOMALY: f32 = 0.5;

/// Rounds of the two-means clustering; it settles within a few.
const ROUNDS: usize = 20;

/// A face with what was found near it.
pub struct ComparedFace {
    pub face: FaceToReview,
    /// The most similar template of another subject.
    pub other: Option<Hit>,
    /// How unlike any face it is, if that is known.
    pub anomaly: Option<f32>,
}

/// What makes a face somebody's.
#[derive(Debug, Clone, Copy)]
pub struct Nearness {
    /// From which similarity on it resembles another subject.
    pub other: f32,
    /// Below which similarity it does not resemble its own.
    pub own: f32,
}

/// What is to be said of one subject.
pub struct Examined {
    pub findings: Vec<NewFinding>,
    /// Its template, without the faces that seem to be another's unless all do.
    pub template: StoredEmbedding,
}

/// Looks at the faces of a subject.
pub fn examine(subject: SubjectId, faces: &[ComparedFace], nearness: Nearness) -> Examined {
    let vectors: Vec<Vec<f64>> = faces.iter().map(|seen| floats(&seen.face.embedding)).collect();
    let mut findings = Vec::new();
    let mut own = vec![true; faces.len()];
    for (number, seen) in faces.iter().enumerate() {
        if let Some(anomaly) = seen.anomaly.filter(|anomaly| *anomaly >= LEAST_ANOMALY) {
            findings.push(NewFinding {
                kind: FindingKind::NotAFace,
                subject,
                face: Some(seen.face.face),
                other: None,
                score: anomaly,
                evidence: json!({"anomaly": anomaly, "norm": seen.face.norm}),
            });
        }
        let Some(rest) = mean(vectors.iter().enumerate().filter(|(i, _)| *i != number).map(|(_, vector)| vector))
        else {
            continue;
        };
        let own_similarity = dot(&vectors[number], &rest) as f32;
        let Some(other) = &seen.other else { continue };
        let other_similarity = other.similarity as f32;
        // A face that looks like its own subject is right, even if a second entry of the same person is nearer.
        if other_similarity >= nearness.other && own_similarity < nearness.own {
            own[number] = false;
            findings.push(mislabelled(subject, seen.face.face, other, own_similarity));
        }
    }
    let clean: Vec<usize> = (0..faces.len()).filter(|number| own[*number]).collect();
    findings.extend(two_people(subject, faces, &vectors, &clean, nearness.own));
    let template = mean(clean.iter().map(|i| &vectors[*i])).or_else(|| mean(vectors.iter()));
    Examined { findings, template: stored(&template.unwrap_or_default()) }
}

fn mislabelled(subject: SubjectId, face: FaceId, other: &Hit, own_similarity: f32) -> NewFinding {
    let other_similarity = other.similarity as f32;
    NewFinding {
        kind: FindingKind::Mislabelled,
        subject,
        face: Some(face),
        other: Some(other.about.subject_id),
        score: other_similarity - own_similarity,
        evidence: json!({"own_similarity": own_similarity, "other_similarity": other_similarity}),
    }
}

/// Splits the faces in two (two-means on the sphere, from the pair that is least alike) and reports it if the groups
/// are less alike than `own`.
fn two_people(
    subject: SubjectId,
    faces: &[ComparedFace],
    vectors: &[Vec<f64>],
    clean: &[usize],
    own: f32,
) -> Option<NewFinding> {
    let pairs = clean.iter().flat_map(|i| clean.iter().map(move |j| (*i, *j))).filter(|(i, j)| i < j);
    let similarity = |(i, j): &(usize, usize)| dot(&vectors[*i], &vectors[*j]);
    let (first, second) = pairs.min_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    let mut centres = (vectors[first].clone(), vectors[second].clone());
    let mut groups = (vec![first], vec![second]);
    for _ in 0..ROUNDS {
        let nearer = |i: &usize| dot(&vectors[*i], &centres.0) > dot(&vectors[*i], &centres.1);
        let next: (Vec<usize>, Vec<usize>) = clean.iter().partition(|i| nearer(i));
        let (Some(a), Some(b)) = (mean(next.0.iter().map(|i| &vectors[*i])), mean(next.1.iter().map(|i| &vectors[*i])))
        else {
            break;
        };
        let settled = next == groups;
        (centres, groups) = ((a, b), next);
        if settled {
            break;
        }
    }
    let across = dot(&centres.0, &centres.1) as f32;
    let ids = |group: &[usize]| group.iter().map(|i| faces[*i].face.face).collect::<Vec<_>>();
    (across < own).then(|| NewFinding {
        kind: FindingKind::TwoPeople,
        subject,
        face: None,
        other: None,
        score: 1.0 - across,
        evidence: json!({"similarity": across, "groups": [ids(&groups.0), ids(&groups.1)]}),
    })
}

fn floats(embedding: &StoredEmbedding) -> Vec<f64> {
    embedding.as_slice().iter().map(|value| value.to_f64()).collect()
}

fn stored(vector: &[f64]) -> StoredEmbedding {
    StoredEmbedding::new(vector.iter().map(|value| half::f16::from_f64(*value)).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The unit vector along the mean; `None` of nothing, or if the vectors cancel out.
fn mean<'a>(vectors: impl Iterator<Item = &'a Vec<f64>>) -> Option<Vec<f64>> {
    let mut sum: Vec<f64> = Vec::new();
    for vector in vectors {
        if sum.is_empty() {
            sum = vector.clone();
        } else {
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
        }
    }
    let norm = dot(&sum, &sum).sqrt();
    (norm > 1e-9).then(|| sum.into_iter().map(|value| value / norm).collect())
}
