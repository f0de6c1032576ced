//! Subjects and faces that expire, and everything that is held about a person.

use chrono::{DateTime, TimeDelta, Utc};
use faceid::http::Code;
use faceid::service::answers::{
    ChangedGallery, EnrolledFace, Gallery, Identified, Job, Page, Person, PersonFace, Subject,
};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, metric, part, photos};
use crate::upkeep::{PATIENCE, database, make_people, rows};

/// A time so many seconds from now, as requests have it.
fn after(seconds: i64) -> String {
    (Utc::now() + TimeDelta::seconds(seconds)).to_rfc3339()
}

impl TestApp {
    async fn enroll_until(&self, subject: &str, photo: &[u8], times: &[(&'static str, String)]) {
        let form = self.enroll_form(subject, photo).text("quality", "any");
        let form = times.iter().fold(form, |form, (field, time)| form.text(*field, time.clone()));
        self.post_form("/enroll", form).await.expect(StatusCode::CREATED);
    }

    fn of_gallery(&self, path: &str) -> String {
        format!("{path}?gallery={}", self.gallery)
    }

    async fn here(&self) -> Gallery {
        self.get(&format!("/galleries/{}", self.gallery)).await.json()
    }

    async fn change(&self, path: &str, change: Value) -> crate::support::Answer {
        self.send(self.request(Method::PATCH, path).json(&change)).await
    }

    async fn subjects(&self) -> Vec<String> {
        let page: Page<Subject> = self.get(&self.of_gallery("/subjects")).await.json();
        page.items.into_iter().map(|subject| subject.name).collect()
    }

    /// Whom the largest face of a photo resembles, of all there are.
    async fn found(&self, photo: &[u8]) -> Vec<String> {
        let form = Form::new().part("image", part(photo)).text("gallery", self.gallery.clone()).text("max_faces", "1");
        let answer = self.post_form("/identify", form).await;
        answer.expect(StatusCode::OK);
        let answer: Identified = answer.json();
        answer.faces[0].matches.iter().map(|found| found.subject.clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn who_expires_is_found_no_more_and_others_are() {
    let app = TestApp::start().await;
    let [tony, hugo] = [photos::lfw("Tony_Blair", 1), photos::lfw("Hugo_Chavez", 1)];
    let bare = json!({"name": "Bare", "gallery": app.gallery, "expires_at": after(20)});
    app.post_json("/subjects", bare).await.expect(StatusCode::CREATED);
    // Whose time is put off stays.
    app.enroll_until("Kept", &tony, &[("expires_at", after(20)), ("on_duplicate", "allow".to_owned())]).await;
    let kept =
        app.change("/subjects/Kept", json!({"gallery": app.gallery, "expires_at": "2099-12-31T00:00:00+01:00"})).await;
    kept.expect(StatusCode::OK);
    let kept: Subject = kept.json();
    assert_eq!(kept.expires_at, Some("2099-12-30T23:00:00Z".parse::<DateTime<Utc>>().unwrap()));
    let bare = app.change("/subjects/Bare", json!({"gallery": app.gallery, "expires_at": "never"})).await;
    assert_eq!(bare.value()["expires_at"], Value::Null, "{}", bare.text());

    // Once these are gone, the former times of those are over as well.
    app.enroll_until("Hugo", &hugo, &[]).await;
    app.enroll_until("Hugo", &photos::lfw("Hugo_Chavez", 2), &[("face_expires_at", after(20))]).await;
    app.enroll_until("Tony", &tony, &[("expires_at", after(20))]).await;
    eventually(PATIENCE, "they are gone", async || {
        let here = app.here().await;
        (here.subjects == 3 && here.faces == 2 && here.expired.faces == 2).then_some(())
    })
    .await;
    let here = app.here().await;
    assert_eq!((here.expired.subjects, here.expired.faces, here.due_now.is_none()), (1, 2, true));
    assert!(here.expired.last_at.is_some());
    assert_eq!(app.subjects().await, ["Bare", "Kept", "Hugo"]);
    assert_eq!(app.found(&tony).await.first().map(String::as_str), Some("Kept"));
    assert_eq!(app.found(&hugo).await.first().map(String::as_str), Some("Hugo"));
    assert!(!app.found(&tony).await.contains(&"Tony".to_owned()));
    app.get(&app.of_gallery("/subjects/Tony")).await.expect_problem(404, Code::SubjectNotFound);
    let page: Page<EnrolledFace> = app.get(&app.of_gallery("/subjects/Hugo/faces")).await.json();
    assert_eq!(page.items.len(), 1);
    // The name is free.
    app.enroll_until("Tony", &tony, &[]).await;
    assert_eq!(app.get(&app.of_gallery("/subjects/Tony")).await.json::<Subject>().expires_at, None);
    let metrics = app.get("/metrics").await.text();
    for name in ["faceid_retention_erased_total{what=\"subjects\"}", "faceid_retention_swept_timestamp_seconds"] {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    let jobs: Page<Job> = app.get("/admin/jobs?limit=200").await.json();
    let sweep = jobs.items.iter().find(|job| job.kind == faceid::jobs::JobKind::Expire).unwrap();
    assert!(sweep.recurring);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn a_time_that_is_over_or_none_is_refused() {
    let app = TestApp::start().await;
    let photo = photos::lfw("Tony_Blair", 1);
    for (field, time) in [("expires_at", after(-1)), ("face_expires_at", after(-60)), ("expires_at", "soon".to_owned())]
    {
        let form = app.enroll_form("Tony", &photo).text(field, time);
        let problem = app.post_form("/enroll", form).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some(field));
    }
    let new = |time: Value| json!({"name": "Ada", "gallery": app.gallery, "expires_at": time});
    for time in [json!(after(-1)), json!("never"), json!(17)] {
        let problem = app.post_json("/subjects", new(time)).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("expires_at"));
    }
    assert!(app.subjects().await.is_empty());
    app.post_json("/subjects", new(json!(after(3600)))).await.expect(StatusCode::CREATED);
    let before = app.get(&app.of_gallery("/subjects/Ada")).await;
    let change = |time: String| json!({"gallery": app.gallery, "expires_at": time});
    app.change("/subjects/Ada", change(after(-1))).await.expect_problem(422, Code::InvalidField);
    app.change("/subjects/Ada", change(after(7200))).await.expect(StatusCode::OK);
    let after_change = app.get(&app.of_gallery("/subjects/Ada")).await;
    assert_ne!(before.headers["etag"], after_change.headers["etag"]);

    let gallery = format!("/galleries/{}", app.gallery);
    for retention in
        [json!({}), json!({"faces_days": 0}), json!({"days": 3}), json!("never"), json!({"faces_days": -1})]
    {
        let refused = app.change(&gallery, json!({"retention": retention})).await;
        let problem = refused.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some("retention"));
    }
    assert!(app.here().await.entry.retention.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gallery_says_what_its_retention_would_erase_and_erases_it_an_hour_later() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 20, 2).await;
    let age = "update subjects set created_at = now() - interval '40 days' where name like 'made 1%'; \
        update faces set created_at = now() - interval '40 days' \
        where subject_id in (select id from subjects where name like 'made 1%')";
    sqlx::raw_sql(age).execute(&mut database).await.unwrap();
    let path = format!("/galleries/{}", app.gallery);
    let changed = app.change(&path, json!({"retention": {"faces_days": 60, "subjects_days": 30}})).await;
    changed.expect(StatusCode::OK);
    let changed: ChangedGallery = changed.json();
    let due = changed.due_now.unwrap();
    assert_eq!((due.subjects, due.faces), (11, 0));
    let kept = changed.entry.retention.unwrap();
    assert_eq!((kept.faces_days, kept.subjects_days), (Some(60), Some(30)));
    assert!(kept.holds_from > Utc::now() + TimeDelta::minutes(50), "{kept:?}");
    let changed_at = Utc::now().timestamp() as f64;
    eventually(PATIENCE, "another sweep", async || {
        (metric(&app, "faceid_retention_swept_timestamp_seconds").await > changed_at).then_some(())
    })
    .await;
    assert_eq!(app.here().await.subjects, 20);
    sqlx::raw_sql("update galleries set retention_from = now()").execute(&mut database).await.unwrap();
    eventually(PATIENCE, "they are erased", async || (app.here().await.subjects == 9).then_some(())).await;
    let here = app.here().await;
    assert_eq!((here.faces, here.expired.subjects, here.expired.faces), (18, 11, 22));
    let due = here.due_now.unwrap();
    assert_eq!((due.subjects, due.faces), (0, 0));
    let none = app.change(&path, json!({"retention": "none"})).await.json::<ChangedGallery>();
    assert!(none.entry.retention.is_none() && none.due_now.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_expires_is_gone_at_all_servers_and_erased_whoever_dies() {
    let (data, other) = (data_dir(), data_dir());
    let slow = ["--job-lease", "1", "--background-share", "0.02"];
    let mut first = Server::start(data.path(), &slow).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let second =
        Server::start(other.path(), &["--database-url", &url, "--job-lease", "1", "--search", "pgvector"]).await;
    let app = TestApp::at(first.url.clone()).await;
    let there = TestApp { url: second.url.clone(), gallery: app.gallery.clone(), client: app.client.clone() };
    let mut connection = database(data.path()).await;
    // One has more faces than are erased at once.
    make_people(&app, &mut connection, 3, 900).await;
    let expire = "update subjects set expires_at = now() where name = 'made 1'";
    sqlx::raw_sql(expire).execute(&mut connection).await.unwrap();
    for app in [&app, &there] {
        eventually(PATIENCE, "nobody finds them", async || (app.here().await.faces == 1800).then_some(())).await;
        assert_eq!(app.subjects().await.len(), 2);
        app.get(&app.of_gallery("/subjects/made%201")).await.expect_problem(404, Code::SubjectNotFound);
    }
    drop((connection, second));
    first.kill();
    let server = Server::start(data.path(), &["--job-lease", "1"]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let mut connection = database(data.path()).await;
    for (table, left) in [("faces", 1800), ("embeddings", 1800), ("templates", 2), ("subjects", 2)] {
        let is_left = async |connection: &mut _| rows(connection, table).await == left;
        let connection = &mut connection;
        eventually(PATIENCE, table, async || is_left(connection).await.then_some(())).await;
    }
    let here = app.here().await;
    assert_eq!((here.expired.subjects, here.expired.faces), (1, 900));
}

/// Enrolls two people; the first has three photos.
async fn two_people(app: &TestApp) {
    for number in 1..=3 {
        app.enroll_until("Tony", &photos::lfw("Tony_Blair", number), &[]).await;
    }
    app.enroll_until("Hugo", &photos::lfw("Hugo_Chavez", 1), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn everything_held_about_a_person_is_one_document() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    two_people(&app).await;
    // The same photo under another name: a finding that names both.
    app.enroll_until("Tony again", &photos::lfw("Tony_Blair", 1), &[("on_duplicate", "allow".to_owned())]).await;
    app.change("/subjects/Tony", json!({"gallery": app.gallery, "metadata": {"badge": 7}, "expires_at": after(3600)}))
        .await
        .expect(StatusCode::OK);
    app.import_bgr().await;
    let shadow = app.post_json("/admin/models/bgr/shadow", json!({"share": 1.0})).await;
    app.finished(shadow.json()).await;
    let path = app.of_gallery("/subjects/Tony/export");
    let person: Person = eventually(PATIENCE, "the review is done", async || {
        let person: Person = app.get(&path).await.json();
        person.findings.iter().any(|finding| finding.kind == "duplicate").then_some(person)
    })
    .await;

    let answer = app.get(&path).await;
    answer.expect(StatusCode::OK);
    assert_eq!(answer.media_type.as_deref(), Some("application/json"));
    assert_eq!(answer.headers["cache-control"], "no-store");
    let name = format!("attachment; filename=\"{}.json\"", person.subject.id);
    assert_eq!(answer.headers["content-disposition"].to_str().unwrap(), name);
    assert_eq!((person.subject.name.as_str(), person.subject.faces), ("Tony", 3));
    assert_eq!(person.subject.metadata["badge"], 7);
    assert!(person.subject.expires_at.is_some());
    assert_eq!((person.faces.len(), person.templates.len()), (3, 2));
    for PersonFace { face, image_sha256, chip, embeddings } in &person.faces {
        assert!(face.face.is_some());
        assert_eq!(image_sha256.as_ref().unwrap().len(), 64);
        use base64::Engine as _;
        let chip = base64::engine::general_purpose::STANDARD.decode(chip.as_ref().unwrap()).unwrap();
        assert_eq!(chip, app.get(&format!("/faces/{}/chip", face.id)).await.body);
        let models: Vec<&str> = embeddings.iter().map(|embedding| embedding.model.as_str()).collect();
        assert_eq!((models.len(), models.contains(&"bgr")), (2, true));
        for embedding in embeddings {
            let length: f32 = embedding.embedding.iter().map(|number| number * number).sum();
            assert!((length - 1.0).abs() < 0.01 && embedding.embedding.len() == 128, "{length}");
        }
    }
    assert!(person.templates.iter().all(|template| template.faces == 3));
    // Nothing of anybody else is inside, except that there is somebody.
    for other in ["Hugo", "Tony again"] {
        assert!(!answer.text().contains(other), "{other}");
    }
    assert!(person.not_included.iter().any(|what| what.contains("photos")));

    app.get(&app.of_gallery("/subjects/Nobody/export")).await.expect_problem(404, Code::SubjectNotFound);
    // The command line writes the same.
    let file = data.path().join("tony.json");
    let export = |subject: &str| {
        let mut command = faceid();
        command.args(["people", "export", subject]).arg(&file).args(["--gallery", &app.gallery, "--server", &app.url]);
        command.output().unwrap()
    };
    let written = export("Tony");
    assert!(written.status.success(), "{written:?}");
    let of_command: Person = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(of_command.faces.len(), 3);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(export("Nobody").status.code(), Some(1));
    assert_eq!(
        std::fs::read_dir(data.path())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tony") })
            .count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_faces_are_told_piece_by_piece() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 2, 2010).await;
    let person: Person = app.get(&app.of_gallery("/subjects/made%202/export")).await.json();
    assert_eq!(person.faces.len(), 2010);
    assert!(person.faces.iter().all(|face| face.chip.is_none() && face.embeddings.len() == 1));
    assert!(person.faces.iter().all(|face| face.face.subject_id == person.subject.id));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn a_folder_is_enrolled_for_a_while() {
    let app = TestApp::start().await;
    let folder = data_dir();
    std::fs::create_dir(folder.path().join("Tony")).unwrap();
    std::fs::write(folder.path().join("Tony/1.jpg"), photos::lfw("Tony_Blair", 1)).unwrap();
    let enroll = |time: &str| {
        let mut command = faceid();
        command.arg("enroll").arg(folder.path()).args(["--gallery", &app.gallery, "--server", &app.url]);
        command.args(["--expires-at", time, "--face-expires-at", "2098-01-01T00:00:00Z"]).output().unwrap()
    };
    assert_eq!(enroll("2001-01-01T00:00:00Z").status.code(), Some(2));
    let enrolled = enroll("2099-01-01T00:00:00Z");
    assert!(enrolled.status.success(), "{enrolled:?}");
    let person: Person = app.get(&app.of_gallery("/subjects/Tony/export")).await.json();
    assert_eq!(person.subject.expires_at.unwrap().to_rfc3339(), "2099-01-01T00:00:00+00:00");
    assert_eq!(person.faces[0].face.expires_at.unwrap().to_rfc3339(), "2098-01-01T00:00:00+00:00");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the test photos"]
async fn people_of_a_data_set_expire_as_well() {
    let app = TestApp::start().await;
    let archive = crate::datasets::zipped(&crate::datasets::people(0..1, 1));
    let send = async |query: &str| {
        let path = format!("/admin/datasets?gallery={}&{query}", app.gallery);
        app.send(app.request(Method::POST, &path).header("content-type", "application/zip").body(archive.clone())).await
    };
    let problem = send("expires_at=2001-01-01T00:00:00Z").await.expect_problem(422, Code::InvalidField);
    assert_eq!(problem.field.as_deref(), Some("expires_at"));
    let job = send("expires_at=2099-01-01T00:00:00Z&face_expires_at=2098-01-01T00:00:00Z").await;
    job.expect(StatusCode::ACCEPTED);
    let job = app.finished(job.json()).await;
    assert_eq!(job.result.unwrap()["faces"], 1);
    let page: Page<Subject> = app.get(&app.of_gallery("/subjects")).await.json();
    assert_eq!(page.items[0].expires_at.unwrap().to_rfc3339(), "2099-01-01T00:00:00+00:00");
    let page: Page<EnrolledFace> = app.get(&app.of_gallery("/faces")).await.json();
    assert_eq!(page.items[0].expires_at.unwrap().to_rfc3339(), "2098-01-01T00:00:00+00:00");
}
