//! Who may call what.

use std::process::Stdio;

use faceid::http::Code;
use reqwest::{Client, Method};

use crate::support::TestApp;
use crate::support::process::{Server, data_dir, faceid, free_port};

const CLIENT: &str = "client-key-for-tests";
const ADMIN: &str = "admin-key-for-tests-";

#[tokio::test]
async fn keys_open_what_they_are_for() {
    let folder = data_dir();
    let server = Server::start(folder.path(), &["--client-key", CLIENT, "--admin-key", ADMIN]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    let with = |path: &str, header: &str, value: &str| app.request(Method::GET, path).header(header, value);

    for open in ["/healthz", "/readyz", "/openapi.json", "/docs/"] {
        assert_eq!(app.get(open).await.status, 200, "{open} needs no key");
    }
    for guarded in ["/galleries", "/subjects", "/faces", "/admin/models"] {
        let answer = app.get(guarded).await;
        answer.expect_problem(401, Code::Unauthorized);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    app.send(app.request(Method::POST, "/enroll")).await.expect_problem(401, Code::Unauthorized);
    let almost = &CLIENT[..CLIENT.len() - 1];
    for wrong in ["", "x", almost, "client-key-for-tests2"] {
        app.send(with("/galleries", "x-api-key", wrong)).await.expect_problem(401, Code::Unauthorized);
    }
    app.send(with("/galleries", "authorization", "Basic abc")).await.expect_problem(401, Code::Unauthorized);

    for key in [CLIENT, ADMIN] {
        assert_eq!(app.send(with("/galleries", "x-api-key", key)).await.status, 200);
        assert_eq!(app.send(with("/galleries", "authorization", &format!("Bearer {key}"))).await.status, 200);
    }
    app.send(with("/admin/models", "x-api-key", CLIENT)).await.expect_problem(403, Code::Forbidden);
    assert_eq!(app.send(with("/admin/models", "x-api-key", ADMIN)).await.status, 200);
    let upload = |key: &str| app.request(Method::POST, "/admin/datasets").header("x-api-key", key).body("no archive");
    app.send(upload("")).await.expect_problem(401, Code::Unauthorized);
    app.send(upload(CLIENT)).await.expect_problem(403, Code::Forbidden);
    app.send(upload(ADMIN)).await.expect_problem(415, Code::UnsupportedMediaType);
}

#[test]
fn beyond_loopback_it_refuses_to_start_without_keys() {
    let folder = data_dir();
    let bind = format!("0.0.0.0:{}", free_port());
    let output = faceid()
        .args(["serve", "--bind", &bind, "--data-dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("FACEID_CLIENT_KEY") && message.contains("--insecure"), "{message}");
    assert!(message.contains("faceid keys create"), "{message}");
}

#[test]
fn secrets_do_not_show_in_the_printed_configuration() {
    let output = faceid()
        .args(["serve", "--print-config", "--client-key", CLIENT, "--admin-key", ADMIN])
        .args(["--database-url", "postgres://faceid:hunter2@db/faceid"])
        .output()
        .unwrap();
    let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("bind = \"127.0.0.1:8080\"") && shown.contains("client_key = \"***\""), "{shown}");
    for secret in [CLIENT, ADMIN, "hunter2"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
