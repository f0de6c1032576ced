//! What a server holds in memory is never wrong: it slept for longer than changes are kept, or a standby that knows less took the
//! place of its database.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, made_by_setup};

/// For as long as it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How old an answer may be that does not say that it is stale.
const FRESH: Duration = Duration::from_secs(2);

fn url(run: &Path) -> String {
    format!("postgres://faceid@localhost/faceid?host={}", run.display())
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// The database behind a socket, past any server.
struct Database(PgConnection);

impl Database {
    async fn at(run: &Path) -> Self {
        Self(PgConnection::connect(&url(run)).await.unwrap())
    }

    /// Adds a subject of one face, whose embedding is that of nobody else.
    async fn add(&mut self, gallery: &str, name: &str, axis: i32) {
        let add = "with subject as (insert into subjects (id, gallery_id, name) \
              select gen_random_uuid(), id, $2 from galleries where name = $1 returning id, gallery_id), \
            face as (insert into faces (id, gallery_id, subject_id) \
              select gen_random_uuid(), gallery_id, id from subject returning id, gallery_id, subject_id) \
            insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding) \
            select face.id, m.id, gallery_id, subject_id, (select array_agg((n = $3)::int::real order by n)::vector::halfvec \
              from generate_series(1, m.dimension) n) from face, models m where m.state = 'active'";
        sqlx::query(add).bind(gallery).bind(name).bind(axis).execute(&mut self.0).await.unwrap();
    }
}

/// Whom the one of an axis is taken for, unless nobody was found; and whether the answer was fresh. `None`: there was no answer.
async fn best(app: &TestApp, axis: usize) -> Option<(Option<String>, bool)> {
    let answer: Value = app.get("/admin/models").await.value();
    let active = answer.as_array()?.iter().find(|model| model["state"] == "active")?;
    let mut embedding = vec![0.0; active["dimension"].as_u64()? as usize];
    embedding[axis - 1] = 1.0;
    let probe = json!({"embedding": embedding, "gallery": app.gallery, "threshold": 0.9});
    let answer = app.post_json("/identify/embedding", probe).await;
    if answer.status != StatusCode::OK {
        return None;
    }
    let answer = answer.value();
    let known = answer["known"].as_bool()?.then(|| answer["matches"][0]["subject"].as_str().map(str::to_owned));
    Some((known.flatten(), answer["stale_seconds"].is_null()))
}

async fn until_found(app: &TestApp, axis: usize, name: &str) {
    eventually(PATIENCE, &format!("{name} is found"), async || {
        (best(app, axis).await? == (Some(name.to_owned()), true)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_slept_for_longer_than_changes_are_kept_finds_nobody_who_was_erased() {
    let (data, other) = (data_dir(), data_dir());
    let first = Server::start(data.path(), &[]).await;
    let run = data.path().join("run");
    let second = Server::start(other.path(), &["--database-url", &url(&run), "--max-staleness", "1"]).await;
    let app = TestApp::at(first.url.clone()).await;
    let there = TestApp { url: second.url.clone(), gallery: app.gallery.clone(), client: app.client.clone() };
    let mut database = Database::at(&run).await;
    database.add(&app.gallery, "Ada", 1).await;
    database.add(&app.gallery, "Bob", 2).await;
    for (axis, name) in [(1, "Ada"), (2, "Bob")] {
        until_found(&there, axis, name).await;
    }

    signal(second.pid(), Signal::SIGSTOP);
    app.send(app.request(Method::DELETE, &format!("/subjects/Ada?gallery={}", app.gallery)))
        .await
        .expect(StatusCode::OK);
    database.add(&app.gallery, "Cyd", 3).await;
    until_found(&app, 3, "Cyd").await;
    // As an hour later, of which the test does not wait for the most.
    tokio::time::sleep(Duration::from_secs(2)).await;
    sqlx::raw_sql(
        "delete from readers where seen_at < clock_timestamp() - interval '1 second'; \
         with gone as (delete from changes returning transaction::text::bigint) \
         update change_log set pruned_to = (select (max(transaction) + 1)::text::xid8 from gone)",
    )
    .execute(&mut database.0)
    .await
    .unwrap();
    signal(second.pid(), Signal::SIGCONT);
    for _ in 0..50 {
        let found = best(&there, 1).await;
        assert!(found.is_none_or(|(subject, _)| subject.is_none()), "somebody who was erased was found");
    }
    until_found(&there, 3, "Cyd").await;
    until_found(&there, 2, "Bob").await;
    assert_eq!(best(&there, 1).await, Some((None, true)));
}

fn postgres(program: &str) -> PathBuf {
    made_by_setup("FACEID_POSTGRES_DIR", "postgres").join("bin").join(program)
}

/// Makes a standby that waits for its time, of what the database behind `run` holds now.
fn make_standby(run: &Path, data_dir: &Path) {
    let cluster = data_dir.join("postgres");
    let made = Command::new(postgres("pg_basebackup"))
        .args(["--username=faceid", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--host"])
        .arg(run)
        .arg("--pgdata")
        .arg(&cluster)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // So that it takes no connection before it is promoted, as one that still recovers.
    std::fs::write(cluster.join("postgresql.auto.conf"), "hot_standby = off\nprimary_conninfo = ''\n").unwrap();
}

/// Promotes it, as `pg_ctl promote` does, which root may not run.
async fn promote(data_dir: &Path, server: &mut Server) {
    let cluster = data_dir.join("postgres");
    let promoting = async {
        loop {
            if let Ok(file) = std::fs::read_to_string(cluster.join("postmaster.pid"))
                && let Some(pid) = file.lines().next().and_then(|pid| pid.parse().ok())
            {
                std::fs::write(cluster.join("promote"), "").unwrap();
                signal(pid, Signal::SIGUSR1);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = server.until_ready() => (),
        () = promoting => (),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_found_whom_a_promoted_standby_does_not_know() {
    let (data, standby, other, name) = (data_dir(), data_dir(), data_dir(), data_dir());
    let primary = Server::start(data.path(), &[]).await;
    // The database by a name, which is given to the standby later.
    let run = name.path().join("run");
    symlink(data.path().join("run"), &run).unwrap();
    let server = Server::start(other.path(), &["--database-url", &url(&run), "--max-staleness", "2"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = Database::at(&run).await;
    database.add(&app.gallery, "Ada", 1).await;
    until_found(&app, 1, "Ada").await;

    make_standby(&run, standby.path());
    for (axis, name) in [(2, "Bob"), (3, "Cyd")] {
        // The standby will never hear of them, and gives the numbers of their transactions again.
        database.add(&app.gallery, name, axis).await;
        until_found(&app, axis as usize, name).await;
    }
    let mut primary = primary;
    primary.terminate();
    primary.ended().await;
    let ended = Instant::now();
    std::fs::remove_file(&run).unwrap();
    symlink(standby.path().join("run"), &run).unwrap();
    let mut promoted = Server::spawn(faceid(), std::process::Stdio::inherit(), standby.path(), &[]);
    promote(standby.path(), &mut promoted).await;
    let mut database = Database::at(&run).await;
    let segment: String =
        sqlx::query_scalar("select pg_walfile_name(pg_current_wal_lsn())").fetch_one(&mut database.0).await.unwrap();
    assert!(segment.starts_with("00000002"), "of the second timeline: {segment}");

    // Old answers say so, once they are; those that do not know what the database knows.
    tokio::time::sleep_until(ended + FRESH).await;
    eventually(PATIENCE, "it answers from what the standby holds", async || {
        let (found, is_fresh) = best(&app, 2).await?;
        is_fresh.then(|| assert_eq!(found, None, "somebody was found whom the database does not know"))
    })
    .await;
    assert_eq!(best(&app, 3).await, Some((None, true)));
    assert_eq!(best(&app, 1).await, Some((Some("Ada".to_owned()), true)));
    // By a transaction whose number another one had before.
    database.add(&app.gallery, "Dan", 4).await;
    until_found(&app, 4, "Dan").await;
}
