//! How a model becomes active, and a former one again.
//!
//! Which model is active is a word of the database. While a promotion embeds the enrolled faces, and while a model
//! answers in the shadow, that model is the *target*: enrolments embed new faces by it as well. The switch is one transaction that no enrolment overlaps: each
//! holds a shared advisory lock to its end and checks which model is active, the switch holds the lock alone and checks
//! that no face lacks an embedding.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::note;
use super::{Actor, Model, ModelState, Registry, RegistryError, announce};
use crate::db::{MODELS_LOCK, Transaction, lock};
use crate::types::ModelId;

/// Models that servers hold ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineup {
    pub active: Model,
    /// What faces are embedded by as well, to become active or to answer in the shadow.
    pub target: Option<Model>,
}

/// What came of an attempt to let a model answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Ready<T> {
    Done(T),
    /// So many faces have a chip but no embedding of the model yet.
    Missing(u64),
}

/// What faces are embedded by a model for, that is not the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Promotion,
    Shadow,
}

impl Purpose {
    fn begins(self) -> &'static str {
        match self {
            Self::Promotion => "promotion.start",
            Self::Shadow => "shadow.prepare",
        }
    }

    fn ends(self) -> &'static str {
        match self {
            Self::Promotion => "promotion.end",
            Self::Shadow => "shadow.end",
        }
    }
}

impl Registry {
    /// Who is active and who is to become so.
    pub async fn lineup(&self) -> Result<Lineup, RegistryError> {
        let models: Vec<Model> =
            sqlx::query_as("select * from models where state = 'active' or is_target").fetch_all(&self.pool).await?;
        let (mut active, mut target) = (None, None);
        for model in models {
            if model.state == ModelState::Active { active = Some(model) } else { target = Some(model) }
        }
        Ok(Lineup { active: active.ok_or(RegistryError::NoActiveModel)?, target })
    }

    /// The model that a rollback makes active: the one that was active last.
    pub async fn rollback_target(&self) -> Result<Model, RegistryError> {
        rollback_target(&mut *self.pool.begin().await?).await?.ok_or(RegistryError::NoFormerModel)
    }

    /// Makes the model the one that new faces are embedded by as well. Another one that was loses that place, and its
    /// shadow ends.
    pub async fn set_target(
        &self,
        id: ModelId,
        purpose: Purpose,
        actor: Actor,
        details: Value,
    ) -> Result<(), RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let already: Option<bool> =
            sqlx::query_scalar("select is_target from models where id = $1 and state <> 'retired'")
                .bind(id.0)
                .fetch_optional(&mut *transaction)
                .await?;
        if already.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))? {
            return Ok(());
        }
        let displaced: Option<(Uuid, bool)> = sqlx::query_as(
            "update models m set is_target = false, shadow_share = null from models former \
             where m.is_target and former.id = m.id returning m.id, former.shadow_share is not null",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some((displaced, true)) = displaced {
            let reason = json!({"reason": "another model took its place"});
            note(&mut transaction, actor, "shadow.end", Some(ModelId(displaced)), reason).await?;
        }
        sqlx::query("update models set is_target = true where id = $1").bind(id.0).execute(&mut *transaction).await?;
        note(&mut transaction, actor, purpose.begins(), Some(id), details).await?;
        announce(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends what shall not go on, but for a shadow that the model is in already. What was embedded stays.
    pub async fn clear_target(
        &self,
        id: ModelId,
        purpose: Purpose,
        actor: Actor,
        reason: &str,
    ) -> Result<(), RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let cleared =
            sqlx::query("update models set is_target = false where id = $1 and is_target and shadow_share is null")
                .bind(id.0)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        if cleared > 0 {
            note(&mut transaction, actor, purpose.ends(), Some(id), json!({"reason": reason})).await?;
            announce(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Makes the target the active model and the active one a former one, unless a face lacks an embedding.
    pub async fn switch(&self, id: ModelId, actor: Actor, details: Value) -> Result<Ready<Box<Model>>, RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let is_target: Option<bool> = sqlx::query_scalar("select is_target from models where id = $1")
            .bind(id.0)
            .fetch_optional(&mut *transaction)
            .await?;
        if !is_target.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))? {
            return Err(RegistryError::NotTheTarget);
        }
        let missing = count_missing(&mut transaction, id).await?;
        if missing > 0 {
            return Ok(Ready::Missing(missing));
        }
        let model = make_active(&mut transaction, id, actor, details).await?;
        transaction.commit().await?;
        Ok(Ready::Done(Box::new(model)))
    }

    /// Makes a model active where none is. `None` if one is already.
    pub async fn activate_first(&self, id: ModelId, actor: Actor) -> Result<Option<Model>, RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let active: bool = sqlx::query_scalar("select exists (select from models where state = 'active')")
            .fetch_one(&mut *transaction)
            .await?;
        if active {
            return Ok(None);
        }
        let model = make_active(&mut transaction, id, actor, json!({"first": true})).await?;
        transaction.commit().await?;
        Ok(Some(model))
    }

    /// Faces that no switch to this model could keep: they have neither a chip nor an embedding of it.
    pub async fn count_without_chip(&self, id: ModelId) -> Result<u64, RegistryError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from present_faces f where f.chip is null \
             and not exists (select from embeddings e where e.face_id = f.id and e.model_id = $1)",
        )
        .bind(id.0)
        .fetch_one(&self.pool.without_limits())
        .await?;
        Ok(count.unsigned_abs())
    }

    /// How many embeddings of a model there are.
    pub async fn count_embeddings(&self, id: ModelId) -> Result<u64, RegistryError> {
        let count: i64 =
            sqlx::query_scalar("select coalesce(sum(faces), 0)::bigint from templates where model_id = $1")
                .bind(id.0)
                .fetch_one(&self.pool.without_limits())
                .await?;
        Ok(count.unsigned_abs())
    }

    pub(super) async fn begin_exclusively(&self) -> Result<Transaction, RegistryError> {
        let mut transaction = self.pool.without_limits().begin().await?;
        hold_exclusively(&mut transaction).await?;
        Ok(transaction)
    }
}

/// Keeps everyone else from changing models, and from enrolling, until the transaction ends.
pub(super) async fn hold_exclusively(connection: &mut PgConnection) -> Result<(), RegistryError> {
    Ok(lock(connection, MODELS_LOCK).await?)
}

pub(super) async fn rollback_target(connection: &mut PgConnection) -> Result<Option<Model>, RegistryError> {
    let former = sqlx::query_as(
        "select * from models where state = 'former' and format is not null order by activated_at desc nulls last, id desc limit 1",
    );
    Ok(former.fetch_optional(connection).await?)
}

/// Faces with a chip but no embedding of the model, but for those that were set aside and those that are being erased.
pub(super) async fn count_missing(connection: &mut PgConnection, id: ModelId) -> Result<u64, RegistryError> {
    let count: i64 = sqlx::query_scalar("select count(*) from faces_to_embed where model_id = $1")
        .bind(id.0)
        .fetch_one(connection)
        .await?;
    Ok(count.unsigned_abs())
}

async fn make_active(
    connection: &mut PgConnection,
    id: ModelId,
    actor: Actor,
    mut details: Value,
) -> Result<Model, RegistryError> {
    let former: Option<Uuid> =
        sqlx::query_scalar("update models set state = 'former' where state = 'active' and id <> $1 returning id")
            .bind(id.0)
            .fetch_optional(&mut *connection)
            .await?;
    let model: Option<Model> = sqlx::query_as(
        "update models set state = 'active', is_target = false, shadow_share = null, \
           activated_at = clock_timestamp() where id = $1 returning *",
    )
    .bind(id.0)
    .fetch_optional(&mut *connection)
    .await?;
    // Without the model, dropping the transaction leaves the former one active.
    let model = model.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))?;
    if let Value::Object(details) = &mut details {
        details.insert("former".to_owned(), json!(former));
    }
    note(connection, actor, "model.activate", Some(id), details).await?;
    announce(connection).await?;
    Ok(model)
}
