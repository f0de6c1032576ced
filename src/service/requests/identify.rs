//! Requests that ask whom a photo resembles, or what was computed of one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Among, Batch, Count, Extra, FileBytes, GalleryList, Rate, Score, TopK, among, policy, wanted};
use crate::gallery::Policy;
use crate::service::ServiceError;
use crate::types::{Name, Threshold};
use crate::vision::{Detail, MinFace, Wanted};

/// POST /identify
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyRequest {
    /// The photo.
    pub image: FileBytes,
    /// Its name or id. Defaults to `default`, unless `galleries` is given.
    pub gallery: Option<Name>,
    /// Instead of `gallery`: the names or ids of several that are searched at once.
    pub galleries: Option<GalleryList>,
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
    /// Only faces of which the detector is at least so sure. Defaults to what the server demands, below which nothing is a face.
    pub min_score: Option<Score>,
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
    /// What each face is to be shown with, beside what is always said of it.
    #[serde(default, rename = "return", skip_serializing_if = "Vec::is_empty")]
    #[schema(default = json!([]))]
    pub returned: Vec<Extra>,
    /// Whether the image is a chip: a face that is aligned already, 112x112 pixels, such as `return=chip` gives. Nothing is looked for
    /// in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
    /// Whether the image was cut out around one face: all of it counts as that face, whether or not one is found in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub crop: bool,
}

fn yes() -> bool {
    true
}

impl IdentifyRequest {
    /// A photo, and what is usual for everything else.
    pub fn new(image: FileBytes, gallery: Name) -> Self {
        Self {
            image,
            gallery: Some(gallery),
            galleries: None,
            top_k: TopK::default(),
            max_faces: None,
            detail: Detail::default(),
            min_face: None,
            min_score: None,
            threshold: None,
            fmr: None,
            fpir: None,
            unique_subjects: true,
            returned: Vec::new(),
            aligned: false,
            crop: false,
        }
    }

    pub fn wanted(&self) -> Wanted {
        let wanted = wanted(self.detail, (self.min_face, self.min_score), self.max_faces, self.aligned);
        if self.crop { Wanted { crop: true, faces: 1, ..wanted } } else { wanted }
    }

    /// Where its faces are searched for.
    pub fn among(&self) -> Result<Among<'_>, ServiceError> {
        among(self.gallery.as_ref(), self.galleries.as_ref())
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
    pub gallery: Option<Name>,
    /// As for POST /identify.
    pub galleries: Option<GalleryList>,
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
    pub min_score: Option<Score>,
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
    /// As for POST /identify.
    #[serde(default, rename = "return", skip_serializing_if = "Vec::is_empty")]
    #[schema(default = json!([]))]
    pub returned: Vec<Extra>,
    /// As for POST /identify, of all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
    /// As for POST /identify, of all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub crop: bool,
}

impl IdentifyBatchRequest {
    /// The photos, and what is asked of each.
    pub fn split(self) -> (Vec<FileBytes>, IdentifyRequest) {
        let Self {
            images,
            gallery,
            galleries,
            top_k,
            max_faces,
            detail,
            min_face,
            min_score,
            threshold,
            fmr,
            fpir,
            unique_subjects,
            returned,
            aligned,
            crop,
        } = self;
        let image = FileBytes::default();
        let each = IdentifyRequest {
            image,
            gallery,
            galleries,
            top_k,
            max_faces,
            detail,
            min_face,
            min_score,
            threshold,
            fmr,
            fpir,
            unique_subjects,
            returned,
            aligned,
            crop,
        };
        (images.0, each)
    }
}

/// POST /identify/embedding
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct IdentifyEmbeddingRequest {
    /// What POST /embed gives: as many numbers as the model has dimensions. It need not be normalised.
    pub embedding: Vec<f32>,
    /// Its name or id. Defaults to `default`, unless `galleries` is given.
    pub gallery: Option<Name>,
    /// Instead of `gallery`: the names or ids of several that are searched at once.
    pub galleries: Option<GalleryList>,
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
    /// As [`IdentifyRequest::among`].
    pub fn among(&self) -> Result<Among<'_>, ServiceError> {
        among(self.gallery.as_ref(), self.galleries.as_ref())
    }

    /// As [`IdentifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, self.fpir)
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
