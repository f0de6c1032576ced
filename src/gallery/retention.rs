//! How long subjects and faces are kept, and the erasure of what is kept no longer.
//!
//! A subject and a face can have a time at which they expire, and a gallery can say after how many days what is in it does; the
//! earlier counts. What has expired is erased by a sweep, piece by piece, in the order of locks of all [erasures](super::erasure).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Erased, Galleries, GalleryError};
use crate::types::{GalleryId, SubjectId};

/// Subjects, or faces, that are erased in one transaction at most.
pub(super) const SWEPT: i64 = 300;

/// After how many days what is in a gallery expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// A face expires so many days after it was enrolled. Its subject stays, perhaps without a face.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36500, example = 90)]
    pub faces_days: Option<u32>,
    /// A subject expires so many days after a face was last enrolled for it, or after it was created if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36500, example = 365)]
    pub subjects_days: Option<u32>,
}

impl Retention {
    /// A hundred years.
    const MOST_DAYS: u32 = 36_500;

    /// Refuses what says nothing, and what is no number of days.
    pub fn checked(self) -> Result<Self, GalleryError> {
        let days: Vec<u32> = [self.faces_days, self.subjects_days].into_iter().flatten().collect();
        if days.is_empty() {
            return Err(GalleryError::InvalidRetention("it says neither `faces_days` nor `subjects_days`"));
        }
        if days.iter().any(|days| !(1..=Self::MOST_DAYS).contains(days)) {
            return Err(GalleryError::InvalidRetention("days are a number from 1 to 36500"));
        }
        Ok(self)
    }
}

/// How long a gallery keeps what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub retention: Retention,
    /// From when on it holds; until then nothing is erased for it.
    pub from: DateTime<Utc>,
}

/// What the sweep has erased in a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    pub subjects: u64,
    pub faces: u64,
    /// When it last erased something here.
    pub last_at: Option<DateTime<Utc>>,
}

/// Subjects and faces that have been in a gallery for longer than its retention says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overdue {
    pub subjects: u64,
    pub faces: u64,
}

/// Before which time a gallery's subjects must have been enrolled last, and faces enrolled, to have expired.
#[derive(Debug, Clone, Copy, FromRow)]
pub(super) struct Cutoffs {
    pub subjects: Option<DateTime<Utc>>,
    pub faces: Option<DateTime<Utc>>,
}

/// The latest time at which something must have been enrolled to be past the days that `$name` of gallery `g` says. Days have 24 hours.
macro_rules! cutoff {
    ($name:literal) => {
        concat!("now() - make_interval(hours => 24 * (g.retention ->> '", $name, "')::int)")
    };
}

/// Subjects that have expired by a time of their own, and those that have been in their gallery for too long. Each gallery is
/// looked at by an index, in which what is due comes first.
pub(super) const SUBJECTS_DUE: [&str; 2] = [
    "select s.gallery_id, s.id from subjects s join galleries g on g.id = s.gallery_id and g.erased_at is null \
     where s.expires_at <= now() and s.erased_at is null order by s.expires_at limit $1",
    concat!(
        "select g.id, s.id from galleries g cross join lateral (select s.id from subjects s where s.gallery_id = g.id \
         and s.erased_at is null and coalesce(s.enrolled_at, s.created_at) <= ",
        cutoff!("subjects_days"),
        " order by coalesce(s.enrolled_at, s.created_at) limit $1) s \
         where g.erased_at is null and g.retention_from <= now() and g.retention ->> 'subjects_days' is not null limit $1"
    ),
];

/// The same of faces. Those of subjects that are erased go with them.
pub(super) const FACES_DUE: [&str; 2] = [
    "select f.gallery_id, f.id from faces f join galleries g on g.id = f.gallery_id and g.erased_at is null \
     join subjects s on s.id = f.subject_id and s.erased_at is null \
     where f.expires_at <= now() order by f.expires_at limit $1",
    concat!(
        "select g.id, f.id from galleries g cross join lateral (select f.id from faces f \
         join subjects s on s.id = f.subject_id and s.erased_at is null where f.gallery_id = g.id and f.created_at <= ",
        cutoff!("faces_days"),
        " order by f.created_at limit $1) f \
         where g.erased_at is null and g.retention_from <= now() and g.retention ->> 'faces_days' is not null limit $1"
    ),
];

impl Galleries {
    /// Subjects of one gallery that have expired, a piece of them.
    pub async fn subjects_due(&self) -> Result<Option<(GalleryId, Vec<SubjectId>)>, GalleryError> {
        let due = self.due(SUBJECTS_DUE).await?;
        Ok(due.map(|(gallery, ids)| (gallery, ids.into_iter().map(SubjectId).collect())))
    }

    async fn due(&self, statements: [&'static str; 2]) -> Result<Option<(GalleryId, Vec<Uuid>)>, GalleryError> {
        for sql in statements {
            let found: Vec<(Uuid, Uuid)> = sqlx::query_as(sql).bind(SWEPT).fetch_all(&self.beside).await?;
            if let Some((gallery, _)) = found.first().copied() {
                let ids = found.into_iter().filter(|(of, _)| *of == gallery).map(|(_, id)| id).collect();
                return Ok(Some((GalleryId(gallery), ids)));
            }
        }
        Ok(None)
    }

    /// Erases a piece of the faces that have expired; their subjects stay. What was erased, and by which transaction; `None`: none is
    /// due.
    pub async fn erase_faces_due(&self) -> Result<Option<(Erased, u64)>, GalleryError> {
        let Some((gallery, faces)) = self.due(FACES_DUE).await? else { return Ok(None) };
        self.erase_expired_faces(gallery, &faces).await.map(Some)
    }

    /// How many subjects and faces of a gallery its retention would erase now.
    pub async fn overdue(&self, gallery: GalleryId) -> Result<Overdue, GalleryError> {
        let (subjects, faces): (i64, i64) = sqlx::query_as(concat!(
            "select (select count(*) from subjects s where s.gallery_id = g.id and s.erased_at is null \
               and coalesce(s.enrolled_at, s.created_at) <= ",
            cutoff!("subjects_days"),
            "), (select count(*) from present_faces f where f.gallery_id = g.id and f.created_at <= ",
            cutoff!("faces_days"),
            ") from galleries g where g.id = $1"
        ))
        .bind(gallery.0)
        .fetch_one(&self.pool.cancellable())
        .await?;
        Ok(Overdue { subjects: subjects.unsigned_abs(), faces: faces.unsigned_abs() })
    }
}

/// Locks a gallery in which something has expired: nobody changes what it keeps for how long until the transaction ends. `None`: it is
/// gone.
pub(super) async fn hold_cutoffs(
    connection: &mut PgConnection,
    gallery: GalleryId,
) -> Result<Option<Cutoffs>, sqlx::Error> {
    sqlx::query_as(concat!(
        "select case when g.retention_from <= now() then ",
        cutoff!("subjects_days"),
        " end as subjects, case when g.retention_from <= now() then ",
        cutoff!("faces_days"),
        " end as faces from galleries g where g.id = $1 and g.erased_at is null for no key update"
    ))
    .bind(gallery.0)
    .fetch_optional(connection)
    .await
}

/// Notes what the sweep erased of a gallery whose lock is held.
pub(super) async fn note_expired(
    connection: &mut PgConnection,
    gallery: GalleryId,
    erased: Erased,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update galleries set expired_subjects = expired_subjects + $2, expired_faces = expired_faces + $3, \
         expired_at = now() where id = $1",
    )
    .bind(gallery.0)
    .bind(erased.subjects.cast_signed())
    .bind(erased.faces.cast_signed())
    .execute(connection)
    .await
    .map(drop)
}
