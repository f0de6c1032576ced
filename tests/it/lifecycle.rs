//! Models come and go while the server serves: import, promotion, rollback, retirement.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use faceid::evaluation::GateOutcome;
use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::{AuditEntry, Enrolled, Identified, ModelEntry, Page};
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::models::{bundled, model_form, other_weights};
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, made_by_setup, part, photos};

/// How far similarities of one pair may be apart: a photo's companions in a batch change the last digits.
const SAME: f32 = 2e-3;

/// Enrolls some photos each of the first people, and gives another of each as a probe.
async fn enroll_people(app: &TestApp, people: usize, photos_each: usize) -> Vec<Vec<u8>> {
    let enrolled = app.enroll_people(people, photos_each).await;
    enrolled.iter().map(|(_, files)| photos::read(&files[photos_each])).collect()
}

async fn identify(app: &TestApp, photo: &[u8]) -> Identified {
    app.post_photo("/identify", photo).await.json()
}

/// Subjects, with their similarities.
type Matches = Vec<(String, f32)>;

/// The model, and the matches of the largest face.
fn gist(answer: &Identified) -> (String, Matches) {
    let matches = answer.faces[0].matches.iter().map(|hit| (hit.subject.clone(), hit.similarity));
    (answer.model.clone(), matches.collect())
}

fn agree(a: &[(String, f32)], b: &[(String, f32)]) -> bool {
    let near = |(a, b): (&(String, f32), &(String, f32))| (a.1 - b.1).abs() < SAME;
    a.len() == b.len() && a.iter().zip(b).all(near) && a[0].0 == b[0].0
}

/// Clients that identify in a gallery and enroll into another until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    answers: Arc<std::sync::Mutex<Vec<(usize, Identified)>>>,
    enrolled: Arc<std::sync::Mutex<Vec<(String, usize)>>>,
}

impl Load {
    fn start(app: &TestApp, into: &TestApp, probes: &Arc<Vec<Vec<u8>>>) -> Self {
        let load =
            Self { stop: Arc::default(), clients: Vec::new(), answers: Arc::default(), enrolled: Arc::default() };
        let number = Arc::new(AtomicUsize::new(0));
        let another =
            |app: &TestApp| TestApp { client: app.client.clone(), url: app.url.clone(), gallery: app.gallery.clone() };
        let client = |enrolls: bool| {
            let app = another(if enrolls { into } else { app });
            let (stop, probes, number) = (load.stop.clone(), probes.clone(), number.clone());
            let (answers, enrolled) = (load.answers.clone(), load.enrolled.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    let probe = n % probes.len();
                    if enrolls {
                        let subject = format!("subject {n}");
                        let face: Enrolled = app.enroll_largest(&subject, &probes[probe]).await;
                        assert!(!face.model.is_empty());
                        enrolled.lock().unwrap().push((subject, probe));
                    } else {
                        let answer = identify(&app, &probes[probe]).await;
                        answers.lock().unwrap().push((probe, answer));
                    }
                }
            })
        };
        let clients = [false, false, true].map(client).into();
        Self { clients, ..load }
    }

    async fn stop(self) -> (Vec<(usize, Identified)>, Vec<(String, usize)>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            // A client panics at the first request that fails.
            client.await.unwrap();
        }
        let (answers, enrolled) = (self.answers.lock().unwrap().clone(), self.enrolled.lock().unwrap().clone());
        (answers, enrolled)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn models_change_under_load_and_no_answer_mixes_them() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--search", "resident"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let into = TestApp::at(server.url.clone()).await;
    let probes = enroll_people(&app, 10, 2).await;
    let probes = Arc::new(probes);
    let mut expected: Vec<(String, Vec<Matches>)> = Vec::new();
    let bgr = app.import_bgr().await;
    assert_eq!((bgr.state.as_str(), bgr.source.as_str(), bgr.dimension), ("candidate", "import", 128));

    let load = Load::start(&app, &into, &probes);
    for model in ["bgr", "sface-128", "bgr", "sface-128"] {
        let job = if expected.is_empty() { app.promote("bgr").await } else { app.roll_back().await };
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        assert_eq!(job.result.as_ref().unwrap()["model"], model, "{job:?}");
        let mut own = Vec::new();
        for probe in probes.iter() {
            let (answered, matches) = gist(&identify(&app, probe).await);
            assert_eq!(answered, model);
            own.push(matches);
        }
        match expected.iter().find(|(known, _)| known == model) {
            None => expected.push((model.to_owned(), own)),
            Some((_, known)) => assert!(known.iter().zip(&own).all(|(a, b)| agree(a, b)), "{model} answers otherwise"),
        }
    }
    let (answers, enrolled) = load.stop().await;
    println!("{} identified, {} enrolled", answers.len(), enrolled.len());
    // The two models would be told apart.
    assert!(!agree(&expected[0].1[0], &expected[1].1[0]), "{expected:?}");
    let mut seen = Vec::new();
    for (probe, answer) in &answers {
        let (model, matches) = gist(answer);
        let (_, known) = expected.iter().find(|(name, _)| *name == model).unwrap();
        assert!(agree(&known[*probe], &matches), "{model}: {matches:?} instead of {:?}", known[*probe]);
        seen.push(model);
    }
    assert!(expected.iter().all(|(model, _)| seen.contains(model)), "both models answered under load");

    // None is lost, whichever model answered when it came.
    let faces = 20 + enrolled.len() as u64;
    let active = app.model("sface-128").await;
    assert_eq!((active.embeddings, active.missing, active.without_chip), (faces, 0, 0));
    for (subject, probe) in enrolled.iter().rev().take(20) {
        let form = Form::new().part("image", part(&probes[*probe])).text("gallery", into.gallery.clone());
        let answer: Identified = into.post_form("/identify", form.text("top_k", "100")).await.json();
        let own = answer.faces[0].matches.iter().find(|hit| hit.subject == *subject).unwrap();
        assert!(own.similarity > 0.99, "{own:?}");
    }
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=model&limit=200").await.json();
    let activations = audit.items.iter().filter(|entry| entry.action == "model.activate");
    assert_eq!(
        activations.map(|entry| entry.actor.as_str()).collect::<Vec<_>>(),
        ["anyone", "anyone", "anyone", "anyone", "server"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn all_servers_of_a_database_follow() {
    let (data, others) = (data_dir(), data_dir());
    let first = Server::start(data.path(), &[]).await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let store = data.path().join("models");
    let shared = ["--database-url", &url, "--model-store", store.to_str().unwrap()];
    let second = Server::start(others.path(), &[&shared[..], &["--search", "pgvector"]].concat()).await;
    let here = TestApp::at(first.url.clone()).await;
    let there = TestApp { client: here.client.clone(), url: second.url.clone(), gallery: here.gallery.clone() };
    let probes = enroll_people(&here, 4, 2).await;
    there.import_bgr().await;
    for model in ["bgr", "sface-128"] {
        assert_eq!(there.promote(model).await.state, JobState::Succeeded);
        here.until_answers(model).await;
        there.until_answers(model).await;
        // Enrolled by one, found by the other.
        here.enroll_largest(&format!("new by {model}"), &probes[0]).await;
        let (a, b) = (identify(&here, &probes[0]).await, identify(&there, &probes[0]).await);
        assert_eq!((a.model.as_str(), b.model.as_str()), (model, model));
        assert!(agree(&gist(&a).1, &gist(&b).1), "{a:?} {b:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_server_that_dies_while_it_embeds_goes_on_when_it_is_back() {
    let data = data_dir();
    let slow = ["--background-share", "0.02", "--job-lease", "1"];
    let mut server = Server::start(data.path(), &slow).await;
    let app = TestApp::at(server.url.clone()).await;
    let probes = enroll_people(&app, 8, 4).await;
    app.import_bgr().await;
    let answer = app.post_json("/admin/models/bgr/promote", json!({})).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Value = answer.json();
    let half_done = loop {
        let details = app.model("bgr").await;
        assert_eq!(details.entry.state, "candidate");
        if details.embeddings > 0 {
            break details.embeddings;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // A face that comes meanwhile is embedded by both.
    app.enroll_largest("newcomer", &probes[0]).await;
    server.kill();
    assert!(half_done < 32, "{half_done} were embedded before the kill");

    let server = Server::start(data.path(), &["--background-share", "1", "--job-lease", "1"]).await;
    let app = TestApp { client: app.client.clone(), url: server.url.clone(), gallery: app.gallery };
    let job = app.finished(app.get(&format!("/admin/jobs/{}", job["id"].as_str().unwrap())).await.json()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert!(job.attempts >= 2, "{job:?}");
    let embedded = job.result.as_ref().unwrap()["embedded"].as_u64().unwrap();
    assert!(embedded <= 32 - half_done, "{embedded} were embedded again, {half_done} had been");
    let details = app.model("bgr").await;
    assert_eq!((details.entry.state.as_str(), details.embeddings, details.missing), ("active", 33, 0));
    let answer = identify(&app, &probes[1]).await;
    assert_eq!((answer.model.as_str(), answer.faces[0].known), ("bgr", true));
}

#[tokio::test]
async fn what_is_no_embedder_is_refused() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--max-model-bytes", "12000000"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let import = async |file: Vec<u8>, fields: &[(&'static str, &'static str)]| {
        let form = fields.iter().fold(model_form(file), |form, (name, value)| form.text(*name, *value));
        app.post_form("/admin/models", form).await
    };
    let named = [("name", "x"), ("threshold", "0.3")];
    import(vec![7; 13_100_000], &named).await.expect_problem(413, Code::BodyTooLarge);
    import(vec![7; 12_100_000], &named).await.expect_problem(413, Code::BodyTooLarge);
    import(b"no network".to_vec(), &named).await.expect_problem(422, Code::InvalidModel);
    import(bundled()[..1_000_000].to_vec(), &named).await.expect_problem(422, Code::InvalidModel);
    let detector = made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("retinaface-mobilenet0.25.onnx");
    import(photos::read(&detector), &named).await.expect_problem(422, Code::InvalidModel);
    let script = photos::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nn/script_outputs.pt"));
    import(script.clone(), &named).await.expect_problem(422, Code::CodeRefused);
    // Nor does it help to ask for it where nobody needs a key.
    let allowed = [named[0], named[1], ("allow_code", "true")];
    import(script.clone(), &allowed).await.expect_problem(422, Code::CodeRefused);
    import(other_weights(), &named[..1]).await.expect_problem(422, Code::InvalidField);
    let taken = [("name", "sface-128"), ("threshold", "0.3")];
    import(other_weights(), &taken).await.expect_problem(409, Code::DuplicateModel);
    import(other_weights(), &[named[0], ("threshold", "3")]).await.expect_problem(422, Code::InvalidField);
    let models: Vec<ModelEntry> = app.get("/admin/models").await.json();
    assert_eq!(models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["sface-128"]);
    // Nothing stays of what was refused.
    assert_eq!(std::fs::read_dir(data.path().join("models")).unwrap().count(), 1);

    // Whoever has the admin key may; what it holds is looked at all the same.
    let keyed = data_dir();
    let keys = ["--client-key", "client-key-0123456", "--admin-key", "admin-key-01234567"];
    let guarded = Server::start(keyed.path(), &keys).await;
    let form = allowed.iter().fold(model_form(script), |form, (name, value)| form.text(*name, *value));
    let request = app.client.post(format!("{}/admin/models", guarded.url)).multipart(form);
    app.send(request.header("x-api-key", keys[3])).await.expect_problem(422, Code::InvalidModel);

    // Nobody is to be promoted who is not there, and there is nobody to go back to.
    let missing = app.post_json("/admin/models/nobody/promote", json!({})).await;
    missing.expect_problem(404, Code::ModelNotFound);
    app.post_json("/admin/rollback", json!({})).await.expect_problem(409, Code::NoFormerModel);
    let retire = app.post_json("/admin/models/sface-128/retire", json!({"force": true})).await;
    retire.expect_problem(409, Code::ModelInUse);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn faces_without_chips_are_not_left_behind_unasked_and_a_retired_model_is_gone() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 3, 2).await;
    let vector: Vec<f32> = (0..128).map(|i| if i == 9 { 7.5 } else { 0.25 }).collect();
    let file = files.path().join("vectors.jsonl");
    std::fs::write(&file, json!({"subject": "Ada", "embedding": vector}).to_string()).unwrap();
    let mut import = faceid();
    import.arg("import").arg(&file).args(["--gallery", "vectors", "--data-dir"]).arg(data.path());
    assert!(import.status().unwrap().success());

    app.import_bgr().await;
    assert_eq!((app.model("bgr").await.missing, app.model("bgr").await.without_chip), (6, 1));
    let refused = app.post_json("/admin/models/bgr/promote", json!({})).await;
    let problem = refused.expect_problem(409, Code::FacesWithoutChips);
    assert!(problem.detail.starts_with("1 faces"), "{}", problem.detail);
    let forced = app.post_json("/admin/models/bgr/promote", json!({"force": true})).await;
    forced.expect(StatusCode::ACCEPTED);
    let job = app.finished(forced.json()).await;
    let result = job.result.unwrap();
    assert_eq!(
        (&result["embedded"], &result["left_behind"], &result["gate"]),
        (&6.into(), &1.into(), &"not_evaluated".into())
    );
    // Three people with two photos do not tell whether it is of any use.
    assert_eq!((&result["enrolled"], &result["figures"]), (&"not_evaluated".into(), &Value::Null));
    // They are found again after a rollback.
    assert_eq!(app.roll_back().await.result.unwrap()["left_behind"], 0);

    app.post_json("/admin/models/bgr/retire", json!({})).await.expect_problem(409, Code::ModelInUse);
    let store = data.path().join("models");
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 2);
    assert_eq!(app.retire("bgr", true).await, json!({"model": "bgr", "embeddings": 6, "lost_faces": 0}));
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 1);
    let details = app.model("bgr").await;
    assert_eq!((details.entry.state.as_str(), details.embeddings, details.entry.format), ("retired", 0, None));
    app.post_json("/admin/models/bgr/promote", json!({})).await.expect_problem(409, Code::NoModelFile);
    app.post_json("/admin/rollback", json!({})).await.expect_problem(409, Code::NoFormerModel);
    // Brought again, it begins again.
    assert_eq!(app.import_bgr().await.state, "candidate");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_retirement_that_was_broken_off_is_finished_at_the_next_start() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 2, 1).await;
    app.import_bgr().await;
    let url = format!("postgres://faceid@localhost/faceid?host={}", data.path().join("run").display());
    let mut database = PgConnection::connect(&url).await.unwrap();
    let as_left_by_a_server_that_was_killed = "\
        insert into embeddings (face_id, model_id, gallery_id, subject_id, embedding, norm) \
        select face_id, (select id from models where name = 'bgr'), gallery_id, subject_id, embedding, norm from embeddings; \
        update models set state = 'retired', format = null, file_bytes = null where name = 'bgr'";
    sqlx::raw_sql(as_left_by_a_server_that_was_killed).execute(&mut database).await.unwrap();
    assert_eq!(app.model("bgr").await.embeddings, 2);
    drop(database);
    server.kill();

    let server = Server::start(data.path(), &[]).await;
    let app = TestApp { url: server.url.clone(), ..app };
    let files = || std::fs::read_dir(data.path().join("models")).unwrap().count();
    eventually(Duration::from_secs(120), "the end of a retirement", async || {
        (app.model("bgr").await.embeddings == 0 && files() == 1).then_some(())
    })
    .await;
    assert_eq!(app.model("sface-128").await.embeddings, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_model_that_is_no_better_is_promoted_by_force_alone() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    app.enroll_people(10, 2).await;
    // The same network in another file.
    let form = model_form(other_weights())
        .text("name", "twin")
        .text("threshold", "0.423")
        .text("mean", "0")
        .text("scale", "1");
    app.post_form("/admin/models", form).await.expect(StatusCode::CREATED);
    assert!(app.model("twin").await.verdict.is_none());
    let answer = app.post_json("/admin/models/twin/evaluate", json!({"gallery": app.gallery})).await;
    answer.expect(StatusCode::ACCEPTED);
    let job = app.finished(answer.json()).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let verdict = app.model("twin").await.verdict.unwrap();
    assert!(verdict.outcome == GateOutcome::Refused && !verdict.passed && !verdict.reasons.is_empty(), "{verdict:?}");
    let refused = app.post_json("/admin/models/twin/promote", json!({})).await;
    let problem = refused.expect_problem(409, Code::GateRefused);
    assert!(problem.detail.contains(&verdict.reasons[0]), "{}", problem.detail);
    let forced = app.post_json("/admin/models/twin/promote", json!({"force": true})).await;
    forced.expect(StatusCode::ACCEPTED);
    let job = app.finished(forced.json()).await;
    let result = job.result.unwrap();
    assert_eq!(result["gate"], "overruled");
    // No better than the active one, but of use.
    assert_eq!((&result["enrolled"], &result["figures"]["mated"]), (&"passed".into(), &10.into()), "{result}");
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=model").await.json();
    let activation = audit.items.iter().find(|entry| entry.action == "model.activate").unwrap();
    assert_eq!((&activation.details["force"], &activation.details["gate"]), (&true.into(), &"overruled".into()));
    // Empty galleries say nothing of a model.
    let empty = app.post_json("/admin/models/twin/evaluate", json!({})).await;
    empty.expect_problem(422, Code::TooFewSubjects);
}
