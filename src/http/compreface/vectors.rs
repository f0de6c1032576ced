//! Embeddings in, which faceid computed before.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use serde::Deserialize;

use super::answers::{Answer, EmbeddingSimilarity, EmbeddingSubjects, Shown};
use super::collection::Collection;
use super::examples::example_id;
use super::failure::Failure;
use super::options::{Options, Parameters};
use super::recognition::of_subject;
use super::subjects::JsonBody;
use crate::http::extract::Path;
use crate::http::state::AppState;
use crate::service::requests::IdentifyEmbeddingRequest;
use crate::service::{CompareEach, Each, Recognition, Reference};
use crate::vision::Wanted;

/// Embeddings to be looked up, or to be compared with an example.
#[derive(Deserialize)]
pub struct Embeddings {
    #[serde(default)]
    embeddings: Vec<Vec<f32>>,
}

/// An embedding and others to be compared with it.
#[derive(Deserialize)]
pub struct SourceAndTargets {
    #[serde(default)]
    source: Vec<f32>,
    #[serde(default)]
    targets: Vec<Vec<f32>>,
}

/// Extracts the parameters of a request whose body is something else.
pub struct Asked(Options);

impl FromRequestParts<AppState> for Asked {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &AppState) -> Result<Self, Failure> {
        Options::of(&Parameters::of_query(parts).await?).map(Self)
    }
}

/// POST /recognition/embeddings/recognize
pub async fn recognize(
    recognition: Recognition,
    Collection(gallery): Collection,
    Asked(options): Asked,
    EmbeddingsBody(embeddings): EmbeddingsBody,
) -> Result<Json<Answer<EmbeddingSubjects>>, Failure> {
    let mut result = Vec::with_capacity(embeddings.len());
    for embedding in embeddings {
        let request = IdentifyEmbeddingRequest {
            embedding: embedding.clone(),
            gallery: Some(gallery.clone()),
            galleries: None,
            top_k: options.top_k,
            threshold: None,
            fmr: None,
            fpir: None,
        };
        let identified = recognition.identify_embedding(request).await?;
        let shown = Shown::by(&recognition, &options);
        let similarities = identified.matches.into_iter().map(|one| of_subject(&shown, one)).collect();
        result.push(EmbeddingSubjects { embedding, similarities });
    }
    Ok(Json(Answer { result, plugins_versions: None }))
}

/// POST /recognition/embeddings/faces/{face}/verify
pub async fn verify_example(
    recognition: Recognition,
    Collection(gallery): Collection,
    Path(face): Path<String>,
    EmbeddingsBody(embeddings): EmbeddingsBody,
) -> Result<Json<Answer<EmbeddingSimilarity>>, Failure> {
    let reference = Reference::Face(example_id(&face)?, gallery);
    compared(&recognition, reference, embeddings).await
}

/// POST /verification/embeddings/verify
pub async fn verify(
    recognition: Recognition,
    JsonBody(SourceAndTargets { source, targets }): JsonBody<SourceAndTargets>,
) -> Result<Json<Answer<EmbeddingSimilarity>>, Failure> {
    if source.is_empty() {
        return Err(Failure::missing_field("source"));
    }
    if targets.is_empty() {
        return Err(Failure::missing_field("targets"));
    }
    compared(&recognition, Reference::Embedding(source), targets).await
}

/// The similarities of embeddings with a reference, highest first.
async fn compared(
    recognition: &Recognition,
    reference: Reference,
    embeddings: Vec<Vec<f32>>,
) -> Result<Json<Answer<EmbeddingSimilarity>>, Failure> {
    let each = Each::Embeddings(embeddings.clone());
    let compared = recognition.compare_each(CompareEach { reference, each, wanted: Wanted::default() }).await?;
    let scale = recognition.similarity_scale();
    let mut all: Vec<_> = embeddings.into_iter().zip(compared.each.iter().map(|one| one.similarity)).collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let result =
        all.into_iter().map(|(embedding, cosine)| EmbeddingSimilarity { embedding, similarity: scale.of(cosine) });
    Ok(Json(Answer { result: result.collect(), plugins_versions: None }))
}

/// Extracts the embeddings of a body, of which there is one at least.
pub struct EmbeddingsBody(Vec<Vec<f32>>);

impl FromRequest<AppState> for EmbeddingsBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Failure> {
        let JsonBody(Embeddings { embeddings }) = JsonBody::from_request(request, state).await?;
        if embeddings.is_empty() { Err(Failure::missing_field("embeddings")) } else { Ok(Self(embeddings)) }
    }
}
