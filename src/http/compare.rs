//! POST /compare

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::form::{Fields, FromForm, LONGEST_EMBEDDING};
use super::problem::Problem;
use crate::service::Recognition;
use crate::service::answers::{Compared, ComparedFace};
use crate::service::requests::{Batch, CompareRequest, FileBytes};

impl FromForm for CompareRequest {
    const FILES: &'static [&'static str] = &["image", "candidates"];
    /// Of the candidates as many as there may be, of 1,024 numbers each; of longer ones, fewer.
    const LONG_FIELDS: &'static [(&'static str, usize)] =
        &[("embedding", LONGEST_EMBEDDING), ("candidate_embeddings", Batch::MOST * (64 << 10))];

    fn files(&mut self) -> Vec<&mut FileBytes> {
        let candidates = self.candidates.iter_mut().flat_map(|batch| &mut batch.0);
        self.image.iter_mut().chain(candidates).collect()
    }
}

/// What was compared with what, and how similar they are.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    #[serde(flatten)]
    pub compared: Compared,
    /// In the order of the request.
    pub candidates: Vec<Candidate>,
}

/// What became of a candidate: one of the two is there if it was a photo.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Its largest face, which was compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub face: Option<ComparedFace>,
    /// Why it was not compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<Problem>,
}

/// Compare with candidates
///
/// For every face of a photo, or one embedding: how similar it is to each of up to 64 candidates, which come with the request as photos
/// or as embeddings. Nothing is stored. A candidate that cannot be read, or shows no face, does not fail the others: its `problem` says
/// why it was not compared. In a form the part `candidates` is repeated.
#[utoipa::path(
    post, path = "/compare", tag = "recognition", request_body = CompareRequest,
    responses((status = 200, description = "How similar they are", body = Comparison)),
    extensions(("x-problems" = json!(["no_face"]))),
)]
pub async fn compare_candidates(
    recognition: Recognition,
    Fields(request): Fields<CompareRequest>,
) -> Result<Json<Comparison>, Problem> {
    let (compared, candidates) = recognition.compare(request).await?;
    let candidates = candidates.into_iter().map(|candidate| match candidate {
        Ok(face) => Candidate { face, problem: None },
        Err(error) => Candidate { face: None, problem: Some(error.into()) },
    });
    Ok(Json(Comparison { compared, candidates: candidates.collect() }))
}
