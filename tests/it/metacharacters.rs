//! What means something to a database, a file system, a shell, a browser, a template or a log is a text like any other, in every string
//! of every route.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::permissions::{Route, routes};
use crate::support::process::{Server, data_dir};
use crate::support::{TestApp, eventually};

const TEXTS: [&str; 18] = [
    "' or '1'='1",
    "\"; drop table subjects; --",
    "$1; select pg_sleep(30)",
    "/* */ union select null",
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "%2e%2e%2fetc%2fpasswd",
    "%_",
    "\\",
    "${jndi:ldap://127.0.0.1/a}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "$(touch /tmp/touched-by-a-name)",
    "a\u{0}b",
    "line\r\nset-cookie: injected=1",
    "\u{1b}[31mred\nERROR injected",
    "\u{202e}gpj.exe",
    "{\"level\":\"ERROR\",\"message\":\"injected\"}",
];

/// What no answer may show: that a text was taken for something else.
const MISTAKEN: [&str; 6] = ["syntax error", "sqlx", "root:x:0", "unterminated", "panicked", "pg_sleep("];

/// A part of a path.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Requests of a route with a text in its path, and in each of its fields by itself: one that is refused must not hide the rest.
fn requests(app: &TestApp, route: &Route, text: &str) -> Vec<reqwest::RequestBuilder> {
    let mut path = route.path.clone();
    while let Some((start, rest)) = path.split_once('{') {
        path = format!("{start}{}{}", encoded(text), rest.split_once('}').unwrap().1);
    }
    let asked = || app.request(route.method.clone(), &path);
    let mut requests = vec![asked()];
    requests.extend(route.query.iter().map(|field| asked().query(&[(field, text)])));
    for field in &route.fields {
        let value = match field.as_str() {
            "galleries" | "subjects" | "faces" | "protected" | "images" | "candidates" => json!([text]),
            "metadata" => json!({text: text}),
            _ => json!(text),
        };
        requests.push(asked().json(&json!({field: value})));
    }
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_is_taken_for_anything_else() {
    let (data, files) = (data_dir(), data_dir());
    let log = files.path().join("log");
    let to = std::fs::File::create(&log).unwrap();
    let arguments = ["--log-format", "json", "--log", "info,faceid=debug"];
    let server = Server::start_logging_to(to, data.path(), &arguments).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: "default".to_owned() };
    app.post_json("/subjects", json!({"name": "Ada"})).await;
    let routes = routes(&app.get("/openapi.json").await.value());
    for route in routes.iter().filter(|route| route.id != "delete_gallery" && route.id != "upload_dataset") {
        for text in TEXTS {
            for asked in requests(&app, route, text) {
                // Clients choose these two headers.
                let asked = match reqwest::header::HeaderValue::from_bytes(text.as_bytes()) {
                    Ok(value) => asked.header("x-request-id", value.clone()).header("idempotency-key", value),
                    Err(_) => asked,
                };
                let answer = app.send(asked).await;
                let (status, said) = (answer.status.as_u16(), answer.text());
                assert!(status < 500 || status == 503, "{} {text:?}: {status} {said}", route.id);
                assert!(answer.headers.get("set-cookie").is_none(), "{} {text:?}", route.id);
                // An answer may quote the text, and nothing that came of it.
                let rest = said.replace(serde_json::to_string(text).unwrap()[1..].trim_end_matches('"'), "");
                for mistaken in MISTAKEN {
                    assert!(!rest.contains(mistaken), "{} {text:?}: {said}", route.id);
                }
            }
        }
    }
    assert!(!std::path::Path::new("/tmp/touched-by-a-name").exists());
    // Names are what they are: found by themselves, and no patterns.
    for text in TEXTS.into_iter().filter(|text| !text.chars().any(char::is_control)) {
        let gallery = format!("names {}", uuid::Uuid::now_v7());
        app.post_json("/galleries", json!({"name": gallery})).await;
        let made =
            app.post_json("/subjects", json!({"name": text, "gallery": gallery, "metadata": {text: text}})).await;
        assert_eq!(made.status, 201, "{text:?}: {}", made.text());
        app.post_json("/subjects", json!({"name": "Bob", "gallery": gallery})).await;
        let path = format!("/subjects/{}?gallery={}", encoded(text), encoded(&gallery));
        let found = app.get(&path).await.value();
        assert_eq!((&found["name"], &found["metadata"][text]), (&json!(text), &json!(text)));
        let listed = app.request(Method::GET, "/subjects").query(&[("gallery", &*gallery), ("prefix", text)]);
        assert_eq!(app.send(listed).await.value()["items"].as_array().unwrap().len(), 1, "{text:?}");
        let erased = app.post_json("/delete/subjects", json!({"gallery": gallery, "prefix": text})).await.value();
        assert_eq!(erased["subjects"], 1, "{text:?}");
        assert_eq!(app.get(&format!("/subjects/Bob?gallery={}", encoded(&gallery))).await.status, 200);
    }
    assert_eq!(app.get("/subjects/Ada").await.status, 200);
    // Each line of the log is one entry, and none was made by a text.
    let lines = eventually(Duration::from_secs(10), "the log is written", async || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.ends_with('\n').then_some(log)
    })
    .await;
    assert!(lines.lines().count() > 500, "too little was logged");
    for line in lines.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(entry["message"], "injected", "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}
