//! Subjects: the people of a gallery.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgExecutor};
use uuid::Uuid;

use super::galleries::gallery_of;
use super::quota::check_quota;
use super::revision::as_expected;
use super::{Expected, Galleries, GalleryError, Metadata, Revision, as_id, as_name};
use crate::audit::Action;
use crate::db::{OnConstraint, violates};
use crate::db::{Page, PageRequest, Transaction};
use crate::types::{GalleryId, Name, NamePrefix, Scope, SubjectId};

/// How often a subject is looked for whom others create and delete at the same time.
const ATTEMPTS: usize = 5;

/// A person of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub id: SubjectId,
    pub name: String,
    pub gallery_id: GalleryId,
    /// The name of the gallery.
    pub gallery: String,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub created_at: DateTime<Utc>,
    /// When it expires by itself; `None`: never. Its gallery may say that it does so earlier.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many faces are enrolled; 0 after the last was deleted.
    pub faces: u64,
    /// Of name, metadata and expiry.
    pub revision: Revision,
}

/// What to change of a subject; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubjectChange {
    pub name: Option<Name>,
    /// Replaces all of the former metadata.
    pub metadata: Option<Metadata>,
    /// `Some(None)`: never.
    pub expires_at: Option<Option<DateTime<Utc>>>,
}

/// Which subjects are wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SubjectFilter {
    /// Whose name begins so.
    pub prefix: Option<NamePrefix>,
    /// Whose metadata holds all of this.
    pub metadata: Option<Metadata>,
}

#[derive(FromRow)]
struct SubjectRow {
    id: Uuid,
    name: String,
    gallery_id: Uuid,
    gallery: String,
    metadata: Json<serde_json::Map<String, serde_json::Value>>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    faces: i64,
    revision: Uuid,
}

/// Selects [`SubjectRow`]s of `s`, subjects.
const SELECT: &str = "select s.id, s.name, s.gallery_id, g.name as gallery, s.metadata, s.created_at, \
    s.expires_at, \
    (select count(*) from faces f where f.gallery_id = s.gallery_id and f.subject_id = s.id) as faces, \
    coalesce(s.revision, s.id) as revision from subjects s join galleries g on g.id = s.gallery_id";

impl From<SubjectRow> for Subject {
    fn from(row: SubjectRow) -> Self {
        Self {
            id: SubjectId(row.id),
            name: row.name,
            gallery_id: GalleryId(row.gallery_id),
            gallery: row.gallery,
            metadata: row.metadata.0,
            created_at: row.created_at,
            expires_at: row.expires_at,
            faces: row.faces.unsigned_abs(),
            revision: Revision(row.revision),
        }
    }
}

impl Galleries {
    /// A subject without faces yet, who is there when the transaction commits.
    pub async fn begin_subject(
        &self,
        gallery: &str,
        name: &Name,
        metadata: &Metadata,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<(Subject, Transaction), GalleryError> {
        let gallery_id = self.gallery_id(gallery).await?;
        self.refuse_id_as_name(gallery_id, name).await?;
        let id = SubjectId::new();
        let mut transaction = self.pool.begin().await?;
        let inserted = sqlx::query(
            "insert into subjects (id, gallery_id, name, metadata, expires_at) values ($1, $2, $3, $4, $5)",
        )
        .bind(id.0)
        .bind(gallery_id.0)
        .bind(name.as_str())
        .bind(Json(metadata))
        .bind(expires_at)
        .execute(&mut *transaction)
        .await;
        if inserted.as_ref().is_err_and(|error| violates(error, "subject_gallery_fkey")) {
            // Deleted since we looked.
            return Err(GalleryError::GalleryNotFound(gallery.to_owned()));
        }
        inserted.on_constraint("subject_name_key", || GalleryError::DuplicateSubject(name.to_string()))?;
        check_quota(&mut transaction, gallery_id).await?;
        self.note(&mut transaction, Action::SubjectCreate, (gallery_id, &[id]), json!({})).await?;
        let created = subject_of(&mut *transaction, id).await?;
        Ok((created, transaction))
    }

    /// A name that is a subject's id would never be found: the id wins.
    async fn refuse_id_as_name(&self, gallery: GalleryId, name: &Name) -> Result<(), GalleryError> {
        let Some(id) = as_id(name.as_str()) else { return Ok(()) };
        let taken = sqlx::query("select from subjects where gallery_id = $1 and id = $2")
            .bind(gallery.0)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        if taken.is_some() { Err(GalleryError::DuplicateSubject(name.to_string())) } else { Ok(()) }
    }

    pub async fn list_subjects(
        &self,
        gallery: &str,
        filter: &SubjectFilter,
        request: PageRequest,
    ) -> Result<Page<Subject>, GalleryError> {
        let gallery = self.gallery_id(gallery).await?;
        let sql = format!(
            "{SELECT} where s.gallery_id = $1 and s.id > $2 and s.erased_at is null \
             and ($4::text is null or starts_with(s.name, $4)) and ($5::jsonb is null or s.metadata @> $5) \
             and (s.expires_at is null or s.expires_at > now()) order by s.id limit $3"
        );
        let rows: Vec<SubjectRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(gallery.0)
            .bind(request.after())
            .bind(request.rows_to_fetch())
            .bind(filter.prefix.as_ref().map(NamePrefix::as_str))
            .bind(filter.metadata.as_ref().map(Json))
            .fetch_all(&self.pool.cancellable())
            .await?;
        Ok(request.page(rows.into_iter().map(Subject::from).collect(), |subject| subject.id.0))
    }

    pub async fn subject(&self, gallery: &str, subject: &str) -> Result<Subject, GalleryError> {
        let (_, id) = self.subject_id(gallery, subject).await?;
        self.subject_by_id(id).await
    }

    /// Renames a subject, replaces its metadata and/or says when it expires, if it is as expected.
    pub async fn update_subject(
        &self,
        gallery: &str,
        subject: &str,
        change: &SubjectChange,
        expected: &Expected,
    ) -> Result<Subject, GalleryError> {
        let (gallery_id, id) = self.subject_id(gallery, subject).await?;
        if let Some(name) = &change.name {
            self.refuse_id_as_name(gallery_id, name).await?;
        }
        let name = change.name.as_ref().map(Name::as_str);
        let mut transaction = self.pool.begin().await?;
        let updated = sqlx::query(concat!(
            "update subjects set name = coalesce($2, name), metadata = coalesce($3, metadata), \
             expires_at = case when $5 then $6 else expires_at end where id = $1 and erased_at is null and ",
            as_expected!("$4")
        ))
        .bind(id.0)
        .bind(name)
        .bind(change.metadata.as_ref().map(Json))
        .bind(expected.revisions())
        .bind(change.expires_at.is_some())
        .bind(change.expires_at.flatten())
        .execute(&mut *transaction)
        .await
        .on_constraint("subject_name_key", || GalleryError::DuplicateSubject(name.unwrap_or_default().to_owned()))?;
        if updated.rows_affected() == 0 {
            return Err(subject_not_as_expected(&mut *transaction, id, subject).await?);
        }
        let details = json!({
            "renamed": change.name.is_some(), "metadata": change.metadata.is_some(), "expires_at": change.expires_at.is_some(),
        });
        self.note(&mut transaction, Action::SubjectChange, (gallery_id, &[id]), details).await?;
        // As it was changed here: the row is locked.
        let changed = subject_of(&mut *transaction, id).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// The subject of an id.
    pub async fn subject_by_id(&self, id: SubjectId) -> Result<Subject, GalleryError> {
        let subject = subject_of(&self.pool, id).await?;
        if self.scope.has(subject.gallery_id) {
            Ok(subject)
        } else {
            Err(GalleryError::SubjectNotFound(id.to_string()))
        }
    }
}

/// The subject of the gallery `$1` whose id is `$2`, or else the one whose name is `$3`.
macro_rules! by_id_or_name {
    () => {
        "select id from subjects where gallery_id = $1 and (id = $2 or name = $3) and erased_at is null \
         and (expires_at is null or expires_at > now()) order by id = $2 desc nulls last limit 1"
    };
}

/// The id of a subject of a gallery that is given by id or name.
pub(super) async fn find_subject(
    executor: impl PgExecutor<'_>,
    gallery: GalleryId,
    asked: &str,
) -> Result<SubjectId, GalleryError> {
    find(by_id_or_name!(), executor, gallery, asked).await
}

/// The ids of a subject, given by id or name, and of its gallery. Nobody else changes or hides the subject, or enrolls a face of it,
/// until the transaction ends.
pub(super) async fn hold_subject(
    connection: &mut PgConnection,
    scope: &Scope,
    (gallery, asked): (&str, &str),
) -> Result<(GalleryId, SubjectId), GalleryError> {
    let gallery = gallery_of(&mut *connection, scope, gallery).await?.id;
    Ok((gallery, find(concat!(by_id_or_name!(), " for no key update"), connection, gallery, asked).await?))
}

async fn find(
    sql: &'static str,
    executor: impl PgExecutor<'_>,
    gallery: GalleryId,
    asked: &str,
) -> Result<SubjectId, GalleryError> {
    let found: Option<Uuid> = sqlx::query_scalar(sql)
        .bind(gallery.0)
        .bind(as_id(asked))
        .bind(as_name(asked))
        .fetch_optional(executor)
        .await?;
    found.map(SubjectId).ok_or_else(|| GalleryError::SubjectNotFound(asked.to_owned()))
}

async fn subject_of(executor: impl PgExecutor<'_>, id: SubjectId) -> Result<Subject, GalleryError> {
    let row: Option<SubjectRow> = sqlx::query_as(AssertSqlSafe(format!(
        "{SELECT} where s.id = $1 and s.erased_at is null and g.erased_at is null \
         and (s.expires_at is null or s.expires_at > now())"
    )))
    .bind(id.0)
    .fetch_optional(executor)
    .await?;
    row.map(Subject::from).ok_or_else(|| GalleryError::SubjectNotFound(id.to_string()))
}

/// Why nothing was done to a subject in a state that was expected.
pub(super) async fn subject_not_as_expected(
    executor: impl PgExecutor<'_>,
    id: SubjectId,
    asked: &str,
) -> Result<GalleryError, sqlx::Error> {
    let there = sqlx::query("select from subjects where id = $1 and erased_at is null")
        .bind(id.0)
        .fetch_optional(executor)
        .await?;
    let gone = || GalleryError::SubjectNotFound(asked.to_owned());
    Ok(there.map_or_else(gone, |_| GalleryError::OtherRevision))
}

/// Returns the subject, its name and whether it is new; keeps it from being deleted until the transaction ends.
pub(super) async fn find_or_create_subject(
    connection: &mut PgConnection,
    gallery: GalleryId,
    name: &Name,
) -> Result<(SubjectId, String, bool), GalleryError> {
    if let Some(id) = as_id(name.as_str()) {
        let found: Option<(String, bool)> = sqlx::query_as(
            "select name, coalesce(expires_at <= now(), false) from subjects where gallery_id = $1 and id = $2 \
             and erased_at is null for no key update",
        )
        .bind(gallery.0)
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((name, expired)) = found {
            if expired {
                return Err(GalleryError::SubjectExpired(name));
            }
            return Ok((SubjectId(id), name, false));
        }
    }
    for _ in 0..ATTEMPTS {
        // No stronger lock than this: the review, which keeps many subjects from being deleted, goes on beside it.
        let found: Option<(Uuid, bool)> = sqlx::query_as(
            "select id, coalesce(expires_at <= now(), false) from subjects where gallery_id = $1 and name = $2 \
             and erased_at is null for no key update",
        )
        .bind(gallery.0)
        .bind(name.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((id, expired)) = found {
            if expired {
                return Err(GalleryError::SubjectExpired(name.to_string()));
            }
            return Ok((SubjectId(id), name.to_string(), false));
        }
        let new = SubjectId::new();
        let created = sqlx::query(
            "insert into subjects (id, gallery_id, name) values ($1, $2, $3) \
             on conflict on constraint subject_name_key do nothing",
        )
        .bind(new.0)
        .bind(gallery.0)
        .bind(name.as_str())
        .execute(&mut *connection)
        .await?;
        if created.rows_affected() == 1 {
            return Ok((new, name.to_string(), true));
        }
        // Somebody else created it at the same moment.
    }
    Err(GalleryError::Inconsistent("a subject comes and goes"))
}
