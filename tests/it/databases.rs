//! Databases that are set up in other ways than by default, and what is said of those that do not do.

use std::path::Path;

use reqwest::StatusCode;
use reqwest::multipart::Form;
use sqlx::{Connection, PgConnection};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, part, photos};

fn socket_url(data: &Path, parameters: &str) -> String {
    format!("postgres://faceid@localhost/faceid?host={}{parameters}", data.join("run").display())
}

/// What `faceid migrate` says when it fails.
#[track_caller]
fn refusal(arguments: &[&str]) -> String {
    let data = data_dir();
    let output = faceid().arg("migrate").arg("--data-dir").arg(data.path()).args(arguments).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_setting_that_cannot_be_followed_is_named() {
    let url = "postgres://faceid:a-secret@127.0.0.1:1/faceid";
    let missing = format!("{url}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
    let said = refusal(&["--database-url", &missing]);
    assert!(said.contains("cannot read /nowhere/ca.pem") && said.contains("sslrootcert"), "{said}");
    let said = refusal(&["--database-url", url, "--database-session-url", &missing]);
    assert!(said.contains("/nowhere/ca.pem") && said.contains("FACEID_DATABASE_SESSION_URL"), "{said}");
    let said = refusal(&["--database-session-url", url]);
    assert!(said.contains("database_session_url") && said.contains("which is not set"), "{said}");
    let said = refusal(&["--database-schema", "pg_own"]);
    assert!(said.contains("database_schema = pg_own is out of range"), "{said}");
    assert!(!said.contains("a-secret"), "{said}");
}

/// Whom a photo shows, as far as the gallery knows.
async fn shown(app: &TestApp, photo: &[u8]) -> Option<String> {
    let form = Form::new().part("image", part(photo)).text("gallery", "default").text("max_faces", "1");
    let answer = app.post_form("/identify", form).await;
    answer.expect(StatusCode::OK);
    let found: faceid::service::answers::Identified = answer.json();
    found.faces[0].matches.first().map(|found| found.subject.clone())
}

/// Enrolls into the gallery that every faceid has.
async fn enroll(app: &TestApp, subject: &str, photo: &[u8]) {
    let form = Form::new().text("subject", subject.to_owned()).text("face", "largest").part("image", part(photo));
    app.post_form("/enroll", form).await.expect(StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn schemas_of_a_database_are_faceids_of_their_own() {
    let (here, there, elsewhere) = (data_dir(), data_dir(), data_dir());
    let people = photos::people(&photos::folder("lfw100"));
    let [ada, bob] = [0, 1].map(|person| photos::read(&people[person].1[0]));
    let plain = Server::start(here.path(), &["--search", "resident"]).await;
    let url = socket_url(here.path(), "");
    let mut database = PgConnection::connect(&url).await.unwrap();
    // As where an administrator keeps extensions apart.
    sqlx::raw_sql("create schema extensions; alter extension vector set schema extensions")
        .execute(&mut database)
        .await
        .unwrap();
    let own = ["--database-url", &url, "--database-schema", "Of its own", "--search", "resident"];
    let first = Server::start(there.path(), &own).await;
    // The second goes as behind a pooler.
    let pooled = [&own[..], &["--database-session-url", &url]].concat();
    let second = Server::start(elsewhere.path(), &pooled).await;
    let (first, second) = (TestApp::at(first.url.clone()).await, TestApp::at(second.url.clone()).await);

    enroll(&first, "Ada", &ada).await;
    enroll(&second, "Bob", &bob).await;
    for app in [&first, &second] {
        for (photo, name) in [(&ada, "Ada"), (&bob, "Bob")] {
            crate::support::eventually(
                std::time::Duration::from_secs(20),
                "what the other server enrolled",
                async || (shown(app, photo).await.as_deref() == Some(name)).then_some(()),
            )
            .await;
        }
    }
    drop(plain);
    let plain = Server::start(here.path(), &["--search", "resident"]).await;
    let plain = TestApp::at(plain.url.clone()).await;
    assert_eq!(shown(&plain, &ada).await, None);
}
