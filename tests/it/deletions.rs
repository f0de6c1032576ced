//! Many at once: subjects by a list or by what they have in common, and faces by a list.

use std::collections::BTreeSet;

use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::{EnrolledFace, ErasedMany, Identified, Job, Page, Subject};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, eventually, photos};
use crate::upkeep::{PATIENCE, database, make_people, rows, somebody};

impl TestApp {
    /// Asks for the deletion of subjects of the test's gallery.
    async fn delete_many(&self, mut whom: Value) -> Answer {
        whom["gallery"] = self.gallery.clone().into();
        self.post_json("/delete/subjects", whom).await
    }

    /// The names of the test's gallery.
    async fn names(&self) -> BTreeSet<String> {
        self.listed("").await
    }

    /// Those that begin so, as a query has it.
    async fn names_with(&self, prefix: &str) -> BTreeSet<String> {
        self.listed(&format!("&prefix={prefix}")).await
    }

    async fn listed(&self, which: &str) -> BTreeSet<String> {
        let page: Page<Subject> =
            self.get(&format!("/subjects?gallery={}&limit=200{which}", self.gallery)).await.json();
        page.items.into_iter().map(|subject| subject.name).collect()
    }

    async fn with_subjects(subjects: &[(&str, Value)]) -> Self {
        let app = Self::start().await;
        for (name, metadata) in subjects {
            let new = json!({"name": name, "gallery": app.gallery, "metadata": metadata});
            app.post_json("/subjects", new).await.expect(StatusCode::CREATED);
        }
        app
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn counts(erased: &ErasedMany) -> (u64, u64, u64, usize) {
    (erased.subjects, erased.faces, erased.embeddings, erased.jobs.len())
}

#[tokio::test]
async fn listed_subjects_are_deleted_and_those_that_are_not_there_are_told() {
    let none = json!({});
    let people = ["Ada", "Bob", "Carl", "delete", "Jos\u{e9}"].map(|name| (name, none.clone()));
    let (app, other) = (TestApp::with_subjects(&people).await, TestApp::with_subjects(&people).await);
    let bob: Subject = app.get(&format!("/subjects/Bob?gallery={}", app.gallery)).await.json();
    // Twice, by name and by id; in either spelling; by what is there in another gallery alone; and by nothing that is there.
    let elsewhere: Subject = other.get(&format!("/subjects/Carl?gallery={}", other.gallery)).await.json();
    let list = json!(["Bob", bob.id, "Bob", "Jose\u{301}", "Eve", elsewhere.id, "Eve"]);
    let answer = app.delete_many(json!({"subjects": list})).await;
    answer.expect(StatusCode::OK);
    let erased: ErasedMany = answer.json();
    assert_eq!(counts(&erased), (2, 0, 0, 0));
    assert_eq!(erased.not_found, ["Eve".to_owned(), elsewhere.id.to_string()]);
    assert_eq!(answer.value()["more"], false);
    assert_eq!(app.names().await, set(&["Ada", "Carl", "delete"]));
    assert_eq!(other.names().await.len(), 5);
    // Again: nobody is there, which is no failure. Forms do as well.
    let body = [("subjects", "Bob"), ("subjects", "Jos\u{e9}"), ("gallery", &app.gallery)];
    let form =
        body.into_iter().fold(reqwest::multipart::Form::new(), |form, (name, text)| form.text(name, text.to_owned()));
    let again: ErasedMany = app.post_form("/delete/subjects", form).await.json();
    assert_eq!((counts(&again), again.not_found), ((0, 0, 0, 0), vec!["Bob".to_owned(), "Jos\u{e9}".to_owned()]));
    // The name of the route is nobody's.
    let found: Subject = app.get(&format!("/subjects/delete?gallery={}", app.gallery)).await.json();
    assert_eq!(found.name, "delete");
}

#[tokio::test]
async fn subjects_that_have_something_in_common_are_deleted() {
    let app = TestApp::with_subjects(&[
        ("visitor 1", json!({"until": "2026", "site": "east"})),
        ("visitor 2", json!({"until": "2027", "site": "east"})),
        ("Visitor 3", json!({"until": "2026"})),
        ("Ada", json!({"until": "2026", "site": "west"})),
        ("Bob", json!({})),
        ("Bobby Tables", json!({})),
    ])
    .await;
    // A space at the end is part of what names begin with, in a query as well.
    assert_eq!(app.names_with("Bob%20").await, set(&[]));
    assert_eq!(app.names_with("Bobby+").await, set(&["Bobby Tables"]));
    assert_eq!(counts(&app.delete_many(json!({"prefix": "Bob "})).await.json()), (0, 0, 0, 0));
    assert_eq!(counts(&app.delete_many(json!({"prefix": "Bobby "})).await.json()), (1, 0, 0, 0));
    let both = json!({"prefix": "visitor", "metadata": {"until": "2026"}});
    assert_eq!(counts(&app.delete_many(both.clone()).await.json()), (1, 0, 0, 0));
    assert_eq!(app.names().await, set(&["visitor 2", "Visitor 3", "Ada", "Bob"]));
    let none: ErasedMany = app.delete_many(both).await.json();
    assert_eq!((counts(&none), none.not_found.len()), ((0, 0, 0, 0), 0));
    assert_eq!(counts(&app.delete_many(json!({"prefix": "visitor"})).await.json()), (1, 0, 0, 0));
    assert_eq!(counts(&app.delete_many(json!({"metadata": {"until": "2026"}})).await.json()), (2, 0, 0, 0));
    assert_eq!(app.names().await, set(&["Bob"]));
}

#[tokio::test]
async fn nobody_is_deleted_by_accident() {
    let app = TestApp::with_subjects(&[("Ada", json!({"site": "east"}))]).await;
    let refused = [
        (json!({}), Code::MissingField, "subjects"),
        (json!({"subjects": null, "prefix": null}), Code::MissingField, "subjects"),
        (json!({"metadata": {}}), Code::InvalidField, "metadata"),
        (json!({"metadata": {}, "prefix": "A"}), Code::InvalidField, "metadata"),
        (json!({"prefix": ""}), Code::InvalidField, "prefix"),
        (json!({"prefix": " A"}), Code::InvalidField, "prefix"),
        (json!({"subjects": []}), Code::InvalidField, "subjects"),
        (json!({"subjects": ["Ada"], "prefix": "A"}), Code::InvalidField, "subjects"),
        (json!({"subjects": ["Ada"], "metadata": {"site": "east"}}), Code::InvalidField, "subjects"),
        (json!({"subjects": ["Ada", 7]}), Code::InvalidField, "subjects"),
        (json!({"subjects": vec!["Ada"; 1001]}), Code::InvalidField, "subjects"),
        (json!({"subject": "Ada"}), Code::UnknownField, "subject"),
    ];
    for (whom, code, field) in refused {
        let problem = app.delete_many(whom.clone()).await.expect_problem(422, code);
        assert_eq!(problem.field.as_deref(), Some(field), "{whom}");
    }
    let nowhere = json!({"prefix": "A", "gallery": "nowhere"});
    app.post_json("/delete/subjects", nowhere).await.expect_problem(404, Code::GalleryNotFound);
    for (faces, code) in [
        (json!({}), Code::MissingField),
        (json!({"faces": []}), Code::InvalidField),
        (json!({"faces": ["Ada"]}), Code::InvalidField),
        (json!({"faces": vec!["00000000-0000-7000-8000-000000000000"; 1001]}), Code::InvalidField),
    ] {
        let problem = app.post_json("/delete/faces", faces).await.expect_problem(422, code);
        assert_eq!(problem.field.as_deref(), Some("faces"));
    }
    assert_eq!(app.names().await, set(&["Ada"]));
    // A thousand of the longest names fit.
    let longest: Vec<String> = (0..1000).map(|n| format!("{n:0>255}")).collect();
    let erased: ErasedMany = app.delete_many(json!({"subjects": longest})).await.json();
    assert_eq!((erased.subjects, erased.not_found.len()), (0, 1000));
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn listed_faces_are_deleted_and_their_subjects_stay() {
    let app = TestApp::start().await;
    let [first, second] = [1, 2].map(|n| photos::lfw("Tony_Blair", n));
    let (one, two) = (app.enroll_largest("Tony", &first).await, app.enroll_largest("Tony", &second).await);
    let other = app.enroll_largest("George", &photos::lfw("George_W_Bush", 1)).await;
    let nothing = uuid::Uuid::now_v7();
    let faces = json!({"faces": [one.face_id, other.face_id, nothing, one.face_id, nothing]});
    let erased: ErasedMany = app.post_json("/delete/faces", faces.clone()).await.json();
    assert_eq!((counts(&erased), erased.not_found), ((0, 2, 2, 0), vec![nothing.to_string()]));
    for (subject, left) in [("Tony", vec![two.face_id]), ("George", vec![])] {
        let path = format!("/subjects/{subject}/faces?gallery={}", app.gallery);
        let faces: Page<EnrolledFace> = app.get(&path).await.json();
        assert_eq!(faces.items.iter().map(|face| face.id).collect::<Vec<_>>(), left);
    }
    // Tony is found by the face that he has; George by none.
    let found: Identified = app.post_photo("/identify", &first).await.json();
    let names: Vec<&str> = found.faces[0].matches.iter().map(|hit| hit.subject.as_str()).collect();
    assert_eq!((names, found.faces[0].matches[0].face_id), (vec!["Tony"], Some(two.face_id)));
    let again: ErasedMany = app.post_json("/delete/faces", faces).await.json();
    assert_eq!((counts(&again), again.not_found.len()), ((0, 0, 0, 0), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_faces_of_many_subjects_go_at_once() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 100, 10).await;
    let all: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from faces order by random()").fetch_all(&mut database).await.unwrap();
    let erased: ErasedMany = app.post_json("/delete/faces", json!({"faces": all[..900]})).await.json();
    assert_eq!(counts(&erased), (0, 900, 900, 0));
    assert_eq!((rows(&mut database, "faces").await, rows(&mut database, "subjects").await), (100, 100));
    // Templates are of the faces that are left.
    let right = "select coalesce(sum(faces), 0)::bigint, count(*) from templates";
    let templates: (i64, i64) = sqlx::query_as(right).fetch_one(&mut database).await.unwrap();
    let owners = rows(&mut database, "(select distinct subject_id from faces) owners").await;
    assert_eq!(templates, (100, owners));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_deletes_ten_thousand_and_says_whether_there_are_more() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut database = database(data.path()).await;
    for (there, parts) in [(10_001, [10_000, 1].as_slice()), (10_000, &[10_000])] {
        let make = "insert into subjects (id, gallery_id, name) select gen_random_uuid(), g.id, 'made ' || n \
            from galleries g, generate_series(1, $2) n where g.name = $1";
        sqlx::query(make).bind(&app.gallery).bind(there).execute(&mut database).await.unwrap();
        let mut left = there;
        for part in parts {
            left -= part;
            let answer = app.delete_many(json!({"prefix": "made"})).await;
            answer.expect(StatusCode::OK);
            let erased: ErasedMany = answer.json();
            assert_eq!((erased.subjects, erased.more), (u64::try_from(*part).unwrap(), left > 0));
            assert_eq!(rows(&mut database, "subjects").await, i64::from(left));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_are_gone_when_the_answer_comes_and_stay_so_after_kill_9() {
    let (data, other) = (data_dir(), data_dir());
    let slow = ["--job-lease", "1", "--background-share", "0.02"];
    let mut server = Server::start(data.path(), &slow).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let second = Server::start(other.path(), &[&["--database-url", url.as_str()], slow.as_slice()].concat()).await;
    let app = TestApp::at(server.url.clone()).await;
    let there = TestApp { url: second.url.clone(), gallery: app.gallery.clone(), client: app.client.clone() };
    let mut database = database(data.path()).await;
    make_people(&app, &mut database, 2500, 1).await;
    app.post_json("/subjects", json!({"name": "Ada", "gallery": app.gallery})).await.expect(StatusCode::CREATED);
    let probe = json!({"embedding": somebody(&app, &mut database).await, "gallery": app.gallery});
    for app in [&app, &there] {
        eventually(PATIENCE, "they are found", async || {
            let answer = app.post_json("/identify/embedding", probe.clone()).await;
            (answer.value()["matches"].as_array().unwrap().len() == 5).then_some(())
        })
        .await;
    }
    let answer = app.delete_many(json!({"prefix": "made"})).await;
    answer.expect(StatusCode::ACCEPTED);
    let erased: ErasedMany = answer.json();
    // A thousand in each transaction, with a job.
    assert_eq!(counts(&erased), (2500, 2500, 2500, 3));
    assert_eq!(app.post_json("/identify/embedding", probe.clone()).await.value()["matches"], json!([]));
    for app in [&there, &app] {
        assert_eq!(app.names().await, set(&["Ada"]));
    }
    // At once there as well, unless the machine is so busy that it was not waited for.
    eventually(PATIENCE, "nobody is found", async || {
        let answer = there.post_json("/identify/embedding", probe.clone()).await;
        (answer.value()["matches"] == json!([])).then_some(())
    })
    .await;
    assert!(rows(&mut database, "faces").await > 0, "the jobs were faster");
    let job = |id| format!("/admin/jobs/{id}");
    let told = app.get(&job(erased.jobs[0])).await;
    assert!(!told.text().contains("made"), "a name is left: {}", told.text());
    eventually(PATIENCE, "a piece is erased", async || {
        let job: Job = app.get(&job(erased.jobs[0])).await.json();
        job.progress.filter(|progress| progress["done"].as_u64() > Some(0))
    })
    .await;
    drop((second, database));
    server.kill();

    let server = Server::start(data.path(), &["--job-lease", "1", "--background-share", "1"]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    assert_eq!(app.names().await, set(&["Ada"]));
    assert_eq!(app.post_json("/identify/embedding", probe).await.value()["matches"], json!([]));
    for (id, people) in erased.jobs.iter().zip([1000, 1000, 500]) {
        let done = app.finished(app.get(&job(*id)).await.json()).await;
        let result = json!({"subjects": people, "faces": people, "embeddings": people});
        assert_eq!((done.state, done.result), (JobState::Succeeded, Some(result)));
    }
    let mut database = self::database(data.path()).await;
    for (table, left) in [("faces", 0), ("embeddings", 0), ("templates", 0), ("review_queue", 0), ("subjects", 1)] {
        assert_eq!(rows(&mut database, table).await, left, "{table}");
    }
    let whole = app.send(app.request(Method::DELETE, &format!("/galleries/{}", app.gallery))).await;
    whole.expect(StatusCode::OK);
}
