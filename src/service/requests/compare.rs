//! Requests that compare one face with others that are named.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FileBytes, Rate, policy};
use crate::gallery::Policy;
use crate::service::ServiceError;
use crate::types::{Name, Threshold};
use crate::vision::{Detail, MinFace, Wanted};

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
    /// Whether both images are chips: faces that are aligned already, 112x112 pixels, such as `return=chip` gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl VerifyRequest {
    /// Two photos, and what is usual for everything else.
    pub fn new(image_a: FileBytes, image_b: FileBytes) -> Self {
        Self { image_a, image_b, threshold: None, fmr: None, detail: Detail::default(), min_face: None, aligned: false }
    }

    /// One face of each photo.
    pub fn wanted(&self) -> Wanted {
        Wanted { detail: self.detail, min_face: self.min_face, faces: 1, aligned: self.aligned }
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
    /// Whether the image is a chip: a face that is aligned already, 112x112 pixels, such as `return=chip` gives. Nothing is looked for
    /// in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl VerifyStoredRequest {
    /// One face.
    pub fn wanted(&self) -> Wanted {
        Wanted { detail: self.detail, min_face: self.min_face, faces: 1, aligned: self.aligned }
    }

    /// As [`VerifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, None)
    }
}
