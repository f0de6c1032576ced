//! What is enrolled, compared with photos, embeddings and everybody else; and what a server says of itself.

use faceid::http::Code;
use faceid::service::answers::{Embedded, Enrolled, IdentifiedEmbedding, Info, Page, Subject, VerifiedStored, Version};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, TestApp, part, photos};

/// Sends a photo to a route, in the test's gallery.
async fn send(app: &TestApp, path: &str, photo: &[u8]) -> Answer {
    app.post_form(&format!("{path}?gallery={}", app.gallery), Form::new().part("image", part(photo))).await
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_photo_is_verified_against_who_is_enrolled() {
    let app = TestApp::start().await;
    let people = app.enroll_people(3, 1).await;
    let (name, files) = &people[0];
    let (probe, other) = (photos::read(&files[1]), photos::read(&people[1].1[1]));
    let enrolled: Enrolled = app.enroll_largest(name, &photos::read(&files[2])).await;

    let of_subject = format!("/subjects/{name}/verify");
    let yes: VerifiedStored = send(&app, &of_subject, &probe).await.json();
    assert!(yes.same_person && yes.face.is_some() && yes.face_id.is_none(), "{yes:?}");
    assert_eq!((yes.subject.as_str(), yes.subject_id), (name.as_str(), enrolled.subject_id));
    let no: VerifiedStored = send(&app, &of_subject, &other).await.json();
    assert!(!no.same_person && no.similarity < yes.similarity);

    // A face is found without its gallery; its embedding is its own, not the template of both.
    let of_face = format!("/faces/{}/verify", enrolled.face_id);
    let embedded: Embedded = app.post_photo("/embed", &probe).await.json();
    let numbers = json!({"embedding": embedded.faces[0].embedding});
    let by_embedding: VerifiedStored = app.post_json(&of_face, numbers.clone()).await.json();
    assert!(by_embedding.same_person && by_embedding.face.is_none() && by_embedding.face_id == Some(enrolled.face_id));
    let itself: VerifiedStored = send(&app, &of_face, &photos::read(&files[2])).await.json();
    assert!(itself.similarity > 0.99 && itself.similarity > by_embedding.similarity, "{itself:?}");

    app.post_json(&of_face, json!({})).await.expect_problem(422, Code::InvalidField);
    let elsewhere = app.post_json(&format!("{of_face}?gallery=default"), numbers).await;
    elsewhere.expect_problem(404, Code::FaceNotFound);
    send(&app, "/subjects/nobody/verify", &probe).await.expect_problem(404, Code::SubjectNotFound);
    app.post_json("/subjects", json!({"name": "faceless", "gallery": app.gallery})).await.expect(StatusCode::CREATED);
    send(&app, "/subjects/faceless/verify", &probe).await.expect_problem(409, Code::NotEmbedded);
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn who_is_enrolled_is_identified_among_the_others() {
    let app = TestApp::start().await;
    let people = app.enroll_people(4, 1).await;
    let (name, files) = &people[0];
    let twin: Enrolled = app.enroll_largest("the same again", &photos::read(&files[1])).await;
    let gallery = json!({"gallery": app.gallery, "top_k": 100});
    let found: IdentifiedEmbedding = app.post_json(&format!("/subjects/{name}/identify"), gallery.clone()).await.json();
    assert!(found.known, "{found:?}");
    assert_eq!((found.matches.len(), found.matches[0].subject.as_str()), (4, "the same again"));
    assert!(found.matches.iter().all(|other| other.subject != *name));
    let found: IdentifiedEmbedding =
        app.post_json(&format!("/faces/{}/identify", twin.face_id), json!({})).await.json();
    assert_eq!(found.matches[0].subject, *name);
    assert!(found.matches.iter().all(|other| other.subject_id != twin.subject_id));
}

#[tokio::test]
async fn subjects_are_listed_by_prefix_and_metadata() {
    let app = TestApp::start().await;
    for (name, badge) in [("Ada", 1), ("Adam", 2), ("Bob", 2), ("100%_", 3)] {
        let new = json!({"name": name, "gallery": app.gallery, "metadata": {"badge": badge, "site": "east"}});
        app.post_json("/subjects", new).await.expect(StatusCode::CREATED);
    }
    let names = async |query: &[(&str, &str)]| {
        let request = app.request(Method::GET, &format!("/subjects?gallery={}", app.gallery)).query(query);
        let page: Page<Subject> = app.send(request).await.json();
        page.items.into_iter().map(|subject| subject.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[("prefix", "Ada")]).await, ["Ada", "Adam"]);
    // The characters of patterns stand for themselves.
    assert_eq!(names(&[("prefix", "100%_")]).await, ["100%_"]);
    assert_eq!(names(&[("prefix", "%")]).await, Vec::<String>::new());
    assert_eq!(names(&[("metadata", r#"{"badge": 2}"#)]).await, ["Adam", "Bob"]);
    assert_eq!(names(&[("metadata", r#"{"badge": 2}"#), ("prefix", "B")]).await, ["Bob"]);
    assert_eq!(names(&[("metadata", r#"{"site": "east"}"#)]).await.len(), 4);
}

#[tokio::test]
async fn a_cursor_belongs_to_its_list() {
    let app = TestApp::start().await;
    for name in ["a", "b", "c"] {
        let new = json!({"name": name, "gallery": app.gallery});
        app.post_json("/subjects", new).await.expect(StatusCode::CREATED);
    }
    let page: Page<Subject> = app.get(&format!("/subjects?gallery={}&limit=1", app.gallery)).await.json();
    let cursor = page.next_cursor.unwrap();
    let next: Page<Subject> =
        app.get(&format!("/subjects?gallery={}&limit=1&cursor={cursor}", app.gallery)).await.json();
    assert_eq!(next.items[0].name, "b");
    for other in [
        format!("/subjects?cursor={cursor}"),
        format!("/subjects?gallery={}&prefix=a&cursor={cursor}", app.gallery),
        format!("/faces?gallery={}&cursor={cursor}", app.gallery),
        format!("/galleries?cursor={cursor}"),
        format!("/duplicates?gallery={}&cursor={cursor}", app.gallery),
        format!("/admin/jobs?cursor={cursor}"),
    ] {
        app.get(&other).await.expect_problem(400, Code::InvalidCursor);
    }
}

#[tokio::test]
async fn a_server_says_what_it_is() {
    let app = TestApp::start().await;
    let version: Version = app.get("/version").await.json();
    assert_eq!((version.name.as_str(), version.version.as_str()), ("faceid", env!("CARGO_PKG_VERSION")));
    let info: Info = app.get("/info").await.json();
    assert_eq!((info.model.name.as_str(), info.model.dimension, info.model.chip_side), ("sface-128", 128, 112));
    let thresholds: Vec<f32> = info.model.thresholds.iter().map(|at| at.threshold).collect();
    assert!(thresholds.len() >= 3 && thresholds.is_sorted(), "{thresholds:?}");
    assert_eq!((info.limits.max_top_k, info.limits.max_page), (100, 200));
    // Whatever is got can be asked for without its body.
    for path in ["/version", "/info", "/healthz", "/galleries", "/subjects"] {
        let head = app.send(app.request(Method::HEAD, path)).await;
        head.expect(StatusCode::OK);
        assert!(head.text().is_empty());
    }
}
