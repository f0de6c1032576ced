//! Long work goes on in the background, in steps: what is to go is gone at once, what cannot be worked on stops nothing.

use std::path::Path;
use std::time::Duration;

use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::{Erased, Job, Page, SetAside, Subject};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, eventually};

/// For as long as it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The database that a server runs.
pub async fn database(data_dir: &Path) -> PgConnection {
    let url = format!("postgres://faceid@localhost/faceid?host={}", data_dir.join("run").display());
    PgConnection::connect(&url).await.unwrap()
}

/// Fills the app's gallery with people whom no photo shows, of so many faces each.
pub async fn make_people(app: &TestApp, database: &mut PgConnection, people: i64, each: i64) {
    let make = "with gallery as (select id from galleries where name = $1), \
        people as (insert into subjects (id, gallery_id, name) \
          select gen_random_uuid(), gallery.id, 'made ' || n from gallery, generate_series(1, $2) n returning id, gallery_id), \
        shown as (insert into faces (id, gallery_id, subject_id) \
          select gen_random_uuid(), gallery_id, people.id from people, generate_series(1, $3) returning id, gallery_id, subject_id) \
        insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding) \
        select shown.id, m.id, gallery_id, subject_id, (select l2_normalize(array_agg(random() - 0.5)::float4[]::vector::halfvec) \
          from generate_series(1, m.dimension) where shown.id is not null) from shown, models m where m.state = 'active'";
    sqlx::query(make).bind(&app.gallery).bind(people).bind(each).execute(database).await.unwrap();
}

/// An embedding of somebody of the app's gallery.
pub async fn somebody(app: &TestApp, database: &mut PgConnection) -> Vec<f32> {
    let text: String = sqlx::query_scalar(
        "select e.embedding::text from embeddings e join galleries g on g.id = e.gallery_id where g.name = $1 limit 1",
    )
    .bind(&app.gallery)
    .fetch_one(database)
    .await
    .unwrap();
    serde_json::from_str(&text).unwrap()
}

pub async fn rows(database: &mut PgConnection, table: &'static str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}"))).fetch_one(database).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_gallery_is_gone_everywhere_at_once_and_erased_whoever_dies() {
    let (data, other) = (data_dir(), data_dir());
    let first = Server::start(data.path(), &["--job-lease", "1", "--background-share", "0.02"]).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let mut second =
        Server::start(other.path(), &["--database-url", &url, "--job-lease", "1", "--background-share", "0.02"]).await;
    let app = TestApp::at(first.url.clone()).await;
    let there = TestApp { url: second.url.clone(), gallery: app.gallery.clone(), client: app.client.clone() };
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 1500, 2).await;
    let embedding = somebody(&app, &mut database).await;
    let probe = json!({"embedding": embedding, "gallery": app.gallery});
    for app in [&app, &there] {
        // They came past the server.
        eventually(PATIENCE, "they are found", async || {
            let answer = app.post_json("/identify/embedding", probe.clone()).await;
            answer.expect(StatusCode::OK);
            (answer.value()["matches"].as_array().unwrap().len() == 5).then_some(())
        })
        .await;
    }

    let answer = app.send(app.request(Method::DELETE, &format!("/galleries/{}", app.gallery))).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    assert_eq!(answer.headers["location"].to_str().unwrap(), format!("/admin/jobs/{}", job.id));
    // From here on nobody is found at either server, and the name is free.
    for app in [&there, &app] {
        app.post_json("/identify/embedding", probe.clone()).await.expect_problem(404, Code::GalleryNotFound);
    }
    app.send(app.request(Method::DELETE, &format!("/galleries/{}", app.gallery)))
        .await
        .expect_problem(404, Code::GalleryNotFound);
    app.post_json("/galleries", json!({"name": app.gallery})).await.expect(StatusCode::CREATED);
    assert_eq!(there.post_json("/identify/embedding", probe.clone()).await.value()["matches"], json!([]));
    app.post_json(&format!("/admin/jobs/{}/cancel", job.id), json!({}))
        .await
        .expect_problem(409, Code::JobNotCancellable);
    // Whoever works on it dies; the other goes on.
    eventually(PATIENCE, "a piece is erased", async || {
        let job: Job = app.get(&format!("/admin/jobs/{}", job.id)).await.json();
        job.progress.filter(|progress| progress["done"].as_u64() > Some(0))
    })
    .await;
    let is_worked_on = app.get(&format!("/admin/jobs/{}", job.id)).await.json::<Job>();
    assert!(!is_worked_on.state.is_final(), "{is_worked_on:?}");
    assert!(is_worked_on.settings["gallery"].is_string() && is_worked_on.settings.get("name").is_none());
    second.kill();
    let faster =
        Server::start(other.path(), &["--database-url", &url, "--job-lease", "1", "--background-share", "1"]).await;
    drop(first);
    // The database went with the first server.
    drop((faster, database));
    let server = Server::start(data.path(), &["--job-lease", "1", "--background-share", "1"]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let job = app.finished(app.get(&format!("/admin/jobs/{}", job.id)).await.json()).await;
    assert_eq!((job.state, job.attempts > 1), (JobState::Succeeded, true), "{job:?}");
    assert_eq!(job.result, Some(json!({"subjects": 1500, "faces": 3000, "embeddings": 3000})));
    let mut database = self::database(data.path()).await;
    for table in ["faces", "embeddings", "templates", "subjects", "review_queue"] {
        assert_eq!(rows(&mut database, table).await, 0, "{table}");
    }
    assert_eq!(rows(&mut database, "galleries where erased_at is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_goes_on_after_kill_9_and_says_what_it_did() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &["--job-lease", "1", "--background-share", "0.02"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 2, 1500).await;
    let path = format!("/subjects/made%201/merge?gallery={}", app.gallery);
    let answer = app.post_json(&path, json!({"subject": "made 2"})).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    eventually(PATIENCE, "a piece has moved", async || {
        let job: Job = app.get(&format!("/admin/jobs/{}", job.id)).await.json();
        job.progress.filter(|progress| progress["done"].as_u64() > Some(0))
    })
    .await;
    drop(database);
    server.kill();
    let server = Server::start(data.path(), &["--job-lease", "1", "--background-share", "1"]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let job = app.finished(app.get(&format!("/admin/jobs/{}", job.id)).await.json()).await;
    assert_eq!((job.state, job.attempts > 1), (JobState::Succeeded, true), "{job:?}");
    assert_eq!(job.result, Some(json!({"faces": 1500})));
    assert_eq!(app.get(&format!("/subjects/made%201?gallery={}", app.gallery)).await.json::<Subject>().faces, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_small_is_erased_before_the_answer_and_many_faces_by_a_job() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--background-share", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 3, 400).await;
    let subject = |n: u32| format!("/subjects/made%20{n}?gallery={}", app.gallery);
    // Faces of one become those of another.
    let merge = json!({"subject": "made 2"});
    let path = format!("/subjects/made%201/merge?gallery={}", app.gallery);
    let answer = app.post_json(&path, merge.clone()).await;
    answer.expect(StatusCode::ACCEPTED);
    app.get(&subject(2)).await.expect_problem(404, Code::SubjectNotFound);
    let job = app.finished(answer.json()).await;
    assert_eq!((job.state, job.result), (JobState::Succeeded, Some(json!({"faces": 400}))));
    assert_eq!(app.get(&subject(1)).await.json::<Subject>().faces, 800);
    app.post_json(&path, merge).await.expect_problem(404, Code::SubjectNotFound);
    // A subject with many faces, and one with few.
    let answer = app.send(app.request(Method::DELETE, &subject(1))).await;
    answer.expect(StatusCode::ACCEPTED);
    app.get(&subject(1)).await.expect_problem(404, Code::SubjectNotFound);
    let job = app.finished(answer.json()).await;
    assert_eq!(job.result, Some(json!({"subjects": 1, "faces": 800, "embeddings": 800})));
    let told = app.get("/admin/jobs").await.text();
    assert!(!told.contains("made"), "a name is left: {told}");
    sqlx::query("delete from faces where id in (select id from faces limit 390)").execute(&mut database).await.unwrap();
    let answer = app.send(app.request(Method::DELETE, &subject(3))).await;
    answer.expect(StatusCode::OK);
    let erased: Erased = answer.json();
    assert_eq!((erased.subjects, erased.faces, erased.embeddings), (1, 10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_chip_that_cannot_be_embedded_is_set_aside_and_stops_nothing() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    app.enroll_people(4, 2).await;
    let mut connection = database(data.path()).await;
    sqlx::query("delete from embeddings").execute(&mut connection).await.unwrap();
    // One is no image, which is encrypted as any other; the other cannot be read.
    let faces: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from faces order by id limit 2").fetch_all(&mut connection).await.unwrap();
    let jpeg = app.get(&format!("/faces/{}/chip", faces[0])).await.body.to_vec();
    let store = async |connection: &mut PgConnection, face: uuid::Uuid, chip: &[u8]| {
        sqlx::query("delete from chip_keys where face_id = $1").bind(face).execute(&mut *connection).await.unwrap();
        let update = "update faces set chip = $2 where id = $1";
        sqlx::query(update).bind(face).bind(chip).execute(connection).await.unwrap();
    };
    store(&mut connection, faces[0], b"no image").await;
    sqlx::query("update chip_keys set key = 'no key' where face_id = $1")
        .bind(faces[1])
        .execute(&mut connection)
        .await
        .unwrap();
    drop(connection);
    server.kill();

    let server = Server::start(data.path(), &["--background-share", "1"]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let listed = async || {
        let listed: Page<SetAside> = app.get("/admin/quarantine").await.json();
        (listed.items.len() == 2).then_some(listed.items)
    };
    let items = eventually(PATIENCE, "two are set aside", listed).await;
    assert!(
        items.iter().all(|item| item.work == "embed" && item.face_id.is_some() && !item.reason.is_empty()),
        "{items:?}"
    );
    assert!(items.iter().all(|item| item.subject.is_some() && item.gallery == app.gallery), "{items:?}");
    let mut connection = database(data.path()).await;
    eventually(PATIENCE, "all others are embedded", async || {
        (rows(&mut connection, "embeddings").await == 6).then_some(())
    })
    .await;
    // What is still spoiled is set aside again; what can be embedded by now is.
    let face = items[0].face_id.unwrap();
    store(&mut connection, face.0, &jpeg).await;
    for item in &items {
        app.post_json(&format!("/admin/quarantine/{}/retry", item.id), json!({})).await.expect(StatusCode::NO_CONTENT);
    }
    app.post_json(&format!("/admin/quarantine/{}/retry", items[0].id), json!({}))
        .await
        .expect_problem(404, Code::SetAsideNotFound);
    eventually(PATIENCE, "one is embedded", async || (rows(&mut connection, "embeddings").await == 7).then_some(()))
        .await;
    let left = eventually(PATIENCE, "one is set aside again", async || {
        let listed: Page<SetAside> = app.get("/admin/quarantine").await.json();
        (listed.items.len() == 1).then_some(listed.items)
    })
    .await;
    assert_eq!(left[0].face_id, items[1].face_id);
    // Promotions go on as well, and say so.
    app.import_bgr().await;
    let answer = app.post_json("/admin/models/bgr/promote", json!({"force": true})).await;
    answer.expect(StatusCode::ACCEPTED);
    let promoted = app.finished(answer.json()).await.result.unwrap();
    assert_eq!((&promoted["set_aside"], &promoted["embedded"]), (&json!(1), &json!(7)), "{promoted}");
}

#[tokio::test]
async fn jobs_that_never_end_are_shown_and_cannot_be_cancelled() {
    let app = TestApp::start().await;
    let recurring = eventually(PATIENCE, "the jobs of a server", async || {
        let listed: Page<Value> = app.get("/admin/jobs?limit=100").await.json();
        let of = |job: &Value| job["recurring"] == true && job["state"] == "running";
        let running: Vec<Value> = listed.items.into_iter().filter(of).collect();
        (running.len() == 7).then_some(running)
    })
    .await;
    let mut kinds: Vec<&str> = recurring.iter().filter_map(|job| job["kind"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["embed", "encrypt", "expire", "index", "measure", "reclaim", "review"]);
    let path = format!("/admin/jobs/{}/cancel", recurring[0]["id"].as_str().unwrap());
    app.post_json(&path, json!({})).await.expect_problem(409, Code::JobNotCancellable);
}
