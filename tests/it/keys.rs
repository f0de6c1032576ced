//! Keys of callers: what they open, how they come and go, at all servers of a database and on the command line.

use std::fs::File;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use faceid::http::Code;
use faceid::service::answers::{CreatedKey, KeyEntry, KeyState, Page};
use faceid::types::Role;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::multipart::Form;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::models::model_form;
use crate::support::process::{Server, data_dir, faceid, free_port};
use crate::support::{Answer, TestApp, eventually};

/// Generous: machines are shared.
const WITHIN: Duration = Duration::from_secs(60);

/// A client that shows a key, or none.
fn caller(server: &Server, key: Option<&str>) -> TestApp {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert("x-api-key", HeaderValue::from_str(key).unwrap());
    }
    let client = Client::builder().default_headers(headers).build().unwrap();
    TestApp { client, url: server.url.clone(), gallery: "default".to_owned() }
}

fn database_url(data: &Path) -> String {
    format!("postgres://faceid@localhost/faceid?host={}", data.join("run").display())
}

impl TestApp {
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    async fn make_key(&self, body: Value) -> (KeyEntry, String) {
        let answer = self.post("/admin/keys", body).await;
        answer.expect(StatusCode::CREATED);
        assert_eq!(answer.headers["cache-control"], "no-store");
        let CreatedKey { entry, key } = answer.json();
        (entry, key.expose())
    }

    async fn rotate_key(&self, key: &str, keep_for: u64) -> String {
        let answer = self.post(&format!("/admin/keys/{key}/rotate"), json!({"keep_for": keep_for})).await;
        answer.expect(StatusCode::OK);
        answer.json::<CreatedKey>().key.expose()
    }

    /// Whether the caller is let in; else why not.
    async fn entry(&self) -> Result<(), String> {
        let answer = self.get("/info").await;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(answer.expect_problem(401, Code::Unauthorized).detail),
        }
    }
}

/// Waits until a server refuses a caller, who was let in before, and says why.
async fn shut_out(caller: &TestApp) -> String {
    eventually(WITHIN, "the key is refused", async || caller.entry().await.err()).await
}

async fn let_in(caller: &TestApp) {
    eventually(WITHIN, "the key is known", async || caller.entry().await.ok()).await;
}

#[tokio::test]
async fn keys_come_and_go_at_all_servers_of_a_database_and_the_first_closes_them() {
    let (data, other) = (data_dir(), data_dir());
    let log = data.path().join("log");
    let first = Server::start_logging_to(File::create(&log).unwrap(), data.path(), &["--log", "trace"]).await;
    let second = Server::start(other.path(), &["--database-url", &database_url(data.path())]).await;
    let (anyone, elsewhere) = (caller(&first, None), caller(&second, None));
    assert_eq!((anyone.entry().await, elsewhere.entry().await), (Ok(()), Ok(())));
    // A key that nobody knows is no reason to refuse at an open server.
    assert_eq!(caller(&first, Some("no key at all")).entry().await, Ok(()));

    // What nobody may do at an open server: pages of strangers change nothing, and programs are not taken.
    let by_stranger = |caller: &TestApp, name: &str| {
        let request = caller.request(Method::POST, "/subjects").header("origin", "https://evil.example");
        request.multipart(Form::new().text("name", name.to_owned()))
    };
    anyone.send(by_stranger(&anyone, "a")).await.expect_problem(403, Code::Forbidden);
    let program =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nn/script_outputs.pt")).unwrap();
    let import = async |caller: &TestApp| {
        let form = model_form(program.clone()).text("name", "x").text("threshold", "0.3").text("allow_code", "true");
        caller.post_form("/admin/models", form).await
    };
    import(&anyone).await.expect_problem(422, Code::CodeRefused);

    let (entry, owner) = anyone.make_key(json!({"name": "boss", "role": "owner"})).await;
    assert_eq!((entry.prefix.as_str(), entry.state, entry.galleries), (&owner[..8], KeyState::Active, None));
    uuid::Uuid::parse_str(&owner).unwrap();
    assert!(anyone.entry().await.unwrap_err().contains("a key is needed"));
    shut_out(&elsewhere).await;
    assert_eq!(anyone.get("/healthz").await.status, 200);
    assert_eq!(caller(&first, Some(&owner)).entry().await, Ok(()));
    let_in(&caller(&second, Some(&owner))).await;
    let wrong = [&owner[..35], "00112233-4455-4677-8899-aabbccddeeff", "client-key-0123456", ""];
    for wrong in wrong {
        assert_eq!(caller(&first, Some(wrong)).entry().await.unwrap_err(), "this key is not known here", "{wrong}");
    }

    let boss = caller(&first, Some(&owner));
    boss.send(by_stranger(&boss, "b")).await.expect(StatusCode::CREATED);
    anyone.send(by_stranger(&anyone, "c")).await.expect_problem(401, Code::Unauthorized);
    // It is looked at, and is no model.
    import(&boss).await.expect_problem(422, Code::InvalidModel);
    let (gate, gate_key) = boss.make_key(json!({"name": "gate 3", "role": "enrol"})).await;
    let [here, there] = [&first, &second].map(|server| caller(server, Some(&gate_key)));
    assert_eq!(here.entry().await, Ok(()));
    let_in(&there).await;
    here.post("/subjects", json!({"name": "Ada"})).await.expect(StatusCode::CREATED);

    // While the former key is kept, both work.
    let next_key = boss.rotate_key("gate%203", 3).await;
    let (next_here, next_there) = (caller(&first, Some(&next_key)), caller(&second, Some(&next_key)));
    let rotated: KeyEntry = boss.get(&format!("/admin/keys/{}", gate.id)).await.json();
    assert_eq!((rotated.id, rotated.prefix.as_str()), (gate.id, &next_key[..8]));
    let until = rotated.former_until.unwrap();
    let both = (here.entry().await, next_here.entry().await);
    assert!(both == (Ok(()), Ok(())) || Utc::now() >= until, "{both:?}");
    let_in(&next_there).await;
    assert_eq!(shut_out(&here).await, "this key was replaced by another");
    assert!(Utc::now() >= until);
    assert_eq!(shut_out(&there).await, "this key was replaced by another");
    let last_key = boss.rotate_key(&gate.id.to_string(), 0).await;
    assert_eq!(next_here.entry().await.unwrap_err(), "this key is not known here");
    shut_out(&next_there).await;

    let (here, there) = (caller(&first, Some(&last_key)), caller(&second, Some(&last_key)));
    assert_eq!(here.entry().await, Ok(()));
    let_in(&there).await;
    let revoked = boss.delete("/admin/keys/gate%203").await;
    revoked.expect(StatusCode::OK);
    assert_eq!(revoked.json::<KeyEntry>().state, KeyState::Revoked);
    assert_eq!(here.entry().await.unwrap_err(), "this key was revoked");
    assert_eq!(shut_out(&there).await, "this key was revoked");
    boss.get("/admin/keys/gate%203").await.expect_problem(404, Code::KeyNotFound);
    let path = format!("/admin/keys/{}", gate.id);
    boss.post(&format!("{path}/rotate"), json!({})).await.expect_problem(409, Code::KeyRevoked);
    boss.delete(&path).await.expect(StatusCode::OK);

    let noted = eventually(WITHIN, "the uses are noted", async || {
        let key: KeyEntry = boss.get(&path).await.json();
        key.last_used_at.map(|_| key)
    })
    .await;
    assert!(noted.uses >= 3 && noted.last_used_at >= Some(noted.created_at), "{noted:?}");

    // Revoking the last key opens no server.
    boss.delete("/admin/keys/boss").await.expect(StatusCode::OK);
    assert_eq!(boss.entry().await.unwrap_err(), "this key was revoked");
    anyone.entry().await.unwrap_err();
    drop((first, second));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("a key was made") && log.contains(&gate.id.to_string()), "the log says who did what");
    for key in [owner, gate_key, next_key, last_key] {
        assert!(!log.contains(&key) && !log.contains(&key[9..]), "a key is in the log");
    }
    let again = Server::start(data.path(), &[]).await;
    caller(&again, None).entry().await.unwrap_err();
    drop(again);
    // Unless something else guards it.
    let guarded = Server::start(data.path(), &["--insecure"]).await;
    assert_eq!(caller(&guarded, None).entry().await, Ok(()));
}

/// What each role may, in all galleries and in some.
fn may(role: Role, needed: &str, everywhere: bool) -> bool {
    let list = match (role, everywhere) {
        (Role::Identify, _) => "enter ask",
        (Role::Read, true) => "enter look monitor",
        (Role::Read, false) => "enter look",
        (Role::Enrol, true) => "enter ask look change monitor",
        (Role::Enrol, false) => "enter ask look change",
        (Role::Admin, true) => "enter ask look change manage create monitor administer",
        (Role::Admin, false) => "enter ask look change manage administer",
        (Role::Owner, _) => "enter ask look change manage create monitor administer own",
    };
    list.split(' ').any(|word| word == needed)
}

#[tokio::test]
async fn a_key_opens_what_its_role_says_and_no_more() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let (_, owner) = caller(&server, None).make_key(json!({"name": "boss", "role": "owner"})).await;
    let boss = caller(&server, Some(&owner));
    let mut callers = vec![(Role::Owner, true, boss)];
    for role in [Role::Identify, Role::Read, Role::Enrol, Role::Admin] {
        for galleries in [None, Some(["default"])] {
            let new = json!({"name": format!("{role} {galleries:?}"), "role": role, "galleries": galleries});
            let (_, key) = callers[0].2.make_key(new).await;
            callers.push((role, galleries.is_none(), caller(&server, Some(&key))));
        }
    }
    let document = callers[0].2.get("/openapi.json").await.value();
    let mut seen = std::collections::BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Some(needed) = operation["x-permission"].as_str() else { continue };
            seen.insert(needed.to_owned());
            let id = "00000000-0000-7000-8000-000000000001";
            let parts = path.split('/').map(|part| if part.starts_with('{') { id } else { part });
            // Whoever is let in is told that there is no such field, where fields are read at all.
            let address = format!("{}?no_such_field=1", parts.collect::<Vec<_>>().join("/"));
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            for (role, everywhere, caller) in &callers {
                let answer = caller.send(caller.request(method.clone(), &address)).await;
                let what = format!("{method} {path} by {role}, everywhere: {everywhere}");
                assert_ne!(answer.status, 401, "{what}");
                assert_eq!(answer.status != 403, may(*role, needed, *everywhere), "{what}: {}", answer.text());
            }
        }
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
    for (method, path, needed) in [
        ("get", "/info", "enter"),
        ("post", "/identify/batch", "ask"),
        ("post", "/subjects/{subject}/verify", "ask"),
        ("get", "/faces/{face}/chip", "look"),
        ("get", "/subjects/{subject}", "look"),
        ("delete", "/subjects/{subject}", "change"),
        ("post", "/enroll", "change"),
        ("get", "/galleries", "look"),
        ("post", "/galleries", "create"),
        ("patch", "/galleries/{gallery}", "manage"),
        ("get", "/metrics", "monitor"),
        ("post", "/admin/datasets", "administer"),
        ("post", "/admin/keys", "administer"),
        ("get", "/admin/jobs", "administer"),
        ("post", "/admin/models", "own"),
        ("get", "/admin/audit", "own"),
        ("get", "/admin/audit/head", "own"),
    ] {
        assert_eq!(document["paths"][path][method]["x-permission"], needed, "{method} {path}");
    }

    let by = |wanted: Role, wide: bool| {
        &callers.iter().find(|(role, everywhere, _)| (*role, *everywhere) == (wanted, wide)).unwrap().2
    };
    for (role, wide, path, says) in [
        (Role::Read, true, "/subjects", "this key may not change what galleries hold: it is for role read"),
        (
            Role::Admin,
            false,
            "/galleries",
            "this key may not create galleries: it is for role admin, in some galleries only",
        ),
        (
            Role::Admin,
            true,
            "/admin/rollback",
            "this key may not see the audit, or see or change models: it is for role admin",
        ),
    ] {
        let refused = by(role, wide).post(path, json!({})).await.expect_problem(403, Code::Forbidden);
        assert_eq!(refused.detail, says);
    }
    // Where a method is not answered, no key is asked for; those that are are named, whatever they need.
    let answer = by(Role::Read, true).send(by(Role::Read, true).request(Method::PUT, "/galleries")).await;
    answer.expect_problem(405, Code::MethodNotAllowed);
    let mut allowed: Vec<&str> = answer.headers["allow"].to_str().unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn nobody_makes_or_changes_a_key_that_may_more_than_they() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let anyone = caller(&server, None);
    for gallery in ["a", "b", "c"] {
        anyone.post("/galleries", json!({"name": gallery})).await.expect(StatusCode::CREATED);
    }
    let (_, owner) = anyone.make_key(json!({"name": "boss", "role": "owner"})).await;
    let boss = caller(&server, Some(&owner));
    boss.make_key(json!({"name": "of c", "role": "read", "galleries": ["c"]})).await;
    let (of_ab, key) = boss.make_key(json!({"name": "of a and b", "role": "admin", "galleries": ["a", "b"]})).await;
    assert_eq!(of_ab.galleries.unwrap().into_iter().map(|gallery| gallery.name).collect::<Vec<_>>(), ["a", "b"]);
    let some = caller(&server, Some(&key));
    let (admin, key) = boss.make_key(json!({"name": "head", "role": "admin"})).await;
    let all = caller(&server, Some(&key));

    for role in ["identify", "read", "enrol", "admin"] {
        let (made, _) = some.make_key(json!({"name": format!("{role} of a"), "role": role, "galleries": ["a"]})).await;
        assert_eq!(made.galleries.unwrap().len(), 1);
        let everywhere = json!({"name": "x", "role": role});
        some.post("/admin/keys", everywhere).await.expect_problem(403, Code::Forbidden);
    }
    let make = async |caller: &TestApp, new: Value| caller.post("/admin/keys", new).await;
    let beyond = json!({"name": "x", "role": "read", "galleries": ["a", "c"]});
    make(&some, beyond).await.expect_problem(404, Code::GalleryNotFound);
    make(&some, json!({"name": "x", "role": "owner"})).await.expect_problem(403, Code::Forbidden);
    make(&all, json!({"name": "x", "role": "owner"})).await.expect_problem(403, Code::Forbidden);

    // Others' keys do not exist.
    let listed = async |caller: &TestApp| {
        let page: Page<KeyEntry> = caller.get("/admin/keys").await.json();
        page.items.into_iter().map(|key| key.name).collect::<Vec<_>>()
    };
    assert_eq!(listed(&some).await, ["of a and b", "identify of a", "read of a", "enrol of a", "admin of a"]);
    assert_eq!(listed(&all).await.len(), 8);
    for hidden in ["boss", "of%20c", "head", &admin.id.to_string()] {
        let path = format!("/admin/keys/{hidden}");
        some.get(&path).await.expect_problem(404, Code::KeyNotFound);
        some.post(&format!("{path}/rotate"), json!({})).await.expect_problem(404, Code::KeyNotFound);
        some.delete(&path).await.expect_problem(404, Code::KeyNotFound);
    }
    all.get("/admin/keys/boss").await.expect(StatusCode::OK);
    all.post("/admin/keys/boss/rotate", json!({})).await.expect_problem(403, Code::Forbidden);
    all.delete("/admin/keys/boss").await.expect_problem(403, Code::Forbidden);
    assert_eq!(boss.entry().await, Ok(()));
    some.delete("/admin/keys/read%20of%20a").await.expect(StatusCode::OK);

    for (field, new) in [
        ("role", json!({"name": "x", "role": "king"})),
        ("name", json!({"name": " x", "role": "read"})),
        ("name", json!({"name": "admin key", "role": "read"})),
        ("name", json!({"name": owner, "role": "read"})),
        ("galleries", json!({"name": "x", "role": "read", "galleries": []})),
        ("galleries", json!({"name": "x", "role": "owner", "galleries": ["a"]})),
        ("expires_at", json!({"name": "x", "role": "read", "expires_at": "tomorrow"})),
        ("expires_at", json!({"name": "x", "role": "read", "expires_at": "2020-01-31T12:00:00+01:00"})),
    ] {
        let problem = make(&boss, new).await.expect_problem(422, Code::InvalidField);
        assert_eq!(problem.field.as_deref(), Some(field), "{}", problem.detail);
    }
    make(&boss, json!({"name": "x"})).await.expect_problem(422, Code::MissingField);
    make(&boss, json!({"name": "head", "role": "read"})).await.expect_problem(409, Code::DuplicateKey);
    let long = json!({"keep_for": 604_801});
    boss.post("/admin/keys/head/rotate", long).await.expect_problem(422, Code::InvalidField);
}

#[tokio::test]
async fn a_server_whose_keys_have_expired_stays_closed_and_does_not_begin_where_others_reach_it() {
    let data = data_dir();
    let server = Server::start(data.path(), &[]).await;
    let expires_at = Utc::now() + TimeDelta::seconds(2);
    let new = json!({"name": "short", "role": "owner", "expires_at": expires_at});
    let (entry, key) = caller(&server, None).make_key(new).await;
    assert_eq!(entry.expires_at.map(|at| at.timestamp()), Some(expires_at.timestamp()));
    let holder = caller(&server, Some(&key));
    assert!(holder.entry().await.is_ok() || Utc::now() >= expires_at);
    assert_eq!(shut_out(&holder).await, "this key expired");
    caller(&server, None).entry().await.unwrap_err();
    drop(server);
    let server = Server::start(data.path(), &[]).await;
    caller(&server, None).entry().await.unwrap_err();
    drop(server);
    assert!(refusal(data.path(), &[]).contains("faceid keys create"));
}

/// What a server says that does not begin where others reach it.
#[track_caller]
fn refusal(data: &Path, arguments: &[&str]) -> String {
    let bind = format!("0.0.0.0:{}", free_port());
    let output = faceid().args(["serve", "--bind", &bind, "--data-dir"]).arg(data).args(arguments).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn keys_are_made_where_no_server_runs_and_open_one_that_others_reach() {
    let data = data_dir();
    let keys =
        |arguments: &[&str]| faceid().arg("keys").args(arguments).arg("--data-dir").arg(data.path()).output().unwrap();
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let made = keys(&["create", "boss", "--role", "owner"]);
    let owner = said(&made);
    assert!(made.status.success() && uuid::Uuid::parse_str(&owner).is_ok(), "{made:?}");
    assert!(!data.path().join("postgres/postmaster.pid").exists(), "Postgres still runs");
    let again = keys(&["create", "boss", "--role", "read"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("already a key"), "{again:?}");
    let listed = said(&keys(&["list"]));
    assert!(listed.contains("boss") && listed.contains(&owner[..8]) && !listed.contains(&owner), "{listed}");

    // The server that runs hears of what is done beside it.
    let (port, log) = (free_port(), data.path().join("log"));
    let arguments = ["--bind", &format!("0.0.0.0:{port}")];
    let mut server = Server::spawn(faceid(), File::create(log).unwrap(), data.path(), &arguments);
    server.url = format!("http://127.0.0.1:{port}");
    server.until_ready().await;
    assert_eq!(caller(&server, Some(&owner)).entry().await, Ok(()));
    caller(&server, None).entry().await.unwrap_err();
    let made = keys(&["create", "gate", "--role", "identify", "--gallery", "default", "--json"]);
    let gate: CreatedKey = serde_json::from_slice(&made.stdout).unwrap();
    let holder = caller(&server, Some(&gate.key.expose()));
    let_in(&holder).await;
    holder.get("/subjects").await.expect_problem(403, Code::Forbidden);

    // At the server.
    let at_server = |arguments: &[&str]| {
        let mut command = faceid();
        command.arg("keys").args(arguments).args(["--server", &server.url]).env("FACEID_ADMIN_KEY", &owner);
        command.output().unwrap()
    };
    let rotated = at_server(&["rotate", "gate", "--keep-for", "600"]);
    let next = said(&rotated);
    assert!(String::from_utf8_lossy(&rotated.stderr).contains("the former key works until"), "{rotated:?}");
    assert_eq!(caller(&server, Some(&next)).entry().await, Ok(()));
    assert_eq!(holder.entry().await, Ok(()));
    let listed: Vec<KeyEntry> = serde_json::from_slice(&at_server(&["list", "--json"]).stdout).unwrap();
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["boss", "gate"]);
    let revoked = at_server(&["revoke", "gate"]);
    assert_eq!(said(&revoked), "revoked gate", "{revoked:?}");
    assert_eq!(holder.entry().await.unwrap_err(), "this key was revoked");
    assert_eq!(said(&at_server(&["list"])).lines().count(), 1);
    assert_eq!(said(&at_server(&["list", "--all"])).lines().count(), 2);
    let forbidden = at_server(&["create", "x", "--role", "owner", "--gallery", "default"]);
    assert!(!forbidden.status.success(), "{forbidden:?}");
}

#[tokio::test]
async fn a_server_with_another_secret_does_not_begin() {
    let data = data_dir();
    let secret = "a-secret-of-thirty-two-characters";
    let keys =
        |arguments: &[&str]| faceid().arg("keys").args(arguments).arg("--data-dir").arg(data.path()).output().unwrap();
    let made = keys(&["create", "boss", "--role", "owner", "--key-secret", secret]);
    let owner = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let server = Server::start(data.path(), &["--key-secret", secret]).await;
    assert_eq!(caller(&server, Some(&owner)).entry().await, Ok(()));
    drop(server);
    let said = refusal(data.path(), &[]);
    assert!(said.contains("FACEID_KEY_SECRET") && said.contains("boss") && !said.contains(secret), "{said}");
    let made = keys(&["create", "gate", "--role", "read"]);
    assert!(!made.status.success() && String::from_utf8_lossy(&made.stderr).contains("FACEID_KEY_SECRET"), "{made:?}");
    // Whoever has lost it begins anew.
    assert!(keys(&["revoke", "boss"]).status.success());
    assert!(keys(&["create", "boss", "--role", "owner"]).status.success());
    let shown = faceid().args(["serve", "--print-config", "--key-secret", secret]).stderr(Stdio::inherit()).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains("key_secret = \"***\"") && !shown.contains(secret), "{shown}");
}
