//! Erasure: faces, subjects and galleries with all that belongs to them.
//!
//! What is small is erased at once. What is large is marked first: from then on nobody finds it, and its name is free. Then it is
//! erased in pieces of bounded size, which can be broken off and gone on with at any time. A subject whose faces go to another one
//! is marked in the same way.
//!
//! Locks are taken in one order by all who change several of these: gallery, subjects by id, faces, embeddings.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::{DEFAULT_GALLERY, Galleries, GalleryError, as_id};
use crate::db::{Transaction, is_lock_timeout};
use crate::types::{FaceId, GalleryId, Name, SubjectId};

/// Faces, or subjects, up to which something is erased at once; and those of a piece.
const AT_ONCE: i64 = 300;
const PIECE: i64 = 300;

/// How often the locks on a face's subject are asked for that others move at the same time.
const ATTEMPTS: usize = 5;

/// How long enrolments under way are waited for, by who erases at once and by a piece, which is tried again.
const PATIENCE: &str = "300ms";
const PIECE_PATIENCE: &str = "5s";

/// What was erased for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Erased {
    pub subjects: u64,
    pub faces: u64,
    pub embeddings: u64,
}

impl std::ops::AddAssign for Erased {
    fn add_assign(&mut self, more: Self) {
        self.subjects += more.subjects;
        self.faces += more.faces;
        self.embeddings += more.embeddings;
    }
}

/// What nobody finds any more once the transaction has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    pub gallery: GalleryId,
    /// `None`: the gallery as a whole.
    pub subject: Option<SubjectId>,
    /// The id of the transaction.
    pub transaction: u64,
}

/// How far a pass through the faces of a gallery is: the last that was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place(Option<FaceId>);

/// What a piece of work did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Piece {
    pub erased: Erased,
    /// Faces that went to another subject.
    pub moved: u64,
    /// Whether nothing is left.
    pub done: bool,
}

impl Galleries {
    /// Begins a transaction for what changes several things together.
    pub async fn begin(&self) -> Result<Transaction, GalleryError> {
        Ok(self.pool.begin().await?)
    }

    /// Erases a gallery, given by id or name, at once. `None`: it is too large, or enrolments into it take too long.
    pub async fn erase_small_gallery(&self, gallery: &str) -> Result<Option<(Hidden, Erased)>, GalleryError> {
        let id = self.erasable_gallery(gallery).await?;
        let mut transaction = self.pool.begin().await?;
        let large: bool = sqlx::query_scalar(
            "select (select count(*) from (select from faces where gallery_id = $1 limit $2) f) >= $2 \
             or (select count(*) from (select from subjects where gallery_id = $1 limit $2) s) >= $2",
        )
        .bind(id.0)
        .bind(AT_ONCE)
        .fetch_one(&mut *transaction)
        .await?;
        if large {
            return Ok(None);
        }
        let hidden = hide_gallery(&mut transaction, id).await?;
        let hidden = hidden.ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))?;
        match erase_rest_of_gallery(&mut transaction, id, PATIENCE).await {
            Ok(erased) => {
                transaction.commit().await?;
                Ok(Some((hidden, erased)))
            }
            Err(error) if is_lock_timeout(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Hides a gallery, given by id or name. Enrolments under way do not hinder it: what they add is erased as well.
    pub async fn hide_gallery(&self, transaction: &mut Transaction, gallery: &str) -> Result<Hidden, GalleryError> {
        let id = self.erasable_gallery(gallery).await?;
        let hidden = hide_gallery(transaction, id).await?;
        hidden.ok_or_else(|| GalleryError::GalleryNotFound(gallery.to_owned()))
    }

    /// What is left of a gallery that is being erased, or of one of its subjects that is erased or merged into another.
    pub async fn count_hidden(&self, gallery: GalleryId, subject: Option<SubjectId>) -> Result<Erased, GalleryError> {
        let (subjects, faces, embeddings): (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from subjects where gallery_id = $1 and ($2::uuid is null or id = $2)), \
             (select count(*) from faces where gallery_id = $1 and ($2::uuid is null or subject_id = $2)), \
             (select count(*) from embeddings where gallery_id = $1 and ($2::uuid is null or subject_id = $2))",
        )
        .bind(gallery.0)
        .bind(subject.map(|subject| subject.0))
        .fetch_one(&self.beside)
        .await?;
        let [subjects, faces, embeddings] = [subjects, faces, embeddings].map(i64::unsigned_abs);
        Ok(Erased { subjects, faces, embeddings })
    }

    /// Erases a piece of a hidden gallery after `place`, which it moves on; at last the gallery itself.
    pub async fn erase_gallery_piece(&self, gallery: GalleryId, place: &mut Place) -> Result<Piece, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        if !is_hidden(&mut transaction, "select erased_at is not null from galleries where id = $1", gallery.0).await? {
            return Ok(Piece { done: true, ..Piece::default() });
        }
        let faces: Vec<Uuid> = sqlx::query_scalar(
            "select id from faces where gallery_id = $1 and ($2::uuid is null or id > $2) order by id limit $3",
        )
        .bind(gallery.0)
        .bind(place.0.map(|face| face.0))
        .bind(PIECE)
        .fetch_all(&mut *transaction)
        .await?;
        let mut piece = Piece::default();
        let passed = place.0.is_some();
        place.0 = faces.last().copied().map(FaceId);
        if !faces.is_empty() {
            piece.erased = erase_faces(&mut transaction, &faces).await?;
        } else if !passed {
            // No face was there from the first on, so that only subjects without faces can be left.
            piece.erased.subjects = erase_subjects_of(&mut transaction, gallery).await?;
            if piece.erased.subjects == 0 {
                piece.erased = erase_rest_of_gallery(&mut transaction, gallery, PIECE_PATIENCE).await?;
                piece.done = true;
            }
        }
        transaction.commit().await?;
        Ok(piece)
    }

    /// Erases a subject, given by id or name, at once. `None`: it has too many faces.
    pub async fn erase_small_subject(
        &self,
        gallery: &str,
        subject: &str,
    ) -> Result<Option<(Hidden, Erased)>, GalleryError> {
        let (gallery, id) = self.subject_id(gallery, subject).await?;
        let mut transaction = self.pool.begin().await?;
        let not_found = || GalleryError::SubjectNotFound(subject.to_owned());
        let hidden = hide_subject(&mut transaction, gallery, id, None).await?.ok_or_else(not_found)?;
        let faces = some_faces(&mut transaction, gallery, id, AT_ONCE + 1).await?;
        if faces.len() > AT_ONCE as usize {
            return Ok(None);
        }
        let mut erased = erase_faces(&mut transaction, &faces).await?;
        erased.subjects = execute(&mut transaction, "delete from subjects where id = $1", id.0).await?;
        transaction.commit().await?;
        Ok(Some((hidden, erased)))
    }

    /// Hides a subject, given by id or name; enrolments of its faces that are under way are waited for.
    pub async fn hide_subject(
        &self,
        transaction: &mut Transaction,
        gallery: &str,
        subject: &str,
    ) -> Result<Hidden, GalleryError> {
        let (gallery, id) = self.subject_id(gallery, subject).await?;
        let hidden = hide_subject(transaction, gallery, id, None).await?;
        hidden.ok_or_else(|| GalleryError::SubjectNotFound(subject.to_owned()))
    }

    /// Erases a piece of a hidden subject, or gives it to the subject that it was merged into, if that still exists; at last
    /// the subject itself.
    pub async fn erase_subject_piece(&self, gallery: GalleryId, subject: SubjectId) -> Result<Piece, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        let sql = "select erased_at is not null from subjects where id = $1";
        if !is_hidden(&mut transaction, sql, subject.0).await? {
            return Ok(Piece { done: true, ..Piece::default() });
        }
        let into = hold_with_heir(&mut transaction, subject).await?;
        let faces = some_faces(&mut transaction, gallery, subject, PIECE).await?;
        let mut piece = Piece { done: faces.len() < PIECE as usize, ..Piece::default() };
        match into {
            Some(into) => piece.moved = move_faces(&mut transaction, &faces, (subject, into)).await?,
            None => piece.erased = erase_faces(&mut transaction, &faces).await?,
        }
        if piece.done {
            piece.erased.subjects = execute(&mut transaction, "delete from subjects where id = $1", subject.0).await?;
        }
        transaction.commit().await?;
        Ok(piece)
    }

    /// Gives all faces of `from` to `into`, both of one gallery and given by id or name, and erases `from`, at once. `None`:
    /// there are too many.
    pub async fn merge_small_subject(
        &self,
        gallery: &str,
        into: &str,
        from: &str,
    ) -> Result<Option<(Hidden, SubjectId)>, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let (hidden, from, into) = self.hide_merged(&mut transaction, gallery, into, from).await?;
        let faces = some_faces(&mut transaction, hidden.gallery, from, AT_ONCE + 1).await?;
        if faces.len() > AT_ONCE as usize {
            return Ok(None);
        }
        move_faces(&mut transaction, &faces, (from, into)).await?;
        execute(&mut transaction, "delete from subjects where id = $1", from.0).await?;
        transaction.commit().await?;
        Ok(Some((hidden, into)))
    }

    /// Hides a subject whose faces go to another one: what was hidden, its id, and the other's.
    pub async fn hide_merged(
        &self,
        transaction: &mut Transaction,
        gallery: &str,
        into: &str,
        from: &str,
    ) -> Result<(Hidden, SubjectId, SubjectId), GalleryError> {
        let (gallery_id, into_id) = self.subject_id(gallery, into).await?;
        let (_, from_id) = self.subject_id(gallery, from).await?;
        if into_id == from_id {
            return Err(GalleryError::SameSubject);
        }
        let held = hold_subjects(transaction, &[into_id.0, from_id.0]).await?;
        for (name, id) in [(into, into_id), (from, from_id)] {
            if !held.contains(&id.0) {
                return Err(GalleryError::SubjectNotFound(name.to_owned()));
            }
        }
        let hidden = hide_subject(transaction, gallery_id, from_id, Some(into_id)).await?;
        let hidden = hidden.ok_or_else(|| GalleryError::SubjectNotFound(from.to_owned()))?;
        Ok((hidden, from_id, into_id))
    }

    /// Erases the face with its embeddings, and says by which transaction. Its subject stays, even without a face.
    pub async fn delete_face(&self, id: FaceId) -> Result<(Erased, u64), GalleryError> {
        let (mut transaction, _) = self.begin_with_subject_of(id, None).await?;
        let erased = erase_faces_of_kept(&mut transaction, id).await?;
        if erased.faces == 0 {
            return Err(GalleryError::FaceNotFound(id));
        }
        let number = transaction_id(&mut transaction).await?;
        transaction.commit().await?;
        Ok((erased, number))
    }

    /// Begins a transaction that holds the subject of a face, which keeps the face from going to another one and from being
    /// erased, and `other`, a subject of the same gallery given by id or name, if there is one. Says which gallery that is.
    pub(super) async fn begin_with_subject_of(
        &self,
        face: FaceId,
        other: Option<&Name>,
    ) -> Result<(Transaction, GalleryId), GalleryError> {
        for _ in 0..ATTEMPTS {
            let mut transaction = self.pool.begin().await?;
            let (gallery, subject, other_subject) = subjects_of(&mut transaction, face, other).await?;
            // Both in the order of ids, as everybody locks several.
            let wanted: Vec<Uuid> = [Some(subject), other_subject].into_iter().flatten().collect();
            let held = hold_subjects(&mut transaction, &wanted).await?;
            let now = subjects_of(&mut transaction, face, other).await?;
            if now == (gallery, subject, other_subject) && wanted.iter().all(|id| held.contains(id)) {
                return Ok((transaction, GalleryId(gallery)));
            }
            // It went to another subject while that lock was waited for, or the other one came.
            transaction.rollback().await?;
        }
        Err(GalleryError::Inconsistent("a face goes from one subject to another"))
    }

    async fn erasable_gallery(&self, gallery: &str) -> Result<GalleryId, GalleryError> {
        match self.gallery_id(gallery).await? {
            DEFAULT_GALLERY => Err(GalleryError::DefaultGallery),
            id => Ok(id),
        }
    }
}

/// Gallery and subject of a face, and another subject of the gallery, if there is one.
async fn subjects_of(
    connection: &mut PgConnection,
    face: FaceId,
    other: Option<&Name>,
) -> Result<(Uuid, Uuid, Option<Uuid>), GalleryError> {
    let other = other.map(Name::as_str);
    let found = sqlx::query_as(
        "select f.gallery_id, f.subject_id, (select o.id from subjects o where o.gallery_id = f.gallery_id \
           and (o.id = $2 or o.name = $3) and o.erased_at is null order by o.id = $2 desc nulls last limit 1) \
         from faces f join subjects s on s.id = f.subject_id join galleries g on g.id = f.gallery_id \
         where f.id = $1 and s.erased_at is null and g.erased_at is null",
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

/// `None`: it is gone already.
async fn hide_gallery(connection: &mut PgConnection, id: GalleryId) -> Result<Option<Hidden>, sqlx::Error> {
    let transaction: Option<i64> = sqlx::query_scalar(
        "update galleries set erased_at = now(), name = id::text where id = $1 and erased_at is null \
         returning pg_current_xact_id()::text::bigint",
    )
    .bind(id.0)
    .fetch_optional(connection)
    .await?;
    let hidden = |transaction: i64| Hidden { gallery: id, subject: None, transaction: transaction.unsigned_abs() };
    Ok(transaction.map(hidden))
}

/// Takes away by what the subject is found, and its name. `None`: it is gone already.
async fn hide_subject(
    connection: &mut PgConnection,
    gallery: GalleryId,
    id: SubjectId,
    into: Option<SubjectId>,
) -> Result<Option<Hidden>, sqlx::Error> {
    let transaction: Option<i64> = sqlx::query_scalar(
        "update subjects set erased_at = now(), merged_into = $2, name = id::text, metadata = '{}' \
         where id = $1 and erased_at is null returning pg_current_xact_id()::text::bigint",
    )
    .bind(id.0)
    .bind(into.map(|into| into.0))
    .fetch_optional(&mut *connection)
    .await?;
    let Some(transaction) = transaction else { return Ok(None) };
    execute(connection, "delete from templates where subject_id = $1", id.0).await?;
    Ok(Some(Hidden { gallery, subject: Some(id), transaction: transaction.unsigned_abs() }))
}

/// Locks a hidden subject, and the one that its faces go to; the latter, if there is one that is not being erased.
async fn hold_with_heir(connection: &mut PgConnection, subject: SubjectId) -> Result<Option<SubjectId>, sqlx::Error> {
    let held: Vec<(Uuid, bool)> = sqlx::query_as(
        "select h.id, h.erased_at is null from subjects h \
         where h.id = $1 or h.id = (select merged_into from subjects where id = $1) order by h.id for update",
    )
    .bind(subject.0)
    .fetch_all(connection)
    .await?;
    let heir = held.into_iter().find(|(id, stays)| *id != subject.0 && *stays);
    Ok(heir.map(|(id, _)| SubjectId(id)))
}

async fn some_faces(
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

/// Erases faces of subjects that are erased as a whole, without templates being computed for what is left.
async fn erase_faces(connection: &mut PgConnection, faces: &[Uuid]) -> Result<Erased, sqlx::Error> {
    sqlx::query("set local faceid.computes_templates = 'later'").execute(&mut *connection).await?;
    let subjects: Vec<Uuid> = sqlx::query_scalar(
        "select id from subjects where id in (select subject_id from faces where id = any($1)) order by id for update",
    )
    .bind(faces)
    .fetch_all(&mut *connection)
    .await?;
    execute_all(connection, "delete from templates where subject_id = any($1)", &subjects).await?;
    let embeddings = execute_all(connection, "delete from embeddings where face_id = any($1)", faces).await?;
    let erased = execute_all(connection, "delete from faces where id = any($1)", faces).await?;
    Ok(Erased { subjects: 0, faces: erased, embeddings })
}

/// Erases a face of a subject that stays, whose lock is held.
async fn erase_faces_of_kept(connection: &mut PgConnection, face: FaceId) -> Result<Erased, sqlx::Error> {
    let embeddings = execute(connection, "delete from embeddings where face_id = $1", face.0).await?;
    let faces = execute(connection, "delete from faces where id = $1", face.0).await?;
    Ok(Erased { subjects: 0, faces, embeddings })
}

/// Moves faces between two subjects whose locks are held, and computes the template of the one that gets them once.
async fn move_faces(
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
async fn erase_subjects_of(connection: &mut PgConnection, gallery: GalleryId) -> Result<u64, sqlx::Error> {
    let erased = sqlx::query(
        "delete from subjects where id in (select id from subjects where gallery_id = $1 order by id limit $2 for update)",
    )
    .bind(gallery.0)
    .bind(PIECE)
    .execute(connection)
    .await?;
    Ok(erased.rows_affected())
}

/// Waits for enrolments under way, then erases all that is left of a hidden gallery, and the gallery.
async fn erase_rest_of_gallery(
    connection: &mut PgConnection,
    gallery: GalleryId,
    patience: &'static str,
) -> Result<Erased, sqlx::Error> {
    set_patience(connection, patience).await?;
    execute(connection, "select from galleries where id = $1 for update", gallery.0).await?;
    let faces: Vec<Uuid> = sqlx::query_scalar("select id from faces where gallery_id = $1")
        .bind(gallery.0)
        .fetch_all(&mut *connection)
        .await?;
    let mut erased = erase_faces(connection, &faces).await?;
    erased.subjects = execute(connection, "delete from subjects where gallery_id = $1", gallery.0).await?;
    execute(connection, "delete from galleries where id = $1", gallery.0).await?;
    Ok(erased)
}

async fn is_hidden(connection: &mut PgConnection, sql: &'static str, id: Uuid) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query_scalar(sql).bind(id).fetch_optional(connection).await?.unwrap_or(false))
}

/// How long locks are waited for until the transaction ends.
async fn set_patience(connection: &mut PgConnection, patience: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)").bind(patience).execute(connection).await.map(drop)
}

async fn transaction_id(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let id: i64 = sqlx::query_scalar("select pg_current_xact_id()::text::bigint").fetch_one(connection).await?;
    Ok(id.unsigned_abs())
}

async fn execute(connection: &mut PgConnection, sql: &'static str, id: Uuid) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query::<Postgres>(sql).bind(id).execute(connection).await?.rows_affected())
}

async fn execute_all(connection: &mut PgConnection, sql: &'static str, ids: &[Uuid]) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query::<Postgres>(sql).bind(ids).execute(connection).await?.rows_affected())
}
