//! What is enrolled, as something to be compared: the template of a subject, the embedding of a face.

use pgvector::HalfVector;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::types::{FaceId, GalleryId, ModelId, StoredEmbedding, SubjectId};

/// An enrolled subject or face, by one model.
#[derive(Debug, Clone)]
pub struct Known {
    pub gallery: GalleryId,
    pub subject_id: SubjectId,
    /// The subject's name.
    pub subject: String,
    /// Of the face, or the template of all faces of the subject.
    pub embedding: StoredEmbedding,
}

impl Galleries {
    /// A subject, given by name or id, with its template. `None`: it has no face.
    pub async fn known_subject(
        &self,
        gallery: &str,
        subject: &str,
        model: ModelId,
    ) -> Result<Option<Known>, GalleryError> {
        let (gallery, id) = self.subject_id(gallery, subject).await?;
        let found: Option<(String, HalfVector)> = sqlx::query_as(
            "select s.name, t.embedding from subjects s join galleries g on g.id = s.gallery_id and g.erased_at is null \
             join templates t on t.subject_id = s.id and t.model_id = $2 where s.id = $1 and s.erased_at is null",
        )
        .bind(id.0)
        .bind(model.0)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|(subject, embedding)| Known {
            gallery,
            subject_id: id,
            subject,
            embedding: StoredEmbedding::new(embedding.to_vec()),
        }))
    }

    /// A face with its embedding. `None`: the model has not embedded it.
    pub async fn known_face(&self, id: FaceId, model: ModelId) -> Result<Option<Known>, GalleryError> {
        let found: Option<(Uuid, Uuid, String, Option<HalfVector>)> = sqlx::query_as(
            "select f.gallery_id, s.id, s.name, e.embedding from present_faces f join subjects s on s.id = f.subject_id \
             left join embeddings e on e.face_id = f.id and e.model_id = $2 \
             where f.id = $1 and ($3::uuid[] is null or f.gallery_id = any($3)) \
             and (s.expires_at is null or s.expires_at > now())",
        )
        .bind(id.0)
        .bind(model.0)
        .bind(self.scope())
        .fetch_optional(&self.pool)
        .await?;
        let (gallery, subject_id, subject, embedding) = found.ok_or(GalleryError::FaceNotFound(id))?;
        Ok(embedding.map(|embedding| Known {
            gallery: GalleryId(gallery),
            subject_id: SubjectId(subject_id),
            subject,
            embedding: StoredEmbedding::new(embedding.to_vec()),
        }))
    }
}
