//! What became of a migration.

use std::collections::BTreeMap;

use serde::Serialize;

use super::item::Refusal;
use super::keys::TakenKey;
use crate::types::FaceId;

/// What a migration has done so far.
#[derive(Debug, Default, Serialize)]
pub struct Migrated {
    /// Whose embeddings were made.
    pub model: String,
    /// Faces that are new here.
    pub taken_over: u64,
    /// Faces that were taken over before.
    pub already_there: u64,
    /// Faces and subjects that were not taken over.
    pub refused: u64,
    /// How many for which reason.
    pub reasons: BTreeMap<&'static str, u64>,
    pub subjects_created: u64,
    /// New faces by gallery.
    pub galleries: BTreeMap<String, u64>,
    pub galleries_created: Vec<String>,
    /// Photos with several faces, of which the largest was taken.
    pub several_faces: u64,
    /// Crops in which no face was found, taken as a whole.
    pub whole_crops: u64,
    pub seconds: f64,
    /// New faces and refused ones.
    pub photos_per_second: f64,
    pub keys: Vec<TakenKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

impl Migrated {
    /// What was looked at so far.
    pub fn done(&self) -> u64 {
        self.taken_over + self.already_there + self.refused
    }
}

/// Something that was not taken over.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// How the source calls it.
    pub identity: String,
    pub subject: String,
    pub gallery: String,
    #[serde(flatten)]
    pub why: Refusal,
}

/// What is told while a migration goes on.
pub enum Event<'a> {
    Progress(&'a Migrated),
    Refused(&'a Refused),
    Changed(&'a ChangedDecision),
}

/// What the source answers of its own examples, each looked for among the others, and what is answered here.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Examples that were looked for.
    pub probes: u64,
    /// Left out, as they were not taken over or nobody knows how to read their similarities.
    pub not_comparable: u64,
    pub same: u64,
    pub changed: u64,
    /// Examples for which the source names their own subject.
    pub right_before: u64,
    /// Those for which we do.
    pub right_after: u64,
    /// Examples for which somebody else is named.
    pub wrong_before: u64,
    pub wrong_after: u64,
}

/// Who is answered: the best subject, if the similarity reaches 0.5 on CompreFace's scale.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// `None`: nobody.
    pub subject: Option<String>,
    /// Of the best subject, whether or not it is known; 0..=1.
    pub similarity: f64,
}

/// An example of which the source says something else than we do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangedDecision {
    pub identity: FaceId,
    pub subject: String,
    pub gallery: String,
    /// Always `decision_changed`, which tells these lines of a report from others.
    pub code: &'static str,
    pub before: Decision,
    pub after: Decision,
}
