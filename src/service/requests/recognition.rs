//! Requests with a photo, or with what was computed of one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Batch, Count, FileBytes, Rate, TopK, default_gallery, policy};
use crate::gallery::{Metadata, OnDoubt, Policy};
use crate::service::ServiceError;
use crate::types::{Name, Threshold};
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
}

impl EnrollRequest {
    /// A photo of a subject, and what is usual for everything else.
    pub fn new(image: FileBytes, subject: Name, gallery: Name) -> Self {
        Self {
            image,
            subject,
            gallery,
            metadata: Metadata::default(),
            on_duplicate: OnDoubt::default(),
            on_mismatch: OnDoubt::default(),
            face: FaceChoice::default(),
            quality: QualityDemand::default(),
            detail: Detail::default(),
            min_face: None,
        }
    }

    /// One face.
    pub fn wanted(&self) -> Wanted {
        Wanted { detail: self.detail, min_face: self.min_face, faces: 1 }
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

/// POST /identify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyRequest {
    /// The photo.
    pub image: FileBytes,
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Subjects per face.
    #[serde(default)]
    #[schema(default = 5)]
    pub top_k: TopK,
    /// Only so many faces of the photo, the largest. Defaults to all.
    pub max_faces: Option<Count>,
    /// How thoroughly to search for faces.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// The smallest face that is wanted; smaller ones are left out. Defaults to a hundredth of the longer side, and at least 20
    /// pixels.
    pub min_face: Option<MinFace>,
    /// The similarity from which on a face is known. Without it, `fmr` and `fpir`, the gallery's policy decides, else the server's
    /// threshold.
    pub threshold: Option<Threshold>,
    /// Instead of `threshold`: how often one comparison of two people may match (false match rate).
    pub fmr: Option<Rate>,
    /// Instead of `threshold`: how often a stranger may be taken for anybody of this gallery at its present size (false positive
    /// identification rate).
    pub fpir: Option<Rate>,
    /// Whether a subject is on the photo once at most, on the face that resembles them most.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub unique_subjects: bool,
}

fn yes() -> bool {
    true
}

impl IdentifyRequest {
    /// A photo, and what is usual for everything else.
    pub fn new(image: FileBytes, gallery: Name) -> Self {
        Self {
            image,
            gallery,
            top_k: TopK::default(),
            max_faces: None,
            detail: Detail::default(),
            min_face: None,
            threshold: None,
            fmr: None,
            fpir: None,
            unique_subjects: true,
        }
    }

    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, self.min_face, self.max_faces)
    }

    /// By what a face is known, if not by what the gallery or the server says.
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, self.fpir)
    }
}

/// POST /identify/batch
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyBatchRequest {
    /// The photos.
    pub images: Batch,
    /// As for POST /identify.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// As for POST /identify.
    #[serde(default)]
    #[schema(default = 5)]
    pub top_k: TopK,
    /// As for POST /identify.
    pub max_faces: Option<Count>,
    /// As for POST /identify.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// As for POST /identify.
    pub min_face: Option<MinFace>,
    /// As for POST /identify.
    pub threshold: Option<Threshold>,
    /// As for POST /identify.
    pub fmr: Option<Rate>,
    /// As for POST /identify.
    pub fpir: Option<Rate>,
    /// As for POST /identify, photo by photo.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub unique_subjects: bool,
}

impl IdentifyBatchRequest {
    /// The photos, and what is asked of each.
    pub fn split(self) -> (Vec<FileBytes>, IdentifyRequest) {
        let Self { images, gallery, top_k, max_faces, detail, min_face, threshold, fmr, fpir, unique_subjects } = self;
        let image = FileBytes::default();
        let each = IdentifyRequest {
            image,
            gallery,
            top_k,
            max_faces,
            detail,
            min_face,
            threshold,
            fmr,
            fpir,
            unique_subjects,
        };
        (images.0, each)
    }
}

/// POST /identify/embedding
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyEmbeddingRequest {
    /// What POST /embed gives: as many numbers as the model has dimensions. It need not be normalised.
    pub embedding: Vec<f32>,
    /// Its name or id.
    #[serde(default = "default_gallery")]
    #[schema(default = "default")]
    pub gallery: Name,
    /// Subjects.
    #[serde(default)]
    #[schema(default = 5)]
    pub top_k: TopK,
    /// As for POST /identify.
    pub threshold: Option<Threshold>,
    /// As for POST /identify.
    pub fmr: Option<Rate>,
    /// As for POST /identify.
    pub fpir: Option<Rate>,
}

impl IdentifyEmbeddingRequest {
    /// As [`IdentifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, self.fpir)
    }
}

/// POST /verify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// One photo.
    pub image_a: FileBytes,
    /// The other photo.
    pub image_b: FileBytes,
    /// The similarity from which on both are one person. Defaults to the server's.
    pub threshold: Option<Threshold>,
    /// Instead of `threshold`: how often two photos of different people may match (false match rate).
    pub fmr: Option<Rate>,
    /// How thoroughly to search for faces.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// The smallest face that is wanted; smaller ones are left out. Defaults to a hundredth of the longer side, and at least 20
    /// pixels.
    pub min_face: Option<MinFace>,
}

impl VerifyRequest {
    /// Two photos, and what is usual for everything else.
    pub fn new(image_a: FileBytes, image_b: FileBytes) -> Self {
        Self { image_a, image_b, threshold: None, fmr: None, detail: Detail::default(), min_face: None }
    }

    /// One face of each photo.
    pub fn wanted(&self) -> Wanted {
        Wanted { detail: self.detail, min_face: self.min_face, faces: 1 }
    }

    /// By what they count as one person, if not by what the server says.
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, None)
    }
}

/// POST /subjects/{subject}/verify and POST /faces/{face}/verify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VerifyStoredRequest {
    /// The photo, unless `embedding` is given.
    pub image: Option<FileBytes>,
    /// Instead of `image`: what POST /embed gives.
    pub embedding: Option<Vec<f32>>,
    /// The similarity from which on both are one person. Defaults to the server's.
    pub threshold: Option<Threshold>,
    /// Instead of `threshold`: how often two photos of different people may match (false match rate).
    pub fmr: Option<Rate>,
    /// How thoroughly to search for faces.
    #[serde(default)]
    #[schema(default = "auto")]
    pub detail: Detail,
    /// The smallest face that is wanted; smaller ones are left out. Defaults to a hundredth of the longer side, and at least 20
    /// pixels.
    pub min_face: Option<MinFace>,
    /// The gallery that it is in: name or id. Defaults to `default` for a subject; a face is found without.
    pub gallery: Option<Name>,
}

impl VerifyStoredRequest {
    /// One face.
    pub fn wanted(&self) -> Wanted {
        Wanted { detail: self.detail, min_face: self.min_face, faces: 1 }
    }

    /// As [`VerifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, None)
    }
}

/// POST /subjects/{subject}/identify and POST /faces/{face}/identify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyStoredRequest {
    /// Subjects.
    #[serde(default)]
    #[schema(default = 5)]
    pub top_k: TopK,
    /// As for POST /identify.
    pub threshold: Option<Threshold>,
    /// As for POST /identify.
    pub fmr: Option<Rate>,
    /// As for POST /identify.
    pub fpir: Option<Rate>,
    /// The gallery that it is in, which is searched: name or id. Defaults to `default` for a subject; a face is found without.
    pub gallery: Option<Name>,
}

impl IdentifyStoredRequest {
    /// As [`IdentifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, self.fpir)
    }
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
}

impl EmbedBatchRequest {
    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, self.min_face, self.max_faces)
    }
}

impl DetectRequest {
    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, self.min_face, self.max_faces)
    }
}

fn wanted(detail: Detail, min_face: Option<MinFace>, most: Option<Count>) -> Wanted {
    Wanted { detail, min_face, faces: most.map_or(usize::MAX, Count::get) }
}
