//! What is held of one subject beside its faces: for who asks what is known of them.

use chrono::{DateTime, Utc};
use pgvector::HalfVector;
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::types::{FaceId, StoredEmbedding, SubjectId};

/// Findings, and things that were set aside, that are told of one subject at most.
const MOST: i64 = 10_000;

/// An embedding of a face.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceEmbedding {
    pub face: FaceId,
    /// The name of the model that made it.
    pub model: String,
    pub embedding: StoredEmbedding,
    /// Its length before it was scaled to 1.
    pub norm: Option<f32>,
}

/// What a subject is matched by.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectTemplate {
    /// The name of the model.
    pub model: String,
    pub embedding: StoredEmbedding,
    /// Of how many faces.
    pub faces: u32,
}

/// A finding that names a subject, by ids.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct FindingAbout {
    pub kind: String,
    pub model: String,
    pub subject_id: Uuid,
    pub face_id: Option<Uuid>,
    pub other_id: Option<Uuid>,
    pub score: f32,
    pub evidence: Json<Value>,
    pub found_at: DateTime<Utc>,
}

/// What work in the background could not be done on, of a subject.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct SetAsideAbout {
    pub work: String,
    pub model: String,
    pub face_id: Option<Uuid>,
    pub reason: String,
    pub at: DateTime<Utc>,
}

impl Galleries {
    /// The embeddings of some faces by all models, by face and model.
    pub async fn embeddings_of(&self, faces: &[FaceId]) -> Result<Vec<FaceEmbedding>, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let rows: Vec<(Uuid, String, HalfVector, Option<f32>)> = sqlx::query_as(
            "select e.face_id, m.name, e.embedding, e.norm from embeddings e join models m on m.id = e.model_id \
             where e.face_id = any($1) order by e.face_id, m.id",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        let embedding = |(face, model, embedding, norm): (Uuid, String, HalfVector, Option<f32>)| FaceEmbedding {
            face: FaceId(face),
            model,
            embedding: StoredEmbedding::new(embedding.to_vec()),
            norm,
        };
        Ok(rows.into_iter().map(embedding).collect())
    }

    /// The templates of a subject, by model.
    pub async fn templates_of(&self, subject: SubjectId) -> Result<Vec<SubjectTemplate>, GalleryError> {
        let rows: Vec<(String, HalfVector, i32)> = sqlx::query_as(
            "select m.name, t.embedding, t.faces from templates t join models m on m.id = t.model_id \
             where t.subject_id = $1 order by m.id",
        )
        .bind(subject.0)
        .fetch_all(&self.pool)
        .await?;
        let template = |(model, embedding, faces): (String, HalfVector, i32)| SubjectTemplate {
            model,
            embedding: StoredEmbedding::new(embedding.to_vec()),
            faces: faces.unsigned_abs(),
        };
        Ok(rows.into_iter().map(template).collect())
    }

    /// The findings of all models that name a subject, the latest first.
    pub async fn findings_about(&self, subject: SubjectId) -> Result<Vec<FindingAbout>, GalleryError> {
        Ok(sqlx::query_as(
            "select f.kind, m.name as model, f.subject_id, f.face_id, f.other_id, f.score, f.evidence, f.found_at \
             from findings f join models m on m.id = f.model_id where f.subject_id = $1 or f.other_id = $1 \
             order by f.found_at desc, f.id limit $2",
        )
        .bind(subject.0)
        .bind(MOST)
        .fetch_all(&self.pool)
        .await?)
    }

    /// What was set aside of a subject and its faces.
    pub async fn set_aside_about(&self, subject: SubjectId) -> Result<Vec<SetAsideAbout>, GalleryError> {
        Ok(sqlx::query_as(
            "select q.work, m.name as model, q.face_id, q.reason, q.at from quarantine q join models m on m.id = q.model_id \
             where q.subject_id = $1 or q.face_id in (select id from faces where subject_id = $1 \
               and gallery_id = (select gallery_id from subjects where id = $1)) \
             order by q.at, q.id limit $2",
        )
        .bind(subject.0)
        .bind(MOST)
        .fetch_all(&self.pool)
        .await?)
    }
}
