//! Every route of the document, with every kind of key: what a role may not do is refused, and galleries outside of a key's do not
//! exist.

use std::collections::BTreeSet;

use chrono::Utc;
use faceid::http::{Code, Problem};
use reqwest::{Client, Method};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::datasets::zipped;
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, eventually, photos};

/// The keys of the servers that [`start`] starts.
pub mod holding {
    pub const CLIENT: &str = "client-key-for-tests";
    pub const ADMIN: &str = "admin-key-for-tests-";
}

use holding::{ADMIN, CLIENT};

pub const ROLES: [&str; 5] = ["identify", "read", "enrol", "admin", "owner"];

/// Whether a key of a role, for all galleries or for some, may do what a route needs; said here once more, so that a change of the
/// code is not its own proof.
pub fn may(role: &str, everywhere: bool, permission: &str) -> bool {
    match permission {
        "enter" => true,
        "ask" => matches!(role, "identify" | "enrol" | "admin" | "owner"),
        "look" => role != "identify",
        "change" => matches!(role, "enrol" | "admin" | "owner"),
        "manage" | "administer" => matches!(role, "admin" | "owner"),
        "create" => everywhere && matches!(role, "admin" | "owner"),
        "monitor" => everywhere && role != "identify",
        "own" => everywhere && role == "owner",
        other => panic!("{other} is no permission"),
    }
}

/// A gallery with something in it, or one that is not there.
#[derive(Debug, Clone)]
pub struct World {
    gallery: String,
    gallery_id: String,
    subject: String,
    subject_id: String,
    pub face: String,
    job: String,
    key: String,
    erasure: String,
}

impl World {
    pub fn nowhere() -> Self {
        let id = || Uuid::now_v7().to_string();
        let name = |what: &str| format!("no-{what}-{}", Uuid::now_v7().simple());
        let (gallery, subject) = (name("gallery"), name("subject"));
        Self { gallery, gallery_id: id(), subject, subject_id: id(), face: id(), job: id(), key: id(), erasure: id() }
    }

    /// What tells it from another one.
    fn names(&self) -> [(&'static str, &str); 8] {
        [
            ("GALLERY", &self.gallery),
            ("GALLERY_ID", &self.gallery_id),
            ("SUBJECT", &self.subject),
            ("SUBJECT_ID", &self.subject_id),
            ("FACE", &self.face),
            ("JOB", &self.job),
            ("KEY", &self.key),
            ("ERASURE", &self.erasure),
        ]
    }

    /// A text that speaks of it, as it would of any other.
    fn anywhere(&self, text: &str) -> String {
        self.names().iter().fold(text.to_owned(), |text, (what, name)| text.replace(name, what))
    }
}

/// A route of the document.
pub struct Route {
    pub method: Method,
    pub path: String,
    pub id: String,
    /// `None`: it needs no key.
    permission: Option<String>,
    pub fields: BTreeSet<String>,
    /// What may be in the query string.
    pub query: BTreeSet<String>,
}

pub struct Keys {
    pub app: TestApp,
}

impl Keys {
    pub async fn make(&self, role: &str, galleries: Option<&[&str]>, more: Value) -> (String, String) {
        let mut request = json!({"name": format!("{role} {}", Uuid::now_v7()), "role": role});
        if let Some(galleries) = galleries {
            request["galleries"] = json!(galleries);
        }
        request.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let made = self.admin(Method::POST, "/admin/keys", Some(request)).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.value();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.app.request(method, path).header("x-api-key", ADMIN);
        self.app.send(body.iter().fold(request, |request, body| request.json(body))).await
    }

    /// Sends what a route takes, about a world.
    pub async fn send(&self, route: &Route, world: &World, key: Option<&str>) -> Answer {
        let path = [
            ("{gallery}", world.gallery.as_str()),
            ("{subject}", &world.subject),
            ("{face}", &world.face),
            ("{job}", &world.job),
            ("{key}", &world.key),
            ("{erasure}", &world.erasure),
            ("{item}", &world.job),
            ("{model}", "no-such-model"),
        ];
        let path = path.iter().fold(route.path.clone(), |path, (hole, name)| path.replace(hole, name));
        let mut request = self.app.request(route.method.clone(), &path);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        if route.query.contains("gallery") {
            request = request.query(&[("gallery", &world.gallery)]);
        }
        if route.id == "upload_dataset" {
            request = request.header("content-type", "application/zip").body("no archive");
        } else if route.method != Method::GET && route.method != Method::DELETE {
            request = request.json(&body(route, world));
        }
        self.app.send(request).await
    }
}

/// A request that is complete, about a world.
fn body(route: &Route, world: &World) -> Value {
    let embedding = vec![0.5; 128];
    let photo = || {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(photos::lfw("Tony_Blair", 1))
    };
    let takes = |field: &str| route.fields.contains(field);
    let mut body = Map::new();
    let mut add = |field: &str, value: Value| _ = body.insert(field.to_owned(), value);
    if takes("gallery") && !route.query.contains("gallery") {
        add("gallery", json!(world.gallery));
    }
    match route.id.as_str() {
        "compare_candidates" => add("candidate_embeddings", json!([embedding])),
        "create_gallery" => add("name", json!(Uuid::now_v7().to_string())),
        "create_subject" => add("name", json!("Eve")),
        "create_key" => {
            add("name", json!(Uuid::now_v7().to_string()));
            add("role", json!("identify"));
            add("galleries", json!([world.gallery]));
        }
        "change_subject" => add("metadata", json!({"changed": true})),
        "delete_subjects" => add("subjects", json!([world.subject])),
        "delete_faces" => add("faces", json!([world.face])),
        "merge_subjects" => add("subject", json!(world.subject_id)),
        "move_face" | "enroll_face" => add("subject", json!("Eve")),
        _ => {}
    }
    let wants_embedding = takes("embedding");
    if wants_embedding {
        add("embedding", json!(embedding));
    }
    for field in ["image", "image_a", "image_b", "file"] {
        if takes(field) && !wants_embedding {
            add(field, json!(photo()));
        }
    }
    if takes("images") {
        add("images", json!([photo()]));
    }
    Value::Object(body)
}

/// All that the document has.
pub fn routes(document: &Value) -> Vec<Route> {
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let open =
                operation["security"].as_array().is_some_and(|security| security.iter().all(|way| way == &json!({})));
            let permission = operation["x-permission"].as_str().map(str::to_owned);
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert_eq!(permission.is_none(), open, "{id}: either it says what it needs, or it is open to all");
            let reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
            let schema = reference.and_then(|reference| document.pointer(reference.trim_start_matches('#')));
            let fields = schema.and_then(|schema| schema["properties"].as_object());
            let fields = fields.map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_query =
                parameters.iter().filter(|one| one["in"] == "query").map(|one| one["name"].as_str().unwrap());
            let query = in_query.map(str::to_owned).collect();
            let method = method.to_uppercase().parse().unwrap();
            routes.push(Route { method, path: path.clone(), id, permission, fields, query });
        }
    }
    routes
}

pub async fn start(folder: &std::path::Path) -> (Server, Keys) {
    let server = Server::start(folder, &["--client-key", CLIENT, "--admin-key", ADMIN]).await;
    let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: String::new() };
    (server, Keys { app })
}

/// A gallery with a subject, a face, a job and a key.
pub async fn world(keys: &Keys, gallery: &str, subject: &str, person: &str) -> World {
    let created = keys.admin(Method::POST, "/galleries", Some(json!({"name": gallery}))).await.value();
    let url = format!("/enroll?gallery={gallery}&subject={subject}&face=largest&quality=any");
    let photo = photos::lfw(person, 1);
    let enroll = keys.app.request(Method::POST, &url).header("x-api-key", ADMIN).header("content-type", "image/jpeg");
    let enrolled = keys.app.send(enroll.body(photo)).await;
    assert_eq!(enrolled.status, 201, "{}", enrolled.text());
    let enrolled = enrolled.value();
    let again = keys.app.request(Method::POST, &url).header("x-api-key", ADMIN).header("content-type", "image/jpeg");
    let gone = keys.app.send(again.body(photos::lfw(person, 2))).await.value()["face_id"].as_str().unwrap().to_owned();
    let erased = keys.admin(Method::DELETE, &format!("/faces/{gone}"), None).await.value();
    let archive = zipped(&[(format!("Zoe of {subject}/1.jpg"), photos::lfw(person, 2))]);
    let upload = keys.app.request(Method::POST, &format!("/admin/datasets?gallery={gallery}"));
    let upload = upload.header("x-api-key", ADMIN).header("content-type", "application/zip").body(archive);
    let job = keys.app.send(upload).await.value();
    let job = job["id"].as_str().unwrap().to_owned();
    eventually(std::time::Duration::from_secs(60), "the data set", async || {
        let state = keys.admin(Method::GET, &format!("/admin/jobs/{job}"), None).await.value()["state"].clone();
        (state == "succeeded").then_some(())
    })
    .await;
    let (key, _) = keys.make("read", Some(&[gallery]), json!({})).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    World {
        gallery: gallery.to_owned(),
        gallery_id: text(&created["id"]),
        subject: subject.to_owned(),
        subject_id: text(&enrolled["subject_id"]),
        face: text(&enrolled["face_id"]),
        job,
        key,
        erasure: text(&erased["erasure"]),
    }
}

/// What a refusal says, or the status of what is none.
fn said(answer: &Answer, world: &World) -> String {
    match answer.status.is_success() {
        true => format!("{}", answer.status),
        false => format!("{} {}", answer.status, world.anywhere(&answer.text())),
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn every_route_takes_the_keys_that_it_names_and_no_others() {
    let folder = data_dir();
    let (_server, keys) = start(folder.path()).await;
    let mine = world(&keys, "mine", "Ada", "Tony_Blair").await;
    let routes = routes(&keys.app.get("/openapi.json").await.value());
    assert!(routes.len() > 50, "{}", routes.len());
    let soon = (Utc::now() + chrono::Duration::seconds(1)).to_rfc3339();
    let (_, expired) = keys.make("owner", None, json!({"expires_at": soon})).await;
    let (id, revoked) = keys.make("owner", None, json!({})).await;
    assert!(keys.admin(Method::DELETE, &format!("/admin/keys/{id}"), None).await.status.is_success());
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let strangers = [None, Some("no-key-of-this-server"), Some(&*expired), Some(&*revoked), Some("")];
    let mut holders = Vec::new();
    for role in ROLES {
        holders.push((role, true, keys.make(role, None, json!({})).await.1));
        if role != "owner" {
            holders.push((role, false, keys.make(role, Some(&["mine"]), json!({})).await.1));
        }
    }
    // What is asked for is not there, so that nothing changes.
    let nowhere = World::nowhere();
    for route in &routes {
        let name = format!("{} {}", route.method, route.path);
        let Some(permission) = &route.permission else {
            let answer = keys.send(route, &nowhere, None).await;
            assert!(answer.status.is_success() || answer.status == 503, "{name}: {}", answer.text());
            continue;
        };
        for stranger in strangers {
            let answer = keys.send(route, &nowhere, stranger).await;
            assert_eq!(answer.status, 401, "{name} with {stranger:?}: {}", answer.text());
            answer.expect_problem(401, Code::Unauthorized);
        }
        for (role, everywhere, key) in &holders {
            let answer = keys.send(route, &nowhere, Some(key)).await;
            let holder = format!("{name} by {role}, everywhere: {everywhere}: {}", answer.text());
            if may(role, *everywhere, permission) {
                assert!(![401, 403].contains(&answer.status.as_u16()), "{holder}");
                assert!(!answer.status.is_server_error(), "{holder}");
            } else {
                assert_eq!(answer.status, 403, "{holder}");
                assert_eq!(answer.json::<Problem>().code, Code::Forbidden, "{holder}");
            }
        }
    }
    // What each is for is done to what is there.
    for (role, everywhere, key) in &holders {
        for route in &routes {
            let reads = route.method == Method::GET && route.id != "follow_job" || route.path.contains("identify");
            let allowed = route.permission.as_ref().is_some_and(|permission| may(role, *everywhere, permission));
            if reads && allowed && !route.path.contains("{model}") {
                let answer = keys.send(route, &mine, Some(key)).await;
                assert!(answer.status.is_success(), "{} by {role}: {}", route.path, answer.text());
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn galleries_of_others_are_not_there() {
    let folder = data_dir();
    let (_server, keys) = start(folder.path()).await;
    let mine = world(&keys, "mine-of-two", "Ada", "Tony_Blair").await;
    let theirs = world(&keys, "theirs-of-two", "Bea", "George_W_Bush").await;
    let routes = routes(&keys.app.get("/openapi.json").await.value());
    let nowhere = World::nowhere();
    let mut compared = 0;
    for role in ["identify", "read", "enrol", "admin"] {
        let (_, key) = keys.make(role, Some(&[&mine.gallery]), json!({})).await;
        for route in &routes {
            let Some(permission) = &route.permission else { continue };
            if !may(role, false, permission) {
                continue;
            }
            let name = format!("{} {} by {role}", route.method, route.path);
            // By name, and by ids alone.
            let by_id = |world: &World| World {
                gallery: world.gallery_id.clone(),
                subject: world.subject_id.clone(),
                ..world.clone()
            };
            for (there, not) in [(theirs.clone(), nowhere.clone()), (by_id(&theirs), by_id(&nowhere))] {
                let (of_theirs, of_nowhere) =
                    (keys.send(route, &there, Some(&key)).await, keys.send(route, &not, Some(&key)).await);
                assert_eq!(said(&of_theirs, &there), said(&of_nowhere, &not), "{name}");
                compared += 1;
                let text = of_theirs.text();
                // What the request itself said may come back, as it would of anything else.
                let is_echo = there.anywhere(&text) == not.anywhere(&of_nowhere.text());
                if of_theirs.status.is_success() && !is_echo {
                    for (what, told) in theirs.names() {
                        assert!(!text.contains(told), "{name} tells of {what}: {text}");
                    }
                }
            }
            // A gallery of one's own, and what is in another.
            let mixed = World { gallery: mine.gallery.clone(), ..theirs.clone() };
            let not = World { gallery: mine.gallery.clone(), ..nowhere.clone() };
            if route.path.contains('{') && !route.path.contains("{gallery}") {
                let (of_theirs, of_nowhere) =
                    (keys.send(route, &mixed, Some(&key)).await, keys.send(route, &not, Some(&key)).await);
                assert_eq!(said(&of_theirs, &mixed), said(&of_nowhere, &not), "{name}");
            }
        }
    }
    assert!(compared > 100, "{compared}");
    // And nothing was done to what is in it.
    let subject = keys.admin(Method::GET, "/subjects/Bea?gallery=theirs-of-two", None).await.value();
    assert_eq!((&subject["faces"], &subject["metadata"]), (&json!(1), &json!({})));
    let face = keys.admin(Method::GET, &format!("/faces/{}", theirs.face), None).await;
    assert_eq!(face.value()["subject"], "Bea");
    let key = keys.admin(Method::GET, &format!("/admin/keys/{}", theirs.key), None).await.value();
    assert_eq!(key["revoked_at"], Value::Null, "{key}");
    let subjects = keys.admin(Method::GET, "/subjects?gallery=theirs-of-two", None).await.value();
    assert_eq!(subjects["items"].as_array().unwrap().len(), 2, "{subjects}");
}

/// Several galleries at once, and metrics, tell no more.
#[tokio::test]
#[ignore = "needs the test photos"]
async fn neither_lists_nor_counts_tell_of_other_galleries() {
    let folder = data_dir();
    let (_server, keys) = start(folder.path()).await;
    world(&keys, "mine-to-count", "Ada", "Tony_Blair").await;
    let theirs = world(&keys, "theirs-to-count", "Bea", "George_W_Bush").await;
    let (_, key) = keys.make("admin", Some(&["mine-to-count"]), json!({})).await;
    let get = async |path: &str| {
        let answer = keys.app.send(keys.app.request(Method::GET, path).header("x-api-key", &key)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.value()
    };
    let names =
        |list: &Value| list["items"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&get("/galleries").await), ["mine-to-count"]);
    for list in ["/admin/jobs", "/admin/keys"] {
        let list = get(list).await.to_string();
        assert!(theirs.names().iter().all(|(_, name)| !list.contains(name)), "{list}");
    }
    let both = json!({"embedding": vec![0.5; 128], "galleries": ["mine-to-count", "theirs-to-count"]});
    let identify = keys.app.request(Method::POST, "/identify/embedding").header("x-api-key", &key).json(&both);
    keys.app.send(identify).await.expect_problem(404, Code::GalleryNotFound);
    let metrics = keys.admin(Method::GET, "/metrics", None).await.text();
    assert!(metrics.contains("faceid_http_requests_total"), "{metrics}");
    for name in ["mine-to-count", &theirs.gallery, &theirs.gallery_id, &theirs.subject_id, &key[..8]] {
        assert!(!metrics.contains(name), "{name} is in the metrics");
    }
}
