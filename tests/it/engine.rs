//! The engine from outside: load, callers who leave, metrics, devices, `faceid bench`.

use std::process::Output;

use faceid::http::Code;
use faceid::service::answers::{Detected, Embedded, Identified};
use image::{ImageFormat, RgbImage};
use reqwest::header::RETRY_AFTER;
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, metric, part, photos};

/// A photo of nobody, unlike others in size, so that it has a pass of its own.
fn scenery(n: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(600 + n, 400 + n, |x, y| image::Rgb([(x / 3) as u8, (y / 2) as u8, (x + y) as u8]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

#[tokio::test]
async fn what_is_too_much_is_refused_at_once_and_the_rest_is_answered() {
    let data_dir = data_dir();
    let server = Server::start(data_dir.path(), &["--threads", "1", "--max-requests", "2"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let requests = (0..30).map(|n| app.post_form("/detect", Form::new().part("image", part(&scenery(n)))));
    let answers = futures_util::future::join_all(requests).await;
    let (mut accepted, mut refused) = (0, 0);
    for answer in &answers {
        if answer.status == StatusCode::OK {
            accepted += 1;
        } else {
            answer.expect_problem(503, Code::Overloaded);
            assert!(answer.headers.contains_key(RETRY_AFTER));
            refused += 1;
        }
    }
    assert!(accepted >= 2 && refused > 0, "{accepted} accepted, {refused} refused");
    let counted: f64 = metric(&app, r#"faceid_rejected_total{at="door"}"#).await
        + metric(&app, r#"faceid_rejected_total{at="service"}"#).await;
    assert_eq!(counted as usize, refused);
    app.post_photo("/detect", &scenery(0)).await;
    assert_eq!(metric(&app, "faceid_requests_in_work").await, 0.0);
}

#[tokio::test]
async fn a_client_who_leaves_costs_no_inference_that_has_not_begun() {
    const PHOTOS: u32 = 40;
    let data_dir = data_dir();
    let server = Server::start(data_dir.path(), &["--threads", "1", "--max-requests", "100"]).await;
    let app = TestApp::at(server.url.clone()).await;
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..PHOTOS {
        let request = app.request(Method::POST, "/detect").multipart(Form::new().part("image", part(&scenery(n))));
        requests.spawn(async move { request.send().await.unwrap().status() });
    }
    assert_eq!(requests.join_next().await.unwrap().unwrap(), StatusCode::OK);
    requests.shutdown().await;
    // When the server has nothing left to do, it answers somebody else, and everything is counted.
    while metric(&app, "faceid_requests_in_work").await > 0.0 {
        tokio::task::yield_now().await;
    }
    app.post_photo("/detect", &scenery(PHOTOS)).await;
    let images = metric(&app, r#"faceid_batch_size_sum{network="detect"}"#).await;
    let dropped = metric(&app, r#"faceid_dropped_total{reason="abandoned"}"#).await;
    assert!(images < f64::from(PHOTOS), "{images} of {PHOTOS} photos were looked at");
    assert!(dropped > 0.0);
}

#[tokio::test]
async fn metrics_tell_of_requests_stages_and_batches() {
    let app = TestApp::start().await;
    app.post_photo("/detect", &scenery(0)).await;
    let answer = app.get("/metrics").await;
    assert!(answer.media_type.as_deref().unwrap().starts_with("text/plain"));
    let text = answer.text();
    for series in [
        r#"faceid_http_requests_total{route="/detect",method="POST",status="200"}"#,
        r#"faceid_http_request_seconds_bucket{route="/detect",le="+Inf"}"#,
        r#"faceid_stage_seconds_count{stage="decode"}"#,
        r#"faceid_stage_seconds_count{stage="detect"}"#,
        r#"faceid_stage_seconds_count{stage="align"}"#,
        r#"faceid_queue_wait_seconds_count{stage="detect"}"#,
        r#"faceid_batch_size_count{network="detect"}"#,
        r#"faceid_queue_depth{stage="embed"}"#,
        "faceid_engine_info{",
        "faceid_async_tasks ",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(series), "no {series} in\n{text}");
    }
    // The names of people and galleries are no labels.
    assert!(!text.contains(&app.gallery));
}

#[tokio::test]
async fn metrics_need_a_key_where_there_is_one() {
    let data_dir = data_dir();
    let keys = ["--client-key", "client-key-0123456", "--admin-key", "admin-key-01234567"];
    let server = Server::start(data_dir.path(), &keys).await;
    let client = reqwest::Client::new();
    let get = |key: Option<&'static str>| {
        let request = client.get(format!("{}/metrics", server.url));
        key.map_or_else(|| client.get(format!("{}/metrics", server.url)), |key| request.header("x-api-key", key)).send()
    };
    assert_eq!(get(None).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(get(Some("client-key-0123456")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn only_the_largest_faces_are_looked_at_if_asked() {
    let folder = photos::folder("scenes");
    let app = TestApp::start().await;
    let photo = photos::read(&folder.join("016_8.jpg"));
    let all: Detected = app.post_photo("/detect", &photo).await.json();
    assert_eq!(all.faces.len(), 8);
    let two: Detected = app.post_photo("/detect?max_faces=2", &photo).await.json();
    assert_eq!(two.faces.len(), 2);
    for (one, other) in two.faces.iter().zip(&all.faces) {
        assert_eq!(one.face.bounding_box.x, other.face.bounding_box.x);
    }
    let embedded: Embedded = app.post_photo("/embed?max_faces=1", &photo).await.json();
    assert_eq!(embedded.faces.len(), 1);
    let identified: Identified = app.post_photo("/identify?max_faces=3", &photo).await.json();
    assert_eq!(identified.faces.len(), 3);
    for bad in ["0", "-1", "many"] {
        let form = Form::new().part("image", part(&photo)).text("max_faces", bad);
        app.post_form("/identify", form).await.expect_problem(422, Code::InvalidField);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    faceid().args(arguments).output().unwrap()
}

#[test]
fn a_gpu_that_is_not_there_is_a_clear_error() {
    let data_dir = data_dir();
    let folder = data_dir.path().to_str().unwrap();
    for flag in ["--device", "--search-device"] {
        let gpu = ["serve", flag, "cuda", "--cuda-libraries", "/no/such/folder"];
        let output = run(&[&gpu[..], &["--bind", "127.0.0.1:0", "--data-dir", folder]].concat());
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(&format!("{flag} cuda: CUDA is not available")), "{error}");
    }
    for (flag, value) in [("--device", "gpu"), ("--precision", "int8")] {
        assert_eq!(run(&["serve", flag, value]).status.code(), Some(2), "{flag} {value}");
    }
}

#[test]
#[ignore = "needs the test photos"]
fn bench_measures_without_server_or_database() {
    let output =
        run(&["bench", "--json", "--seconds", "0.05", "--batches", "1,2", "--size", "64x48", "--threads", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    let of = |stage: &str| results.iter().filter(|result| result["stage"] == stage).count();
    assert_eq!((of("detect"), of("embed"), results.len()), (2, 2, 4), "{report}");
    assert!(results.iter().all(|result| result["items_per_second"].as_f64().unwrap() > 0.0), "{report}");
    let output = run(&["bench", "--stages", "pipeline"]);
    assert!(!output.status.success() && text(&output.stderr).contains("--photos"), "{}", text(&output.stderr));
    let folder = photos::folder("lfw100");
    let photos = photos::files(&folder).swap_remove(0);
    let output = run(&["bench", "--seconds", "0.2", "--batches", "1", "--photos", photos.to_str().unwrap()]);
    let table = text(&output.stdout);
    for stage in ["decode", "detect", "align", "embed", "pipeline"] {
        assert!(table.contains(stage), "{table}{}", text(&output.stderr));
    }
}
