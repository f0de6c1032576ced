//! Long tasks over HTTP: retraining, following, cancelling, and what is left when processes are killed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use faceid::db::private::{PrivateOptions, PrivatePostgres};
use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::{Identified, Job, Page};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, made_by_setup, photos};

/// How long the next event of a job, or the end of a process, may take. Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(300);

/// An event of a job.
#[derive(Debug, Clone)]
struct Event {
    id: i64,
    kind: String,
    data: Value,
}

/// A stream of events.
struct Events {
    response: Response,
    text: Vec<u8>,
}

impl Events {
    async fn of(app: &TestApp, job: &Job, after: Option<i64>) -> Self {
        let mut request = app.request(Method::GET, &format!("/admin/jobs/{}/events", job.id));
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: Vec::new() }
    }

    /// `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an event comes in time")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block = String::from_utf8(self.text.drain(..end + 2).collect()).unwrap();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let Some(data) = field("data") else { continue };
                return Some(Event {
                    id: field("id").unwrap().parse().unwrap(),
                    kind: field("event").unwrap().to_owned(),
                    data: serde_json::from_str(data).unwrap(),
                });
            }
            self.text.extend(self.response.chunk().await.ok()??);
        }
    }

    /// Skips events to the first one like this.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        while let Some(event) = self.next().await {
            if wanted(&event) {
                return event;
            }
        }
        panic!("the stream ended before");
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn has_trained(steps: u64) -> impl Fn(&Event) -> bool {
    move |event| {
        event.kind == "progress" && event.data["stage"] == "training" && event.data["done"].as_u64() >= Some(steps)
    }
}

fn is_state(state: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.kind == "state" && event.data["state"] == state
}

/// Enrolls people of orl, `each` photos of everybody.
async fn enroll_people(app: &TestApp, people: std::ops::Range<usize>, each: usize) {
    let all = photos::people(&photos::folder("orl"));
    for (name, files) in &all[people] {
        for file in &files[..each] {
            app.enroll_largest(name, &photos::read(file)).await;
        }
    }
}

/// A short training of the active model.
fn short(app: &TestApp, steps: u64) -> Value {
    json!({
        "gallery": app.gallery, "steps": steps, "test_share": 0.34, "protected": [],
        "recipe": {"batch": {"subjects": 3, "photos": 3}, "fine_tuning": {"replay": 2}, "held_out": {"validation_share": 0}},
    })
}

async fn retrain(app: &TestApp, body: &Value) -> Job {
    let answer = app.send(app.request(Method::POST, "/admin/retrain").json(body)).await;
    answer.expect(StatusCode::ACCEPTED);
    let job: Job = answer.json();
    assert_eq!(answer.headers["location"].to_str().unwrap(), format!("/admin/jobs/{}", job.id));
    job
}

async fn get(app: &TestApp, job: &Job) -> Job {
    app.get(&format!("/admin/jobs/{}", job.id)).await.json()
}

/// The training that a server started.
async fn training_of(server: &Server) -> Pid {
    let parent = format!("PPid:\t{}\n", server.pid());
    eventually(PATIENCE, "the start of a training", async || {
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok()?;
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let is_it = read("status").contains(&parent) && read("cmdline").contains("train\0");
            is_it.then(|| Pid::from_raw(pid))
        })
    })
    .await
}

async fn until_gone(pid: Pid) {
    eventually(PATIENCE, "the end of a training", async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn a_gallery_is_learned_from_while_the_server_serves() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--embedder", "fast", "--train-threads", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 0..8, 4).await;
    let others = TestApp::at(server.url.clone()).await;
    enroll_people(&others, 8..12, 3).await;
    let body = json!({
        "gallery": app.gallery, "steps": 8, "test_share": 0.34, "name": "staff-2", "protected": [others.gallery],
        "recipe": {"batch": {"subjects": 4, "photos": 3}, "fine_tuning": {"replay": 4}},
    });
    let job = retrain(&app, &body).await;
    assert_eq!(job.settings["protected"][0]["name"], others.gallery.as_str());
    let again = app.send(app.request(Method::POST, "/admin/retrain").json(&body)).await;
    again.expect(StatusCode::OK);
    assert_eq!(again.json::<Job>().id, job.id);

    let done = Arc::new(AtomicBool::new(false));
    let (name, files) = photos::people(&photos::folder("orl")).remove(0);
    let probe = photos::read(&files[5]);
    let photo = probe.clone();
    let (busy, client) =
        (Arc::clone(&done), TestApp { client: Client::new(), url: app.url.clone(), gallery: app.gallery.clone() });
    let identifying = tokio::spawn(async move {
        let mut answers = 0;
        while !busy.load(Ordering::Relaxed) {
            let answer: Identified = client.post_photo("/identify", &photo).await.json();
            assert_eq!(answer.model, "mobilefacenet-512");
            answers += 1;
        }
        answers
    });
    let events = Events::of(&app, &job, None).await.rest().await;
    done.store(true, Ordering::Relaxed);
    assert!(identifying.await.unwrap() > 0);

    let job = get(&app, &job).await;
    assert_eq!((job.state, job.attempts), (JobState::Succeeded, 1), "{job:?}");
    let result = job.result.clone().unwrap();
    assert_eq!((&result["model"]["name"], &result["model"]["dimension"]), (&json!("staff-2"), &json!(512)));
    let (gate, figures) = (&result["gate"], &result["gate"]["figures"]);
    // Three people are too few.
    assert_eq!((&gate["outcome"], &gate["passed"]), (&json!("not_enough_evidence"), &json!(false)), "{result}");
    assert!(
        gate["reasons"][0].as_str().unwrap().starts_with("too few to tell: 3 people") && result["promotion"].is_null()
    );
    let target = &figures["target"];
    assert_eq!((&target["subjects"], &target["faces"]), (&json!(3), &json!(12)), "{result}");
    assert_eq!((&target["name"], &target["fpir"]["in_use"]), (&json!(app.gallery), &json!(0.01)), "{result}");
    // Of four people, the training was shown two.
    let protected = &figures["protected"][0];
    assert_eq!((&protected["name"], &protected["faces"]), (&json!(others.gallery), &json!(6)), "{result}");
    assert_eq!((&protected["mated"], &protected["outcome"]), (&json!(2), &json!("not_enough_evidence")), "{result}");
    assert_eq!(result["card"]["data"]["replay"]["photos"], 6);
    assert_eq!(result["card"]["training"]["steps"], 8);
    let models = app.get("/admin/models").await.value();
    let candidate = models.as_array().unwrap().iter().find(|model| model["name"] == "staff-2").unwrap();
    assert_eq!((&candidate["state"], &candidate["source"]), (&json!("candidate"), &json!("retrain")));
    assert!(!data.path().join("jobs").join(job.id.to_string()).exists());

    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"metrics"), "{kinds:?}");
    let mut stages: Vec<&str> = events.iter().filter_map(|event| event.data["stage"].as_str()).collect();
    stages.dedup();
    assert_eq!(stages, ["chips", "reading", "training", "evaluating", "exporting", "import", "gate"]);
    assert!(events.is_sorted_by_key(|event| event.id) && events.iter().all(|event| event.data["at"].is_string()));
    let last = events.last().unwrap();
    assert_eq!((&last.data["state"], &last.data["result"]["model"]["name"]), (&json!("succeeded"), &json!("staff-2")));
    // Whoever was cut off gets the rest, and whoever has all gets the end.
    let rest = Events::of(&app, &job, Some(events[2].id)).await.rest().await;
    let ids = |events: &[Event]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&rest), ids(&events[3..]));
    assert!(Events::of(&app, &job, Some(last.id)).await.rest().await.is_empty());
    let listed: Page<Job> = app.get("/admin/jobs?limit=1").await.json();
    assert_eq!(listed.items[0].id, job.id);
    // What the gate does not know is for people to decide.
    let shown = faceid().args(["models", "show", "staff-2", "--server", &app.url]).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("not enough evidence"), "{shown:?}");
    let answer = app.post_json("/admin/models/staff-2/promote", json!({})).await;
    answer.expect(StatusCode::ACCEPTED);
    let promotion = app.finished(answer.json()).await;
    assert_eq!(promotion.state, JobState::Succeeded);
    assert_eq!(promotion.result.unwrap()["gate"], "not_enough_evidence");
    let answer: Identified = app.post_photo("/identify", &probe).await.json();
    assert_eq!(answer.model, "staff-2");
    assert_eq!(answer.faces[0].matches[0].subject, name);
    let shown = faceid().args(["jobs", "list", "--server", &app.url]).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("retrain   succeeded"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn a_training_that_is_killed_goes_on_and_one_that_is_cancelled_does_not() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--embedder", "fast", "--train-threads", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 0..6, 4).await;

    let job = retrain(&app, &short(&app, 14)).await;
    let mut events = Events::of(&app, &job, None).await;
    events.until(has_trained(6)).await;
    kill(training_of(&server).await, Signal::SIGKILL).unwrap();
    let setback = events.until(is_state("queued")).await;
    assert!(setback.data["error"].as_str().unwrap().contains("killed"), "{setback:?}");
    events.until(is_state("running")).await;
    let resumed = events.until(has_trained(0)).await;
    assert!(resumed.data["done"].as_u64().unwrap() > 5, "{resumed:?}");
    events.until(is_state("succeeded")).await;
    assert_eq!(get(&app, &job).await.attempts, 2);

    let job = retrain(&app, &short(&app, 1000)).await;
    let mut events = Events::of(&app, &job, None).await;
    events.until(has_trained(1)).await;
    let training = training_of(&server).await;
    let cancel = format!("/admin/jobs/{}/cancel", job.id);
    let asked: Job = app.send(app.request(Method::POST, &cancel)).await.json();
    assert!(asked.cancel_requested);
    events.until(is_state("cancelled")).await;
    assert!(events.next().await.is_none());
    until_gone(training).await;
    assert!(!data.path().join("jobs").join(job.id.to_string()).exists());
    app.send(app.request(Method::POST, &cancel)).await.expect_problem(409, Code::JobFinished);
    assert!(app.get("/readyz").await.status.is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn another_server_takes_over_from_the_checkpoint() {
    let database = data_dir();
    let install_dir = made_by_setup("FACEID_POSTGRES_DIR", "postgres");
    let options = PrivateOptions { install_dir, data_dir: database.path().to_owned() };
    let postgres = PrivatePostgres::start(options).await.unwrap();
    let url = format!("postgres://faceid@localhost/faceid?host={}", database.path().join("run").display());
    let store = data_dir();
    let (a, b) = (data_dir(), data_dir());
    let start = async |data: &Path| {
        let store = store.path().to_str().unwrap();
        let place = ["--database-url", &url, "--model-store", store];
        let flags = ["--embedder", "fast", "--job-lease", "3", "--train-threads", "1"];
        Server::start(data, &[&place[..], &flags].concat()).await
    };
    let mut first = start(a.path()).await;
    let app = TestApp::at(first.url.clone()).await;
    enroll_people(&app, 0..6, 4).await;
    let job = retrain(&app, &short(&app, 34)).await;
    // By then a checkpoint has gone to the database.
    Events::of(&app, &job, None).await.until(has_trained(20)).await;
    let training = training_of(&first).await;
    let second = start(b.path()).await;
    let there = TestApp { client: Client::new(), url: second.url.clone(), gallery: app.gallery.clone() };
    let mut events = Events::of(&there, &job, None).await;
    first.kill();
    // It has nobody to train for.
    until_gone(training).await;
    events.until(|event| event.data["attempt"] == 2).await;
    let resumed = events.until(has_trained(0)).await;
    assert!(resumed.data["done"].as_u64().unwrap() > 5, "{resumed:?}");

    // A server that is stopped gives the job back at once, and finds it again.
    second.terminate();
    let mut second = second;
    assert!(second.ended().await.success());
    let third = start(b.path()).await;
    let there = TestApp { client: Client::new(), url: third.url.clone(), gallery: app.gallery };
    let events = Events::of(&there, &job, None).await.rest().await;
    assert_eq!(events.last().unwrap().data["state"], "succeeded");
    let job = get(&there, &job).await;
    assert_eq!((job.state, job.attempts), (JobState::Succeeded, 3));
    drop(third);
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn a_training_without_enough_memory_fails_alone() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--embedder", "fast", "--train-memory", "268435456"]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 0..5, 3).await;
    let job = app.finished(retrain(&app, &short(&app, 10)).await).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert!(job.error.as_deref().unwrap().contains("train_memory"), "{job:?}");
    assert!(app.get("/readyz").await.status.is_success());
    assert!(!data.path().join("jobs").join(job.id.to_string()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn the_command_line_follows_a_training_from_nothing() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--embedder", "fast", "--train-threads", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    enroll_people(&app, 0..6, 3).await;
    let command = ["retrain", "--server", &app.url, "--gallery", &app.gallery, "--from-scratch", "--steps", "20"];
    let more = ["--test-share", "0.34", "--name", "tiny", "--promote", "--follow"];
    let output = faceid().args(command).args(more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("candidate tiny") && said.contains("not enough evidence to decide"), "{output:?}");
    assert!(said.contains("too few to tell: 2 people") && said.contains("FNIR@5.0e-1"), "{said}");
    // What the gate does not let pass is not promoted.
    assert_eq!(app.answering().await, "mobilefacenet-512");
    assert_eq!(app.jobs().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn what_cannot_be_trained_is_refused_at_once() {
    let app = TestApp::start().await;
    let post = async |body: Value| app.send(app.request(Method::POST, "/admin/retrain").json(&body)).await;
    let gallery = app.gallery.as_str();
    post(json!({"gallery": "nobody's"})).await.expect_problem(404, Code::GalleryNotFound);
    let few = post(json!({"gallery": gallery})).await.expect_problem(422, Code::TooFewSubjects);
    assert!(few.field.as_deref() == Some("gallery") && few.detail.contains("4 are needed"), "{few:?}");
    enroll_people(&app, 0..4, 2).await;
    for (body, field) in [
        (json!({"base": "nothing"}), "base"),
        (json!({"recipe": {"stepps": 1}}), "recipe"),
        (json!({"steps": 0}), "recipe"),
        (json!({"steps": -1}), "steps"),
        (json!({"protected": [gallery]}), "protected"),
        (json!({"test_share": 2}), "recipe"),
    ] {
        let mut body = body;
        body["gallery"] = gallery.into();
        let refused = post(body.clone()).await.expect_problem(422, Code::InvalidField);
        assert_eq!(refused.field.as_deref(), Some(field), "{body}");
    }
    let refused =
        post(json!({"gallery": gallery, "protected": ["default"]})).await.expect_problem(422, Code::TooFewSubjects);
    assert_eq!(refused.field.as_deref(), Some("protected"));
    app.get("/admin/jobs/0199b6a2-5d3e-7c61-9f0e-2f1f5a3c8d11").await.expect_problem(404, Code::JobNotFound);
    app.get("/admin/jobs/0199b6a2-5d3e-7c61-9f0e-2f1f5a3c8d11/events").await.expect_problem(404, Code::JobNotFound);
    app.get("/admin/jobs/nonsense").await.expect_problem(400, Code::MalformedPath);
}
