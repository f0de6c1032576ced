//! Retiring a model: from then on it is of no use to anybody, and its embeddings may be deleted.

use serde_json::json;
use sqlx::PgConnection;

use super::lifecycle::{hold_exclusively, rollback_model};
use super::noting::note;
use super::{Model, ModelState, Registry, RegistryError, announce, shadow};
use crate::audit::Action;
use crate::db::Transaction;
use crate::types::{Actor, ModelId};

impl Registry {
    /// Retires a model when the transaction commits. It must not be active or about to be, nor, unless `even_rollback`, be what a
    /// rollback would make active. Can be done again.
    pub async fn retire(
        &self,
        transaction: &mut Transaction,
        id: ModelId,
        even_rollback: bool,
        actor: &Actor,
    ) -> Result<(), RegistryError> {
        hold_exclusively(transaction).await?;
        let model: Option<Model> =
            sqlx::query_as("select * from models where id = $1").bind(id.0).fetch_optional(&mut **transaction).await?;
        let model = model.ok_or_else(|| RegistryError::ModelNotFound(id.to_string()))?;
        let in_use = |role| Err(RegistryError::ModelInUse { name: model.name.clone(), role });
        model.not_active()?;
        if model.is_secondary {
            return in_use("being promoted, or in the shadow");
        }
        let rollback = rollback_model(transaction).await?;
        if !even_rollback && rollback.is_some_and(|rollback| rollback.id == id) {
            return in_use("what a rollback would make active; `force` retires it all the same");
        }
        sqlx::query(
            "update models set state = 'retired', format = null, file_bytes = null, verdict = null where id = $1",
        )
        .bind(id.0)
        .execute(&mut **transaction)
        .await?;
        shadow::forget(transaction, id).await?;
        note(transaction, actor, Action::ModelRetire, id, json!({"state": model.state.as_str()})).await?;
        announce(transaction).await
    }

    /// The models that are retired.
    pub async fn retired(&self) -> Result<Vec<Model>, RegistryError> {
        Ok(sqlx::query_as("select * from models where state = 'retired'").fetch_all(&self.beside).await?)
    }
}

/// Refuses a retired model whose embeddings are not all deleted yet: it may come back reading its chips otherwise.
pub(super) async fn refuse_while_retiring(connection: &mut PgConnection, model: &Model) -> Result<(), RegistryError> {
    if model.state != ModelState::Retired {
        return Ok(());
    }
    let left: bool = sqlx::query_scalar("select exists (select from templates where model_id = $1)")
        .bind(model.id.0)
        .fetch_one(connection)
        .await?;
    match left {
        true => {
            let role = "being retired; import it again when its embeddings are deleted";
            Err(RegistryError::ModelInUse { name: model.name.clone(), role })
        }
        false => Ok(()),
    }
}
