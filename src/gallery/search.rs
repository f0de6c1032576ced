//! Identification: the subjects of a gallery that a probe resembles most. Every embedding is compared, so none
//! is missed.

use std::collections::HashSet;

use pgvector::HalfVector;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Galleries, GalleryError, check_dimension};
use crate::types::{Embedding, FaceId, GalleryId, ModelId, SubjectId};

/// A subject that a probe resembles, by the most similar of its faces.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectMatch {
    pub subject_id: SubjectId,
    /// The name of the subject.
    pub subject: String,
    /// The most similar face.
    pub face_id: FaceId,
    /// Cosine, -1..=1. Embeddings are stored in 16-bit floats, which moves it by less than 0.001.
    pub similarity: f32,
}

/// What to look for among the embeddings of one model in one gallery.
pub(super) struct Query<'a> {
    pub gallery: GalleryId,
    pub model: ModelId,
    pub probe: &'a Embedding,
    /// How many subjects at most.
    pub top_k: usize,
    pub min_similarity: Option<f32>,
    /// A subject to leave out.
    pub except: Option<SubjectId>,
}

impl Galleries {
    /// For each probe the `top_k` most similar subjects (not faces) of the gallery, best first, equally similar
    /// ones by id; only those of at least `min_similarity`, if given. Exact.
    pub async fn search(
        &self,
        gallery: GalleryId,
        model: ModelId,
        probes: &[Embedding],
        top_k: usize,
        min_similarity: Option<f32>,
    ) -> Result<Vec<Vec<SubjectMatch>>, GalleryError> {
        let mut connection = self.pool.acquire().await?;
        let dimension = self.known_dimension(&mut connection, model).await?;
        let mut found = Vec::with_capacity(probes.len());
        for probe in probes {
            check_dimension(dimension, probe.dimension())?;
            let query = Query { gallery, model, probe, top_k, min_similarity, except: None };
            found.push(best_subjects(&mut connection, &query).await?);
        }
        Ok(found)
    }
}

/// Runs a query.
///
/// Sorting all faces by subject would cost far more than the comparisons, so this reads the most similar faces
/// until they belong to `top_k` subjects, nearly always in one go.
pub(super) async fn best_subjects(
    connection: &mut PgConnection,
    query: &Query<'_>,
) -> Result<Vec<SubjectMatch>, GalleryError> {
    let mut faces_to_read = query.top_k.saturating_mul(4).max(32);
    loop {
        let faces = most_similar_faces(connection, query, faces_to_read).await?;
        // Below the last face there may be more that are equal to it, of subjects with smaller ids.
        let unread_below = (faces.len() == faces_to_read).then(|| faces.last().map(|face| face.similarity)).flatten();
        let best = best_face_per_subject(faces, query);
        let complete = unread_below.is_none_or(|bound| match best.get(query.top_k.saturating_sub(1)) {
            Some(last_wanted) => last_wanted.similarity > bound,
            None => query.min_similarity.is_some_and(|least| f64::from(least) > bound),
        });
        if complete {
            return Ok(best.into_iter().take(query.top_k).map(FaceRow::into_match).collect());
        }
        faces_to_read = faces_to_read.saturating_mul(8);
    }
}

#[derive(sqlx::FromRow)]
struct FaceRow {
    subject_id: Uuid,
    subject: String,
    face_id: Uuid,
    similarity: f64,
}

impl FaceRow {
    fn into_match(self) -> SubjectMatch {
        SubjectMatch {
            subject_id: SubjectId(self.subject_id),
            subject: self.subject,
            face_id: FaceId(self.face_id),
            // Rounding to 16 bits can take a vector's length a little past 1.
            similarity: (self.similarity as f32).clamp(-1.0, 1.0),
        }
    }
}

async fn most_similar_faces(
    connection: &mut PgConnection,
    query: &Query<'_>,
    limit: usize,
) -> Result<Vec<FaceRow>, GalleryError> {
    // `<#>` is the negative inner product; of unit vectors that is the negative cosine.
    let faces = sqlx::query_as(
        "select nearest.subject_id, s.name as subject, nearest.face_id, -nearest.distance as similarity from ( \
           select subject_id, face_id, embedding <#> $3 as distance from embeddings \
           where model_id = $1 and gallery_id = $2 and subject_id <> $4 \
           order by distance, face_id limit $5 \
         ) nearest join subjects s on s.id = nearest.subject_id \
         order by nearest.distance, nearest.face_id",
    )
    .bind(query.model.0)
    .bind(query.gallery.0)
    .bind(HalfVector::from_f32_slice(query.probe.as_slice()))
    .bind(query.except.map_or(Uuid::nil(), |subject| subject.0))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    Ok(faces)
}

/// The first face of each subject, of faces in the order of similarity.
fn best_face_per_subject(faces: Vec<FaceRow>, query: &Query<'_>) -> Vec<FaceRow> {
    let least = query.min_similarity.map_or(f64::NEG_INFINITY, f64::from);
    let mut seen = HashSet::new();
    let mut best: Vec<FaceRow> =
        faces.into_iter().filter(|face| face.similarity >= least && seen.insert(face.subject_id)).collect();
    best.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.subject_id.cmp(&b.subject_id)));
    best
}
