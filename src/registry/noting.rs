//! Changes of models in the audit.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Registry, RegistryError};
use crate::audit::{Action, Entry, append};
use crate::types::{Actor, GalleryId, ModelId};

impl Registry {
    /// Notes something that is not a change of a model's state, which notes itself; what was learned of it from a gallery.
    pub async fn note(
        &self,
        actor: &Actor,
        action: Action,
        model: ModelId,
        gallery: GalleryId,
        details: Value,
    ) -> Result<(), RegistryError> {
        let mut transaction = self.pool.begin().await?;
        let entry = Entry::new(actor, action).model(Some(model)).galleries([gallery]).details(details);
        append(&mut transaction, &entry).await?;
        Ok(transaction.commit().await?)
    }
}

/// Notes it as part of what the connection is doing.
pub(super) async fn note(
    connection: &mut PgConnection,
    actor: &Actor,
    action: Action,
    model: ModelId,
    details: Value,
) -> Result<(), RegistryError> {
    Ok(append(connection, &Entry::new(actor, action).model(Some(model)).details(details)).await?)
}
