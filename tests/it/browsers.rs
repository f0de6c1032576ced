//! What pages of other origins may do.

use faceid::http::Code;
use faceid::service::answers::{Page, Subject};
use reqwest::header::HeaderMap;
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{Answer, TestApp};

const ORIGIN: &str = "https://photos.example";
const KEYS: [&str; 4] = ["--client-key", "client-key-0123456", "--admin-key", "admin-key-01234567"];

fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers[name].to_str().unwrap().split(',').map(|word| word.trim().to_lowercase()).collect()
}

async fn preflight(app: &TestApp, origin: &str, path: &str) -> Answer {
    let request = app.request(Method::OPTIONS, path).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    app.send(request.header("access-control-request-headers", "x-api-key,content-type")).await
}

#[tokio::test]
async fn pages_of_named_origins_read_answers_and_refusals() {
    let data = data_dir();
    let arguments = [&KEYS[..], &["--cors-origins", "https://photos.example,http://localhost:5173"]].concat();
    let server = Server::start(data.path(), &arguments).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: String::new() };

    // A browser asks without the key.
    let asked = preflight(&app, ORIGIN, "/identify").await;
    asked.expect(StatusCode::OK);
    assert_eq!(asked.headers["access-control-allow-origin"], ORIGIN);
    assert!(words(&asked.headers, "access-control-allow-methods").contains(&"delete".to_owned()));
    let sent = words(&asked.headers, "access-control-allow-headers");
    for header in ["content-type", "x-api-key", "authorization", "idempotency-key", "if-match", "traceparent"] {
        assert!(sent.contains(&header.to_owned()), "{header}: {sent:?}");
    }
    assert!(asked.headers.contains_key("access-control-max-age"));
    assert!(!asked.headers.contains_key("access-control-allow-credentials"));
    assert!(
        !preflight(&app, "https://evil.example", "/identify").await.headers.contains_key("access-control-allow-origin")
    );

    let key = |request: reqwest::RequestBuilder| request.header("x-api-key", KEYS[1]).header("origin", ORIGIN);
    let answers = [
        (app.send(key(app.request(Method::GET, "/galleries"))).await, None),
        (
            app.send(app.request(Method::GET, "/galleries").header("origin", ORIGIN)).await,
            Some((401, Code::Unauthorized)),
        ),
        (app.send(key(app.request(Method::GET, "/no-such-route"))).await, Some((404, Code::RouteNotFound))),
        (app.send(key(app.request(Method::PUT, "/identify"))).await, Some((405, Code::MethodNotAllowed))),
        (
            app.send(
                key(app.request(Method::POST, "/galleries"))
                    .header("content-type", "application/json")
                    .body(vec![b' '; 2 << 20]),
            )
            .await,
            Some((413, Code::BodyTooLarge)),
        ),
    ];
    for (answer, refusal) in answers {
        match refusal {
            Some((status, code)) => drop(answer.expect_problem(status, code)),
            None => answer.expect(StatusCode::OK),
        }
        assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN, "{}", answer.text());
        let read = words(&answer.headers, "access-control-expose-headers");
        for header in ["x-request-id", "location", "retry-after", "etag", "x-total-time", "x-queue-time"] {
            assert!(read.contains(&header.to_owned()), "{header}: {read:?}");
        }
    }
    let other = app.request(Method::GET, "/healthz").header("origin", "https://evil.example");
    assert!(!app.send(other).await.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn without_the_setting_pages_read_nothing() {
    let app = TestApp::start().await;
    let answer = app.send(app.request(Method::GET, "/healthz").header("origin", ORIGIN)).await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{:?}", answer.headers);
    preflight(&app, ORIGIN, "/identify").await.expect_problem(405, Code::MethodNotAllowed);
}

#[test]
fn what_is_no_origin_is_refused_at_the_start() {
    for (wrong, why) in [
        ("photos.example", "a scheme, a host"),
        ("https://photos.example/", "browsers would write https://photos.example"),
        ("https://photos.example,*", "* stands alone"),
    ] {
        let output = faceid().args(["serve", "--print-config", "--cors-origins", wrong]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why) && said.contains("--cors-origins"), "{said}");
    }
    let folder = data_dir();
    let file = folder.path().join("faceid.toml");
    std::fs::write(&file, "bind = \"127.0.0.1:9000\"\ncors_origins = \"*,*\"\n").unwrap();
    let output = faceid().args(["serve", "--print-config", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("line 2") && said.contains("no origin"), "{said}");
}

#[tokio::test]
async fn pages_of_strangers_change_nothing_at_a_server_without_keys() {
    let data = data_dir();
    let server = Server::start(data.path(), &["--cors-origins", "https://photos.example,chrome-extension://abc"]).await;
    let app = TestApp { client: reqwest::Client::new(), url: server.url.clone(), gallery: "default".to_owned() };
    // A form, which browsers send without asking.
    let create = async |name: &str, headers: &[(&str, &str)]| {
        let mut request = app.request(Method::POST, "/subjects");
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        app.send(request.multipart(Form::new().text("name", name.to_owned()))).await
    };
    let own = server.url.clone();
    for (name, headers) in [
        ("a", vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]),
        ("b", vec![("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-site")]),
        ("c", vec![("origin", "null")]),
        ("d", vec![("origin", "https://evil.example")]),
    ] {
        create(name, &headers).await.expect_problem(403, Code::Forbidden);
    }
    let delete = app.request(Method::DELETE, "/galleries/default").header("origin", "https://evil.example");
    app.send(delete).await.expect_problem(403, Code::Forbidden);
    for (name, headers) in [
        ("curl", vec![]),
        ("listed", vec![("origin", ORIGIN), ("sec-fetch-site", "cross-site")]),
        ("extension", vec![("origin", "chrome-extension://abc"), ("sec-fetch-site", "cross-site")]),
        ("own page", vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")]),
        ("old browser", vec![("origin", own.as_str())]),
    ] {
        create(name, &headers).await.expect(StatusCode::CREATED);
    }
    let page: Page<Subject> = app.get("/subjects").await.json();
    let names: Vec<String> = page.items.into_iter().map(|subject| subject.name).collect();
    assert_eq!(names, ["curl", "listed", "extension", "own page", "old browser"]);
}
