//! What a training and its evaluation need of galleries: chips, by whom they show.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Galleries, Gallery, GalleryError};
use crate::types::{FaceId, GalleryId, SubjectId};

/// What there is to train on in a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingStock {
    /// Subjects with two chips or more.
    pub mated: u64,
    /// Faces that were imported without one.
    pub without_chip: u64,
}

/// A face that has a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFace {
    pub gallery: GalleryId,
    pub subject: SubjectId,
    pub face: FaceId,
}

#[derive(FromRow)]
struct KnownFaceRow {
    gallery_id: Uuid,
    subject_id: Uuid,
    id: Uuid,
}

impl From<KnownFaceRow> for KnownFace {
    fn from(row: KnownFaceRow) -> Self {
        Self { gallery: GalleryId(row.gallery_id), subject: SubjectId(row.subject_id), face: FaceId(row.id) }
    }
}

impl Galleries {
    pub async fn training_stock(&self, gallery: GalleryId) -> Result<TrainingStock, GalleryError> {
        let (mated, without_chip): (i64, i64) = sqlx::query_as(
            "select count(*) filter (where chips > 1), coalesce(sum(faces - chips), 0)::bigint \
             from (select count(*) as faces, count(chip) as chips from faces where gallery_id = $1 group by subject_id) s",
        )
        .bind(gallery.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(TrainingStock { mated: mated.unsigned_abs(), without_chip: without_chip.unsigned_abs() })
    }

    /// Galleries with as many subjects, each with two chips or more, oldest first.
    pub async fn galleries_with_mated(&self, subjects: u32) -> Result<Vec<Gallery>, GalleryError> {
        let galleries = sqlx::query_as(
            "select id, name, policy, created_at from galleries g where $1 <= (select count(*) from \
               (select from faces where gallery_id = g.id and chip is not null \
                group by subject_id having count(*) > 1) s) order by id",
        )
        .bind(i64::from(subjects))
        .fetch_all(&self.pool)
        .await?;
        Ok(galleries)
    }

    /// All faces of a gallery that have a chip, by subject and face.
    pub async fn faces_with_chip(&self, gallery: GalleryId) -> Result<Vec<KnownFace>, GalleryError> {
        let rows: Vec<KnownFaceRow> = sqlx::query_as(
            "select gallery_id, subject_id, id from faces where gallery_id = $1 and chip is not null \
             order by subject_id, id",
        )
        .bind(gallery.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(KnownFace::from).collect())
    }

    /// Faces of a gallery that have a chip, of up to `subjects` subjects with two or more, and up to `each` of everybody.
    /// Which ones does not change while nobody comes or goes.
    pub async fn sample_of_faces(
        &self,
        gallery: GalleryId,
        subjects: u32,
        each: u32,
    ) -> Result<Vec<KnownFace>, GalleryError> {
        let rows: Vec<KnownFaceRow> = sqlx::query_as(
            "with chosen as (select subject_id from faces where gallery_id = $1 and chip is not null \
               group by subject_id having count(*) > 1 order by md5(subject_id::text) limit $2) \
             select gallery_id, subject_id, id from (select f.gallery_id, f.subject_id, f.id, \
               row_number() over (partition by f.subject_id order by f.id) as number \
               from faces f join chosen using (subject_id) where f.gallery_id = $1 and f.chip is not null) numbered \
             where number <= $3 order by subject_id, id",
        )
        .bind(gallery.0)
        .bind(i64::from(subjects))
        .bind(i64::from(each))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(KnownFace::from).collect())
    }

    /// The chips of some faces, in no order; those that are gone are missing.
    pub async fn chips_of(&self, faces: &[FaceId]) -> Result<Vec<(FaceId, Vec<u8>)>, GalleryError> {
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let rows: Vec<(Uuid, Vec<u8>)> =
            sqlx::query_as("select id, chip from faces where id = any($1) and chip is not null")
                .bind(ids)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().map(|(id, chip)| (FaceId(id), chip)).collect())
    }
}
