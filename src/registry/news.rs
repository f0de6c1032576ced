//! Hearing that models changed, so that every server follows at once.

use sqlx::PgConnection;
use sqlx::postgres::PgListener;

use super::{Registry, RegistryError};
use crate::db::{MODELS_CHANNEL, listen, notify};

impl Registry {
    /// Hears of changes.
    pub async fn listen(&self) -> Result<ModelNews, RegistryError> {
        Ok(ModelNews(listen(&self.beside, MODELS_CHANNEL).await?))
    }
}

/// Announcements of changes; what they are about is in the tables.
pub struct ModelNews(PgListener);

impl ModelNews {
    /// Waits for the next.
    pub async fn next(&mut self) -> Result<(), RegistryError> {
        self.0.recv().await?;
        Ok(())
    }
}

/// Tells all servers, when the transaction commits.
pub(super) async fn announce(connection: &mut PgConnection) -> Result<(), RegistryError> {
    Ok(notify(connection, MODELS_CHANNEL).await?)
}
