//! Another embedder takes over: everyone who was enrolled is still known, without any photo. A file of it may take long to
//! arrive.

use std::time::Duration;

use faceid::http::Code;
use faceid::service::answers::{AuditEntry, Identified, ModelEntry, Page};
use futures_util::{StreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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

/// A file in 20 pieces, with a pause before each.
fn slowly(file: &[u8], pause: Duration) -> Body {
    let pieces: Vec<Vec<u8>> = file.chunks(file.len() / 20 + 1).map(<[u8]>::to_vec).collect();
    Body::wrap_stream(stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(piece)
    }))
}

/// A port that leads to a server, at so many bytes a second upwards.
async fn narrow(server: &Server, bytes_per_second: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = server.url.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; bytes_per_second / 20];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    to_server.write_all(&buffer[..read]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    url
}

/// The time for a request is four seconds; each file takes ten to arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_may_take_as_long_as_it_keeps_coming() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--request-timeout", "4"]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let pause = Duration::from_millis(500);
    let as_form = async |file: &[u8], name: &'static str| {
        let part = Part::stream(slowly(file, pause)).file_name("model.onnx");
        app.post_form("/admin/models", Form::new().part("file", part).text("name", name).text("threshold", "0.4")).await
    };
    let raw = async |file: Body, name: &str| {
        let request = app.request(Method::POST, "/admin/models").query(&[("name", name), ("threshold", "0.4")]);
        app.send(request.header("content-type", "application/octet-stream").body(file)).await
    };
    let other = other_weights();
    let file = server_file("cli.onnx", &[other.as_slice(), b"\x1a\x03cli"].concat());
    let url = narrow(&server, other.len() / 10).await;
    let mut import = tokio::process::Command::from(faceid());
    import.args([
        "models",
        "import",
        file.1.to_str().unwrap(),
        "--name",
        "cli",
        "--threshold",
        "0.4",
        "--server",
        &url,
    ]);
    // Files are held while they arrive, and one of the largest at a time: these are small.
    let (form, raw_file, stalled, imported) = tokio::join!(
        as_form(&other, "form"),
        raw(slowly(&[other.as_slice(), b"\x1a\x03raw"].concat(), pause), "raw"),
        raw(slowly(&other, Duration::from_secs(9)), "stalled"),
        import.output(),
    );
    form.expect(StatusCode::CREATED);
    raw_file.expect(StatusCode::CREATED);
    stalled.expect_problem(408, Code::RequestTimeout);
    let imported = imported.unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let mut names: Vec<String> = states(&app).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["cli", "form", "mobilefacenet-512", "raw"]);
}

/// A folder with a file in it.
fn server_file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = data_dir();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}
