//! The rows: locking them, hiding, moving and deleting them. All of it in the caller's transaction.

use sqlx::{FromRow, PgConnection, Postgres};
use uuid::Uuid;

use super::super::revision::as_expected;
use super::super::{Expected, GalleryError, as_id};
use super::receipts::{Doomed, begin_receipt, receipts_for_faces};
use super::{Erased, Hidden, PIECE};
use crate::types::{ErasureId, FaceId, GalleryId, Name, SubjectId};

/// Gallery and subject of a face, and another subject of the gallery, if there is one.
pub(super) async fn subjects_of(
    connection: &mut PgConnection,
    face: FaceId,
    other: Option<&Name>,
) -> Result<(Uuid, Uuid, Option<Uuid>), GalleryError> {
    let other = other.map(Name::as_str);
    let found = sqlx::query_as(
        "select f.gallery_id, f.subject_id, (select o.id from subjects o where o.gallery_id = f.gallery_id \
           and (o.id = $2 or o.name = $3) and o.erased_at is null order by o.id = $2 desc nulls last limit 1) \
         from present_faces f where f.id = $1",
    )
    .bind(face.0)
    .bind(other.and_then(as_id))
    .bind(other)
    .fetch_optional(connection)
    .await?;
    found.ok_or(GalleryError::FaceNotFound(face))
}

/// Locks subjects that are not being erased, in the order of ids, until the transaction ends: those that there are.
pub(super) async fn hold_subjects(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select id from subjects where id = any($1) and erased_at is null order by id for update")
        .bind(ids)
        .fetch_all(connection)
        .await
}

/// Locks two subjects of which the first is merged into the other, and those that are being merged into the first, in the order of
/// ids.
pub(super) async fn hold_for_merge(
    connection: &mut PgConnection,
    from: SubjectId,
    into: SubjectId,
) -> Result<(), sqlx::Error> {
    sqlx::query("select from subjects where id in ($1, $2) or merged_into = $1 order by id for update")
        .bind(from.0)
        .bind(into.0)
        .execute(connection)
        .await
        .map(drop)
}

/// Those who were to get their faces to `from` get them to `into`.
pub(super) async fn pass_on_merges(
    connection: &mut PgConnection,
    from: SubjectId,
    into: SubjectId,
) -> Result<(), sqlx::Error> {
    sqlx::query("update subjects set merged_into = $2 where merged_into = $1")
        .bind(from.0)
        .bind(into.0)
        .execute(connection)
        .await
        .map(drop)
}

/// `None`: it is gone already, or not as expected.
pub(super) async fn mark_gallery(
    connection: &mut PgConnection,
    id: GalleryId,
    expected: &Expected,
) -> Result<Option<Hidden>, sqlx::Error> {
    let transaction: Option<i64> = sqlx::query_scalar(concat!(
        "update galleries set erased_at = now(), name = id::text where id = $1 and erased_at is null and ",
        as_expected!("$2"),
        " returning pg_current_xact_id()::text::bigint"
    ))
    .bind(id.0)
    .bind(expected.revisions())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(transaction) = transaction.map(i64::unsigned_abs) else { return Ok(None) };
    let erasure = begin_receipt(connection, Doomed { gallery: id, subjects: None, mark: Some(id.0) }).await?;
    Ok(Some(Hidden { gallery: id, subject: None, transaction, erasure: Some(erasure) }))
}

/// Whether a subject whose lock is held is as expected.
pub(super) async fn is_as_expected(
    connection: &mut PgConnection,
    id: SubjectId,
    expected: &Expected,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(concat!("select ", as_expected!("$2"), " from subjects where id = $1"))
        .bind(id.0)
        .bind(expected.revisions())
        .fetch_one(connection)
        .await
}

/// What becomes of subjects that are hidden.
#[derive(Default)]
pub(super) struct Fate {
    /// Who gets their faces, if these are not erased.
    pub into: Option<Uuid>,
    /// By what those are found that one job erases.
    pub with: Option<Uuid>,
}

/// Takes away by what subjects of a gallery are found, and their names. By which transaction, and the receipt if they are erased;
/// `None`: they are gone already, or not as expected.
pub(super) async fn mark(
    connection: &mut PgConnection,
    (gallery, ids): (GalleryId, &[Uuid]),
    fate: Fate,
    expected: &Expected,
) -> Result<Option<(u64, Option<ErasureId>)>, sqlx::Error> {
    let hidden: Vec<i64> = sqlx::query_scalar(concat!(
        "update subjects set erased_at = now(), merged_into = $2, erased_with = $3, name = id::text, metadata = '{}' \
         where id = any($1) and erased_at is null and ",
        as_expected!("$4"),
        " returning pg_current_xact_id()::text::bigint"
    ))
    .bind(ids)
    .bind(fate.into)
    .bind(fate.with)
    .bind(expected.revisions())
    .fetch_all(&mut *connection)
    .await?;
    let Some(transaction) = hidden.first() else { return Ok(None) };
    let erasure = match (fate.into, ids) {
        (Some(_), _) => None,
        (None, [id]) => Some(Doomed { gallery, subjects: Some(ids), mark: Some(fate.with.unwrap_or(*id)) }),
        (None, _) => Some(Doomed { gallery, subjects: Some(ids), mark: fate.with }),
    };
    let erasure = match erasure {
        Some(doomed) => Some(begin_receipt(&mut *connection, doomed).await?),
        None => None,
    };
    execute_all(connection, "delete from templates where subject_id = any($1)", ids).await?;
    Ok(Some((transaction.unsigned_abs(), erasure)))
}

/// [`hide`], of one subject.
pub(super) async fn mark_subject(
    connection: &mut PgConnection,
    (gallery, id): (GalleryId, SubjectId),
    into: Option<SubjectId>,
    expected: &Expected,
) -> Result<Option<Hidden>, sqlx::Error> {
    let fate = Fate { into: into.map(|into| into.0), with: None };
    let hidden = mark(connection, (gallery, &[id.0]), fate, expected).await?;
    Ok(hidden.map(|(transaction, erasure)| Hidden { gallery, subject: Some(id), transaction, erasure }))
}

/// What there is of a gallery, or of some of its subjects, hidden or not.
pub(super) async fn count(
    connection: &mut PgConnection,
    gallery: GalleryId,
    subjects: Option<&[Uuid]>,
) -> Result<Erased, sqlx::Error> {
    let (subjects, faces, embeddings): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from subjects where gallery_id = $1 and ($2::uuid[] is null or id = any($2))), \
         (select count(*) from faces where gallery_id = $1 and ($2::uuid[] is null or subject_id = any($2))), \
         (select count(*) from embeddings where gallery_id = $1 and ($2::uuid[] is null or subject_id = any($2)))",
    )
    .bind(gallery.0)
    .bind(subjects)
    .fetch_one(connection)
    .await?;
    let [subjects, faces, embeddings] = [subjects, faces, embeddings].map(i64::unsigned_abs);
    Ok(Erased { subjects, faces, embeddings })
}

/// Who gets the faces of a hidden subject.
pub(super) enum Heir {
    Subject(SubjectId),
    /// Nobody: they are erased.
    Nobody,
    /// It became somebody else while the locks were waited for.
    Changed,
}

/// Locks a hidden subject, and the one that its faces go to, if there is one that is not being erased.
pub(super) async fn hold_with_heir(connection: &mut PgConnection, subject: SubjectId) -> Result<Heir, sqlx::Error> {
    let heir = heir_of(connection, subject).await?;
    sqlx::query("select from subjects where id in ($1, $2) order by id for update")
        .bind(subject.0)
        .bind(heir)
        .execute(&mut *connection)
        .await?;
    // From here on it stays who it is: whoever changes that needs both locks.
    Ok(match heir_of(connection, subject).await? {
        now if now != heir => Heir::Changed,
        Some(heir) => Heir::Subject(SubjectId(heir)),
        None => Heir::Nobody,
    })
}

/// The one that a subject was merged into, or that one in turn, if it is not being erased.
async fn heir_of(connection: &mut PgConnection, subject: SubjectId) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "with recursive way as ( \
           select id, merged_into, erased_at from subjects where id = $1 \
           union all select s.id, s.merged_into, s.erased_at from way w join subjects s on s.id = w.merged_into \
           where w.erased_at is not null \
         ) select id from way where id <> $1 and erased_at is null limit 1",
    )
    .bind(subject.0)
    .fetch_optional(connection)
    .await
}

pub(super) async fn some_faces(
    connection: &mut PgConnection,
    gallery: GalleryId,
    subject: SubjectId,
    most: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select id from faces where gallery_id = $1 and subject_id = $2 order by id limit $3")
        .bind(gallery.0)
        .bind(subject.0)
        .bind(most)
        .fetch_all(connection)
        .await
}

/// Erases faces of a gallery that is erased as a whole, and the subjects of whom they were the last.
pub(super) async fn erase_faces_and_subjects(
    connection: &mut PgConnection,
    faces: &[Uuid],
) -> Result<Erased, sqlx::Error> {
    let subjects: Vec<Uuid> = sqlx::query_scalar("select distinct subject_id from faces where id = any($1)")
        .bind(faces)
        .fetch_all(&mut *connection)
        .await?;
    let mut erased = erase_faces(connection, &subjects, faces).await?;
    let without_faces = "delete from subjects s where s.id = any($1) \
        and not exists (select from faces f where f.gallery_id = s.gallery_id and f.subject_id = s.id)";
    erased.subjects = execute_all(connection, without_faces, &subjects).await?;
    Ok(erased)
}

/// Erases faces of subjects that are erased as a whole, without templates being computed for what is left, and what was found about
/// these subjects.
pub(super) async fn erase_faces(
    connection: &mut PgConnection,
    subjects: &[Uuid],
    faces: &[Uuid],
) -> Result<Erased, sqlx::Error> {
    sqlx::query("set local faceid.computes_templates = 'later'").execute(&mut *connection).await?;
    execute_all(connection, "select from subjects where id = any($1) order by id for update", subjects).await?;
    forget_findings(connection, subjects, faces).await?;
    execute_all(connection, "delete from templates where subject_id = any($1)", subjects).await?;
    let embeddings = execute_all(connection, "delete from embeddings where face_id = any($1)", faces).await?;
    let faces = execute_all(connection, "delete from faces where id = any($1)", faces).await?;
    Ok(Erased { subjects: 0, faces, embeddings })
}

/// Erases what was found about subjects and faces, in the order of ids. Foreign keys would do it in the order in which these go, and a
/// finding about two subjects may be in the way of who erases the other.
pub(super) async fn forget_findings(
    connection: &mut PgConnection,
    subjects: &[Uuid],
    faces: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from findings where id in (select id from findings \
         where subject_id = any($1) or other_id = any($1) or face_id = any($2) order by id for update)",
    )
    .bind(subjects)
    .bind(faces)
    .execute(connection)
    .await
    .map(drop)
}

/// Erases subjects that are locked, and about whom findings are forgotten.
pub(super) async fn erase_subjects(connection: &mut PgConnection, ids: &[Uuid]) -> Result<u64, sqlx::Error> {
    execute_all(connection, "delete from subjects where id = any($1)", ids).await
}

/// Erases faces of subjects that stay, whose locks are held: what, and the receipts, one for each gallery.
pub(super) async fn erase_faces_of_lasting(
    connection: &mut PgConnection,
    faces: &[Uuid],
) -> Result<(Erased, Vec<ErasureId>), sqlx::Error> {
    let erasures = receipts_for_faces(connection, faces).await?;
    forget_findings(connection, &[], faces).await?;
    let embeddings = execute_all(connection, "delete from embeddings where face_id = any($1)", faces).await?;
    let faces = execute_all(connection, "delete from faces where id = any($1)", faces).await?;
    Ok((Erased { subjects: 0, faces, embeddings }, erasures))
}

/// A face, and whose it is.
#[derive(FromRow)]
pub(super) struct Owned {
    pub face: Uuid,
    pub subject: Uuid,
    pub gallery: Uuid,
}

/// Of these faces those that nobody erases, in some galleries or in all, and whose they are.
pub(super) async fn owners(
    connection: &mut PgConnection,
    faces: &[Uuid],
    galleries: &Option<Vec<Uuid>>,
) -> Result<Vec<Owned>, sqlx::Error> {
    sqlx::query_as(
        "select id as face, subject_id as subject, gallery_id as gallery from present_faces where id = any($1) and ($2::uuid[] is null or gallery_id = any($2))",
    )
    .bind(faces)
    .bind(galleries)
    .fetch_all(connection)
    .await
}

/// Moves faces between two subjects whose locks are held, and computes the template of the one that gets them once.
pub(super) async fn move_faces(
    connection: &mut PgConnection,
    faces: &[Uuid],
    (from, into): (SubjectId, SubjectId),
) -> Result<u64, sqlx::Error> {
    sqlx::query("set local faceid.computes_templates = 'later'").execute(&mut *connection).await?;
    let moved = sqlx::query("update faces set subject_id = $3 where id = any($1) and subject_id = $2")
        .bind(faces)
        .bind(from.0)
        .bind(into.0)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    sqlx::query(
        "select compute_templates(array_agg(model_id), array_agg($2)) from \
         (select distinct model_id from embeddings where face_id = any($1)) moved",
    )
    .bind(faces)
    .bind(into.0)
    .execute(connection)
    .await?;
    Ok(moved)
}

/// Subjects of a hidden gallery, a piece of them.
pub(super) async fn erase_subjects_of(connection: &mut PgConnection, gallery: GalleryId) -> Result<u64, sqlx::Error> {
    let subjects: Vec<Uuid> =
        sqlx::query_scalar("select id from subjects where gallery_id = $1 order by id limit $2 for update")
            .bind(gallery.0)
            .bind(PIECE)
            .fetch_all(&mut *connection)
            .await?;
    forget_findings(connection, &subjects, &[]).await?;
    erase_subjects(connection, &subjects).await
}

/// Waits for enrolments under way, then erases all that is left of a hidden gallery, and the gallery.
pub(super) async fn erase_rest_of_gallery(
    connection: &mut PgConnection,
    gallery: GalleryId,
    patience: &'static str,
) -> Result<Erased, sqlx::Error> {
    set_patience(connection, patience).await?;
    execute(connection, "select from galleries where id = $1 for update", gallery.0).await?;
    let subjects = ids(connection, "select id from subjects where gallery_id = $1", gallery.0).await?;
    let faces = ids(connection, "select id from faces where gallery_id = $1", gallery.0).await?;
    let mut erased = erase_faces(connection, &subjects, &faces).await?;
    erased.subjects = erase_subjects(connection, &subjects).await?;
    execute(connection, "delete from galleries where id = $1", gallery.0).await?;
    Ok(erased)
}

pub(super) async fn is_hidden(connection: &mut PgConnection, sql: &'static str, id: Uuid) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query_scalar(sql).bind(id).fetch_optional(connection).await?.unwrap_or(false))
}

/// How long locks are waited for until the transaction ends.
pub(super) async fn set_patience(connection: &mut PgConnection, patience: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)").bind(patience).execute(connection).await.map(drop)
}

pub(super) async fn transaction_id(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let id: i64 = sqlx::query_scalar("select pg_current_xact_id()::text::bigint").fetch_one(connection).await?;
    Ok(id.unsigned_abs())
}

async fn ids(connection: &mut PgConnection, sql: &'static str, of: Uuid) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(sql).bind(of).fetch_all(connection).await
}

async fn execute(connection: &mut PgConnection, sql: &'static str, id: Uuid) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query::<Postgres>(sql).bind(id).execute(connection).await?.rows_affected())
}

pub(super) async fn execute_all(
    connection: &mut PgConnection,
    sql: &'static str,
    ids: &[Uuid],
) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query::<Postgres>(sql).bind(ids).execute(connection).await?.rows_affected())
}
