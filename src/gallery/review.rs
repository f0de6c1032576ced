//! What a review of galleries needs and finds: the queue of changed templates, and the findings.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use pgvector::HalfVector;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::db::{Page, PageError, PageRequest};
use crate::types::{FaceId, GalleryId, ModelId, StoredEmbedding, SubjectId};

/// What kind of thing a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingKind {
    /// Two subjects that look like one person.
    Duplicate,
    /// A face that is nearer to another subject than to the other faces of its own.
    Mislabelled,
    /// A subject whose faces fall into two groups that do not look alike.
    TwoPeople,
    /// A face that is unlike any face, such as a bad crop.
    NotAFace,
}

impl FindingKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Mislabelled => "mislabelled",
            Self::TwoPeople => "two_people",
            Self::NotAFace => "not_a_face",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Duplicate, Self::Mislabelled, Self::TwoPeople, Self::NotAFace]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// A finding to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFinding {
    pub kind: FindingKind,
    pub subject: SubjectId,
    /// Of [`FindingKind::Mislabelled`] and [`FindingKind::NotAFace`].
    pub face: Option<FaceId>,
    /// Of [`FindingKind::Duplicate`] and [`FindingKind::Mislabelled`].
    pub other: Option<SubjectId>,
    /// Findings of a kind are ranked by it, highest first.
    pub score: f32,
    /// The numbers behind it.
    pub evidence: Value,
}

/// A finding, with names.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub id: Uuid,
    pub kind: FindingKind,
    pub subject_id: SubjectId,
    pub subject: String,
    pub face_id: Option<FaceId>,
    pub other: Option<(SubjectId, String)>,
    pub score: f32,
    pub evidence: Value,
    pub found_at: DateTime<Utc>,
}

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
    /// Some subjects that wait for a review, all of one gallery, or nothing.
    pub async fn next_review(&self, model: ModelId, limit: u32) -> Result<Option<ReviewBatch>, GalleryError> {
        let rows: Vec<(Uuid, Uuid, bool, i64, String)> = sqlx::query_as(
            "select q.gallery_id, q.subject_id, q.changed, q.ticket, \
             pg_snapshot_xmin(pg_current_snapshot())::text from review_queue q \
             where q.model_id = $1 and q.gallery_id = \
               (select gallery_id from review_queue where model_id = $1 order by gallery_id limit 1) \
             order by q.subject_id limit $2",
        )
        .bind(model.0)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let Some((gallery, .., seen)) = rows.first().cloned() else { return Ok(None) };
        let due = |(_, subject, changed, ticket, _)| DueSubject { subject: SubjectId(subject), changed, ticket };
        Ok(Some(ReviewBatch { gallery: GalleryId(gallery), subjects: rows.into_iter().map(due).collect(), seen }))
    }

    /// The faces of some subjects of a gallery, subject by subject.
    pub async fn faces_to_review(
        &self,
        gallery: GalleryId,
        model: ModelId,
        subjects: &[SubjectId],
    ) -> Result<Vec<FaceToReview>, GalleryError> {
        let ids: Vec<Uuid> = subjects.iter().map(|subject| subject.0).collect();
        let rows: Vec<(Uuid, Uuid, HalfVector, Option<f32>)> = sqlx::query_as(
            "select subject_id, face_id, embedding, norm from embeddings \
             where gallery_id = $1 and model_id = $2 and subject_id = any($3) order by subject_id, face_id",
        )
        .bind(gallery.0)
        .bind(model.0)
        .bind(ids)
        .fetch_all(&self.pool)
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
        let mut transaction = self.pool.begin().await?;
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
            "delete from findings where model_id = $1 and gallery_id = $3 \
             and (subject_id = any($2) or (kind = 'duplicate' and other_id = any($2)))",
        )
        .bind(model.0)
        .bind(&ids)
        .bind(batch.gallery.0)
        .execute(&mut *transaction)
        .await?;
        for finding in findings {
            sqlx::query(
                "insert into findings (id, model_id, gallery_id, kind, subject_id, face_id, other_id, score, evidence) \
                 select $1, $2, $3, $4, s.id, $6, $7, $8, $9 from subjects s where s.id = $5 and s.gallery_id = $3 \
                 and ($6 is null or exists (select from faces where id = $6)) \
                 and ($7 is null or exists (select from subjects where id = $7))",
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
        Ok(sqlx::query_scalar(sequence).fetch_one(&self.pool).await?)
    }

    /// How far the review of a gallery is.
    pub async fn review_progress(&self, gallery: GalleryId, model: ModelId) -> Result<ReviewProgress, GalleryError> {
        let (waiting, subjects): (i64, i64) = sqlx::query_as(
            "select (select count(*) from review_queue where model_id = $1 and gallery_id = $2), \
             (select count(*) from templates where model_id = $1 and gallery_id = $2)",
        )
        .bind(model.0)
        .bind(gallery.0)
        .fetch_one(&self.pool)
        .await?;
        Ok(ReviewProgress { waiting: waiting.unsigned_abs(), subjects: subjects.unsigned_abs() })
    }

    /// Findings of some kinds, highest score first, of at least `least_score`.
    pub async fn list_findings(
        &self,
        gallery: GalleryId,
        model: ModelId,
        kinds: &[FindingKind],
        least_score: f32,
        request: &FindingsRequest,
    ) -> Result<Page<Finding>, GalleryError> {
        let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        let rows: Vec<FindingRow> = sqlx::query_as(
            "select f.id, f.kind, f.subject_id, s.name as subject, f.face_id, f.other_id, o.name as other, f.score, \
             f.evidence, f.found_at from findings f join subjects s on s.id = f.subject_id \
             left join subjects o on o.id = f.other_id \
             where f.gallery_id = $1 and f.model_id = $2 and f.kind = any($3) and f.score >= $4 \
             and (f.score < $5 or (f.score = $5 and f.id > $6)) order by f.score desc, f.id limit $7",
        )
        .bind(gallery.0)
        .bind(model.0)
        .bind(kinds)
        .bind(least_score)
        .bind(request.score)
        .bind(request.after)
        .bind(i64::from(request.limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        let more = rows.len() > request.limit as usize;
        let rows = rows.into_iter().take(request.limit as usize).map(Finding::try_from);
        let items = rows.collect::<Result<Vec<_>, _>>()?;
        let next_cursor = items.last().filter(|_| more).map(FindingsRequest::cursor_after);
        Ok(Page { items, next_cursor })
    }
}

/// Which page of the findings: after a score and, among equal scores, after an id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FindingsRequest {
    score: f32,
    after: Uuid,
    limit: u32,
}

impl FindingsRequest {
    /// As [`PageRequest::new`].
    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, PageError> {
        let limit = PageRequest::check_limit(limit)?;
        let Some(cursor) = cursor else {
            return Ok(Self { score: f32::INFINITY, after: Uuid::nil(), limit });
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| PageError::InvalidCursor)?;
        let (score, id) = bytes.split_first_chunk().ok_or(PageError::InvalidCursor)?;
        let score = f32::from_be_bytes(*score);
        let after = Uuid::from_slice(id).map_err(|_| PageError::InvalidCursor)?;
        if score.is_nan() {
            return Err(PageError::InvalidCursor);
        }
        Ok(Self { score, after, limit })
    }

    fn cursor_after(last: &Finding) -> String {
        let bytes = [last.score.to_be_bytes().as_slice(), last.id.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[derive(sqlx::FromRow)]
struct FindingRow {
    id: Uuid,
    kind: String,
    subject_id: Uuid,
    subject: String,
    face_id: Option<Uuid>,
    other_id: Option<Uuid>,
    other: Option<String>,
    score: f32,
    evidence: Json<Value>,
    found_at: DateTime<Utc>,
}

impl TryFrom<FindingRow> for Finding {
    type Error = GalleryError;

    fn try_from(row: FindingRow) -> Result<Self, GalleryError> {
        Ok(Self {
            id: row.id,
            kind: FindingKind::parse(&row.kind).ok_or(GalleryError::Inconsistent("a finding of unknown kind"))?,
            subject_id: SubjectId(row.subject_id),
            subject: row.subject,
            face_id: row.face_id.map(FaceId),
            other: row.other_id.map(SubjectId).zip(row.other),
            score: row.score,
            evidence: row.evidence.0,
            found_at: row.found_at,
        })
    }
}
