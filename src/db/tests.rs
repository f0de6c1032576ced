use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::testing::{database, empty_database};
use super::*;

async fn run(options: &PgConnectOptions, sql: &str) {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

#[test]
fn versions_compare_by_number() {
    assert!(version_reaches("0.8.4", "0.8.4"));
    assert!(version_reaches("0.10.1", "0.8.4"));
    assert!(version_reaches("1.0.0", "0.8.4"));
    assert!(!version_reaches("0.8.3", "0.8.4"));
}

#[tokio::test]
async fn migrating_at_once_from_several_servers_is_safe() {
    let options = empty_database().await;
    let servers = (0..6).map(|_| {
        let options = options.clone();
        tokio::spawn(async move {
            let pool =
                Pools::connect(options, PoolSettings { max_connections: 2, ..PoolSettings::default() }).await?.requests;
            migrate(&pool).await?;
            ping(&pool).await
        })
    });
    for server in servers.collect::<Vec<_>>() {
        server.await.unwrap().unwrap();
    }
    let pool = Pools::connect(options, PoolSettings::default()).await.unwrap().requests;
    let names: Vec<String> = sqlx::query_scalar("select name from galleries").fetch_all(&pool).await.unwrap();
    assert_eq!(names, ["default"]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let pool = database().await.requests;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (999999, 'of the future', true, '', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert!(matches!(migrate(&pool).await, Err(DbError::NewerSchema { version: 999_999 })));
    // The failed attempt has not kept the lock.
    sqlx::query("delete from _sqlx_migrations where version = 999999").execute(&pool).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), migrate(&pool)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_create_the_extension_is_told_so() {
    let options = empty_database().await;
    let database = options.get_database().unwrap().to_owned();
    run(&options, &format!("create role {database}_user login; grant all on database {database} to {database}_user"))
        .await;
    let as_user = options.clone().username(&format!("{database}_user"));
    let error = Pools::connect(as_user.clone(), PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::NoPgvector(NoPgvector::NotAllowed)), "{error}");
    // Once an administrator has made it, the role can work.
    run(&options, &format!("create extension vector; grant all on schema public to {database}_user")).await;
    let pool = Pools::connect(as_user, PoolSettings::default()).await.unwrap().requests;
    migrate(&pool).await.unwrap();
}

#[tokio::test]
async fn an_old_pgvector_in_the_database_is_told_apart() {
    let options = empty_database().await;
    run(&options, "create extension vector; update pg_extension set extversion = '0.7.4' where extname = 'vector'")
        .await;
    let error = Pools::connect(options, PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::NoPgvector(NoPgvector::NotUpdated { .. })), "{error}");
}

#[tokio::test]
async fn another_encoding_is_refused() {
    let options = empty_database().await;
    let name = format!("{}_latin1", options.get_database().unwrap());
    run(&options, &format!("create database {name} template template0 encoding 'LATIN1' locale 'C'")).await;
    let error = Pools::connect(options.database(&name), PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::Encoding { .. }), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = PgConnectOptions::new_without_pgpass().socket(folder.path()).username("faceid");
    let error = Pools::connect(nowhere, PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_full_pool_is_unavailable() {
    let settings = PoolSettings { max_connections: 1, acquire_timeout: Duration::from_millis(500) };
    let pool = Pools::connect(empty_database().await, settings).await.unwrap().requests;
    let _held = pool.acquire().await.unwrap();
    assert!(matches!(ping(&pool).await, Err(DbError::Unavailable(_))));
}

#[tokio::test]
async fn violations_are_told_apart_by_constraint() {
    #[derive(Debug)]
    enum Outcome {
        Duplicate,
        Other(DbError),
    }
    impl From<DbError> for Outcome {
        fn from(error: DbError) -> Self {
            Self::Other(error)
        }
    }
    let pool = database().await.requests;
    let insert = "insert into galleries (id, name) values (gen_random_uuid(), 'default')";
    let violation = sqlx::query(insert).execute(&pool).await;
    assert!(matches!(violation.on_constraint("gallery_name_key", || Outcome::Duplicate), Err(Outcome::Duplicate)));
    let violation = sqlx::query(insert).execute(&pool).await;
    let other: Result<_, Outcome> = violation.on_constraint("gallery_pkey", || Outcome::Duplicate);
    assert!(matches!(other, Err(Outcome::Other(DbError::Statement(_)))));
    let cancelled = sqlx::raw_sql("set statement_timeout = 20; select pg_sleep(5)").execute(&pool).await;
    let cancelled: Result<_, Outcome> = cancelled.on_constraint("gallery_pkey", || Outcome::Duplicate);
    assert!(matches!(cancelled, Err(Outcome::Other(DbError::Unavailable(_)))));
}
