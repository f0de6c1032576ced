//! Another embedder takes over: everyone who was enrolled is still known, without any photo.

use faceid::service::answers::{Identified, ModelEntry};
use reqwest::Client;

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, made_by_setup, photos};

/// MobileFaceNet-512 as another file: a protobuf may say a field again, here the version of its producer.
fn other_weights() -> Vec<u8> {
    let mut bytes = photos::read(&made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("mobilefacenet-512.onnx"));
    bytes.extend(b"\x1a\x05other");
    bytes
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
    let refused = faceid().args(["serve", "--embedder", embedder, "--data-dir"]).arg(data.path()).output().unwrap();
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && message.contains("other.toml"), "{message}");

    std::fs::write(weights.path().join("other.toml"), "name = \"other\"\nthreshold = 0.35\n").unwrap();
    let server = Server::start(data.path(), &["--embedder", embedder]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery };
    let answer: Identified = app.post_photo("/identify", &second).await.json();
    assert_eq!((answer.model.as_str(), answer.threshold), ("other", 0.35));
    let best = &answer.faces[0].matches[0];
    assert!(answer.faces[0].known && best.subject == "Tony" && best.probability.is_none(), "{best:?}");
    let models: Vec<ModelEntry> = app.get("/admin/models").await.json();
    let states: Vec<_> = models.iter().map(|model| (model.name.as_str(), model.state.as_str())).collect();
    assert_eq!(states, [("mobilefacenet-512", "retired"), ("other", "active")]);
}
