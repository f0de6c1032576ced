use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::super::testing::install_dir;
use super::super::{NoPgvector, PoolSettings, Pools, ping};
use super::*;

/// A data folder that is removed with all that is in it.
fn data_dir() -> TempDir {
    let folder = tempfile::Builder::new().prefix("faceid-test-").tempdir().unwrap();
    // Postgres may have to enter it as another user.
    set_mode(folder.path(), 0o755);
    folder
}

fn set_mode(folder: &Path, mode: u32) {
    std::fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
}

async fn start(data_dir: &Path) -> Result<PrivatePostgres, DbError> {
    PrivatePostgres::start(PrivateOptions { install_dir: install_dir(), data_dir: data_dir.to_owned() }).await
}

fn postmaster_pid(data_dir: &Path) -> Pid {
    let file = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().parse().unwrap())
}

async fn eventually(within: Duration, what: &str, happened: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !happened().await {
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(postgres: &PrivatePostgres) -> bool {
    PgConnection::connect_with(&postgres.connect_options()).await.is_ok()
}

#[tokio::test]
async fn one_data_dir_through_its_life() {
    let folder = data_dir();
    let path = folder.path();
    let postgres = start(path).await.unwrap();

    // Owned by one process at a time, also within ours.
    let error = start(path).await.unwrap_err();
    assert!(matches!(error, DbError::DataDirInUse { pid, .. } if pid == Some(std::process::id())), "{error}");

    let pool = Pools::connect(postgres.connect_options(), PoolSettings::default()).await.unwrap().requests;
    sqlx::raw_sql("create table kept (n int); insert into kept values (7)").execute(&pool).await.unwrap();

    // The supervisor brings it back with everything that was committed. Until then it is unavailable, no worse.
    let first = postmaster_pid(path);
    kill(first, Signal::SIGKILL).unwrap();
    eventually(Duration::from_secs(30), "restart", async || match ping(&pool).await {
        Ok(()) => path.join("postgres/postmaster.pid").exists() && postmaster_pid(path) != first,
        Err(DbError::Unavailable(_)) => false,
        Err(other) => panic!("{other}"),
    })
    .await;
    let kept: i32 = sqlx::query_scalar("select n from kept").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, 7);
    pool.close().await;

    let last = postmaster_pid(path);
    postgres.stop().await;
    assert!(kill(last, None).is_err(), "Postgres still runs after stop");
    assert!(!path.join("postgres/postmaster.pid").exists());

    // A second life, and one of another major version.
    start(path).await.unwrap().stop().await;
    std::fs::write(path.join("postgres/PG_VERSION"), "9\n").unwrap();
    let error = start(path).await.unwrap_err();
    assert!(matches!(error, DbError::OtherMajorVersion { .. }), "{error}");
}

/// Started by `a_killed_owner_takes_postgres_with_it` in a process of its own, which is killed.
#[tokio::test]
#[ignore = "a part of another test"]
async fn owner_that_will_be_killed() {
    let Some(path) = std::env::var_os("FACEID_TEST_OWNED_DIR").map(PathBuf::from) else { return };
    let _postgres = start(&path).await.unwrap();
    std::fs::write(path.join("started"), "").unwrap();
    std::future::pending().await
}

/// Starts Postgres in another process; returns that process.
async fn other_owner(path: &Path) -> std::process::Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "db::private::tests::owner_that_will_be_killed", "--ignored"])
        .env("FACEID_TEST_OWNED_DIR", path)
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(60), "the other owner", async || path.join("started").exists()).await;
    child
}

#[tokio::test]
async fn a_killed_owner_takes_postgres_with_it() {
    let folder = data_dir();
    let mut owner = other_owner(folder.path()).await;
    let error = start(folder.path()).await.unwrap_err();
    assert!(matches!(error, DbError::DataDirInUse { pid, .. } if pid == Some(owner.id())), "{error}");

    let pid = postmaster_pid(folder.path());
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually(Duration::from_secs(30), "the guard's work", async || kill(pid, None).is_err()).await;
    start(folder.path()).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_postmaster_without_owner_or_guard_is_stopped_first() {
    let folder = data_dir();
    let mut owner = other_owner(folder.path()).await;
    let pid = postmaster_pid(folder.path());
    for guard in guards_of(pid) {
        kill(guard, Signal::SIGKILL).unwrap();
    }
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(kill(pid, None).is_ok(), "the leftover should be alive for this test");

    let postgres = start(folder.path()).await.unwrap();
    assert_ne!(postmaster_pid(folder.path()), pid);
    assert!(answers(&postgres).await);
    postgres.stop().await;
}

fn guards_of(postmaster: Pid) -> Vec<Pid> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ending = format!("faceid-postgres-guard\0{postmaster}\0");
    let guards = pids.filter(|pid| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(ending.as_bytes()))
    });
    let guards: Vec<Pid> = guards.map(Pid::from_raw).collect();
    assert_eq!(guards.len(), 1);
    guards
}

#[tokio::test]
async fn a_stale_pid_of_an_unrelated_process_is_no_obstacle() {
    let folder = data_dir();
    let postgres = start(folder.path()).await.unwrap();
    let file = folder.path().join("postgres/postmaster.pid");
    let stale = std::fs::read_to_string(&file).unwrap();
    postgres.stop().await;

    // As after a restart of a container: the id in the file now belongs to somebody else of the same account.
    let mut cluster = Command::new("/bin/sleep");
    if geteuid().is_root() {
        cluster.uid(std::fs::metadata(folder.path().join("postgres")).unwrap().uid());
    }
    let mut unrelated = cluster.arg("60").spawn().unwrap();
    let (_, rest) = stale.split_once('\n').unwrap();
    std::fs::write(&file, format!("{}\n{rest}", unrelated.id())).unwrap();

    start(folder.path()).await.unwrap().stop().await;
    assert!(unrelated.try_wait().unwrap().is_none(), "an unrelated process was ended");
    unrelated.kill().unwrap();
    unrelated.wait().unwrap();
}

#[tokio::test]
async fn a_standby_is_refused_at_the_start_and_waited_for_later() {
    let folder = data_dir();
    let postgres = start(folder.path()).await.unwrap();
    let settings = PoolSettings { acquire_timeout: Duration::from_secs(2), ..PoolSettings::default() };
    let pools = Pools::connect(postgres.connect_options(), settings.clone()).await.unwrap();
    ping(&pools.requests).await.unwrap();
    postgres.stop().await;

    // As after a failover: what answers at the address of the primary follows another one.
    std::fs::write(folder.path().join("postgres/standby.signal"), "").unwrap();
    let postgres = start(folder.path()).await.unwrap();
    let error = Pools::connect(postgres.connect_options(), settings).await.unwrap_err();
    assert!(matches!(error, DbError::Standby), "{error}");
    let error = ping(&pools.requests).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable(_)), "{error}");

    let mut connection = PgConnection::connect_with(&postgres.connect_options()).await.unwrap();
    sqlx::query("select pg_promote()").execute(&mut connection).await.unwrap();
    let write = || sqlx::raw_sql("create table if not exists written (n int)");
    eventually(Duration::from_secs(30), "the new primary", async || write().execute(&pools.requests).await.is_ok())
        .await;
    pools.close().await;
    postgres.stop().await;
}

#[tokio::test]
async fn half_made_clusters_are_cleared_away() {
    let folder = data_dir();
    let half = folder.path().join("postgres.new-half");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("PG_VERSION"), "16").unwrap();
    start(folder.path()).await.unwrap().stop().await;
    assert!(!half.exists());
}

#[tokio::test]
async fn a_postgres_without_pgvector_is_named() {
    let folder = data_dir();
    let install = folder.path().join("install");
    copy_tree(&install_dir(), &install).unwrap();
    let removed = std::fs::remove_file(install.join("share/postgresql/extension/vector.control"));
    removed.unwrap();
    let options = PrivateOptions { install_dir: install, data_dir: folder.path().join("data") };
    let postgres = PrivatePostgres::start(options).await.unwrap();
    let error = Pools::connect(postgres.connect_options(), PoolSettings::default()).await.unwrap_err();
    assert!(matches!(error, DbError::NoPgvector(NoPgvector::Missing { .. })), "{error}");
    assert!(error.to_string().contains("-pgvector"), "{error}");
    postgres.stop().await;
}

#[tokio::test]
async fn a_folder_that_the_account_cannot_enter_is_named() {
    let closed = data_dir();
    set_mode(closed.path(), 0o700);
    if !geteuid().is_root() {
        // Then Postgres runs as we do, and can enter what we can.
        return start(&closed.path().join("data")).await.unwrap().stop().await;
    }
    let error = start(&closed.path().join("data")).await.unwrap_err();
    match &error {
        DbError::DataDirUnreachable { ancestor, .. } => assert_eq!(ancestor, closed.path()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_long_path_is_refused() {
    let folder = data_dir();
    let error = start(&folder.path().join("d".repeat(100))).await.unwrap_err();
    assert!(matches!(error, DbError::SocketPathTooLong { length, .. } if length > 107), "{error}");
}

#[tokio::test]
async fn a_missing_install_is_named() {
    let folder = data_dir();
    let options = PrivateOptions { install_dir: folder.path().join("nowhere"), data_dir: folder.path().join("data") };
    let error = PrivatePostgres::start(options).await.unwrap_err();
    assert!(matches!(error, DbError::NoPostgres { missing: "bin/postgres", .. }), "{error}");
}

#[tokio::test]
async fn a_broken_cluster_reports_the_log() {
    let folder = data_dir();
    start(folder.path()).await.unwrap().stop().await;
    std::fs::remove_file(folder.path().join("postgres/global/pg_control")).unwrap();
    let error = start(folder.path()).await.unwrap_err();
    assert!(matches!(&error, DbError::NotStarted { log, .. } if log.contains("pg_control")), "{error}");
}

/// Makes the next start recover until the returned file is gone: PostgreSQL asks this command for more of its log.
fn hold_recovery(data_dir: &Path) -> PathBuf {
    let held = data_dir.canonicalize().unwrap().join("held");
    std::fs::write(&held, "").unwrap();
    let command = format!("while [ -e \"{}\" ]; do sleep 0.1; done; exit 1", held.display());
    let settings = data_dir.join("postgres/postgresql.auto.conf");
    let mut settings = std::fs::OpenOptions::new().append(true).open(settings).unwrap();
    // Without hot standby nobody is let in before the end.
    writeln!(settings, "hot_standby = off\nrestore_command = '{command}'").unwrap();
    std::fs::write(data_dir.join("postgres/recovery.signal"), "").unwrap();
    held
}

/// A postmaster of the cluster that says it is starting, unless it is `former`.
fn is_starting(data_dir: &Path, former: Pid) -> bool {
    let file = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap_or_default();
    let lines: Vec<&str> = file.lines().map(str::trim).collect();
    lines.first() != Some(&former.to_string().as_str()) && lines.get(7) == Some(&"starting")
}

#[tokio::test]
async fn a_recovery_is_waited_for_beyond_all_patience_and_brings_everything_back() {
    let folder = data_dir();
    let postgres = start(folder.path()).await.unwrap();
    let mut connection = PgConnection::connect_with(&postgres.connect_options()).await.unwrap();
    let fill = "create table filled (n int); insert into filled select generate_series(1, 50000)";
    sqlx::raw_sql(fill).execute(&mut connection).await.unwrap();
    kill(postmaster_pid(folder.path()), Signal::SIGKILL).unwrap();
    postgres.stop().await;

    let held = hold_recovery(folder.path());
    // A process that another test starts at this moment shares the lock until it runs its own program.
    let free = loop {
        match DataDir::open(folder.path()) {
            Err(DbError::DataDirInUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => break opened.unwrap(),
        }
    };
    let cluster = Cluster::prepare(&install_dir(), free).await.unwrap();
    let patience = Duration::from_secs(5);
    let released = async {
        tokio::time::sleep(patience * 2).await;
        assert!(is_starting(folder.path(), Pid::from_raw(0)), "it should be recovering for this test");
        std::fs::remove_file(held).unwrap();
    };
    let (postmaster, ()) = tokio::join!(supervisor::start_patiently(&cluster, patience), released);
    let postmaster = postmaster.unwrap();
    let mut connection = PgConnection::connect_with(&cluster.connect_options(ROLE)).await.unwrap();
    let found: i64 = sqlx::query_scalar("select count(*) from filled").fetch_one(&mut connection).await.unwrap();
    assert_eq!(found, 50_000);
    postmaster.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_recovery_after_a_crash() {
    let folder = data_dir();
    let postgres = start(folder.path()).await.unwrap();
    let _held = hold_recovery(folder.path());
    let first = postmaster_pid(folder.path());
    kill(first, Signal::SIGKILL).unwrap();
    eventually(Duration::from_secs(60), "the recovery", async || is_starting(folder.path(), first)).await;
    assert!(!answers(&postgres).await);
    tokio::time::timeout(Duration::from_secs(120), postgres.stop()).await.expect("the end");
    assert!(!folder.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
}

#[tokio::test]
async fn a_start_without_a_word_is_given_up() {
    let folder = data_dir();
    start(folder.path()).await.unwrap().stop().await;
    let cluster = Cluster::prepare(&install_dir(), DataDir::open(folder.path()).unwrap()).await.unwrap();
    // Nobody answers in so short a time.
    let error = supervisor::start_patiently(&cluster, Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, DbError::NotStarted { reason, .. } if reason.contains("not answered")), "{error}");
}
