//! The database of this process: the configured one, or a private Postgres.

use sqlx::postgres::{PgConnectOptions, PgPool};

use super::private::{PrivateOptions, PrivatePostgres};
use super::{DbError, PoolSettings, connect, migrate};
use crate::config::DatabaseConfig;

/// An open database. [`Database::close`] ends it; a private Postgres that is merely dropped is stopped by its guard.
pub struct Database {
    pool: PgPool,
    private: Option<PrivatePostgres>,
}

impl Database {
    /// Connects to the configured Postgres, or starts the private one. Does not migrate.
    pub async fn open(config: &DatabaseConfig) -> Result<Self, DbError> {
        let settings = PoolSettings { max_connections: config.connections, ..PoolSettings::default() };
        if let Some(url) = &config.url {
            let options: PgConnectOptions =
                url.expose().parse().map_err(|error: sqlx::Error| DbError::Url(error.to_string()))?;
            return Ok(Self { pool: connect(options, settings).await?, private: None });
        }
        let private = PrivateOptions { install_dir: config.postgres_dir.clone(), data_dir: config.data_dir.clone() };
        let private = PrivatePostgres::start(private).await?;
        match connect(private.connect_options(), settings).await {
            Ok(pool) => Ok(Self { pool, private: Some(private) }),
            Err(error) => {
                private.stop().await;
                Err(error)
            }
        }
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), DbError> {
        migrate(&self.pool).await
    }

    /// Closes the connections, then stops the private Postgres.
    pub async fn close(self) {
        self.pool.close().await;
        if let Some(private) = self.private {
            private.stop().await;
        }
    }
}
