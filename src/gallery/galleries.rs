//! Galleries themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor, Row};
use uuid::Uuid;

use super::retention::{Expired, Kept, Retention};
use super::revision::as_expected;
use super::{Expected, Galleries, GalleryError, Policy, Revision, as_id, as_name, ids_of};
use crate::audit::Action;
use crate::db::{OnConstraint, Page, PageRequest};
use crate::types::{GalleryId, Name, Scope};

/// The gallery that always exists, made by the first migration.
pub const DEFAULT_GALLERY: GalleryId = GalleryId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0000));

/// Its name.
pub const DEFAULT_GALLERY_NAME: &str = "default";

/// How long after a change of a gallery's retention nothing is erased for it: time to take back what was a mistake.
const NOTICE: Duration = Duration::from_secs(3600);

/// A named, isolated collection of subjects.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    pub id: GalleryId,
    pub name: String,
    /// When a face counts as known here; `None`: as the server says.
    pub policy: Option<Policy>,
    /// How many subjects it may have; `None`: any number.
    pub max_subjects: Option<u64>,
    /// How long what is in it is kept; `None`: until it is deleted.
    pub kept: Option<Kept>,
    pub expired: Expired,
    pub created_at: DateTime<Utc>,
    /// Of what can be changed.
    pub revision: Revision,
}

/// What to change of a gallery; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GalleryChange {
    pub name: Option<Name>,
    /// `Some(None)`: back to what the server says.
    pub policy: Option<Option<Policy>>,
    /// `Some(None)`: any number.
    pub max_subjects: Option<Option<u64>>,
    /// `Some(None)`: what is in it does not expire by itself.
    pub retention: Option<Option<Retention>>,
}

/// What is read of a [`Gallery`].
macro_rules! gallery_columns {
    () => {
        "id, name, policy, max_subjects, created_at, revision, retention, retention_from, expired_subjects, expired_faces, \
         expired_at"
    };
}
pub(super) use gallery_columns;

/// The gallery whose id is `$1`, or else the one whose name is `$2`, if it is among `$3`, which is null for all.
macro_rules! by_id_or_name {
    () => {
        concat!(
            "select ",
            gallery_columns!(),
            " from galleries where (id = $1 or name = $2) and erased_at is null \
             and ($3::uuid[] is null or id = any($3)) order by id = $1 desc nulls last limit 1"
        )
    };
}

impl FromRow<'_, PgRow> for Gallery {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let id: Uuid = row.try_get("id")?;
        let retention = row.try_get::<Option<Json<Retention>>, _>("retention")?;
        let kept = retention.zip(row.try_get("retention_from")?);
        let count = |column| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)?.unsigned_abs());
        Ok(Self {
            id: GalleryId(id),
            name: row.try_get("name")?,
            policy: row.try_get::<Option<Json<Policy>>, _>("policy")?.map(|policy| policy.0),
            max_subjects: row.try_get::<Option<i64>, _>("max_subjects")?.map(i64::unsigned_abs),
            kept: kept.map(|(retention, from)| Kept { retention: retention.0, from }),
            expired: Expired {
                subjects: count("expired_subjects")?,
                faces: count("expired_faces")?,
                last_at: row.try_get("expired_at")?,
            },
            created_at: row.try_get("created_at")?,
            revision: Revision(row.try_get::<Option<Uuid>, _>("revision")?.unwrap_or(id)),
        })
    }
}

/// A gallery with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct GalleryContents {
    pub gallery: Gallery,
    pub subjects: u64,
    pub faces: u64,
}

impl Galleries {
    /// Who sees but some galleries creates none, and is not told whether there is one of the name.
    pub async fn create_gallery(&self, name: &Name) -> Result<Gallery, GalleryError> {
        if self.scope != Scope::All {
            return Err(GalleryError::GalleryNotFound(name.to_string()));
        }
        let id = GalleryId::new();
        self.refuse_other_id(id, name).await?;
        let mut transaction = self.pool.begin().await?;
        let created =
            sqlx::query_as(concat!("insert into galleries (id, name) values ($1, $2) returning ", gallery_columns!()))
                .bind(id.0)
                .bind(name.as_str())
                .fetch_one(&mut *transaction)
                .await
                .on_constraint("gallery_name_key", || GalleryError::DuplicateGallery(name.to_string()))?;
        self.note(&mut transaction, Action::GalleryCreate, (id, &[]), json!({})).await?;
        transaction.commit().await?;
        Ok(created)
    }

    /// A gallery cannot have another one's id as its name: it would never be found by that. Who sees but some galleries is refused
    /// every id, as they are not to learn which there are.
    async fn refuse_other_id(&self, own: GalleryId, name: &Name) -> Result<(), GalleryError> {
        let Some(id) = as_id(name.as_str()).filter(|id| *id != own.0) else { return Ok(()) };
        if self.scope != Scope::All {
            return Err(GalleryError::GalleryNameIsId(name.to_string()));
        }
        let taken = sqlx::query("select from galleries where id = $1").bind(id).fetch_optional(&self.pool).await?;
        if taken.is_some() { Err(GalleryError::GalleryNameIsId(name.to_string())) } else { Ok(()) }
    }

    pub async fn list_galleries(&self, request: PageRequest) -> Result<Page<Gallery>, GalleryError> {
        let rows: Vec<Gallery> = sqlx::query_as(concat!(
            "select ",
            gallery_columns!(),
            " from galleries where id > $1 and erased_at is null \
             and ($3::uuid[] is null or id = any($3)) order by id limit $2"
        ))
        .bind(request.after())
        .bind(request.rows_to_fetch())
        .bind(self.scope())
        .fetch_all(&self.pool)
        .await?;
        Ok(request.page(rows, |gallery| gallery.id.0))
    }

    pub async fn gallery(&self, gallery: &str) -> Result<GalleryContents, GalleryError> {
        let gallery = self.find_gallery(gallery).await?;
        let (subjects, faces): (i64, i64) = sqlx::query_as(
            "select (select count(*) from subjects where gallery_id = $1 and erased_at is null \
               and (expires_at is null or expires_at > now())), \
             (select count(*) from present_faces where gallery_id = $1)",
        )
        .bind(gallery.id.0)
        .fetch_one(&self.pool.cancellable())
        .await?;
        Ok(GalleryContents { gallery, subjects: subjects.unsigned_abs(), faces: faces.unsigned_abs() })
    }

    /// The gallery that is given by id or name, without its size.
    pub async fn find_gallery(&self, gallery: &str) -> Result<Gallery, GalleryError> {
        gallery_of(&self.pool, &self.scope, gallery).await
    }

    /// Changes a gallery, if it is as expected. The default gallery keeps its name. Another retention holds only after an hour.
    pub async fn update_gallery(
        &self,
        gallery: &str,
        change: &GalleryChange,
        expected: &Expected,
    ) -> Result<Gallery, GalleryError> {
        let id = self.gallery_id(gallery).await?;
        if id == DEFAULT_GALLERY && change.name.is_some() {
            return Err(GalleryError::DefaultGallery);
        }
        if let Some(name) = &change.name {
            self.refuse_other_id(id, name).await?;
        }
        let policy = change.policy.map(|policy| policy.map(Policy::checked).transpose()).transpose()?;
        let retention = change.retention.map(|retention| retention.map(Retention::checked).transpose()).transpose()?;
        let name = change.name.as_ref().map(Name::as_str);
        let mut transaction = self.pool.begin().await?;
        let updated: Option<Gallery> = sqlx::query_as(concat!(
            "update galleries set name = coalesce($2, name), policy = case when $3 then $4 else policy end, \
             max_subjects = case when $6 then $7 else max_subjects end, \
             retention_from = case when $8 and retention is distinct from $9 then now() + $10 else retention_from end, \
             retention = case when $8 then $9 else retention end \
             where id = $1 and erased_at is null and ",
            as_expected!("$5"),
            " returning ",
            gallery_columns!()
        ))
        .bind(id.0)
        .bind(name)
        .bind(policy.is_some())
        .bind(policy.flatten().map(Json))
        .bind(expected.revisions())
        .bind(change.max_subjects.is_some())
        .bind(change.max_subjects.flatten().map(|most| i64::try_from(most).unwrap_or(i64::MAX)))
        .bind(retention.is_some())
        .bind(retention.flatten().map(Json))
        .bind(NOTICE)
        .fetch_optional(&mut *transaction)
        .await
        .on_constraint("gallery_name_key", || GalleryError::DuplicateGallery(name.unwrap_or_default().to_owned()))?;
        let Some(updated) = updated else {
            return Err(gallery_not_as_expected(&mut *transaction, id, gallery).await?);
        };
        let details = json!({"renamed": change.name.is_some(), "policy": change.policy, "max_subjects": change.max_subjects,
                "retention": change.retention});
        self.note(&mut transaction, Action::GalleryChange, (id, &[]), details).await?;
        transaction.commit().await?;
        Ok(updated)
    }
}

/// The gallery that is given by id or name.
pub(super) async fn gallery_of(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    asked: &str,
) -> Result<Gallery, GalleryError> {
    find(by_id_or_name!(), executor, scope, asked).await
}

/// As [`gallery_of`]; nobody else changes or hides it until the transaction ends. Enrolments into it go on.
pub(super) async fn hold_gallery(
    connection: &mut PgConnection,
    scope: &Scope,
    asked: &str,
) -> Result<Gallery, GalleryError> {
    find(concat!(by_id_or_name!(), " for no key update"), connection, scope, asked).await
}

async fn find(
    sql: &'static str,
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    asked: &str,
) -> Result<Gallery, GalleryError> {
    let found = sqlx::query_as(sql)
        .bind(as_id(asked))
        .bind(as_name(asked))
        .bind(ids_of(scope))
        .fetch_optional(executor)
        .await?;
    found.ok_or_else(|| GalleryError::GalleryNotFound(asked.to_owned()))
}

/// Why nothing was done to a gallery in a state that was expected.
pub(super) async fn gallery_not_as_expected(
    executor: impl PgExecutor<'_>,
    id: GalleryId,
    asked: &str,
) -> Result<GalleryError, sqlx::Error> {
    let there = sqlx::query("select from galleries where id = $1 and erased_at is null")
        .bind(id.0)
        .fetch_optional(executor)
        .await?;
    let gone = || GalleryError::GalleryNotFound(asked.to_owned());
    Ok(there.map_or_else(gone, |_| GalleryError::OtherRevision))
}
