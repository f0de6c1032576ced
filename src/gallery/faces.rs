//! Faces: the enrolled images of subjects.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::chips::ChipRow;
use super::quota::check_quota;
use super::subjects::find_or_create_subject;
use super::{Galleries, GalleryError, as_id};
use crate::audit::Action;
use crate::db::{Page, PageRequest};
use crate::types::{BoundingBox, FaceId, GalleryId, Landmarks, Name, Quality, SubjectId};

/// One enrolled image of a subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    pub id: FaceId,
    pub subject_id: SubjectId,
    /// The name of the subject.
    pub subject: String,
    pub gallery_id: GalleryId,
    /// The name of the gallery.
    pub gallery: String,
    /// Where it was in its image; `None` for one that was imported as an embedding alone.
    pub found: Option<FoundIn>,
    /// Of the image that was sent.
    pub image_sha256: Option<Vec<u8>>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub created_at: DateTime<Utc>,
    /// When it expires by itself; `None`: never. Its gallery may say that it does so earlier.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What was found out about a face in its image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoundIn {
    pub bounding_box: BoundingBox,
    pub landmarks: Landmarks,
    pub detection_score: f32,
    pub quality: Quality,
}

#[derive(FromRow)]
struct FaceRow {
    id: Uuid,
    subject_id: Uuid,
    subject: String,
    gallery_id: Uuid,
    gallery: String,
    bounding_box: Option<Json<BoundingBox>>,
    landmarks: Option<Json<Landmarks>>,
    detection_score: Option<f32>,
    quality: Option<Json<Quality>>,
    image_sha256: Option<Vec<u8>>,
    metadata: Json<serde_json::Map<String, serde_json::Value>>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

/// The chip of a face that is there, if it has one.
#[derive(FromRow)]
struct FaceChipRow {
    chip: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    master_id: Option<Vec<u8>>,
}

/// Selects [`FaceRow`]s of `f`, a face.
const SELECT: &str = "select f.id, f.subject_id, s.name as subject, f.gallery_id, g.name as gallery, f.bounding_box, \
    f.landmarks, f.detection_score, f.quality, f.image_sha256, f.metadata, f.created_at, \
    f.expires_at \
    from present_faces f join subjects s on s.id = f.subject_id join galleries g on g.id = f.gallery_id";

/// Whether `f` is of the scope, which is the second parameter, and of a subject that has not expired.
const WITHIN: &str =
    "($2::uuid[] is null or f.gallery_id = any($2)) and (s.expires_at is null or s.expires_at > now())";

impl From<FaceRow> for Face {
    fn from(row: FaceRow) -> Self {
        let found = match (row.bounding_box, row.landmarks, row.detection_score, row.quality) {
            (Some(bounding_box), Some(landmarks), Some(detection_score), Some(quality)) => Some(FoundIn {
                bounding_box: bounding_box.0,
                landmarks: landmarks.0,
                detection_score,
                quality: quality.0,
            }),
            _ => None,
        };
        Self {
            id: FaceId(row.id),
            subject_id: SubjectId(row.subject_id),
            subject: row.subject,
            gallery_id: GalleryId(row.gallery_id),
            gallery: row.gallery,
            found,
            image_sha256: row.image_sha256,
            metadata: row.metadata.0,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

impl Galleries {
    pub async fn list_faces(&self, gallery: &str, request: PageRequest) -> Result<Page<Face>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let sql = format!("{SELECT} where f.gallery_id = $1 and f.id > $2 order by f.id limit $3");
        let rows: Vec<FaceRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(request.after())
            .bind(request.rows_to_fetch())
            .fetch_all(&self.pool)
            .await?;
        Ok(request.page(rows.into_iter().map(Face::from).collect(), |face| face.id.0))
    }

    /// Whether a subject, given by id or name, has a face of the very image with this sha256.
    pub async fn has_image(
        &self,
        gallery: GalleryId,
        subject: &Name,
        image_sha256: &[u8; 32],
    ) -> Result<bool, GalleryError> {
        let found = sqlx::query_scalar(
            "select exists (select from present_faces f join subjects s on s.id = f.subject_id \
             where f.gallery_id = $1 and f.image_sha256 = $2 and (s.id = $3 or s.name = $4))",
        )
        .bind(gallery.0)
        .bind(image_sha256.as_slice())
        .bind(as_id(subject.as_str()))
        .bind(subject.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(found)
    }

    pub async fn list_faces_of(
        &self,
        gallery: &str,
        subject: &str,
        request: PageRequest,
    ) -> Result<Page<Face>, GalleryError> {
        let (gallery, subject) = self.subject_id(gallery, subject).await?;
        let sql =
            format!("{SELECT} where f.gallery_id = $1 and f.subject_id = $2 and f.id > $3 order by f.id limit $4");
        let rows: Vec<FaceRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(subject.0)
            .bind(request.after())
            .bind(request.rows_to_fetch())
            .fetch_all(&self.pool)
            .await?;
        Ok(request.page(rows.into_iter().map(Face::from).collect(), |face| face.id.0))
    }

    pub async fn face(&self, id: FaceId) -> Result<Face, GalleryError> {
        let row: Option<FaceRow> = sqlx::query_as(AssertSqlSafe(format!("{SELECT} where f.id = $1 and {WITHIN}")))
            .bind(id.0)
            .bind(self.scope())
            .fetch_optional(&self.pool)
            .await?;
        row.map(Face::from).ok_or(GalleryError::FaceNotFound(id))
    }

    /// The chip of a face, in the bytes that it was enrolled with.
    pub async fn chip(&self, id: FaceId) -> Result<Vec<u8>, GalleryError> {
        let row: Option<FaceChipRow> = sqlx::query_as(AssertSqlSafe(format!(
            "select faces.chip, k.key, k.master_id from ({SELECT} where f.id = $1 and {WITHIN}) f join faces using (id) \
             left join chip_keys k on k.face_id = f.id"
        )))
        .bind(id.0)
        .bind(self.scope())
        .fetch_optional(&self.pool)
        .await?;
        let FaceChipRow { chip, key, master_id } = row.ok_or(GalleryError::FaceNotFound(id))?;
        let chip = ChipRow { id: id.0, chip: chip.ok_or(GalleryError::NoChip(id))?, key, master_id };
        let (face, chip) = chip.open(&self.keyring);
        chip.map_err(|source| GalleryError::UnreadableChip { face, source })
    }

    /// Gives the face to another subject of its gallery, who is made if there is none of that name. The former subject
    /// stays, perhaps without a face.
    pub async fn move_face(&self, id: FaceId, subject: &Name) -> Result<Face, GalleryError> {
        let (mut transaction, gallery, from) = self.begin_with_subject_of(id, Some(subject)).await?;
        let (subject, _, is_new) = find_or_create_subject(&mut transaction, gallery, subject).await?;
        if is_new {
            check_quota(&mut transaction, gallery).await?;
        }
        sqlx::query("update faces set subject_id = $2 where id = $1")
            .bind(id.0)
            .bind(subject.0)
            .execute(&mut *transaction)
            .await?;
        let details = json!({"face": id, "from": from, "into": subject});
        self.note(&mut transaction, Action::FaceMove, (gallery, &[from, subject]), details).await?;
        transaction.commit().await?;
        self.face(id).await
    }
}
