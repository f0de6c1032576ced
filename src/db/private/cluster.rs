//! The cluster: everything between "there is a data directory" and "Postgres can be started on it".

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;
use uuid::Uuid;

use super::account::Account;
use super::data_dir::DataDir;
use super::{DbError, ROLE};

/// The log starts anew at a start of ours once it is larger (bytes); one older log is kept.
const LOG_LIMIT: u64 = 8 << 20;

/// An initialised cluster and how to run programs on it.
#[derive(Debug)]
pub(super) struct Cluster {
    data_dir: DataDir,
    install_dir: PathBuf,
    account: Option<Account>,
}

impl Cluster {
    /// Makes folders, ownership and, the first time, the cluster itself ready in `data_dir`.
    pub async fn prepare(install_dir: &Path, data_dir: DataDir) -> Result<Self, DbError> {
        for missing in ["bin/postgres", "bin/initdb"] {
            if !install_dir.join(missing).is_file() {
                return Err(DbError::NoPostgres { path: install_dir.to_owned(), missing });
            }
        }
        let install_dir = install_dir.canonicalize().map_err(DbError::io("find", install_dir))?;
        let cluster = blocking(move || Self::lend(install_dir, data_dir)).await?;
        cluster.check_version_or_init().await?;
        if let Some(account) = cluster.account.clone() {
            let path = cluster.path();
            blocking(move || account.own(&path)).await?;
        }
        Ok(cluster)
    }

    /// Gives the account that Postgres runs as, if not ours, what it needs.
    fn lend(install_dir: PathBuf, data_dir: DataDir) -> Result<Self, DbError> {
        let run = data_dir.run();
        DirBuilder::new().recursive(true).mode(0o700).create(&run).map_err(DbError::io("create", &run))?;
        fs::set_permissions(&run, Permissions::from_mode(0o700)).map_err(DbError::io("change the mode of", &run))?;
        let account = Account::for_postgres()?;
        let install_dir = match &account {
            None => install_dir,
            Some(account) => {
                account.admit_to(data_dir.path())?;
                account.own(&run)?;
                account.reachable_install(&install_dir, data_dir.path())?
            }
        };
        remove_half_made(data_dir.path())?;
        start_log_anew(&data_dir.log())?;
        Ok(Self { data_dir, install_dir, account })
    }

    /// The folder that Postgres calls its data directory.
    pub fn path(&self) -> PathBuf {
        self.data_dir.cluster()
    }

    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        socket_options(&self.data_dir.run(), database)
    }

    /// A program run as the account of Postgres, outside our process group so that Ctrl-C does not reach it, and
    /// without our environment, which may hold secrets.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// The command that runs the postmaster in the foreground.
    pub fn postmaster(&self) -> Result<Command, DbError> {
        let log = self.data_dir.log();
        let output = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
        let output = output.map_err(DbError::io("open", &log))?;
        let errors = output.try_clone().map_err(DbError::io("open", &log))?;
        let mut command = self.command(&self.install_dir.join("bin/postgres"));
        command.arg("-D").arg(self.path()).stdout(output).stderr(errors);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "max_connections=100",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
            // A file of the log that is used again holds what was written before, and so what was erased.
            "wal_recycle=off",
            "jit=off",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_line_prefix=%m [%p] ",
            // Errors of statements are reported to us; in the log they would quote names of people, which an
            // erased subject must not leave behind.
            "log_min_messages=log",
            "log_error_verbosity=terse",
        ] {
            command.arg("-c").arg(setting);
        }
        // A list, whose items may be quoted.
        let run = self.data_dir.run().display().to_string().replace('"', "\"\"");
        command.arg("-c").arg(format!("unix_socket_directories=\"{run}\""));
        Ok(command)
    }

    /// The last lines of the log, for a message.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.data_dir.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(8192)..]);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    async fn check_version_or_init(&self) -> Result<(), DbError> {
        let path = self.path();
        match fs::read_to_string(path.join("PG_VERSION")) {
            Ok(found) => self.check_version(path, found.trim()).await,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.init().await,
            Err(source) => Err(DbError::Io { action: "read", path: path.join("PG_VERSION"), source }),
        }
    }

    async fn check_version(&self, path: PathBuf, found: &str) -> Result<(), DbError> {
        let program = self.install_dir.join("bin/postgres");
        let output = self.command(&program).arg("--version").output().await.map_err(DbError::io("run", program))?;
        // "postgres (PostgreSQL) 16.14"; a cluster serves all minor versions of its major one.
        let version = String::from_utf8_lossy(&output.stdout);
        let expected = version.split_whitespace().nth(2).and_then(|v| v.split('.').next()).unwrap_or_default();
        if found == expected {
            return Ok(());
        }
        Err(DbError::OtherMajorVersion { path, found: found.to_owned(), expected: expected.to_owned() })
    }

    /// Runs initdb in a folder of its own and renames that when whole, so that a kill leaves nothing half-made.
    async fn init(&self) -> Result<(), DbError> {
        if self.account.is_none() {
            Account::check_our_name()?;
        }
        let data_dir = self.data_dir.path();
        let half = data_dir.join(format!("postgres.new-{}", Uuid::now_v7()));
        DirBuilder::new().mode(0o700).create(&half).map_err(DbError::io("create", &half))?;
        if let Some(account) = &self.account {
            account.own(&half)?;
        }
        tracing::info!(path = %self.path().display(), "creating the private Postgres");
        let program = self.install_dir.join("bin/initdb");
        let output = self
            .command(&program)
            .args(["--encoding=UTF8", "--locale=C", "--auth=trust", "--no-instructions"])
            .arg(format!("--username={ROLE}"))
            .arg("--pgdata")
            .arg(&half)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(DbError::io("run", program))?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DbError::NotStarted { reason: format!("initdb ended with {}", output.status), log });
        }
        fs::rename(&half, self.path()).map_err(DbError::io("rename", half))?;
        fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(DbError::io("sync", data_dir))
    }
}

/// How to connect to the database of a cluster whose socket is in the folder `run`.
pub(super) fn socket_options(run: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(run)
        .port(5432)
        .username(ROLE)
        .database(database)
        .application_name("faceid")
}

/// Clears away what killed starts left. Best effort: the initdb of one may still be writing, then the next start
/// clears it away.
fn remove_half_made(data_dir: &Path) -> Result<(), DbError> {
    for entry in fs::read_dir(data_dir).map_err(DbError::io("list", data_dir))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("postgres.new-")
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "cannot remove a half-made cluster");
        }
    }
    Ok(())
}

fn start_log_anew(log: &Path) -> Result<(), DbError> {
    match fs::metadata(log) {
        Ok(meta) if meta.len() > LOG_LIMIT => {
            fs::rename(log, log.with_extension("log.1")).map_err(DbError::io("rename", log))
        }
        _ => Ok(()),
    }
}

/// File work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, DbError> + Send + 'static) -> Result<T, DbError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(DbError::NotStarted { reason: format!("preparing its folders failed: {panic}"), log: String::new() })
    })
}
