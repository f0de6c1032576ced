//! What cannot be worked on is set aside with the reason, so that it stops nothing else.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::db::{Page, PageRequest, Topic, notify};
use crate::types::{FaceId, GalleryId, ModelId, SubjectId};

/// What was being done when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAsideFrom {
    /// A chip cannot be embedded.
    Embed,
    /// A subject cannot be compared with others.
    Review,
    /// A gallery cannot be measured.
    Measure,
    /// The index of a gallery cannot be built.
    Index,
    /// A chip, or its key, cannot be read.
    Chips,
}

impl SetAsideFrom {
    fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Review => "review",
            Self::Measure => "measure",
            Self::Index => "index",
            Self::Chips => "chips",
        }
    }
}

/// What cannot be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAsideItem {
    Face(FaceId),
    Subject(SubjectId),
    Gallery(GalleryId),
}

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct SetAside {
    pub id: Uuid,
    pub work: String,
    /// The name of the model.
    pub model: String,
    /// The name of the gallery.
    pub gallery: String,
    /// `None`: it is about the gallery.
    pub subject: Option<(SubjectId, String)>,
    /// `None`: it is about the subject.
    pub face: Option<FaceId>,
    pub reason: String,
    pub at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct SetAsideRow {
    id: Uuid,
    work: String,
    model: String,
    gallery: String,
    subject_id: Option<Uuid>,
    subject: Option<String>,
    face_id: Option<Uuid>,
    reason: String,
    at: DateTime<Utc>,
}

impl Galleries {
    /// Sets something aside, for a model. Nothing happens if it is gone.
    pub async fn set_aside(
        &self,
        work: SetAsideFrom,
        model: ModelId,
        item: SetAsideItem,
        reason: &str,
    ) -> Result<(), GalleryError> {
        let (face, subject, gallery) = match item {
            SetAsideItem::Face(face) => (Some(face.0), None, None),
            SetAsideItem::Subject(subject) => (None, Some(subject.0), None),
            SetAsideItem::Gallery(gallery) => (None, None, Some(gallery.0)),
        };
        sqlx::query(
            "insert into quarantine (id, work, model_id, gallery_id, subject_id, face_id, reason) \
             select $1, $2, $3, g.id, s.id, f.id, $7 from galleries g \
             left join faces f on f.id = $4 left join subjects s on s.id = coalesce(f.subject_id, $5) \
             where g.id = coalesce(s.gallery_id, $6) and (f.id is not null or $4::uuid is null) \
             and (s.id is not null or ($4::uuid is null and $5::uuid is null)) for key share of g \
             on conflict (work, model_id, coalesce(face_id, subject_id, gallery_id)) do update \
             set reason = excluded.reason, at = excluded.at",
        )
        .bind(Uuid::now_v7())
        .bind(work.as_str())
        .bind(model.0)
        .bind(face)
        .bind(subject)
        .bind(gallery)
        // Text of PostgreSQL has no NUL.
        .bind(reason.replace('\0', ""))
        .execute(&self.beside)
        .await?;
        if let SetAsideItem::Subject(subject) = item {
            sqlx::query("delete from review_queue where model_id = $1 and subject_id = $2")
                .bind(model.0)
                .bind(subject.0)
                .execute(&self.beside)
                .await?;
        }
        Ok(())
    }

    /// What was set aside, latest first.
    pub async fn list_set_aside(&self, request: PageRequest) -> Result<Page<SetAside>, GalleryError> {
        let rows: Vec<SetAsideRow> = sqlx::query_as(
            "select q.id, q.work, m.name as model, g.name as gallery, q.subject_id, s.name as subject, q.face_id, \
             q.reason, q.at from quarantine q join models m on m.id = q.model_id join galleries g on g.id = q.gallery_id \
             left join subjects s on s.id = q.subject_id \
             where q.id < $1 and g.erased_at is null and s.erased_at is null \
             and ($3::uuid[] is null or q.gallery_id = any($3)) order by q.id desc limit $2",
        )
        .bind(request.before())
        .bind(request.rows_to_fetch())
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        let set_aside = |row: SetAsideRow| SetAside {
            id: row.id,
            work: row.work,
            model: row.model,
            gallery: row.gallery,
            subject: row.subject_id.map(SubjectId).zip(row.subject),
            face: row.face_id.map(FaceId),
            reason: row.reason,
            at: row.at,
        };
        Ok(request.page(rows.into_iter().map(set_aside).collect(), |item| item.id))
    }

    /// Has something tried again that was set aside; whether there was such a thing.
    pub async fn try_again(&self, id: Uuid) -> Result<bool, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let tried: Option<(String, Uuid, Option<Uuid>)> = sqlx::query_as(
            "delete from quarantine where id = $1 and ($2::uuid[] is null or gallery_id = any($2)) \
                 returning work, model_id, subject_id",
        )
        .bind(id)
        .bind(self.scope())
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some((work, model, Some(subject))) = &tried
            && work == SetAsideFrom::Review.as_str()
        {
            sqlx::query(
                "insert into review_queue (model_id, gallery_id, subject_id, changed) \
                 select model_id, gallery_id, subject_id, true from templates where model_id = $1 and subject_id = $2 \
                 on conflict on constraint review_queue_pkey do nothing",
            )
            .bind(model)
            .bind(subject)
            .execute(&mut *transaction)
            .await?;
        }
        if tried.is_some() {
            notify(&mut *transaction, Topic::Models).await?;
        }
        transaction.commit().await?;
        Ok(tried.is_some())
    }
}
