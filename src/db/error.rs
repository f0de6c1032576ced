//! What can go wrong between us and Postgres, told apart by SQLSTATE and constraint name, never by prose.

use std::path::PathBuf;

use sqlx::migrate::MigrateError;
use thiserror::Error;

/// The errors of the database layer. Only [`DbError::Unavailable`], [`DbError::Locked`] and [`DbError::TooSlow`] may pass if
/// the caller tries again.
#[derive(Debug, Error)]
pub enum DbError {
    /// Down, unreachable, restarting, or out of connections.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// Somebody else held what a statement needed for longer than it may wait.
    #[error("others are changing the same: {0}")]
    Locked(String),
    /// A statement took longer than it may, and was cancelled.
    #[error("a database statement took too long: {0}")]
    TooSlow(String),
    #[error("{setting} is not a Postgres URL: {reason}")]
    Url { setting: &'static str, reason: String },
    #[error("cannot read {}, which {setting} names as {parameter}: {source}", path.display())]
    TlsFile { setting: &'static str, parameter: String, path: PathBuf, source: std::io::Error },
    #[error("the database cannot be reached by TLS as {setting} asks ({reason}); see sslmode and sslrootcert in it")]
    Tls { setting: &'static str, reason: String },
    #[error(
        "DATABASE_URL leads to a connection pooler that lends its connections by transaction; set FACEID_DATABASE_SESSION_URL \
         (database_session_url) to a URL of the same database that does not, for migrations and for listening"
    )]
    Pooler,
    #[error(
        "FACEID_DATABASE_SESSION_URL leads to a connection pooler that lends its connections by transaction; name the \
         PostgreSQL server itself, or a pooler that lends by session"
    )]
    PooledSession,
    #[error("DATABASE_URL and FACEID_DATABASE_SESSION_URL lead to different databases ({requests} and {sessions})")]
    OtherDatabase { requests: String, sessions: String },
    #[error(
        "this server of the database is a standby, which cannot be written to; name the primary in DATABASE_URL, or wait \
         until the failover is over"
    )]
    Standby,
    #[error("the schema {0:?} does not exist, and the database role may not create it; have an administrator do so")]
    SchemaNotAllowed(String),
    #[error(
        "none of the schemas in the database role's search_path exists; set FACEID_DATABASE_SCHEMA (database_schema), \
         which is created if it is missing"
    )]
    NoSchema,
    #[error(
        "the database role may not create tables ({reason}); grant it `create` on the schema, or give faceid a schema of \
         its own by FACEID_DATABASE_SCHEMA (database_schema)"
    )]
    MayNotCreate { reason: String },
    #[error(transparent)]
    NoPgvector(#[from] NoPgvector),
    #[error("faceid needs PostgreSQL 14 or later; this server is {version}")]
    OldServer { version: String },
    #[error("faceid needs a database in UTF8; this one is in {encoding}")]
    Encoding { encoding: String },
    #[error(
        "the database was migrated by a newer faceid (migration {version} is unknown here); \
         run that version, or restore a backup from before it"
    )]
    NewerSchema { version: i64 },
    #[error("cannot migrate the database: {0}")]
    Migration(#[source] MigrateError),
    /// A statement failed for another reason: a defect of ours, or a broken database.
    #[error("a database statement failed: {0}")]
    Statement(#[source] sqlx::Error),

    #[error(
        "the data directory {} is in use by another faceid{}; stop it, or choose another --data-dir",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    DataDirInUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "the path of the data directory {} is too long for a unix socket ({length} bytes with the socket, of 107); \
         choose a shorter --data-dir", path.display()
    )]
    SocketPathTooLong { path: PathBuf, length: usize },
    #[error(
        "user {user}, as whom Postgres runs because it refuses to run as root, cannot enter {}; \
         choose another --data-dir, or run faceid as a user other than root", ancestor.display()
    )]
    DataDirUnreachable { ancestor: PathBuf, user: String },
    #[error(
        "Postgres refuses to run as root and there is no user `postgres` or `nobody` to run it as; \
         run faceid as a user other than root"
    )]
    NoUserForPostgres,
    #[error(
        "Postgres makes no database for user id {uid}, which has no name; give it one (a line such as \
         `faceid:x:{uid}:{uid}::/:/bin/false` in /etc/passwd), or set DATABASE_URL to use a Postgres of your own"
    )]
    NamelessUser { uid: u32 },
    #[error(
        "there is no Postgres in {} ({missing} is missing); run `make setup`, or set DATABASE_URL to use your own",
        path.display()
    )]
    NoPostgres { path: PathBuf, missing: &'static str },
    #[error(
        "{} holds the data of PostgreSQL {found}, but this is PostgreSQL {expected}; \
         use pg_upgrade, or choose another --data-dir", path.display()
    )]
    OtherMajorVersion { path: PathBuf, found: String, expected: String },
    #[error("the private Postgres did not start: {reason}; the end of its log:\n{log}")]
    NotStarted { reason: String, log: String },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

/// Why pgvector cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum NoPgvector {
    #[error(
        "the database server has no pgvector; install the package postgresql-{major}-pgvector on it, \
         or use the pgvector/pgvector image"
    )]
    Missing { major: i32 },
    #[error(
        "faceid needs pgvector {} or later; the server offers {found}: upgrade the package \
         postgresql-{major}-pgvector, or use a newer pgvector/pgvector image",
        super::pgvector::MIN_PGVECTOR
    )]
    TooOld { found: String, major: i32 },
    #[error(
        "faceid needs pgvector {} or later; this database has {found} and the server offers {available}: \
         run `alter extension vector update` in it",
        super::pgvector::MIN_PGVECTOR
    )]
    NotUpdated { found: String, available: String },
    #[error(
        "the database role may not create the extension pgvector; \
         have an administrator run `create extension vector` in this database once"
    )]
    NotAllowed,
    #[error(
        "pgvector is in the schema {schema}, which the database role may not use; \
         have an administrator run `grant usage on schema {schema} to {role}`"
    )]
    Hidden { schema: String, role: String },
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            // lock_not_available, deadlock_detected
            Some("55P03" | "40P01") => Self::Locked(error.to_string()),
            // query_canceled
            Some("57014") => Self::TooSlow(error.to_string()),
            _ if is_passing(&error) => Self::Unavailable(error.to_string()),
            _ => Self::Statement(error),
        }
    }
}

impl DbError {
    /// Whether what was asked about is to blame, or its row, rather than the statement or the database: a value that does not fit
    /// or cannot be read, a constraint, a damaged row.
    pub fn is_of_data(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error
                .code()
                .is_some_and(|code| ["22", "23", "XX000", "XX001"].iter().any(|class| code.starts_with(class))),
            Self::Statement(error) => matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)),
            _ => false,
        }
    }

    /// Whether it may go better if the caller tries again.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Locked(_) | Self::TooSlow(_))
    }

    /// For `map_err`: an I/O error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Whether it may pass by itself.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        // What comes is no answer: it ends in the middle, or in a handshake.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_passing_code(&code)),
        _ => false,
    }
}

/// SQLSTATEs that can pass by themselves (PostgreSQL manual, appendix A): connection exceptions, serialization
/// failure and deadlock, insufficient resources, lock and statement timeouts, shutdown and start, and a server
/// that is read-only because a failover is under way.
fn is_passing_code(code: &str) -> bool {
    const PASSING: [&str; 9] = ["25006", "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "57P05"];
    code.starts_with("08") || code.starts_with("53") || PASSING.contains(&code)
}

/// Whether a lock was not to be had within `lock_timeout`.
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    // lock_not_available
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// Whether the role lacks a privilege.
pub(super) fn is_forbidden(error: &sqlx::Error) -> bool {
    // insufficient_privilege
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("42501"))
}

/// Turns the violation of a named constraint into an error of the caller's domain.
pub trait OnConstraint<T> {
    /// If the statement violated the unique, foreign-key, check or exclusion constraint `name`, `error()`;
    /// any other failure as a [`DbError`].
    fn on_constraint<E: From<DbError>>(self, name: &str, error: impl FnOnce() -> E) -> Result<T, E>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_constraint<E: From<DbError>>(self, name: &str, error: impl FnOnce() -> E) -> Result<T, E> {
        self.map_err(|cause| if violates(&cause, name) { error() } else { DbError::from(cause).into() })
    }
}

/// Whether a statement failed because of the constraint `name`.
pub fn violates(error: &sqlx::Error, name: &str) -> bool {
    error.as_database_error().is_some_and(|violation| {
        // Class 23 is "integrity constraint violation".
        violation.code().is_some_and(|code| code.starts_with("23")) && violation.constraint() == Some(name)
    })
}
