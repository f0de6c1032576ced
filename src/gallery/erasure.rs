//! Erasure: faces, subjects and galleries with all that belongs to them.
//!
//! What is small is erased at once. What is large is marked first: from then on nobody finds it, and its name is free. Then it is
//! erased in pieces of bounded size, which can be broken off and gone on with at any time. A subject whose faces go to another one
//! is marked in the same way, and so are [many](many) at once.
//!
//! Locks are taken in one order by all who change several of these: gallery, subjects by id, findings by id, faces, embeddings.

mod many;
mod receipts;
mod reclaim;
mod rows;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::galleries::{gallery_not_as_expected, gallery_of, hold_gallery};
use super::subjects::{find_subject, hold_subject, subject_not_as_expected};
use super::{DEFAULT_GALLERY, Expected, Galleries, GalleryError};
use crate::audit::Action;
use crate::db::{Transaction, is_lock_timeout};
use crate::types::{ErasureId, FaceId, GalleryId, Name, Scope, SubjectId};
pub use many::{ErasedFaces, HiddenSubjects, Many, Matching};
pub use receipts::Erasure;
use receipts::{Doomed, add_piece, close_marked, find_or_begin_receipt, finish_receipt};
pub use reclaim::{LastReclaim, Reclaim, ReclaimState};
use rows::{
    Heir, count, erase_faces, erase_faces_and_subjects, erase_faces_of_lasting, erase_rest_of_gallery, erase_subjects,
    erase_subjects_of, forget_findings, hold_for_merge, hold_subjects, hold_with_heir, is_as_expected, is_hidden,
    mark_gallery, mark_subject, move_faces, pass_on_merges, set_patience, some_faces, subjects_of, transaction_id,
};

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
    /// The receipt; there is none for a subject whose faces go to another one.
    pub erasure: Option<ErasureId>,
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

    /// Erases a gallery, given by id or name, at once if it is as expected. `None`: it is too large, or enrolments into it take too
    /// long.
    pub async fn erase_small_gallery(
        &self,
        gallery: &str,
        expected: &Expected,
    ) -> Result<Option<(Hidden, Erased)>, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let id = erasable_gallery(&mut transaction, &self.scope, gallery).await?;
        let large: bool = sqlx::query_scalar(
            "select (select count(*) from (select from faces where gallery_id = $1 limit $2 + 1) f) > $2 \
             or (select count(*) from (select from subjects where gallery_id = $1 limit $2 + 1) s) > $2",
        )
        .bind(id.0)
        .bind(AT_ONCE)
        .fetch_one(&mut *transaction)
        .await?;
        if large {
            transaction.rollback().await?;
            return Ok(None);
        }
        let Some(hidden) = mark_gallery(&mut transaction, id, expected).await? else {
            return Err(gallery_not_as_expected(&mut *transaction, id, gallery).await?);
        };
        match erase_rest_of_gallery(&mut transaction, id, PATIENCE).await {
            Ok(erased) => {
                close(&mut transaction, &hidden, erased).await?;
                let action = Action::GalleryErase;
                self.note_erasure(&mut transaction, hidden.erasure, action, (id, &[]), json!(erased)).await?;
                transaction.commit().await?;
                Ok(Some((hidden, erased)))
            }
            Err(error) if is_lock_timeout(&error) => {
                transaction.rollback().await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Hides a gallery, given by id or name, if it is as expected. Enrolments under way do not hinder it: what they add is erased as well.
    pub async fn hide_gallery(
        &self,
        transaction: &mut Transaction,
        gallery: &str,
        expected: &Expected,
    ) -> Result<Hidden, GalleryError> {
        let id = erasable_gallery(transaction, &self.scope, gallery).await?;
        match mark_gallery(transaction, id, expected).await? {
            Some(hidden) => {
                let details = json!({"by": "job"});
                self.note_erasure(transaction, hidden.erasure, Action::GalleryErase, (id, &[]), details).await?;
                Ok(hidden)
            }
            None => Err(gallery_not_as_expected(&mut **transaction, id, gallery).await?),
        }
    }

    /// What is left of a gallery that is being erased, or of one of its subjects that is erased or merged into another.
    pub async fn count_hidden(&self, gallery: GalleryId, subject: Option<SubjectId>) -> Result<Erased, GalleryError> {
        let mut connection = self.beside.acquire().await?;
        let subject = subject.map(|subject| [subject.0]);
        Ok(count(&mut connection, gallery, subject.as_ref().map(<[_; 1]>::as_slice)).await?)
    }

    /// Erases a piece of a hidden gallery after `place`, which it moves on; at last the gallery itself.
    pub async fn erase_gallery_piece(&self, gallery: GalleryId, place: &mut Place) -> Result<Piece, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        if !is_hidden(&mut transaction, "select erased_at is not null from galleries where id = $1", gallery.0).await? {
            close_marked(&mut transaction, gallery.0).await?;
            transaction.commit().await?;
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
        let doomed = Doomed { gallery, subjects: None, mark: Some(gallery.0) };
        let erasure = find_or_begin_receipt(&mut transaction, doomed).await?;
        let mut piece = Piece::default();
        let passed = place.0.is_some();
        place.0 = faces.last().copied().map(FaceId);
        if !faces.is_empty() {
            piece.erased = erase_faces_and_subjects(&mut transaction, &faces).await?;
        } else if !passed {
            // No face was there from the first on, so that only subjects without faces can be left.
            piece.erased.subjects = erase_subjects_of(&mut transaction, gallery).await?;
            if piece.erased.subjects == 0 {
                piece.erased = erase_rest_of_gallery(&mut transaction, gallery, PIECE_PATIENCE).await?;
                piece.done = true;
            }
        }
        add_piece(&mut transaction, erasure, piece.erased, piece.done).await?;
        transaction.commit().await?;
        Ok(piece)
    }

    /// Erases a subject, given by id or name, at once if it is as expected. `None`: it has too many faces.
    pub async fn erase_small_subject(
        &self,
        gallery: &str,
        subject: &str,
        expected: &Expected,
    ) -> Result<Option<(Hidden, Erased)>, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let (gallery, id) = hold_subject(&mut transaction, &self.scope, (gallery, subject)).await?;
        let Some(hidden) = mark_subject(&mut transaction, (gallery, id), None, expected).await? else {
            return Err(subject_not_as_expected(&mut *transaction, id, subject).await?);
        };
        let faces = some_faces(&mut transaction, gallery, id, AT_ONCE + 1).await?;
        if faces.len() > AT_ONCE as usize {
            transaction.rollback().await?;
            return Ok(None);
        }
        let mut erased = erase_faces(&mut transaction, &[id.0], &faces).await?;
        erased.subjects = erase_subjects(&mut transaction, &[id.0]).await?;
        close(&mut transaction, &hidden, erased).await?;
        let action = Action::SubjectErase;
        self.note_erasure(&mut transaction, hidden.erasure, action, (gallery, &[id]), json!(erased)).await?;
        transaction.commit().await?;
        Ok(Some((hidden, erased)))
    }

    /// Hides a subject, given by id or name, if it is as expected; enrolments of its faces that are under way are waited for.
    pub async fn hide_subject(
        &self,
        transaction: &mut Transaction,
        gallery: &str,
        subject: &str,
        expected: &Expected,
    ) -> Result<Hidden, GalleryError> {
        let (gallery, id) = hold_subject(transaction, &self.scope, (gallery, subject)).await?;
        match mark_subject(transaction, (gallery, id), None, expected).await? {
            Some(hidden) => {
                let details = json!({"by": "job"});
                self.note_erasure(transaction, hidden.erasure, Action::SubjectErase, (gallery, &[id]), details).await?;
                Ok(hidden)
            }
            None => Err(subject_not_as_expected(&mut **transaction, id, subject).await?),
        }
    }

    /// Erases a piece of a hidden subject, or gives it to the subject that it was merged into, if that still exists; at last
    /// the subject itself.
    pub async fn erase_subject_piece(&self, gallery: GalleryId, subject: SubjectId) -> Result<Piece, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        set_patience(&mut transaction, PIECE_PATIENCE).await?;
        let sql = "select erased_at is not null from subjects where id = $1";
        if !is_hidden(&mut transaction, sql, subject.0).await? {
            close_marked(&mut transaction, subject.0).await?;
            transaction.commit().await?;
            return Ok(Piece { done: true, ..Piece::default() });
        }
        let heir = hold_with_heir(&mut transaction, subject).await?;
        forget_findings(&mut transaction, &[subject.0], &[]).await?;
        let faces = some_faces(&mut transaction, gallery, subject, PIECE).await?;
        let mut piece = Piece { done: faces.len() < PIECE as usize, ..Piece::default() };
        let mut erasure = None;
        match heir {
            Heir::Subject(into) => piece.moved = move_faces(&mut transaction, &faces, (subject, into)).await?,
            Heir::Nobody => {
                let doomed = Doomed { gallery, subjects: Some(&[subject.0]), mark: Some(subject.0) };
                erasure = Some(find_or_begin_receipt(&mut transaction, doomed).await?);
                piece.erased = erase_faces(&mut transaction, &[subject.0], &faces).await?;
            }
            // The next piece asks again.
            Heir::Changed => return Ok(Piece::default()),
        }
        if piece.done {
            piece.erased.subjects = erase_subjects(&mut transaction, &[subject.0]).await?;
        }
        if let Some(erasure) = erasure {
            add_piece(&mut transaction, erasure, piece.erased, piece.done).await?;
        }
        transaction.commit().await?;
        Ok(piece)
    }

    /// Gives all faces of `from` to `into`, both of one gallery and given by id or name, and erases `from`, at once, if `into` is
    /// as expected. `None`: there are too many.
    pub async fn merge_small_subject(
        &self,
        gallery: &str,
        into: &str,
        from: &str,
        expected: &Expected,
    ) -> Result<Option<(Hidden, SubjectId)>, GalleryError> {
        let mut transaction = self.pool.begin().await?;
        let (hidden, from, into) = self.hide_merged(&mut transaction, gallery, (into, from), expected).await?;
        let faces = some_faces(&mut transaction, hidden.gallery, from, AT_ONCE + 1).await?;
        if faces.len() > AT_ONCE as usize {
            transaction.rollback().await?;
            return Ok(None);
        }
        forget_findings(&mut transaction, &[from.0], &[]).await?;
        move_faces(&mut transaction, &faces, (from, into)).await?;
        erase_subjects(&mut transaction, &[from.0]).await?;
        transaction.commit().await?;
        Ok(Some((hidden, into)))
    }

    /// Hides a subject whose faces go to another one that is as expected: what was hidden, its id, and the other's.
    pub async fn hide_merged(
        &self,
        transaction: &mut Transaction,
        gallery: &str,
        (into, from): (&str, &str),
        expected: &Expected,
    ) -> Result<(Hidden, SubjectId, SubjectId), GalleryError> {
        let gallery_id = gallery_of(&mut **transaction, &self.scope, gallery).await?.id;
        let into_id = find_subject(&mut **transaction, gallery_id, into).await?;
        let from_id = find_subject(&mut **transaction, gallery_id, from).await?;
        if into_id == from_id {
            return Err(GalleryError::SameSubject);
        }
        hold_for_merge(transaction, from_id, into_id).await?;
        for (asked, id) in [(into, into_id), (from, from_id)] {
            // One of them may have gone, or have got another name, while the locks were waited for.
            if find_subject(&mut **transaction, gallery_id, asked).await? != id {
                return Err(GalleryError::SubjectNotFound(asked.to_owned()));
            }
        }
        // Its lock is held.
        if !is_as_expected(transaction, into_id, expected).await? {
            return Err(GalleryError::OtherRevision);
        }
        let hidden = mark_subject(transaction, (gallery_id, from_id), Some(into_id), &Expected::Any).await?;
        let hidden = hidden.ok_or_else(|| GalleryError::SubjectNotFound(from.to_owned()))?;
        pass_on_merges(transaction, from_id, into_id).await?;
        let details = json!({"from": from_id, "into": into_id});
        self.note(transaction, Action::SubjectMerge, (gallery_id, &[from_id, into_id]), details).await?;
        Ok((hidden, from_id, into_id))
    }

    /// Erases the face with its embeddings. Its subject stays, even without a face.
    pub async fn delete_face(&self, id: FaceId) -> Result<ErasedFaces, GalleryError> {
        let (mut transaction, gallery, subject) = self.begin_with_subject_of(id, None).await?;
        let (erased, erasures) = erase_faces_of_lasting(&mut transaction, &[id.0]).await?;
        if erased.faces == 0 {
            return Err(GalleryError::FaceNotFound(id));
        }
        let (erasure, details) = (erasures.first().copied(), json!({"faces": [id]}));
        self.note_erasure(&mut transaction, erasure, Action::FaceErase, (gallery, &[subject]), details).await?;
        let number = transaction_id(&mut transaction).await?;
        transaction.commit().await?;
        Ok(ErasedFaces { found: [id].into(), erased, erasures, transaction: Some(number) })
    }

    /// Begins a transaction that holds the subject of a face, which keeps the face from going to another one and from being
    /// erased, and `other`, a subject of the same gallery given by id or name, if there is one. Says which gallery that is, and which subject.
    pub(super) async fn begin_with_subject_of(
        &self,
        face: FaceId,
        other: Option<&Name>,
    ) -> Result<(Transaction, GalleryId, SubjectId), GalleryError> {
        for _ in 0..ATTEMPTS {
            let mut transaction = self.pool.begin().await?;
            let (gallery, subject, other_subject) = subjects_of(&mut transaction, face, other).await?;
            if !self.scope.has(GalleryId(gallery)) {
                return Err(GalleryError::FaceNotFound(face));
            }
            // Both in the order of ids, as everybody locks several.
            let wanted: Vec<Uuid> = [Some(subject), other_subject].into_iter().flatten().collect();
            let held = hold_subjects(&mut transaction, &wanted).await?;
            let now = subjects_of(&mut transaction, face, other).await?;
            if now == (gallery, subject, other_subject) && wanted.iter().all(|id| held.contains(id)) {
                return Ok((transaction, GalleryId(gallery), SubjectId(subject)));
            }
            // It went to another subject while that lock was waited for, or the other one came.
            transaction.rollback().await?;
        }
        Err(GalleryError::Inconsistent("a face goes from one subject to another"))
    }
}

/// Completes the receipt for what was hidden and erased in one transaction.
async fn close(connection: &mut PgConnection, hidden: &Hidden, erased: Erased) -> Result<(), sqlx::Error> {
    match hidden.erasure {
        Some(erasure) => finish_receipt(connection, erasure, erased).await,
        None => Ok(()),
    }
}

async fn erasable_gallery(
    connection: &mut PgConnection,
    scope: &Scope,
    gallery: &str,
) -> Result<GalleryId, GalleryError> {
    match hold_gallery(connection, scope, gallery).await?.id {
        DEFAULT_GALLERY => Err(GalleryError::DefaultGallery),
        id => Ok(id),
    }
}
