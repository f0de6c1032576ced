use std::time::Duration;

use sqlx::Executor;
use tokio::time::timeout;

use super::super::testing::{database_with, empty_database};
use super::super::{Access, DbError, Pool, PoolSettings, Pools, lock, migrate, ping};

/// How long a caller stays that leaves: long enough for a statement to have begun.
const STAY: Duration = Duration::from_millis(300);

/// So few that a connection which does not come back is missed; and so patient that it is not missed too soon.
fn few(max_connections: u32) -> PoolSettings {
    PoolSettings { max_connections, acquire_timeout: Duration::from_secs(20), ..PoolSettings::default() }
}

async fn backend(pool: &Pool) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(pool).await.unwrap()
}

/// How many sleep in this database.
async fn sleepers(pools: &Pools) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' \
         and query like 'select pg_sleep%'",
    )
    .fetch_one(&pools.beside)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_statement_ends_when_its_caller_leaves() {
    let pools = database_with(few(1)).await;
    let process = backend(&pools.requests).await;
    let sleep = async {
        let mut transaction = pools.requests.begin().await.unwrap();
        transaction.execute("select pg_sleep(300)").await
    };
    assert!(timeout(STAY, sleep).await.is_err());
    // The only connection comes back, and is the same.
    assert_eq!(backend(&pools.requests).await, process);
    assert_eq!(sleepers(&pools).await, 0);
    let sleep = sqlx::query("select pg_sleep($1)").bind(300_f64);
    assert!(timeout(STAY, sleep.execute(&pools.requests.cancellable())).await.is_err());
    assert_eq!(backend(&pools.requests).await, process);
    assert_eq!(sleepers(&pools).await, 0);
}

#[tokio::test]
async fn what_was_done_in_a_dropped_transaction_is_undone() {
    let pools = database_with(few(1)).await;
    let process = backend(&pools.requests).await;
    let count = || sqlx::query_scalar::<_, i64>("select count(*) from galleries");
    let mut transaction = pools.requests.begin().await.unwrap();
    transaction.execute("delete from galleries").await.unwrap();
    drop(transaction);
    assert_eq!(count().fetch_one(&pools.requests).await.unwrap(), 1);
    // After a statement that failed as well.
    let mut transaction = pools.requests.begin().await.unwrap();
    transaction.execute("delete from galleries").await.unwrap();
    transaction.execute("select 1 / 0").await.unwrap_err();
    drop(transaction);
    assert_eq!(count().fetch_one(&pools.requests).await.unwrap(), 1);
    assert_eq!(backend(&pools.requests).await, process);
    let mut transaction = pools.requests.begin().await.unwrap();
    transaction.execute("delete from galleries").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count().fetch_one(&pools.requests).await.unwrap(), 0);
}

#[tokio::test]
async fn a_copy_that_was_broken_off_confuses_nobody() {
    let pools = database_with(few(1)).await;
    let mut transaction = pools.requests.begin().await.unwrap();
    let mut copy = transaction.copy_in_raw("copy galleries (id, name) from stdin").await.unwrap();
    copy.send("not a row\n".as_bytes()).await.unwrap();
    drop(copy);
    drop(transaction);
    for number in 0..5 {
        let echo: i32 = sqlx::query_scalar("select $1").bind(number).fetch_one(&pools.requests).await.unwrap();
        assert_eq!(echo, number);
    }
}

#[test]
fn outside_a_runtime_the_connection_ends() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pools = runtime.block_on(database_with(few(1)));
    let mut transaction = runtime.block_on(pools.requests.begin()).unwrap();
    runtime.block_on(transaction.execute("delete from galleries")).unwrap();
    drop(transaction);
    let count = sqlx::query_scalar::<_, i64>("select count(*) from galleries");
    assert_eq!(runtime.block_on(count.fetch_one(&pools.requests)).unwrap(), 1);
}

/// Callers who leave at any moment, beside others who stay.
async fn nobody_else_is_cancelled(pools: Pools) {
    let leaving = (0..60_u64).map(|n| {
        let pool = pools.requests.clone();
        tokio::spawn(async move {
            let sleep = async {
                let mut transaction = pool.begin().await.unwrap();
                for _ in 0..100 {
                    sqlx::query("select pg_sleep($1)").bind(0.01_f64).execute(&mut *transaction).await.unwrap();
                }
            };
            let _ = timeout(Duration::from_millis(n * 7 % 50), sleep).await;
        })
    });
    let staying = (0..8_i32).map(|n| {
        let pool = pools.requests.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let (one, other) = (pool.clone(), pool.cancellable());
                let pool = if round % 2 == 0 { &one } else { &other };
                let echo = sqlx::query_scalar("select $1 from pg_sleep(0.005)").bind(100 * n + round);
                let echo: i32 = echo.fetch_one(pool).await.unwrap();
                assert_eq!(echo, 100 * n + round);
            }
        })
    });
    for caller in leaving.chain(staying).collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    ping(&pools.requests).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_stays_is_not_cancelled() {
    nobody_else_is_cancelled(database_with(few(4)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_behind_a_pooler() {
    nobody_else_is_cancelled(as_behind_a_pooler(few(4)).await).await;
}

async fn as_behind_a_pooler(settings: PoolSettings) -> Pools {
    let options = empty_database().await;
    let access = Access { sessions: Some(options.clone()), ..options.into() };
    let pools = Pools::connect(access, settings).await.unwrap();
    migrate(&pools.beside).await.unwrap();
    pools
}

/// Statements that take longer than the limits allow.
async fn limits_hold(pools: Pools) {
    let sleep = || sqlx::query("select pg_sleep($1)").bind(1_f64);
    let slow = DbError::from(sleep().execute(&pools.requests).await.unwrap_err());
    assert!(matches!(slow, DbError::TooSlow(_)), "{slow}");
    let mut holder = pools.beside.begin().await.unwrap();
    lock(&mut holder, 7).await.unwrap();
    let mut transaction = pools.requests.begin().await.unwrap();
    let locked = DbError::from(lock(&mut transaction, 7).await.unwrap_err());
    assert!(matches!(locked, DbError::Locked(_)), "{locked}");
    transaction.rollback().await.unwrap();
    // What may take longer.
    sleep().execute(&pools.beside).await.unwrap();
    sleep().execute(&pools.requests.without_limits()).await.unwrap();
    let mut unlimited = pools.requests.without_limits().begin().await.unwrap();
    let waiting = async {
        lock(&mut unlimited, 7).await.unwrap();
    };
    let releasing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        holder.rollback().await.unwrap();
    };
    tokio::join!(waiting, releasing);
    unlimited.commit().await.unwrap();
    // Only there.
    let slow = DbError::from(sleep().execute(&pools.requests).await.unwrap_err());
    assert!(matches!(slow, DbError::TooSlow(_)), "{slow}");
}

fn tight() -> PoolSettings {
    let (lock_timeout, statement_timeout) = (Duration::from_millis(100), Duration::from_millis(500));
    PoolSettings { lock_timeout, statement_timeout, ..few(2) }
}

#[tokio::test]
async fn statements_of_requests_have_limits() {
    limits_hold(database_with(tight()).await).await;
}

#[tokio::test]
async fn so_they_have_behind_a_pooler() {
    limits_hold(as_behind_a_pooler(tight()).await).await;
}
