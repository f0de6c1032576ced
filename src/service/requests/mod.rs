//! What the service is asked: the fields of the HTTP surface, which the command line sends as well. The document of the surface is
//! made from these types, and requests are read into them.

mod recognition;
mod stored;
mod training;
mod values;

pub use recognition::{
    DetectRequest, EmbedBatchRequest, EnrollRequest, FaceChoice, IdentifyBatchRequest, IdentifyEmbeddingRequest,
    IdentifyRequest, IdentifyStoredRequest, QualityDemand, VerifyRequest, VerifyStoredRequest,
};
pub use stored::{
    AnomaliesRequest, ChangeGallery, ChangeSubject, DatasetRequest, DeleteFaces, DeleteSubjects, Doomed,
    DuplicatesRequest, GalleryPolicy, InGallery, ListInGallery, ListRequest, ListSubjects, MergeRequest, MoveRequest,
    NewGallery, NewSubject,
};
pub use training::{EvaluateRequest, ForceRequest, ModelUpload, RetrainBase, RetrainRequest, ShadowRequest};
pub use values::{Batch, Count, FileBytes, Listed, OutOfRange, PageLimit, Rate, TopK};

use crate::gallery::{DEFAULT_GALLERY_NAME, Policy};
use crate::service::ServiceError;
use crate::types::{Name, Threshold};

/// The gallery of requests that name none.
pub fn default_gallery() -> Name {
    Name::try_from(DEFAULT_GALLERY_NAME.to_owned()).expect("`default` is a name")
}

/// What decides, if the request says so: one of its fields `threshold`, `fmr` and `fpir` at most.
fn policy(threshold: Option<Threshold>, fmr: Option<Rate>, fpir: Option<Rate>) -> Result<Option<Policy>, ServiceError> {
    let said = [
        ("threshold", threshold.map(|threshold| Policy::Threshold(threshold.get()))),
        ("fmr", fmr.map(|rate| Policy::Fmr(rate.get()))),
        ("fpir", fpir.map(|rate| Policy::Fpir(rate.get()))),
    ];
    let mut said = said.into_iter().filter_map(|(name, policy)| Some((name, policy?)));
    let Some((name, policy)) = said.next() else { return Ok(None) };
    match said.next() {
        None => Ok(Some(policy)),
        Some((field, _)) => {
            Err(ServiceError::InvalidField { field, reason: format!("`{name}` is given as well; say one of them") })
        }
    }
}
