//! The record of who changed what about models.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Registry, RegistryError};
use crate::db::{Page, PageRequest};
use crate::types::ModelId;

/// Something that was done.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct AuditEntry {
    pub id: Uuid,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub model_id: Option<Uuid>,
    /// The name of the model.
    pub model: Option<String>,
    #[sqlx(json)]
    pub details: Value,
}

impl Registry {
    /// Notes something that is not a change of a model's state, which notes itself.
    pub async fn note(
        &self,
        actor: &str,
        action: &str,
        model: Option<ModelId>,
        details: Value,
    ) -> Result<(), RegistryError> {
        let mut transaction = self.pool.begin().await?;
        note(&mut transaction, actor, action, model, details).await?;
        Ok(transaction.commit().await?)
    }

    /// What was done, latest first.
    pub async fn audit(&self, request: PageRequest) -> Result<Page<AuditEntry>, RegistryError> {
        let entries = sqlx::query_as(
            "select a.id, a.at, a.actor, a.action, a.model_id, m.name as model, a.details from audit a \
             left join models m on m.id = a.model_id where a.id < $1 order by a.id desc limit $2",
        )
        .bind(request.before())
        .bind(request.rows_to_fetch())
        .fetch_all(&self.pool)
        .await?;
        Ok(request.page(entries, |entry: &AuditEntry| entry.id))
    }
}

/// Notes it as part of what the connection is doing.
pub(super) async fn note(
    connection: &mut PgConnection,
    actor: &str,
    action: &str,
    model: Option<ModelId>,
    details: Value,
) -> Result<(), RegistryError> {
    sqlx::query("insert into audit (id, actor, action, model_id, details) values ($1, $2, $3, $4, $5)")
        .bind(Uuid::now_v7())
        .bind(actor)
        .bind(action)
        .bind(model.map(|model| model.0))
        .bind(Json(details))
        .execute(connection)
        .await?;
    Ok(())
}
