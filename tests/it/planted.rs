//! Secrets are planted, and looked for wherever a server writes or answers something: none shows, however it is used or misused.

use std::path::Path;
use std::process::Command;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::process::{Server, data_dir, faceid};
use crate::support::{TestApp, photos};

const CLIENT: &str = "planted-client-key-7f3a";
const ADMIN: &str = "planted-admin-key-91bc";
const KEY_SECRET: &str = "planted-key-secret-of-32-characters-5d";
const WRONG: &str = "planted-wrong-key-c0de";
const PERSON: &str = "Planted Person Quux";

fn with_secrets() -> Command {
    let mut command = faceid();
    command.env("FACEID_CLIENT_KEY", CLIENT).env("FACEID_ADMIN_KEY", ADMIN).env("FACEID_KEY_SECRET", KEY_SECRET);
    command
}

/// What the list of processes shows of all whose parent or self is this one.
fn shown_by_processes(server: u32) -> String {
    let mut shown = String::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let of = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let parent = of("stat").rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1).map(str::to_owned));
        if entry.file_name().to_string_lossy() == server.to_string() || parent == Some(server.to_string()) {
            shown += &of("cmdline");
        }
    }
    assert!(shown.contains("serve") && shown.contains("postgres"), "{shown}");
    shown
}

/// Whether a file below a folder has some bytes.
fn is_in_files(folder: &Path, wanted: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => is_in_files(&path, wanted),
            false => std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())),
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test photos"]
async fn no_secret_shows_anywhere() {
    let (data, files) = (data_dir(), data_dir());
    let log = files.path().join("log");
    let to = std::fs::File::create(&log).unwrap();
    // All that can be logged is.
    let mut server = Server::start_from(with_secrets(), to, data.path(), &["--log", "trace"]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let mut answers = String::new();
    let new = json!({"name": "planted", "role": "owner"});
    let made = app.send(app.request(Method::POST, "/admin/keys").header("x-api-key", ADMIN).json(&new)).await;
    assert_eq!(made.status, 201);
    let first = made.value()["key"].as_str().unwrap().to_owned();
    let rotate = app.request(Method::POST, "/admin/keys/planted/rotate").header("x-api-key", &first);
    let rotated = app.send(rotate.json(&json!({"keep_for": 600}))).await;
    let second = rotated.value()["key"].as_str().unwrap().to_owned();
    let path = "/enroll?subject=Planted%20Person%20Quux&face=largest&quality=any";
    let enroll = app.request(Method::POST, path).header("content-type", "image/jpeg").header("x-api-key", &first);
    assert_eq!(app.send(enroll.body(photos::lfw("Tony_Blair", 1))).await.status, 201);
    // Whoever may ask, and who may not; keys where they belong, and where they do not.
    for key in [CLIENT, ADMIN, &first, &second, WRONG] {
        let photo = photos::lfw("Tony_Blair", 1);
        let path =
            format!("/enroll?subject=Planted%20Person%20Quux&face=largest&quality=any&duplicates=allow&api_key={key}");
        let enroll = app.request(Method::POST, &path).header("content-type", "image/jpeg").body(photo.clone());
        answers += &app.send(enroll.header("x-api-key", key)).await.text();
        for path in
            ["/identify", "/admin/keys", "/admin/audit", "/metrics", "/info", "/readyz", "/openapi.json", "/nowhere"]
        {
            let request = app.request(Method::GET, &format!("{path}?key={key}&token={key}"));
            answers += &app.send(request.bearer_auth(key)).await.text();
        }
        let odd = app.request(Method::POST, "/identify").header("x-api-key", key).header("content-type", "image/jpeg");
        answers += &app.send(odd.body(format!("{key}, which is no photo"))).await.text();
        // What a field or a path names is quoted to whoever asked, and to nobody else.
        let odd = app.request(Method::POST, "/verify").header("x-api-key", key).json(&json!({key: key}));
        app.send(odd).await;
        let odd = app.request(Method::GET, &format!("/subjects/{key}")).header("x-api-key", key);
        assert!(matches!(app.send(odd).await.status.as_u16(), 401 | 404));
    }
    let found = app.request(Method::GET, "/subjects/Planted%20Person%20Quux").header("x-api-key", &second);
    assert_eq!(app.send(found).await.status, 200);
    let processes = shown_by_processes(server.pid());
    server.terminate();
    server.ended().await;

    let shown = with_secrets().args(["serve", "--print-config", "--data-dir"]).arg(data.path()).output().unwrap();
    let shown = format!("{}{}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.contains("client_key"), "{shown}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("TRACE") && log.contains("/subjects/{subject}"), "too little was logged");
    // What answers quote of a request is left out: who sent it knows it.
    let places = [("the log", &log), ("the list of processes", &processes), ("--print-config", &shown)];
    for secret in [CLIENT, ADMIN, KEY_SECRET, &first, &second, WRONG, PERSON] {
        for (place, text) in places {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} is in {place}");
        }
    }
    for secret in [CLIENT, ADMIN, KEY_SECRET, &first, &second] {
        let line = answers.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in an answer");
        // Nor on the disk: of keys there are hashes.
        assert!(!is_in_files(data.path(), secret), "{secret} is in a file");
    }
    let listed: Value = serde_json::from_str(&made.text()).unwrap();
    assert_eq!(listed["prefix"].as_str().unwrap(), &first[..8]);
}
