//! Requests that compare one face with others that are named.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Batch, Count, EmbeddingList, FileBytes, Given, Rate, Score, given, policy, wanted};
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
    /// Only faces of which the detector is at least so sure. Defaults to what the server demands, below which nothing is a face.
    pub min_score: Option<Score>,
    /// Whether both images are chips: faces that are aligned already, 112x112 pixels, such as `return=chip` gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl VerifyRequest {
    /// Two photos, and what is usual for everything else.
    pub fn new(image_a: FileBytes, image_b: FileBytes) -> Self {
        Self {
            image_a,
            image_b,
            threshold: None,
            fmr: None,
            detail: Detail::default(),
            min_face: None,
            min_score: None,
            aligned: false,
        }
    }

    /// One face of each photo.
    pub fn wanted(&self) -> Wanted {
        Wanted { faces: 1, ..wanted(self.detail, (self.min_face, self.min_score), None, self.aligned) }
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
    /// Only faces of which the detector is at least so sure. Defaults to what the server demands, below which nothing is a face.
    pub min_score: Option<Score>,
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
        Wanted { faces: 1, ..wanted(self.detail, (self.min_face, self.min_score), None, self.aligned) }
    }

    /// The photo or the embedding.
    pub fn probe(&mut self) -> Result<Given<FileBytes, Vec<f32>>, ServiceError> {
        given(("image", self.image.take()), ("embedding", self.embedding.take()))
    }

    /// As [`VerifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, None)
    }
}

/// POST /compare
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CompareRequest {
    /// The photo whose faces are compared, unless `embedding` is given.
    pub image: Option<FileBytes>,
    /// Instead of `image`: what POST /embed gives.
    pub embedding: Option<Vec<f32>>,
    /// A photo of each of those whom they are compared with, unless `candidate_embeddings` is given. The largest face counts.
    pub candidates: Option<Batch>,
    /// Instead of `candidates`: for each what POST /embed gives.
    pub candidate_embeddings: Option<EmbeddingList>,
    /// The similarity from which on two faces are one person. Defaults to the server's.
    pub threshold: Option<Threshold>,
    /// Instead of `threshold`: how often two photos of different people may match (false match rate).
    pub fmr: Option<Rate>,
    /// Only so many faces of `image`, the largest. Defaults to all.
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
    /// Whether all images are chips: faces that are aligned already, 112x112 pixels, such as `return=chip` gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(default = false)]
    pub aligned: bool,
}

impl CompareRequest {
    /// The photo or the embedding that is compared.
    pub fn probe(&mut self) -> Result<Given<FileBytes, Vec<f32>>, ServiceError> {
        given(("image", self.image.take()), ("embedding", self.embedding.take()))
    }

    /// The photos or the embeddings with which it is.
    pub fn candidates(&mut self) -> Result<Given<Batch, EmbeddingList>, ServiceError> {
        given(("candidates", self.candidates.take()), ("candidate_embeddings", self.candidate_embeddings.take()))
    }

    pub fn wanted(&self) -> Wanted {
        wanted(self.detail, (self.min_face, self.min_score), self.max_faces, self.aligned)
    }

    /// As [`VerifyRequest::policy`].
    pub fn policy(&self) -> Result<Option<Policy>, ServiceError> {
        policy(self.threshold, self.fmr, None)
    }
}
