//! The extension pgvector: which versions serve, what is wrong with some of them, and where in the database it is.

use sqlx::{AssertSqlSafe, PgConnection, PgExecutor};

use super::{DbError, NoPgvector};

/// The first that scans an HNSW index on until enough rows were found.
pub(super) const MIN_PGVECTOR: &str = "0.8.0";

/// The first whose HNSW indexes can be relied on. Before 0.8.2 a build by several processes writes past a buffer
/// (CVE-2026-3172), before 0.8.3 a vacuum may corrupt an index, before 0.8.4 a vacuum or an insert beside it may fail. All
/// of it is about HNSW, so with an older one nothing is indexed, and galleries in the database are searched exactly.
const SOUND_HNSW: &str = "0.8.4";

/// The extension as a database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pgvector {
    pub schema: String,
    /// Of the library that the server loads: fixes come with it, whatever version the database notes.
    pub version: String,
}

impl Pgvector {
    /// What whoever runs the server should know of this version.
    pub fn advice(&self) -> Option<String> {
        (!version_reaches(&self.version, SOUND_HNSW)).then(|| {
            format!(
                "pgvector {} can corrupt HNSW indexes and fail enrolments beside a vacuum, so galleries that are searched \
                 in the database are searched without an index; {SOUND_HNSW} or later mends that",
                self.version
            )
        })
    }
}

/// Whether the server's pgvector keeps HNSW indexes whole.
pub async fn has_sound_hnsw<'e>(executor: impl PgExecutor<'e>) -> Result<bool, sqlx::Error> {
    let version: Option<String> =
        sqlx::query_scalar("select default_version from pg_available_extensions where name = 'vector'")
            .fetch_optional(executor)
            .await?;
    Ok(version.is_some_and(|version| version_reaches(&version, SOUND_HNSW)))
}

/// Finds the extension, and creates it if the server offers a good one and the database does not have it yet: in
/// `public` if the role may, so that it outlives our schema. `major` is the server's version.
pub(super) async fn ensure(connection: &mut PgConnection, major: i32) -> Result<Pgvector, DbError> {
    let offered: Option<String> =
        sqlx::query_scalar("select default_version from pg_available_extensions where name = 'vector'")
            .fetch_optional(&mut *connection)
            .await?;
    let found = match find(connection).await? {
        Some(found) => found,
        None => {
            create(connection, offered.as_deref(), major).await?;
            find(connection).await?.ok_or(NoPgvector::Missing { major })?
        }
    };
    check(&found.installed, offered.as_deref(), major)?;
    if !found.usable {
        return Err(NoPgvector::Hidden { schema: found.schema, role: found.role }.into());
    }
    Ok(Pgvector { schema: found.schema, version: offered.unwrap_or(found.installed) })
}

#[derive(sqlx::FromRow)]
struct Found {
    installed: String,
    schema: String,
    usable: bool,
    role: String,
}

async fn find(connection: &mut PgConnection) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as(
        "select e.extversion as installed, n.nspname::text as schema, current_user::text as role, \
         has_schema_privilege(n.oid, 'usage') as usable \
         from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector'",
    )
    .fetch_optional(connection)
    .await
}

/// Judges the version that the database has, beside that which the server offers.
fn check(installed: &str, offered: Option<&str>, major: i32) -> Result<(), NoPgvector> {
    if version_reaches(installed, MIN_PGVECTOR) {
        return Ok(());
    }
    let installed = installed.to_owned();
    Err(match offered {
        Some(offered) if version_reaches(offered, MIN_PGVECTOR) => {
            NoPgvector::NotUpdated { found: installed, available: offered.to_owned() }
        }
        _ => NoPgvector::TooOld { found: installed, major },
    })
}

async fn create(connection: &mut PgConnection, offered: Option<&str>, major: i32) -> Result<(), DbError> {
    let offered = offered.ok_or(NoPgvector::Missing { major })?;
    if !version_reaches(offered, MIN_PGVECTOR) {
        return Err(NoPgvector::TooOld { found: offered.to_owned(), major }.into());
    }
    let in_public: bool = sqlx::query_scalar(
        "select coalesce((select has_schema_privilege(oid, 'create') from pg_namespace where nspname = 'public'), false)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let place = if in_public { " schema public" } else { "" };
    match sqlx::query(AssertSqlSafe(format!("create extension vector{place}"))).execute(connection).await {
        Ok(_) => Ok(()),
        Err(error) if super::error::is_forbidden(&error) => Err(NoPgvector::NotAllowed.into()),
        Err(error) => Err(error.into()),
    }
}

/// Compares dotted version numbers by their numeric parts; a part that is no number counts as 0.
fn version_reaches(version: &str, minimum: &str) -> bool {
    let parts = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    parts(version) >= parts(minimum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version_reaches("0.8.4", "0.8.4"));
        assert!(version_reaches("0.10.1", "0.8.4"));
        assert!(version_reaches("1.0.0", "0.8.4"));
        assert!(!version_reaches("0.8.3", "0.8.4"));
    }

    #[test]
    fn every_pgvector_from_0_8_0_on_serves() {
        for installed in ["0.8.0", "0.8.1", "0.8.2", "0.8.3", "0.8.4", "0.8.5", "0.9.0", "1.0.0"] {
            assert_eq!(check(installed, Some(installed), 16), Ok(()), "{installed}");
            // What the database notes may lag behind the library.
            assert_eq!(check(installed, Some("1.0.0"), 16), Ok(()), "{installed}");
        }
        let found = "0.7.4".to_owned();
        assert_eq!(check("0.7.4", Some("0.7.4"), 16), Err(NoPgvector::TooOld { found: found.clone(), major: 16 }));
        assert_eq!(check("0.7.4", None, 16), Err(NoPgvector::TooOld { found: found.clone(), major: 16 }));
        assert_eq!(
            check("0.7.4", Some("0.8.0"), 16),
            Err(NoPgvector::NotUpdated { found, available: "0.8.0".to_owned() })
        );
    }

    #[test]
    fn faults_of_a_version_are_told_by_its_name() {
        let advice = |version: &str| Pgvector { schema: "public".to_owned(), version: version.to_owned() }.advice();
        for faulty in ["0.8.0", "0.8.1", "0.8.2", "0.8.3"] {
            let advice = advice(faulty).unwrap();
            assert!(advice.contains(faulty) && advice.contains(SOUND_HNSW), "{advice}");
        }
        for sound in ["0.8.4", "0.8.5", "0.9.0"] {
            assert_eq!(advice(sound), None);
        }
    }

    #[tokio::test]
    async fn the_server_is_asked_whether_its_indexes_stay_whole() {
        let pools = super::super::testing::database().await;
        assert!(has_sound_hnsw(&pools.requests).await.unwrap());
    }
}
