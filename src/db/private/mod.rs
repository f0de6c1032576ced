//! The server's own private Postgres: data, socket and log below the data directory, reachable by us alone,
//! started and stopped with us.
//!
//! ```text
//! <data_dir>/lock           held for as long as Postgres runs
//! <data_dir>/postgres/      the cluster
//! <data_dir>/postgres.log
//! <data_dir>/run/           the unix socket; 0700, which is why every connection is trusted
//! ```

mod account;
mod cluster;
mod data_dir;
mod postmaster;
mod supervisor;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use super::error::DbError;
#[cfg(test)]
pub(crate) use account::copy_tree;
use cluster::Cluster;
use data_dir::DataDir;

/// The role that owns everything, and the name of its database.
const ROLE: &str = "faceid";

#[derive(Debug, Clone)]
pub struct PrivateOptions {
    /// Holds `bin/postgres`, `bin/initdb` and what they need beside them.
    pub install_dir: PathBuf,
    /// Made when it does not exist. One process at a time uses it.
    pub data_dir: PathBuf,
}

/// How to connect to the private Postgres that another process runs in `data_dir`.
pub fn connect_options_of(data_dir: &Path) -> PgConnectOptions {
    cluster::socket_options(&data_dir.join(data_dir::RUN), ROLE)
}

/// A running private Postgres. It is restarted if it dies, and stops when this is stopped or dropped, or when
/// our process dies in whatever way.
#[derive(Debug)]
pub struct PrivatePostgres {
    connect_options: PgConnectOptions,
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
}

impl PrivatePostgres {
    /// Makes the cluster if there is none, lets it recover if the last run was killed, however long that takes, and returns
    /// when it answers.
    pub async fn start(options: PrivateOptions) -> Result<Self, DbError> {
        let data_dir = DataDir::open(&options.data_dir)?;
        let cluster = Cluster::prepare(&options.install_dir, data_dir).await?;
        let postmaster = supervisor::start(&cluster).await?;
        let connect_options = cluster.connect_options(ROLE);
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(supervisor::supervise(cluster, postmaster, stopped));
        Ok(Self { connect_options, stop, supervisor })
    }

    /// How to connect to the database `faceid` as its owner.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.connect_options.clone()
    }

    /// Fast shutdown: open transactions are rolled back, everything committed is on disk. Waits for the end.
    pub async fn stop(self) {
        // The receiver is gone only when the supervisor has ended, and then Postgres has as well.
        let _ = self.stop.send(());
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the supervisor of the private Postgres failed");
        }
    }
}
