//! Another embedder takes over: everyone who was enrolled is still known, without any photo.

use faceid::service::answers::{Identified, ModelEntry};
use reqwest::Client;

use crate::support::models::other_weights;
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, made_by_setup, photos};

async fn states(app: &TestApp) -> Vec<(String, String)> {
    let models: Vec<ModelEntry> = app.get("/admin/models").await.json();
    models.into_iter().map(|model| (model.name, model.state)).collect()
}

fn expected(states: [(&str, &str); 2]) -> Vec<(String, String)> {
    states.map(|(name, state)| (name.to_owned(), state.to_owned())).into()
}

#[tokio::test]
async fn enrolled_faces_follow_to_another_embedder() {
    let (Some(first), Some(second)) = (photos::lfw("Tony_Blair", 1), photos::lfw("Tony_Blair", 2)) else { return };
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
