//! Many subjects, or faces, at once: a few statements for all of them, with the locks and in the steps of one.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::super::retention::{hold_cutoffs, note_expired};
use super::super::{Expected, Galleries, GalleryError, SubjectFilter, as_id};
use super::receipts::{Doomed, add_piece, close_marked, find_or_begin_receipt, finish_receipt};
use super::rows::{
    Fate, Owned, count, erase_faces, erase_faces_of_lasting, erase_subjects, hold_subjects, mark, owners, set_patience,
    transaction_id,
};
use super::{AT_ONCE, ATTEMPTS, Erased, PIECE, PIECE_PATIENCE, Piece};
use crate::audit::Action;
use crate::db::Transaction;
use crate::types::{ErasureId, FaceId, GalleryId, Name, NamePrefix, SubjectId};

/// Subjects that are hidden in one transaction at most.
const MANY: i64 = 1000;

/// Which subjects of a gallery are to be hidden.
#[derive(Debug, Clone, Copy)]
pub enum Many<'a> {
    /// These, a thousand at most.
    These(&'a [SubjectId]),
    /// The first thousand of these.
    Matching(Matching<'a>),
    /// Those of these that have expired.
    Expired(&'a [SubjectId]),
}

/// Subjects that match, and were there at some time.
#[derive(Debug, Clone, Copy)]
pub struct Matching<'a> {
    pub filter: &'a SubjectFilter,
    /// Who was created later is left alone. By [`Galleries::clock`].
    pub until: DateTime<Utc>,
    /// Those up to here are passed.
    pub after: Option<SubjectId>,
}

/// Subjects of the gallery `$1` that are not being erased, as [`Matching`] says, in the order of ids.
macro_rules! matching {
    () => {
        "select id from subjects where gallery_id = $1 and erased_at is null and created_at <= $2 \
         and ($3::uuid is null or id > $3) and ($4::text is null or starts_with(name, $4)) \
         and ($5::jsonb is null or metadata @> $5) order by id limit $6"
    };
}

/// Subjects that nobody finds any more once the transaction has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenSubjects {
    /// In the order of ids.
    pub subjects: Vec<SubjectId>,
    /// They, and all that belongs to them.
    pub erased: Erased,
    /// By what a job finds those of which something is left to be deleted; `None`: nothing is.
    pub rest: Option<Uuid>,
    /// The id of the transaction.
    pub transaction: u64,
    pub erasure: Option<ErasureId>,
}

/// Faces that were erased.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErasedFaces {
    /// Those that were there.
    pub found: HashSet<FaceId>,
    pub erased: Erased,
    /// The receipts.
    pub erasures: Vec<ErasureId>,
    /// The id of the last transaction, if there was anything.
    pub transaction: Option<u64>,
}

impl Galleries {
    /// The subjects of a gallery that are given by id or name, in the order in which they are given. `None`: there is no such one.
    pub async fn find_subjects(
        &self,
        gallery: GalleryId,
        asked: &[Name],
    ) -> Result<Vec<Option<SubjectId>>, GalleryError> {
        let names: Vec<&str> = asked.iter().map(Name::as_str).collect();
        let ids: Vec<Option<Uuid>> = names.iter().map(|name| as_id(name)).collect();
        let found: Vec<Option<Uuid>> = sqlx::query_scalar(
            "select (select s.id from subjects s where s.gallery_id = $1 and (s.id = a.id or s.name = a.name) \
               and s.erased_at is null order by s.id = a.id desc nulls last limit 1) \
             from unnest($2::uuid[], $3::text[]) with ordinality as a (id, name, place) order by a.place",
        )
        .bind(gallery.0)
        .bind(ids)
        .bind(names)
        .fetch_all(&self.pool.cancellable())
        .await?;
        Ok(found.into_iter().map(|id| id.map(SubjectId)).collect())
    }

    /// Hides subjects of a gallery, and erases them if they have few faces. Enrolments of their faces that are under way are waited
    /// for. Those that are gone are left out. `None`: all are.
    pub async fn hide_subjects(
        &self,
        transaction: &mut Transaction,
        gallery: GalleryId,
        many: Many<'_>,
    ) -> Result<Option<HiddenSubjects>, GalleryError> {
        let held = match many {
            Many::These(ids) => hold_subjects(transaction, &raw(ids)).await?,
            Many::Expired(ids) => hold_expired(transaction, gallery, &raw(ids)).await?,
            // What is looked for is looked at again once a lock is had.
            Many::Matching(matching) => {
                find(concat!(matching!(), " for update"), &mut **transaction, gallery, matching, MANY).await?
            }
        };
        if held.is_empty() {
            return Ok(None);
        }
        let faces: Vec<Uuid> =
            sqlx::query_scalar("select id from faces where gallery_id = $1 and subject_id = any($2) limit $3")
                .bind(gallery.0)
                .bind(&held)
                .bind(AT_ONCE + 1)
                .fetch_all(&mut **transaction)
                .await?;
        let rest = (faces.len() > AT_ONCE as usize).then(Uuid::now_v7);
        let fate = Fate { into: None, with: rest };
        let hidden = mark(transaction, (gallery, &held), fate, &Expected::Any).await?;
        let Some((number, erasure)) = hidden else { return Ok(None) };
        let erased = match rest {
            Some(_) => count(transaction, gallery, Some(&held)).await?,
            None => {
                let mut erased = erase_faces(transaction, &held, &faces).await?;
                erased.subjects = erase_subjects(transaction, &held).await?;
                if let Some(erasure) = erasure {
                    finish_receipt(transaction, erasure, erased).await?;
                }
                erased
            }
        };
        if matches!(many, Many::Expired(_)) {
            note_expired(transaction, gallery, erased).await?;
        }
        let subjects: Vec<SubjectId> = held.into_iter().map(SubjectId).collect();
        self.note_erasure(transaction, erasure, Action::SubjectErase, (gallery, &subjects), json!(erased)).await?;
        Ok(Some(HiddenSubjects { subjects, erased, rest, transaction: number, erasure }))
    }

    /// What time it is, by the clock that says when subjects were created.
    pub async fn clock(&self) -> Result<DateTime<Utc>, GalleryError> {
        Ok(sqlx::query_scalar("select now()").fetch_one(&self.pool).await?)
    }

    /// Whether there are such subjects.
    pub async fn has_matching(&self, gallery: GalleryId, matching: Matching<'_>) -> Result<bool, GalleryError> {
        Ok(!find(matching!(), &self.pool.cancellable(), gallery, matching, 1).await?.is_empty())
    }

    /// What is left of subjects that were hidden together.
    pub async fn count_hidden_together(&self, with: Uuid) -> Result<Erased, GalleryError> {
        let mut connection = self.beside.acquire().await?;
        let subjects: Vec<(Uuid, Uuid)> =
            sqlx::query_as("select gallery_id, id from subjects where erased_with = $1 order by id")
                .bind(with)
                .fetch_all(&mut *connection)
                .await?;
        let Some((gallery, _)) = subjects.first().copied() else { return Ok(Erased::default()) };
        let ids: Vec<Uuid> = subjects.into_iter().map(|(_, id)| id).collect();
        Ok(count(&mut connection, GalleryId(gallery), Some(&ids)).await?)
    }

    /// Erases a piece of subjects that were hidden together.
    pub async fn erase_piece_together(&self, gallery: GalleryId, with: Uuid) -> Result<Piece, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        // Held, as a merge into one of them may still be at work.
        let subjects: Vec<Uuid> =
            sqlx::query_scalar("select id from subjects where erased_with = $1 order by id limit $2 for update")
                .bind(with)
                .bind(PIECE)
                .fetch_all(&mut *transaction)
                .await?;
        if subjects.is_empty() {
            close_marked(&mut transaction, with).await?;
            transaction.commit().await?;
            return Ok(Piece { done: true, ..Piece::default() });
        }
        let faces: Vec<Uuid> =
            sqlx::query_scalar("select id from faces where gallery_id = $1 and subject_id = any($2) limit $3")
                .bind(gallery.0)
                .bind(&subjects)
                .bind(PIECE)
                .fetch_all(&mut *transaction)
                .await?;
        let doomed = Doomed { gallery, subjects: Some(&subjects), mark: Some(with) };
        let erasure = find_or_begin_receipt(&mut transaction, doomed).await?;
        let mut erased = erase_faces(&mut transaction, &subjects, &faces).await?;
        if faces.len() < PIECE as usize {
            erased.subjects = erase_subjects(&mut transaction, &subjects).await?;
        }
        add_piece(&mut transaction, erasure, erased, false).await?;
        transaction.commit().await?;
        Ok(Piece { erased, ..Piece::default() })
    }

    /// Erases faces with their embeddings; their subjects stay.
    pub async fn delete_faces(&self, faces: &[FaceId]) -> Result<ErasedFaces, GalleryError> {
        let mut done = ErasedFaces::default();
        for piece in faces.chunks(PIECE as usize) {
            let ids: Vec<Uuid> = piece.iter().map(|face| face.0).collect();
            let (mut transaction, present) = self.begin_with_subjects_of(&ids).await?;
            if present.is_empty() {
                continue;
            }
            let faces: Vec<Uuid> = present.iter().map(|owned| owned.face).collect();
            let (erased, erasures) = erase_faces_of_lasting(&mut transaction, &faces).await?;
            self.note_faces(&mut transaction, &present, &erasures).await?;
            done.transaction = Some(transaction_id(&mut transaction).await?);
            transaction.commit().await?;
            done.erased += erased;
            done.erasures.extend(erasures);
            done.found.extend(faces.into_iter().map(FaceId));
        }
        Ok(done)
    }

    /// Notes that faces are erased, gallery by gallery in the order of ids, as the receipts are.
    async fn note_faces(
        &self,
        connection: &mut PgConnection,
        faces: &[Owned],
        erasures: &[ErasureId],
    ) -> Result<(), GalleryError> {
        let galleries: BTreeSet<Uuid> = faces.iter().map(|owned| owned.gallery).collect();
        for (gallery, erasure) in galleries.into_iter().zip(erasures) {
            let own = || faces.iter().filter(|owned| owned.gallery == gallery);
            let subjects: BTreeSet<SubjectId> = own().map(|owned| SubjectId(owned.subject)).collect();
            let subjects: Vec<SubjectId> = subjects.into_iter().collect();
            let details = json!({"faces": own().map(|owned| owned.face).collect::<Vec<_>>()});
            let gallery = GalleryId(gallery);
            self.note_erasure(connection, Some(*erasure), Action::FaceErase, (gallery, &subjects), details).await?;
        }
        Ok(())
    }

    /// Erases faces of a gallery that have expired. What was erased, and by which transaction.
    pub(in super::super) async fn erase_expired_faces(
        &self,
        gallery: GalleryId,
        faces: &[Uuid],
    ) -> Result<(Erased, u64), GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        let cutoffs = hold_cutoffs(&mut transaction, gallery).await?;
        let subjects: Vec<Uuid> = sqlx::query_scalar("select distinct subject_id from faces where id = any($1)")
            .bind(faces)
            .fetch_all(&mut *transaction)
            .await?;
        let held = hold_subjects(&mut transaction, &subjects).await?;
        // One may have gone to another subject while the locks were waited for; that one's turn comes later.
        let expired: Vec<Owned> = sqlx::query_as(
            "select id as face, subject_id as subject, gallery_id as gallery from faces \
             where id = any($1) and subject_id = any($2) and (expires_at <= now() or created_at <= $3)",
        )
        .bind(faces)
        .bind(held)
        .bind(cutoffs.and_then(|cutoffs| cutoffs.faces))
        .fetch_all(&mut *transaction)
        .await?;
        let faces: Vec<Uuid> = expired.iter().map(|owned| owned.face).collect();
        let (erased, erasures) = erase_faces_of_lasting(&mut transaction, &faces).await?;
        self.note_faces(&mut transaction, &expired, &erasures).await?;
        note_expired(&mut transaction, gallery, erased).await?;
        let number = transaction_id(&mut transaction).await?;
        transaction.commit().await?;
        Ok((erased, number))
    }

    /// Begins a transaction that holds the subjects of faces, which keeps these from going elsewhere; says which there are.
    async fn begin_with_subjects_of(&self, faces: &[Uuid]) -> Result<(Transaction, Vec<Owned>), GalleryError> {
        for _ in 0..ATTEMPTS {
            let mut transaction = self.pool.begin().await?;
            let subjects: HashSet<Uuid> =
                owners(&mut transaction, faces, &self.scope()).await?.into_iter().map(|owned| owned.subject).collect();
            let held = hold_subjects(&mut transaction, &subjects.into_iter().collect::<Vec<_>>()).await?;
            let now = owners(&mut transaction, faces, &self.scope()).await?;
            if now.iter().all(|owned| held.contains(&owned.subject)) {
                return Ok((transaction, now));
            }
            // One went to another subject while the locks were waited for.
            transaction.rollback().await?;
        }
        Err(GalleryError::Inconsistent("faces go from one subject to another"))
    }
}

fn raw(ids: &[SubjectId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// Locks a gallery, and those of its subjects that have expired, in the order of ids: somebody may have changed that meanwhile.
async fn hold_expired(
    transaction: &mut Transaction,
    gallery: GalleryId,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let Some(cutoffs) = hold_cutoffs(transaction, gallery).await? else { return Ok(Vec::new()) };
    sqlx::query_scalar(
        "select id from subjects where id = any($1) and erased_at is null \
         and (expires_at <= now() or coalesce(enrolled_at, created_at) <= $2) order by id for update",
    )
    .bind(ids)
    .bind(cutoffs.subjects)
    .fetch_all(&mut **transaction)
    .await
}

async fn find(
    sql: &'static str,
    executor: impl PgExecutor<'_>,
    gallery: GalleryId,
    matching: Matching<'_>,
    most: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(sql)
        .bind(gallery.0)
        .bind(matching.until)
        .bind(matching.after.map(|after| after.0))
        .bind(matching.filter.prefix.as_ref().map(NamePrefix::as_str))
        .bind(matching.filter.metadata.as_ref().map(Json))
        .bind(most)
        .fetch_all(executor)
        .await
}
