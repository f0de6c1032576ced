//! What reviews found: kinds, and pages of them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Galleries, GalleryError};
use crate::db::{ListTag, Page, PageError, PageRequest};
use crate::types::{FaceId, GalleryId, ModelId, SubjectId};

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
    pub(super) fn as_str(self) -> &'static str {
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

impl Galleries {
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
             left join subjects o on o.id = f.other_id join galleries g on g.id = f.gallery_id \
             where g.erased_at is null and s.erased_at is null and o.erased_at is null and f.gallery_id = $1 and f.model_id = $2 and f.kind = any($3) and f.score >= $4 \
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
        let next_cursor = items.last().filter(|_| more).map(|last| request.cursor_after(last));
        Ok(Page { items, next_cursor })
    }
}

/// Which page of the findings: after a score and, among equal scores, after an id.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FindingsRequest {
    score: f32,
    after: Uuid,
    limit: u32,
    list: ListTag,
}

impl FindingsRequest {
    /// As [`PageRequest::new`].
    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, PageError> {
        let limit = PageRequest::check_limit(limit)?;
        let Some(cursor) = cursor else {
            return Ok(Self { score: f32::INFINITY, after: Uuid::nil(), limit, list: ListTag::default() });
        };
        let (list, place) = ListTag::read(cursor)?;
        let (score, id) = place.split_first_chunk().ok_or(PageError::InvalidCursor)?;
        let score = f32::from_be_bytes(*score);
        let after = Uuid::from_slice(id).map_err(|_| PageError::InvalidCursor)?;
        if score.is_nan() {
            return Err(PageError::InvalidCursor);
        }
        Ok(Self { score, after, limit, list })
    }

    /// As [`PageRequest::of`].
    pub fn of(self, list: &str) -> Result<Self, PageError> {
        let tag = ListTag::of(list);
        if !self.after.is_nil() && self.list != tag {
            return Err(PageError::InvalidCursor);
        }
        Ok(Self { list: tag, ..self })
    }

    fn cursor_after(&self, last: &Finding) -> String {
        self.list.cursor(&[last.score.to_be_bytes().as_slice(), last.id.as_bytes()].concat())
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
