//! What a server says while it starts, and when it is ready.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use faceid::http::Code;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually};

/// Generous: machines are shared.
const WITHIN: Duration = Duration::from_secs(120);

/// Makes a private PostgreSQL whose next start recovers until the returned file is gone: PostgreSQL asks this command for
/// more of its log.
fn hold_recovery(data: &Path) -> PathBuf {
    let made = faceid().args(["migrate", "--data-dir"]).arg(data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let held = data.join("held");
    std::fs::write(&held, "").unwrap();
    let command = format!("while [ -e \"{}\" ]; do sleep 0.1; done; exit 1", held.display());
    let settings = OpenOptions::new().append(true).open(data.join("postgres/postgresql.auto.conf"));
    // Without hot standby nobody is let in before the end.
    writeln!(settings.unwrap(), "hot_standby = off\nrestore_command = '{command}'").unwrap();
    std::fs::write(data.join("postgres/recovery.signal"), "").unwrap();
    held
}

/// A client of a server that may be starting.
fn client_of(server: &Server) -> TestApp {
    TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() }
}

/// Waits until the server says that it lives.
async fn lives(app: &TestApp) {
    eventually(WITHIN, "the server lives", async || {
        let answer = app.client.get(format!("{}/healthz", app.url)).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

/// What /readyz says of a server that is not ready.
async fn why_not_ready(app: &TestApp) -> Value {
    let answer = app.get("/readyz").await;
    answer.expect(StatusCode::SERVICE_UNAVAILABLE);
    answer.value()
}

#[tokio::test]
async fn a_server_whose_database_recovers_lives_and_is_not_ready_until_it_has() {
    let data = data_dir();
    let held = hold_recovery(data.path());
    let mut server = Server::spawn(faceid(), Stdio::inherit(), data.path(), &[]);
    let app = client_of(&server);
    lives(&app).await;
    assert_eq!(why_not_ready(&app).await, json!({"ready": false, "starting": true, "stage": "database"}));
    let asked = [
        (Method::GET, "/galleries"),
        (Method::POST, "/enroll"),
        (Method::GET, "/admin/models"),
        (Method::GET, "/metrics"),
        (Method::GET, "/nowhere"),
    ];
    for (method, path) in asked {
        let answer = app.send(app.request(method, path).header("x-request-id", "order-4711").body("{}")).await;
        let problem = answer.expect_problem(503, Code::Starting);
        assert!(problem.detail.contains("database"), "{}", problem.detail);
        assert_eq!(
            (&answer.headers["retry-after"], &answer.headers["x-request-id"]),
            (&"1".parse().unwrap(), &"order-4711".parse().unwrap())
        );
    }
    app.send(app.request(Method::POST, "/healthz")).await.expect_problem(405, Code::MethodNotAllowed);

    std::fs::remove_file(held).unwrap();
    server.until_ready().await;
    let ready = app.get("/readyz").await.value();
    assert_eq!((&ready["ready"], &ready["memory"], &ready["stage"]), (&true.into(), &"ok".into(), &Value::Null));
    app.get("/galleries").await.expect(StatusCode::OK);
    app.get("/nowhere").await.expect_problem(404, Code::RouteNotFound);
    server.terminate();
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_recovery() {
    let data = data_dir();
    let held = hold_recovery(data.path());
    let mut server = Server::spawn(faceid(), Stdio::inherit(), data.path(), &["--shutdown-timeout", "1"]);
    lives(&client_of(&server)).await;
    let postmaster = data.path().join("postgres/postmaster.pid");
    eventually(WITHIN, "PostgreSQL recovers", async || postmaster.exists().then_some(())).await;
    server.terminate();
    assert!(server.ended().await.success());
    // Its guard ends PostgreSQL.
    eventually(WITHIN, "the end of PostgreSQL", async || (!postmaster.exists()).then_some(())).await;
    assert!(held.exists());
}

#[tokio::test]
async fn a_start_that_fails_ends_the_server_that_lived_meanwhile() {
    let data = data_dir();
    let log = data.path().join("log");
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/nothing", silent.local_addr().unwrap());
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let silence = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            let (stream, _) = silent.accept().await.unwrap();
            stream.readable().await.unwrap();
            taken.push(stream);
            let _ = asked.try_send(());
        }
    });
    let log_file = File::create(&log).unwrap();
    let mut server = Server::spawn(faceid(), log_file, data.path(), &["--database-url", &url]);
    let app = client_of(&server);
    lives(&app).await;
    assert_eq!(why_not_ready(&app).await["stage"], "database");
    // A connection that ends with something unread is reset, and not just at its end.
    was_asked.recv().await;
    silence.abort();
    assert_eq!(server.ended().await.code(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("the database is unavailable"), "{said}");
}

#[tokio::test]
async fn a_server_is_ready_when_its_memory_is_filled() {
    let (data, other) = (data_dir(), data_dir());
    let _first = Server::start(data.path(), &[]).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // Nobody reads a template meanwhile.
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("lock table templates in access exclusive mode").execute(&mut *transaction).await.unwrap();
    let arguments = ["--database-url", &url, "--search", "resident"];
    let mut second = Server::spawn(faceid(), Stdio::inherit(), other.path(), &arguments);
    let app = client_of(&second);
    lives(&app).await;
    let filling = eventually(WITHIN, "the server has started", async || {
        let state = why_not_ready(&app).await;
        state["starting"].is_null().then_some(state)
    })
    .await;
    // On a machine that is busy enough another part may count as down for a while.
    assert_eq!((&filling["ready"], &filling["memory"]), (&false.into(), &"filling".into()));
    transaction.rollback().await.unwrap();
    second.until_ready().await;
    assert_eq!(app.get("/readyz").await.value()["memory"], "ok");
}

#[tokio::test]
async fn a_server_that_searches_in_postgres_has_no_memory_to_wait_for() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--search", "pgvector"]).await;
    assert_eq!(client_of(&server).get("/readyz").await.value()["memory"], "off");
}
