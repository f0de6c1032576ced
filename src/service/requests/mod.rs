//! What the service is asked: the fields of the HTTP surface, which the command line sends as well. The document of the surface is
//! made from these types, and requests are read into them.

mod audit;
mod compare;
mod identify;
mod keys;
mod recognition;
mod stored;
mod training;
mod values;

pub use audit::AuditRequest;
pub use compare::{CompareRequest, VerifyRequest, VerifyStoredRequest};
pub use identify::{IdentifyBatchRequest, IdentifyEmbeddingRequest, IdentifyRequest, IdentifyStoredRequest};
pub use keys::{NewKey, RotateKey};
pub use recognition::{DetectRequest, EmbedBatchRequest, EnrollRequest, FaceChoice, QualityDemand};
pub use stored::{
    AnomaliesRequest, ChangeGallery, ChangeSubject, DatasetRequest, DeleteFaces, DeleteSubjects, Doomed,
    DuplicatesRequest, GalleryPolicy, GalleryRetention, InGallery, ListInGallery, ListRequest, ListSubjects,
    MergeRequest, MoveRequest, NewGallery, NewSubject,
};
pub use training::{EvaluateRequest, ForceRequest, ModelUpload, RetrainBase, RetrainRequest, ShadowRequest};
pub use values::{
    Batch, Count, EmbeddingList, Expiry, Extra, FileBytes, GalleryList, KeepFor, Listed, NewExpiry, OutOfRange,
    PageLimit, Rate, Score, TopK,
};

use crate::gallery::{DEFAULT_GALLERY_NAME, Policy};
use crate::service::ServiceError;
use crate::types::{Name, Threshold};
use crate::vision::{Detail, MinFace, Wanted};

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

/// Where a request has faces searched for.
#[derive(Debug, Clone, Copy)]
pub enum Among<'a> {
    One(&'a str),
    Several(&'a [Name]),
}

/// What the fields `gallery` and `galleries` say, of which one may be given.
fn among<'a>(gallery: Option<&'a Name>, galleries: Option<&'a GalleryList>) -> Result<Among<'a>, ServiceError> {
    match (gallery, galleries) {
        (gallery, None) => Ok(Among::One(gallery.map_or(DEFAULT_GALLERY_NAME, Name::as_str))),
        (None, Some(galleries)) => Ok(Among::Several(&galleries.0)),
        (Some(_), Some(_)) => {
            let reason = "`gallery` is given as well; say one of them".to_owned();
            Err(ServiceError::InvalidField { field: "galleries", reason })
        }
    }
}

/// What is compared: photos, or what was computed of them before.
pub enum Given<P, E> {
    Photo(P),
    Embedding(E),
}

/// That of two fields which is given: one of them is needed, and no more.
fn given<P, E>(photo: (&str, Option<P>), embedding: (&'static str, Option<E>)) -> Result<Given<P, E>, ServiceError> {
    let ((other, photo), (field, embedding)) = (photo, embedding);
    let reason = match (photo, embedding) {
        (Some(photo), None) => return Ok(Given::Photo(photo)),
        (None, Some(embedding)) => return Ok(Given::Embedding(embedding)),
        (Some(_), Some(_)) => format!("`{other}` is given as well; say one of them"),
        (None, None) => format!("either it or `{other}` is needed"),
    };
    Err(ServiceError::InvalidField { field, reason })
}

/// What is to be looked for in a photo.
fn wanted(
    detail: Detail,
    (min_face, min_score): (Option<MinFace>, Option<Score>),
    most: Option<Count>,
    aligned: bool,
) -> Wanted {
    let (min_score, faces) = (min_score.map_or(0.0, Score::get), most.map_or(usize::MAX, Count::get));
    Wanted { detail, min_face, min_score, faces, aligned, crop: false }
}
