//! What was erased, kept as ids and numbers: from it a receipt is made, and by it is known whether bytes are left to be reclaimed.
//! Each row comes in the transaction that hides or deletes, so that there is no erasure without one.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::super::{Galleries, GalleryError};
use super::Erased;
use crate::db::{Page, PageRequest};
use crate::types::{ErasureId, GalleryId};

/// What was erased at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    pub id: ErasureId,
    pub erased_at: DateTime<Utc>,
    pub gallery: GalleryId,
    /// `None`, without `faces`: the gallery as a whole.
    pub subjects: Option<Vec<Uuid>>,
    /// Faces whose subjects stayed.
    pub faces: Option<Vec<Uuid>>,
    /// When the first of it had been enrolled, or before.
    pub since: DateTime<Utc>,
    pub erased: Erased,
    /// When the last row was deleted.
    pub rows_gone_at: Option<DateTime<Utc>>,
    /// When the last byte was gone from the files of the database, as far as this server can tell.
    pub bytes_gone_at: Option<DateTime<Utc>>,
    /// Where bytes are left that this server cannot reach.
    pub elsewhere: Vec<String>,
    /// Of its entry in the audit, which has the same id, once it is sealed.
    pub audit_position: Option<i64>,
}

/// What is about to be erased.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doomed<'a> {
    pub gallery: GalleryId,
    /// `None`: the gallery as a whole.
    pub subjects: Option<&'a [Uuid]>,
    /// By what a job finds the row.
    pub mark: Option<Uuid>,
}

/// Notes what is about to be erased, before anything of it is deleted.
pub(super) async fn begin_receipt(connection: &mut PgConnection, doomed: Doomed<'_>) -> Result<ErasureId, sqlx::Error> {
    let id = ErasureId::new();
    sqlx::query(
        "insert into erasures (id, gallery_id, subjects, mark, since) select $1, $2, $3, $4, least(now(), \
           case when $3::uuid[] is null then (select created_at from galleries where id = $2) end, \
           (select min(created_at) from subjects where id = any($3)), \
           (select min(created_at) from faces where gallery_id = $2 and subject_id = any($3)))",
    )
    .bind(id.0)
    .bind(doomed.gallery.0)
    .bind(doomed.subjects)
    .bind(doomed.mark)
    .execute(connection)
    .await?;
    Ok(id)
}

/// Notes what was erased at once, and that it was all.
pub(super) async fn finish_receipt(
    connection: &mut PgConnection,
    id: ErasureId,
    erased: Erased,
) -> Result<(), sqlx::Error> {
    add_piece(connection, id, erased, true).await
}

/// The receipt of what a job erases. What was hidden by a version that noted nothing is noted now, before anything of it is deleted.
pub(super) async fn find_or_begin_receipt(
    connection: &mut PgConnection,
    doomed: Doomed<'_>,
) -> Result<ErasureId, sqlx::Error> {
    let known: Option<Uuid> = sqlx::query_scalar("select id from erasures where mark = $1")
        .bind(doomed.mark)
        .fetch_optional(&mut *connection)
        .await?;
    match known {
        Some(id) => Ok(ErasureId(id)),
        None => begin_receipt(connection, doomed).await,
    }
}

/// Notes a piece of what is erased. With the last, nothing finds the row by its mark any more: whoever comes back under the same id is
/// somebody else to it.
pub(super) async fn add_piece(
    connection: &mut PgConnection,
    id: ErasureId,
    erased: Erased,
    is_last: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update erasures set subjects_erased = subjects_erased + $2, faces_erased = faces_erased + $3, \
           embeddings_erased = embeddings_erased + $4, rows_gone_at = case when $5 then now() end, \
           mark = case when not $5 then mark end \
         where id = $1",
    )
    .bind(id.0)
    .bind(erased.subjects.cast_signed())
    .bind(erased.faces.cast_signed())
    .bind(erased.embeddings.cast_signed())
    .bind(is_last)
    .execute(connection)
    .await
    .map(drop)
}

/// Notes that nothing is left of what a job was to erase: it went with its gallery, or an earlier attempt was the last.
pub(super) async fn close_marked(connection: &mut PgConnection, mark: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("update erasures set rows_gone_at = now(), mark = null where mark = $1")
        .bind(mark)
        .execute(connection)
        .await
        .map(drop)
}

/// Notes faces that are about to be deleted and whose subjects stay: one erasure for each gallery.
pub(super) async fn receipts_for_faces(
    connection: &mut PgConnection,
    faces: &[Uuid],
) -> Result<Vec<ErasureId>, sqlx::Error> {
    let galleries: Vec<Uuid> =
        sqlx::query_scalar("select distinct gallery_id from faces where id = any($1) order by gallery_id")
            .bind(faces)
            .fetch_all(&mut *connection)
            .await?;
    let mut noted = Vec::new();
    for gallery in galleries {
        let id = ErasureId::new();
        sqlx::query(
            "insert into erasures (id, gallery_id, faces, since, faces_erased, embeddings_erased, rows_gone_at) \
             select $1, $2, array_agg(id order by id), min(created_at), count(*), \
               (select count(*) from embeddings e where e.face_id = any($3) and e.gallery_id = $2), now() \
             from faces where gallery_id = $2 and id = any($3)",
        )
        .bind(id.0)
        .bind(gallery)
        .bind(faces)
        .execute(&mut *connection)
        .await?;
        noted.push(id);
    }
    Ok(noted)
}

impl Galleries {
    /// What was erased, latest first.
    pub async fn list_erasures(&self, request: PageRequest) -> Result<Page<Erasure>, GalleryError> {
        let erasures: Vec<Erasure> = sqlx::query_as(
            "select e.*, a.position from erasures e left join audit a on a.id = e.id \
             where e.id < $1 and ($3::uuid[] is null or e.gallery_id = any($3)) order by e.id desc limit $2",
        )
        .bind(request.before())
        .bind(request.rows_to_fetch())
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        Ok(request.page(erasures, |erasure| erasure.id.0))
    }

    pub async fn erasure(&self, id: ErasureId) -> Result<Erasure, GalleryError> {
        let erasure = sqlx::query_as(
            "select e.*, a.position from erasures e left join audit a on a.id = e.id \
             where e.id = $1 and ($2::uuid[] is null or e.gallery_id = any($2))",
        )
        .bind(id.0)
        .bind(self.scope())
        .fetch_optional(&self.pool)
        .await?;
        erasure.ok_or(GalleryError::ErasureNotFound(id))
    }
}

impl FromRow<'_, sqlx::postgres::PgRow> for Erasure {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        use sqlx::Row;
        let count = |column| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
        Ok(Self {
            id: ErasureId(row.try_get("id")?),
            erased_at: row.try_get("erased_at")?,
            gallery: GalleryId(row.try_get("gallery_id")?),
            subjects: row.try_get("subjects")?,
            faces: row.try_get("faces")?,
            since: row.try_get("since")?,
            erased: Erased {
                subjects: count("subjects_erased")?,
                faces: count("faces_erased")?,
                embeddings: count("embeddings_erased")?,
            },
            rows_gone_at: row.try_get("rows_gone_at")?,
            bytes_gone_at: row.try_get("bytes_gone_at")?,
            elsewhere: row.try_get("elsewhere")?,
            audit_position: row.try_get("position")?,
        })
    }
}
