//! Changes that depend on a state: `ETag`, `If-Match`, `If-None-Match`.

use faceid::http::Code;
use faceid::service::answers::{Erased, Gallery, Subject};
use futures_util::future::join_all;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;

use crate::support::{Answer, TestApp, photos};

impl TestApp {
    fn person(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &format!("/subjects/{path}")).query(&[("gallery", &self.gallery)])
    }

    async fn new_person(&self, name: &str) -> Answer {
        let body = json!({"name": name, "gallery": self.gallery});
        let created = self.send(self.request(Method::POST, "/subjects").json(&body)).await;
        created.expect(StatusCode::CREATED);
        created
    }
}

impl Answer {
    /// Its tag, with the quotes; a strong one.
    #[track_caller]
    fn tag(&self) -> String {
        assert!(self.status.is_success(), "{}", self.text());
        let tag = self.headers[ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() == 51, "{tag}");
        tag
    }
}

/// What a condition on a change is held against: the part before the dash.
fn state(tag: &str) -> &str {
    tag.split('-').next().unwrap()
}

#[tokio::test]
async fn a_subject_has_one_tag_wherever_it_is_shown_and_another_when_it_changes() {
    let app = TestApp::start().await;
    let created = app.new_person("Ada").await.tag();
    let read = app.send(app.person(Method::GET, "Ada")).await;
    assert_eq!(read.tag(), created);
    let mut seen = vec![created];
    for change in [json!({"metadata": {"badge": 7}}), json!({"metadata": {"badge": 8}}), json!({"name": "Ada L."})] {
        let id = read.json::<Subject>().id.to_string();
        let changed = app.send(app.person(Method::PATCH, &id).json(&change)).await.tag();
        assert_eq!(app.send(app.person(Method::GET, &id)).await.tag(), changed);
        assert!(seen.iter().all(|tag| state(tag) != state(&changed)), "{changed}, {seen:?}");
        seen.push(changed);
        // To say again what it is changes nothing, and nobody's tag.
        let again = app.send(app.person(Method::PATCH, &id).json(&change)).await.tag();
        assert_eq!(again, seen[seen.len() - 1]);
    }
    // Whoever is called so later is somebody else.
    app.send(app.person(Method::DELETE, "Ada%20L.")).await.expect(StatusCode::OK);
    let other = app.new_person("Ada L.").await.tag();
    assert!(seen.iter().all(|tag| state(tag) != state(&other)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_changes_to_one_state_one_wins() {
    let app = TestApp::start().await;
    let mut tag = app.new_person("Ada").await.tag();
    for round in 0..10 {
        let changes = (0..8).map(|n| {
            let request = app.person(Method::PATCH, "Ada").header(IF_MATCH, &tag);
            app.send(request.json(&json!({"metadata": {"round": round, "by": n}})))
        });
        let answers = join_all(changes).await;
        let won: Vec<usize> = (0..8).filter(|n| answers[*n].status == StatusCode::OK).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        for (n, answer) in answers.iter().enumerate() {
            if n != won[0] {
                answer.expect_problem(412, Code::PreconditionFailed);
            }
        }
        let kept = app.send(app.person(Method::GET, "Ada")).await;
        assert_eq!(kept.json::<Subject>().metadata["by"], won[0]);
        tag = kept.tag();
        assert_eq!(answers[won[0]].tag(), tag);
    }
    // Of galleries, too.
    let path = format!("/galleries/{}", app.gallery);
    let tag = app.get(&path).await.tag();
    let changes = (1..9).map(|n| {
        let policy = json!({"policy": {"threshold": f64::from(n) / 10.0}});
        app.send(app.request(Method::PATCH, &path).header(IF_MATCH, &tag).json(&policy))
    });
    let answers = join_all(changes).await;
    let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(won.len(), 1);
    let policy = |answer: &Answer| answer.value()["policy"].clone();
    assert_eq!(policy(won[0]), policy(&app.get(&path).await));
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_neither_changed_nor_deleted_nor_merged() {
    let app = TestApp::start().await;
    let old = app.new_person("Ada").await.tag();
    app.new_person("Bob").await;
    let change = json!({"metadata": {"badge": 7}});
    let now = app.send(app.person(Method::PATCH, "Ada").json(&change)).await.tag();

    let patch = || app.person(Method::PATCH, "Ada").json(&json!({"name": "Eve", "metadata": {}}));
    let merge = || app.person(Method::POST, "Ada/merge").json(&json!({"subject": "Bob"}));
    let delete = || app.person(Method::DELETE, "Ada");
    let weak = format!("W/{now}");
    for tag in [old.as_str(), weak.as_str(), "\"nobody's\"", "\"\""] {
        for request in [patch(), merge(), delete()] {
            app.send(request.header(IF_MATCH, tag)).await.expect_problem(412, Code::PreconditionFailed);
        }
    }
    let kept = app.send(app.person(Method::GET, "Ada")).await;
    assert_eq!((kept.tag(), &kept.json::<Subject>().metadata["badge"]), (now.clone(), &7.into()));
    app.send(app.person(Method::GET, "Bob")).await.expect(StatusCode::OK);

    // One of a list, in several lines as well.
    let merged = app.send(merge().header(IF_MATCH, &old).header(IF_MATCH, format!("\"x\", {now}"))).await;
    assert_eq!(state(&merged.tag()), state(&now));
    app.send(delete().header(IF_MATCH, &now)).await.expect(StatusCode::OK);

    let path = format!("/galleries/{}", app.gallery);
    let old = app.get(&path).await.tag();
    let changed = app.send(app.request(Method::PATCH, &path).json(&json!({"policy": {"threshold": 0.5}}))).await;
    let delete = |tag: &str| app.send(app.request(Method::DELETE, &path).header(IF_MATCH, tag));
    delete(&old).await.expect_problem(412, Code::PreconditionFailed);
    let gone: Erased = delete(&changed.tag()).await.json();
    assert_eq!(gone.subjects, 0);
}

#[tokio::test]
async fn conditions_come_after_what_fails_without_them() {
    let app = TestApp::start().await;
    app.new_person("Ada").await;
    let patch = |name: &str| app.person(Method::PATCH, name).json(&json!({"metadata": {"badge": 7}}));
    for condition in ["*", "\"x\""] {
        app.send(patch("Nobody").header(IF_MATCH, condition)).await.expect_problem(404, Code::SubjectNotFound);
    }
    app.send(patch("Ada").header(IF_MATCH, "*")).await.expect(StatusCode::OK);
    for malformed in ["abc", "", "\"abc", "*, \"x\"", "W/abc", "'x'"] {
        for header in [IF_MATCH, IF_NONE_MATCH] {
            let method = if header == IF_MATCH { Method::DELETE } else { Method::GET };
            let answer = app.send(app.person(method, "Ada").header(&header, malformed)).await;
            let problem = answer.expect_problem(400, Code::MalformedPrecondition);
            assert!(problem.detail.starts_with(header.as_str()), "{}", problem.detail);
        }
    }
    let path = format!("/galleries/{}", app.gallery);
    let answer = app.send(app.request(Method::PATCH, &path).header(IF_MATCH, "x").json(&json!({}))).await;
    answer.expect_problem(400, Code::MalformedPrecondition);
    app.send(app.person(Method::GET, "Ada")).await.expect(StatusCode::OK);
}

/// A condition that nobody looks at would let a change pass that was not to be made.
#[tokio::test]
async fn routes_without_states_refuse_a_change_that_depends_on_one() {
    let app = TestApp::start().await;
    let subject = json!({"name": "Ada", "gallery": app.gallery});
    for condition in ["*", "\"x\""] {
        let create = app.request(Method::POST, "/subjects").header(IF_MATCH, condition).json(&subject);
        app.send(create).await.expect_problem(412, Code::PreconditionFailed);
        let roll_back = app.request(Method::POST, "/admin/rollback").header(IF_MATCH, condition);
        app.send(roll_back).await.expect_problem(412, Code::PreconditionFailed);
        // What changes nothing goes on.
        let list = app.request(Method::GET, "/galleries").header(IF_MATCH, condition);
        app.send(list).await.expect(StatusCode::OK);
        let compare =
            app.request(Method::POST, "/compare").header(IF_MATCH, condition).header(IF_NONE_MATCH, condition);
        let pair = json!({"embedding": vec![0.5; 128], "candidate_embeddings": [vec![0.5; 128]]});
        app.send(compare.json(&pair)).await.expect(StatusCode::OK);
        let nowhere = app.request(Method::POST, "/nowhere").header(IF_MATCH, condition);
        app.send(nowhere).await.expect_problem(404, Code::RouteNotFound);
    }
    app.send(app.person(Method::GET, "Ada")).await.expect_problem(404, Code::SubjectNotFound);
    app.new_person("Ada").await;
    for condition in ["*", "\"x\""] {
        let delete = app.person(Method::DELETE, "Ada").header(IF_NONE_MATCH, condition);
        app.send(delete).await.expect_problem(412, Code::PreconditionFailed);
    }
    app.send(app.person(Method::GET, "Ada")).await.expect(StatusCode::OK);
}

/// A tag stands for the bytes of its answer, so there is one form of these alone.
#[tokio::test]
async fn an_answer_with_a_tag_is_not_compressed() {
    let app = TestApp::start().await;
    let long = json!({"name": "Ada", "gallery": app.gallery, "metadata": {"notes": "ja ".repeat(1000)}});
    app.send(app.request(Method::POST, "/subjects").json(&long)).await.expect(StatusCode::CREATED);
    let asked = |request: reqwest::RequestBuilder| app.send(request.header(ACCEPT_ENCODING, "gzip, zstd"));
    let subject = asked(app.person(Method::GET, "Ada")).await;
    assert!(subject.headers.contains_key(ETAG) && !subject.headers.contains_key(CONTENT_ENCODING));
    let list = asked(app.request(Method::GET, &format!("/subjects?gallery={}", app.gallery))).await;
    assert!(!list.headers.contains_key(ETAG) && list.headers.contains_key(CONTENT_ENCODING));
}

#[tokio::test]
#[ignore = "needs the test photos"]
async fn a_face_changes_what_is_known_and_hinders_no_change() {
    let app = TestApp::start().await;
    let before = app.new_person("Ada").await.tag();
    let path = format!("/galleries/{}", app.gallery);
    let gallery = app.get(&path).await.tag();
    let known = |tag: &str| app.send(app.person(Method::GET, "Ada").header(IF_NONE_MATCH, tag));
    let same = known(&before).await;
    same.expect(StatusCode::NOT_MODIFIED);
    assert!(same.body.is_empty() && same.headers[ETAG] == before.as_str());
    for tag in [format!("W/{before}"), format!("\"x\", {before}"), "*".to_owned()] {
        known(&tag).await.expect(StatusCode::NOT_MODIFIED);
    }

    app.enroll_largest("Ada", &photos::lfw("Tony_Blair", 1)).await;
    let after = known(&before).await;
    assert_eq!(after.json::<Subject>().faces, 1);
    assert!(after.tag() != before && state(&after.tag()) == state(&before), "{}, {before}", after.tag());
    known(&after.tag()).await.expect(StatusCode::NOT_MODIFIED);
    let now = app.send(app.request(Method::GET, &path).header(IF_NONE_MATCH, &gallery)).await;
    assert_eq!(now.json::<Gallery>().faces, 1);
    assert!(now.tag() != gallery && state(&now.tag()) == state(&gallery));

    // Nobody else has changed the metadata: it may be changed by who saw it before.
    let change = json!({"metadata": {"badge": 7}});
    let changed = app.send(app.person(Method::PATCH, "Ada").header(IF_MATCH, &before).json(&change)).await;
    assert_eq!((changed.json::<Subject>().faces, changed.tag() != after.tag()), (1, true));
    known(&after.tag()).await.expect(StatusCode::OK);
    // The name of the gallery is shown as well.
    let renamed = format!("{} renamed", app.gallery);
    app.send(app.request(Method::PATCH, &path).json(&json!({"name": renamed}))).await.expect(StatusCode::OK);
    let other = TestApp { gallery: renamed, client: app.client.clone(), url: app.url.clone() };
    let shown = other.send(other.person(Method::GET, "Ada").header(IF_NONE_MATCH, changed.tag())).await;
    shown.expect(StatusCode::OK);
    let deleted = other.send(other.person(Method::DELETE, "Ada").header(IF_MATCH, changed.tag())).await;
    assert_eq!(deleted.json::<Erased>().faces, 1);
}
