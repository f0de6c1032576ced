//! One real Postgres for all tests of a process, and a fresh database for each test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::private::{PrivateOptions, PrivatePostgres};
use super::{PoolSettings, Pools, migrate};

/// Removes the data folder after our end: statics are never dropped, so a `TempDir` in one would stay.
const REAPER: &str = r#"read -r _; while ls "$1"/postgres/postmaster.pid; do sleep 0.1; done; rm -rf "$1""#;

struct Shared {
    options: PgConnectOptions,
    /// Holds the pipe on which the reaper waits.
    _reaper: Child,
}

/// The installation that `make setup` made.
pub(crate) fn install_dir() -> PathBuf {
    std::env::var_os("FACEID_POSTGRES_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.deps/postgres")), PathBuf::from)
}

/// How to connect to a new, empty database.
pub(crate) async fn empty_database() -> PgConnectOptions {
    let options = shared();
    let name = format!("test_{}", Uuid::now_v7().simple());
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await.unwrap();
    options.clone().database(&name)
}

/// Pools on a new, migrated database.
pub(crate) async fn database() -> Pools {
    database_with(PoolSettings { max_connections: 5, ..PoolSettings::default() }).await
}

/// As [`database`], with other limits.
pub(crate) async fn database_with(settings: PoolSettings) -> Pools {
    let pools = Pools::connect(empty_database().await, settings).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    pools
}

fn shared() -> &'static PgConnectOptions {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    &SHARED.get_or_init(start_shared).options
}

/// Starts Postgres on a thread with a runtime of its own, as each test's runtime ends with its test.
fn start_shared() -> Shared {
    let data_dir = tempfile::Builder::new().prefix("faceid-test-").tempdir().unwrap().keep();
    let reaper = Command::new("/bin/sh")
        .args(["-c", REAPER, "faceid-test-reaper"])
        .arg(&data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (started, options) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let private = PrivateOptions { install_dir: install_dir(), data_dir };
            match PrivatePostgres::start(private).await {
                Ok(postgres) => {
                    started.send(Ok(postgres.connect_options())).unwrap();
                    // Supervised until the process ends; then its guard stops it.
                    std::future::pending::<()>().await;
                }
                Err(error) => started.send(Err(error)).unwrap(),
            }
        });
    });
    let options = options.recv().unwrap().unwrap_or_else(|error| panic!("the tests need Postgres: {error}"));
    Shared { options, _reaper: reaper }
}
