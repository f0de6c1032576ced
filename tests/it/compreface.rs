//! CompreFace's routes below /api/v1, as its clients use them: what they send, what they read of the answers, and by which numbers
//! they branch.

use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::permissions::{Keys, holding, start};
use crate::support::process::{Server, data_dir};
use crate::support::{Answer, TestApp, photos};

/// A client of CompreFace: it knows a host and a key, and nothing of galleries.
pub struct Caller {
    pub app: TestApp,
    pub key: String,
}

impl Caller {
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Option<Value>>) -> Answer {
        let request = self.app.request(method, &format!("/api/v1{path}")).header("x-api-key", &self.key);
        self.app.send(body.into().iter().fold(request, |request, body| request.json(body))).await
    }

    /// Sends photos as forms do, by parts that have no type.
    pub async fn upload(&self, path: &str, files: &[(&str, &[u8])]) -> Answer {
        let part = |bytes: &[u8]| Part::bytes(bytes.to_vec()).file_name("image.jpg");
        let form = files.iter().fold(Form::new(), |form, (name, bytes)| form.part((*name).to_owned(), part(bytes)));
        let request = self.app.request(Method::POST, &format!("/api/v1{path}")).header("x-api-key", &self.key);
        self.app.send(request.multipart(form)).await
    }

    async fn add(&self, subject: &str, photo: &[u8]) -> String {
        let added = self.upload(&format!("/recognition/faces?subject={subject}"), &[("file", photo)]).await;
        added.expect(StatusCode::CREATED);
        assert_eq!(added.value()["subject"], subject);
        added.value()["image_id"].as_str().unwrap().to_owned()
    }
}

/// A server with two collections: each has a key.
async fn two() -> (tempfile::TempDir, Server, Keys, [Caller; 2]) {
    let folder = data_dir();
    let (server, keys) = start(folder.path()).await;
    let mut callers = Vec::new();
    for gallery in ["visitors", "staff"] {
        keys.admin(Method::POST, "/galleries", Some(json!({"name": gallery}))).await.expect(StatusCode::CREATED);
        let (_, key) = keys.make("enrol", Some(&[gallery]), json!({})).await;
        let app = TestApp { client: Client::new(), url: server.url.clone(), gallery: gallery.to_owned() };
        callers.push(Caller { app, key });
    }
    let Ok(callers) = callers.try_into() else { panic!("there are two") };
    (folder, server, keys, callers)
}

/// The status and the number of a failure.
#[track_caller]
pub fn failure(answer: &Answer) -> (u16, u64) {
    assert_eq!(answer.media_type.as_deref(), Some("application/json"), "{}", answer.text());
    let told = answer.value();
    assert!(told["message"].as_str().is_some_and(|message| !message.is_empty()), "{told}");
    assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
    (answer.status.as_u16(), told["code"].as_u64().unwrap())
}

fn members(value: &Value) -> Vec<&str> {
    let mut members: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    members
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_collection_as_clients_use_it() {
    let (_folder, _server, _keys, [one, other]) = two().await;
    subjects_are_kept_by_name(&one).await;
    examples_come_and_go(&one).await;
    who_is_it(&one, &other).await;
    pairs_are_compared(&one).await;
    embeddings_can_be_sent_back(&one).await;
    what_is_wrong_has_a_number(&one, &other).await;
    everything_can_go(&one).await;
}

async fn subjects_are_kept_by_name(one: &Caller) {
    let added = one.send(Method::POST, "/recognition/subjects", json!({"subject": "Élise", "api_endpoint": "x"})).await;
    added.expect(StatusCode::CREATED);
    assert_eq!(added.value(), json!({"subject": "Élise"}));
    // The same name in another case.
    let again = one.send(Method::POST, "/recognition/subjects", json!({"subject": "ÉLISE"})).await;
    assert_eq!(failure(&again), (400, 43));
    let renamed = async |from: &str, to: &str| {
        let path = format!("/recognition/subjects/{from}");
        one.send(Method::PUT, &path, json!({"subject": to})).await
    };
    assert_eq!(renamed("%C3%89LISE", "élise").await.value(), json!({"updated": true}));
    assert_eq!(renamed("same", "same").await.value(), json!({"updated": false}));
    assert_eq!(failure(&renamed("nobody", "somebody").await), (404, 42));
    assert_eq!(failure(&renamed("élise", "a;b").await), (400, 36));
    assert_eq!(failure(&renamed("élise", &"x".repeat(51)).await), (400, 26));
    let listed = one.send(Method::GET, "/recognition/subjects/", None).await;
    assert_eq!(listed.value(), json!({"subjects": ["élise"]}));
    let removed = one.send(Method::DELETE, "/recognition/subjects/%C3%89LISE", None).await;
    assert_eq!(removed.value(), json!({"subject": "élise"}));
    let gone = one.send(Method::DELETE, "/recognition/subjects/%C3%89lise", None).await;
    assert_eq!(failure(&gone), (404, 42));
}

async fn examples_come_and_go(one: &Caller) {
    let (first, second) = (photos::lfw("Tony_Blair", 9), photos::lfw("Tony_Blair", 6));
    let ids = [one.add("Tony", &first).await, one.add("tony", &second).await, one.add("TONY", &first).await];
    let page = one.send(Method::GET, "/recognition/faces?&page=1&size=2", None).await.value();
    assert_eq!(members(&page), ["faces", "page_number", "page_size", "total_elements", "total_pages"]);
    assert_eq!((&page["page_number"], &page["page_size"]), (&json!(1), &json!(2)));
    assert_eq!((&page["total_pages"], &page["total_elements"]), (&json!(2), &json!(3)));
    assert_eq!(page["faces"], json!([{"image_id": ids[2], "subject": "Tony"}]));
    // The filter of the list goes by letter case.
    let of = async |subject: &str| {
        let listed = one.send(Method::GET, &format!("/recognition/faces?subject={subject}&size=-1"), None).await;
        listed.value()["total_elements"].as_u64().unwrap()
    };
    assert_eq!((of("Tony").await, of("tony").await), (3, 0));
    let image = one.send(Method::GET, &format!("/recognition/faces/{}/img", ids[0]), None).await;
    assert_eq!(image.media_type.as_deref(), Some("application/octet-stream"));
    assert!(image.body.starts_with(b"\xff\xd8"));
    let image = one.app.get(&format!("/api/v1/static/{}/images/{}", one.key, ids[0])).await;
    assert!(image.status == 200 && image.body.starts_with(b"\xff\xd8"));
    let nothing = one.send(Method::GET, &format!("/recognition/faces/{}/img", Uuid::now_v7()), None).await;
    assert_eq!((nothing.status.as_u16(), nothing.body.len()), (200, 0));

    let removed = one.send(Method::DELETE, &format!("/recognition/faces/{}", ids[0]), None).await;
    assert_eq!(removed.value(), json!({"image_id": ids[0], "subject": "Tony"}));
    let again = one.send(Method::DELETE, &format!("/recognition/faces/{}", ids[0]), None).await;
    assert_eq!(failure(&again), (404, 44));
    let listed = json!([ids[0], ids[1]]);
    let removed = one.send(Method::POST, "/recognition/faces/delete", listed).await;
    assert_eq!(removed.value(), json!([{"image_id": ids[1], "subject": "Tony"}]));
    let removed = one.send(Method::DELETE, "/recognition/faces?subject=tony", None).await;
    assert_eq!(removed.value(), json!({"deleted": 1}));
    let removed = one.send(Method::DELETE, "/recognition/faces?subject=tony", None).await;
    assert_eq!(removed.value(), json!({"deleted": 0}));
    assert_eq!(one.send(Method::GET, "/recognition/subjects", None).await.value(), json!({"subjects": []}));
    let page = one.send(Method::GET, "/recognition/faces", None).await.value();
    assert_eq!((&page["total_pages"], &page["page_size"], &page["faces"]), (&json!(0), &json!(20), &json!([])));
}

async fn who_is_it(one: &Caller, other: &Caller) {
    for person in ["Tony_Blair", "Colin_Powell", "Gerhard_Schroeder"] {
        one.add(person, &photos::lfw(person, 9)).await;
    }
    let probe = photos::lfw("Tony_Blair", 3);
    let plain = one.upload("/recognition/recognize", &[("file", &probe)]).await.value();
    assert_eq!(members(&plain), ["result"]);
    let face = &plain["result"][0];
    assert_eq!(members(face), ["box", "subjects"]);
    assert_eq!(members(&face["box"]), ["probability", "x_max", "x_min", "y_max", "y_min"]);
    assert!(face["box"]["x_min"].is_i64() && face["box"]["x_min"].as_i64() < face["box"]["x_max"].as_i64());
    let best = &face["subjects"][0];
    assert_eq!((members(best), &best["subject"]), (vec!["similarity", "subject"], &json!("Tony_Blair")));
    assert!(best["similarity"].as_f64().unwrap() > 0.9, "{best}");
    assert_eq!(face["subjects"].as_array().unwrap().len(), 1);

    let asked = "?&limit=0&det_prob_threshold=0.8&prediction_count=2&status=True\
                 &face_plugins=calculator,age,gender,landmarks,pose,mask,calibration";
    let full = one.upload(&format!("/recognition/recognize{asked}"), &[("file", &probe)]).await.value();
    assert_eq!(members(&full["plugins_versions"]), ["calculator", "detector", "landmarks", "pose"]);
    let face = &full["result"][0];
    assert_eq!(members(face), ["box", "embedding", "execution_time", "landmarks", "pose", "subjects"]);
    assert_eq!(members(&face["execution_time"]), ["calculator", "detector"]);
    assert!(face["execution_time"]["detector"].as_f64().unwrap() > 0.0);
    assert_eq!(members(&face["pose"]), ["pitch", "roll", "yaw"]);
    let points = face["landmarks"].as_array().unwrap();
    assert!(points.len() == 5 && points[0][0].as_i64() < points[1][0].as_i64() && points[0][0].is_i64());
    assert_eq!(face["subjects"].as_array().unwrap().len(), 2);
    assert_eq!(members(&face["subjects"][0]), ["cosine", "probability", "similarity", "subject"]);

    // By JSON, with a data: URL or without.
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(&probe);
    for text in [text.clone(), format!("data:image/jpeg;base64,{text}")] {
        let by_json = one.send(Method::POST, "/recognition/recognize", json!({"file": text, "x": 1})).await.value();
        assert_eq!(by_json, plain);
    }
    // A crop of a face, in which none needs to be found.
    let crop = one.upload("/recognition/recognize?detect_faces=false", &[("file", &probe)]).await.value();
    assert_eq!(
        crop["result"][0]["box"],
        json!({"probability": 1.0, "x_min": 0, "y_min": 0, "x_max": 250, "y_max": 250})
    );
    assert_eq!(crop["result"][0]["subjects"][0]["subject"], "Tony_Blair");
    // Whoever is nearest is named, however unlike; of nobody, nobody.
    let empty = other.upload("/recognition/recognize", &[("file", &probe)]).await.value();
    assert_eq!(empty["result"][0]["subjects"], json!([]));
    // All faces, the largest first, or so many of them.
    let crowd = photos::read(&photos::folder("scenes").join("011_3.jpg"));
    let all = one.upload("/detection/detect", &[("file", &crowd)]).await.value();
    let areas: Vec<i64> = all["result"].as_array().unwrap().iter().map(|face| area(&face["box"])).collect();
    assert!(areas.len() == 3 && areas.is_sorted_by(|a, b| a >= b), "{areas:?}");
    let two = one.upload("/detection/detect?limit=2&face_plugins=calculator", &[("file", &crowd)]).await.value();
    let embeddings = two["result"].as_array().unwrap().iter().filter(|face| face["embedding"].is_array());
    assert_eq!(embeddings.count(), 2);
}

fn area(face: &Value) -> i64 {
    let of = |name: &str| face[name].as_i64().unwrap();
    (of("x_max") - of("x_min")) * (of("y_max") - of("y_min"))
}

fn pair<'a>(source: &'a [u8], target: &'a [u8]) -> [(&'static str, &'a [u8]); 2] {
    [("source_image", source), ("target_image", target)]
}

async fn pairs_are_compared(one: &Caller) {
    let (first, second) = (photos::lfw("Tony_Blair", 9), photos::lfw("Tony_Blair", 6));
    let crowd = photos::read(&photos::folder("scenes").join("011_3.jpg"));
    let same = one.upload("/verification/verify?status=true", &pair(&first, &second)).await.value();
    assert_eq!(members(&same), ["result"]);
    let [result] = same["result"].as_array().unwrap().as_slice() else { panic!("{same}") };
    assert_eq!(members(result), ["face_matches", "plugins_versions", "source_image_face"]);
    let matched = &result["face_matches"][0];
    assert_eq!(members(matched), ["box", "execution_time", "similarity"]);
    assert!(matched["similarity"].as_f64().unwrap() > 0.9);
    let others = one.upload("/verification/verify", &pair(&first, &crowd)).await.value();
    let matches = others["result"][0]["face_matches"].as_array().unwrap();
    assert!(matches.len() == 3 && matches.iter().all(|one| one["similarity"].as_f64().unwrap() < 0.5), "{others}");
    // A crowded source is refused, unless its largest face is meant.
    assert_eq!(failure(&one.upload("/verification/verify", &pair(&crowd, &first)).await), (400, 31));
    one.upload("/verification/verify?limit=1", &pair(&crowd, &first)).await.expect(StatusCode::OK);

    let listed = one.send(Method::GET, "/recognition/faces?subject=Tony_Blair", None).await.value();
    let id = listed["faces"][0]["image_id"].as_str().unwrap();
    let verified = one.upload(&format!("/recognition/faces/{id}/verify?"), &[("file", &second)]).await.value();
    assert_eq!(members(&verified["result"][0]), ["box", "similarity", "subject"]);
    assert_eq!(verified["result"][0]["subject"], "Tony_Blair");
    assert!(verified["result"][0]["similarity"].as_f64().unwrap() > 0.9);
    let path = format!("/recognition/faces/{}/verify", Uuid::now_v7());
    assert_eq!(failure(&one.upload(&path, &[("file", &second)]).await), (404, 44));
    // What is wrong with the photo comes first.
    assert_eq!(failure(&one.upload(&path, &[("file", b"no photo")]).await), (400, 28));
}

async fn embeddings_can_be_sent_back(one: &Caller) {
    let embedding = async |person: &str, number| {
        let photo = photos::lfw(person, number);
        let found = one.upload("/detection/detect?face_plugins=calculator", &[("file", &photo)]).await.value();
        found["result"][0]["embedding"].clone()
    };
    let (a, b, c) =
        (embedding("Tony_Blair", 4).await, embedding("Tony_Blair", 5).await, embedding("Colin_Powell", 2).await);
    let path = "/recognition/embeddings/recognize?prediction_count=2";
    let known = one.send(Method::POST, path, json!({"embeddings": [c, a]})).await.value();
    assert_eq!(members(&known["result"][0]), ["embedding", "similarities"]);
    assert_eq!(known["result"][1]["similarities"][0]["subject"], "Tony_Blair");
    assert_eq!(known["result"][1]["similarities"].as_array().unwrap().len(), 2);
    assert_eq!(known["result"][0]["embedding"], c);
    let verified =
        one.send(Method::POST, "/verification/embeddings/verify", json!({"source": a, "targets": [c, b]})).await;
    let verified = verified.value();
    // The most similar first.
    assert_eq!(verified["result"][0]["embedding"], b);
    assert!(verified["result"][1]["similarity"].as_f64().unwrap() < 0.5, "{}", verified["result"][1]["similarity"]);
    let listed = one.send(Method::GET, "/recognition/faces?subject=Tony_Blair", None).await.value();
    let path = format!("/recognition/embeddings/faces/{}/verify", listed["faces"][0]["image_id"].as_str().unwrap());
    let verified = one.send(Method::POST, &path, json!({"embeddings": [c, a]})).await.value();
    assert_eq!((&verified["result"][0]["embedding"], verified["result"].as_array().unwrap().len()), (&a, 2));
    for (path, body, expected) in [
        (path.as_str(), json!({"embeddings": []}), (400, 5)),
        (path.as_str(), json!({}), (400, 5)),
        (path.as_str(), json!({"embeddings": [[1.0, 2.0]]}), (400, 0)),
        ("/verification/embeddings/verify", json!({"source": a}), (400, 5)),
        ("/recognition/embeddings/recognize", json!({"embeddings": "none"}), (400, 0)),
    ] {
        assert_eq!(failure(&one.send(Method::POST, path, body.clone()).await), expected, "{path} {body}");
    }
}

async fn what_is_wrong_has_a_number(one: &Caller, other: &Caller) {
    let photo = photos::lfw("Tony_Blair", 9);
    let crowd = photos::read(&photos::folder("scenes").join("011_3.jpg"));
    let nobody = photos::read(&photos::folder("scenes").join("017_0.jpg"));
    let file: &[(&str, &[u8])] = &[("file", &photo)];
    for (path, files, expected) in [
        ("/recognition/recognize", &[("file", &nobody[..])] as &[(&str, &[u8])], (400, 28)),
        ("/recognition/recognize", &[("file", b"".as_slice())], (400, 28)),
        ("/recognition/recognize", &[("photo", &photo)], (400, 34)),
        ("/recognition/recognize?limit=-1", file, (400, 26)),
        ("/recognition/recognize?limit=abc", file, (400, 26)),
        ("/recognition/recognize?prediction_count=0", file, (400, 26)),
        ("/recognition/recognize?det_prob_threshold=2", file, (400, 26)),
        ("/recognition/faces", file, (400, 33)),
        ("/recognition/faces?subject=%20", file, (400, 26)),
        ("/recognition/faces?subject=x", &[("file", &crowd)], (400, 31)),
        ("/recognition/faces?subject=x", &[("file", &nobody)], (400, 28)),
        ("/recognition/faces/x/verify", file, (400, 26)),
        ("/verification/verify", &[("source_image", &photo)], (400, 34)),
        ("/detection/detect?det_prob_threshold=1", file, (400, 28)),
    ] {
        assert_eq!(failure(&one.upload(path, files).await), expected, "{path}");
    }
    // Nobody came about with what was refused.
    let listed = one.send(Method::GET, "/recognition/subjects", None).await.value();
    assert!(!listed["subjects"].as_array().unwrap().contains(&json!("x")));
    for (path, body, expected) in [
        ("/recognition/recognize", json!({}), (400, 5)),
        ("/recognition/recognize", json!({"file": "§"}), (400, 21)),
        ("/recognition/subjects", json!({}), (400, 5)),
        ("/recognition/subjects", json!({"subject": " "}), (400, 26)),
        ("/recognition/faces/delete", json!(["x"]), (400, 26)),
        ("/recognition/faces/delete", json!({"ids": []}), (400, 0)),
    ] {
        assert_eq!(failure(&one.send(Method::POST, path, body.clone()).await), expected, "{path} {body}");
    }
    let form = Form::new().part("file", Part::bytes(photo.clone()).file_name("a.exe"));
    let request = one.app.request(Method::POST, "/api/v1/detection/detect").header("x-api-key", &one.key);
    assert_eq!(failure(&one.app.send(request.multipart(form)).await), (400, 21));
    assert_eq!(failure(&one.send(Method::GET, "/recognition/recognize", None).await), (404, 0));
    assert_eq!(failure(&one.send(Method::GET, "/nowhere/", None).await), (404, 0));
    assert_eq!(failure(&one.send(Method::DELETE, "/recognition/faces?subject=", None).await), (400, 26));
    let text = one.app.request(Method::POST, "/api/v1/recognition/subjects").header("x-api-key", &one.key).body("x");
    assert_eq!(failure(&one.app.send(text).await), (415, 0));
    // Of another collection nothing is there.
    let listed = one.send(Method::GET, "/recognition/faces?subject=Tony_Blair", None).await.value();
    let id = listed["faces"][0]["image_id"].as_str().unwrap();
    let path = format!("/recognition/faces/{id}");
    assert_eq!(failure(&other.send(Method::DELETE, &path, None).await), (404, 44));
    assert_eq!(other.send(Method::POST, "/recognition/faces/delete", json!([id])).await.value(), json!([]));
    assert!(other.send(Method::GET, &format!("{path}/img"), None).await.body.is_empty());
    assert_eq!(failure(&other.upload(&format!("{path}/verify"), file).await), (404, 44));
}

async fn everything_can_go(one: &Caller) {
    let before = one.send(Method::GET, "/recognition/faces", None).await.value()["total_elements"].clone();
    assert_eq!(one.send(Method::DELETE, "/recognition/faces", None).await.value(), json!({"deleted": before}));
    one.add("Ada", &photos::lfw("Tony_Blair", 9)).await;
    assert_eq!(one.send(Method::DELETE, "/recognition/subjects", None).await.value(), json!({"deleted": 1}));
    assert_eq!(one.send(Method::GET, "/recognition/subjects", None).await.value(), json!({"subjects": []}));
}

/// A name that is in use gets the examples, whose ids stay.
#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_name_in_use_takes_the_examples_over() {
    let (_folder, _server, keys, [one, _]) = two().await;
    let ids =
        [one.add("Tony", &photos::lfw("Tony_Blair", 9)).await, one.add("Blair", &photos::lfw("Tony_Blair", 6)).await];
    let merged = one.send(Method::PUT, "/recognition/subjects/tony", json!({"subject": "BLAIR"})).await;
    assert_eq!(merged.value(), json!({"updated": true}));
    let listed = one.send(Method::GET, "/recognition/faces", None).await.value();
    let mut owners: Vec<(&str, &str)> = listed["faces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|face| (face["image_id"].as_str().unwrap(), face["subject"].as_str().unwrap()))
        .collect();
    owners.sort_unstable();
    let mut expected: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), "Blair")).collect();
    expected.sort_unstable();
    assert_eq!(owners, expected);
    // A key of all galleries means `default`, unless the request says which.
    let admin = Caller {
        app: TestApp { client: Client::new(), url: one.app.url.clone(), gallery: String::new() },
        key: holding::ADMIN.to_owned(),
    };
    assert_eq!(admin.send(Method::GET, "/recognition/subjects", None).await.value(), json!({"subjects": []}));
    let named = admin.send(Method::GET, "/recognition/subjects?gallery=visitors", None).await.value();
    assert_eq!(named, json!({"subjects": ["Blair"]}));
    assert_eq!(failure(&one.send(Method::GET, "/recognition/subjects?gallery=staff", None).await), (404, 10));
    drop(keys);
}

#[tokio::test]
async fn pages_of_other_origins_may_ask() {
    let (_folder, _server, _keys, [one, _]) = two().await;
    let url = "/api/v1/recognition/recognize";
    let asked = one.app.request(Method::OPTIONS, url).header("origin", "https://page.example");
    let asked = asked
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-api-key");
    let allowed = one.app.send(asked).await;
    assert_eq!(
        (allowed.status.as_u16(), &allowed.headers["access-control-allow-origin"]),
        (204, &"*".parse().unwrap())
    );
    let sent = allowed.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(sent.contains("x-api-key") && sent.contains("content-type"), "{sent}");
    // Also what is refused.
    let refused = one.app.send(one.app.request(Method::POST, url).header("origin", "https://page.example")).await;
    assert_eq!(failure(&refused), (400, 20));
    assert_eq!(refused.headers["access-control-allow-origin"], "*");
    let config = one.app.get("/api/v1/config").await.value();
    assert!(config["clientMaxFileSize"].as_u64().unwrap() > 5_000_000, "{config}");
    assert_eq!(members(&config), ["clientMaxBodySize", "clientMaxFileSize"]);
}
