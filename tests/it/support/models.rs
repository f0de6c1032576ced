//! Models to promote, made of the one that `make setup` brings.

use std::time::{Duration, Instant};

use faceid::jobs::JobState;
use faceid::service::answers::{Job, ModelDetails, ModelEntry, Page};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, TestApp, made_by_setup, photos};

/// How long a promotion may take. Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(300);

/// The bundled embedder's file.
pub fn bundled() -> Vec<u8> {
    photos::read(&made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("sface-128.onnx"))
}

/// The same network as another file: a protobuf may say a field again, here the version of its producer.
pub fn other_weights() -> Vec<u8> {
    let mut bytes = bundled();
    bytes.extend(b"\x1a\x05other");
    bytes
}

/// A form that imports a file.
pub fn model_form(file: Vec<u8>) -> Form {
    Form::new().part("file", Part::bytes(file).file_name("model.onnx"))
}

impl TestApp {
    /// Imports a model that sees red as blue, so that its embeddings are unlike those of the bundled one.
    pub async fn import_bgr(&self) -> ModelEntry {
        let form = model_form(other_weights()).text("name", "bgr").text("threshold", "0.4").text("channels", "bgr");
        let form = form.text("mean", "0").text("scale", "1");
        let answer = self.post_form("/admin/models", form).await;
        answer.expect(StatusCode::CREATED);
        answer.json()
    }

    /// Imports the bundled network with a description by which it is worthless: it sees black only.
    pub async fn import_nonsense(&self) {
        let form = model_form(other_weights()).text("name", "nonsense").text("threshold", "0.423");
        let answer = self.post_form("/admin/models", form).await;
        answer.expect(StatusCode::CREATED);
    }

    pub async fn post_json(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn promote(&self, model: &str) -> Job {
        let answer = self.post_json(&format!("/admin/models/{model}/promote"), json!({})).await;
        answer.expect(StatusCode::ACCEPTED);
        self.finished(answer.json()).await
    }

    pub async fn roll_back(&self) -> Job {
        let answer = self.post_json("/admin/rollback", json!({})).await;
        answer.expect(StatusCode::ACCEPTED);
        self.finished(answer.json()).await
    }

    /// Waits until a job is finished.
    pub async fn finished(&self, mut job: Job) -> Job {
        let began = Instant::now();
        while !job.state.is_final() {
            assert!(began.elapsed() < PATIENCE, "{job:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            job = self.get(&format!("/admin/jobs/{}", job.id)).await.json();
        }
        job
    }

    /// Retires a model, and returns what the job that deletes it did.
    pub async fn retire(&self, model: &str, force: bool) -> Value {
        let answer = self.post_json(&format!("/admin/models/{model}/retire"), json!({"force": force})).await;
        answer.expect(StatusCode::ACCEPTED);
        let job = self.finished(answer.json()).await;
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        job.result.unwrap()
    }

    /// The jobs that somebody asked for, newest first.
    pub async fn jobs(&self) -> Vec<Job> {
        let listed: Page<Job> = self.get("/admin/jobs").await.json();
        listed.items.into_iter().filter(|job| !job.recurring).collect()
    }

    pub async fn model(&self, model: &str) -> ModelDetails {
        self.get(&format!("/admin/models/{model}")).await.json()
    }

    /// The model that answers.
    pub async fn answering(&self) -> String {
        self.get("/readyz").await.value()["model"].as_str().unwrap().to_owned()
    }

    /// Waits until a model answers here.
    pub async fn until_answers(&self, model: &str) {
        let began = Instant::now();
        while self.answering().await != model {
            assert!(began.elapsed() < PATIENCE, "{model} does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
