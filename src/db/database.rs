//! The database of this process: the configured one, or a private Postgres.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::private::{PrivateOptions, PrivatePostgres, connect_options_of};
use super::{Access, DbError, PoolSettings, Pools, migrate};
use crate::config::DatabaseConfig;

/// How long the Postgres of another process may take to answer: that process may be starting.
const OTHER_READY_WITHIN: Duration = Duration::from_secs(20);

/// An open database. [`Database::close`] ends it; a private Postgres that is merely dropped is stopped by its guard.
pub struct Database {
    pools: Pools,
    private: Option<PrivatePostgres>,
}

impl Database {
    /// Connects to the configured Postgres, or starts the private one. Does not migrate.
    pub async fn open(config: &DatabaseConfig) -> Result<Self, DbError> {
        let settings = settings(config);
        if let Some(url) = &config.url {
            let access = Access::configured(url, config)?;
            return Ok(Self { pools: Pools::connect(access, settings).await?, private: None });
        }
        let private = PrivateOptions { install_dir: config.postgres_dir.clone(), data_dir: config.data_dir.clone() };
        let private = PrivatePostgres::start(private).await?;
        let access = Access { schema: config.schema.clone(), ..private.connect_options().into() };
        match Pools::connect(access, settings).await {
            Ok(pools) => Ok(Self { pools, private: Some(private) }),
            Err(error) => {
                private.stop().await;
                Err(error)
            }
        }
    }

    /// As [`Self::open`], but works beside a server: if another process runs the private Postgres, connects to that.
    pub async fn reach(config: &DatabaseConfig) -> Result<Self, DbError> {
        match Self::open(config).await {
            Err(DbError::DataDirInUse { path, pid }) => match join(&path, config).await {
                // Then it is no server with a Postgres, or one that is stuck.
                Err(DbError::Unavailable(_)) => Err(DbError::DataDirInUse { path, pid }),
                joined => Ok(Self { pools: joined?, private: None }),
            },
            opened => opened,
        }
    }

    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), DbError> {
        migrate(&self.pools.beside).await
    }

    /// Closes the connections, then stops the private Postgres.
    pub async fn close(self) {
        self.pools.close().await;
        if let Some(private) = self.private {
            private.stop().await;
        }
    }
}

fn settings(config: &DatabaseConfig) -> PoolSettings {
    PoolSettings { max_connections: config.connections, ..PoolSettings::default() }
}

/// Pools on the private Postgres that another process runs in `data_dir`, as soon as that answers.
async fn join(data_dir: &Path, config: &DatabaseConfig) -> Result<Pools, DbError> {
    let access = Access { schema: config.schema.clone(), ..connect_options_of(data_dir).into() };
    let deadline = Instant::now() + OTHER_READY_WITHIN;
    loop {
        match Pools::connect(access.clone(), settings(config)).await {
            Err(DbError::Unavailable(_)) if Instant::now() < deadline => sleep(Duration::from_millis(100)).await,
            connected => return connected,
        }
    }
}
