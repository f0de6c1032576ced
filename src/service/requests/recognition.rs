//! Requests that enroll a photo, or look at one alone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Batch, Count, Expiry, Extra, FileBytes, Score, default_gallery, wanted};
use crate::gallery::{Metadata, OnDoubt};
use crate::types::Name;
use crate::vision::{Detail, MinFace, Wanted};

/// POST /enroll
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrollRequest {
    /// The photo.
    pub image: FileBytes,
    /// Whom the photo shows: a name, or an id. A new name makes a new subject.
    #[schema(example = "Ada")]
    pub subject: Name,
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// A JSON object that is kept with the face.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    #[schema(default = json!({}))]
    pub metadata: Metadata,
    /// When the subject expires, and is erased with all its faces: also of one that is there already. Without it the subject's
    /// own stays as it is.
    pub expires_at: Option<Expiry>,
    /// When this face expires, and is erased. Defaults to never.
    pub face_expires_at: Option<Expiry>,
    /// What to do when another subject looks like the same person: enroll and do not look, enroll and say so, or refuse with
    /// `duplicate_face`.
    #[serde(default)]
    #[schema(default = "warn")]
    pub on_duplicate: OnDoubt,
    /// What to do when the face does not resemble those that the subject has: enroll and do not look, enroll and say so, or refuse
    /// with `subject_mismatch`.
    #[serde(default)]
    #[schema(default = "warn")]
    pub on_mismatch: OnDoubt,
    /// Which face of a photo with several. `only`: several are an error.
    #[serde(default)]
    #[schema(default = "only")]
    pub face: FaceChoice,
    /// Which faces to enroll. `usable`: one that could hardly be recognised is an error.
    #[serde(default)]
    #[schema(default = "usable")]
    pub quality: QualityDemand,
    /// How thoroughly to search for faces.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// The smallest face that is wanted; smaller ones are left out. Defaults to a hundredth of the longer side, and at least 20
    /// pixels.
    pub min_face: Option<MinFace>,
    /// Only faces of which the detector is at least so sure. Defaults to what the server demands, below which nothing is a face.
    pub min_score: Option<Score>,
    /// Whether the image is a chip: a face that is aligned already, 112x112 pixels, such as `return=chip` gives. Nothing is looked for
    /// in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl EnrollRequest {
    /// A photo of a subject, and what is usual for everything else.
    pub fn new(image: FileBytes, subject: Name, gallery: Name) -> Self {
        Self {
            image,
            subject,
            gallery,
            metadata: Metadata::default(),
            expires_at: None,
            face_expires_at: None,
            on_duplicate: OnDoubt::default(),
            on_mismatch: OnDoubt::default(),
            face: FaceChoice::default(),
            quality: QualityDemand::default(),
            detail: Detail::default(),
            min_face: None,
            min_score: None,
            aligned: false,
        }
    }

    /// One face.
    pub fn wanted(&self) -> Wanted {
        Wanted { faces: 1, ..wanted(self.detail, (self.min_face, self.min_score), None, self.aligned) }
    }
}

/// Which face of a photo is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaceChoice {
    /// The only one; several are an error.
    #[default]
    Only,
    /// The largest.
    Largest,
}

/// Which faces are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QualityDemand {
    /// Those that can be recognised; others are an error.
    #[default]
    Usable,
    /// All.
    Any,
}

/// POST /detect and POST /embed
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DetectRequest {
    /// The photo.
    pub image: FileBytes,
    /// Only so many faces of the photo, the largest. Defaults to all.
    pub max_faces: Option<Count>,
    /// How thoroughly to search for faces.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// The smallest face that is wanted; smaller ones are left out. Defaults to a hundredth of the longer side, and at least 20
    /// pixels.
    pub min_face: Option<MinFace>,
    /// Only faces of which the detector is at least so sure. Defaults to what the server demands, below which nothing is a face.
    pub min_score: Option<Score>,
    /// What each face is to be shown with, beside what is always said of it.
    #[serde(default, rename = "return", skip_serializing_if = "Vec::is_empty")]
    #[schema(default = json!([]))]
    pub returned: Vec<Extra>,
    /// Whether the image is a chip: a face that is aligned already, 112x112 pixels, such as `return=chip` gives. Nothing is looked for
    /// in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

/// POST /embed/batch
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbedBatchRequest {
    /// The photos.
    pub images: Batch,
    /// As for POST /embed.
    pub max_faces: Option<Count>,
    /// As for POST /embed.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// As for POST /embed.
    pub min_face: Option<MinFace>,
    /// As for POST /embed.
    pub min_score: Option<Score>,
    /// As for POST /embed.
    #[serde(default, rename = "return", skip_serializing_if = "Vec::is_empty")]
    #[schema(default = json!([]))]
    pub returned: Vec<Extra>,
    /// As for POST /embed, of all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl EmbedBatchRequest {
    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, (self.min_face, self.min_score), self.max_faces, self.aligned)
    }
}

impl DetectRequest {
    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, (self.min_face, self.min_score), self.max_faces, self.aligned)
    }
}
