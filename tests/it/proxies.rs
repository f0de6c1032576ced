//! A server behind a proxy: below a path, with times and traces.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use faceid::http::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};

use crate::datasets::zipped;
use crate::openapi::links;
use crate::support::process::{Server, data_dir, faceid, free_port};
use crate::support::{Answer, TestApp, eventually};

#[tokio::test]
async fn all_routes_answer_below_the_base_path() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--base-path", "/faces"]).await;
    // Creates a gallery.
    let app = TestApp::at(format!("{}/faces", server.url)).await;
    app.get(&format!("/galleries/{}", app.gallery)).await.expect(StatusCode::OK);
    let above = TestApp { client: app.client.clone(), url: server.url.clone(), gallery: app.gallery.clone() };
    for probe in ["/healthz", "/readyz"] {
        app.get(probe).await.expect(StatusCode::OK);
        above.get(probe).await.expect(StatusCode::OK);
    }
    for beside in ["/galleries", "/metrics", "/openapi.json", "/docs/", "/", "/facesx/galleries"] {
        above.get(beside).await.expect_problem(404, Code::RouteNotFound);
    }
    // Routes are counted by what they are called without it.
    assert!(app.get("/metrics").await.text().contains("route=\"/galleries/{gallery}\""));

    let document = app.get("/openapi.json").await.value();
    assert_eq!(document["servers"], serde_json::json!([{"url": "/faces"}]));
    let archive = zipped(&[("Ada/1.png".to_owned(), b"\x89PNG\r\n\x1a\n and so on".to_vec())]);
    let answer = app.upload(archive).await;
    answer.expect(StatusCode::ACCEPTED);
    let location = answer.headers["location"].to_str().unwrap();
    assert!(location.starts_with("/faces/admin/jobs/"), "{location}");
    above.get(location).await.expect(StatusCode::OK);

    let health = faceid().args(["health", "--server", &app.url]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
}

#[tokio::test]
async fn pages_lead_to_pages_below_the_base_path() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--base-path", "/on/faces"]).await;
    let client = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    for (from, to) in [
        ("/on/faces", "/on/faces/docs/"),
        ("/on/faces/docs", "/on/faces/docs/"),
        ("/on/faces/docs/api", "/on/faces/docs/api/"),
    ] {
        let answer = client.get(format!("{}{from}", server.url)).send().await.unwrap();
        assert!(answer.status().is_redirection());
        assert_eq!(answer.headers()["location"], to);
    }
    let contents = Url::parse(&format!("{}/on/faces/docs/", server.url)).unwrap();
    let (mut waiting, mut seen) = (vec![contents], HashSet::new());
    while let Some(page) = waiting.pop() {
        assert!(page.path().starts_with("/on/faces/"), "{page}");
        if !seen.insert(page.path().to_owned()) {
            continue;
        }
        let answer = client.get(page.clone()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{page}");
        let is_page = page.path().starts_with("/on/faces/docs/") && !page.path().contains('.');
        if is_page && !page.path().ends_with("/api/") {
            waiting.extend(links(&answer.text().await.unwrap()).iter().map(|link| page.join(link).unwrap()));
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    let script = format!("{}/on/faces/docs/api/swagger-initializer.js", server.url);
    let script = client.get(script).send().await.unwrap().text().await.unwrap();
    assert!(script.contains("\"../../openapi.json\""), "{script}");
}

#[test]
fn what_is_no_base_path_is_refused_at_the_start() {
    for wrong in ["faces", "/faces/", "/a/../b"] {
        let output = faceid().args(["serve", "--print-config", "--base-path", wrong]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("one such as /faces is expected"), "{said}");
    }
}

fn milliseconds(answer: &Answer, name: &str) -> f64 {
    let text = answer.headers[name].to_str().unwrap();
    assert_eq!(text.split_once('.').unwrap().1.len(), 3, "{text}");
    text.parse().unwrap()
}

#[tokio::test]
async fn answers_say_how_long_they_took() {
    let app = TestApp::start().await;
    let image = image::RgbImage::from_fn(120, 90, |x, y| image::Rgb([x as u8, y as u8, (x + y) as u8]));
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let request = app.request(Method::POST, "/detect").header("content-type", "image/png").body(png.into_inner());
    let answer = app.send(request).await;
    answer.expect(StatusCode::OK);
    let [total, queue, inference] =
        ["x-total-time", "x-queue-time", "x-inference-time"].map(|name| milliseconds(&answer, name));
    // Its images wait, and are looked at, one after the other or together.
    assert!(inference > 0.0 && total > 0.0 && queue >= 0.0, "{total} {queue} {inference}");

    let answer = app.get("/healthz").await;
    assert!(milliseconds(&answer, "x-total-time") >= 0.0);
    assert!(!answer.headers.contains_key("x-queue-time") && !answer.headers.contains_key("x-inference-time"));
    // Refusals have it as well.
    milliseconds(&app.get("/no-such-route").await, "x-total-time");
}

#[tokio::test]
async fn the_trace_of_a_caller_is_in_the_log() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let data = data_dir();
    let log = data.path().join("log");
    let bind = format!("127.0.0.1:{}", free_port());
    let mut child = faceid()
        .args(["serve", "--log", "info", "--log-format", "json", "--bind", &bind, "--data-dir"])
        .arg(data.path())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let client = reqwest::Client::new();
    let get = async |path: &str, trace: &str| {
        client.get(format!("http://{bind}{path}")).header("traceparent", trace).send().await.ok()
    };
    let within = Duration::from_secs(60);
    let broken = format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase());
    eventually(within, "the server answers", async || get("/healthz", &broken).await).await;
    let answer = get("/no-such-route", &format!("00-{TRACE}-00f067aa0ba902b7-01")).await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let line = eventually(within, "the request is logged", async || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.lines().find(|line| line.contains(&id)).map(str::to_owned)
    })
    .await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
    assert!(!std::fs::read_to_string(&log).unwrap().contains(&TRACE.to_uppercase()));
}
