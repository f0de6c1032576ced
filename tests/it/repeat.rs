//! Requests that are sent again under a key: carried out once, answered alike, at whichever server.

use std::collections::HashSet;

use faceid::http::Code;
use faceid::service::answers::{Enrolled, Job, Page, Subject};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::datasets::{people, zipped};
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, part, photos};

const REPLAYED: &str = "idempotency-replayed";

fn new_key() -> String {
    Uuid::new_v4().to_string()
}

async fn enroll(app: &TestApp, key: &str, subject: &str, photo: &[u8]) -> Answer {
    let form = app.enroll_form(subject, photo);
    app.send(app.request(Method::POST, "/enroll").header("idempotency-key", key).multipart(form)).await
}

async fn post(app: &TestApp, path: &str, key: &str, body: Value) -> Answer {
    app.send(app.request(Method::POST, path).header("idempotency-key", key).json(&body)).await
}

async fn subject(app: &TestApp, subject: &str) -> Subject {
    app.get(&format!("/subjects/{subject}?gallery={}", app.gallery)).await.json()
}

fn photo(person: usize, photo: usize) -> Vec<u8> {
    photos::read(&photos::people(&photos::folder("lfw100"))[person].1[photo])
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn an_enrolment_that_is_sent_again_is_not_carried_out_again() {
    let app = TestApp::start().await;
    let (key, ada) = (new_key(), photo(0, 0));
    let first = enroll(&app, &key, "Ada", &ada).await;
    first.expect(StatusCode::CREATED);
    assert!(!first.headers.contains_key(REPLAYED));
    let again = enroll(&app, &key, "Ada", &ada).await;
    again.expect(StatusCode::CREATED);
    assert_eq!(again.headers[REPLAYED], "true");
    assert_eq!(first.value(), again.value());
    // In another form it is the same request.
    let fields = [("subject", "Ada"), ("gallery", &app.gallery), ("face", "largest")];
    let raw = app.request(Method::POST, "/enroll").query(&fields).header("idempotency-key", format!("\"{key}\""));
    let raw = app.send(raw.header("content-type", "image/jpeg").body(ada.clone())).await;
    assert_eq!(raw.value(), first.value());
    assert_eq!(subject(&app, "Ada").await.faces, 1);

    // Another photo, another name, another route.
    enroll(&app, &key, "Ada", &photo(0, 1)).await.expect_problem(409, Code::IdempotencyKeyReused);
    enroll(&app, &key, "Bob", &ada).await.expect_problem(409, Code::IdempotencyKeyReused);
    let body = json!({"name": "Bob", "gallery": app.gallery});
    post(&app, "/subjects", &key, body).await.expect_problem(409, Code::IdempotencyKeyReused);
    // Without the key it is a request like any other.
    app.post_form("/enroll", app.enroll_form("Ada", &ada)).await.expect(StatusCode::CREATED);
    assert_eq!(subject(&app, "Ada").await.faces, 2);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_request_that_failed_is_tried_anew() {
    let app = TestApp::start().await;
    let (key, ada) = (new_key(), photo(0, 0));
    let reject = || app.enroll_form("Bob", &ada).text("on_duplicate", "reject");
    app.enroll_largest("Ada", &ada).await;
    let send = async || {
        app.send(app.request(Method::POST, "/enroll").header("idempotency-key", &key).multipart(reject())).await
    };
    send().await.expect_problem(409, Code::DuplicateFace);
    let path = format!("/subjects/Ada?gallery={}", app.gallery);
    app.send(app.request(Method::DELETE, &path)).await.expect(StatusCode::OK);
    send().await.expect(StatusCode::CREATED);
    // Now it is kept, though Bob is a duplicate of himself.
    assert_eq!(send().await.headers[REPLAYED], "true");
}

#[tokio::test]
async fn keys_that_are_none_are_refused() {
    let app = TestApp::start().await;
    let body = json!({"name": "Ada", "gallery": app.gallery});
    for key in [String::new(), "two words".to_owned(), "x".repeat(256), "\"\"".to_owned()] {
        let problem = post(&app, "/subjects", &key, body.clone()).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("Idempotency-Key"), "{key:?}");
    }
    let twice = app.request(Method::POST, "/subjects").header("idempotency-key", "a").header("idempotency-key", "b");
    app.send(twice.json(&body)).await.expect_problem(422, Code::InvalidField);
    let page: Page<Subject> = app.get(&format!("/subjects?gallery={}", app.gallery)).await.json();
    assert!(page.items.is_empty(), "{page:?}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn what_was_answered_goes_with_whom_it_names() {
    let app = TestApp::start().await;
    let (key, ada) = (new_key(), photo(0, 0));
    let first: Enrolled = enroll(&app, &key, "Ada", &ada).await.json();
    let path = format!("/subjects/{}?gallery={}", first.subject_id, app.gallery);
    app.send(app.request(Method::DELETE, &path)).await.expect(StatusCode::OK);
    // Neither the answer, nor the person once more.
    enroll(&app, &key, "Ada", &ada).await.expect_problem(409, Code::IdempotencyKeyReused);
    let page: Page<Subject> = app.get(&format!("/subjects?gallery={}", app.gallery)).await.json();
    assert!(page.items.is_empty(), "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn however_many_come_at_once_to_two_servers_one_is_carried_out() {
    let (data, others) = (data_dir(), data_dir());
    let first = Server::start(data.path(), &[]).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let second = Server::start(others.path(), &["--database-url", &url]).await;
    let here = TestApp::at(first.url.clone()).await;
    let there = TestApp { url: second.url.clone(), gallery: here.gallery.clone(), client: here.client.clone() };
    for round in 0..3 {
        let (key, ada, name) = (new_key(), photo(round, 0), format!("Ada {round}"));
        let all = futures_util::future::join_all((0..8).map(|number| {
            let app = if number % 2 == 0 { &here } else { &there };
            enroll(app, &key, &name, &ada)
        }));
        let answers = all.await;
        let enrolled: HashSet<_> = answers.iter().map(|answer| answer.json::<Enrolled>().face_id).collect();
        assert_eq!(enrolled.len(), 1, "{enrolled:?}");
        let fresh = answers.iter().filter(|answer| !answer.headers.contains_key(REPLAYED)).count();
        assert_eq!((fresh, subject(&there, &name).await.faces), (1, 1));

        let key = new_key();
        let new = json!({"name": format!("Bob {round}"), "gallery": here.gallery, "metadata": {"badge": round}});
        let all = (0..8).map(|number| post([&here, &there][number % 2], "/subjects", &key, new.clone()));
        let created: HashSet<_> = futures_util::future::join_all(all).await.iter().map(Answer::text).collect();
        assert_eq!(created.len(), 1, "{created:?}");
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_data_set_and_its_job_are_submitted_once() {
    let app = TestApp::start().await;
    let (key, archive) = (new_key(), zipped(&people(0..2, 1)));
    let upload = async |archive: &[u8], as_form: bool| {
        let request = app.request(Method::POST, "/admin/datasets").header("idempotency-key", &key);
        let request = match as_form {
            true => request.multipart(Form::new().text("gallery", app.gallery.clone()).part("file", part(archive))),
            false => request
                .query(&[("gallery", &app.gallery)])
                .header("content-type", "application/zip")
                .body(archive.to_vec()),
        };
        app.send(request).await
    };
    let first = upload(&archive, false).await;
    first.expect(StatusCode::ACCEPTED);
    let again = upload(&archive, false).await;
    again.expect(StatusCode::ACCEPTED);
    assert_eq!((again.value(), &again.headers["location"]), (first.value(), &first.headers["location"]));
    assert_eq!(again.headers[REPLAYED], "true");
    upload(&zipped(&people(0..1, 1)), false).await.expect_problem(409, Code::IdempotencyKeyReused);
    assert_eq!(upload(&archive, true).await.value(), first.value());
    let done = app.finished(first.json::<Job>()).await;
    assert_eq!(done.result.unwrap()["faces"], 2);
}

#[tokio::test]
async fn a_form_and_json_can_be_the_same_request() {
    let app = TestApp::start().await;
    let key = new_key();
    let send = async |request: reqwest::RequestBuilder| app.send(request.header("idempotency-key", &key)).await;
    let json = json!({"name": "Ada", "gallery": app.gallery, "metadata": {"badge": 7, "site": "east"}});
    let first = send(app.request(Method::POST, "/subjects").json(&json)).await;
    first.expect(StatusCode::CREATED);
    let form = |badge: u32| {
        let metadata = format!("{{ \"site\": \"east\",\n \"badge\": {badge} }}");
        Form::new().text("name", "Ada").text("gallery", app.gallery.clone()).text("metadata", metadata)
    };
    let again = send(app.request(Method::POST, "/subjects").multipart(form(7))).await;
    assert_eq!((again.value(), &again.headers["etag"]), (first.value(), &first.headers["etag"]));
    let other = send(app.request(Method::POST, "/subjects").multipart(form(8))).await;
    other.expect_problem(409, Code::IdempotencyKeyReused);
}

#[tokio::test]
async fn what_was_answered_goes_with_the_gallery() {
    let app = TestApp::start().await;
    let key = new_key();
    let body = json!({"name": "Ada", "gallery": app.gallery});
    post(&app, "/subjects", &key, body.clone()).await.expect(StatusCode::CREATED);
    let deleted = app.send(app.request(Method::DELETE, &format!("/galleries/{}", app.gallery))).await;
    deleted.expect(StatusCode::OK);
    post(&app, "/subjects", &key, body).await.expect_problem(409, Code::IdempotencyKeyReused);
}
