//! The audit from outside: what is in it, what is not, and that nobody changes it unseen.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use faceid::http::Code;
use faceid::service::answers::{AuditEntry, AuditHead, Embedded, Enrolled, Page, Subject};
use reqwest::multipart::Form;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::datasets::zipped;
use crate::support::process::{Server, data_dir, faceid};
use crate::support::{Answer, TestApp, eventually, part, photos};

/// In names and metadata of all that a test makes.
const SECRET: &str = "Quetzalcoatl";

/// By `openssl genpkey -algorithm ed25519`, and `openssl pkey -pubout` of it; and the public half of another.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIDKEw/o8wi630rGkgsdc7MuoXIk10n4fZd5NYjolMOj/\n-----END PRIVATE KEY-----\n";
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA1YVA2//PVAVB6b3iNTNYCKpe+GPPC8EBJYy+qaQoLus=\n-----END PUBLIC KEY-----\n";
const OTHER_KEY: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAnRTHN7JTMiC3cPl5rxc6yh6i0SuD2YSMoMpsB6z/x0o=\n-----END PUBLIC KEY-----\n";

/// `faceid audit` on the database of a folder.
fn audit(data: &Path, arguments: &[&str]) -> Output {
    faceid().args(["audit"]).args(arguments).arg("--data-dir").arg(data).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn export(data: &Path, arguments: &[&str]) -> Vec<Value> {
    let text = out(&audit(data, &[&["export"], arguments].concat()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn listed(app: &TestApp, query: &str) -> Vec<AuditEntry> {
    app.get(&format!("/admin/audit?{query}")).await.json::<Page<AuditEntry>>().items
}

/// The last entry of an action, once it is written.
async fn noted(app: &TestApp, action: &str) -> AuditEntry {
    // `verify` means `verify.stored` as well, and may be written after it.
    let query = format!("action={action}&limit=200");
    let last = async || listed(app, &query).await.into_iter().find(|entry| entry.action == action);
    eventually(Duration::from_secs(20), action, last).await
}

/// A server, and what is in it.
struct World {
    app: TestApp,
    /// Ends before its folder does.
    _server: Server,
    data: TempDir,
    /// Of the gallery.
    id: String,
    people: Vec<(String, Vec<PathBuf>)>,
}

impl World {
    async fn new() -> Self {
        let data = data_dir();
        let server = Server::start(data.path(), &[]).await;
        let mut app = TestApp::at(server.url.clone()).await;
        let change = json!({"name": format!("staff {SECRET}")});
        let path = format!("/galleries/{}", app.gallery);
        let renamed = app.send(app.request(Method::PATCH, &path).json(&change)).await;
        renamed.expect(StatusCode::OK);
        app.gallery = format!("staff {SECRET}");
        let id = renamed.value()["id"].as_str().unwrap().to_owned();
        Self { app, _server: server, data, id, people: photos::people(&photos::folder("lfw100")) }
    }

    fn photo(&self, person: usize, number: usize) -> Vec<u8> {
        photos::read(&self.people[person].1[number])
    }

    fn form(&self, photo: &[u8]) -> Form {
        Form::new().text("gallery", self.app.gallery.clone()).part("image", part(photo))
    }

    async fn by(&self, key: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.app.request(method, path).header("x-api-key", key);
        self.app.send(body.iter().fold(request, |request, body| request.json(body))).await
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn all_that_is_asked_and_changed_is_noted_without_a_name() {
    let (world, files) = (World::new().await, data_dir());
    let ada = identified(&world).await;
    let bob = asked(&world, &ada).await;
    refused(&world).await;
    changed(&world, &bob).await;
    by_commands(&world, &files).await;
    // Last, as the server is closed from then on.
    by_keys(&world).await;

    // All of it, and nobody's name.
    let lines = export(world.data.path(), &[]);
    let text = serde_json::to_string(&lines).unwrap();
    assert!(text.contains(&ada.subject_id.to_string()));
    assert!(!text.contains(SECRET), "a name is in {:?}", lines.iter().find(|line| line.to_string().contains(SECRET)));
    assert!(lines.iter().enumerate().all(|(at, line)| line["position"] == at + 1));
    sound(world.data.path(), &files, &lines);
    unsound(world.data.path(), &files, &lines);
    heads(world.data.path(), &files, &lines);
}

/// Enrolled, and who is known; who is not.
async fn identified(world: &World) -> Enrolled {
    let (app, photo) = (&world.app, |person, number| world.photo(person, number));
    let ada: Enrolled = app.enroll_largest(&format!("Ada {SECRET}"), &photo(0, 0)).await;
    let entry = noted(app, "face.enroll").await;
    assert_eq!((entry.actor.as_str(), entry.outcome.as_deref()), ("anyone", Some("enrolled")));
    assert_eq!(
        (entry.subjects.as_slice(), entry.galleries[0].to_string()),
        (&[ada.subject_id.0][..], world.id.clone())
    );
    assert_eq!(
        (entry.details["face"].as_str(), entry.model.as_deref()),
        (Some(&*ada.face_id.to_string()), Some(&*ada.model))
    );

    let asked = uuid::Uuid::now_v7().to_string();
    let form = || world.form(&photo(0, 1));
    let answer =
        app.send(app.request(Method::POST, "/identify").header("x-request-id", &asked).multipart(form())).await;
    answer.expect(StatusCode::OK);
    let entry = noted(app, "identify").await;
    assert_eq!((entry.outcome.as_deref(), entry.request_id.as_deref()), (Some("known"), Some(asked.as_str())));
    assert_eq!(entry.subjects, [ada.subject_id.0]);
    assert_eq!((&entry.details["faces"], &entry.details["known"]), (&1.into(), &1.into()));
    let similarity = answer.value()["faces"][0]["matches"][0]["similarity"].as_f64().unwrap();
    assert!((entry.details["similarity"].as_f64().unwrap() - similarity).abs() < 1e-4, "{entry:?}");
    // What a client calls its request may be anything.
    app.send(app.request(Method::POST, "/identify").header("x-request-id", SECRET).multipart(form()))
        .await
        .expect(StatusCode::OK);

    let stranger = world.form(&photo(5, 0));
    app.post_form("/identify", stranger).await.expect(StatusCode::OK);
    app.post_form("/identify", world.form(&blank())).await.expect(StatusCode::OK);
    let outcomes = async || {
        let all = listed(app, "action=identify&limit=200").await;
        let outcomes: Vec<String> = all.into_iter().rev().filter_map(|entry| entry.outcome).collect();
        (outcomes.len() >= 4).then_some(outcomes)
    };
    let outcomes = eventually(Duration::from_secs(20), "four identifications", outcomes).await;
    assert_eq!(outcomes, ["known", "known", "unknown", "no_face"]);
    ada
}

/// Every other kind of question.
async fn asked(world: &World, ada: &Enrolled) -> Enrolled {
    let (app, photo) = (&world.app, |person, number| world.photo(person, number));
    let two = Form::new()
        .text("gallery", app.gallery.clone())
        .part("images", part(&photo(0, 2)))
        .part("images", part(b"no image"));
    app.post_form("/identify/batch", two).await.expect(StatusCode::OK);
    let embedded: Embedded = app.post_photo("/embed", &photo(0, 1)).await.json();
    let numbers = &embedded.faces[0].embedding;
    app.post_json("/identify/embedding", json!({"embedding": numbers, "gallery": app.gallery}))
        .await
        .expect(StatusCode::OK);
    let bob: Enrolled = app.enroll_largest(&format!("Bob {SECRET}"), &photo(1, 0)).await;
    app.post_json(&format!("/faces/{}/identify", bob.face_id), json!({})).await.expect(StatusCode::OK);
    app.post_json(&format!("/faces/{}/verify", bob.face_id), json!({"embedding": numbers}))
        .await
        .expect(StatusCode::OK);
    let pair = Form::new().part("image_a", part(&photo(0, 0))).part("image_b", part(&photo(0, 1)));
    app.post_form("/verify", pair).await.expect(StatusCode::OK);
    let compared = Form::new().part("image", part(&photo(0, 0))).part("candidates", part(&photo(1, 1)));
    app.post_form("/compare", compared).await.expect(StatusCode::OK);
    for (action, outcome, subjects) in [
        ("identify.batch", "known", vec![ada.subject_id.0]),
        ("identify.embedding", "known", vec![ada.subject_id.0]),
        ("identify.stored", "unknown", vec![]),
        ("verify.stored", "non_match", vec![bob.subject_id.0]),
        ("verify", "match", vec![]),
        ("compare", "non_match", vec![]),
    ] {
        let entry = noted(app, action).await;
        assert_eq!((entry.outcome.as_deref(), &entry.subjects), (Some(outcome), &subjects), "{action}");
        assert!(entry.model.as_deref() == Some(&*ada.model) && entry.request_id.is_some(), "{entry:?}");
    }
    let batch = noted(app, "identify.batch").await;
    assert_eq!((&batch.details["photos"], &batch.details["failed"]), (&2.into(), &1.into()));
    bob
}

async fn refused(world: &World) {
    let (app, photo) = (&world.app, |person, number| world.photo(person, number));
    let blank = blank();
    app.post_form("/verify", Form::new().part("image_a", part(&blank)).part("image_b", part(&blank)))
        .await
        .expect_problem(422, Code::NoFace);
    let nowhere = Form::new().text("gallery", SECRET).part("image", part(&photo(0, 0)));
    app.post_form("/identify", nowhere).await.expect_problem(404, Code::GalleryNotFound);
    app.post_form("/enroll", app.enroll_form(&format!("Cyd {SECRET}"), &blank)).await.expect_problem(422, Code::NoFace);
    for (action, code) in [("verify", "no_face"), ("identify", "gallery_not_found"), ("face.enroll", "no_face")] {
        let refused = async || {
            listed(app, &format!("action={action}&limit=1"))
                .await
                .into_iter()
                .next()
                .filter(|entry| entry.outcome.as_deref() == Some(code))
        };
        eventually(Duration::from_secs(20), code, refused).await;
    }
}

async fn changed(world: &World, bob: &Enrolled) {
    let (app, photo) = (&world.app, |person, number| world.photo(person, number));
    let gallery = &world.id;
    let metadata = json!({"badge": SECRET});
    let cyd = json!({"name": format!("Cyd {SECRET}"), "gallery": app.gallery, "metadata": metadata});
    let cyd: Subject = app.post_json("/subjects", cyd).await.json();
    let change = json!({"gallery": app.gallery, "name": format!("Dee {SECRET}")});
    app.send(app.request(Method::PATCH, &format!("/subjects/{}", cyd.id)).json(&change)).await.expect(StatusCode::OK);
    app.post_json(&format!("/faces/{}/move", bob.face_id), json!({"subject": cyd.id})).await;
    let merge = json!({"gallery": app.gallery, "subject": bob.subject_id});
    app.post_json(&format!("/subjects/{}/merge", cyd.id), merge).await.expect(StatusCode::OK);
    app.send(app.request(Method::DELETE, &format!("/faces/{}", bob.face_id))).await.expect(StatusCode::OK);
    let path = format!("/subjects/{}?gallery={gallery}", cyd.id);
    app.send(app.request(Method::DELETE, &path)).await.expect(StatusCode::OK);
    let archive = zipped(&[(format!("Eve {SECRET}/1.jpg"), photo(2, 0))]);
    let form = Form::new().text("gallery", app.gallery.clone()).part("file", part(&archive));
    let job = app.post_form("/admin/datasets", form).await;
    job.expect(StatusCode::ACCEPTED);
    let ended = async || {
        listed(app, "action=job.end").await.into_iter().find(|entry| entry.details["job"] == job.value()["id"])
    };
    let ended = eventually(Duration::from_secs(120), "the job ends", ended).await;
    assert_eq!(
        (ended.actor.as_str(), ended.outcome.as_deref(), &ended.details["kind"]),
        ("server", Some("succeeded"), &"import".into())
    );
    for action in [
        "subject.create",
        "subject.change",
        "face.move",
        "subject.merge",
        "face.erase",
        "subject.erase",
        "job.submit",
        "gallery.change",
    ] {
        let entry = noted(app, action).await;
        assert_eq!(entry.galleries.iter().map(ToString::to_string).collect::<Vec<_>>(), [gallery.as_str()], "{action}");
    }
}

/// What commands on the database do; and the end of the gallery.
async fn by_commands(world: &World, files: &TempDir) {
    let (app, data, gallery) = (&world.app, &world.data, &world.id);
    let exported = files.path().join("staff.jsonl");
    let status =
        faceid().arg("export").arg(&exported).args(["--gallery", &app.gallery, "--data-dir"]).arg(data.path()).status();
    assert!(status.unwrap().success());
    let into = faceid()
        .arg("import")
        .arg(&exported)
        .args(["--gallery", &format!("copy {SECRET}"), "--new-ids", "--data-dir"])
        .arg(data.path())
        .status();
    assert!(into.unwrap().success());
    for action in ["gallery.export", "faces.import"] {
        assert_eq!(noted(app, action).await.actor, "command", "{action}");
    }
    app.send(app.request(Method::DELETE, &format!("/galleries/{gallery}"))).await;
    noted(app, "gallery.erase").await;
}

async fn by_keys(world: &World) {
    let created = world.app.post_json("/admin/keys", json!({"name": "gate 3", "role": "owner"})).await.value();
    let first = created["key"].as_str().unwrap();
    let rotated = world.by(first, Method::POST, "/admin/keys/gate%203/rotate", Some(json!({}))).await.value();
    let key = rotated["key"].as_str().unwrap();
    let listed: Page<AuditEntry> = world.by(key, Method::GET, "/admin/audit?action=key", None).await.json();
    let actors: Vec<_> = listed.items.iter().map(|entry| (entry.action.as_str(), entry.actor.as_str())).collect();
    assert_eq!(actors, [("key.rotate", "gate 3"), ("key.create", "anyone")]);
    assert_eq!(listed.items[0].key_id.unwrap().to_string(), created["id"].as_str().unwrap());
    let head: AuditHead = world.by(key, Method::GET, "/admin/audit/head", None).await.json();
    assert!(head.position > 0 && head.hash.len() == 64, "{head:?}");

    // Who sees a part of the galleries does not see a record of all.
    let part = json!({"name": "part", "role": "admin", "galleries": ["default"]});
    let part = world.by(key, Method::POST, "/admin/keys", Some(part)).await.value();
    for path in ["/admin/audit", "/admin/audit/head"] {
        let answer = world.by(part["key"].as_str().unwrap(), Method::GET, path, None).await;
        answer.expect_problem(403, Code::Forbidden);
    }

    // Who may not is noted, as well.
    let gate = world.by(key, Method::POST, "/admin/keys", Some(json!({"name": "gate 4", "role": "identify"}))).await;
    let answer = world.by(gate.value()["key"].as_str().unwrap(), Method::POST, "/enroll", Some(json!({}))).await;
    answer.expect_problem(403, Code::Forbidden);
    let refused = async || {
        let path = "/admin/audit?action=face.enroll&actor=gate%204";
        world.by(key, Method::GET, path, None).await.json::<Page<AuditEntry>>().items.into_iter().next()
    };
    let refused = eventually(Duration::from_secs(20), "a refusal", refused).await;
    assert_eq!((refused.outcome.as_deref(), refused.request_id.is_some()), (Some("forbidden"), true));
}

/// As an export has them. The order of their fields is another one, which is no matter.
fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The lines of the page, which check a file.
fn python(files: &TempDir, file: &str) -> Output {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md")).unwrap();
    let code = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(code.lines().filter(|line| !line.is_empty()).count() <= 20, "the page promises little");
    Command::new("python3").args([&write(files, "verify.py", code), file]).output().unwrap()
}

fn sound(data: &Path, files: &TempDir, lines: &[Value]) {
    assert!(out(&audit(data, &["verify"])).contains("as it was sealed"));
    let whole = write(files, "whole.jsonl", &text(lines));
    out(&audit(data, &["verify", &whole]));
    let sound = python(files, &whole);
    let last = lines.last().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&sound.stdout).trim(),
        format!("sound up to position {}, {}", last["position"], last["hash"].as_str().unwrap())
    );
}

fn unsound(data: &Path, files: &TempDir, lines: &[Value]) {
    let mut changed = lines.to_vec();
    changed[4]["outcome"] = "nothing".into();
    let mut swapped = lines.to_vec();
    swapped.swap(4, 5);
    let without: Vec<Value> =
        lines.iter().enumerate().filter(|(at, _)| *at != 4).map(|(_, line)| line.clone()).collect();
    let mut twice = lines.to_vec();
    twice.insert(5, lines[4].clone());
    for (name, lines, position) in
        [("changed", changed, 5), ("swapped", swapped, 5), ("without", without, 5), ("twice", twice, 5)]
    {
        let file = write(files, name, &text(&lines));
        let found = audit(data, &["verify", &file, "--json"]);
        assert_eq!(found.status.code(), Some(1), "{name}");
        let verdict: Value = serde_json::from_slice(&found.stdout).unwrap();
        assert_eq!(verdict["faults"][0]["position"], position, "{name}: {verdict}");
        assert_eq!(python(files, &file).status.code(), Some(1), "{name}");
    }
}

fn heads(data: &Path, files: &TempDir, lines: &[Value]) {
    let (key, public, other) = (
        write(files, "key.pem", PRIVATE_KEY),
        write(files, "public.pem", PUBLIC_KEY),
        write(files, "other.pem", OTHER_KEY),
    );
    let signed = out(&audit(data, &["head", "--sign", &key]));
    let head = write(files, "head.json", &signed);
    let against = |arguments: &[&str]| audit(data, &[&["verify", "--head", &head], arguments].concat());
    out(&against(&["--public-key", &public]));
    assert_eq!(against(&["--public-key", &other]).status.code(), Some(1));
    let forged = write(files, "forged.json", &signed.replace("\"position\":", "\"position\":1"));
    let refused = audit(data, &["verify", "--head", &forged, "--public-key", &public]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not one of this key"), "{refused:?}");
    // An export whose end is cut off is sound but for the head.
    let cut = write(files, "cut.jsonl", &text(&lines[..lines.len() - 2]));
    out(&audit(data, &["verify", &cut]));
    let found = against(&[&cut]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&found.stdout).contains(&format!("position {}: is missing", lines.len() - 1)),
        "{found:?}"
    );
    // Parts are sound line by line.
    let part = export(data, &["--action", "subject"]);
    assert!(part.len() >= 4 && part.iter().all(|line| line["action"].as_str().unwrap().starts_with("subject.")));
    assert!(out(&audit(data, &["list", "--limit", "3"])).lines().count() == 3);
}

/// A photo of nobody.
fn blank() -> Vec<u8> {
    crate::made::grey_png(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs the test photos"]
async fn a_server_that_is_killed_loses_no_change() {
    let data = data_dir();
    let mut server = Server::start(data.path(), &[]).await;
    let url = Arc::new(server.url.clone());
    let photo = Arc::new(photos::read(&photos::people(&photos::folder("lfw100"))[0].1[0]));
    let mut clients: JoinSet<(Vec<String>, Vec<String>)> = JoinSet::new();
    for client in 0..4 {
        let (url, photo) = (Arc::clone(&url), Arc::clone(&photo));
        clients.spawn(async move {
            let (http, mut enrolled, mut erased) = (Client::new(), Vec::new(), Vec::new());
            for number in 0.. {
                let form = Form::new()
                    .text("subject", format!("{client} {number}"))
                    .text("quality", "any")
                    .text("face", "largest");
                let form = form.text("on_duplicate", "allow").part("image", part(&photo));
                let Ok(answer) = http.post(format!("{url}/enroll")).multipart(form).send().await else { break };
                let Ok(answer) = answer.json::<Value>().await else { break };
                let subject = answer["subject_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
                enrolled.push(subject.clone());
                if number % 2 == 0 {
                    let Ok(answer) = http.delete(format!("{url}/subjects/{subject}")).send().await else { break };
                    if answer.status().is_success() {
                        erased.push(subject);
                    }
                }
            }
            (enrolled, erased)
        });
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    server.kill();
    let (mut enrolled, mut erased) = (Vec::new(), Vec::new());
    while let Some(acknowledged) = clients.join_next().await {
        let (more, gone) = acknowledged.unwrap();
        enrolled.extend(more);
        erased.extend(gone);
    }
    assert!(!enrolled.is_empty() && !erased.is_empty(), "nothing was done");

    let server = Server::start(data.path(), &["--audit-answers", "false"]).await;
    let lines = export(data.path(), &[]);
    let of = |action: &str| -> Vec<&str> {
        let entries = lines.iter().filter(|line| line["action"] == action);
        entries.flat_map(|line| line["subjects"].as_array().unwrap().iter().filter_map(Value::as_str)).collect()
    };
    let (noted, forgotten) = (of("face.enroll"), of("subject.erase"));
    assert!(enrolled.iter().all(|subject| noted.contains(&subject.as_str())), "an enrolment is missing");
    assert!(erased.iter().all(|subject| forgotten.contains(&subject.as_str())), "an erasure is missing");
    out(&audit(data.path(), &["verify"]));

    // This one notes no questions, and all else.
    let app = TestApp::at(server.url.clone()).await;
    app.post_photo("/identify", &photo).await.expect(StatusCode::OK);
    app.post_form("/enroll", app.enroll_form("nobody", &blank())).await.expect_problem(422, Code::NoFace);
    let refused = async || {
        listed(&app, "action=face.enroll&limit=1")
            .await
            .into_iter()
            .find(|entry| entry.outcome.as_deref() == Some("no_face"))
    };
    eventually(Duration::from_secs(20), "a refusal is noted", refused).await;
    assert!(listed(&app, "action=identify").await.is_empty());
}
