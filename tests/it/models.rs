//! Another embedder takes over: everyone who was enrolled is still known, without any photo.

use faceid::service::answers::{AuditEntry, Identified, ModelEntry, Page};
use reqwest::Client;
use reqwest::multipart::Form;

use crate::support::models::other_weights;
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, made_by_setup, part, photos};

async fn states(app: &TestApp) -> Vec<(String, String)> {
    let models: Vec<ModelEntry> = app.get("/admin/models").await.json();
    models.into_iter().map(|model| (model.name, model.state)).collect()
}

fn expected(states: [(&str, &str); 2]) -> Vec<(String, String)> {
    states.map(|(name, state)| (name.to_owned(), state.to_owned())).into()
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn enrolled_faces_follow_to_another_embedder() {
    let (first, second) = (photos::lfw("Tony_Blair", 1), photos::lfw("Tony_Blair", 2));
    let (data, weights) = (data_dir(), data_dir());
    let embedder = weights.path().join("other.onnx");
    std::fs::write(&embedder, other_weights()).unwrap();
    let mut server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    app.enroll_largest("Tony", &first).await;
    server.terminate();
    assert!(server.ended().await.success());

    let embedder = embedder.to_str().unwrap();
    let arguments = ["serve", "--bind", "127.0.0.1:0", "--embedder", embedder, "--data-dir"];
    let refused = faceid().args(arguments).arg(data.path()).output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && message.contains("other.toml"), "{message}");

    // What the database has not seen is promoted while the former model answers.
    std::fs::write(weights.path().join("other.toml"), "name = \"other\"\nthreshold = 0.35\n").unwrap();
    let mut server = Server::start(data.path(), &["--embedder", embedder]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery };
    app.until_answers("other").await;
    let answer: Identified = app.post_photo("/identify", &second).await.json();
    assert_eq!((answer.model.as_str(), answer.threshold), ("other", 0.35));
    let best = &answer.faces[0].matches[0];
    assert!(answer.faces[0].known && best.subject == "Tony" && best.probability.is_none(), "{best:?}");
    assert_eq!(states(&app).await, expected([("mobilefacenet-512", "former"), ("other", "active")]));
    server.terminate();
    assert!(server.ended().await.success());

    // What was active before is left alone: the database's word counts, and its file is in the store.
    std::fs::remove_file(embedder).unwrap();
    let bundled = made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("mobilefacenet-512.onnx");
    let copy = weights.path().join("copy.onnx");
    std::fs::copy(bundled, &copy).unwrap();
    for arguments in [vec![], vec!["--embedder", copy.to_str().unwrap()]] {
        let mut server = Server::start(data.path(), &arguments).await;
        let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery.clone() };
        let answer: Identified = app.post_photo("/identify", &second).await.json();
        assert_eq!((answer.model.as_str(), answer.faces[0].known), ("other", true));
        assert_eq!(states(&app).await, expected([("mobilefacenet-512", "former"), ("other", "active")]));
        server.terminate();
        assert!(server.ended().await.success());
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_model_without_figures_is_measured_on_enrolled_faces_before_it_answers() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let people = app.enroll_people(10, 3).await;
    app.import_bgr().await;
    let manifest = app.model("bgr").await.manifest.unwrap();
    assert!(manifest["probability"].is_null() && manifest["fmr"].is_null(), "{manifest}");
    app.promote("bgr").await;
    let manifest = app.model("bgr").await.manifest.unwrap();
    // What was said stays.
    assert!((manifest["threshold"].as_f64().unwrap() - 0.4).abs() < 1e-6, "{manifest}");
    let rates: Vec<f64> = manifest["fmr"].as_array().unwrap().iter().map(|it| it["rate"].as_f64().unwrap()).collect();
    assert!(rates.starts_with(&[0.1, 0.01]) && rates.is_sorted_by(|a, b| a > b), "{rates:?}");
    let form = Form::new().part("image", part(&photos::read(&people[0].1[4]))).text("gallery", app.gallery.clone());
    let answer: Identified = app.post_form("/identify", form.text("fmr", "0.01")).await.json();
    let best = &answer.faces[0].matches[0];
    assert!(answer.model == "bgr" && best.subject == people[0].0 && best.probability.unwrap() > 0.9, "{best:?}");
    let audit: Page<AuditEntry> = app.get("/admin/audit").await.json();
    assert!(audit.items.iter().any(|entry| entry.action == "model.calibrate"), "{audit:?}");
}
