//! Enrolment: a face of a subject, all of it or nothing.

use pgvector::HalfVector;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::search::{Query, best_subjects};
use super::{Galleries, GalleryError, Metadata, as_id, as_name, check_dimension, dimension_of};
use crate::types::{
    BoundingBox, Embedding, FaceId, GalleryId, Landmarks, ModelId, Name, Quality, SubjectId, Threshold,
};

/// How many duplicates are reported at most.
const MAX_DUPLICATES: usize = 10;

/// What to do when the face matches another subject of the gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDuplicate {
    /// Do not look.
    Allow,
    /// Enroll and report.
    #[default]
    Warn,
    /// Enroll nothing and report.
    Reject,
}

/// A face to enroll.
#[derive(Debug, Clone)]
pub struct NewFace<'a> {
    /// Id or name of the gallery.
    pub gallery: &'a str,
    /// Id or name of the subject; made when the gallery has neither.
    pub subject: &'a Name,
    /// Of the face; a subject's own is set on the subject.
    pub metadata: &'a Metadata,
    /// The aligned crop as JPEG.
    pub chip: &'a [u8],
    /// Of the bytes that were sent.
    pub image_sha256: [u8; 32],
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    pub detection_score: f32,
    pub quality: Quality,
    /// The model that made the embedding.
    pub model: ModelId,
    pub embedding: &'a Embedding,
    pub on_duplicate: OnDuplicate,
    /// From which similarity on another subject counts as a duplicate.
    pub duplicate_threshold: Threshold,
}

/// Another subject of the gallery that an enrolled face matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Duplicate {
    pub subject_id: SubjectId,
    pub subject: String,
    /// Cosine, -1..=1, of the most similar face.
    pub similarity: f32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Enrolled {
    pub face_id: FaceId,
    pub subject_id: SubjectId,
    /// The name of the subject, which may have been given by id.
    pub subject: String,
    /// Whether the subject is new.
    pub subject_created: bool,
    pub gallery_id: GalleryId,
    /// The name of the gallery, which may have been given by id.
    pub gallery: String,
    /// Best first, at most ten. Always empty for [`OnDuplicate::Allow`].
    pub duplicates: Vec<Duplicate>,
}

impl Galleries {
    /// Enrolls a face in one transaction. With [`OnDuplicate::Reject`] no face of another subject can slip in
    /// between the check and the commit, however the other was enrolled.
    pub async fn enroll(&self, face: &NewFace<'_>) -> Result<Enrolled, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        check_dimension(dimension_of(&mut transaction, face.model).await?, face.embedding.dimension())?;
        let (gallery_id, gallery) = hold_gallery(&mut transaction, face.gallery).await?;
        await_turn(&mut transaction, gallery_id, face.on_duplicate).await?;
        let (subject_id, subject, subject_created) =
            find_or_create_subject(&mut transaction, gallery_id, face.subject).await?;
        let duplicates = find_duplicates(&mut transaction, gallery_id, subject_id, face).await?;
        if face.on_duplicate == OnDuplicate::Reject && !duplicates.is_empty() {
            transaction.rollback().await?;
            return Err(GalleryError::DuplicateFace { matches: duplicates });
        }
        let face_id = FaceId::new();
        insert_face(&mut transaction, face_id, gallery_id, subject_id, face).await?;
        transaction.commit().await?;
        Ok(Enrolled { face_id, subject_id, subject, subject_created, gallery_id, gallery, duplicates })
    }
}

/// Finds the gallery and keeps it from being deleted until the transaction ends.
async fn hold_gallery(connection: &mut PgConnection, gallery: &str) -> Result<(GalleryId, String), GalleryError> {
    let found: Option<(Uuid, String)> = sqlx::query_as(
        "select id, name from galleries where id = $1 or name = $2 \
         order by id = $1 desc nulls last limit 1 for key share",
    )
    .bind(as_id(gallery))
    .bind(as_name(gallery))
    .fetch_optional(connection)
    .await?;
    found.map(|(id, name)| (GalleryId(id), name)).ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))
}

/// Enrolments that reject duplicates go one at a time in a gallery, and not beside others, which go together.
pub(super) async fn await_turn(
    connection: &mut PgConnection,
    gallery: GalleryId,
    on_duplicate: OnDuplicate,
) -> Result<(), GalleryError> {
    let lock = match on_duplicate {
        OnDuplicate::Allow | OnDuplicate::Warn => "select pg_advisory_xact_lock_shared($1)",
        OnDuplicate::Reject => "select pg_advisory_xact_lock($1)",
    };
    // Two galleries that fall on one key merely wait for each other.
    let (high, low) = gallery.0.as_u64_pair();
    sqlx::query(lock).bind((high ^ low).cast_signed()).execute(connection).await?;
    Ok(())
}

/// Returns the subject, its name and whether it is new; keeps it from being deleted until the transaction ends.
async fn find_or_create_subject(
    connection: &mut PgConnection,
    gallery: GalleryId,
    name: &Name,
) -> Result<(SubjectId, String, bool), GalleryError> {
    if let Some(id) = as_id(name.as_str()) {
        let found: Option<String> =
            sqlx::query_scalar("select name from subjects where gallery_id = $1 and id = $2 for key share")
                .bind(gallery.0)
                .bind(id)
                .fetch_optional(&mut *connection)
                .await?;
        if let Some(name) = found {
            return Ok((SubjectId(id), name, false));
        }
    }
    let new = SubjectId::new();
    // The update changes nothing; it locks the row and makes it be returned.
    let id: Uuid = sqlx::query_scalar(
        "insert into subjects (id, gallery_id, name) values ($1, $2, $3) \
         on conflict on constraint subject_name_key do update set name = excluded.name returning id",
    )
    .bind(new.0)
    .bind(gallery.0)
    .bind(name.as_str())
    .fetch_one(connection)
    .await?;
    Ok((SubjectId(id), name.to_string(), id == new.0))
}

async fn find_duplicates(
    connection: &mut PgConnection,
    gallery: GalleryId,
    subject: SubjectId,
    face: &NewFace<'_>,
) -> Result<Vec<Duplicate>, GalleryError> {
    if face.on_duplicate == OnDuplicate::Allow {
        return Ok(Vec::new());
    }
    let query = Query {
        gallery,
        model: face.model,
        probe: face.embedding,
        top_k: MAX_DUPLICATES,
        min_similarity: Some(face.duplicate_threshold.get()),
        except: Some(subject),
    };
    let matches = best_subjects(connection, &query).await?;
    let duplicates = matches.into_iter();
    Ok(duplicates
        .map(|found| Duplicate { subject_id: found.subject_id, subject: found.subject, similarity: found.similarity })
        .collect())
}

async fn insert_face(
    connection: &mut PgConnection,
    id: FaceId,
    gallery: GalleryId,
    subject: SubjectId,
    face: &NewFace<'_>,
) -> Result<(), GalleryError> {
    sqlx::query(
        "insert into faces (id, gallery_id, subject_id, chip, image_sha256, bounding_box, landmarks, \
         detection_score, quality, metadata) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(id.0)
    .bind(gallery.0)
    .bind(subject.0)
    .bind(face.chip)
    .bind(face.image_sha256.as_slice())
    .bind(Json(face.bounding_box))
    .bind(Json(face.landmarks))
    .bind(face.detection_score)
    .bind(Json(face.quality))
    .bind(Json(face.metadata))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding) values ($1, $2, $3, $4, $5)",
    )
    .bind(id.0)
    .bind(face.model.0)
    .bind(gallery.0)
    .bind(subject.0)
    .bind(HalfVector::from_f32_slice(face.embedding.as_slice()))
    .execute(connection)
    .await?;
    Ok(())
}
