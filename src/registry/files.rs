//! Which files of the model store nobody needs.

use super::{Registry, RegistryError};
use crate::db::{MODELS_LOCK, Transaction, lock_shared};

/// As long as it lives, no model gets a file.
pub struct Unneeded(#[allow(dead_code, reason = "its end lets models be imported again")] Transaction);

impl Registry {
    /// `None` if a model has the file with this sha256.
    pub async fn hold_unneeded(&self, sha256: &[u8; 32]) -> Result<Option<Unneeded>, RegistryError> {
        let mut transaction = self.pool.begin().await?;
        lock_shared(&mut transaction, MODELS_LOCK).await?;
        let needed: bool =
            sqlx::query_scalar("select exists (select from models where sha256 = $1 and format is not null)")
                .bind(sha256.as_slice())
                .fetch_one(&mut *transaction)
                .await?;
        Ok((!needed).then_some(Unneeded(transaction)))
    }
}
