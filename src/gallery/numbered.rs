//! Lists as a whole or by numbered pages, and subjects by names whose letter case is not known: as clients of CompreFace ask.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::types::{FaceId, SubjectId};

/// A page of a list, by its number. What comes or goes meanwhile moves items from one page to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedPage {
    /// From 0 on.
    pub number: u32,
    /// Items of a page.
    pub size: u32,
}

/// Faces that are there, `f`, of subjects that are there, `s`, of the gallery `$1`; of the subject with the name `$2` alone, if it is
/// given.
const PRESENT: &str = "from present_faces f join subjects s on s.id = f.subject_id \
    where f.gallery_id = $1 and ($2::text is null or s.name = $2) and (s.expires_at is null or s.expires_at > now())";

impl Galleries {
    /// The subject of a gallery that has this name, in whatever letter case: the one in this case first, else the oldest.
    pub async fn find_subject_in_any_case(
        &self,
        gallery: &str,
        name: &str,
    ) -> Result<Option<(SubjectId, String)>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let found: Option<(Uuid, String)> = sqlx::query_as(
            "select id, name from subjects where gallery_id = $1 and folded(name) = folded($2) and erased_at is null \
             and (expires_at is null or expires_at > now()) order by name = $2 desc, id limit 1",
        )
        .bind(gallery.0)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(|(id, name)| (SubjectId(id), name)))
    }

    /// The names of all subjects of a gallery, oldest first.
    pub async fn subject_names(&self, gallery: &str) -> Result<Vec<String>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let names = sqlx::query_scalar(
            "select name from subjects where gallery_id = $1 and erased_at is null \
             and (expires_at is null or expires_at > now()) order by id",
        )
        .bind(gallery.0)
        .fetch_all(&self.pool.cancellable())
        .await?;
        Ok(names)
    }

    /// A page of the faces of a gallery, or of the subject with exactly this name, with the names of their subjects; and how many
    /// faces there are on all pages.
    pub async fn numbered_faces(
        &self,
        gallery: &str,
        subject: Option<&str>,
        page: NumberedPage,
    ) -> Result<(Vec<(FaceId, String)>, u64), GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let all: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) {PRESENT}")))
            .bind(gallery.0)
            .bind(subject)
            .fetch_one(&self.pool.cancellable())
            .await?;
        let sql = format!("select f.id, s.name {PRESENT} order by f.id offset $3 limit $4");
        let faces: Vec<(Uuid, String)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(subject)
            .bind(i64::from(page.number) * i64::from(page.size))
            .bind(i64::from(page.size))
            .fetch_all(&self.pool.cancellable())
            .await?;
        Ok((faces.into_iter().map(|(id, name)| (FaceId(id), name)).collect(), all.unsigned_abs()))
    }

    /// Those of some faces that are in a gallery, with the names of their subjects.
    pub async fn faces_among(&self, gallery: &str, faces: &[FaceId]) -> Result<Vec<(FaceId, String)>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let ids: Vec<Uuid> = faces.iter().map(|face| face.0).collect();
        let sql = format!("select f.id, s.name {PRESENT} and f.id = any($3) order by f.id");
        let found: Vec<(Uuid, String)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(None::<&str>)
            .bind(ids)
            .fetch_all(&self.pool.cancellable())
            .await?;
        Ok(found.into_iter().map(|(id, name)| (FaceId(id), name)).collect())
    }
}
