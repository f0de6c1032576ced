//! The models that embeddings come from, and which of them is active.

mod calibration;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Row};
use thiserror::Error;

use crate::db::DbError;
use crate::types::ModelId;

pub use calibration::{Calibration, ChannelOrder, FmrPoint, Logistic, Manifest, ManifestError, NormScale};

/// Advisory lock under which models change state, one at a time. Any constant of ours serves.
const ACTIVATION_LOCK: i64 = 0x6d6f_6465_6c73;

#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("there is no model {0}")]
    ModelNotFound(ModelId),
    #[error("no model is active")]
    NoActiveModel,
    #[error("the model {name:?} is registered with {registered} dimensions, not {given}")]
    OtherDimension { name: String, registered: u32, given: u32 },
    #[error("a model has 1 to {max} dimensions, not {0}", max = Registry::MAX_DIMENSION)]
    InvalidDimension(u32),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Where a model is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelState {
    /// Embeds what is enrolled and searched. One model at most.
    Active,
    /// Registered, never active so far.
    Candidate,
    /// Was active.
    Retired,
}

/// A set of embedder weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub id: ModelId,
    pub name: String,
    /// Of the file of weights.
    pub sha256: [u8; 32],
    /// Of its embeddings.
    pub dimension: u32,
    pub state: ModelState,
    pub created_at: DateTime<Utc>,
    /// When it last became active.
    pub activated_at: Option<DateTime<Utc>>,
}

/// All models of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    pool: PgPool,
}

impl Registry {
    /// What a halfvec holds within a page.
    pub const MAX_DIMENSION: u32 = 4000;

    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Registers weights as a candidate. Weights that are known already, by their hash,
    /// keep their state and take the name.
    pub async fn register(&self, name: &str, sha256: [u8; 32], dimension: u32) -> Result<Model, RegistryError> {
        let columns = i32::try_from(dimension).ok().filter(|_| (1..=Self::MAX_DIMENSION).contains(&dimension));
        let columns = columns.ok_or(RegistryError::InvalidDimension(dimension))?;
        sqlx::query(
            "insert into models (id, name, sha256, dimension) values ($1, $2, $3, $4) \
             on conflict on constraint model_sha256_key do update set name = excluded.name",
        )
        .bind(ModelId::new().0)
        .bind(name)
        .bind(sha256.as_slice())
        .bind(columns)
        .execute(&self.pool)
        .await?;
        let model: Model = sqlx::query_as("select * from models where sha256 = $1")
            .bind(sha256.as_slice())
            .fetch_one(&self.pool)
            .await?;
        if model.dimension != dimension {
            let (name, registered) = (model.name, model.dimension);
            return Err(RegistryError::OtherDimension { name, registered, given: dimension });
        }
        Ok(model)
    }

    /// Makes a model the active one and retires the former, in one transaction. The active one stays as it is.
    pub async fn activate(&self, id: ModelId) -> Result<Model, RegistryError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(ACTIVATION_LOCK).execute(&mut *transaction).await?;
        sqlx::query("update models set state = 'retired' where state = 'active' and id <> $1")
            .bind(id.0)
            .execute(&mut *transaction)
            .await?;
        let model: Option<Model> = sqlx::query_as(
            "update models set state = 'active', \
             activated_at = case when state = 'active' then activated_at else now() end \
             where id = $1 returning *",
        )
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?;
        // Without the model, dropping the transaction leaves the former one active.
        let model = model.ok_or(RegistryError::ModelNotFound(id))?;
        transaction.commit().await?;
        Ok(model)
    }

    pub async fn active(&self) -> Result<Model, RegistryError> {
        let model = sqlx::query_as("select * from models where state = 'active'").fetch_optional(&self.pool).await?;
        model.ok_or(RegistryError::NoActiveModel)
    }

    pub async fn model(&self, id: ModelId) -> Result<Model, RegistryError> {
        let model = sqlx::query_as("select * from models where id = $1").bind(id.0).fetch_optional(&self.pool).await?;
        model.ok_or(RegistryError::ModelNotFound(id))
    }

    /// All models, oldest first.
    pub async fn list(&self) -> Result<Vec<Model>, RegistryError> {
        Ok(sqlx::query_as("select * from models order by id").fetch_all(&self.pool).await?)
    }
}

impl FromRow<'_, PgRow> for Model {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let sha256: &[u8] = row.try_get("sha256")?;
        let dimension: i32 = row.try_get("dimension")?;
        Ok(Self {
            id: ModelId(row.try_get("id")?),
            name: row.try_get("name")?,
            sha256: sha256.try_into().map_err(|error| decode_error("sha256", error))?,
            dimension: dimension.unsigned_abs(),
            state: match row.try_get("state")? {
                "active" => ModelState::Active,
                "candidate" => ModelState::Candidate,
                "retired" => ModelState::Retired,
                other => return Err(decode_error("state", format!("unknown state {other:?}"))),
            },
            created_at: row.try_get("created_at")?,
            activated_at: row.try_get("activated_at")?,
        })
    }
}

fn decode_error(column: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}
