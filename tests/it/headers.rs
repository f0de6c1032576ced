//! What every answer tells browsers and caches, of every route and whatever becomes of a request.

use std::collections::BTreeSet;

use faceid::http::Code;
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use crate::permissions::{World, holding, routes, start, world};
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp};

/// An answer of the API, which nobody keeps and no browser takes for a page.
#[track_caller]
pub fn is_data(what: &str, answer: &Answer) {
    says(what, answer, "default-src 'none'; frame-ancestors 'none'", "no-store");
}

#[track_caller]
fn says(what: &str, answer: &Answer, policy: &str, cache: &str) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", policy),
        ("cache-control", cache),
    ] {
        let said: Vec<_> = answer.headers.get_all(name).iter().collect();
        assert_eq!(said, [value], "{what}: {name} of {} {}", answer.status, answer.text());
    }
    // Over TLS alone.
    assert!(!answer.headers.contains_key("strict-transport-security"), "{what}");
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn every_route_says_so_whatever_it_answers() {
    let folder = data_dir();
    let (_server, keys) = start(folder.path()).await;
    let mine = world(&keys, "mine", "Ada", "Tony_Blair").await;
    let routes = routes(&keys.app.get("/openapi.json").await.value());
    let nowhere = World::nowhere();
    let mut seen = BTreeSet::new();
    for route in &routes {
        let name = format!("{} {}", route.method, route.path);
        let mut answers = Vec::new();
        for key in [None, Some("no-key-of-this-server"), Some(holding::ADMIN)] {
            answers.push(keys.send(route, &nowhere, key).await);
        }
        if route.method == Method::GET || route.path.contains("identify") || route.path.contains("verify") {
            answers.push(keys.send(route, &mine, Some(holding::ADMIN)).await);
        }
        // Nonsense, and a method that nobody answers.
        let request = keys.app.request(route.method.clone(), &route.path).header("x-api-key", holding::ADMIN);
        answers.push(keys.app.send(request.header("content-type", "application/json").body("{")).await);
        answers.push(keys.app.send(keys.app.request(Method::TRACE, &route.path)).await);
        for answer in &answers {
            is_data(&name, answer);
            seen.insert(answer.status.as_u16());
        }
    }
    for status in [200, 400, 401, 404, 405] {
        assert!(seen.contains(&status), "{status} is not among {seen:?}");
    }
    is_data("nothing", &keys.app.get("/no-such-route").await);
    // A picture of a face, and an answer that a client may ask for by its tag.
    let chip = keys.app.request(Method::GET, &format!("/faces/{}/chip", mine.face)).header("x-api-key", holding::ADMIN);
    let chip = keys.app.send(chip).await;
    chip.expect(StatusCode::OK);
    is_data("a chip", &chip);
    let subject = || keys.app.request(Method::GET, "/subjects/Ada?gallery=mine").header("x-api-key", holding::ADMIN);
    let tag = keys.app.send(subject()).await.headers["etag"].clone();
    let known = keys.app.send(subject().header("if-none-match", tag)).await;
    known.expect(StatusCode::NOT_MODIFIED);
    is_data("what is known already", &known);
}

#[tokio::test]
async fn refusals_for_size_and_for_load_say_so_as_well() {
    let data = data_dir();
    let sizes = ["--max-image-bytes", "100000", "--max-body-bytes", "200000", "--body-budget", "400000"];
    let limits = ["--max-connections", "1", "--request-timeout", "300"];
    let server = Server::start(data.path(), &[&sizes[..], &limits].concat()).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let detect = |app: &TestApp, size: usize| {
        app.request(Method::POST, "/detect").header("content-type", "image/png").body(vec![0; size])
    };
    let large = app.send(detect(&app, 300_000)).await;
    large.expect_problem(413, Code::BodyTooLarge);
    is_data("413", &large);
    let none = app.send(detect(&app, 3)).await;
    assert!(none.status.is_client_error());
    is_data("no image", &none);
    // One holds the only place with a request that does not end.
    let (_, address) = server.url.split_once("://").unwrap();
    let mut slow = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\
                Expect: 100-continue\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut slow, head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    tokio::io::AsyncReadExt::read_exact(&mut slow, &mut go_on).await.unwrap();
    let other = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let refused = other.send(detect(&other, 3)).await;
    refused.expect_problem(503, Code::Overloaded);
    is_data("503", &refused);
}

#[tokio::test]
async fn pages_may_be_kept_and_show_what_is_theirs() {
    let app = TestApp::start().await;
    let kept = "public, max-age=300";
    let page = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; \
                frame-ancestors 'none'";
    for path in ["/docs/", "/docs/security", "/docs/images/pipeline.svg"] {
        let answer = app.get(path).await;
        answer.expect(StatusCode::OK);
        says(path, &answer, page, kept);
    }
    for path in ["/docs/api/", "/docs/api/swagger-ui-bundle.js", "/docs/api/swagger-ui.css", "/openapi.json"] {
        let answer = app.get(path).await;
        answer.expect(StatusCode::OK);
        let policy = answer.headers["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(!policy.contains("script-src 'self' 'unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        says(path, &answer, &policy, kept);
    }
    let document: Value = app.get("/openapi.json").await.value();
    assert_eq!(document["openapi"], "3.1.0");
}
