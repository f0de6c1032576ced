//! Answers about decisions: by what a face is one of a gallery, and how often strangers are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gallery::Policy;
use crate::types::GalleryId;

/// By what a face is called known.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// What was asked for: a similarity, or a rate of errors.
    pub policy: Policy,
    /// The similarity from which on a face is known.
    pub threshold: f32,
    /// 95 % interval of the threshold that the rate needs, where it is an estimate.
    #[schema(required)]
    pub threshold_interval: Option<[f32; 2]>,
    /// Where the threshold comes from.
    pub basis: Basis,
    /// When the gallery was measured, where the threshold rests on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured_at: Option<DateTime<Utc>>,
    /// Subjects with faces in the gallery, which a stranger is compared with; 1 for a pair.
    pub subjects: u64,
    /// At this threshold, how often one comparison of two people matches, if the model is calibrated.
    #[schema(required)]
    pub estimated_fmr: Option<f64>,
    /// At this threshold, how often a stranger is taken for anybody of the gallery, if it can be told.
    #[schema(required)]
    pub estimated_fpir: Option<f64>,
    /// 95 % interval of that rate.
    #[schema(required)]
    pub estimated_fpir_interval: Option<[f64; 2]>,
}

/// By what a face is called one of a gallery, where several are searched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DecisionIn {
    pub gallery: String,
    pub gallery_id: GalleryId,
    /// Of a rate `fpir` each gallery has its part: it is divided by their number.
    pub decision: Decision,
}

/// What a threshold rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A similarity that was asked for or configured.
    Given,
    /// What the model showed on thousands of people, taken to the number of subjects.
    Model,
    /// That, corrected by what the gallery showed of its own subjects.
    Gallery,
}

/// How often strangers are taken for somebody of a gallery, and from which similarity on few enough are.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Strangers {
    /// What the thresholds rest on. `gallery`: it was measured; that is renewed as it grows.
    pub basis: Basis,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured_at: Option<DateTime<Utc>>,
    /// Subjects when it was measured, and faces that played the stranger.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured_subjects: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probes: Option<u64>,
    /// Share of the subjects who seem to be enrolled twice.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub twice: Option<f64>,
    /// At the present size; empty if the model is not calibrated.
    pub thresholds: Vec<FpirThreshold>,
}

/// The threshold at which a share of strangers is taken for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FpirThreshold {
    pub fpir: f64,
    /// Cosine, -1..1.
    pub threshold: f32,
    /// Its 95 % interval.
    pub low: f32,
    pub high: f32,
}
