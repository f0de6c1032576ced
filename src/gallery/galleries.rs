//! Galleries themselves.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::{Erased, Galleries, GalleryError, Page, PageRequest};
use crate::db::OnConstraint;
use crate::types::{GalleryId, Name};

/// The gallery that always exists, made by the first migration.
pub const DEFAULT_GALLERY: GalleryId = GalleryId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0000));

/// Its name.
pub const DEFAULT_GALLERY_NAME: &str = "default";

/// A named, isolated collection of subjects.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    pub id: GalleryId,
    pub name: String,
    pub created_at: DateTime<Utc>,
}

impl FromRow<'_, PgRow> for Gallery {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: GalleryId(row.try_get("id")?),
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// A gallery with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct GalleryContents {
    pub gallery: Gallery,
    pub subjects: u64,
    pub faces: u64,
}

impl Galleries {
    pub async fn create_gallery(&self, name: &Name) -> Result<Gallery, GalleryError> {
        sqlx::query_as("insert into galleries (id, name) values ($1, $2) returning id, name, created_at")
            .bind(GalleryId::new().0)
            .bind(name.as_str())
            .fetch_one(&self.pool)
            .await
            .on_constraint("gallery_name_key", || GalleryError::DuplicateGallery(name.to_string()))
    }

    pub async fn list_galleries(&self, request: PageRequest) -> Result<Page<Gallery>, GalleryError> {
        let rows: Vec<Gallery> =
            sqlx::query_as("select id, name, created_at from galleries where id > $1 order by id limit $2")
                .bind(request.after())
                .bind(request.rows_to_fetch())
                .fetch_all(&self.pool)
                .await?;
        Ok(request.page(rows, |gallery| gallery.id.0))
    }

    pub async fn gallery(&self, gallery: &str) -> Result<GalleryContents, GalleryError> {
        let id = self.gallery_id(gallery).await?;
        let row: Option<(String, DateTime<Utc>, i64, i64)> = sqlx::query_as(
            "select name, created_at, (select count(*) from subjects where gallery_id = g.id), \
             (select count(*) from faces where gallery_id = g.id) from galleries g where id = $1",
        )
        .bind(id.0)
        .fetch_optional(&self.pool)
        .await?;
        let (name, created_at, subjects, faces) =
            row.ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))?;
        Ok(GalleryContents {
            gallery: Gallery { id, name, created_at },
            subjects: subjects.unsigned_abs(),
            faces: faces.unsigned_abs(),
        })
    }

    pub async fn rename_gallery(&self, gallery: &str, name: &Name) -> Result<Gallery, GalleryError> {
        let id = self.changeable_gallery(gallery).await?;
        let renamed: Option<Gallery> =
            sqlx::query_as("update galleries set name = $2 where id = $1 returning id, name, created_at")
                .bind(id.0)
                .bind(name.as_str())
                .fetch_optional(&self.pool)
                .await
                .on_constraint("gallery_name_key", || GalleryError::DuplicateGallery(name.to_string()))?;
        renamed.ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))
    }

    /// Erases the gallery with all its subjects, faces and embeddings.
    pub async fn delete_gallery(&self, gallery: &str) -> Result<Erased, GalleryError> {
        let id = self.changeable_gallery(gallery).await?;
        let mut transaction = self.pool.begin().await?;
        // From here no enrolment can begin in it; those under way are waited for.
        let locked =
            sqlx::query("select from galleries where id = $1 for update").bind(id.0).execute(&mut *transaction).await?;
        if locked.rows_affected() == 0 {
            return Err(GalleryError::GalleryNotFound(gallery.to_owned()));
        }
        // By hand rather than by cascade, which would not count, and would go row by row.
        let mut erased = [0; 3];
        for (count, statement) in erased.iter_mut().zip([
            "delete from embeddings where gallery_id = $1",
            "delete from faces where gallery_id = $1",
            "delete from subjects where gallery_id = $1",
        ]) {
            *count = sqlx::query(statement).bind(id.0).execute(&mut *transaction).await?.rows_affected();
        }
        sqlx::query("delete from galleries where id = $1").bind(id.0).execute(&mut *transaction).await?;
        transaction.commit().await?;
        let [embeddings, faces, subjects] = erased;
        Ok(Erased { subjects, faces, embeddings })
    }

    async fn changeable_gallery(&self, gallery: &str) -> Result<GalleryId, GalleryError> {
        match self.gallery_id(gallery).await? {
            DEFAULT_GALLERY => Err(GalleryError::DefaultGallery),
            id => Ok(id),
        }
    }
}
