//! The command line, at a server and directly.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use faceid::service::answers::Job;
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, photos};
use crate::upkeep::database;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// Two photos each of two people, and a file that is no photo.
fn people() -> TempDir {
    let folder = data_dir();
    for person in ["Tony_Blair", "Hugo_Chavez"] {
        std::fs::create_dir(folder.path().join(person)).unwrap();
        for number in 1..=2 {
            let path = folder.path().join(person).join(format!("{number}.jpg"));
            std::fs::write(path, photos::lfw(person, number)).unwrap();
        }
    }
    std::fs::write(folder.path().join("Hugo_Chavez/notes.txt"), "no photo").unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn a_folder_is_enrolled_at_a_server() {
    let people = people();
    let app = TestApp::start().await;
    let at_server = |arguments: &[&str]| faceid().args(arguments).args(["--server", &app.url]).output().unwrap();
    let folder = people.path().to_str().unwrap();
    let enrolled = at_server(&["enroll", folder, "--gallery", &app.gallery, "--json"]);
    assert_eq!(enrolled.status.code(), Some(1), "one file is no photo: {}", text(&enrolled));
    let outcome = json(&enrolled);
    assert_eq!((&outcome["subjects"], &outcome["enrolled"]), (&2.into(), &4.into()));
    assert!(outcome["failed"][0]["path"].as_str().unwrap().ends_with("notes.txt"), "{outcome}");

    let probe = data_dir();
    let probe = probe.path().join("probe.jpg");
    std::fs::create_dir_all(probe.parent().unwrap()).unwrap();
    std::fs::write(&probe, photos::lfw("Tony_Blair", 3)).unwrap();
    let probe = probe.to_str().unwrap();
    let identified = at_server(&["identify", probe, "--gallery", &app.gallery]);
    assert!(identified.status.success(), "{}", text(&identified));
    assert!(text(&identified).contains("known") && text(&identified).contains("Tony_Blair"), "{}", text(&identified));

    let same = at_server(&["verify", probe, &format!("{folder}/Tony_Blair/1.jpg")]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    let different = at_server(&["verify", probe, &format!("{folder}/Hugo_Chavez/1.jpg")]);
    assert_eq!(different.status.code(), Some(1), "{}", text(&different));
    let unknowable = at_server(&["verify", probe, &format!("{folder}/Hugo_Chavez/notes.txt")]);
    assert_eq!(unknowable.status.code(), Some(2), "{}", text(&unknowable));
    assert!(at_server(&["health"]).status.success());

    // Again: what is there is left as it is, and what is new is added, also beside a mate of the same photo.
    std::fs::write(people.path().join("Tony_Blair/3.jpg"), photos::lfw("Tony_Blair", 3)).unwrap();
    std::fs::create_dir(people.path().join("T.B.")).unwrap();
    std::fs::copy(people.path().join("Tony_Blair/1.jpg"), people.path().join("T.B./1.jpg")).unwrap();
    let again = json(&at_server(&["enroll", folder, "--gallery", &app.gallery, "--json"]));
    assert_eq!((&again["enrolled"], &again["already_there"]), (&2.into(), &4.into()), "{again}");
    assert!(again["duplicates"].as_array().unwrap().contains(&serde_json::json!(["T.B.", "Tony_Blair"])), "{again}");
    let again = at_server(&["enroll", folder, "--gallery", &app.gallery]);
    assert!(
        text(&again).contains("enrolled 0 photos of 3 people") && text(&again).contains("6 photos were there already")
    );
}

#[test]
#[ignore = "needs the test photos"]
fn the_same_works_without_a_server() {
    let people = people();
    let data = data_dir();
    let directly = |arguments: &[&str]| faceid().args(arguments).arg("--data-dir").arg(data.path()).output().unwrap();
    let folder = people.path().to_str().unwrap();
    let enrolled = directly(&["enroll", folder, "--json"]);
    assert_eq!(json(&enrolled)["enrolled"], 4, "{}", text(&enrolled));
    let again = json(&directly(&["enroll", folder, "--json"]));
    assert_eq!((&again["enrolled"], &again["already_there"]), (&0.into(), &4.into()), "{again}");
    let identified = directly(&["identify", &format!("{folder}/Tony_Blair/2.jpg"), "--json"]);
    assert_eq!(json(&identified)["faces"][0]["matches"][0]["subject"], "Tony_Blair", "{}", text(&identified));
    assert!(!data.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let output = faceid().args(["identify", "/dev/null", "--server", "http://127.0.0.1:9"]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("cannot reach http://127.0.0.1:9"), "{}", text(&output));
}

/// A proxy that loses the answer to the first of these requests; where it is, and how many came.
async fn losing_proxy(server: String, lost: &'static str) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (client, counted) = (reqwest::Client::new(), Arc::clone(&count));
    let pass = async move |request: Request| {
        let url = format!("{server}{}", request.uri());
        let is_first = request.uri().path().ends_with(lost) && counted.fetch_add(1, Ordering::SeqCst) == 0;
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let content = head.headers.get("content-type").cloned();
        let mut request = client.request(head.method, url).body(body);
        if let Some(content) = content {
            request = request.header("content-type", content);
        }
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.bytes().await.unwrap());
        if is_first { (StatusCode::BAD_GATEWAY, "lost".into()) } else { (status, body) }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass)).await });
    (url, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_though_the_answer_is_lost() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    let mut job = async |state: &str| -> String {
        let id = uuid::Uuid::now_v7();
        sqlx::query(
            "insert into jobs (id, kind, lane, key, settings, state, requested_by, not_before) \
             values ($1, 'evaluate', 'training', $1::text, '{}', $2, 'a test', now() + interval '1 hour')",
        )
        .bind(id)
        .bind(state)
        .execute(&mut database)
        .await
        .unwrap();
        id.to_string()
    };
    let queued = job("queued").await;
    let (url, attempts) = losing_proxy(server.url.clone(), "/cancel").await;
    let cancel = |job: &str, url: &str| faceid().args(["jobs", "cancel", job, "--server", url]).output().unwrap();
    let cancelled = cancel(&queued, &url);
    assert!(cancelled.status.success() && text(&cancelled).contains("cancelled"), "{}", text(&cancelled));
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    let shown: Job = app.get(&format!("/admin/jobs/{queued}")).await.json();
    assert_eq!(shown.state, faceid::jobs::JobState::Cancelled);
    // Of a job that ended otherwise, or that somebody else had cancelled, it is told.
    let (url, attempts) = losing_proxy(server.url.clone(), "/cancel").await;
    for (job, url, sent) in [(job("succeeded").await, url, 2), (queued, server.url.clone(), 2)] {
        let refused = cancel(&job, &url);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(text(&refused).contains("finished"), "{}", text(&refused));
        assert_eq!(attempts.load(Ordering::SeqCst), sent);
    }
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "serve", "migrate", "enroll", "evaluate", "export", "import", "identify", "verify", "train", "health",
        "openapi", "keys",
    ] {
        let help = faceid().args([command, "--help"]).output().unwrap();
        assert!(help.status.success() && text(&help).contains("Example:"), "{command}: {}", text(&help));
    }
}
