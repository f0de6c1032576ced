use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::testing::{database, empty_database};
use super::*;
use crate::types::{Caller, KeyId, RequestKey, Role, Scope};

async fn run(options: &PgConnectOptions, sql: &str) {
    let mut connection = PgConnection::connect_with(options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn migrating_at_once_from_several_servers_is_safe() {
    let options = empty_database().await;
    let servers = (0..6).map(|_| {
        let options = options.clone();
        tokio::spawn(async move {
            let settings = PoolSettings { max_connections: 2, ..PoolSettings::default() };
            let pools = Pools::connect(options, settings).await?;
            migrate(&pools.beside).await?;
            ping(&pools.requests).await
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
    let pool = database().await.beside;
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
    let pools = Pools::connect(as_user, PoolSettings::default()).await.unwrap();
    migrate(&pools.beside).await.unwrap();
}

/// A role that may do nothing, and how it connects.
async fn ordinary_role(options: &PgConnectOptions) -> (String, PgConnectOptions) {
    let role = format!("{}_ordinary", options.get_database().unwrap());
    run(options, &format!("create role {role} login")).await;
    (role.clone(), options.clone().username(&role))
}

#[tokio::test]
async fn a_role_without_privileges_is_told_what_it_lacks() {
    let options = empty_database().await;
    let database = options.get_database().unwrap().to_owned();
    let (role, as_role) = ordinary_role(&options).await;
    let connect = || Pools::connect(as_role.clone(), PoolSettings::default());
    run(&options, "create schema extensions; create extension vector schema extensions").await;
    let error = connect().await.unwrap_err();
    assert!(
        matches!(&error, DbError::NoPgvector(NoPgvector::Hidden { schema, .. }) if schema == "extensions"),
        "{error}"
    );
    assert!(error.to_string().contains(&role), "{error}");
    run(&options, &format!("grant usage on schema extensions to {role}")).await;
    // Since PostgreSQL 15 nobody else may create in `public`.
    let pools = connect().await.unwrap();
    let error = migrate(&pools.beside).await.unwrap_err();
    assert!(matches!(&error, DbError::MayNotCreate { reason } if reason.contains("public")), "{error}");

    let own = || Access { schema: Some("faceid".to_owned()), ..as_role.clone().into() };
    let error = Pools::connect(own(), PoolSettings::default()).await.unwrap_err();
    assert!(matches!(&error, DbError::SchemaNotAllowed(schema) if schema == "faceid"), "{error}");
    run(&options, &format!("grant create on database {database} to {role}")).await;
    let pools = Pools::connect(own(), PoolSettings::default()).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    ping(&pools.requests).await.unwrap();
}

#[tokio::test]
async fn a_search_path_of_schemas_that_do_not_exist_is_refused() {
    let options = empty_database().await;
    let elsewhere = options.clone().options([("search_path", "nowhere")]);
    let error = Pools::connect(elsewhere, PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::NoSchema), "{error}");
    // One of a URL or a role is as good as the setting.
    run(&options, "create schema somewhere").await;
    let somewhere = options.options([("search_path", "somewhere")]);
    let pools = Pools::connect(somewhere, PoolSettings::default()).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    let place: String =
        sqlx::query_scalar("select relnamespace::regnamespace::text from pg_class where relname = '_sqlx_migrations'")
            .fetch_one(&pools.requests)
            .await
            .unwrap();
    assert_eq!(place, "somewhere");
}

/// Pools on a schema of a database.
async fn in_schema(options: &PgConnectOptions, schema: &str) -> Pools {
    let access = Access { schema: Some(schema.to_owned()), ..options.clone().into() };
    let pools = Pools::connect(access, PoolSettings::default()).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    pools
}

#[tokio::test]
async fn faceids_in_two_schemas_do_not_meet() {
    let options = empty_database().await;
    let (one, other) = (in_schema(&options, "one").await, in_schema(&options, "The \"other\" one").await);
    let plain = in_schema(&options, "public").await;
    sqlx::query("insert into galleries (id, name) values (gen_random_uuid(), 'mine')")
        .execute(&one.requests)
        .await
        .unwrap();
    for (pools, expected) in [(&one, 2_i64), (&other, 1), (&plain, 1)] {
        let galleries: i64 =
            sqlx::query_scalar("select count(*) from galleries").fetch_one(&pools.requests).await.unwrap();
        assert_eq!(galleries, expected);
    }
    // Locks.
    let mut held = one.requests.begin().await.unwrap();
    lock(&mut held, MODELS_LOCK).await.unwrap();
    let is_free = async |pools: &Pools| {
        let mut transaction = pools.requests.begin().await.unwrap();
        let is_free = try_lock(&mut transaction, MODELS_LOCK).await.unwrap();
        transaction.rollback().await.unwrap();
        is_free
    };
    assert_eq!((is_free(&one).await, is_free(&other).await, is_free(&plain).await), (false, true, true));
    // In `public`, as servers had them that knew of no schemas.
    sqlx::query("select pg_advisory_xact_lock($1)").bind(MODELS_LOCK).execute(&mut *held).await.unwrap();
    assert_eq!((is_free(&other).await, is_free(&plain).await), (true, false));
    drop(held);
    // Notifications.
    let [mut heard, mut heard_plainly] = [&other, &plain].map(|pools| pools.notifications.subscribe(Topic::Models));
    let listeners = [&other, &plain].map(|pools| {
        let pools = pools.clone();
        tokio::spawn(async move { pools.listen().await })
    });
    // For what was announced before they listened.
    heard.changed().await.unwrap();
    heard_plainly.changed().await.unwrap();
    notify(&one.requests, Topic::Models).await.unwrap();
    notify(&plain.requests, Topic::Jobs).await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), async {
        tokio::select! { _ = heard.changed() => (), _ = heard_plainly.changed() => () }
    });
    assert!(silent.await.is_err(), "heard of another schema, or of something else");
    notify(&other.requests, Topic::Models).await.unwrap();
    sqlx::query("select pg_notify('faceid_models', 'as before')").execute(&one.requests).await.unwrap();
    heard.changed().await.unwrap();
    heard_plainly.changed().await.unwrap();
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Pools whose requests are served as behind a pooler: each statement is a transaction that sets all it needs.
async fn as_behind_a_pooler() -> Pools {
    let options = empty_database().await;
    let access = Access { sessions: Some(options.clone()), schema: Some("pooled".to_owned()), ..options.into() };
    let pools = Pools::connect(access, PoolSettings { max_connections: 2, ..PoolSettings::default() }).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    pools
}

#[tokio::test]
async fn behind_a_pooler_nothing_is_left_in_a_session() {
    let pools = as_behind_a_pooler().await;
    let count = || sqlx::query_scalar::<_, i64>("select count(*) from galleries where name <> $1").bind("x");
    sqlx::query("insert into galleries (id, name) values ($1, 'new')")
        .bind(uuid::Uuid::now_v7())
        .execute(&pools.requests)
        .await
        .unwrap();
    assert_eq!(count().fetch_one(&pools.requests).await.unwrap(), 2);
    assert_eq!(count().fetch_all(&pools.beside).await.unwrap(), [2]);
    // A transaction that fails, or is dropped, leaves nothing and spoils no connection.
    for _ in 0..4 {
        let mut transaction = pools.requests.begin().await.unwrap();
        sqlx::query("delete from galleries where name = $1").bind("new").execute(&mut *transaction).await.unwrap();
        drop(transaction);
        let failed = sqlx::query("select 1 / $1").bind(0_i32).fetch_optional(&pools.requests).await;
        assert!(failed.is_err());
        assert_eq!(count().fetch_one(&pools.requests).await.unwrap(), 2);
    }
    let mut snapshot = pools.requests.begin_snapshot().await.unwrap();
    assert_eq!(count().fetch_one(&mut *snapshot).await.unwrap(), 2);
    sqlx::query("delete from galleries where name = 'new'").execute(&pools.requests).await.unwrap();
    assert_eq!(count().fetch_one(&mut *snapshot).await.unwrap(), 2);
    drop(snapshot);
    // The next in the session finds none of our settings, and no statement with a name of ours.
    let mut connection = pools.requests.acquire().await.unwrap();
    let settings = "select current_setting('search_path') || ' ' || current_setting('plan_cache_mode')";
    let row = sqlx::raw_sql(settings).fetch_one(&mut *connection).await.unwrap();
    assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "\"$user\", public auto");
}

#[tokio::test]
async fn two_urls_must_lead_to_one_database() {
    let (requests, sessions) = (empty_database().await, empty_database().await);
    let access = Access { sessions: Some(sessions), ..requests.into() };
    let error = Pools::connect(access, PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::OtherDatabase { .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_so() {
    // Nothing is asked of a unix socket, so by TCP, where somebody answers that there is no TLS.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 8];
            if stream.read_exact(&mut request).await.is_ok() {
                let _ = stream.write_all(b"N").await;
            }
        }
    });
    let options: PgConnectOptions = format!("postgres://x@127.0.0.1:{port}/x?sslmode=verify-full").parse().unwrap();
    let error = Pools::connect(options, PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::Tls { .. }), "{error}");
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
    let acquire_timeout = Duration::from_millis(500);
    let settings = PoolSettings { max_connections: 1, acquire_timeout, ..PoolSettings::default() };
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
    assert!(matches!(cancelled, Err(Outcome::Other(DbError::TooSlow(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_are_pruned_while_subjects_are_erased_without_a_deadlock() {
    let pools = database().await;
    let answers = Answers::new(&pools);
    for round in 0..8 {
        // Rows in another order than that of the keys, of whom prune has to forget what was answered, or all.
        sqlx::query(
            "with ada as (insert into subjects (id, gallery_id, name) \
               select gen_random_uuid(), id, gen_random_uuid() from galleries returning id) \
             insert into request_keys (caller, key, fingerprint, answer, subjects, kept_at) \
             select 'anyone', to_char(10000 - n, '00000'), sha256(''), '{}', array[ada.id, gen_random_uuid()], \
               now() - n % 2 * interval '2 days' from ada, generate_series(1, 4000) n",
        )
        .execute(&pools.requests)
        .await
        .unwrap();
        let pool = pools.requests.clone();
        let erasing = tokio::spawn(async move {
            sqlx::query("update subjects set erased_at = now() where erased_at is null").execute(&pool).await
        });
        answers.prune().await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        erasing.await.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        answers.prune().await.unwrap();
        let left = "select count(*), count(answer) from request_keys";
        let left: (i64, i64) = sqlx::query_as(left).fetch_one(&pools.requests).await.unwrap();
        assert_eq!(left, (2000, 0));
        sqlx::query("delete from request_keys").execute(&pools.requests).await.unwrap();
    }
}

#[tokio::test]
async fn jobs_and_answers_of_before_get_their_galleries_and_callers() {
    let pool = Pools::connect(empty_database().await, PoolSettings::default()).await.unwrap().beside;
    let before: Vec<_> = MIGRATOR.iter().filter(|migration| migration.version < 16).cloned().collect();
    let before = Migrator { migrations: before.into(), ..Migrator::DEFAULT };
    before.run_direct(None, &mut *pool.acquire().await.unwrap(), false).await.unwrap();
    let [one, other] = [Uuid::now_v7(), Uuid::now_v7()];
    let retrain = |protected: Value, by_lot: bool| {
        let gallery = json!({"id": one, "name": "a"});
        json!({"gallery": gallery, "protected": protected, "by_lot": by_lot})
    };
    let jobs = [
        ("erase", json!({"gallery": one, "subject": null}), Some(vec![one])),
        ("merge", json!({"gallery": one, "subject": other, "into": other}), Some(vec![one])),
        ("import", json!({"gallery": one, "gallery_name": "a", "archive": other, "photos": 3}), Some(vec![one])),
        ("retrain", retrain(json!([{"id": other, "name": "b"}]), false), Some(vec![one, other])),
        ("evaluate", retrain(json!([]), false), Some(vec![one])),
        ("retrain", retrain(json!([{"id": other, "name": "b"}]), true), None),
        ("promote", json!({"model": one}), None),
        ("review", json!({}), None),
        ("erase", json!({"gallery": "what nobody wrote"}), None),
    ];
    for (number, (kind, settings, _)) in jobs.iter().enumerate() {
        sqlx::query("insert into jobs (id, kind, lane, key, settings, requested_by) values ($1, $2, 'l', $3, $4, 'b')")
            .bind(Uuid::from_u128(number as u128))
            .bind(kind)
            .bind(number.to_string())
            .bind(settings)
            .execute(&pool)
            .await
            .unwrap();
    }
    let key = "insert into request_keys (key, fingerprint, answer, subjects) values ('k', sha256('a'), '{}', '{}')";
    sqlx::raw_sql(key).execute(&pool).await.unwrap();

    migrate(&pool).await.unwrap();
    let found: Vec<Option<Vec<Uuid>>> =
        sqlx::query_scalar("select galleries from jobs order by id").fetch_all(&pool).await.unwrap();
    assert_eq!(found, jobs.map(|(.., galleries)| galleries));
    let callers: Vec<String> = sqlx::query_scalar("select caller from request_keys where key = 'k' order by 1")
        .fetch_all(&pool)
        .await
        .unwrap();
    let mut expected = [Caller::anyone(), Caller::admin_key(), Caller::client_key()].map(|caller| caller.id());
    expected.sort();
    assert_eq!(callers, expected);
}

#[tokio::test]
async fn a_key_belongs_to_whoever_sent_it() {
    let pools = database().await;
    let answers = Answers::new(&pools);
    let with_key = || Caller::with_key(KeyId::new(), "same name", Role::Enrol, Scope::All);
    let callers = [Caller::client_key(), Caller::admin_key(), Caller::anyone(), with_key(), with_key()];
    // Each with another request under the same key.
    let keys: Vec<RequestKey> = (0..).zip(&callers).map(|(n, it)| RequestKey::new(it, "k", [n; 32]).unwrap()).collect();
    for (number, key) in keys.iter().enumerate() {
        assert!(answers.find(key).await.unwrap().is_none(), "{:?}", callers[number]);
        let mut transaction = pools.requests.begin().await.unwrap();
        transaction.keep_answer(key, &number, &[]).await.unwrap();
        transaction.commit().await.unwrap();
    }
    for (number, key) in keys.iter().enumerate() {
        let kept = answers.find(key).await.unwrap().unwrap();
        assert!(kept.is_of(key) && kept.answer == Some(json!(number)), "{:?}", callers[number]);
        let mut transaction = pools.requests.begin().await.unwrap();
        assert!(transaction.keep_answer(key, &number, &[]).await.is_err());
    }
}
