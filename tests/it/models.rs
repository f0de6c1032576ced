//! Another embedder takes over: everyone who was enrolled is still known, without any photo. A file of it may take long to
//! arrive.

use std::time::Duration;

use faceid::http::Code;
use faceid::jobs::JobState;
use faceid::service::answers::{AuditEntry, Identified, Job, ModelEntry, Page};
use futures_util::{StreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::models::{bundled, model_form, other_weights};
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, eventually, made_by_setup, part, photos};

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
    std::fs::write(weights.path().join("other.toml"), "name = \"other\"\nmean = 0\nscale = 1\nthreshold = 0.35\n")
        .unwrap();
    let mut server = Server::start(data.path(), &["--embedder", embedder]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery };
    app.until_answers("other").await;
    let answer: Identified = app.post_photo("/identify", &second).await.json();
    assert_eq!((answer.model.as_str(), answer.threshold), ("other", 0.35));
    let best = &answer.faces[0].matches[0];
    assert!(answer.faces[0].known && best.subject == "Tony" && best.probability.is_none(), "{best:?}");
    assert_eq!(states(&app).await, expected([("sface-128", "former"), ("other", "active")]));
    server.terminate();
    assert!(server.ended().await.success());

    // What was active before is left alone: the database's word counts, and its file is in the store.
    std::fs::remove_file(embedder).unwrap();
    let bundled = made_by_setup("FACEID_WEIGHTS_DIR", "weights").join("sface-128.onnx");
    let copy = weights.path().join("copy.onnx");
    std::fs::copy(bundled, &copy).unwrap();
    for arguments in [vec![], vec!["--embedder", copy.to_str().unwrap()]] {
        let mut server = Server::start(data.path(), &arguments).await;
        let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery.clone() };
        let answer: Identified = app.post_photo("/identify", &second).await.json();
        assert_eq!((answer.model.as_str(), answer.faces[0].known), ("other", true));
        assert_eq!(states(&app).await, expected([("sface-128", "former"), ("other", "active")]));
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
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=model").await.json();
    assert!(audit.items.iter().any(|entry| entry.action == "model.calibrate"), "{audit:?}");
}

#[tokio::test]
async fn importing_the_file_of_a_known_model_changes_nothing_of_it() {
    let (data, files) = (data_dir(), data_dir());
    let server = Server::start(data.path(), &[]).await;
    let app = TestApp::at(server.url.clone()).await;
    let known = async |model: &str| app.get(&format!("/admin/models/{model}")).await.value();
    let import = async |file: Vec<u8>, fields: &[(&'static str, &'static str)]| {
        let form = fields.iter().fold(model_form(file), |form, (name, value)| form.text(*name, *value));
        app.post_form("/admin/models", form).await
    };
    let before = known("sface-128").await;
    let toml = "name = \"sface-128\"\nmean = 0\nscale = 1\nthreshold = 0.423\n";
    for agrees in [
        &[][..],
        &[("name", "sface-128")][..],
        &[("threshold", "0.423"), ("channels", "rgb"), ("mean", "0")][..],
        &[("manifest", toml)][..],
    ] {
        let answer = import(bundled(), agrees).await;
        answer.expect(StatusCode::OK);
        assert_eq!(answer.value()["state"], "active", "{}", answer.text());
    }
    let other_toml = "name = \"sface-128\"\nmean = 0\nscale = 1\nthreshold = 0.3\n";
    for (differs, said) in [
        (&[("name", "renamed"), ("threshold", "0.123")][..], "not \"renamed\", its threshold is 0.423, not 0.123"),
        (&[("mean", "127.5")][..], "its mean is 0.0, not 127.5"),
        (&[("scale", "127.5")][..], "its scale is 1.0, not 127.5"),
        (&[("channels", "bgr")][..], "its order of channels is \"rgb\", not \"bgr\""),
        (&[("manifest", other_toml)][..], "its threshold is 0.423, not 0.3"),
    ] {
        let problem = import(bundled(), differs).await.expect_problem(409, Code::ModelExists);
        assert!(problem.detail.contains(said), "{}", problem.detail);
        assert!(problem.detail.contains("once another model is active, retire it and import it again"));
    }
    assert_eq!(known("sface-128").await, before);
    // Beyond the time in which a server would follow.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(app.answering().await, "sface-128");
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=model").await.json();
    assert_eq!(audit.items.iter().filter(|entry| entry.action == "model.import").count(), 1, "{audit:?}");

    // A candidate that was described wrongly is retired and imported again; nothing of the wrong description stays.
    app.import_nonsense().await;
    let right = [("name", "right"), ("threshold", "0.423"), ("mean", "0"), ("scale", "1")];
    let problem = import(other_weights(), &right).await.expect_problem(409, Code::ModelExists);
    assert!(problem.detail.ends_with("to describe it anew, retire it and import it again"), "{}", problem.detail);
    app.retire("nonsense", false).await;
    let answer = import(other_weights(), &right).await;
    answer.expect(StatusCode::CREATED);
    let manifest = &known("right").await["manifest"];
    assert_eq!((&answer.value()["state"], &manifest["scale"]), (&"candidate".into(), &1.0.into()), "{manifest}");

    // The command line goes the same way.
    let file = files.path().join("net.onnx");
    std::fs::write(&file, other_weights()).unwrap();
    let command = |more: &[&str]| {
        let mut command = faceid();
        command.args(["models", "import"]).arg(&file).args(["--server", &app.url]).args(more).output().unwrap()
    };
    let again = command(&[]);
    assert!(again.status.success() && String::from_utf8_lossy(&again.stdout).contains("right"), "{again:?}");
    let refused = command(&["--name", "wrong"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("retire it and import it again"), "{message}");
}

/// Waits until a promotion has ended that the server asked for itself.
async fn configured_promotion(app: &TestApp, model: &str) -> Job {
    let found = eventually(Duration::from_secs(120), "a promotion", async || {
        let jobs: Page<Value> = app.get("/admin/jobs").await.json();
        let is_it = |job: &Value| job["settings"]["name"] == model && job["requested_by"] == "server";
        jobs.items.into_iter().find(is_it)
    })
    .await;
    app.finished(serde_json::from_value(found).unwrap()).await
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_model_that_enrolled_people_show_to_be_worthless_is_promoted_by_force_alone() {
    let (data, weights) = (data_dir(), data_dir());
    let mut server = Server::start(data.path(), &["--background-share", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let people = app.enroll_people(10, 2).await;
    app.import_nonsense().await;
    let refused = app.promote("nonsense").await;
    let error = refused.error.clone().unwrap_or_default();
    assert_eq!(refused.state, JobState::Failed, "{refused:?}");
    for said in [
        "the gate refuses the model nonsense",
        "10 enrolled people",
        "at its threshold of 0.423",
        "`force` promotes it",
    ] {
        assert!(error.contains(said), "{error}");
    }
    let nonsense = app.model("nonsense").await;
    assert_eq!((nonsense.entry.state.as_str(), nonsense.entry.is_secondary), ("candidate", false));
    // What it says of itself is not what those people gave who refused it.
    assert!(nonsense.manifest.unwrap()["fmr"].is_null());
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=promotion").await.json();
    assert!(audit.items.iter().any(|entry| entry.action == "promotion.end"), "{audit:?}");
    let photo = photos::read(&people[0].1[3]);
    let answer: Identified = app.post_photo("/identify", &photo).await.json();
    assert_eq!((answer.model.as_str(), answer.faces[0].known), ("sface-128", true));

    // As the embedder of the configuration it is not promoted either.
    server.terminate();
    assert!(server.ended().await.success());
    let embedder = weights.path().join("nonsense.onnx");
    std::fs::write(&embedder, other_weights()).unwrap();
    let toml = "name = \"nonsense\"\nthreshold = 0.423\n";
    std::fs::write(weights.path().join("nonsense.toml"), toml).unwrap();
    let server = Server::start(data.path(), &["--embedder", embedder.to_str().unwrap()]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: app.gallery };
    let configured = configured_promotion(&app, "nonsense").await;
    assert_eq!(configured.state, JobState::Failed, "{configured:?}");
    assert_eq!(app.answering().await, "sface-128");

    let forced = app.post_json("/admin/models/nonsense/promote", json!({"force": true})).await;
    forced.expect(StatusCode::ACCEPTED);
    let job = app.finished(forced.json()).await;
    let result = job.result.clone().unwrap_or_else(|| panic!("{job:?}"));
    assert_eq!((&result["gate"], &result["enrolled"]), (&"not_evaluated".into(), &"overruled".into()), "{result}");
    assert!(result["figures"]["fmr"]["low"].as_f64().unwrap() > 0.5, "{result}");
    app.until_answers("nonsense").await;
    let audit: Page<AuditEntry> = app.get("/admin/audit?action=model").await.json();
    let activation = audit.items.iter().find(|entry| entry.action == "model.activate").unwrap();
    assert_eq!((&activation.details["force"], &activation.details["enrolled"]), (&true.into(), &"overruled".into()));
    // Back to what was active before needs no look.
    assert_eq!(app.roll_back().await.result.unwrap()["enrolled"], "not_needed");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_good_model_is_promoted_on_few_people() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--background-share", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    app.enroll_people(10, 3).await;
    let form =
        model_form(other_weights()).text("manifest", "name = \"twin\"\nmean = 0\nscale = 1\nthreshold = 0.423\n");
    app.post_form("/admin/models", form).await.expect(StatusCode::CREATED);
    let job = app.promote("twin").await;
    let result = job.result.clone().unwrap_or_else(|| panic!("{job:?}"));
    assert_eq!((&result["gate"], &result["enrolled"]), (&"not_evaluated".into(), &"passed".into()), "{result}");
    let figures = &result["figures"];
    assert_eq!(
        (&figures["mated"], &figures["genuine_pairs"], &figures["impostor_pairs"]),
        (&10.into(), &30.into(), &405.into())
    );
    assert!(figures["auc"]["value"].as_f64().unwrap() > 0.99, "{figures}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn copies_of_a_photo_are_one_photo() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--background-share", "1"]).await;
    let app = TestApp::at(server.url.clone()).await;
    for _ in 0..3 {
        app.enroll_people(6, 1).await;
    }
    let gallery = app.gallery.as_str();
    app.import_nonsense().await;
    for path in ["/admin/retrain", "/admin/models/nonsense/evaluate"] {
        let refused = app.post_json(path, json!({"gallery": gallery})).await;
        let problem = refused.expect_problem(422, Code::TooFewSubjects);
        assert!(
            problem.detail.contains("12 faces are of a photo that their subject has another face of"),
            "{problem:?}"
        );
    }
    // Nobody has two photos: nothing is measured, and nothing is calibrated.
    let job = app.promote("nonsense").await;
    let result = job.result.clone().unwrap_or_else(|| panic!("{job:?}"));
    assert_eq!((&result["embedded"], &result["enrolled"]), (&18.into(), &"not_evaluated".into()), "{result}");
    assert!(app.model("nonsense").await.manifest.unwrap()["fmr"].is_null());
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
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    url
}

/// The time for a request is 12 seconds, and the same again for its answer; each file takes 28 to arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_may_take_as_long_as_it_keeps_coming() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--request-timeout", "12"]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let pause = Duration::from_millis(1400);
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
    let url = narrow(&server, other.len() / 28).await;
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
        raw(slowly(&other, Duration::from_secs(18)), "stalled"),
        import.output(),
    );
    form.expect(StatusCode::CREATED);
    raw_file.expect(StatusCode::CREATED);
    stalled.expect_problem(408, Code::RequestTimeout);
    let imported = imported.unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let mut names: Vec<String> = states(&app).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["cli", "form", "raw", "sface-128"]);
}

/// A folder with a file in it.
fn server_file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = data_dir();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}
