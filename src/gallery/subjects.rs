//! Subjects: the people of a gallery.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::{Erased, Galleries, GalleryError, Metadata, as_id};
use crate::db::{OnConstraint, violates};
use crate::db::{Page, PageRequest};
use crate::types::{GalleryId, Name, SubjectId};

/// A person of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub id: SubjectId,
    pub name: String,
    pub gallery_id: GalleryId,
    /// The name of the gallery.
    pub gallery: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub created_at: DateTime<Utc>,
    /// How many faces are enrolled; 0 after the last was deleted.
    pub faces: u64,
}

/// What to change of a subject; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubjectChange {
    pub name: Option<Name>,
    /// Replaces all of the former metadata.
    pub metadata: Option<Metadata>,
}

#[derive(FromRow)]
struct SubjectRow {
    id: Uuid,
    name: String,
    gallery_id: Uuid,
    gallery: String,
    metadata: Json<serde_json::Map<String, serde_json::Value>>,
    created_at: DateTime<Utc>,
    faces: i64,
}

/// Selects [`SubjectRow`]s of `s`, a subject.
const SELECT: &str = "select s.id, s.name, s.gallery_id, g.name as gallery, s.metadata, s.created_at, \
    (select count(*) from faces f where f.gallery_id = s.gallery_id and f.subject_id = s.id) as faces \
    from subjects s join galleries g on g.id = s.gallery_id";

impl From<SubjectRow> for Subject {
    fn from(row: SubjectRow) -> Self {
        Self {
            id: SubjectId(row.id),
            name: row.name,
            gallery_id: GalleryId(row.gallery_id),
            gallery: row.gallery,
            metadata: row.metadata.0,
            created_at: row.created_at,
            faces: row.faces.unsigned_abs(),
        }
    }
}

impl Galleries {
    /// A subject without faces yet.
    pub async fn create_subject(
        &self,
        gallery: &str,
        name: &Name,
        metadata: &Metadata,
    ) -> Result<Subject, GalleryError> {
        let gallery_id = self.gallery_id(gallery).await?;
        self.refuse_id_as_name(gallery_id, name).await?;
        let id = SubjectId::new();
        let inserted = sqlx::query("insert into subjects (id, gallery_id, name, metadata) values ($1, $2, $3, $4)")
            .bind(id.0)
            .bind(gallery_id.0)
            .bind(name.as_str())
            .bind(Json(metadata))
            .execute(&self.pool)
            .await;
        if inserted.as_ref().is_err_and(|error| violates(error, "subject_gallery_fkey")) {
            // Deleted since we looked.
            return Err(GalleryError::GalleryNotFound(gallery.to_owned()));
        }
        inserted.on_constraint("subject_name_key", || GalleryError::DuplicateSubject(name.to_string()))?;
        self.subject_by_id(id).await
    }

    /// A name that is a subject's id would never be found: the id wins.
    async fn refuse_id_as_name(&self, gallery: GalleryId, name: &Name) -> Result<(), GalleryError> {
        let Some(id) = as_id(name.as_str()) else { return Ok(()) };
        let taken = sqlx::query("select from subjects where gallery_id = $1 and id = $2")
            .bind(gallery.0)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        if taken.is_some() { Err(GalleryError::DuplicateSubject(name.to_string())) } else { Ok(()) }
    }

    pub async fn list_subjects(&self, gallery: &str, request: PageRequest) -> Result<Page<Subject>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let sql = format!("{SELECT} where s.gallery_id = $1 and s.id > $2 order by s.id limit $3");
        let rows: Vec<SubjectRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(request.after())
            .bind(request.rows_to_fetch())
            .fetch_all(&self.pool)
            .await?;
        Ok(request.page(rows.into_iter().map(Subject::from).collect(), |subject| subject.id.0))
    }

    pub async fn subject(&self, gallery: &str, subject: &str) -> Result<Subject, GalleryError> {
        let (_, id) = self.subject_id(gallery, subject).await?;
        self.subject_by_id(id).await
    }

    /// Renames a subject and/or replaces its metadata.
    pub async fn update_subject(
        &self,
        gallery: &str,
        subject: &str,
        change: &SubjectChange,
    ) -> Result<Subject, GalleryError> {
        let (gallery_id, id) = self.subject_id(gallery, subject).await?;
        if let Some(name) = &change.name {
            self.refuse_id_as_name(gallery_id, name).await?;
        }
        let name = change.name.as_ref().map(Name::as_str);
        sqlx::query("update subjects set name = coalesce($2, name), metadata = coalesce($3, metadata) where id = $1")
            .bind(id.0)
            .bind(name)
            .bind(change.metadata.as_ref().map(Json))
            .execute(&self.pool)
            .await
            .on_constraint("subject_name_key", || {
                GalleryError::DuplicateSubject(name.unwrap_or_default().to_owned())
            })?;
        self.subject_by_id(id).await
    }

    /// Erases the subject with its faces and their embeddings.
    pub async fn delete_subject(&self, gallery: &str, subject: &str) -> Result<Erased, GalleryError> {
        let (gallery_id, id) = self.subject_id(gallery, subject).await?;
        let mut transaction = self.pool.begin().await?;
        // From here no face can be added to it; enrolments under way are waited for.
        sqlx::query("select from subjects where id = $1 for update").bind(id.0).execute(&mut *transaction).await?;
        let embeddings = sqlx::query(
            "delete from embeddings where face_id in (select id from faces where gallery_id = $1 and subject_id = $2)",
        )
        .bind(gallery_id.0)
        .bind(id.0)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        let faces = sqlx::query("delete from faces where gallery_id = $1 and subject_id = $2")
            .bind(gallery_id.0)
            .bind(id.0)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let subjects = sqlx::query("delete from subjects where id = $1")
            .bind(id.0)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        if subjects == 0 {
            return Err(GalleryError::SubjectNotFound(subject.to_owned()));
        }
        Ok(Erased { subjects, faces, embeddings })
    }

    /// Gives all faces of `from` to `into`, both of one gallery, and erases `from`. Returns `into`.
    pub async fn merge_subjects(&self, gallery: &str, into: &str, from: &str) -> Result<Subject, GalleryError> {
        let (gallery_id, into_id) = self.subject_id(gallery, into).await?;
        let (_, from_id) = self.subject_id(gallery, from).await?;
        if into_id == from_id {
            return Err(GalleryError::SameSubject);
        }
        let mut transaction = self.pool.begin().await?;
        // In the order of ids, so that two merges cannot block each other for good. Enrolments under way are waited
        // for.
        let held: Vec<Uuid> = sqlx::query_scalar("select id from subjects where id = any($1) order by id for update")
            .bind([into_id.0, from_id.0])
            .fetch_all(&mut *transaction)
            .await?;
        for (name, id) in [(into, into_id), (from, from_id)] {
            if !held.contains(&id.0) {
                return Err(GalleryError::SubjectNotFound(name.to_owned()));
            }
        }
        sqlx::query("update faces set subject_id = $3 where gallery_id = $1 and subject_id = $2")
            .bind(gallery_id.0)
            .bind(from_id.0)
            .bind(into_id.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("delete from subjects where id = $1").bind(from_id.0).execute(&mut *transaction).await?;
        transaction.commit().await?;
        self.subject_by_id(into_id).await
    }

    async fn subject_by_id(&self, id: SubjectId) -> Result<Subject, GalleryError> {
        let row: Option<SubjectRow> = sqlx::query_as(AssertSqlSafe(format!("{SELECT} where s.id = $1")))
            .bind(id.0)
            .fetch_optional(&self.pool)
            .await?;
        row.map(Subject::from).ok_or_else(|| GalleryError::SubjectNotFound(id.to_string()))
    }
}
