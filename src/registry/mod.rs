//! The models that embeddings come from, and which of them is active.

mod calibration;
mod files;
mod lifecycle;
mod manifest;
mod measured;
mod model;
mod noting;
mod retirement;
mod shadow;
#[cfg(test)]
mod tests;

use serde_json::json;
use sqlx::PgPool;
use sqlx::types::Json;
use thiserror::Error;
use tokio::sync::watch;
use uuid::Uuid;

use crate::audit::Action;
use crate::db::{DbError, Notifications, Pool, Pools, Topic, notify};
use crate::types::{Actor, Caller, ModelId, hex};

pub use calibration::{Calibration, Fidelity, Logistic, NormScale};
pub use files::Unneeded;
pub use lifecycle::{Lineup, Purpose};
pub use manifest::{ChannelOrder, Manifest, ManifestError};
pub use model::{GateVerdict, Model, ModelFormat, ModelSource, ModelState};
pub use shadow::{Comparison, Disagreement, DisagreementAbout, DisagreementKind, NamedOpinion, Opinion, ShadowTally};

#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("there is no model {0:?}")]
    ModelNotFound(String),
    #[error("several models are called {0:?}; say the id or the sha256")]
    AmbiguousModel(String),
    #[error("there is another model {0:?}; give this one a name of its own")]
    DuplicateModel(String),
    /// Known weights were brought with another description.
    #[error(
        "this file is that of the model {name:?}, which an import does not change: {}; {way}", differences.join(", ")
    )]
    ModelExists { name: String, differences: Vec<String>, way: &'static str },
    #[error("no model is active")]
    NoActiveModel,
    #[error("no model was active before this one")]
    NoFormerModel,
    #[error("the model {name} is {role}")]
    ModelInUse { name: String, role: &'static str },
    #[error("another model took the place of this one")]
    NotSecondary,
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

/// A model whose file is in the model store.
#[derive(Debug, Clone)]
pub struct NewModel<'a> {
    pub sha256: [u8; 32],
    pub dimension: u32,
    pub manifest: &'a Manifest,
    pub format: ModelFormat,
    /// Length of the file.
    pub bytes: u64,
    pub source: ModelSource,
    /// The model that it was trained from.
    pub parent: Option<ModelId>,
}

/// All models of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Whom the audit names for what nobody else is said to do.
    actor: Actor,
    pool: Pool,
    /// For work in the background.
    beside: PgPool,
    notifications: Notifications,
}

impl Registry {
    /// What a halfvec holds within a page.
    pub const MAX_DIMENSION: u32 = 4000;

    pub fn new(pools: &Pools) -> Self {
        let Pools { requests: pool, beside, notifications } = pools.clone();
        Self { actor: Caller::server().actor(), pool, beside, notifications }
    }

    /// As somebody changes it.
    pub fn by(&self, actor: Actor) -> Self {
        Self { actor, ..self.clone() }
    }

    /// Sees a change whenever models changed, or faces came without an embedding, if [`Pools::listen`] runs.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.notifications.subscribe(Topic::Models)
    }

    /// Registers weights, of which no file is at hand, as a candidate. Weights that are known already, by their hash,
    /// stay as they are.
    pub async fn register(&self, name: &str, sha256: [u8; 32], dimension: u32) -> Result<Model, RegistryError> {
        let mut transaction = self.pool.begin().await?;
        let registered: Option<Uuid> = sqlx::query_scalar(
            "insert into models (id, name, sha256, dimension) values ($1, $2, $3, $4) \
             on conflict on constraint model_sha256_key do nothing returning id",
        )
        .bind(ModelId::new().0)
        .bind(name)
        .bind(sha256.as_slice())
        .bind(columns(dimension)?)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(id) = registered {
            let details = json!({"name": name, "sha256": hex(&sha256)});
            noting::note(&mut transaction, &self.actor, Action::ModelRegister, ModelId(id), details).await?;
        }
        transaction.commit().await?;
        self.of_dimension(sha256, dimension).await
    }

    /// Registers a model as a candidate; `false`: it is known already, and stays as it is. One that is described otherwise
    /// than it is known is refused. One of which there is no file, because it was retired or because only embeddings of
    /// it came so far, is what the import says.
    pub async fn import(&self, new: &NewModel<'_>, actor: &Actor) -> Result<(Model, bool), RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let known: Option<Model> = sqlx::query_as("select * from models where sha256 = $1")
            .bind(new.sha256.as_slice())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(known) = known {
            if known.is_loadable() {
                known.is_as_described(new)?;
                return Ok((known, false));
            }
            retirement::refuse_while_retiring(&mut transaction, &known).await?;
        }
        let model = self.describe(&mut transaction, new).await?;
        let details = json!({"name": model.name, "sha256": hex(&new.sha256), "source": new.source.as_str()});
        noting::note(&mut transaction, actor, Action::ModelImport, model.id, details).await?;
        announce(&mut transaction).await?;
        transaction.commit().await?;
        Ok((model, true))
    }

    /// Writes down what an import says of weights that have no file yet.
    async fn describe(&self, transaction: &mut sqlx::PgConnection, new: &NewModel<'_>) -> Result<Model, RegistryError> {
        let name = &new.manifest.name;
        let taken: bool = sqlx::query_scalar("select exists (select from models where name = $1 and sha256 <> $2)")
            .bind(name)
            .bind(new.sha256.as_slice())
            .fetch_one(&mut *transaction)
            .await?;
        if taken {
            return Err(RegistryError::DuplicateModel(name.clone()));
        }
        sqlx::query(
            "insert into models (id, name, sha256, dimension, manifest, format, file_bytes, source, parent_id) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict on constraint model_sha256_key do update set \
             name = excluded.name, manifest = excluded.manifest, format = excluded.format, \
             file_bytes = excluded.file_bytes, parent_id = coalesce(excluded.parent_id, models.parent_id), \
             source = case when models.source = 'embeddings' then excluded.source else models.source end, \
             state = case when models.state = 'retired' then 'candidate' else models.state end",
        )
        .bind(ModelId::new().0)
        .bind(name)
        .bind(new.sha256.as_slice())
        .bind(columns(new.dimension)?)
        .bind(Json(new.manifest))
        .bind(new.format.as_str())
        .bind(i64::try_from(new.bytes).unwrap_or(i64::MAX))
        .bind(new.source.as_str())
        .bind(new.parent.map(|parent| parent.0))
        .execute(&mut *transaction)
        .await?;
        self.of_dimension_in(transaction, new.sha256, new.dimension).await
    }

    async fn of_dimension(&self, sha256: [u8; 32], dimension: u32) -> Result<Model, RegistryError> {
        self.of_dimension_in(&mut *self.pool.begin().await?, sha256, dimension).await
    }

    async fn of_dimension_in(
        &self,
        connection: &mut sqlx::PgConnection,
        sha256: [u8; 32],
        given: u32,
    ) -> Result<Model, RegistryError> {
        let model: Model = sqlx::query_as("select * from models where sha256 = $1")
            .bind(sha256.as_slice())
            .fetch_one(connection)
            .await?;
        if model.dimension != given {
            return Err(RegistryError::OtherDimension { name: model.name, registered: model.dimension, given });
        }
        Ok(model)
    }

    /// Keeps what the gate said of a model.
    pub async fn set_verdict(&self, id: ModelId, verdict: &GateVerdict) -> Result<(), RegistryError> {
        sqlx::query("update models set verdict = $2 where id = $1")
            .bind(id.0)
            .bind(Json(verdict))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub async fn active(&self) -> Result<Model, RegistryError> {
        let model = sqlx::query_as("select * from models where state = 'active'").fetch_optional(&self.pool).await?;
        model.ok_or(RegistryError::NoActiveModel)
    }

    pub async fn model(&self, id: ModelId) -> Result<Model, RegistryError> {
        let model = sqlx::query_as("select * from models where id = $1").bind(id.0).fetch_optional(&self.pool).await?;
        model.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))
    }

    /// The model with these weights, if it is known.
    pub async fn of_weights(&self, sha256: &[u8; 32]) -> Result<Option<Model>, RegistryError> {
        let found = sqlx::query_as("select * from models where sha256 = $1").bind(sha256.as_slice());
        Ok(found.fetch_optional(&self.pool).await?)
    }

    /// The model that a text means: by id, else by sha256, else by name.
    pub async fn find(&self, text: &str) -> Result<Model, RegistryError> {
        let not_found = || RegistryError::ModelNotFound(text.to_owned());
        if text.contains('\0') {
            return Err(not_found());
        }
        let mut found: Vec<Model> = sqlx::query_as(
            "select * from models where id = $1 or encode(sha256, 'hex') = lower($2) or name = $2 \
             order by id = $1 desc nulls last, encode(sha256, 'hex') = lower($2) desc, id",
        )
        .bind(Uuid::try_parse(text).ok())
        .bind(text)
        .fetch_all(&self.pool)
        .await?;
        let by_name =
            |model: &Model| model.id.to_string() != text.to_lowercase() && hex(&model.sha256) != text.to_lowercase();
        match found.as_slice() {
            [] => Err(not_found()),
            [first, _, ..] if by_name(first) => Err(RegistryError::AmbiguousModel(text.to_owned())),
            _ => Ok(found.swap_remove(0)),
        }
    }

    /// All models, oldest first.
    pub async fn list(&self) -> Result<Vec<Model>, RegistryError> {
        Ok(sqlx::query_as("select * from models order by id").fetch_all(&self.pool).await?)
    }
}

/// A dimension as the database holds it.
fn columns(dimension: u32) -> Result<i32, RegistryError> {
    let columns = i32::try_from(dimension).ok().filter(|_| (1..=Registry::MAX_DIMENSION).contains(&dimension));
    columns.ok_or(RegistryError::InvalidDimension(dimension))
}

/// Tells all servers that models changed, when the transaction commits.
async fn announce(connection: &mut sqlx::PgConnection) -> Result<(), RegistryError> {
    Ok(notify(connection, Topic::Models).await?)
}
