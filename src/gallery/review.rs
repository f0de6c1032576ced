//! What a review of galleries needs: the queue of changed templates, and to put down what it found.

use pgvector::HalfVector;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::findings::NewFinding;
use super::{Galleries, GalleryError};
use crate::types::{FaceId, GalleryId, ModelId, StoredEmbedding, SubjectId};

/// Subjects of one gallery that are due for a review.
#[derive(Debug, Clone, PartialEq)]
pub struct ReviewBatch {
    pub gallery: GalleryId,
    pub subjects: Vec<DueSubject>,
    /// Every transaction before this one had ended when the batch was taken; a number as text.
    seen: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DueSubject {
    pub subject: SubjectId,
    /// Whether its template changed, or only another one near to it did.
    pub changed: bool,
    ticket: i64,
}

impl ReviewBatch {
    /// Each subject as a batch of its own.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        self.subjects.iter().map(|due| Self { subjects: vec![due.clone()], seen: self.seen.clone(), ..*self })
    }
}

/// A face to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceToReview {
    pub subject: SubjectId,
    pub face: FaceId,
    pub embedding: StoredEmbedding,
    /// [`crate::types::Embedding::norm`], where it is known.
    pub norm: Option<f32>,
}

/// How far the review of a gallery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReviewProgress {
    /// Subjects that wait for it.
    pub waiting: u64,
    /// Subjects in all.
    pub subjects: u64,
}

impl Galleries {
    /// The next gallery after `last`, in a circle, in which subjects wait for a review.
    pub async fn next_gallery_to_review(
        &self,
        model: ModelId,
        last: GalleryId,
    ) -> Result<Option<GalleryId>, GalleryError> {
        let (mut after, mut passed_end) = (Some(last.0), false);
        loop {
            let next: Option<(Uuid, bool)> = sqlx::query_as(
                "select q.gallery_id, g.erased_at is null from ( \
                   select gallery_id from review_queue where model_id = $1 and ($2::uuid is null or gallery_id > $2) \
                   order by gallery_id limit 1) q join galleries g on g.id = q.gallery_id",
            )
            .bind(model.0)
            .bind(after)
            .fetch_optional(&self.beside)
            .await?;
            match next {
                Some((gallery, true)) => return Ok(Some(GalleryId(gallery))),
                // What is being erased needs no review.
                Some((gallery, false)) => after = Some(gallery),
                None if passed_end => return Ok(None),
                None => (after, passed_end) = (None, true),
            }
        }
    }

    /// How many subjects of all galleries wait for a review.
    pub async fn count_to_review(&self, model: ModelId) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar("select count(*) from review_queue where model_id = $1")
            .bind(model.0)
            .fetch_one(&self.beside)
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Subjects of a gallery whose templates changed after a ticket was drawn, counted up to `most`.
    pub async fn changed_since(
        &self,
        gallery: GalleryId,
        model: ModelId,
        ticket: i64,
        most: u32,
    ) -> Result<u64, GalleryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from (select from review_queue where model_id = $1 and gallery_id = $2 and changed \
             and ticket > $3 limit $4) waiting",
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(ticket)
        .bind(i64::from(most))
        .fetch_one(&self.beside)
        .await?;
        Ok(count.unsigned_abs())
    }

    /// Some subjects of a gallery that wait for a review: `limit` at most, who have `most_faces` together unless it is one.
    pub async fn next_review(
        &self,
        gallery: GalleryId,
        model: ModelId,
        limit: u32,
        most_faces: u32,
    ) -> Result<Option<ReviewBatch>, GalleryError> {
        let rows: Vec<(Uuid, bool, i64, String)> = sqlx::query_as(
            "select subject_id, changed, ticket, seen from ( \
               select q.*, pg_snapshot_xmin(pg_current_snapshot())::text as seen, \
                 row_number() over (order by q.subject_id) as number, sum(t.faces) over (order by q.subject_id) as faces from ( \
                   select * from review_queue where model_id = $1 and gallery_id = $2 order by subject_id limit $3 \
                 ) q left join templates t on t.model_id = q.model_id and t.subject_id = q.subject_id \
             ) due where number = 1 or coalesce(faces, 0) <= $4 order by subject_id",
        )
        .bind(model.0)
        .bind(gallery.0)
        .bind(i64::from(limit))
        .bind(i64::from(most_faces))
        .fetch_all(&self.beside)
        .await?;
        let Some((.., seen)) = rows.first().cloned() else { return Ok(None) };
        let due = |(subject, changed, ticket, _)| DueSubject { subject: SubjectId(subject), changed, ticket };
        Ok(Some(ReviewBatch { gallery, subjects: rows.into_iter().map(due).collect(), seen }))
    }

    /// The faces of some subjects of a gallery, subject by subject: of each the latest ones, `most` at most.
    pub async fn faces_to_review(
        &self,
        gallery: GalleryId,
        model: ModelId,
        subjects: &[SubjectId],
        most: u32,
    ) -> Result<Vec<FaceToReview>, GalleryError> {
        let ids: Vec<Uuid> = subjects.iter().map(|subject| subject.0).collect();
        let rows: Vec<(Uuid, Uuid, HalfVector, Option<f32>)> = sqlx::query_as(
            "select e.subject_id, e.face_id, e.embedding, e.norm from unnest($3::uuid[]) as due (subject_id) \
             cross join lateral (select * from embeddings where gallery_id = $1 and model_id = $2 \
               and subject_id = due.subject_id order by face_id desc limit $4) e order by e.subject_id, e.face_id",
        )
        .bind(gallery.0)
        .bind(model.0)
        .bind(ids)
        .bind(i64::from(most))
        .fetch_all(&self.beside)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(subject, face, embedding, norm)| FaceToReview {
                subject: SubjectId(subject),
                face: FaceId(face),
                embedding: StoredEmbedding::new(embedding.to_vec()),
                norm,
            })
            .collect())
    }

    /// Has subjects reviewed again that were reviewed before one of the templates changed, and of which a face is as near to
    /// it as `least`, or whose findings name one of the changed subjects. Those that came later know the change.
    pub async fn recheck_near(
        &self,
        gallery: GalleryId,
        model: ModelId,
        changed: &[SubjectId],
        least: f32,
    ) -> Result<(), GalleryError> {
        let ids: Vec<Uuid> = changed.iter().map(|subject| subject.0).collect();
        let mut transaction = self.begin_by_index().await?;
        sqlx::query(
            // In the first review of a gallery nobody is older than what changed; later everybody is. `offset 0` has faces
            // and subjects joined first, which are in one order, rather than all subjects sorted with the vector of the change.
            "with due as materialized ( \
               select q.subject_id, q.transaction, t.embedding from review_queue q \
               join templates t on t.model_id = q.model_id and t.subject_id = q.subject_id \
               where q.model_id = $2 and q.gallery_id = $1 and q.subject_id = any($3) \
             ), older as materialized ( \
               select subject_id, seen from reviewed where model_id = $2 and gallery_id = $1 \
               and seen <= (select transaction from due order by transaction desc limit 1) \
             ), near as materialized ( \
               select face.subject_id from ( \
                 select o.subject_id, o.seen, e.embedding from older o join embeddings e \
                 on e.gallery_id = $1 and e.model_id = $2 and e.subject_id = o.subject_id offset 0 \
               ) face join due d on face.seen <= d.transaction and face.subject_id <> d.subject_id \
                 and (face.embedding <#> d.embedding) <= -$4::float8 \
               union all \
               select subject_id from findings where gallery_id = $1 and model_id = $2 and other_id = any($3) \
             ), held as ( \
               select subject_id from templates where model_id = $2 and subject_id <> all($3) \
               and subject_id in (select subject_id from near) order by subject_id for key share \
             ) \
             insert into review_queue (model_id, gallery_id, subject_id, changed) \
             select $2, $1, subject_id, false from held \
             on conflict on constraint review_queue_pkey do nothing",
        )
        .bind(gallery.0)
        .bind(model.0)
        .bind(ids)
        .bind(f64::from(least))
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// A transaction whose statements find rows by index: their plans may be of a time when tables were small, and an
    /// import makes them a thousand times as large.
    async fn begin_by_index(&self) -> Result<Transaction<'static, Postgres>, GalleryError> {
        let mut transaction = self.beside.begin().await?;
        // With a hash all faces would be read, with a merge those up to the last that is sought.
        sqlx::query("set local enable_seqscan = off").execute(&mut *transaction).await?;
        sqlx::query("set local enable_hashjoin = off").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    /// Replaces what was found about the subjects of a batch, and takes them off the queue unless they changed
    /// meanwhile. Subjects and faces that are gone by now are left out.
    pub async fn finish_review(
        &self,
        model: ModelId,
        batch: &ReviewBatch,
        findings: &[NewFinding],
    ) -> Result<(), GalleryError> {
        let ids: Vec<Uuid> = batch.subjects.iter().map(|due| due.subject.0).collect();
        let tickets: Vec<i64> = batch.subjects.iter().map(|due| due.ticket).collect();
        let mut transaction = self.begin_by_index().await?;
        // First of all, and in the order of ids: whoever deletes these has them locked before anything else that is
        // written here, so neither can block the other for good.
        sqlx::query("select from galleries where id = $1 for key share")
            .bind(batch.gallery.0)
            .execute(&mut *transaction)
            .await?;
        let others = findings.iter().filter_map(|finding| finding.other).map(|other| other.0);
        let others: Vec<Uuid> = others.collect();
        sqlx::query(
            // One list of ids, for the index: with `or` between them all subjects would be looked at.
            "select from subjects where id in (select unnest($1::uuid[]) union select unnest($2::uuid[]) \
               union select subject_id from findings where model_id = $3 and other_id = any($1) \
               union select other_id from findings where model_id = $3 and subject_id = any($1)) \
             order by id for key share",
        )
        .bind(&ids)
        .bind(others)
        .bind(model.0)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "delete from findings where id in (select id from findings where model_id = $1 and gallery_id = $3 \
             and (subject_id = any($2) or (kind = 'duplicate' and other_id = any($2))) order by id for update)",
        )
        .bind(model.0)
        .bind(&ids)
        .bind(batch.gallery.0)
        .execute(&mut *transaction)
        .await?;
        for finding in findings {
            sqlx::query(
                "insert into findings (id, model_id, gallery_id, kind, subject_id, face_id, other_id, score, evidence) \
                 select $1, $2, $3, $4, s.id, $6, $7, $8, $9 from subjects s \
                 where s.id = $5 and s.gallery_id = $3 and s.erased_at is null \
                 and ($6 is null or exists (select from faces where id = $6)) \
                 and ($7 is null or exists (select from subjects where id = $7 and erased_at is null))",
            )
            .bind(Uuid::now_v7())
            .bind(model.0)
            .bind(batch.gallery.0)
            .bind(finding.kind.as_str())
            .bind(finding.subject.0)
            .bind(finding.face.map(|face| face.0))
            .bind(finding.other.map(|other| other.0))
            .bind(finding.score)
            .bind(Json(&finding.evidence))
            .execute(&mut *transaction)
            .await?;
        }
        // In the order of ids, as triggers fill the queue: an import may be adding many of these.
        sqlx::query(
            "insert into reviewed (model_id, gallery_id, subject_id, seen) \
             select t.model_id, t.gallery_id, t.subject_id, $3::text::xid8 from templates t \
             where t.model_id = $1 and t.subject_id = any($2) order by t.subject_id for key share \
             on conflict on constraint reviewed_pkey do update set seen = excluded.seen",
        )
        .bind(model.0)
        .bind(&ids)
        .bind(&batch.seen)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "delete from review_queue q using ( \
               select w.subject_id from review_queue w \
               join unnest($2::uuid[], $3::bigint[]) as seen (subject_id, ticket) using (subject_id, ticket) \
               where w.model_id = $1 order by w.subject_id for update of w \
             ) done where q.model_id = $1 and q.subject_id = done.subject_id",
        )
        .bind(model.0)
        .bind(ids)
        .bind(tickets)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// How many tickets have been drawn for the queue, of all galleries: it tells how fast templates change.
    pub async fn review_tickets(&self) -> Result<i64, GalleryError> {
        let sequence = "select last_value from review_queue_ticket_seq";
        Ok(sqlx::query_scalar(sequence).fetch_one(&self.beside).await?)
    }

    /// How far the review of a gallery is.
    pub async fn review_progress(&self, gallery: GalleryId, model: ModelId) -> Result<ReviewProgress, GalleryError> {
        let (waiting, subjects): (i64, i64) = sqlx::query_as(
            "select (select count(*) from review_queue where model_id = $1 and gallery_id = $2), \
             (select count(*) from templates where model_id = $1 and gallery_id = $2)",
        )
        .bind(model.0)
        .bind(gallery.0)
        .fetch_one(&self.pool.cancellable())
        .await?;
        Ok(ReviewProgress { waiting: waiting.unsigned_abs(), subjects: subjects.unsigned_abs() })
    }
}
