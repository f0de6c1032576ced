//! How a model becomes active, and a former one again.
//!
//! Which model is active is a word of the database. While a promotion embeds the enrolled faces, and while a model
//! answers in the shadow, that model is the *secondary* one: enrolments embed new faces by it as well. The switch is one transaction that no
//! enrolment overlaps: each holds a shared advisory lock to its end and checks which model is active, the switch holds the lock alone and checks
//! that no face lacks an embedding.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::noting::note;
use super::{Model, ModelState, Registry, RegistryError, announce};
use crate::audit::Action;
use crate::db::{MODELS_LOCK, Transaction, lock};
use crate::types::{Actor, ModelId};

/// Models that servers hold ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineup {
    pub active: Model,
    /// What faces are embedded by as well, to become active or to answer in the shadow.
    pub secondary: Option<Model>,
}

/// What faces are embedded by a model for, that is not the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Promotion,
    Shadow,
}

impl Purpose {
    fn begins(self) -> Action {
        match self {
            Self::Promotion => Action::PromotionStart,
            Self::Shadow => Action::ShadowPrepare,
        }
    }

    fn ends(self) -> Action {
        match self {
            Self::Promotion => Action::PromotionEnd,
            Self::Shadow => Action::ShadowEnd,
        }
    }
}

impl Registry {
    /// Who is active and who is to become so.
    pub async fn lineup(&self) -> Result<Lineup, RegistryError> {
        let models: Vec<Model> =
            sqlx::query_as("select * from models where state = 'active' or is_target").fetch_all(&self.pool).await?;
        let (mut active, mut secondary) = (None, None);
        for model in models {
            if model.state == ModelState::Active { active = Some(model) } else { secondary = Some(model) }
        }
        Ok(Lineup { active: active.ok_or(RegistryError::NoActiveModel)?, secondary })
    }

    /// The model that a rollback makes active: the one that was active last.
    pub async fn rollback_model(&self) -> Result<Model, RegistryError> {
        rollback_model(&mut *self.pool.begin().await?).await?.ok_or(RegistryError::NoFormerModel)
    }

    /// Makes the model the one that new faces are embedded by as well. Another one that was loses that place, and its
    /// shadow ends.
    pub async fn set_secondary(
        &self,
        id: ModelId,
        purpose: Purpose,
        actor: &Actor,
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
            note(&mut transaction, actor, Action::ShadowEnd, ModelId(displaced), reason).await?;
        }
        sqlx::query("update models set is_target = true where id = $1").bind(id.0).execute(&mut *transaction).await?;
        note(&mut transaction, actor, purpose.begins(), id, details).await?;
        announce(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends what shall not go on, but for a shadow that the model is in already. What was embedded stays.
    pub async fn clear_secondary(
        &self,
        id: ModelId,
        purpose: Purpose,
        actor: &Actor,
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
            note(&mut transaction, actor, purpose.ends(), id, json!({"reason": reason})).await?;
            announce(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Keeps everybody else from enrolling, and from changing models, until the transaction ends. Fails unless the model is the
    /// secondary one. If no face lacks an embedding of it then, it can be [switched to](Self::switch), or
    /// [answer in the shadow](Self::begin_shadow).
    pub async fn hold_secondary(&self, id: ModelId) -> Result<Transaction, RegistryError> {
        let mut transaction = self.begin_exclusively().await?;
        let is_secondary: Option<bool> = sqlx::query_scalar("select is_target from models where id = $1")
            .bind(id.0)
            .fetch_optional(&mut *transaction)
            .await?;
        match is_secondary.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))? {
            true => Ok(transaction),
            false => Err(RegistryError::NotSecondary),
        }
    }

    /// Makes the secondary model, which is held, the active one, and the active one a former one.
    pub async fn switch(
        &self,
        mut held: Transaction,
        id: ModelId,
        actor: &Actor,
        details: Value,
    ) -> Result<Model, RegistryError> {
        let model = make_active(&mut held, id, actor, details).await?;
        held.commit().await?;
        Ok(model)
    }

    /// Makes a model active where none is. `None` if one is already.
    pub async fn activate_first(&self, id: ModelId, actor: &Actor) -> Result<Option<Model>, RegistryError> {
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

pub(super) async fn rollback_model(connection: &mut PgConnection) -> Result<Option<Model>, RegistryError> {
    let former = sqlx::query_as(
        "select * from models where state = 'former' and format is not null order by activated_at desc nulls last, id desc limit 1",
    );
    Ok(former.fetch_optional(connection).await?)
}

async fn make_active(
    connection: &mut PgConnection,
    id: ModelId,
    actor: &Actor,
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
    note(connection, actor, Action::ModelActivate, id, details).await?;
    announce(connection).await?;
    Ok(model)
}
