//! What the tests share: one server in this process, a gallery of its own for each test, and servers as processes
//! of their own for tests that change how a server runs.

pub mod certificates;
pub mod models;
pub mod onnx;
pub mod photos;
pub mod process;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use faceid::app::App;
use faceid::config::{Config, Settings};
use faceid::http::{AppState, Code, Problem, router, serve};
use faceid::service::StartProgress;
use faceid::service::answers::Enrolled;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Removes the data folder after our end: statics are never dropped, so a `TempDir` in one would stay.
const REAPER: &str = r#"read -r _; while [ -e "$1/postgres/postmaster.pid" ]; do sleep 0.1; done; rm -rf "$1""#;

/// The server of this process, with the pipe on which its reaper waits.
struct Shared {
    url: String,
    _reaper: Child,
}

static SHARED: LazyLock<Shared> = LazyLock::new(start_shared);

/// Starts a server on a thread with a runtime of its own, as each test's runtime ends with its test.
fn start_shared() -> Shared {
    let data_dir = tempfile::Builder::new().prefix("faceid-it-").tempdir().unwrap().keep();
    let reaper = Command::new("/bin/sh")
        .args(["-c", REAPER, "faceid-it-reaper"])
        .arg(&data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let config = config(data_dir);
    let (started, url) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut app = App::start(&config, &StartProgress::default())
                .await
                .unwrap_or_else(|error| panic!("the server did not start: {error}"));
            app.work_on_jobs(&faceid::jobs::Lane::ALL);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let state = AppState::new(app.services.clone(), &config.http);
            serve(listener, router(state), &config.http, std::future::pending()).await;
        });
    });
    Shared { url: url.recv().expect("the server of the tests started"), _reaper: reaper }
}

/// Of a server in this process.
pub fn config(data_dir: PathBuf) -> Config {
    let settings = Settings { data_dir: Some(data_dir), ..settings() };
    let mut config = settings.into_config().unwrap();
    // This program is that of the tests.
    config.models.trial.program = env!("CARGO_BIN_EXE_faceid").into();
    config
}

/// What `make setup` made, wherever the environment says it is.
fn settings() -> Settings {
    Settings {
        weights_dir: Some(made_by_setup("FACEID_WEIGHTS_DIR", "weights")),
        postgres_dir: Some(made_by_setup("FACEID_POSTGRES_DIR", "postgres")),
        max_requests: Some(1024),
        ..Settings::default()
    }
}

/// The folder that a variable names, else the link that `make setup` made in the checkout.
pub fn made_by_setup(variable: &str, link: &str) -> PathBuf {
    let linked = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".deps").join(link);
    std::env::var_os(variable).map_or_else(linked, PathBuf::from)
}

/// A client of a running server, working in a gallery of its own.
pub struct TestApp {
    pub client: Client,
    pub url: String,
    pub gallery: String,
}

impl TestApp {
    /// The server of this process, with a new gallery.
    pub async fn start() -> Self {
        let url = tokio::task::spawn_blocking(|| SHARED.url.clone()).await.unwrap();
        Self::at(url).await
    }

    /// A running server, with a new gallery.
    pub async fn at(url: String) -> Self {
        let gallery = format!("test-{}", uuid::Uuid::now_v7());
        let app = Self { client: Client::new(), url, gallery };
        let created = app.send(app.request(Method::POST, "/galleries").json(&json!({"name": app.gallery}))).await;
        created.expect(StatusCode::CREATED);
        app
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status();
        let media_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let headers = response.headers().clone();
        Answer { status, media_type, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post_form(&self, path: &str, form: Form) -> Answer {
        self.send(self.request(Method::POST, path).multipart(form)).await
    }

    /// Posts one photo as a form, in the test's gallery where the route has one; the answer is a success.
    pub async fn post_photo(&self, path: &str, photo: &[u8]) -> Answer {
        let mut form = Form::new().part("image", part(photo));
        if path.starts_with("/identify") {
            form = form.text("gallery", self.gallery.clone());
        }
        let answer = self.post_form(path, form).await;
        answer.expect(StatusCode::OK);
        answer
    }

    /// The form of POST /enroll, to which a test adds what it is about.
    pub fn enroll_form(&self, subject: &str, photo: &[u8]) -> Form {
        Form::new()
            .text("subject", subject.to_owned())
            .text("gallery", self.gallery.clone())
            .text("face", "largest")
            .part("image", part(photo))
    }

    /// Enrolls the first `each` photos of the first `people` of lfw100; all their photos.
    pub async fn enroll_people(&self, people: usize, each: usize) -> Vec<(String, Vec<PathBuf>)> {
        let mut all = photos::people(&photos::folder("lfw100"));
        all.truncate(people);
        for (person, files) in &all {
            for file in &files[..each] {
                self.enroll_largest(person, &photos::read(file)).await;
            }
        }
        all
    }

    /// Enrolls the largest face of a photo, whatever it is worth.
    pub async fn enroll_largest(&self, subject: &str, photo: &[u8]) -> Enrolled {
        let form = self.enroll_form(subject, photo).text("quality", "any");
        let answer = self.post_form("/enroll", form).await;
        answer.expect(StatusCode::CREATED);
        answer.json()
    }
}

/// Tries again and again until something comes of it, for so long at most.
pub async fn eventually<T>(within: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What `/metrics` says of a series; 0 if nothing.
pub async fn metric(app: &TestApp, series: &str) -> f64 {
    let text = app.get("/metrics").await.text();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}

pub fn part(bytes: &[u8]) -> Part {
    Part::bytes(bytes.to_vec()).file_name("photo.jpg")
}

/// An answer that has arrived.
pub struct Answer {
    pub status: StatusCode,
    pub media_type: Option<String>,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn expect(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}", self.text());
    }

    /// The answer is the problem `code` with `status`, in the one shape that problems have.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: Code) -> Problem {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.media_type.as_deref(), Some("application/problem+json"), "{}", self.text());
        let problem: Problem = self.json();
        assert_eq!((problem.status, problem.code), (status, code), "{}", self.text());
        assert!(!problem.detail.is_empty());
        problem
    }

    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn value(&self) -> Value {
        self.json()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
