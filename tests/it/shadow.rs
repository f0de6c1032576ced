//! A candidate answers in the shadow: what it would have said otherwise is known before it is promoted.

use std::time::{Duration, Instant};

use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::registry::DisagreementKind;
use faceid::service::answers::{Disagreement, Identified, Job, Page, ShadowReport};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, photos};

const PATIENCE: Duration = Duration::from_secs(60);

impl TestApp {
    async fn begin_shadow(&self, model: &str, body: Value) -> Job {
        let answer = self.post_json(&format!("/admin/models/{model}/shadow"), body).await;
        answer.expect(StatusCode::ACCEPTED);
        let job = self.finished(answer.json()).await;
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        job
    }

    async fn end_shadow(&self, model: &str) {
        let request = self.request(Method::DELETE, &format!("/admin/models/{model}/shadow"));
        self.send(request).await.expect(StatusCode::NO_CONTENT);
    }

    /// The report, once the candidate has seen so many faces.
    async fn report_of(&self, model: &str, faces: u64) -> ShadowReport {
        let began = Instant::now();
        loop {
            let report: ShadowReport = self.get(&format!("/admin/models/{model}/shadow")).await.json();
            if report.against.iter().map(|tally| tally.faces).sum::<u64>() >= faces {
                return report;
            }
            assert!(began.elapsed() < PATIENCE, "{report:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn disagreements(&self, model: &str) -> Vec<Disagreement> {
        let page: Page<Disagreement> = self.get(&format!("/admin/models/{model}/disagreements?limit=200")).await.json();
        page.items
    }

    async fn identify(&self, photo: &[u8]) -> Identified {
        self.post_photo("/identify", photo).await.json()
    }
}

/// Imports a model that sees red as blue, and knows a face from `threshold` on.
async fn import(app: &TestApp, threshold: &str) {
    use crate::support::models::{model_form, other_weights};
    let form = model_form(other_weights()).text("name", "bgr").text("threshold", threshold.to_owned());
    app.post_form("/admin/models", form.text("channels", "bgr").text("mean", "0").text("scale", "1"))
        .await
        .expect(StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn what_a_candidate_would_have_said_is_listed() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let people = app.enroll_people(10, 1).await;
    // So that it knows nobody.
    import(&app, "0.999").await;
    app.get("/admin/models/bgr/shadow").await.expect_problem(404, Code::NoShadow);
    app.get("/admin/models/bgr/disagreements").await.expect_problem(404, Code::NoShadow);
    let job = app.begin_shadow("bgr", json!({"share": 1.0})).await;
    assert_eq!(job.result, Some(json!({"model": "bgr", "share": 1.0, "embedded": 10, "set_aside": 0})));
    assert_eq!(app.model("bgr").await.entry.shadow, Some(1.0));

    let mut known = Vec::new();
    for (person, files) in &people {
        let answer = app.identify(&photos::read(&files[1])).await;
        assert_eq!(answer.model, "sface-128");
        known.extend(answer.faces.iter().map(|face| face.known.then(|| person.clone())));
    }
    let faces = known.len() as u64;
    let named: Vec<String> = known.into_iter().flatten().collect();
    let report = app.report_of("bgr", faces).await;
    assert_eq!((report.model.as_str(), report.share, report.against.len()), ("bgr", Some(1.0), 1));
    let tally = &report.against[0];
    assert_eq!((tally.model.as_str(), tally.faces), ("sface-128", faces));
    assert_eq!((tally.only_active, tally.agreed), (named.len() as u64, faces - named.len() as u64));
    assert!(named.len() >= 8, "{named:?}");
    let listed = app.disagreements("bgr").await;
    let subjects: Vec<_> = listed.iter().rev().map(|found| found.by_active.subject.clone().unwrap()).collect();
    assert_eq!(subjects, named);
    for found in &listed {
        assert_eq!((found.kind, found.gallery.as_str()), (DisagreementKind::OnlyActive, app.gallery.as_str()));
        assert!(found.by_active.similarity.unwrap() >= found.by_active.threshold);
        assert!(found.by_candidate.subject.is_some() && found.by_candidate.similarity.unwrap() < 0.999);
    }

    // Whoever is erased is in no list any more.
    let erased = format!("/subjects/{}?gallery={}", named[0], app.gallery);
    app.send(app.request(Method::DELETE, &erased)).await.expect(StatusCode::OK);
    let names = |found: &Disagreement| [found.by_active.subject.clone(), found.by_candidate.subject.clone()];
    let left: Vec<_> = app.disagreements("bgr").await.iter().flat_map(names).flatten().collect();
    assert!(!left.is_empty() && !left.contains(&named[0]), "{left:?}");

    app.end_shadow("bgr").await;
    assert_eq!(app.model("bgr").await.entry.shadow, None);
    assert!(!app.model("bgr").await.entry.is_secondary);
    app.identify(&photos::read(&people[1].1[2])).await;
    let report: ShadowReport = app.get("/admin/models/bgr/shadow").await.json();
    assert_eq!((report.share, report.against[0].faces), (None, faces));
    let again = app.request(Method::DELETE, "/admin/models/bgr/shadow");
    app.send(again).await.expect_problem(404, Code::NoShadow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn a_shadow_knows_whoever_is_enrolled_and_ends_with_a_promotion() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let (first, second) = (photos::lfw("Tony_Blair", 1), photos::lfw("Tony_Blair", 2));
    import(&app, "0.3").await;
    app.post_json("/admin/models/sface-128/shadow", json!({})).await.expect_problem(409, Code::ModelInUse);
    for share in [json!(0), json!(1.5), json!("much")] {
        let refused = app.post_json("/admin/models/bgr/shadow", json!({"share": share})).await;
        assert_eq!(refused.expect_problem(422, Code::InvalidField).field.as_deref(), Some("share"));
    }
    app.begin_shadow("bgr", json!({"share": 1.0})).await;
    // In the shadow it is not retired, and knows who comes.
    app.post_json("/admin/models/bgr/retire", json!({})).await.expect_problem(409, Code::ModelInUse);
    app.enroll_largest("Tony", &first).await;
    let answer = app.identify(&second).await;
    assert!(answer.faces[0].known);
    let faces = answer.faces.len() as u64;
    let report = app.report_of("bgr", faces).await;
    assert_eq!(report.against[0].agreed, faces, "{:?}", app.disagreements("bgr").await);
    // Another share, and what was counted is kept.
    app.begin_shadow("bgr", json!({"share": 0.5})).await;
    let report = app.report_of("bgr", faces).await;
    assert_eq!((report.share, report.against[0].faces), (Some(0.5), faces));

    // A promotion finds the embeddings done.
    let job = app.promote("bgr").await;
    let result = job.result.unwrap();
    assert_eq!((&result["model"], &result["embedded"]), (&json!("bgr"), &json!(0)));
    let entry = app.model("bgr").await.entry;
    assert_eq!((entry.state.as_str(), entry.is_secondary, entry.shadow), ("active", false, None));
    // The former model in the shadow of the one that followed it; a rollback to another model ends it.
    app.begin_shadow("sface-128", json!({"share": 1.0})).await;
    let answer = app.identify(&second).await;
    assert_eq!((answer.model.as_str(), answer.faces[0].known), ("bgr", true));
    app.report_of("sface-128", faces).await;
    assert_eq!(app.roll_back().await.state, JobState::Succeeded);
    assert_eq!(app.model("sface-128").await.entry.shadow, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn the_command_line_tries_a_model_in_the_shadow() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let photo = photos::lfw("Tony_Blair", 1);
    import(&app, "0.999").await;
    app.enroll_largest("Tony", &photo).await;
    let run = |arguments: &[&str]| {
        let output =
            faceid().args(["models", "shadow"]).args(arguments).args(["--server", &server.url]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (done, said, error) = run(&["begin", "bgr", "--share", "1"]);
    assert!(done && said.contains("1 faces were embedded"), "{said}{error}");
    // Of an enrolled photo itself; a stranger to the candidate all the same.
    let photo = photos::lfw("Tony_Blair", 2);
    let faces = app.identify(&photo).await.faces.len() as u64;
    app.report_of("bgr", faces).await;
    let (done, said, error) = run(&["show", "bgr"]);
    assert!(done && said.contains("asked about 100 %") && said.contains("only_active"), "{said}{error}");
    let (done, said, _) = run(&["show", "bgr", "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert!(done && shown["disagreements"][0]["by_active"]["subject"] == "Tony", "{said}");
    assert!(run(&["end", "bgr"]).0);
    let (done, _, error) = run(&["end", "bgr"]);
    assert!(!done && error.contains("not in the shadow"), "{error}");
}
